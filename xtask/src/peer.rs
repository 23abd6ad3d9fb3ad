//! The CPU device beside llama.cpp, in one run: the same shapes with random weights in 4 bits, in turns, on as many threads.

use crate::toolchain::{cache, fetch, host_target, output, tool};
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::process::Command;

/// llama.cpp as npm has it built, for Linux: the library and its binary without those for graphics processors.
const PEER: &str = "node-llama-cpp";
const PEER_VERSION: &str = "3.21.1";
const SHAPES: [&str; 2] = ["llama-1b", "qwen3-0.6b"];

/// What is measured.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Beside llama.cpp, which npm brings, on models of 0.4 and 0.8 GB that are made up on the first run.
    #[arg(long, required = true)]
    peer: bool,
    /// Rounds, each with both in turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Threads.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Shapes.
    #[arg(long, value_delimiter = ',', default_values_t = SHAPES.map(String::from))]
    shapes: Vec<String>,
}

/// Prints a table of each shape and number of threads.
pub(crate) fn bench(root: &Path, arguments: &Arguments) -> Result<()> {
    let node = tool(&["node"], "nodejs npm")?;
    let modules = cache(root)?.join(format!("{PEER}-{PEER_VERSION}"));
    if !modules.join("node_modules").join(PEER).is_dir() {
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--ignore-scripts", "--omit=optional", "--prefix"]).arg(&modules);
        fetch(npm.args([format!("{PEER}@{PEER_VERSION}"), format!("@{PEER}/linux-{arch}@{PEER_VERSION}")]))?;
    }
    let folder = host_target(root).join("peer");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let script = folder.join("peer.mjs");
    std::fs::write(&script, include_str!("peer.mjs")).with_context(|| script.display().to_string())?;
    let mut build = Command::new("cargo");
    build.args(["build", "--locked", "--release", "--package", "knapsack-device", "--example", "decode"]);
    ensure!(build.current_dir(root).status()?.success(), "the example `decode` does not build");
    let sides = Sides { node, modules, script, decode: host_target(root).join("release/examples/decode"), folder };
    for shape in &arguments.shapes {
        for &threads in &arguments.threads {
            let mut rounds = Vec::new();
            for _ in 0..arguments.rounds {
                rounds.push([
                    sides.ours(shape, threads)?,
                    sides.peer(shape, threads, false)?,
                    sides.peer(shape, threads, true)?,
                ]);
            }
            print_table(shape, threads, &rounds);
        }
    }
    Ok(())
}

struct Sides {
    node: String,
    modules: PathBuf,
    script: PathBuf,
    decode: PathBuf,
    folder: PathBuf,
}

impl Sides {
    fn ours(&self, shape: &str, threads: usize) -> Result<Map<String, Value>> {
        let mut command = Command::new(&self.decode);
        times(
            command
                .args([shape.as_ref(), self.folder.join(shape).as_os_str(), "workloads".as_ref()])
                .arg(threads.to_string()),
        )
    }

    fn peer(&self, shape: &str, threads: usize, flash: bool) -> Result<Map<String, Value>> {
        let mut command = Command::new(&self.node);
        command.arg(&self.script).arg(&self.modules).arg(shape).arg(self.folder.join(format!("{shape}.gguf")));
        times(command.arg(threads.to_string()).arg(if flash { "1" } else { "0" }))
    }
}

/// Seconds by workload.
fn times(command: &mut Command) -> Result<Map<String, Value>> {
    let text = output(command)?;
    serde_json::from_str(text.lines().last().unwrap_or_default())
        .with_context(|| format!("{command:?} printed {text:?}"))
}

/// Milliseconds: the median of ours, the smaller median of the peer's two settings (without and with flash attention), and how many
/// times faster we are.
fn print_table(shape: &str, threads: usize, rounds: &[[Map<String, Value>; 3]]) {
    println!("\n{shape}, {threads} threads, {} rounds", rounds.len());
    println!("| | Knapsack, ms | llama.cpp, ms | times faster | in each round |\n|---|---|---|---|---|");
    let seconds =
        |round: &[Map<String, Value>; 3], side: usize, key: &str| round[side][key].as_f64().unwrap_or(f64::NAN);
    let Some(first) = rounds.first() else { return };
    for key in first[0].keys() {
        let median = |side| {
            let mut list: Vec<f64> = rounds.iter().map(|round| seconds(round, side, key)).collect();
            list.sort_by(f64::total_cmp);
            list[list.len() / 2]
        };
        let (ours, peer) = (median(0), median(1).min(median(2)));
        let each =
            rounds.iter().map(|round| seconds(round, 1, key).min(seconds(round, 2, key)) / seconds(round, 0, key));
        let each: Vec<String> = each.map(|ratio| format!("{ratio:.2}")).collect();
        println!("| {key} | {:.1} | {:.1} | {:.2} | {} |", ours * 1e3, peer * 1e3, peer / ours, each.join(" "));
    }
}
