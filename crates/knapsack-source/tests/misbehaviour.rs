//! Every way of the test hub to misbehave: a recovery or a clear error, and never a bad file in the cache.

mod common;

use std::fs;
use std::time::Duration;

use common::{World, assert_llama, noise, with_shard};
use knapsack_source::{Error, Token};
use knapsack_testkit::hub::{Fault, Host};

const SHARD: u64 = 305_920;

/// The failure at the root.
fn root(error: Error) -> Error {
    match error {
        Error::GaveUp { source, .. } => *source,
        other => other,
    }
}

#[test]
fn a_cut_connection_is_resumed_where_it_ended() {
    let world = World::with_llama();
    world.hub.fault("storage", Fault::CutAfter(100_000), 2);
    world.hub.fault("tokenizer.json", Fault::CutAfter(10), 1);
    world.assert_fetches_llama();
    let stored: Vec<_> = world.hub.take_log().into_iter().filter(|request| request.host == Host::Storage).collect();
    assert_eq!(stored.iter().map(|request| request.range).collect::<Vec<_>>(), [None, Some(100_000), Some(200_000)]);
    assert_eq!(stored.iter().map(|request| request.sent).sum::<u64>(), SHARD);
}

#[test]
fn a_run_that_gives_up_is_resumed_by_the_next() {
    let world = World::with_llama();
    world.hub.fault("storage", Fault::CutAfter(1000), 1);
    world.hub.fault("storage", Fault::CutAfter(0), 99);
    let error = world.error("HF://org/llama");
    assert!(matches!(&error, Error::GaveUp { attempts: 4, .. }), "{error:?}");
    assert!(matches!(root(error), Error::Connection { .. }));
    world.hub.clear_faults();
    world.hub.take_log();
    world.assert_fetches_llama();
    let stored: Vec<_> = world.hub.take_log().into_iter().filter(|request| request.host == Host::Storage).collect();
    assert_eq!(
        stored.iter().map(|request| (request.range, request.sent)).collect::<Vec<_>>(),
        [(Some(1000), SHARD - 1000)]
    );
}

#[test]
fn a_stalled_connection_is_left_and_resumed() {
    let world = World::with_llama();
    world.hub.fault("storage", Fault::StallAfter(50_000), 1);
    world.hub.fault("/api/models", Fault::StallAfter(5), 1);
    world.assert_fetches_llama();
    assert!(world.hub.take_log().iter().any(|request| request.range == Some(50_000)));
    world.hub.push("org/stalls", with_shard(noise(10_000, 1)));
    world.hub.fault("storage", Fault::StallAfter(0), 99);
    assert!(matches!(root(world.error("HF://org/stalls")), Error::Connection { .. }));
}

#[test]
fn a_hub_that_drips_is_given_up() {
    let world = World::with_llama();
    world.hub.push("org/drips", with_shard(noise(10_000, 1)));
    world.hub.fault("storage", Fault::Drip(8, Duration::from_millis(20)), 99);
    let error = world.error("HF://org/drips");
    assert!(matches!(root(error), Error::TooSlow { .. }));
    world.hub.clear_faults();
    world.hub.fault("/api/models", Fault::Drip(1, Duration::from_millis(20)), 99);
    assert!(matches!(root(world.error("HF://org/llama")), Error::Connection { .. }));
}

#[test]
fn wrong_bytes_of_the_right_length_never_enter_the_cache() {
    for part in ["storage", "tokenizer_config.json"] {
        let world = World::with_llama();
        world.hub.fault(part, Fault::WrongBytes, 99);
        let error = world.error("HF://org/llama");
        assert!(matches!(error, Error::WrongDigest { .. }), "{error:?}");
        world.hub.clear_faults();
        world.assert_fetches_llama();
    }
}

#[test]
fn a_damaged_first_part_is_thrown_away() {
    let world = World::with_llama();
    world.hub.fault("storage", Fault::CutAfter(1000), 1);
    world.hub.fault("storage", Fault::Status(404), 1);
    assert!(matches!(world.error("HF://org/llama"), Error::NotFound { .. }));
    let blobs = world.settings.cache.join("models--org--llama/blobs");
    let partial = fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path());
    let partial = partial.into_iter().find(|path| path.extension().is_some_and(|end| end == "incomplete")).unwrap();
    assert_eq!(fs::metadata(&partial).unwrap().len(), 1000);
    for damaged in [vec![7; 1000], vec![7; SHARD as usize], vec![7; SHARD as usize + 5]] {
        fs::write(&partial, damaged).unwrap();
        let _ = fs::remove_file(blobs.join(partial.file_stem().unwrap()));
        world.assert_fetches_llama();
    }
}

#[test]
fn another_length_than_announced_is_refused() {
    for fault in [Fault::Shorter(10), Fault::Longer(10)] {
        let world = World::with_llama();
        world.hub.fault("storage", fault, 99);
        let error = world.error("HF://org/llama");
        assert!(matches!(error, Error::WrongSize { expected: SHARD, .. }), "{error:?}");
        world.hub.clear_faults();
        world.assert_fetches_llama();
    }
}

#[test]
fn an_ignored_range_starts_over_and_another_range_is_refused() {
    let world = World::with_llama();
    world.hub.fault("storage", Fault::CutAfter(1000), 1);
    world.hub.fault("storage", Fault::IgnoreRange, 1);
    world.assert_fetches_llama();

    let world = World::with_llama();
    world.hub.fault("storage", Fault::CutAfter(1000), 1);
    world.hub.fault("storage", Fault::OtherRange, 99);
    let error = world.error("HF://org/llama");
    assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains("Content-Range")), "{error:?}");
}

#[test]
fn a_server_that_ignores_ranges_and_always_cuts_does_not_loop() {
    let world = World::with_llama();
    // Each attempt brings bytes, but none beyond those of the first: that is no progress.
    world.hub.fault("storage", Fault::CutWhole(1000), 99);
    assert!(matches!(world.error("HF://org/llama"), Error::GaveUp { attempts: 4, .. }));
}

#[test]
fn limits_are_waited_for_and_server_errors_retried() {
    let world = World::with_llama();
    world.hub.fault("storage", Fault::TooManyRequests(Some("1".to_owned())), 1);
    world.hub.fault("storage", Fault::TooManyRequests(None), 1);
    world.hub.fault("storage", Fault::Status(500), 1);
    world.hub.fault("/tree/", Fault::Status(503), 2);
    world.hub.fault("/revision/", Fault::Status(502), 2);
    world.assert_fetches_llama();
    assert!(world.told("wait: 1s"), "Retry-After is honoured");

    let world = World::with_llama();
    world.hub.fault("storage", Fault::TooManyRequests(Some("86400".to_owned())), 1);
    assert!(matches!(world.error("HF://org/llama"), Error::RateLimited { wait: Some(_), .. }));
    world.hub.fault("/api/", Fault::Status(500), 99);
    let error = root(world.error("HF://org/llama"));
    assert!(matches!(error, Error::Status { status: 500, .. }), "{error:?}");
}

#[test]
fn redirects_to_other_schemes_and_in_circles_are_not_followed() {
    let world = World::with_llama();
    for address in ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", ""] {
        world.hub.fault("resolve/", Fault::RedirectTo(address.to_owned()), 99);
        assert!(matches!(world.error("HF://org/llama"), Error::Redirect { .. }), "{address}");
        world.hub.clear_faults();
    }
    world.hub.fault("get hub", Fault::RedirectTo("/again".to_owned()), 99);
    assert!(matches!(world.error("HF://org/llama"), Error::BadAnswer { reason, .. } if reason.contains("redirects")));
}

#[test]
fn the_token_never_reaches_another_host() {
    let mut world = World::with_llama();
    world.settings.token = Some(Token::new("hf_secret").unwrap());
    // Whatever the hub says, also for its API.
    let elsewhere = format!("{}/x", world.hub.storage_url());
    for (part, fault) in [
        ("/revision/", Fault::RedirectTo(elsewhere.clone())),
        ("/tree/", Fault::RedirectTo(elsewhere.clone())),
        ("/tree/", Fault::NextPage(elsewhere.clone())),
        ("resolve/", Fault::RedirectTo(elsewhere.clone())),
        ("resolve/", Fault::RedirectTo(elsewhere.replace("http://", "http://user:word@"))),
    ] {
        world.hub.fault(part, fault, 99);
        let error = world.error("HF://org/llama");
        assert!(!format!("{error} {error:?}").contains("hf_secret"));
        world.hub.clear_faults();
    }
    world.assert_fetches_llama();
    let log = world.hub.take_log();
    let (own, other): (Vec<_>, Vec<_>) = log.into_iter().partition(|request| request.host == Host::Hub);
    assert!(own.iter().all(|request| request.authorization.is_some()) && other.len() >= 4);
    assert!(other.iter().all(|request| request.authorization.is_none()), "{other:?}");
    let events = format!("{:?}", world.events);
    assert!(!events.contains("hf_secret") && !events.contains("signature="), "{events}");
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let world = World::with_llama();
    for name in ["../../../evil", "/etc/evil", "a/../../evil", "c:\\evil", "evil\0.json", "nul.json", "a//b"] {
        world.hub.fault("/tree/", Fault::TreeName(name.to_owned()), 99);
        let error = world.error("HF://org/llama");
        assert!(matches!(&error, Error::UnsafeName { .. }), "{name}: {error:?}");
        world.hub.clear_faults();
    }
    let index = r#"{"records": [{"dataPath": "../params_shard_0.bin", "nbytes": 9}]}"#;
    world.hub.push("org/evil", with_shard(vec![0; 9]).file("tensor-cache.json", index));
    assert!(matches!(world.error("HF://org/evil"), Error::UnsafeName { .. }));
    let config = r#"{"tokenizer_files": ["/etc/passwd"]}"#;
    world.hub.push("org/evil", with_shard(vec![0; 9]).file("mlc-chat-config.json", config));
    assert!(matches!(world.error("HF://org/evil"), Error::UnsafeName { .. }));
}

#[test]
fn endless_lists_and_foreign_pages_are_refused() {
    let world = World::with_llama();
    world.hub.fault("/tree/", Fault::EndlessTree, u32::MAX);
    let error = world.error("HF://org/llama");
    assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains("20000 files")), "{error:?}");
    assert!(world.hub.take_log().len() < 30);
    world.hub.clear_faults();
    world.hub.fault("/tree/", Fault::NextPage("http://127.0.0.1:1/api/x".to_owned()), 1);
    assert!(matches!(world.error("HF://org/llama"), Error::BadAnswer { .. }));
}

#[test]
fn answers_that_are_not_what_was_asked_for_are_refused() {
    let world = World::with_llama();
    let long = format!("{{\"sha\": \"{}\"}}", "0".repeat(40 << 20));
    for (part, body) in [
        ("/revision/", "<html>a login page</html>"),
        ("/revision/", "{\"sha\": \"../../../evil\"}"),
        ("/revision/", "{\"sha\": 3}"),
        ("/revision/", long.as_str()),
        ("/tree/", "{}"),
        ("/tree/", "[{\"type\": \"file\", \"path\": \"a\", \"oid\": \"../x\", \"size\": 1}]"),
        ("/tree/", "[{\"type\": \"file\", \"path\": \"a\", \"oid\": \"\", \"size\": 99999999999999999999}]"),
        ("/tree/", "[{\"type\": \"file\", \"path\": \"a\", \"size\": 1, \"lfs\": {\"oid\": \"../x\", \"size\": 1}}]"),
    ] {
        world.hub.fault(part, Fault::Body(body.to_owned()), 99);
        let error = world.error("HF://org/llama");
        assert!(matches!(error, Error::BadAnswer { .. }), "{error:?}");
        world.hub.clear_faults();
    }
    world.hub.push("org/large", with_shard(vec![5; 11 << 20]));
    world.hub.fault("params_shard_0.bin", Fault::Pointer, 99);
    let error = world.error("HF://org/large");
    assert!(matches!(&error, Error::WrongSize { hint, .. } if hint.contains("LFS pointers")), "{error:?}");
    world.hub.clear_faults();
    world.hub.fault("storage", Fault::Compressed, 99);
    assert!(matches!(world.error("HF://org/large"), Error::BadAnswer { .. }));
    world.hub.clear_faults();
    world.assert_fetches_llama();
}

#[test]
fn nothing_listens_there() {
    let mut world = World::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.settings.endpoint = format!("http://{free}");
    assert!(matches!(root(world.error("HF://org/llama")), Error::Connection { .. }));
}

#[test]
fn one_failing_file_stops_the_others_and_keeps_their_parts() {
    let world = World::with_llama();
    let (first, models) = world.run("HF://org/llama", None).unwrap();
    fs::remove_dir_all(&world.settings.cache).unwrap();
    world.hub.fault("tokenizer_config.json", Fault::Status(403), 99);
    let error = world.run("HF://org/llama", Some(&first.lock)).unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "the cause, not the consequence: {error:?}");
    world.hub.clear_faults();
    world.run("HF://org/llama", Some(&first.lock)).unwrap();
    assert_llama(&models[0].path);
}

#[test]
fn a_full_disk_is_noticed_before_anything_is_fetched() {
    const SHARDS: u64 = 64;
    const SIZE: u64 = 1 << 40;
    let world = World::new();
    let record = |index| format!(r#"{{"dataPath": "params_shard_{index}.bin", "nbytes": {SIZE}}}"#);
    let records: Vec<String> = (0..SHARDS).map(record).collect();
    let repository =
        with_shard(vec![0; 9]).file("tensor-cache.json", format!("{{\"records\": [{}]}}", records.join(",")));
    // Announced, but not there: nobody must ask for them.
    let nowhere = world.folder.path().join("state/nowhere");
    let shard = |repository: knapsack_testkit::hub::HubRepository, index| {
        repository.lfs_on_disk(&format!("params_shard_{index}.bin"), &nowhere, SIZE, &format!("{index:064x}"))
    };
    world.hub.push("org/huge", (0..SHARDS).fold(repository, shard));
    match world.error("HF://org/huge") {
        Error::NoSpace { needed, available, path } => {
            assert!(needed == SHARDS * SIZE && available < needed, "{needed} {available}");
            assert!(path.starts_with(world.folder.path()));
        }
        other => panic!("{other:?}"),
    }
    assert!(world.hub.take_log().iter().all(|request| request.host == Host::Hub));
}
