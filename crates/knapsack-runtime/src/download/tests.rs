//! Against a hub on loopback that misbehaves on demand.

use super::*;
use knapsack_testkit::hub::{Fault, HubRepository, HubServer};

const NAME: &str = "org/model";

/// Three files, one of them large enough to be cut in the middle.
fn repository(salt: u8) -> HubRepository {
    HubRepository::new()
        .file("tokenizer.json", "{}")
        .file("mlc-chat-config.json", "{\"a\": 1}")
        .lfs("params_shard_0.bin", large(salt))
}

fn large(salt: u8) -> Vec<u8> {
    (0..2_000_000u32).map(|index| (index % 251) as u8 ^ salt).collect()
}

fn app_file(path: &str, bytes: &[u8]) -> AppFile {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x");
    fs::write(&file, bytes).unwrap();
    let (size, sha256) = hash_file(&file).unwrap();
    AppFile { path: path.into(), size, sha256 }
}

fn model(hub: &HubServer, revision: String, salt: u8) -> AppModel {
    AppModel {
        weights: WeightsLocation::Download(format!("{}/{NAME}", hub.url())),
        model_id: "model".into(),
        model_lib: "lib".into(),
        estimated_vram_bytes: 1,
        revision: Some(revision),
        planned_memory: None,
        context_window_size: None,
        sliding_window_size: None,
        prefill_chunk_size: None,
        app: Default::default(),
        files: vec![
            app_file("mlc-chat-config.json", b"{\"a\": 1}"),
            app_file("params_shard_0.bin", &large(salt)),
            app_file("tokenizer.json", b"{}"),
        ],
    }
}

struct World {
    hub: HubServer,
    model: AppModel,
    root: tempfile::TempDir,
    store: Store,
}

fn world() -> World {
    let hub = HubServer::start();
    let revision = hub.push(NAME, repository(0));
    let model = model(&hub, revision, 0);
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path(), Arc::new(HttpTransport::direct()));
    World { hub, model, root, store }
}

impl World {
    fn ensure(&self) -> Result<PathBuf, DownloadError> {
        self.store.ensure(&self.model, &|_| (), &CancelFlag::new())
    }

    fn assert_whole(&self, folder: &Path) {
        assert_eq!(fs::read(folder.join("params_shard_0.bin")).unwrap(), large(0));
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [RECORD, "mlc-chat-config.json", "params_shard_0.bin", "tokenizer.json"]);
        assert_eq!(self.store.folder(&self.model).as_deref(), Some(folder));
    }
}

#[test]
fn a_model_is_fetched_once_verified_and_removed() {
    let world = world();
    assert_eq!(world.store.folder(&world.model), None);
    assert_eq!(world.store.missing_bytes(&world.model), 2_000_010);
    let seen = Mutex::new(Vec::new());
    let progress = |progress: DownloadProgress| seen.lock().unwrap().push(progress);
    let folder = world.store.ensure(&world.model, &progress, &CancelFlag::new()).unwrap();
    world.assert_whole(&folder);
    let seen = seen.into_inner().unwrap();
    assert!(seen.iter().all(|progress| progress.done <= progress.total && progress.total == 2_000_010));
    assert_eq!(seen.iter().map(|progress| progress.done).max(), Some(2_000_010));
    let requests = world.hub.take_log().len();
    assert_eq!(world.ensure().unwrap(), folder);
    assert_eq!(world.hub.take_log().len(), 0, "after {requests} requests");
    assert_eq!(world.store.verify(&world.model).unwrap(), Vec::<String>::new());
    assert!(world.store.remove("model").unwrap());
    assert!(!world.store.remove("model").unwrap());
    assert!(matches!(world.store.verify(&world.model), Err(DownloadError::NotThere(_))));
}

/// The tokenizer's tables are no file of the model: they are made when its files are there, however those came.
#[test]
fn a_tokenizer_s_tables_are_made_once_beside_what_was_downloaded() {
    let json = fs::read(knapsack_testkit::tiny_assistant().join("tokenizer.json")).unwrap();
    let made = token_tables::compile(&json).unwrap();
    let hub = HubServer::start();
    let revision = hub.push(NAME, repository(0).file("tokenizer.json", json.clone()));
    let mut model = model(&hub, revision, 0);
    model.files[2] = app_file("tokenizer.json", &json);
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path().join("models"), Arc::new(HttpTransport::direct()));
    let there = |folder: &Path| fs::read(folder.join(token_tables::FILE_NAME)).ok();
    let folder = store.ensure(&model, &|_| (), &CancelFlag::new()).unwrap();
    assert_eq!(there(&folder).as_ref(), Some(&made));

    // What verifies the model mends them, and asks for no download.
    for damage in [None, Some("damaged")] {
        let tables = folder.join(token_tables::FILE_NAME);
        damage.map_or_else(|| fs::remove_file(&tables), |text| fs::write(&tables, text)).unwrap();
        assert_eq!(store.verify(&model).unwrap(), Vec::<String>::new());
        assert_eq!((there(&folder).as_ref(), store.missing_bytes(&model)), (Some(&made), 0));
    }
    // A wrong file of the model: the tables go with the folder and come with its next one.
    fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    assert_eq!(store.verify(&model).unwrap(), ["tokenizer.json"]);
    let folder = store.ensure(&model, &|_| (), &CancelFlag::new()).unwrap();
    assert_eq!(there(&folder).as_ref(), Some(&made));
    assert!(store.remove("model").unwrap() && !folder.exists());

    // Moved by the app's system.
    for (file, bytes) in model.files.iter().zip([b"{\"a\": 1}".to_vec(), large(0), json.clone()]) {
        let moved = root.path().join("moved");
        fs::write(&moved, bytes).unwrap();
        store.adopt(&model, &file.path, &moved).unwrap();
    }
    assert_eq!(there(&store.folder(&model).unwrap()).as_ref(), Some(&made));

    // A model that brings its own.
    store.remove("model").unwrap();
    let own = b"of the package";
    model.revision =
        Some(hub.push(NAME, repository(0).file("tokenizer.json", json).file(token_tables::FILE_NAME, &own[..])));
    model.files.push(app_file(token_tables::FILE_NAME, own));
    let folder = store.ensure(&model, &|_| (), &CancelFlag::new()).unwrap();
    assert_eq!(there(&folder).as_deref(), Some(&own[..]));
    assert_eq!(store.verify(&model).unwrap(), Vec::<String>::new());
    assert_eq!(there(&folder).as_deref(), Some(&own[..]));
}

#[test]
fn interruptions_are_resumed_where_they_happened() {
    for fault in [Fault::CutAfter(700_000), Fault::Shorter(5), Fault::Status(503), Fault::TooManyRequests(None)] {
        let world = world();
        world.hub.fault("storage", fault.clone(), 1);
        world.assert_whole(&world.ensure().unwrap_or_else(|error| panic!("{fault:?}: {error:?}")));
        if let Fault::CutAfter(_) = fault {
            let log = world.hub.take_log();
            assert!(log.iter().any(|request| request.range.is_some_and(|from| from > 0)), "{log:?}");
        }
    }
}

#[test]
fn a_limit_is_waited_for_unless_it_is_long() {
    let world = world();
    world.hub.fault("storage", Fault::TooManyRequests(Some("1".into())), 1);
    let start = std::time::Instant::now();
    world.assert_whole(&world.ensure().unwrap());
    assert!(start.elapsed().as_secs_f64() >= 1.0);
    world.store.remove("model").unwrap();
    world.hub.fault("storage", Fault::TooManyRequests(Some("86400".into())), 1);
    match world.ensure() {
        Err(DownloadError::Transport { source: TransportError::Limited(wait), .. }) => {
            assert_eq!(wait.as_secs(), 86400)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn bad_files_are_fetched_again_and_never_used() {
    for fault in [Fault::WrongBytes, Fault::Longer(9), Fault::Pointer, Fault::Body("no".into())] {
        let world = world();
        world.hub.fault("storage", fault.clone(), 1);
        world.assert_whole(&world.ensure().unwrap_or_else(|error| panic!("{fault:?}: {error:?}")));
    }
    let world = world();
    world.hub.fault("tokenizer.json", Fault::WrongBytes, 1000);
    assert!(matches!(world.ensure(), Err(DownloadError::WrongContent { .. })));
    assert_eq!(world.store.folder(&world.model), None);
    world.hub.clear_faults();
    world.assert_whole(&world.ensure().unwrap());
}

#[test]
fn servers_without_ranges_start_again() {
    let world = world();
    world.hub.fault("storage", Fault::CutAfter(700_000), 1);
    world.hub.fault("storage", Fault::IgnoreRange, 1);
    world.assert_whole(&world.ensure().unwrap());
}

#[test]
fn what_is_not_there_fails_at_once() {
    let mut world = world();
    world.model.files.push(app_file("missing.bin", b"x"));
    match world.ensure() {
        Err(DownloadError::Transport { url, source: TransportError::Status(404) }) => {
            assert!(url.ends_with("missing.bin"))
        }
        other => panic!("{other:?}"),
    }
    world.model.files.clear();
    assert!(matches!(world.ensure(), Err(DownloadError::NoFileList(_))));
    world.model.weights = WeightsLocation::Bundled("x".into());
    assert!(matches!(world.ensure(), Err(DownloadError::Bundled(_))));
}

#[test]
fn a_full_disk_is_noticed_first() {
    let mut world = world();
    world.store = Store::new(world.root.path(), Arc::new(HttpTransport::direct())).with_free_space(|_| Some(65 << 20));
    match world.ensure() {
        Err(DownloadError::NoSpace { needed: 2_000_010, available, .. }) => assert_eq!(available, 65 << 20),
        other => panic!("{other:?}"),
    }
    assert!(world.hub.take_log().is_empty());
}

#[test]
fn cancelling_keeps_what_came() {
    let world = world();
    let cancel = CancelFlag::new();
    let progress = |progress: DownloadProgress| {
        if progress.done > 500_000 {
            cancel.cancel();
        }
    };
    assert!(matches!(world.store.ensure(&world.model, &progress, &cancel), Err(DownloadError::Cancelled)));
    assert_eq!(world.store.folder(&world.model), None);
    let missing = world.store.missing_bytes(&world.model);
    assert!(missing < 1_500_010, "{missing}");
    world.hub.take_log();
    world.assert_whole(&world.ensure().unwrap());
    assert!(world.hub.take_log().iter().any(|request| request.range.is_some_and(|from| from >= 500_000)));
}

#[test]
fn an_update_fetches_only_what_changed() {
    let mut world = world();
    world.ensure().unwrap();
    let revision = world.hub.push(NAME, repository(0).file("tokenizer.json", "{\"b\": 2}"));
    world.model.revision = Some(revision);
    world.model.files[2] = app_file("tokenizer.json", b"{\"b\": 2}");
    assert_eq!(world.store.folder(&world.model), None);
    world.hub.take_log();
    let folder = world.ensure().unwrap();
    world.assert_whole(&folder);
    let paths: Vec<String> = world.hub.take_log().into_iter().map(|request| request.path).collect();
    assert!(paths.iter().all(|path| path.contains("tokenizer.json")), "{paths:?}");
    assert_eq!(fs::read(folder.join("tokenizer.json")).unwrap(), b"{\"b\": 2}");
}

#[test]
fn damage_is_found_and_repaired() {
    let world = world();
    let folder = world.ensure().unwrap();
    let mut bytes = large(0);
    bytes[1_234_567] ^= 1;
    fs::write(folder.join("params_shard_0.bin"), bytes).unwrap();
    assert_eq!(world.store.verify(&world.model).unwrap(), ["params_shard_0.bin"]);
    assert_eq!(world.store.folder(&world.model), None);
    world.hub.take_log();
    world.assert_whole(&world.ensure().unwrap());
    assert!(!world.hub.take_log().iter().any(|request| request.path.contains("tokenizer.json")));
}

#[test]
fn calls_at_the_same_time_fetch_once() {
    let world = world();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| world.ensure().unwrap())).collect();
        for thread in threads {
            world.assert_whole(&thread.join().unwrap());
        }
    });
    let log = world.hub.take_log();
    assert_eq!(
        log.iter().filter(|request| request.path.ends_with("tokenizer.json") && request.status == 200).count(),
        1,
        "{log:?}"
    );
}

/// The bytes of a file of the model.
fn content(path: &str) -> Vec<u8> {
    match path {
        "params_shard_0.bin" => large(0),
        "tokenizer.json" => b"{}".to_vec(),
        _ => b"{\"a\": 1}".to_vec(),
    }
}

/// Bytes as the system leaves them somewhere.
fn moved(world: &World, path: &str, bytes: &[u8]) -> std::path::PathBuf {
    let file = world.root.path().join(format!("temporary-{}", path.replace('/', "-")));
    fs::write(&file, bytes).unwrap();
    file
}

#[test]
fn the_system_moves_the_bytes_and_the_store_checks_them() {
    let mut world = world();
    let wanted = world.store.wanted(&world.model).unwrap();
    assert_eq!(wanted.len(), world.model.files.len());
    assert!(wanted.iter().all(|file| !file.have && file.url.ends_with(&file.path) && file.url.contains("/resolve/")));
    for (index, file) in wanted.iter().enumerate() {
        let bytes = content(&file.path);
        // Damaged, too long, of another file: refused, and still wanted.
        for wrong in [&[&bytes[..], b"x"].concat()[..], &vec![b'#'; bytes.len()], b""] {
            let error = world.store.adopt(&world.model, &file.path, &moved(&world, &file.path, wrong)).unwrap_err();
            assert!(matches!(error, DownloadError::WrongContent { .. }), "{error}");
            assert!(!world.store.wanted(&world.model).unwrap()[index].have);
        }
        let here = moved(&world, &file.path, &bytes);
        let done = world.store.adopt(&world.model, &file.path, &here).unwrap();
        assert!(!here.exists());
        assert_eq!(done.is_some(), index + 1 == wanted.len());
        assert!(world.store.wanted(&world.model).unwrap()[index].have);
    }
    assert!(world.hub.take_log().is_empty());
    world.assert_whole(&world.store.folder(&world.model).unwrap());
    // Once more changes nothing; what is none of the model's is refused.
    let again = moved(&world, "tokenizer.json", b"anything");
    assert_eq!(world.store.adopt(&world.model, "tokenizer.json", &again).unwrap(), world.store.folder(&world.model));
    let error = world.store.adopt(&world.model, "../evil", &again).unwrap_err();
    assert!(matches!(error, DownloadError::NoSuchFile { .. }), "{error}");
    // After an update only what changed is wanted.
    let changed = b"{\"b\": 2}";
    world.model.files[2] = app_file("tokenizer.json", changed);
    let wanted: Vec<bool> = world.store.wanted(&world.model).unwrap().iter().map(|file| file.have).collect();
    assert_eq!(wanted.iter().filter(|have| !**have).count(), 1);
    let folder = world.store.adopt(&world.model, "tokenizer.json", &moved(&world, "t", changed)).unwrap().unwrap();
    assert_eq!(fs::read(folder.join("tokenizer.json")).unwrap(), changed);
}

#[test]
fn what_a_killed_run_left_is_checked_before_it_counts() {
    let world = world();
    let [first, ..] = &world.model.files[..] else { unreachable!() };
    let place = world.root.path().join(".partial/model").join(&first.path);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, vec![0; first.size as usize]).unwrap();
    for file in &world.model.files[1..] {
        let bytes = content(&file.path);
        assert_eq!(world.store.adopt(&world.model, &file.path, &moved(&world, &file.path, &bytes)).unwrap(), None);
    }
    assert!(!world.store.wanted(&world.model).unwrap()[0].have, "it was wrong");
    world.assert_whole(&world.ensure().unwrap());
}

#[test]
fn a_server_that_drips_is_given_up_and_what_came_is_kept() {
    let mut world = world();
    let pace = Pace { bytes: 1 << 20, window: std::time::Duration::from_millis(100) };
    world.store = Store::new(world.root.path(), Arc::new(HttpTransport::direct())).with_pace(pace);
    world.hub.fault("storage", Fault::Drip(1, std::time::Duration::from_millis(1)), 1000);
    let start = std::time::Instant::now();
    match world.ensure() {
        Err(DownloadError::Transport { source: TransportError::Slow { bytes, .. }, .. }) => assert!(bytes > 0),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
    // Slow for a while is no failure.
    world.hub.clear_faults();
    world.hub.fault("storage", Fault::Drip(1, std::time::Duration::from_millis(1)), 2);
    world.assert_whole(&world.ensure().unwrap());
}

#[test]
fn cancelling_ends_a_download_at_once_whatever_the_server_does() {
    let world = world();
    for fault in [Fault::StallAfter(500_000), Fault::StallAfter(0)] {
        world.hub.fault("storage", fault, 1000);
        let cancel = CancelFlag::new();
        thread::scope(|scope| {
            let download = scope.spawn(|| world.store.ensure(&world.model, &|_| (), &cancel));
            // One that waits for the other is ended as well.
            let second = scope.spawn(|| world.store.ensure(&world.model, &|_| (), &cancel));
            thread::sleep(Duration::from_millis(300));
            let start = std::time::Instant::now();
            cancel.cancel();
            assert!(matches!(download.join().unwrap(), Err(DownloadError::Cancelled)));
            assert!(matches!(second.join().unwrap(), Err(DownloadError::Cancelled)));
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        });
        world.hub.clear_faults();
    }
    world.assert_whole(&world.ensure().unwrap());
}
