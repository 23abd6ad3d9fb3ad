//! The program that `knapsack bench --adb` and `knapsack logits --adb` run on the phone.

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use knapsack_artifact::ModelLibrary;
use knapsack_device::{Executor, OpenOptions};
use knapsack_runner::{bench, logits};
use knapsack_runtime::text::TextError;
use knapsack_runtime::{CancelFlag, ChatModel, Package, Session};
use std::fs::File;
use std::io::{BufWriter, ErrorKind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// Measures a model of a package on the phone that this runs on
#[derive(Parser)]
#[command(
    name = "knapsack-runner",
    version,
    after_help = "\
`knapsack bench DIST --adb` and `knapsack logits DIST --adb` bring this to a phone and run it there. By hand:
  adb push knapsack-android-arm64 dist /data/local/tmp
  adb shell 'cd /data/local/tmp && ./knapsack-android-arm64 bench dist'"
)]
struct Words {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// How fast it loads, reads and writes, as a line of JSON
    Bench(Bench),
    /// What it computes for given tokens, as safetensors
    Logits(Logits),
}

#[derive(Args)]
struct Model {
    /// A package (dist/) with its weights
    package: PathBuf,
    /// The model of the package; needed when it has several
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    /// Device to run on
    #[arg(long, default_value = Executor::CPU.name, value_parser = executor)]
    device: Executor,
    /// Threads of the CPU device; by default all cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
}

#[derive(Args)]
struct Bench {
    #[command(flatten)]
    model: Model,
    /// Tokens to prefill
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    prefill_tokens: u32,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    decode_tokens: u32,
    /// How often to measure; the median is shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// As of `knapsack bench`; there is nothing but JSON here
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Logits {
    #[command(flatten)]
    model: Model,
    /// Token ids, separated by commas
    #[arg(long, value_name = "1,2,3", value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// File for the result: safetensors with one tensor `logits`, f32, [tokens, vocabulary]
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

fn executor(name: &str) -> Result<Executor, String> {
    let names = || Executor::ALL.iter().map(|executor| executor.name).collect::<Vec<_>>().join(", ");
    Executor::named(name).ok_or_else(|| format!("there are {}", names()))
}

fn main() -> ExitCode {
    let done = match Words::parse().verb {
        Verb::Bench(words) => measure(&words),
        Verb::Logits(words) => compute(&words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Loads the model with its text side, as an app does.
fn load(words: &Model) -> Result<(bench::Loaded, Arc<ModelLibrary>)> {
    let package = Package::open(&words.package)?;
    let model = package.model(words.model.as_deref())?;
    let (library, weights) = (package.library(model)?, package.bundled_weights(model)?);
    let threads = words.threads.map(|threads| threads as usize);
    let device = words.device.open(&OpenOptions { threads, programs: None })?;
    let start = Instant::now();
    let (loaded, text) = std::thread::scope(|scope| {
        let text = scope.spawn(|| ChatModel::open(&weights, library.model.vocab_size));
        (device.load(library.clone(), &weights), text.join())
    });
    match text {
        Ok(Err(TextError::Io { source, .. })) if source.kind() == ErrorKind::NotFound => {}
        Ok(text) => drop(text?),
        Err(panic) => std::panic::resume_unwind(panic),
    }
    let (name, session) = (model.model_id.clone(), Session::new(loaded?));
    Ok((bench::Loaded { name, device: device.description(), load_time: start.elapsed(), session }, library))
}

fn measure(words: &Bench) -> Result<()> {
    let &Bench { prefill_tokens, decode_tokens, repeat, json: _, ref model } = words;
    let (mut loaded, library) = load(model)?;
    let rounds = bench::Rounds { prefill_tokens, decode_tokens, repeat, threads: model.threads };
    if let Some(why) = rounds.too_long(&library) {
        bail!(why);
    }
    let figures = rounds.measure(&mut loaded, &library, &mut || ())?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn compute(words: &Logits) -> Result<()> {
    let (bench::Loaded { mut session, .. }, library) = load(&words.model)?;
    let context = || format!("cannot write {}", words.output.display());
    let file = BufWriter::with_capacity(1 << 20, File::create(&words.output).with_context(context)?);
    let mut writer = logits::Writer::new(file, words.tokens.len(), library.model.vocab_size as usize);
    let scored = session.score(&words.tokens, &CancelFlag::new(), &mut |_, row| writer.row(row));
    let written = writer.finish().with_context(context);
    let outcome = scored.map_err(anyhow::Error::from).and(written);
    // Half a result looks like a whole one.
    outcome.inspect_err(|_| drop(std::fs::remove_file(&words.output)))
}
