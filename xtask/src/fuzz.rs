//! Fuzzing with libFuzzer, which a crate brings along: neither a nightly toolchain nor cargo-fuzz is needed. Coverage comes from flags
//! that every rustc has. Knapsack's readers are safe code, where a sanitizer would find nothing that a panic does not tell; those who
//! want one run `cargo fuzz` on a nightly toolchain with the same targets.

use crate::toolchain::{host_target, output, run};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// LLVM counts which branches were taken, and tells what was compared with what.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long in all; the targets share it.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Schedules that each test of the model manager tries.
    #[arg(long, default_value_t = 2000)]
    schedules: u64,
    /// The targets, all if none is named; `schedules` is the model manager under schedules that `shuttle` decides.
    targets: Vec<String>,
}

/// Builds the targets and runs each for its share of the time. A failure names the file with the input that caused it.
pub(crate) fn check(root: &Path, arguments: &Arguments) -> Result<()> {
    let known = targets(root)?;
    let wanted = |name: &str| arguments.targets.is_empty() || arguments.targets.iter().any(|target| target == name);
    if let Some(unknown) = arguments.targets.iter().find(|name| *name != "schedules" && !known.contains(name)) {
        bail!("no target is called {unknown}: there are schedules, {}", known.join(", "));
    }
    if wanted("schedules") {
        schedules(root, arguments.schedules)?;
    }
    let chosen: Vec<&String> = known.iter().filter(|name| wanted(name)).collect();
    if chosen.is_empty() {
        return Ok(());
    }
    let programs = build(root, &chosen)?;
    let seconds = (arguments.seconds / chosen.len() as u64).max(1);
    let outcomes = chosen.iter().map(|name| fuzz(root, &programs, name, seconds)).collect::<Result<Vec<_>>>()?;
    println!("{:<14} {:>12} {:>8}  outcome", "target", "inputs", "seconds");
    for outcome in &outcomes {
        println!(
            "{:<14} {:>12} {seconds:>8}  {}",
            outcome.target,
            outcome.inputs,
            outcome.finding.as_deref().unwrap_or("-")
        );
    }
    let inputs: u64 = outcomes.iter().map(|outcome| outcome.inputs).sum();
    let findings = outcomes.iter().filter(|outcome| outcome.finding.is_some()).count();
    println!("{inputs} inputs");
    ensure!(findings == 0, "{findings} target(s) failed");
    Ok(())
}

/// The names of the targets: the files of `fuzz_targets`.
fn targets(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("fuzz/fuzz_targets"))? {
        names.extend(entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// A folder of its own: the flags would rebuild everything else.
fn target(root: &Path) -> PathBuf {
    host_target(root).join("fuzz")
}

fn cargo(root: &Path, verb: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args([verb, "--locked"]).current_dir(root.join("fuzz"));
    command.env_remove("RUSTFLAGS").env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION");
    command
}

/// Returns the folder of the programs.
fn build(root: &Path, names: &[&String]) -> Result<PathBuf> {
    let version = output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let mut command = cargo(root, "build");
    // With `--target`, build scripts and macros are built without the flags.
    command.args(["--package", "knapsack-fuzz", "--target", host]);
    for name in names {
        command.args(["--bin", name]);
    }
    command.env("CARGO_TARGET_DIR", target(root)).env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"));
    run(&mut command)?;
    Ok(target(root).join(host).join("debug"))
}

struct Outcome {
    target: String,
    inputs: u64,
    /// What libFuzzer says of it.
    finding: Option<String>,
}

fn fuzz(root: &Path, programs: &Path, name: &str, seconds: u64) -> Result<Outcome> {
    let (corpus, artifacts) = (target(root).join("corpus").join(name), target(root).join("artifacts").join(name));
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&artifacts)?;
    let mut command = Command::new(programs.join(name));
    command.arg(&corpus).arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(format!("-max_total_time={seconds}"));
    command.args(["-timeout=30", "-rss_limit_mb=2048", "-max_len=65536", "-print_final_stats=1", "-verbosity=0"]);
    command.env("KNAPSACK_FUZZ_SEEDS", &corpus).stdout(Stdio::null());
    println!("$ {name} for {seconds} s");
    let out = command.output().with_context(|| format!("cannot start {name}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    let count = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let finding = (!out.status.success()).then(|| {
        let end: Vec<&str> = said.lines().collect();
        println!("{}", end[end.len().saturating_sub(40)..].join("\n"));
        let file = said.lines().find_map(|line| line.split_once("Test unit written to ").map(|(_, file)| file.trim()));
        format!("{}: {}", out.status, file.unwrap_or("no input"))
    });
    Ok(Outcome { target: name.to_owned(), inputs: count.and_then(|n| n.trim().parse().ok()).unwrap_or(0), finding })
}

/// The model manager under schedules that `shuttle` decides.
fn schedules(root: &Path, schedules: u64) -> Result<()> {
    let mut command = cargo(root, "test");
    command.args(["--package", "knapsack-schedules"]).env("CARGO_TARGET_DIR", target(root));
    run(command.env("KNAPSACK_SCHEDULES", schedules.to_string()))
}
