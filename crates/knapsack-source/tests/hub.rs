//! Resolving, locking and fetching against a hub that behaves.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{LLAMA_FILES, World, assert_llama, llama, noise, with_shard};
use knapsack_config::{Lockfile, ModelForm};
use knapsack_source::{Error, FileRole, LockChange, LockPolicy, Token, Update};
use knapsack_testkit::hub::{Access, Host, HubRepository};

#[test]
fn only_what_is_needed_is_fetched_into_the_shared_layout() {
    let world = World::with_llama();
    let (resolution, models) = world.run("HF://org/llama", None).unwrap();
    let model = &models[0];
    assert_eq!(model.kind, ModelForm::Mlc);
    assert_eq!(model.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), LLAMA_FILES);
    assert_eq!(model.origin.url().as_deref(), Some("https://huggingface.co/org/llama"));
    assert_llama(&model.path);

    let locked = &resolution.lock.models[0];
    assert_eq!((locked.model.as_str(), locked.format), ("HF://org/llama", ModelForm::Mlc));
    let cache = world.settings.cache.join("models--org--llama");
    assert_eq!(model.path, cache.join("snapshots").join(&locked.commit));
    assert_eq!(fs::read_to_string(cache.join("refs/main")).unwrap(), locked.commit);
    for file in &locked.files {
        assert_eq!(knapsack_source::sha256_file(&model.path.join(&file.path)).unwrap(), file.sha256);
    }
    assert_eq!(fs::read_dir(cache.join("blobs")).unwrap().count(), LLAMA_FILES.len());
    #[cfg(unix)]
    for name in LLAMA_FILES {
        let target = fs::read_link(model.path.join(name)).unwrap();
        assert!(target.starts_with("../../blobs") && !target.to_str().unwrap().contains("incomplete"), "{target:?}");
    }
    world.assert_cache_is_clean();
    let log = world.hub.take_log();
    assert!(log.iter().all(|request| !request.path.contains("README") && !request.path.contains("onnx")));
    assert_eq!(log.iter().filter(|request| request.host == Host::Storage).count(), 1);
}

#[test]
fn a_full_cache_needs_no_request_and_a_lock_no_question() {
    let world = World::with_llama();
    let (resolution, _) = world.run("HF://org/llama", None).unwrap();
    world.hub.take_log();
    let (again, _) = world.run("HF://org/llama", Some(&resolution.lock)).unwrap();
    assert!(again.changes.is_empty());
    assert_eq!(world.hub.take_log(), []);

    // The branch moves on; the lock does not.
    world.hub.push("org/llama", llama().file("mlc-chat-config.json", "{\"tokenizer_files\": []}"));
    fs::remove_dir_all(&world.settings.cache).unwrap();
    let (again, models) = world.run("HF://org/llama", Some(&resolution.lock)).unwrap();
    assert_eq!(again.lock, resolution.lock);
    assert_llama(&models[0].path);
    let log = world.hub.take_log();
    assert!(log.iter().all(|request| !request.path.starts_with("/api/models")), "the lock knows the commit: {log:?}");
    // Blobs are named as Python names them, although the lock does not hold those names.
    world.assert_cache_is_clean();
    let names: Vec<_> = fs::read_dir(world.settings.cache.join("models--org--llama/blobs")).unwrap().collect();
    let lengths: BTreeSet<_> = names.into_iter().map(|entry| entry.unwrap().file_name().len()).collect();
    assert_eq!(lengths, BTreeSet::from([40, 64]));
}

#[test]
fn update_moves_the_lock_and_locked_forbids_it() {
    let world = World::with_llama();
    let (first, _) = world.run("HF://org/llama", None).unwrap();
    assert!(matches!(&first.changes[..], [LockChange::Added { .. }]));
    world.hub.push("org/llama", llama().file("tokenizer_config.json", "{\"new\": true}"));
    let requests = [world.request("HF://org/llama", true)];
    let locked = LockPolicy { locked: true, ..LockPolicy::default() };
    assert!(world.run_all(&requests, Some(&first.lock), &locked).unwrap().0.changes.is_empty());

    let update = LockPolicy { update: Update::Models(BTreeSet::from(["other".to_owned()])), ..LockPolicy::default() };
    assert!(world.run_all(&requests, Some(&first.lock), &update).unwrap().0.changes.is_empty());
    let update = LockPolicy { update: Update::Models(BTreeSet::from(["model".to_owned()])), ..LockPolicy::default() };
    let (moved, models) = world.run_all(&requests, Some(&first.lock), &update).unwrap();
    assert!(matches!(&moved.changes[..], [LockChange::Moved { .. }]));
    assert_eq!(fs::read_to_string(models[0].path.join("tokenizer_config.json")).unwrap(), "{\"new\": true}");

    let stale = |text: &str, lock: Option<&Lockfile>| match world.run_all(&[world.request(text, true)], lock, &locked) {
        Err(Error::LockOutOfDate { changes }) => changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        other => panic!("{other:?}"),
    };
    assert!(stale("HF://org/llama", None).contains("is not in it"));
    assert!(stale("HF://org/llama@v2", Some(&first.lock)).contains("HF://org/llama@v2"));
    let removed = world.run_all(&[], Some(&first.lock), &locked).unwrap_err().to_string();
    assert!(removed.contains("not in the manifest"), "{removed}");
}

#[test]
fn offline_uses_lock_and_cache_and_names_what_is_missing() {
    let mut world = World::with_llama();
    let (first, _) = world.run("HF://org/llama", None).unwrap();
    world.settings.offline = true;
    world.hub.take_log();
    assert_llama(&world.run("HF://org/llama", Some(&first.lock)).unwrap().1[0].path);
    // Without a lock the cache's own notes decide, and give the same lock.
    assert_eq!(world.run("HF://org/llama", None).unwrap().0.lock, first.lock);
    let missing = |text: &str| match world.run(text, None) {
        Err(Error::Offline { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert!(missing("HF://org/llama@v2").contains("v2"));
    assert!(missing("HF://org/other").contains("org/other"));
    let shard = world.run("HF://org/llama", Some(&first.lock)).unwrap().1[0].path.join("params_shard_0.bin");
    fs::remove_file(world.blob(&shard)).unwrap();
    assert!(missing("HF://org/llama").contains("as a whole"));
    let error = world.run("HF://org/llama", Some(&first.lock)).unwrap_err().to_string();
    assert!(error.contains("org/llama/params_shard_0.bin") && error.contains("offline"), "{error}");
    assert_eq!(world.hub.take_log(), []);
}

#[test]
fn unbundled_weights_are_locked_but_not_fetched() {
    let world = World::with_llama();
    let requests = [world.request("HF://org/llama", false)];
    let (resolution, models) = world.run_all(&requests, None, &LockPolicy::default()).unwrap();
    let shard = models[0].files.iter().find(|file| file.role == FileRole::Weights).unwrap();
    assert_eq!((shard.path.as_str(), shard.size), ("params_shard_0.bin", 305_920));
    assert!(shard.sha256.is_some() && !models[0].path.join(&shard.path).exists());
    assert!(models[0].path.join("tokenizer.json").exists());
    assert!(world.hub.take_log().iter().all(|request| request.host == Host::Hub));
    assert_eq!(resolution.lock, world.run("HF://org/llama", None).unwrap().0.lock);

    let checkpoint = HubRepository::of_folder(&knapsack_testkit::fixture("llama"));
    world.hub.push("org/checkpoint", checkpoint);
    let requests = [world.request("HF://org/checkpoint", false)];
    let refused = world.run_all(&requests, None, &LockPolicy::default());
    assert!(matches!(refused, Err(Error::CheckpointNotBundled { .. })));
    let (_, models) = world.run("HF://org/checkpoint", None).unwrap();
    assert_eq!(models[0].kind, ModelForm::Checkpoint);
    assert_eq!(knapsack_source::open_local(&models[0].path).unwrap().files.len(), models[0].files.len());
}

#[test]
fn revisions_are_branches_tags_and_commits() {
    let world = World::with_llama();
    let commit = world.hub.push_to("org/llama", "feature/x", llama().file("tokenizer_config.json", "{}"));
    for text in ["HF://org/llama@feature/x".to_owned(), format!("HF://org/llama@{commit}")] {
        let (resolution, models) = world.run(&text, None).unwrap();
        assert_eq!(resolution.lock.models[0].commit, commit);
        assert_eq!(fs::read_to_string(models[0].path.join("tokenizer_config.json")).unwrap(), "{}");
    }
    assert!(matches!(world.error("HF://org/llama@absent"), Error::NotFound { what, .. } if what.contains("absent")));
}

#[test]
fn long_file_lists_come_in_pages() {
    let world = World::with_llama();
    world.hub.page_size(3);
    world.assert_fetches_llama();
    assert!(world.hub.take_log().iter().filter(|request| request.path.contains("/tree/")).count() > 2);
}

#[test]
fn renamed_repositories_are_found_and_told() {
    let world = World::with_llama();
    world.hub.rename("org/llama", "new/name");
    world.assert_fetches_llama();
    assert!(world.told("org/llama is called new/name now"));
}

#[test]
fn tokens_open_private_and_gated_repositories_and_stay_on_the_hub() {
    for (access, status) in
        [(Access::Private("hf_right".into()), "private"), (Access::Gated("hf_right".into()), "gated")]
    {
        let mut world = World::new();
        world.hub.push("org/llama", llama().access(access));
        let denied = |world: &World| match world.error("HF://org/llama") {
            Error::Denied { reason, .. } | Error::GaveUp { file: reason, .. } => reason,
            Error::NotFound { hint, .. } => hint.to_owned(),
            other => panic!("{other:?}"),
        };
        let reason = denied(&world);
        assert!(reason.contains("HF_TOKEN") && reason.contains(status), "{reason}");
        world.settings.token = Some(Token::new("hf_wrong").unwrap());
        let reason = denied(&world);
        assert!(reason.contains("token") && !reason.contains("hf_wrong"), "{reason}");
        world.settings.token = Some(Token::new("hf_right").unwrap());
        world.hub.take_log();
        world.assert_fetches_llama();
        for request in world.hub.take_log() {
            let expected = (request.host == Host::Hub).then_some("Bearer hf_right");
            assert_eq!(request.authorization.as_deref(), expected, "{request:?}");
        }
    }
}

#[test]
fn missing_repositories_and_what_is_no_model_are_told() {
    let mut world = World::new();
    assert!(matches!(world.error("HF://org/absent"), Error::Denied { .. }));
    world.settings.token = Some(Token::new("hf_any").unwrap());
    assert!(matches!(world.error("HF://org/absent"), Error::NotFound { what, .. } if what.contains("org/absent")));
    world.hub.push("org/pickles", HubRepository::new().file("config.json", "{}").lfs("pytorch_model.bin", vec![0; 9]));
    assert!(world.error("HF://org/pickles").to_string().contains("pickles"));
    assert!(world.hub.take_log().iter().all(|request| request.host == Host::Hub), "a pickle was fetched");
}

#[test]
fn files_of_another_commit_and_of_python_are_used() {
    let world = World::with_llama();
    world.run("HF://org/llama", None).unwrap();
    world.hub.take_log();
    world.hub.push("org/llama", llama().file("tokenizer_config.json", "{\"new\": true}"));
    let (_, models) = world.run("HF://org/llama", None).unwrap();
    let log = world.hub.take_log();
    assert!(log.iter().all(|request| request.host == Host::Hub), "the shard is there already: {log:?}");
    assert_eq!(fs::read_dir(&models[0].path).unwrap().count(), LLAMA_FILES.len());
}

#[test]
fn damage_in_the_cache_is_found_and_repaired() {
    let world = World::with_llama();
    let (first, models) = world.run("HF://org/llama", None).unwrap();
    for (name, sha_name) in [("params_shard_0.bin", "sha256"), ("tokenizer.json", "git object id")] {
        let blob = world.blob(&models[0].path.join(name));
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&blob, bytes).unwrap();
        let damage = knapsack_source::verify_downloads(&world.settings, &mut |_| {}).unwrap();
        assert!(damage.len() == 1 && damage[0].path == blob && damage[0].reason.contains(sha_name), "{damage:?}");
        let (_, models) = world.run("HF://org/llama", Some(&first.lock)).unwrap();
        assert!(world.told("the copy in the cache is not used"));
        assert_llama(&models[0].path);
        world.assert_cache_is_clean();
    }
    // A partial file that some other tool took for complete.
    let blob = world.blob(&models[0].path.join("params_shard_0.bin"));
    fs::File::options().write(true).open(&blob).unwrap().set_len(1000).unwrap();
    assert_llama(&world.run("HF://org/llama", Some(&first.lock)).unwrap().1[0].path);
}

#[test]
fn downloads_are_listed_with_their_users_and_can_go() {
    let world = World::with_llama();
    let lockfile = world.folder.path().join("knapsack.lock");
    let (resolution, _) = world.run("HF://org/llama", None).unwrap();
    resolution.lock.write(&lockfile).unwrap();
    let sources = knapsack_source::Sources::new(&world.settings, &knapsack_source::Silent);
    sources.remember_lockfile(&lockfile).unwrap();
    fs::write(world.settings.cache.join("models--org--llama/blobs/00.incomplete"), "12345").unwrap();

    let listed = knapsack_source::list_downloads(&world.settings).unwrap();
    assert_eq!(listed.len(), 1);
    let llama = &listed[0];
    assert_eq!(llama.repository.to_string(), "org/llama");
    assert_eq!((llama.size, llama.incomplete), (resolution.lock.models[0].total_size() + 5, 5));
    assert_eq!(llama.commits[0].refs, ["main"]);
    assert_eq!(llama.used_by, [lockfile.canonicalize().unwrap()]);
    assert!(llama.last_used.is_some());

    assert_eq!(knapsack_source::clean_partial_downloads(&world.settings).unwrap(), 5);
    assert_eq!(knapsack_source::remove_download(&world.settings, &llama.repository).unwrap(), llama.size - 5);
    assert!(knapsack_source::list_downloads(&world.settings).unwrap().is_empty());
}

#[test]
fn several_models_and_shared_files_in_one_run() {
    let world = World::with_llama();
    world.hub.push("org/second", with_shard(noise(3 << 20, 2)));
    let mut requests = Vec::new();
    for (id, text) in [("b", "HF://org/second"), ("a", "HF://org/llama"), ("c", "HF://org/llama@main")] {
        requests.push(knapsack_source::ModelRequest { model_id: id.to_owned(), ..world.request(text, true) });
    }
    let (resolution, models) = world.run_all(&requests, None, &LockPolicy::default()).unwrap();
    assert_eq!(models.iter().map(|model| model.model_id.as_str()).collect::<Vec<_>>(), ["b", "a", "c"]);
    assert_eq!(resolution.lock.models.iter().map(|model| model.model_id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(fs::read(models[0].path.join("params_shard_0.bin")).unwrap(), noise(3 << 20, 2));
    let stored = world.hub.take_log().into_iter().filter(|request| request.host == Host::Storage);
    assert_eq!(stored.count(), 2, "one shard each, although two models share one");
}

#[test]
fn two_users_of_one_cache_wait_for_each_other() {
    let world = World::new();
    world.hub.push("org/model", with_shard(noise(2 << 20, 3)));
    world.hub.pause(Some(std::time::Duration::from_millis(2)));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (_, models) = world.run("HF://org/model", None).unwrap();
                assert_eq!(fs::read(models[0].path.join("params_shard_0.bin")).unwrap(), noise(2 << 20, 3));
            });
        }
    });
    let stored = world.hub.take_log().into_iter().filter(|request| request.host == Host::Storage);
    assert_eq!(stored.map(|request| request.sent).sum::<u64>(), 2 << 20);
    assert!(world.told("Waiting"));
    world.assert_cache_is_clean();
}
