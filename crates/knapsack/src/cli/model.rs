//! The arguments of verbs that convert, compile or run a model.

#![allow(missing_docs, reason = "what is flattened says itself what it is")]

use super::output::JsonArg;
use super::prompt::{ContextPolicyArg, PromptOptionArgs};
use super::sampling::{FormArgs, SamplingArgs};
use super::value::{bytes, device_parser, executor_parser, quantization_parser, template_choice};
use clap::{Args, ValueHint};
use knapsack_artifact::DeviceKind;
use knapsack_config::Overrides;
use knapsack_device::Executor;
use std::path::PathBuf;

/// Which device to run on.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// Device to run on
    #[arg(long, default_value = Executor::CPU.name, value_parser = executor_parser())]
    pub device: Executor,
    /// Threads of the CPU device; by default all cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
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
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Format for converting a checkpoint
    #[arg(long, value_name = "FORMAT", value_parser = quantization_parser())]
    pub quantization: Option<String>,
    #[command(flatten)]
    pub overrides: OverridesArg,
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
    #[arg(long, value_parser = device_parser(DeviceKind::ALL.iter().copied()))]
    pub device: DeviceKind,
    /// Format, when the folder is a checkpoint
    #[arg(long, value_name = "FORMAT", value_parser = quantization_parser())]
    pub quantization: Option<String>,
    #[command(flatten)]
    pub overrides: OverridesArg,
    /// File for the model library
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
}

/// `knapsack run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
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
    #[command(flatten)]
    pub form: FormArgs,
    /// Answers to give, each from random numbers of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub answers: u32,
    /// Tell the log probability of each token and of the N likeliest in its place (with --message-format json)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=20))]
    pub logprobs: Option<u8>,
    #[command(flatten)]
    pub options: PromptOptionArgs,
    /// What happens when the conversation is longer than the context
    #[arg(long, value_enum, default_value_t, value_name = "POLICY", help_heading = "Prompt")]
    pub context_policy: ContextPolicyArg,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// `knapsack chat`.
#[derive(Clone, Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub options: PromptOptionArgs,
    /// What happens when the conversation is longer than the context
    #[arg(long, value_enum, default_value_t, value_name = "POLICY", help_heading = "Prompt")]
    pub context_policy: ContextPolicyArg,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// `knapsack prompt`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  knapsack prompt dist --prompt 'What is 37 plus 48?'
  knapsack prompt path/to/checkpoint --system 'Be brief.' --prompt Hello --json
  knapsack prompt dist --model my-model --messages conversation.json --tools tools.json
  knapsack prompt dist --prompt Hello --template-variable enable_thinking=false")]
pub struct PromptArgs {
    /// A package (dist/), a weight folder, a checkpoint, or a folder with a tokenizer
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// The model of a package; needed when it has several
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// What the user says; `-` reads it from stdin
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// A conversation: a JSON list of messages as in the OpenAI protocol
    #[arg(long, value_name = "FILE", conflicts_with = "prompt", value_hint = ValueHint::FilePath)]
    pub messages: Option<PathBuf>,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    pub options: PromptOptionArgs,
    #[command(flatten)]
    pub downloads: DownloadsArg,
}

/// A phone on a cable.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Phone on a cable")]
pub struct AdbArgs {
    /// Run on an Android phone that is connected by a cable: the only one, or that of a serial number
    #[arg(long, value_name = "SERIAL", num_args = 0..=1, default_missing_value = "")]
    pub adb: Option<String>,
    /// The program to run there; by default `knapsack-android-arm64` beside this one or in sdk-dist (from `knapsack sdk build --target android`)
    #[arg(long, value_name = "FILE", requires = "adb", value_hint = ValueHint::FilePath)]
    pub runner: Option<PathBuf>,
}

/// `knapsack bench`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  knapsack bench dist
  knapsack bench dist --device opencl --json
  knapsack bench dist --adb                     a package for Android, on the phone that is connected
  knapsack bench dist --adb SERIAL --report docs/phones/pixel-9.json

With --adb the package, and the runner for Android, go to /data/local/tmp/knapsack on the phone: only what changed. The CPU and the GPU are measured
there, and their logits held against this machine's.")]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Tokens to prefill
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub prefill_tokens: u32,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub decode_tokens: u32,
    /// Measure in a conversation of N tokens: they are prefilled, and what is written comes after them
    #[arg(long, value_name = "N", conflicts_with = "prefill_tokens", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// How often to measure; the median is shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    #[command(flatten)]
    pub phone: AdbArgs,
    /// Keep what a phone said as a file
    #[arg(long, value_name = "FILE", requires = "adb", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub json: JsonArg,
}

/// `knapsack perplexity`.
#[derive(Clone, Debug, Args)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Positions of each chunk, BOS included; by default 512, or the context where it is smaller
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub positions: Option<u32>,
    #[command(flatten)]
    pub json: JsonArg,
}

/// `knapsack logits`.
#[derive(Clone, Debug, Args)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Token ids, separated by commas
    #[arg(long, value_name = "1,2,3", value_delimiter = ',', required = true)]
    pub tokens: Vec<u32>,
    /// A phone on a cable.
    #[command(flatten)]
    pub phone: AdbArgs,
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
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub downloads: DownloadsArg,
}
