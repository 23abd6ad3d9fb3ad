//! Runs of a real process, killed at random moments. The next run takes up where the killed one was.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{World, noise};
use knapsack_source::{HubLocation, Location, LockPolicy, ModelRequest, Settings, Silent, Sources};
use knapsack_testkit::hub::{Host, HubRepository, Request};

const KILLS: usize = 50;
const SHARDS: usize = 4;
const SHARD: usize = 768 << 10;
const ENDPOINT: &str = "KNAPSACK_TEST_ENDPOINT";
const FOLDER: &str = "KNAPSACK_TEST_FOLDER";

/// Not a test of its own: what the other one starts as a process.
#[test]
fn fetch_in_a_process_of_its_own() {
    let (Ok(endpoint), Ok(folder)) = (std::env::var(ENDPOINT), std::env::var(FOLDER)) else { return };
    let folder = Path::new(&folder);
    let settings = Settings::new(&endpoint, folder.join("hub"), folder.join("state"));
    let location = Location::Hub(HubLocation::new("org/model", None).unwrap());
    let request = ModelRequest { model_id: "model".to_owned(), location, weights: true };
    let sources = Sources::new(&settings, &Silent);
    let resolution = sources.resolve(&[request], None, &LockPolicy::default()).unwrap();
    sources.fetch(&resolution.models).unwrap();
}

fn start(world: &World) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fetch_in_a_process_of_its_own", "--nocapture"])
        .env(ENDPOINT, world.hub.url())
        .env(FOLDER, world.folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn shard(index: usize) -> Vec<u8> {
    noise(SHARD, index as u64 + 1)
}

fn repository() -> HubRepository {
    let records = |index| format!(r#"{{"dataPath": "params_shard_{index}.bin", "nbytes": {SHARD}}}"#);
    let index = format!("{{\"records\": [{}]}}", (0..SHARDS).map(records).collect::<Vec<_>>().join(","));
    let repository = HubRepository::new().file("mlc-chat-config.json", "{}").file("tensor-cache.json", index);
    (0..SHARDS).fold(repository, |repository, index| repository.lfs(&format!("params_shard_{index}.bin"), shard(index)))
}

/// Bytes on the disk by sha256, complete or not.
fn on_disk(world: &World) -> BTreeMap<String, u64> {
    let blobs = world.settings.cache.join("models--org--model/blobs");
    let entries = std::fs::read_dir(blobs).into_iter().flatten().map(|entry| entry.unwrap());
    let sizes = entries.map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        (name.trim_end_matches(".incomplete").to_owned(), entry.metadata().unwrap().len())
    });
    sizes.collect()
}

/// No request asked for a byte that was there when the run began.
fn assert_nothing_twice(before: &BTreeMap<String, u64>, log: &[Request]) {
    for request in log.iter().filter(|request| request.host == Host::Storage) {
        let there = before.get(request.path.trim_start_matches('/')).copied().unwrap_or(0);
        assert_eq!(request.range.unwrap_or(0), there, "{request:?} with {before:?}");
    }
}

#[test]
fn fifty_kills_lose_nothing() {
    let world = World::new();
    world.hub.push("org/model", repository());
    let mut random = noise(KILLS * 8, 42).into_iter();
    let (mut kills, mut resumed) = (0, 0);
    while kills < KILLS {
        let before = on_disk(&world);
        world.hub.pause(Some(Duration::from_millis(2)));
        let mut child = start(&world);
        // Half of the kills are counted from the first request, so that they hit downloads however slow the machine is.
        while kills % 2 == 0 && world.hub.log_length() == 0 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let wait = u64::from(u16::from_le_bytes([random.next().unwrap_or(0), random.next().unwrap_or(0)]) % 60);
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        // A killed process cannot ask again within one run, so each file was asked for once, from where it was.
        assert_nothing_twice(&before, &world.hub.take_log());
        resumed += before.values().filter(|size| **size > 0 && **size < SHARD as u64).count();

        if kills % 5 == 0 {
            let before = on_disk(&world);
            world.hub.pause(None);
            assert!(start(&world).wait().unwrap().success());
            assert_nothing_twice(&before, &world.hub.take_log());
            world.assert_cache_is_clean();
            for index in 0..SHARDS {
                let path = world.settings.cache.join("models--org--model/snapshots");
                let commit = std::fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
                assert_eq!(std::fs::read(commit.join(format!("params_shard_{index}.bin"))).unwrap(), shard(index));
            }
            std::fs::remove_dir_all(&world.settings.cache).unwrap();
        }
    }
    assert!(resumed > 0, "no kill hit a download");
}

/// As `two_users_of_one_cache_wait_for_each_other` in `hub.rs`, with processes that share nothing but the file system.
#[test]
fn processes_on_one_cache_wait_for_each_other() {
    let world = World::new();
    world.hub.push("org/model", repository());
    world.hub.pause(Some(Duration::from_millis(2)));
    let children: Vec<Child> = (0..3).map(|_| start(&world)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let stored = world.hub.take_log().into_iter().filter(|request| request.host == Host::Storage);
    assert_eq!(stored.map(|request| request.sent).sum::<u64>(), (SHARDS * SHARD) as u64, "each byte came once");
    world.assert_cache_is_clean();
}
