//! Rules of the language that a test which passes may still break. Miri executes tests of formats, of arithmetic and of what the devices
//! share out as the language defines it, and tells what is undefined; the address sanitizer watches the CPU device compute, which Miri
//! cannot: it has neither mapped files nor most vector instructions. Both need a nightly toolchain and rustup, and CI does not run them:
//! `rustup toolchain install nightly --component miri,rust-src`.

use crate::toolchain::{host_target, output, run};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// What Miri executes: packages, and the tests that are left out with the reason.
const MIRI: [(&str, &[(&str, &str)]); 4] =
    [("knapsack-tensor", &[]), ("knapsack-ir", &[]), ("knapsack-artifact", &[]), ("knapsack-device", &[])];

/// What the address sanitizer watches: the unit tests, memory, libraries changed at random; and the conformance suite as it runs in
/// scalar code and with vectors.
const WATCHED: [&[&str]; 2] = [
    &["--lib", "--test", "memory", "--test", "cpu"],
    &["--test", "conformance", "--", "--exact", "cpu_scalar", "cpu_avx2"],
];

pub(crate) fn miri(root: &Path) -> Result<()> {
    for (package, without) in MIRI {
        let mut cargo = nightly(root, "miri");
        cargo.args(["miri", "test", "--locked", "--package", package, "--lib", "--"]);
        for (test, reason) in without {
            println!("not executed: {package} {test}: {reason}");
            cargo.args(["--skip", test]);
        }
        // Temporary files and clocks are the machine's; few cases of what is tried at random, each some hundred times slower.
        cargo.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "4");
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
        cargo.args(["test", "--locked", "--target", host, "--package", "knapsack-device"]).args(tests);
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
