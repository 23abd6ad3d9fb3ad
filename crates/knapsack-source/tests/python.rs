//! One cache for Knapsack and Python's `huggingface_hub`: what either downloaded, the other finds.
//!
//! `KNAPSACK_TEST_PYTHON` names a Python that has it; see [`knapsack_testkit::python()`].

mod common;

use std::path::Path;
use std::process::Command;

use common::{LLAMA_FILES, World, assert_llama};
use knapsack_testkit::hub::Host;

/// Runs a script and returns what it prints.
fn print(python: &Path, world: &World, offline: bool, script: &str) -> String {
    let output = Command::new(python)
        .args(["-c", script])
        .env("HF_ENDPOINT", world.hub.url())
        .env("HF_HUB_CACHE", &world.settings.cache)
        .env("HF_HOME", world.folder.path().join("state"))
        .env("HF_HUB_DISABLE_XET", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
        // A proxy cannot reach this machine's loopback.
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .env_remove("HF_TOKEN")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn python_finds_what_knapsack_downloaded() {
    let Some(python) = knapsack_testkit::python("huggingface_hub") else { return };
    let world = World::with_llama();
    let (_, models) = world.run("HF://org/llama", None).unwrap();
    world.hub.take_log();
    let snapshot = print(&python, &world, true, "import huggingface_hub as h; print(h.snapshot_download('org/llama'))");
    assert_eq!(snapshot, models[0].path.to_str().unwrap());
    let shard = "import huggingface_hub as h; print(h.hf_hub_download('org/llama', 'params_shard_0.bin'))";
    assert_eq!(print(&python, &world, false, shard), models[0].path.join("params_shard_0.bin").to_str().unwrap());
    assert!(world.hub.take_log().iter().all(|request| request.host == Host::Hub), "it was downloaded again");
    let scan = "import huggingface_hub as h; c = h.scan_cache_dir(); print(c.warnings, [(r.repo_id, r.nb_files) for r in c.repos])";
    assert_eq!(print(&python, &world, true, scan), format!("[] [('org/llama', {})]", LLAMA_FILES.len()));
}

#[test]
fn knapsack_finds_what_python_downloaded() {
    let Some(python) = knapsack_testkit::python("huggingface_hub") else { return };
    let mut world = World::with_llama();
    let download =
        "import huggingface_hub as h; print(h.snapshot_download('org/llama', ignore_patterns=['*.onnx', '*.md']))";
    let snapshot = print(&python, &world, false, download);
    world.hub.take_log();
    let (online, models) = world.run("HF://org/llama", None).unwrap();
    assert_eq!(models[0].path.to_str().unwrap(), snapshot);
    assert_llama(&models[0].path);
    let log = world.hub.take_log();
    assert!(log.iter().all(|request| request.path.starts_with("/api/models")), "it was downloaded again: {log:?}");
    world.assert_cache_is_clean();
    world.settings.offline = true;
    assert_eq!(world.run("HF://org/llama", None).unwrap().0.lock, online.lock);
}
