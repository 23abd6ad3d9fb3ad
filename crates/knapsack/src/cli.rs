//! The command line's arguments. A verb's arguments are one struct here; what it does is in [`crate::ops`].

#[cfg(test)]
mod documented;
mod manifest;
mod model;
mod output;
mod prompt;
mod sampling;
mod sdk;
mod value;

pub use manifest::{
    CheckArgs, FitArgs, InitArgs, LockArgs, ManifestArgs, MemoryArgs, OnPhonesArgs, PackageArgs, PhoneArgs, PlanArgs,
    ReportArgs, StoreArgs, StoreChoice, UpdateArgs,
};
pub use model::{
    AdbArgs, BenchArgs, ChatArgs, CompileArgs, ConvertArgs, DeviceArgs, DownloadsArg, LogitsArgs, ModelArgs,
    OverridesArg, PerplexityArgs, PromptArgs, RunArgs, ServeArgs,
};
pub use output::{ColorChoice, JsonArg, MessageFormat, OutputArgs};
pub use prompt::{ContextPolicyArg, PromptOptionArgs, Thinking};
pub use sampling::{FormArgs, SamplingArgs};
pub(crate) use sdk::SDK_FOLDER;
pub use sdk::{SdkArgs, SdkBuildArgs, SdkCommand, SdkTarget};

use clap::{Args, Parser, Subcommand, ValueHint};
use std::path::PathBuf;

/// Turns one declarative manifest into everything a mobile app needs to run language models on the device.
#[derive(Debug, Parser)]
#[command(name = "knapsack", version, max_term_width = 120, disable_help_subcommand = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What is shown.
    #[command(flatten)]
    pub output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  knapsack init --model HF://mlc-ai/Llama-3.2-1B-Instruct-q4f16_1-MLC
  knapsack check
  knapsack plan
  knapsack fit --phone iphone-13 --write
  knapsack package -o dist
  knapsack check --message-format json
  knapsack schema > mlc-package-config.schema.json
  knapsack completions bash > ~/.local/share/bash-completion/completions/knapsack

Exit codes: 0 done; 2 something that was written or named has to change: the manifest, an argument, a model, a setting;
1 anything else, after which the same command may succeed; 130 interrupted.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a manifest to start from
    Init(InitArgs),
    /// Check a manifest; nothing is fetched, compiled or written
    Check(CheckArgs),
    /// Convert a checkpoint to MLC weights
    Convert(ConvertArgs),
    /// Show what `package` would compile and the memory it takes
    Plan(PlanArgs),
    /// Show the memory of each model on each phone, and how it grows
    Memory(MemoryArgs),
    /// Find the sizes with the largest context that fit a phone
    Fit(FitArgs),
    /// Turn a manifest into a package: fetch, convert, compile, bundle
    Package(PackageArgs),
    /// Move knapsack.lock to what the hub has now
    Update(UpdateArgs),
    /// Compile one model for one device, from its configuration alone
    Compile(CompileArgs),
    /// Answer one prompt; only the generated text goes to stdout
    Run(RunArgs),
    /// Talk to a model, line by line
    Chat(ChatArgs),
    /// Show the text and the tokens that a conversation becomes for a model
    Prompt(PromptArgs),
    /// Measure how fast a model loads, reads and writes
    Bench(BenchArgs),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityArgs),
    /// Write the logits of given tokens to a file
    Logits(LogitsArgs),
    /// Put a package behind an OpenAI-compatible HTTP endpoint
    Serve(ServeArgs),
    /// Show what is in a model library, a weight folder, a checkpoint, a package or a finished app
    Inspect(InspectArgs),
    /// Write everything about a package on one page of HTML
    Report(ReportArgs),
    /// Show, check or empty the cache of converted weights and compiled libraries
    Cache(CacheArgs),
    /// List the model families and formats that are supported, and what each was checked against
    Models(JsonArg),
    /// Build the runtime for an app from Knapsack's sources; packaging needs none of it
    Sdk(SdkArgs),
    /// Print the JSON Schema of the manifest
    Schema,
    /// Say which optional tools are there, and what to do about the rest
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// `knapsack inspect`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  knapsack inspect dist
  knapsack inspect dist/lib/arm64-v8a/libmodel_android.so --kernels
  knapsack inspect app-release.apk
  knapsack inspect MyApp.ipa --json

Exit codes: 0 nothing has to change; 1 something in the app has to change, and is told; 2 this is nothing that can be inspected.")]
pub struct InspectArgs {
    /// A model library, a weight folder, a checkpoint, a package or a finished app (APK, AAB, AAR, IPA)
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// Show the kernels too: what each moves, and their source
    #[arg(long)]
    pub kernels: bool,
    /// Result as JSON.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `knapsack doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Result as JSON.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `knapsack completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `knapsack cache`.
#[derive(Clone, Debug, Args)]
pub struct CacheArgs {
    /// What to do with the cache.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What to do with the cache.
#[derive(Clone, Debug, Subcommand)]
pub enum CacheCommand {
    /// Show what is in the cache, with sizes
    List(CacheLookArgs),
    /// Check every entry and download against its hash
    Verify(CacheLookArgs),
    /// Give every entry to the shared cache, which has KNAPSACK_CACHE_URL as its address
    Push(JsonArg),
    /// Take entries of the shared cache, so that a later run needs no network
    Pull(CachePullArgs),
    /// Remove entries of the shared cache that were made long ago
    Gc(CacheGcArgs),
    /// Remove every entry, and downloads that were interrupted
    Clean(CacheCleanArgs),
}

/// `knapsack cache list` and `verify`.
#[derive(Clone, Copy, Debug, Args)]
pub struct CacheLookArgs {
    /// The shared cache instead of this machine's
    #[arg(long)]
    pub shared: bool,
    /// Result as JSON.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `knapsack cache pull`.
#[derive(Clone, Debug, Args)]
pub struct CachePullArgs {
    /// Which entries, by the beginning of their keys; all when none is given
    #[arg(value_name = "KEY")]
    pub keys: Vec<String>,
    /// Result as JSON.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `knapsack cache gc`.
#[derive(Clone, Copy, Debug, Args)]
pub struct CacheGcArgs {
    /// Age in days from which an entry goes; it is made again when it is needed
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    pub older_than: u32,
    /// Say what would go, and leave it
    #[arg(long)]
    pub dry_run: bool,
    /// Result as JSON.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `knapsack cache clean`.
#[derive(Clone, Copy, Debug, Args)]
pub struct CacheCleanArgs {
    /// Also remove downloaded models that Knapsack used and no knapsack.lock names any more
    #[arg(long)]
    pub downloads: bool,
    /// Result as JSON.
    #[command(flatten)]
    pub json: JsonArg,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
