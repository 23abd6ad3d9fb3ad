//! The OpenCL kernels under Oclgrind, which interprets them thread by thread and tells data races, divergent barriers and accesses
//! beyond what a buffer or local memory has: every operation of the conformance suite, a model of each kind of kernel, and every way of
//! tiling products of many tokens. Before that, faults that are planted must be told. Debian has it as `oclgrind`; where it lies
//! elsewhere, `OCLGRIND_LIBRARY` says where (`liboclgrind-rt.so`).

use crate::toolchain::{Unavailable, host_target, run};
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

/// Where Debian has the library that is loaded as an OpenCL.
const LIBRARY: &str = "/usr/lib/oclgrind/liboclgrind-rt.so";

/// A test that runs under it.
struct Run {
    name: &'static str,
    /// The binary, and the test in it.
    test: [&'static str; 2],
    /// What is left of it: an interpreter takes its time.
    of: &'static [(&'static str, &'static str)],
    /// What it says when it did that, not nothing.
    says: &'static str,
}

const fn suite(name: &'static str, of: &'static [(&'static str, &'static str)], says: &'static str) -> Run {
    Run { name, test: ["conformance", "driver::opencl"], of, says }
}

/// A model, or some that begin so, with these formats and as many tokens.
macro_rules! model {
    ($name:literal, $formats:literal, $tokens:literal) => {
        suite(
            $name,
            &[
                ("KNAPSACK_PARTS", "models"),
                ("KNAPSACK_MODELS", $name),
                ("KNAPSACK_FORMATS", $formats),
                ("KNAPSACK_TOKENS", $tokens),
            ],
            concat!("% (", $name, " q"),
        )
    };
}

/// Faults in two kernels, and what the log must have for them.
const PLANTED: Run = Run { name: "planted", test: ["opencl", "faults_for_oclgrind"], of: &[], says: DEVICE };
const FOUND: [&str; 2] = ["Invalid write of size 16 at global memory", "Read-write data race at local memory"];
const DEVICE: &str = "on Oclgrind Simulator";

/// What must have none, the longest first. Models: rows and columns of codes, floats; windows (long enough to go round), layers that
/// remember, layers that share a cache.
const RUNS: [Run; 8] = [
    suite("operations", &[("KNAPSACK_MODELS", "-"), ("KNAPSACK_CASES", "4")], "exercised opencl"),
    Run {
        name: "tiles",
        test: ["opencl", "products_of_many_tokens_are_tiled_in_every_way"],
        of: &[("KNAPSACK_TOKENS", "45")],
        says: DEVICE,
    },
    model!("gemma4", "q4f16_1", "40"),
    model!("llama", "q3f16_1,q4f16_0,q0f16", "40"),
    model!("qwen3_5", "q4f16_1", "40"),
    model!("mistral", "q4f16_1", "80"),
    model!("gemma2", "q4f16_1", "40"),
    model!("lfm3", "q4f16_1", "40"),
];

pub(crate) fn check(root: &Path) -> Result<()> {
    let start = Instant::now();
    let library = std::env::var_os("OCLGRIND_LIBRARY").map_or_else(|| PathBuf::from(LIBRARY), PathBuf::from);
    if !library.is_file() {
        return Err(Unavailable(format!("there is no Oclgrind at {} (Debian: oclgrind)", library.display())).into());
    }
    run(cargo(root).args(["--test", "conformance", "--test", "opencl", "--no-run"]))?;
    let log = PLANTED.log(root, &library)?;
    for what in FOUND {
        ensure!(log.contains(what), "Oclgrind does not tell `{what}`, which is planted:\n{log}");
    }
    let (left, found) = (Mutex::new(RUNS.iter()), Mutex::new(Vec::new()));
    let work = || {
        while let Some(run) = { left.lock().expect("nobody panics").next() } {
            let problem = match run.log(root, &library) {
                Ok(log) if log.trim().is_empty() => continue,
                Ok(log) => log.lines().take(60).collect::<Vec<_>>().join("\n"),
                Err(error) => format!("{error:#}"),
            };
            found.lock().expect("nobody panics").push(format!("{}:\n{problem}", run.name));
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let found = found.into_inner().expect("nobody panics");
    if !found.is_empty() {
        bail!("Oclgrind: {}", found.join("\n"));
    }
    println!("no data race and no access beyond a buffer, {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--locked", "--package", "knapsack-device"]).current_dir(root);
    cargo
}

impl Run {
    /// What Oclgrind says while it runs.
    fn log(&self, root: &Path, library: &Path) -> Result<String> {
        let (name, start) = (self.name, Instant::now());
        let log = host_target(root).join(format!("oclgrind-{name}.log"));
        let _ = std::fs::remove_file(&log);
        let mut cargo = cargo(root);
        cargo.args([
            "--quiet",
            "--test",
            self.test[0],
            "--",
            "--exact",
            self.test[1],
            "--nocapture",
            "--include-ignored",
        ]);
        cargo.env("OPENCL_DYLIB_PATH", library).env("KNAPSACK_REQUIRE_OPENCL", "1").envs(self.of.iter().copied());
        cargo.env("OCLGRIND_LOG", &log).env("OCLGRIND_DATA_RACES", "1").env("OCLGRIND_MAX_ERRORS", "50");
        // Oclgrind counts local memory of `gemm_10` as `gemm_1`'s, too. PoCL and GPUs hold kernels to their own.
        cargo.env("OCLGRIND_LOCAL_MEM_SIZE", "262144");
        let mut child = cargo.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start cargo")?;
        println!("{name}: begun");
        let mut said = false;
        for line in BufReader::new(child.stderr.take().expect("it is piped")).lines() {
            let line = line?;
            said |= line.contains(self.says);
            println!("{name}: {line}");
        }
        let status = child.wait()?;
        println!("{name}: {:.0} s", start.elapsed().as_secs_f64());
        ensure!(status.success(), "the test failed ({status})");
        ensure!(said, "`{}` was not said", self.says);
        std::fs::read_to_string(&log).with_context(|| format!("{} was not written", log.display()))
    }
}
