//! The Swift package `Knapsack` with the runtime as an xcframework.

use super::{Built, Missing, Sources, cargo, copy_tree, replace_folder};
use crate::cli::SdkBuildArgs;
use crate::report::Reporter;
use crate::tools::{first_line, in_path};
use anyhow::{Context, Result};
use knapsack_artifact::device::Architecture;
use knapsack_bundle::objects::{FrameworkSlice, universal, xcframework_info};
use std::fs;
use std::path::PathBuf;

/// A slice of the framework.
pub(super) struct Slice {
    /// As `--only` names it.
    pub(super) name: &'static str,
    framework: FrameworkSlice<'static>,
    /// Rust's name of what each of its processors is built for.
    pub(super) targets: &'static [(Architecture, &'static str)],
}

use Architecture::{Arm64, X86_64};

/// Every slice.
pub(super) const SLICES: [Slice; 4] = [
    Slice {
        name: "ios",
        framework: FrameworkSlice { platform: "ios", variant: None, architectures: &[Arm64] },
        targets: &[(Arm64, "aarch64-apple-ios")],
    },
    Slice {
        name: "ios-simulator",
        framework: FrameworkSlice { platform: "ios", variant: Some("simulator"), architectures: &[Arm64, X86_64] },
        targets: &[(Arm64, "aarch64-apple-ios-sim"), (X86_64, "x86_64-apple-ios")],
    },
    Slice {
        name: "macabi",
        framework: FrameworkSlice { platform: "ios", variant: Some("maccatalyst"), architectures: &[Arm64, X86_64] },
        targets: &[(Arm64, "aarch64-apple-ios-macabi"), (X86_64, "x86_64-apple-ios-macabi")],
    },
    Slice {
        name: "macos",
        framework: FrameworkSlice { platform: "macos", variant: None, architectures: &[Arm64, X86_64] },
        targets: &[(Arm64, "aarch64-apple-darwin"), (X86_64, "x86_64-apple-darwin")],
    },
];

/// Oldest systems, as `sdk/swift/Package.swift` says.
const OLDEST: [(&str, &str); 2] = [("IPHONEOS_DEPLOYMENT_TARGET", "15.0"), ("MACOSX_DEPLOYMENT_TARGET", "12.0")];
const LIBRARY: &str = "libknapsack.a";
const MODULE: &str = "module CKnapsack {\n    header \"knapsack.h\"\n    export *\n}\n";

/// Builds the slices that are asked for.
pub(super) fn build(sources: &Sources, args: &SdkBuildArgs, reporter: &Reporter) -> Result<Built> {
    let slices: Vec<&Slice> =
        SLICES.iter().filter(|slice| args.only.is_empty() || args.only.iter().any(|name| name == slice.name)).collect();
    let mut missing = Missing::default();
    if cfg!(target_os = "macos") {
        // A static library needs no linker, but what is compiled to make it does.
        let xcode = in_path("xcode-select").and_then(|path| first_line(&path, &["-p"]));
        missing.need("Xcode", xcode, "install Xcode, then run `xcode-select --install`");
    }
    missing.targets(slices.iter().flat_map(|slice| slice.targets).map(|(_, target)| *target))?;
    missing.check()?;
    let mut archives = Vec::new();
    for slice in &slices {
        let mut thin = Vec::new();
        for &(architecture, target) in slice.targets {
            reporter.status("Building", format_args!("the runtime for {target}"));
            let file = cargo::build(sources, &library(target))?;
            thin.push((architecture, fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?));
        }
        archives.push(universal(thin)?);
    }
    let package = args.output.join("Knapsack");
    let header = sources.read("crates/knapsack-ffi/include/knapsack.h")?;
    let frameworks: Vec<FrameworkSlice<'_>> = slices.iter().map(|slice| slice.framework).collect();
    replace_folder(&package, |folder| {
        copy_tree(&sources.join("sdk/swift"), folder, &[".build", ".swiftpm", "Knapsack.xcframework"])?;
        let framework = folder.join("Knapsack.xcframework");
        fs::create_dir_all(&framework)?;
        fs::write(framework.join("Info.plist"), xcframework_info(LIBRARY, Some("Headers"), &frameworks)?)?;
        for (slice, archive) in frameworks.iter().zip(&archives) {
            let folder = framework.join(slice.identifier());
            fs::create_dir_all(folder.join("Headers"))?;
            fs::write(folder.join(LIBRARY), archive)?;
            fs::write(folder.join("Headers/knapsack.h"), &header)?;
            fs::write(folder.join("Headers/module.modulemap"), MODULE)?;
        }
        Ok(())
    })?;
    let next = format!("In Xcode: File > Add Package Dependencies > Add Local > {}", package.display());
    Ok(Built { files: vec![package], next })
}

fn library(target: &str) -> cargo::Build<'_> {
    let environment = OLDEST.map(|(name, version)| (name.to_owned(), PathBuf::from(version))).to_vec();
    cargo::Build {
        product: cargo::Product::Runtime,
        target,
        features: &[],
        environment,
        rustc: &[],
        size: cargo::Size::Usual,
    }
}
