//! The whole way from a manifest to a package, without the command line.

use knapsack_bundle::{Cache, LinkMode};
use knapsack_config::{Environment, Manifest, Severity, codes};
use knapsack_package::{Destination, Error, Event, Found, Observer, Outcome, Packager, Ready};
use knapsack_source::{LockPolicy, Settings};
use knapsack_testkit::hub::{Fault, Host, HubRepository, HubServer, Request};
use knapsack_testkit::{fixture, mlc_fixture};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Keeps the events by name, and stops on demand.
#[derive(Default)]
struct Recorder {
    steps: Mutex<Vec<String>>,
    cancel_at: Option<&'static str>,
    cancelled: AtomicBool,
}

impl Recorder {
    fn steps(&self) -> Vec<String> {
        std::mem::take(&mut *self.steps.lock().unwrap())
    }
}

impl Observer for Recorder {
    fn event(&self, event: Event<'_>) {
        let step = match event {
            Event::Compiling { model_id, .. } => format!("compiling {model_id}"),
            Event::Converting { name, quantization } => format!("converting {name} to {quantization}"),
            Event::Bundling => "bundling".to_owned(),
            Event::Locked { .. } => "locked".to_owned(),
            _ => return,
        };
        if self.cancel_at.is_some_and(|at| step.starts_with(at)) {
            self.cancelled.store(true, Ordering::Relaxed);
        }
        self.steps.lock().unwrap().push(step);
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

struct World {
    folder: tempfile::TempDir,
    observer: Recorder,
    endpoint: Option<String>,
}

impl World {
    fn new() -> Self {
        World { folder: tempfile::tempdir().unwrap(), observer: Recorder::default(), endpoint: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn manifest(&self, value: &Value) -> Manifest {
        let path = self.path("mlc-package-config.json");
        fs::write(&path, value.to_string()).unwrap();
        knapsack_config::load(&path, &Environment::default()).unwrap().manifest
    }

    fn packager(&self) -> Packager<'_> {
        let endpoint = self.endpoint.as_deref().unwrap_or("http://127.0.0.1:9");
        let mut settings = Settings::new(endpoint, self.path("hub"), self.path("cache"));
        settings.patience.attempts = 2;
        settings.patience.pause = Duration::from_millis(1);
        Packager::new(Cache::at(self.path("cache")), settings, None, &self.observer)
    }

    fn found(&self, manifest: &Manifest) -> Vec<Found> {
        product(self.packager().find(manifest, &LockPolicy::default()).unwrap()).models
    }

    fn ready(&self, manifest: &Manifest) -> Result<Vec<Ready>, Error> {
        let packager = self.packager();
        let planned = product(packager.plan(manifest, self.found(manifest), false));
        let built = product(packager.build(manifest, planned)?);
        Ok(product(packager.make_ready(built)?))
    }

    fn package(&self, manifest: &Manifest) -> Result<knapsack_bundle::PackageChanges, Error> {
        let ready = self.ready(manifest)?;
        let destination = Destination {
            folder: &self.path("dist"),
            link_mode: LinkMode::Copy,
            sync: true,
            date: None,
            runtime: &knapsack_bundle::Runtime::Version,
        };
        Ok(product(self.packager().bundle(manifest, &ready, destination)?))
    }
}

fn product<T>(outcome: Outcome<T>) -> T {
    outcome.product.unwrap_or_else(|| panic!("{:#?}", outcome.findings))
}

fn two_models() -> Value {
    json!({ "device": "android", "model_list": [
        { "model": fixture("llama"), "model_id": "converted", "bundle_weight": true, "quantization": "q4f16_1" },
        { "model": mlc_fixture("qwen3", "q4f16_1"), "model_id": "as-is", "bundle_weight": true },
    ]})
}

#[test]
fn a_model_grows_from_its_entry_to_the_package() {
    let world = World::new();
    let manifest = world.manifest(&two_models());
    let report = world.package(&manifest).unwrap();
    let expected = ["compiling converted", "compiling as-is", "converting converted to q4f16_1", "bundling"];
    assert_eq!(world.observer.steps(), expected);
    for file in ["bundle/converted/params_shard_0.bin", "bundle/as-is/tokenizer.json", "bundle/mlc-app-config.json"] {
        assert!(report.written.iter().any(|written| written.path == file), "{file}");
        assert!(world.path("dist").join(file).is_file());
    }
    let again = world.package(&manifest).unwrap();
    assert!(again.is_fresh());
    assert_eq!(world.observer.steps(), ["bundling"]);
}

#[test]
fn an_observer_stops_the_work_and_nothing_half_done_is_left() {
    for at in ["converting", "bundling"] {
        let mut world = World::new();
        world.observer.cancel_at = Some(at);
        let manifest = world.manifest(&two_models());
        assert!(matches!(world.package(&manifest), Err(Error::Interrupted)), "{at}");
        assert!(!world.path("dist").exists());
        world.observer.cancel_at = None;
        world.observer.cancelled.store(false, Ordering::Relaxed);
        world.package(&manifest).unwrap();
    }
}

#[test]
fn every_source_is_tried_and_each_error_stands_at_its_entry() {
    let hub = HubServer::start();
    hub.push("org/good", HubRepository::of_folder(&mlc_fixture("llama", "q4f16_1")));
    hub.push("org/checkpoint", HubRepository::of_folder(&fixture("llama")));
    let mut world = World::new();
    world.endpoint = Some(hub.url());
    let entry = |name: &str| json!({ "model": format!("HF://org/{name}"), "model_id": name, "bundle_weight": false });
    let names = ["absent", "good", "checkpoint", "gone"];
    let manifest = world.manifest(&json!({ "device": "android", "model_list": names.map(entry) }));
    let outcome = world.packager().find(&manifest, &LockPolicy::default()).unwrap();
    assert!(outcome.product.is_none());
    let found: Vec<_> = outcome.findings.iter().map(|finding| (finding.code, finding.span)).collect();
    let at = |index: usize| Some(manifest.models[index].source.span);
    let expected = [0, 2, 3].map(|index| (codes::BAD_MODEL_SOURCE, at(index)));
    assert_eq!(found, expected);
    assert!(!world.path("knapsack.lock").exists(), "half a lockfile was written");
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Copies a folder of the fixtures so that it can be changed.
fn changed(world: &World, from: &Path, change: impl Fn(&Path)) -> Manifest {
    let folder = world.path("model");
    copied(from, &folder);
    change(&folder);
    let entry = json!({ "model": "model", "model_id": "m", "bundle_weight": true });
    world.manifest(&json!({ "device": "android", "model_list": [entry] }))
}

fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Errors of stages 2 and 3: code and message.
fn errors(world: &World, manifest: &Manifest) -> Vec<(&'static str, String)> {
    let packager = world.packager();
    let Outcome { product, mut findings } = packager.find(manifest, &LockPolicy::default()).unwrap();
    if let Some(found) = product {
        findings.extend(packager.plan(manifest, found.models, false).findings);
    }
    findings.retain(|finding| finding.severity == Severity::Error);
    assert!(findings.iter().all(|finding| finding.span.is_some()), "{findings:#?}");
    findings.into_iter().map(|finding| (finding.code, finding.message)).collect()
}

#[test]
fn weights_that_cannot_load_are_refused_when_planning() {
    type Change = fn(&Path);
    let mlc = mlc_fixture("llama", "q4f16_1");
    let cases: &[(&str, Change, &str)] = &[
        (
            "more layers than the index has",
            |folder| {
                edit(&folder.join("mlc-chat-config.json"), |config| {
                    let layers = config["model_config"]["num_hidden_layers"].as_u64().unwrap();
                    config["model_config"]["num_hidden_layers"] = json!(layers + 1);
                });
            },
            "are missing",
        ),
        (
            "another vocabulary",
            |folder| {
                edit(&folder.join("mlc-chat-config.json"), |config| {
                    config["vocab_size"] = json!(1000);
                    config["model_config"]["vocab_size"] = json!(1000);
                });
            },
            "have another form",
        ),
        (
            "a tokenizer file that is not there",
            |folder| {
                fs::remove_file(folder.join("tokenizer.json")).unwrap();
            },
            "tokenizer.json",
        ),
        (
            "a shard that is not there",
            |folder| {
                fs::remove_file(folder.join("params_shard_0.bin")).unwrap();
            },
            "params_shard_0.bin",
        ),
        (
            "a shard that is not whole",
            |folder| {
                fs::File::options().write(true).open(folder.join("params_shard_0.bin")).unwrap().set_len(1000).unwrap();
            },
            "1000",
        ),
        (
            "an index that is none",
            |folder| {
                fs::write(folder.join("tensor-cache.json"), "version https://git-lfs.github.com/spec/v1\nsize 1\n")
                    .unwrap();
            },
            "git lfs pull",
        ),
    ];
    for (what, change, words) in cases {
        let world = World::new();
        let manifest = changed(&world, &mlc, change);
        let errors = errors(&world, &manifest);
        assert!(errors.iter().any(|(_, message)| message.contains(words)), "{what}: {errors:#?}");
    }
    let world = World::new();
    let manifest = changed(&world, &fixture("llama"), |folder| {
        edit(&folder.join("config.json"), |config| config["num_hidden_layers"] = json!(40));
    });
    let errors = errors(&world, &manifest);
    let [(codes::WEIGHTS_MISMATCH, message)] = &errors[..] else { panic!("{errors:#?}") };
    assert!(message.contains("do not fit"), "{message}");
}

#[test]
fn an_unbundled_model_is_checked_by_its_small_files() {
    let hub = HubServer::start();
    let mut world = World::new();
    world.endpoint = Some(hub.url());
    let folder = world.path("origin");
    copied(&mlc_fixture("llama", "q4f16_1"), &folder);
    edit(&folder.join("mlc-chat-config.json"), |config| {
        config["model_config"]["num_hidden_layers"] = json!(40);
        config["tokenizer_files"].as_array_mut().unwrap().push(json!("absent.json"));
    });
    hub.push("org/llama", HubRepository::of_folder(&folder));
    let entry = json!({ "model": "HF://org/llama", "model_id": "m", "bundle_weight": false });
    let manifest = world.manifest(&json!({ "device": "android", "model_list": [entry] }));
    let errors = errors(&world, &manifest);
    assert!(errors[0].1.contains("are missing") && errors[1].1.contains("absent.json"), "{errors:#?}");
    assert!(hub.take_log().iter().all(|request| !request.path.ends_with(".bin")), "weights were fetched");
}

#[test]
fn a_remote_checkpoint_is_held_against_the_names_in_its_index() {
    let hub = HubServer::start();
    let mut world = World::new();
    world.endpoint = Some(hub.url());
    let names = ["base_model.model.model.norm.weight", "base_model.model.lm_head.weight"];
    let map: serde_json::Map<_, _> =
        names.iter().map(|name| ((*name).to_owned(), json!("model-00001-of-00001.safetensors"))).collect();
    let repository = HubRepository::of_folder(&fixture("llama"))
        .without("model.safetensors")
        .file("model.safetensors.index.json", json!({ "weight_map": map }).to_string())
        .lfs("model-00001-of-00001.safetensors", "never read");
    hub.push("org/unmerged", repository);
    let entry = json!({ "model": "HF://org/unmerged", "model_id": "m", "bundle_weight": true });
    let manifest = world.manifest(&json!({ "device": "android", "model_list": [entry] }));
    let packager = world.packager();
    let found = product(packager.find(&manifest, &LockPolicy::default()).unwrap());
    let outcome = packager.plan(&manifest, found.models, false);
    let errors: Vec<_> = outcome.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    let [finding] = errors[..] else { panic!("{:#?}", outcome.findings) };
    assert_eq!(finding.code, codes::WEIGHTS_MISMATCH);
    assert!(finding.message.contains("merge") && finding.help.len() < 30, "{finding:#?}");
    assert!(finding.help.iter().any(|line| line.starts_with("and ") && line.ends_with(" more")), "{finding:#?}");
    let weights = |request: &&Request| request.path.ends_with(".safetensors");
    assert!(hub.take_log().iter().filter(weights).all(|request| request.range == Some(0)), "weights were fetched");
}

#[test]
fn plan_refuses_the_sizes_that_package_would() {
    for (key, value) in [("prefill_chunk_size", 131_072), ("context_window_size", 20_000_000)] {
        let world = World::new();
        let mut overrides = json!({ "context_window_size": 200_000 });
        overrides[key] = json!(value);
        let entry = json!({
            "model": mlc_fixture("llama", "q4f16_1"), "model_id": "m", "bundle_weight": true, "overrides": overrides,
        });
        let manifest = world.manifest(&json!({ "device": "android", "model_list": [entry] }));
        let errors = errors(&world, &manifest);
        let [(codes::BAD_OVERRIDE, message)] = &errors[..] else { panic!("{errors:#?}") };
        assert!(message.starts_with(key) && message.contains("must be between 1 and"), "{message}");
    }
}

#[test]
fn a_hub_that_cannot_be_reached_is_told_once_for_all_its_models() {
    let mut world = World::new();
    // A port that nothing listens on.
    world.endpoint = Some("http://127.0.0.1:9".to_owned());
    let entry = |name: &str| json!({ "model": format!("HF://org/{name}"), "model_id": name, "bundle_weight": false });
    let local = json!({ "model": mlc_fixture("llama", "q4f16_1"), "model_id": "local", "bundle_weight": true });
    let models = [entry("one"), local, entry("two")];
    let manifest = world.manifest(&json!({ "device": "android", "model_list": models }));
    let outcome = world.packager().find(&manifest, &LockPolicy::default()).unwrap();
    let [finding] = &outcome.findings[..] else { panic!("{:#?}", outcome.findings) };
    assert_eq!((finding.severity, finding.code), (Severity::Error, codes::SOURCE_FAILED));
    assert_eq!(finding.span, Some(manifest.models[0].source.span));
    assert_eq!(finding.related.len(), 1);
    assert_eq!(finding.related[0].0, manifest.models[2].source.span);
}

#[test]
fn what_others_wrote_is_planned_packaged_and_read_alike() {
    use knapsack_runtime::ChatModel;
    let utf16 = |text: &str| [vec![0xff, 0xfe], text.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat();
    let marked = |text: &str| [b"\xef\xbb\xbf", text.as_bytes()].concat();
    let change = |path: &Path, how: &dyn Fn(&str) -> Vec<u8>| {
        fs::write(path, how(&fs::read_to_string(path).unwrap())).unwrap();
    };
    for from in [fixture("llama"), mlc_fixture("llama", "q4f16_1")] {
        let world = World::new();
        let manifest = changed(&world, &from, |folder| {
            for name in ["tokenizer_config.json", "generation_config.json", "tensor-cache.json", "tokenizer.json"] {
                if folder.join(name).is_file() {
                    change(&folder.join(name), &marked);
                }
            }
            for (name, key) in [("config.json", "initializer_range"), ("mlc-chat-config.json", "temperature")] {
                if folder.join(name).is_file() {
                    edit(&folder.join(name), |config| config[key] = json!("REPLACED"));
                    change(&folder.join(name), &|text| utf16(&text.replace("\"REPLACED\"", "NaN")));
                }
            }
        });
        world.package(&manifest).unwrap();
        let packaged = world.path("dist/bundle/m");
        // What MLC's apps read is JSON as they know it.
        let chat: Value = serde_json::from_slice(&fs::read(packaged.join("mlc-chat-config.json")).unwrap()).unwrap();
        assert!(chat["temperature"].is_null() || chat["temperature"].is_number(), "{chat}");
        ChatModel::open(&packaged, u32::MAX).unwrap();
    }
}

#[test]
fn what_a_lockfile_may_not_become_is_told_at_the_entry() {
    let hub = HubServer::start();
    hub.push("org/good", HubRepository::of_folder(&mlc_fixture("llama", "q4f16_1")));
    let mut world = World::new();
    world.endpoint = Some(hub.url());
    let entry =
        |name: &str, id: &str| json!({ "model": format!("HF://org/{name}"), "model_id": id, "bundle_weight": false });
    let all = |models: &[Value]| world.manifest(&json!({ "device": "android", "model_list": models }));
    let first = all(&[entry("good", "kept"), entry("good", "gone")]);
    world.found(&first);
    let manifest = all(&[entry("good", "kept"), entry("good", "added")]);
    let outcome = world.packager().find(&manifest, &LockPolicy { locked: true, ..LockPolicy::default() }).unwrap();
    assert!(outcome.product.is_none());
    let found: Vec<_> = outcome.findings.iter().map(|finding| (finding.code, finding.span)).collect();
    let expected = [Some(manifest.models[1].source.span), None];
    assert_eq!(found, expected.map(|span| (codes::LOCK_OUT_OF_DATE, span)));
    assert!(outcome.findings[0].message.contains("added (HF://org/good) is not in it"), "{:#?}", outcome.findings);
}

#[test]
fn downloads_that_fail_late_are_all_told_each_at_its_entry() {
    let hub = HubServer::start();
    let names = ["bad", "good", "worse"];
    for (name, family) in names.into_iter().zip(["qwen3", "llama", "phi3"]) {
        hub.push(&format!("org/{name}"), HubRepository::of_folder(&mlc_fixture(family, "q4f16_1")));
    }
    let mut world = World::new();
    world.endpoint = Some(hub.url());
    let entry = |name: &str| json!({ "model": format!("HF://org/{name}"), "model_id": name, "bundle_weight": true });
    let manifest = world.manifest(&json!({ "device": "android", "model_list": names.map(entry) }));
    let packager = world.packager();
    let planned = product(packager.plan(&manifest, world.found(&manifest), false));
    let built = product(packager.build(&manifest, planned).unwrap());
    // Two repositories go away between the plan and the download.
    hub.fault("/org/bad/resolve", Fault::Status(404), 99);
    hub.fault("/org/worse/resolve", Fault::Status(404), 99);
    let outcome = packager.make_ready(built).unwrap();
    assert!(outcome.product.is_none());
    let mut found: Vec<_> = outcome.findings.iter().map(|finding| (finding.code, finding.span)).collect();
    found.sort_by_key(|(_, span)| span.map(|span| span.start));
    assert_eq!(found, [0, 2].map(|index| (codes::BAD_MODEL_SOURCE, Some(manifest.models[index].source.span))));
    // What could be had is there for the next run.
    hub.take_log();
    let only = world.manifest(&json!({ "device": "android", "model_list": [entry("good")] }));
    world.ready(&only).unwrap();
    assert_eq!(hub.take_log().iter().filter(|request| request.host == Host::Storage).count(), 0);
}

/// Errors that only a later stage meets: in a conversion, in the compiler, in what goes into the package.
#[test]
fn what_fails_late_is_told_at_its_entry() {
    let at = |manifest: &Manifest, finding: &knapsack_config::Diagnostic, index: usize| {
        assert_eq!((finding.severity, finding.span), (Severity::Error, Some(manifest.models[index].source.span)));
    };
    let world = World::new();
    for (name, from) in [("checkpoint", fixture("llama")), ("mlc", mlc_fixture("qwen3", "q4f16_1"))] {
        copied(&from, &world.path(name));
    }
    let entry = |name: &str| json!({ "model": name, "model_id": name, "bundle_weight": true });
    let models = ["mlc", "checkpoint"].map(entry);
    let manifest = world.manifest(&json!({ "device": "android", "model_list": models }));
    let packager = world.packager();
    let planned = product(packager.plan(&manifest, world.found(&manifest), false));

    let mut impossible = planned.clone();
    impossible[1].windows.chunk = impossible[1].windows.context + 1;
    let outcome = packager.build(&manifest, impossible).unwrap();
    let [finding] = &outcome.findings[..] else { panic!("{:#?}", outcome.findings) };
    assert_eq!(finding.code, codes::UNSUPPORTED_MODEL);
    at(&manifest, finding, 1);

    let built = product(packager.build(&manifest, planned).unwrap());
    let weights = world.path("checkpoint").join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 4]).unwrap();
    let outcome = packager.make_ready(built.clone()).unwrap();
    let [finding] = &outcome.findings[..] else { panic!("{:#?}", outcome.findings) };
    assert_eq!(finding.code, codes::WEIGHTS_MISMATCH);
    at(&manifest, finding, 1);

    fs::write(&weights, &whole).unwrap();
    let ready = product(packager.make_ready(built).unwrap());
    let shard = world.path("mlc").join("params_shard_0.bin");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[100] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let destination = Destination {
        folder: &world.path("dist"),
        link_mode: LinkMode::Copy,
        sync: false,
        date: None,
        runtime: &knapsack_bundle::Runtime::Version,
    };
    let outcome = packager.bundle(&manifest, &ready, destination).unwrap();
    let [finding] = &outcome.findings[..] else { panic!("{:#?}", outcome.findings) };
    assert_eq!(finding.code, codes::WEIGHTS_MISMATCH);
    at(&manifest, finding, 0);
    assert!(!world.path("dist").exists());
}

#[test]
fn a_remote_checkpoint_in_one_file_is_held_against_its_header() {
    let hub = HubServer::start();
    let mut world = World::new();
    world.endpoint = Some(hub.url());
    let folder = world.path("origin");
    copied(&fixture("llama"), &folder);
    fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    hub.push("org/good", HubRepository::of_folder(&folder));
    edit(&folder.join("config.json"), |config| config["num_hidden_layers"] = json!(40));
    hub.push("org/other", HubRepository::of_folder(&folder));
    let entry = |name: &str| json!({ "model": format!("HF://org/{name}"), "model_id": name, "bundle_weight": true });
    let manifest = world.manifest(&json!({ "device": "android", "model_list": [entry("good"), entry("other")] }));
    let packager = world.packager();
    let outcome = packager.plan(&manifest, world.found(&manifest), false);
    let errors: Vec<_> = outcome.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    let [finding] = errors[..] else { panic!("{:#?}", outcome.findings) };
    assert_eq!((finding.code, finding.span), (codes::WEIGHTS_MISMATCH, Some(manifest.models[1].source.span)));
    let whole = fs::metadata(folder.join("model.safetensors")).unwrap().len();
    let log = hub.take_log();
    let weights: Vec<_> = log.iter().filter(|request| request.host == Host::Storage).collect();
    let part = |request: &&Request| request.range == Some(0) && request.sent < whole;
    assert!(weights.len() == 2 && weights.iter().all(part), "{log:#?} of {whole}");
    // Without the hub, what cannot be looked at is not held against anybody.
    drop(hub);
    assert!(world.packager().find(&manifest, &LockPolicy::default()).unwrap().product.is_some());
}

/// A safetensors file as two and their index, with every second tensor in the second.
fn split(folder: &Path) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors: Vec<_> = header.iter().filter(|(name, _)| *name != "__metadata__").collect();
    let mut map = serde_json::Map::new();
    for half in 0..2 {
        let (name, mut own, mut data) = (format!("model-0000{}-of-00002.safetensors", half + 1), json!({}), Vec::new());
        for (tensor, entry) in tensors.iter().skip(half).step_by(2) {
            let [from, to] = [0, 1].map(|end| 8 + length + entry["data_offsets"][end].as_u64().unwrap() as usize);
            own[*tensor] = json!({ "dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": [data.len(), data.len() + to - from] });
            data.extend(&bytes[from..to]);
            map.insert((*tensor).clone(), json!(name));
        }
        let own = own.to_string();
        fs::write(folder.join(&name), [&(own.len() as u64).to_le_bytes(), own.as_bytes(), &data].concat()).unwrap();
    }
    fs::remove_file(path).unwrap();
    fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
}

#[test]
fn a_remote_checkpoint_in_several_files_is_held_against_their_headers() {
    let hub = HubServer::start();
    let mut world = World::new();
    world.endpoint = Some(hub.url());
    let folder = world.path("origin");
    copied(&fixture("llama"), &folder);
    split(&folder);
    hub.push("org/good", HubRepository::of_folder(&folder));
    // The same names, of another shape; and an index that says another file.
    let config = fs::read(folder.join("config.json")).unwrap();
    edit(&folder.join("config.json"), |config| {
        config["intermediate_size"] = json!(3 * config["intermediate_size"].as_u64().unwrap())
    });
    hub.push("org/wide", HubRepository::of_folder(&folder));
    fs::write(folder.join("config.json"), config).unwrap();
    edit(&folder.join("model.safetensors.index.json"), |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        let (name, first) = map.iter().next().map(|(name, file)| (name.clone(), file.clone())).unwrap();
        let other = map.values().find(|file| **file != first).unwrap().clone();
        map.insert(name, other);
    });
    hub.push("org/moved", HubRepository::of_folder(&folder));
    let names = ["good", "wide", "moved"];
    let entry = |name: &str| json!({ "model": format!("HF://org/{name}"), "model_id": name, "bundle_weight": true });
    let manifest = world.manifest(&json!({ "device": "android", "model_list": names.map(entry) }));
    let outcome = world.packager().plan(&manifest, world.found(&manifest), false);
    let errors: Vec<_> = outcome.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    let [wide, moved] = errors[..] else { panic!("{:#?}", outcome.findings) };
    for (finding, index, words) in [(wide, 1, "do not fit"), (moved, 2, "but it is not")] {
        assert_eq!((finding.code, finding.span), (codes::WEIGHTS_MISMATCH, Some(manifest.models[index].source.span)));
        assert!(finding.message.contains(words), "{finding:#?}");
    }
    let weights =
        |log: Vec<Request>| log.into_iter().filter(|request| request.host == Host::Storage).collect::<Vec<_>>();
    let log = weights(hub.take_log());
    assert!(log.len() == 6 && log.iter().all(|request| request.range == Some(0)), "{log:#?}");

    // What is here already is read here.
    let only = world.manifest(&json!({ "device": "android", "model_list": [entry("good")] }));
    world.ready(&only).unwrap();
    assert!(weights(hub.take_log()).iter().any(|request| request.range.is_none()));
    world.found(&only);
    assert_eq!(weights(hub.take_log()).len(), 0);
}

#[test]
fn what_a_model_lacks_to_chat_is_a_warning_when_planning() {
    let warnings = |from: &Path, change: &dyn Fn(&Path)| {
        let world = World::new();
        let manifest = changed(&world, from, change);
        let outcome = world.packager().plan(&manifest, world.found(&manifest), false);
        assert!(outcome.product.is_some(), "{:#?}", outcome.findings);
        outcome.findings.iter().map(|finding| finding.code).filter(|code| code.starts_with("no-")).collect::<Vec<_>>()
    };
    let mlc = mlc_fixture("llama", "q4f16_1");
    let tiny = knapsack_testkit::tiny_assistant();
    assert_eq!(warnings(&tiny, &|_| {}), [""; 0]);
    assert_eq!(warnings(&mlc, &|_| {}), [""; 0]);
    let unnamed = |folder: &Path| {
        edit(&folder.join("mlc-chat-config.json"), |config| config["conv_template"] = json!("my_own_template"));
    };
    assert_eq!(warnings(&mlc, &unnamed), [codes::NO_CHAT_TEMPLATE]);
    let template = |template: &'static str| {
        move |folder: &Path| {
            edit(&folder.join("tokenizer_config.json"), |config| config["chat_template"] = json!(template))
        }
    };
    assert_eq!(warnings(&tiny, &template("{{ messages[-1].content }}")), [codes::NO_CONV_TEMPLATE]);
    let bare = |folder: &Path| {
        fs::remove_file(folder.join("tokenizer_config.json")).unwrap();
        fs::remove_file(folder.join("tokenizer.json")).unwrap();
    };
    assert_eq!(warnings(&tiny, &bare), [codes::NO_CHAT_TEMPLATE, codes::NO_TOKENIZER]);
}
