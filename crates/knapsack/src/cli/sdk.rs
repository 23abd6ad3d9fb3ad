//! Arguments of `knapsack sdk`.

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

/// `knapsack sdk`.
#[derive(Clone, Debug, Args)]
pub struct SdkArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SdkCommand,
}

/// What can be done with the runtime.
#[derive(Clone, Debug, Subcommand)]
pub enum SdkCommand {
    /// Build the runtime: a Swift package with an xcframework, or an AAR in a Maven repository
    #[command(after_help = BUILD)]
    Build(SdkBuildArgs),
}

const BUILD: &str = "\
It looks for everything that it needs before it begins, and says what to install: Rust's targets (rustup), and for Android
the NDK, a JDK, Kotlin's compiler and an Android platform.

Examples:
  knapsack sdk build --target ios                              sdk-dist/Knapsack, for Xcode's Add Local Package
  knapsack sdk build --target ios --only ios,ios-simulator
  knapsack sdk build --target android -o out                   out/maven, for Gradle's maven { url = … }
  knapsack sdk build --target android --only arm64-v8a
  knapsack sdk build --target android --small                  as releases are built

For Android there is knapsack-android-arm64 beside it, which `knapsack bench --adb` and `knapsack logits --adb` run on a phone.

--small uses unstable options of rustc 1.95, and a bug that ends in an error tells no place in the source.";

/// Where a result goes by default, and where what it has is looked for.
pub(crate) const SDK_FOLDER: &str = "sdk-dist";

/// `knapsack sdk build`.
#[derive(Clone, Debug, Args)]
pub struct SdkBuildArgs {
    /// What to build for
    #[arg(long, value_enum)]
    pub target: SdkTarget,
    /// Only these slices (ios, ios-simulator, macabi, macos) or ABIs (arm64-v8a, x86_64)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub only: Vec<String>,
    /// For Android: the smallest library, with the standard library built for it; needs `rustup component add rust-src`
    #[arg(long)]
    pub small: bool,
    /// A clone of Knapsack's repository; by default the current folder or one above it
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub source: Option<PathBuf>,
    /// Folder for the result
    #[arg(short, long, value_name = "FOLDER", default_value = SDK_FOLDER, value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
}

/// What a runtime is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SdkTarget {
    /// iPhone, iPad, their simulator and the Mac
    Ios,
    /// Android phones and the emulator
    Android,
}

impl SdkTarget {
    /// As the command line writes it.
    pub const fn name(self) -> &'static str {
        match self {
            SdkTarget::Ios => "ios",
            SdkTarget::Android => "android",
        }
    }
}
