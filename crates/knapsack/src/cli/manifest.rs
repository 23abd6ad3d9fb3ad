//! The arguments of verbs that read a manifest, or write one.

#![allow(missing_docs, reason = "what is flattened says itself what it is")]

use super::output::JsonArg;
use super::value::{bytes, device_parser, link_mode_parser, reserve};
use clap::{Args, ValueEnum, ValueHint};
use knapsack_artifact::DeviceKind;
use knapsack_bundle::LinkMode;
use knapsack_source::LockPolicy;
use std::path::PathBuf;

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

/// Whose limits are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StoreChoice {
    /// Those of the device's store: a warning, and an error where a model comes in a pack of that store
    #[default]
    Auto,
    /// Google Play's, for an app that goes through it: an error
    Play,
    /// Apple's, for an app that goes through the App Store: an error
    AppStore,
    /// Nobody's: the app gets onto its devices another way
    None,
}

/// Whether limits of stores are checked.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct StoreArgs {
    /// Whose limits of size the package must keep
    #[arg(long, value_enum, default_value_t, value_name = "STORE")]
    pub store: StoreChoice,
}

/// `knapsack package`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  knapsack package
  knapsack package -o build/dist --locked
  knapsack package --sdk sdk-dist              with the runtime that `knapsack sdk build` made
  knapsack package --store play                for an app that goes through Google Play: its limits are errors

For iPhone dist/KnapsackModels is a Swift package, for Android dist/maven is a Maven repository: each is added to an app in one step.")]
pub struct PackageArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Folder for the package; replaced as a whole
    #[arg(short, long, value_name = "DIR", default_value = "dist", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// Only warn when a plan needs more memory than its model declares
    #[arg(long)]
    pub allow_over_budget: bool,
    /// How weights get into the package; hard links share later changes with the source
    #[arg(long, default_value = "reflink", value_name = "MODE", value_parser = link_mode_parser())]
    pub link_mode: LinkMode,
    /// Do not wait until the package is on the disk: for machines whose disks are thrown away, such as CI's
    #[arg(long)]
    pub no_sync: bool,
    /// Where apps get the runtime: a folder of `knapsack sdk build` or of its sources (sdk/swift), or the address of a Swift package's
    /// repository; by default the runtime's version, from wherever the app's build looks
    #[arg(long, value_name = "DIR|URL")]
    pub sdk: Option<String>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub lock: LockArgs,
}

/// `knapsack check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Whose limits are checked.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `knapsack plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Whose limits are checked.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Only warn when a plan needs more memory than its model declares
    #[arg(long)]
    pub allow_over_budget: bool,
    #[command(flatten)]
    pub lock: LockArgs,
}

/// Which models of which manifest, on which phones.
#[derive(Clone, Debug, Args)]
pub struct OnPhonesArgs {
    /// The models, by model_id; without any: all
    #[arg(value_name = "MODEL_ID")]
    pub models: Vec<String>,
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    pub phones: PhoneArgs,
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
    /// Show what phones said too: a folder of reports of `knapsack bench --adb --report`, such as docs/phones
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub measured: Option<PathBuf>,
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
    #[command(flatten)]
    pub on: OnPhonesArgs,
}

/// `knapsack update`.
#[derive(Clone, Debug, Args)]
pub struct UpdateArgs {
    /// The models to update, by model_id; without any: all
    #[arg(value_name = "MODEL_ID")]
    pub models: Vec<String>,
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
    #[arg(long, default_value = "iphone", value_parser = device_parser(DeviceKind::packaged()))]
    pub device: DeviceKind,
    /// Model of the new manifest: HF://org/name, or a folder relative to the manifest
    #[arg(long, value_name = "SOURCE")]
    pub model: Option<String>,
    /// Also write the JSON Schema beside the manifest and name it there, for editors
    #[arg(long)]
    pub schema: bool,
}

/// `knapsack report`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  knapsack report dist
  knapsack report dist -o report.html --phone iphone-13 --reserve 300MB

The page needs nothing else: no network, no script. It follows the system's light or dark mode.")]
pub struct ReportArgs {
    /// A package
    #[arg(default_value = "dist", value_hint = ValueHint::DirPath)]
    pub path: PathBuf,
    /// The page
    #[arg(short, long, value_name = "FILE", default_value = "report.html", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Which phones.
    #[command(flatten)]
    pub phones: PhoneArgs,
}
