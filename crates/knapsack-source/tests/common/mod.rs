//! A hub on loopback, a cache of its own, and what a test wants to know about them.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use knapsack_config::Lockfile;
use knapsack_source::{
    Error, Event, HubLocation, Location, LockPolicy, ModelFolder, ModelRequest, Patience, Resolution, Result, Settings,
    Sources,
};
use knapsack_testkit::hub::{HubRepository, HubServer};
use tempfile::TempDir;

pub struct World {
    pub hub: HubServer,
    pub folder: TempDir,
    pub settings: Settings,
    pub events: Mutex<Vec<String>>,
}

impl World {
    pub fn new() -> Self {
        let hub = HubServer::start();
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(&hub.url(), folder.path().join("hub"), folder.path().join("state"));
        settings.patience = Patience {
            stall: Duration::from_millis(300),
            attempts: 4,
            pause: Duration::from_millis(1),
            longest_pause: Duration::from_secs(2),
            ..Patience::default()
        };
        Self { hub, folder, settings, events: Mutex::default() }
    }

    /// With `org/llama`: the llama fixture in q4f16_1.
    pub fn with_llama() -> Self {
        let world = Self::new();
        world.hub.push("org/llama", llama());
        world
    }

    pub fn request(&self, text: &str, weights: bool) -> ModelRequest {
        let text = text.strip_prefix("HF://").unwrap();
        let (repository, revision) =
            text.split_once('@').map_or((text, None), |(name, revision)| (name, Some(revision)));
        let location = HubLocation::new(repository, revision).unwrap();
        ModelRequest { model_id: "model".to_owned(), location: Location::Hub(location), weights }
    }

    pub fn run(&self, text: &str, lock: Option<&Lockfile>) -> Result<(Resolution, Vec<ModelFolder>)> {
        self.run_all(&[self.request(text, true)], lock, &LockPolicy::default())
    }

    pub fn run_all(
        &self,
        requests: &[ModelRequest],
        lock: Option<&Lockfile>,
        policy: &LockPolicy,
    ) -> Result<(Resolution, Vec<ModelFolder>)> {
        let progress = |event: Event<'_>| {
            if !matches!(event, Event::Bytes { .. }) {
                self.events.lock().unwrap().push(format!("{event:?}"));
            }
        };
        let sources = Sources::new(&self.settings, &progress);
        let resolution = sources.resolve(requests, lock, policy)?;
        let models = sources.fetch(&resolution.models)?;
        Ok((resolution, models))
    }

    pub fn error(&self, text: &str) -> Error {
        let error = self.run(text, None).expect_err("it must fail");
        self.assert_cache_is_clean();
        error
    }

    /// Fetches, and checks every file against the fixture.
    pub fn assert_fetches_llama(&self) {
        let (_, models) =
            self.run("HF://org/llama", None).unwrap_or_else(|error| panic!("{error:?}\n{:#?}", self.events));
        assert_llama(&models[0].path);
        self.assert_cache_is_clean();
    }

    /// Every blob is what its name says, no link leads nowhere, nothing was written outside.
    pub fn assert_cache_is_clean(&self) {
        let damage = knapsack_source::verify_downloads(&self.settings, &mut |_| {}).unwrap();
        assert!(damage.is_empty(), "{damage:?}");
        let mut outside: Vec<_> =
            std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        outside.retain(|name| name != "hub" && name != "state" && name != "knapsack.lock");
        assert!(outside.is_empty(), "{outside:?}");
    }

    pub fn told(&self, what: &str) -> bool {
        self.events.lock().unwrap().iter().any(|event| event.contains(what))
    }

    pub fn blob(&self, path: &Path) -> PathBuf {
        path.canonicalize().unwrap()
    }
}

pub fn llama() -> HubRepository {
    HubRepository::of_folder(&knapsack_testkit::mlc_fixture("llama", "q4f16_1"))
        .file("README.md", "# not needed")
        .lfs("other.onnx", vec![1; 1000])
}

pub const LLAMA_FILES: &[&str] =
    &["mlc-chat-config.json", "params_shard_0.bin", "tensor-cache.json", "tokenizer.json", "tokenizer_config.json"];

pub fn assert_llama(folder: &Path) {
    let fixture = knapsack_testkit::mlc_fixture("llama", "q4f16_1");
    for name in LLAMA_FILES {
        assert_eq!(std::fs::read(folder.join(name)).unwrap(), std::fs::read(fixture.join(name)).unwrap(), "{name}");
    }
}

/// A repository whose only large file has this content.
pub fn with_shard(content: Vec<u8>) -> HubRepository {
    let index = format!(r#"{{"records": [{{"dataPath": "params_shard_0.bin", "nbytes": {}}}]}}"#, content.len());
    HubRepository::new()
        .file("mlc-chat-config.json", r#"{"tokenizer_files": ["tokenizer.json"]}"#)
        .file("tensor-cache.json", index)
        .file("tokenizer.json", "{}")
        .lfs("params_shard_0.bin", content)
}

/// Bytes that differ everywhere.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(length).collect()
}
