//! The program, on this machine, with a package for Android: a phone runs the same.

use knapsack_bundle::{Cache, LinkMode};
use knapsack_config::Environment;
use knapsack_package::{Destination, Outcome, Packager, Silent};
use knapsack_source::{LockPolicy, Settings};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MODEL: &str = "tiny-assistant-q4f16_0";

/// Packages the example.
fn package(folder: &Path) -> PathBuf {
    let manifest =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/tiny-assistant-android/mlc-package-config.json");
    let manifest = knapsack_config::load(&manifest, &Environment::default()).expect("a manifest").manifest;
    let settings = Settings::new("http://127.0.0.1:9", folder.join("hub"), folder.join("cache"));
    let packager = Packager::new(Cache::at(folder.join("cache")), settings, None, &Silent);
    let found = product(packager.find(&manifest, &LockPolicy::default()).expect("found")).models;
    let planned = product(packager.plan(&manifest, found, false));
    let built = product(packager.build(&manifest, planned).expect("built"));
    let ready = product(packager.make_ready(built).expect("ready"));
    let dist = folder.join("a package");
    let destination = Destination {
        folder: &dist,
        link_mode: LinkMode::Copy,
        sync: false,
        date: None,
        runtime: &knapsack_bundle::Runtime::Version,
    };
    product(packager.bundle(&manifest, &ready, destination).expect("bundled"));
    dist
}

fn product<T>(outcome: Outcome<T>) -> T {
    outcome.product.unwrap_or_else(|| panic!("{:#?}", outcome.findings))
}

fn run(verb: &str, package: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_knapsack-runner")).arg(verb).arg(package).args(more).output().unwrap()
}

#[test]
fn a_package_is_measured_and_computed() {
    let folder = tempfile::tempdir().unwrap();
    let dist = package(folder.path());
    let few = ["--prefill-tokens", "8", "--decode-tokens", "2", "--repeat", "1"];
    let out =
        run("bench", &dist, &[&["--model", MODEL, "--device", "cpu", "--threads", "1", "--json"][..], &few].concat());
    assert!(out.status.success(), "{out:?}");
    let figures: Value = serde_json::from_slice(&out.stdout).unwrap();
    for rate in ["load_seconds", "prefill_tokens_per_second", "decode_tokens_per_second", "read_bytes_per_second"] {
        assert!(figures[rate].as_f64().unwrap() > 0.0, "{figures}");
    }
    assert_eq!(figures["model"], MODEL);

    let file = folder.path().join("logits.safetensors");
    let out = run("logits", &dist, &["--tokens", "1,2,3", "-o", &file.to_string_lossy()]);
    assert!(out.status.success(), "{out:?}");
    let bytes = std::fs::read(&file).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
    let header: Value = serde_json::from_slice(header).unwrap();
    let [rows, columns] = [0, 1].map(|at| header["logits"]["shape"][at].as_u64().unwrap());
    assert_eq!((rows, data.len() as u64), (3, 4 * rows * columns));

    let half = folder.path().join("half");
    let half = half.to_str().unwrap();
    for (verb, more, problem) in [
        ("bench", &["--model", "other"][..], "has no model `other`"),
        ("bench", &["--prefill-tokens", "1000000"], "do not fit into the context"),
        ("bench", &["--device", "tpu"], "there are cpu, "),
        ("logits", &["--tokens", "1", "-o", "/nowhere/x"], "cannot write /nowhere/x"),
        ("logits", &["--tokens", "99999999", "-o", half], "99999999"),
    ] {
        let out = run(verb, &dist, more);
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && told.contains(problem), "{verb} {more:?}: {told}");
    }
    assert!(!Path::new(half).exists());
    let told = run("bench", folder.path(), &[]).stderr;
    assert!(String::from_utf8_lossy(&told).contains("is not a package"), "{told:?}");
}
