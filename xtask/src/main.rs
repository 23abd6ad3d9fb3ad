//! Project automation. `cargo xtask ci` is everything that CI checks, in the order in which it fails fastest.

mod android;
mod apple;
mod architecture;
mod arm64;
mod dependencies;
mod files;
mod fuzz;
mod generated;
mod header;
mod oclgrind;
mod peer;
mod public;
mod sanitize;
mod sdk;
mod toolchain;
mod windows;

use anyhow::{Context, Result, bail};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Parser)]
#[command(about = "Knapsack's project automation")]
enum Task {
    /// Formatting, lints, structure, tests, docs and dependency policy: what CI runs.
    Ci {
        /// Skip the tests (CI runs them by the README's command).
        #[arg(long)]
        no_test: bool,
    },
    /// The structure: crate arrows, names in ARCHITECTURE.md, unused dependencies, what need not be public, generated files, file
    /// lengths, machine paths.
    Check,
    /// Write the files that the sources make: the manifest's JSON Schema and the tables of its keys.
    Generate,
    /// The CPU device's tests as 64-bit Arm programs under qemu: NEON, with and without the dot product.
    Arm64,
    /// The Android library, built without the NDK: its size, its symbols, and an answer out of it under qemu.
    Android,
    /// The library for the iPhone, built and linked into an app without Xcode; the simulator's type-checked.
    Apple(apple::Arguments),
    /// Tests of formats, arithmetic and memory under Miri (nightly).
    Miri,
    /// The CPU device's tests under the address sanitizer (nightly).
    Asan,
    /// The OpenCL kernels under Oclgrind: data races, and accesses beyond a buffer.
    Oclgrind,
    /// The command line for Windows, cross-built and run under wine: the README's first command, Ctrl-C, tests.
    Windows,
    /// Every reader under libFuzzer, and the model manager under schedules of `shuttle`, for a while.
    Fuzz(fuzz::Arguments),
    /// The speed of the CPU device.
    Bench(peer::Arguments),
    /// The Swift package, built and tested with Swift 6 on Linux.
    Swift(sdk::Repeat),
    /// The Kotlin library, built and tested on the JVM with `-Xcheck:jni`.
    Kotlin(sdk::Repeat),
}

fn main() -> Result<()> {
    let outcome = perform(&root(), &Task::parse());
    match outcome.as_ref().err().and_then(|error| error.downcast_ref::<toolchain::Unavailable>()) {
        Some(why) => {
            println!("SKIPPED: {why}");
            Ok(())
        }
        None => outcome,
    }
}

fn perform(root: &Path, task: &Task) -> Result<()> {
    match task {
        Task::Check => check(root),
        Task::Arm64 => arm64::check(root),
        Task::Android => android::check(root),
        Task::Apple(arguments) => apple::check(root, arguments),
        Task::Miri => sanitize::miri(root),
        Task::Asan => sanitize::address(root),
        Task::Oclgrind => oclgrind::check(root),
        Task::Windows => windows::check(root),
        Task::Fuzz(arguments) => fuzz::check(root, arguments),
        Task::Bench(arguments) => peer::bench(root, arguments),
        Task::Swift(repeat) => sdk::swift(root, *repeat),
        Task::Kotlin(repeat) => sdk::kotlin(root, *repeat),
        Task::Generate => generated::write(root),
        Task::Ci { no_test } => {
            cargo(root, &["fmt", "--all", "--", "--check"], &[])?;
            check(root)?;
            cargo(root, &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])?;
            if !no_test {
                cargo(root, &["test", "--workspace", "--locked"], &[])?;
            }
            cargo(root, &["doc", "--workspace", "--no-deps", "--locked"], &[("RUSTDOCFLAGS", "-D warnings")])?;
            deny(root)
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

fn check(root: &Path) -> Result<()> {
    let mut problems = architecture::check(root)?;
    problems.extend(dependencies::check(root)?);
    problems.extend(generated::check(root)?);
    problems.extend(files::check(root)?);
    problems.extend(header::check(root)?);
    problems.extend(public::check(root)?);
    problems.extend(android::figure(root)?);
    if problems.is_empty() {
        println!("structure: as ARCHITECTURE.md says");
        return Ok(());
    }
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    bail!("{} structural problem(s)", problems.len())
}

fn cargo(root: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    println!("$ cargo {}", arguments.join(" "));
    let status = Command::new(env!("CARGO"))
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo {} failed", arguments[0]);
    }
    Ok(())
}

/// Licences, sources and bans by cargo-deny, where it is installed.
fn deny(root: &Path) -> Result<()> {
    let installed = Command::new(env!("CARGO")).args(["deny", "--version"]).output().is_ok_and(|o| o.status.success());
    if installed {
        return cargo(root, &["deny", "check", "licenses", "bans", "sources"], &[]);
    }
    if std::env::var_os("KNAPSACK_REQUIRE_DENY").is_some() {
        bail!("cargo-deny is required here but not installed");
    }
    println!("skipped: cargo deny (not installed; `cargo install cargo-deny --locked`)");
    Ok(())
}
