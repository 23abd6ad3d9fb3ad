//! Metal kernels compiled ahead by Apple's own compiler, on a machine that has it (a Mac with Xcode). Elsewhere the library's
//! source is compiled on the phone, at load.

use super::{FP16_SWITCH, SUBGROUPS_SWITCH, TILES_SWITCH};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::device::AppleSlice;
use knapsack_artifact::library::{Metallib, Tiles};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Oldest system that packages run on.
const DEPLOYMENT_TARGET: &str = "15.0";

/// The target triple of a slice's kernels.
fn triple(slice: &AppleSlice) -> String {
    let environment = slice.environment.map(|environment| format!("-{environment}")).unwrap_or_default();
    format!("air64-apple-ios{DEPLOYMENT_TARGET}{environment}")
}

/// Why kernels were not compiled ahead.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum MetallibError {
    /// `xcrun` or a file failed to open, start, read or write.
    #[error("cannot use {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// Apple's compiler refused the kernels.
    #[error("`{command}` failed:\n{log}")]
    Compiler { command: String, log: String },
    /// It succeeded and wrote something else than a Metal library.
    #[error("`{command}` wrote no Metal library")]
    NoLibrary { command: String },
    /// The library holds no Metal kernels.
    #[error("the model library holds no Metal kernels")]
    NoKernels,
}

/// Apple's Metal compiler behind `xcrun`.
#[derive(Clone, Debug)]
pub struct MetalToolchain {
    xcrun: PathBuf,
}

impl MetalToolchain {
    /// The toolchain of this machine: an `xcrun` on `path` (the value of `PATH`) that finds a Metal compiler.
    pub fn find(path: Option<&std::ffi::OsStr>) -> Option<Self> {
        let folders = path.map(std::env::split_paths).into_iter().flatten();
        let xcrun = folders.map(|folder| folder.join("xcrun")).find(|file| file.is_file())?;
        // Command line tools without Xcode have an `xcrun` but no `metal`.
        let found = Command::new(&xcrun).args(["-sdk", "iphoneos", "-find", "metal"]).output().ok()?;
        found.status.success().then_some(MetalToolchain { xcrun })
    }

    /// What it says of its version: part of what a compiled library depends on.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn version(&self) -> Result<String, MetallibError> {
        let arguments = ["-sdk", "iphoneos", "metal", "--version"];
        let ran = Command::new(&self.xcrun).args(arguments).output().map_err(io(&self.xcrun))?;
        Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
    }

    /// Arguments of `xcrun` that compile `source` with these tiles into `output`.
    pub fn arguments(slice: &AppleSlice, tiles: Tiles, source: &Path, output: &Path) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["-sdk", slice.sdk, "metal", "-target"].into_iter().map(OsString::from).collect();
        arguments.push(triple(slice).into());
        arguments.extend(["-O2".into(), format!("-D{FP16_SWITCH}=1").into(), format!("-D{SUBGROUPS_SWITCH}=1").into()]);
        arguments.push(format!("-D{TILES_SWITCH}={}", tiles.switch()).into());
        arguments.extend([source.into(), "-o".into(), output.into()]);
        arguments
    }

    /// Compiles the library's kernels for `slices`, in this order, into it. `folder` is for intermediate files.
    ///
    /// # Errors
    /// When the library has no Metal kernels, or a command or file fails. The library is unchanged then.
    pub fn precompile(
        &self,
        library: &mut ModelLibrary,
        slices: &[AppleSlice],
        folder: &Path,
    ) -> Result<(), MetallibError> {
        let Some(module) = &mut library.kernels else { return Err(MetallibError::NoKernels) };
        if library.target != knapsack_artifact::library::Target::Metal {
            return Err(MetallibError::NoKernels);
        }
        let source = folder.join("kernels.metal");
        std::fs::write(&source, &module.source).map_err(io(&source))?;
        // For GPUs that multiply matrices, and for those before them.
        let forms = slices.iter().flat_map(|slice| [Tiles::Matrices, Tiles::Local].map(|tiles| (slice, tiles)));
        let compiled = forms.map(|(slice, tiles)| self.compile(slice, tiles, &source, folder));
        module.metallibs = compiled.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn compile(
        &self,
        slice: &AppleSlice,
        tiles: Tiles,
        source: &Path,
        folder: &Path,
    ) -> Result<Metallib, MetallibError> {
        let output = folder.join(format!("kernels-{}-{}.metallib", slice.name, tiles.switch()));
        let arguments = Self::arguments(slice, tiles, source, &output);
        let words = arguments.iter().map(|word| word.to_string_lossy());
        let command = format!("xcrun {}", words.collect::<Vec<_>>().join(" "));
        let ran = Command::new(&self.xcrun).args(&arguments).output().map_err(io(&self.xcrun))?;
        if !ran.status.success() {
            return Err(MetallibError::Compiler { command, log: String::from_utf8_lossy(&ran.stderr).into_owned() });
        }
        let data = std::fs::read(&output).map_err(io(&output))?;
        if !data.starts_with(b"MTLB") {
            return Err(MetallibError::NoLibrary { command });
        }
        Ok(Metallib { platform: slice.name.to_owned(), tiles, data })
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> MetallibError + '_ {
    move |source| MetallibError::Io { path: path.to_owned(), source }
}
