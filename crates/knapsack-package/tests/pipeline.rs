//! The whole way from a manifest to a package, without the command line.

use knapsack_bundle::{Cache, LinkMode};
use knapsack_config::{Environment, Manifest, Severity, codes};
use knapsack_package::{Destination, Error, Event, Found, Observer, Outcome, Packager, Ready};
use knapsack_source::{LockPolicy, Settings};
use knapsack_testkit::hub::{HubRepository, HubServer};
use knapsack_testkit::{fixture, mlc_fixture};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
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

    fn package(&self, manifest: &Manifest) -> Result<knapsack_bundle::Report, Error> {
        let ready = self.ready(manifest)?;
        let destination = Destination { folder: &self.path("dist"), link_mode: LinkMode::Copy };
        self.packager().bundle(manifest, &ready, destination)
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
