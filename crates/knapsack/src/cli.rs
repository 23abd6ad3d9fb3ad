//! The command line's arguments. A verb's arguments are one struct here; what it does is in [`crate::ops`].

mod prompt;
mod sampling;

pub use prompt::{ContextPolicyArg, PromptArgs, PromptOptionArgs, Thinking};
pub use sampling::{FormArgs, SamplingArgs};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use knapsack_artifact::Device;
use knapsack_artifact::library::Target;
use knapsack_config::Overrides;
use knapsack_source::LockPolicy;
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
    /// Show what is in a model library, a weight folder, a checkpoint or a package
    Inspect(InspectArgs),
    /// Show, check or empty the cache of converted weights and compiled libraries
    Cache(CacheArgs),
    /// List the model families and formats that are supported, and what each was checked against
    Models(JsonArg),
    /// Print the JSON Schema of the manifest
    Schema,
    /// Say which optional tools are there, and what to do about the rest
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// What is shown, the same for every verb.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Form of messages: for people on stderr, or one JSON object per line on stdout
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub message_format: MessageFormat,
    /// Colours; `auto` looks at the terminal and at NO_COLOR
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
    /// Show errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Show more: for each step whether and why it ran
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Form of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MessageFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// Whether to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless the environment says otherwise.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Which manifest.
#[derive(Clone, Debug, Args)]
pub struct ManifestArgs {
    /// The manifest
    #[arg(short, long, value_name = "FILE", default_value = "mlc-package-config.json", value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Profiles of phones, on top of those that come with Knapsack; by default knapsack-devices.json beside the manifest
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub devices: Option<PathBuf>,
}

/// Which phones, and what the app leaves of their memory to its models.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Phones")]
pub struct PhoneArgs {
    /// A phone by the name of its profile; may be given several times; by default the manifest's target_devices
    #[arg(long, value_name = "NAME")]
    pub phone: Vec<String>,
    /// The app has the entitlement com.apple.developer.kernel.increased-memory-limit; by default what the manifest says
    #[arg(long)]
    pub increased_memory_limit: bool,
    /// Memory that the app needs beside its models, such as 300MB; by default the manifest's app_reserve_bytes, or 200 MB
    #[arg(long, value_name = "BYTES", value_parser = reserve)]
    pub reserve: Option<u64>,
}

/// How the lockfile and the network may be used.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Lockfile and network")]
pub struct LockArgs {
    /// Fail when knapsack.lock would have to change
    #[arg(long)]
    pub locked: bool,
    /// Never use the network
    #[arg(long)]
    pub offline: bool,
    /// The same as --locked and --offline
    #[arg(long)]
    pub frozen: bool,
}

impl LockArgs {
    /// Whether the network is forbidden.
    pub fn offline(&self) -> bool {
        self.offline || self.frozen
    }

    /// How the lockfile may be used.
    pub fn policy(&self) -> LockPolicy {
        LockPolicy { locked: self.locked || self.frozen, ..LockPolicy::default() }
    }
}

/// Which model to run.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// A package (dist/), a weight folder, or a checkpoint
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// The model of a package; needed when it has several
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,
    /// Device to run on
    #[arg(long, value_enum, default_value_t)]
    pub device: RunDevice,
    /// Threads of the CPU device; by default all cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Format for converting a checkpoint
    #[arg(long, value_name = "FORMAT", value_parser = quantization_parser())]
    pub quantization: Option<String>,
    /// Sizes to compile a weight folder or a checkpoint with.
    #[command(flatten)]
    pub overrides: OverridesArg,
    /// Where a package's models go that are not part of it.
    #[command(flatten)]
    pub downloads: DownloadsArg,
}

/// Where models go that a package leaves to be downloaded.
#[derive(Clone, Debug, Default, Args)]
pub struct DownloadsArg {
    /// Folder for models that the package downloads; by default in the cache
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub downloads: Option<PathBuf>,
}

/// Sizes that differ from the model's own.
#[derive(Clone, Debug, Default, Args)]
pub struct OverridesArg {
    /// Sizes that differ from the model's own, such as context_window_size=2048,prefill_chunk_size=128
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub overrides: Option<Overrides>,
}

/// A machine-readable result instead of a table.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct JsonArg {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `knapsack package`.
#[derive(Clone, Debug, Args)]
pub struct PackageArgs {
    /// Which manifest.
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Folder for the package; replaced as a whole
    #[arg(short, long, value_name = "DIR", default_value = "dist", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// Only warn when a plan needs more memory than its model declares
    #[arg(long)]
    pub allow_over_budget: bool,
    /// How weights get into the package; hard links share later changes with the source
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub link_mode: LinkMode,
    /// Do not wait until the package is on the disk: for machines whose disks are thrown away, such as CI's
    #[arg(long)]
    pub no_sync: bool,
    /// How the lockfile and the network may be used.
    #[command(flatten)]
    pub lock: LockArgs,
}

/// How weights get into the package.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LinkMode {
    /// Share blocks where the file system can, else copy.
    #[default]
    Reflink,
    /// Copy.
    Copy,
    /// Hard links: no space, but a later change shows in both.
    Hardlink,
}

/// `knapsack check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Which manifest.
    #[command(flatten)]
    pub manifest: ManifestArgs,
}

/// `knapsack plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// Which manifest.
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Only warn when a plan needs more memory than its model declares
    #[arg(long)]
    pub allow_over_budget: bool,
    /// How the lockfile and the network may be used.
    #[command(flatten)]
    pub lock: LockArgs,
}

/// Which models of which manifest, on which phones.
#[derive(Clone, Debug, Args)]
pub struct OnPhonesArgs {
    /// The models, by model_id; without any: all
    #[arg(value_name = "MODEL_ID")]
    pub models: Vec<String>,
    /// Which manifest.
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Result as JSON.
    #[command(flatten)]
    pub json: JsonArg,
    /// Which phones.
    #[command(flatten)]
    pub phones: PhoneArgs,
    /// How the lockfile and the network may be used.
    #[command(flatten)]
    pub lock: LockArgs,
}

/// `knapsack memory`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  knapsack memory --phone iphone-13
  knapsack memory --phone iphone-15-pro --increased-memory-limit --reserve 400MB
  knapsack memory --list-phones
  knapsack memory --json")]
pub struct MemoryArgs {
    /// List the profiles of phones with the sources of their figures, and stop; needs no manifest
    #[arg(long, conflicts_with_all = ["models", "phone"])]
    pub list_phones: bool,
    /// Which models on which phones.
    #[command(flatten)]
    pub on: OnPhonesArgs,
}

/// `knapsack fit`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  knapsack fit --phone iphone-13
  knapsack fit --phone iphone-13 --min-context 2048 --write
  knapsack fit my-model --budget 2.5GB

Exit codes: 0 every model fits, 1 some model does not (then --write writes nothing), 2 wrong input.")]
pub struct FitArgs {
    /// Memory that a model may take, such as 2.5GB: besides phones, or in place of them
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub budget: Option<u64>,
    /// Smallest context (or sliding window) that is of use
    #[arg(long, value_name = "N", default_value_t = knapsack_compiler::MIN_CONTEXT, value_parser = clap::value_parser!(u32).range(1..))]
    pub min_context: u32,
    /// Put the sizes into the manifest, without disturbing its comments and layout
    #[arg(long)]
    pub write: bool,
    /// Which models on which phones.
    #[command(flatten)]
    pub on: OnPhonesArgs,
}

/// `knapsack update`.
#[derive(Clone, Debug, Args)]
pub struct UpdateArgs {
    /// The models to update, by model_id; without any: all
    #[arg(value_name = "MODEL_ID")]
    pub models: Vec<String>,
    /// Which manifest.
    #[command(flatten)]
    pub manifest: ManifestArgs,
}

/// `knapsack init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// The manifest to write; an existing file is never overwritten
    #[arg(short, long, value_name = "FILE", default_value = "mlc-package-config.json", value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Device of the new manifest
    #[arg(long, default_value = "iphone", value_parser = device_parser(Device::packaged()))]
    pub device: Device,
    /// Model of the new manifest: HF://org/name, or a folder relative to the manifest
    #[arg(long, value_name = "SOURCE")]
    pub model: Option<String>,
    /// Also write the JSON Schema beside the manifest and name it there, for editors
    #[arg(long)]
    pub schema: bool,
}

/// `knapsack convert`.
#[derive(Clone, Debug, Args)]
pub struct ConvertArgs {
    /// A checkpoint: a folder with config.json and safetensors
    #[arg(value_hint = ValueHint::DirPath)]
    pub checkpoint: PathBuf,
    /// Format of the weights
    #[arg(long, value_name = "FORMAT", value_parser = quantization_parser())]
    pub quantization: String,
    /// Folder for the converted model
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// Chat template: `model` for the checkpoint's own, the name of a conversation template of MLC, such as llama-3, or a file
    #[arg(long, alias = "conv-template", value_name = "model|NAME|FILE", default_value = "model", value_parser = template_choice)]
    pub chat_template: knapsack_weights::TemplateChoice,
    /// Threads; by default all cores
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub jobs: Option<u32>,
}

/// `knapsack compile`.
#[derive(Clone, Debug, Args)]
pub struct CompileArgs {
    /// A folder with a model's configuration (mlc-chat-config.json or config.json); weights are not needed
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// Device to compile for
    #[arg(long, value_parser = device_parser(Device::ALL.iter().copied()))]
    pub device: Device,
    /// Format, when the folder is a checkpoint
    #[arg(long, value_name = "FORMAT", value_parser = quantization_parser())]
    pub quantization: Option<String>,
    /// Sizes to compile with.
    #[command(flatten)]
    pub overrides: OverridesArg,
    /// File for the model library
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
}

/// `knapsack run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to say to the model; `-` reads it from stdin
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Continue the prompt as it is, without a chat template
    #[arg(long, conflicts_with = "system")]
    pub raw: bool,
    /// The form of the answer.
    #[command(flatten)]
    pub form: FormArgs,
    /// Answers to give, each from random numbers of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub answers: u32,
    /// Tell the log probability of each token and of the N likeliest in its place (with --message-format json)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=20))]
    pub logprobs: Option<u8>,
    /// What else the prompt depends on.
    #[command(flatten)]
    pub options: PromptOptionArgs,
    /// What happens when the conversation is longer than the context
    #[arg(long, value_enum, default_value_t, value_name = "POLICY", help_heading = "Prompt")]
    pub context_policy: ContextPolicyArg,
    /// How to choose tokens.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// `knapsack chat`.
#[derive(Clone, Debug, Args)]
pub struct ChatArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// What else the prompt depends on.
    #[command(flatten)]
    pub options: PromptOptionArgs,
    /// What happens when the conversation is longer than the context
    #[arg(long, value_enum, default_value_t, value_name = "POLICY", help_heading = "Prompt")]
    pub context_policy: ContextPolicyArg,
    /// How to choose tokens.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// `knapsack bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Tokens to prefill
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub prefill_tokens: u32,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub decode_tokens: u32,
    /// How often to measure; the median is shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Result as JSON.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `knapsack perplexity`.
#[derive(Clone, Debug, Args)]
pub struct PerplexityArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Positions of each chunk, BOS included; by default 512, or the context where it is smaller
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub positions: Option<u32>,
    /// Result as JSON.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `knapsack logits`.
#[derive(Clone, Debug, Args)]
pub struct LogitsArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Token ids, separated by commas
    #[arg(long, value_name = "1,2,3", value_delimiter = ',', required = true)]
    pub tokens: Vec<u32>,
    /// File for the result: safetensors with one tensor `logits`, f32, [tokens, vocabulary]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
}

/// `knapsack serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// A package (dist/)
    #[arg(value_hint = ValueHint::DirPath)]
    pub path: PathBuf,
    /// Memory that all models may take together, such as 3GB, 2.5GiB or 3000000000; by default most of what is free
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub budget: Option<u64>,
    /// A phone that Knapsack has a profile of: the budget is what it leaves to the models of an app without the increased-memory entitlement that keeps 200 MB for itself
    #[arg(long, value_name = "NAME", conflicts_with = "budget")]
    pub phone: Option<String>,
    /// Address to listen on; others than loopback can be reached by everybody in the network
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8000)]
    pub port: u16,
    /// A name that this server goes by, besides localhost and its address; may be given several times
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// A key that requests must bring (`Authorization: Bearer KEY`); by default what KNAPSACK_API_KEY holds, which other users of this machine cannot read from the list of processes
    #[arg(long, value_name = "KEY")]
    pub api_key: Vec<String>,
    /// How long a client may take to send a request, or to take some of what it is sent
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub client_timeout: u32,
    /// Connections at a time; more wait until one ends
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_connections: u32,
    /// Device to run on
    #[arg(long, value_enum, default_value_t)]
    pub device: RunDevice,
    /// Threads of the CPU device; by default all cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Where the package's models go that are not part of it.
    #[command(flatten)]
    pub downloads: DownloadsArg,
}

/// `knapsack inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// A model library, a weight folder, a checkpoint or a package
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
    List(JsonArg),
    /// Check every entry and download against its hash
    Verify(JsonArg),
    /// Remove every entry, and downloads that were interrupted
    Clean(CacheCleanArgs),
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

/// Devices that the host can run a model on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RunDevice {
    /// The CPU, with its vector instructions.
    #[default]
    Cpu,
    /// The CPU, one number at a time in the order of the definition: slow, for comparing.
    CpuReference,
    /// An OpenCL device.
    Opencl,
    /// Apple's GPU.
    #[cfg(target_vendor = "apple")]
    Metal,
}

impl RunDevice {
    /// What libraries are compiled for whose kernels it runs.
    pub const fn target(self) -> Target {
        match self {
            RunDevice::Cpu | RunDevice::CpuReference => Target::Host,
            RunDevice::Opencl => Target::OpenCl,
            #[cfg(target_vendor = "apple")]
            RunDevice::Metal => Target::Metal,
        }
    }
}

/// Accepts the names of some devices and lists them in the help.
fn device_parser(devices: impl Iterator<Item = Device>) -> impl TypedValueParser<Value = Device> {
    let values = devices.map(|device| PossibleValue::new(device.name).help(device.about));
    PossibleValuesParser::new(values).try_map(|name| Device::named(&name).ok_or("no such device"))
}

/// Accepts the names of the quantization formats and lists them in the help.
fn quantization_parser() -> PossibleValuesParser {
    knapsack_tensor::QUANTIZATIONS.map(|format| format.name).into()
}

fn template_choice(text: &str) -> Result<knapsack_weights::TemplateChoice, String> {
    let choice = knapsack_weights::TemplateChoice::parse(text);
    choice.preset().map_err(|error| error.to_string())?;
    Ok(choice)
}

fn number(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("not a number".to_owned()),
    }
}

/// A number of bytes with an optional decimal or binary unit.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        unit => return Err(format!("unknown unit {unit}, expected B, KB, MB, GB, KiB, MiB or GiB")),
    };
    let value: f64 = digits.trim().parse().map_err(|_| "not a number of bytes".to_owned())?;
    let value = value * factor as f64;
    if (1.0..1e18).contains(&value) { Ok(value as u64) } else { Err("not a number of bytes".to_owned()) }
}

/// As [`bytes`], but nothing is a reserve too.
fn reserve(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { bytes(text) }
}

fn positive(text: &str) -> Result<f32, String> {
    number(text).and_then(|value| if value > 0.0 { Ok(value) } else { Err("must be above 0".to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Puts a verb's arguments into a command, so that clap's own consistency checks see all of them, whether or not the
    /// verb is there already.
    fn verify<A: Args>() {
        A::augment_args(clap::Command::new("verb")).debug_assert();
    }

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
        verify::<PackageArgs>();
        verify::<CheckArgs>();
        verify::<PlanArgs>();
        verify::<MemoryArgs>();
        verify::<FitArgs>();
        verify::<InitArgs>();
        verify::<ConvertArgs>();
        verify::<CompileArgs>();
        verify::<RunArgs>();
        verify::<ChatArgs>();
        verify::<PromptArgs>();
        verify::<BenchArgs>();
        verify::<PerplexityArgs>();
        verify::<LogitsArgs>();
        verify::<ServeArgs>();
        verify::<InspectArgs>();
        verify::<DoctorArgs>();
        verify::<CacheArgs>();
    }
}
