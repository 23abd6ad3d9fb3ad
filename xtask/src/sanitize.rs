//! Rules of the language that a test which passes may still break. Miri executes tests of formats, of arithmetic and of what the devices
//! share out as the language defines it, and tells what is undefined; the address sanitizer watches the CPU device compute, which Miri
//! cannot: it has neither mapped files nor most vector instructions. Both need a nightly toolchain and rustup, and CI does not run them:
//! `rustup toolchain install nightly --component miri,rust-src`.

use crate::arm64::LESS;
use crate::toolchain::{host_target, output, run};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// What Miri executes: packages, and which of their tests. Of the devices it is threads that work together, without the tests that need a thread's
/// own clock: mapped files and advice on memory are not what Miri has. Arithmetic is the reference interpreter's, in `knapsack-ir`.
const MIRI: [(&str, &[&str]); 4] = [
    ("knapsack-tensor", &[]),
    ("knapsack-ir", &[]),
    ("knapsack-artifact", &[]),
    ("knapsack-device", &["cpu::pool::", "--skip", "no_time"]),
];

/// What the address sanitizer watches: the unit tests, memory, libraries changed at random (less a test that computes for minutes there); and
/// the conformance suite as it runs in scalar code and with vectors.
const WATCHED: [&[&str]; 2] = [
    &["--lib", "--test", "memory", "--test", "cpu", "--", "--skip", "how_a_prompt_is_cut"],
    &["--test", "conformance", "--", "--exact", "cpu_scalar", "cpu_avx2"],
];

pub(crate) fn miri(root: &Path) -> Result<()> {
    for (package, tests) in MIRI {
        let mut cargo = nightly(root, "miri");
        cargo.args(["miri", "test", "--locked", "--package", package, "--lib", "--"]);
        cargo.args(tests);
        // Temporary files and clocks are the machine's; few cases of what is tried at random, each some hundred times slower.
        // The same operation on floats gives the same twice, which the language does not promise and tests expect.
        cargo.env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-deterministic-floats").env("PROPTEST_CASES", "2");
        run(&mut cargo)?;
    }
    Ok(())
}

pub(crate) fn address(root: &Path) -> Result<()> {
    let host = output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    for tests in WATCHED {
        let mut cargo = nightly(root, "asan");
        // With `--target`, build scripts and macros are built without the sanitizer.
        cargo.args(["test", "--locked", "--target", host, "--package", "knapsack-device"]);
        // Vector routines that are optimized and watched take minutes more to build.
        cargo.args(["--config", "profile.dev.package.knapsack-device.opt-level=0"]).args(tests);
        // With PoCL in the process, which brings a compiler, the sanitizer ends with an error of its own.
        cargo.env("OCL_ICD_VENDORS", "/nonexistent");
        // As under an emulator: watched and not optimized, all of it takes an hour.
        for (name, value) in LESS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()) {
            cargo.env(name, value);
        }
        run(cargo.env("RUSTFLAGS", "-Zsanitizer=address"))?;
    }
    Ok(())
}

fn nightly(root: &Path, folder: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).current_dir(root);
    // What the cargo that runs this sets is meant for its own toolchain.
    let own = ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "LD_LIBRARY_PATH"];
    for name in own.into_iter().chain(["CARGO_RESOLVER_FEATURE_UNIFICATION"]) {
        command.env_remove(name);
    }
    command.env("CARGO_TARGET_DIR", host_target(root).join(folder));
    command
}
