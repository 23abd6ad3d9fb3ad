//! Rust's side of a build: which targets there are, and what cargo makes of `knapsack-ffi`.

use super::Sources;
use crate::tools::in_path;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Size before speed where speed does not matter; see `Cargo.toml`.
const PROFILE: &str = "mobile";

/// Only what a panic can pass through is in the tables that stacks are unwound by, instead of every function.
const UNWIND: &str = "-Cforce-unwind-tables=no";
/// Unstable options for size: panics without their places in the source, `{:?}` of derived types without their fields.
const SMALL: [&str; 2] = ["-Zlocation-detail=none", "-Zfmt-debug=shallow"];
/// Unstable settings of cargo that build the standard library, without names of functions for stack traces.
const STANDARD_LIBRARY: [(&str, &str); 3] = [
    ("RUSTC_BOOTSTRAP", "1"),
    ("CARGO_UNSTABLE_BUILD_STD", "std,panic_unwind"),
    ("CARGO_UNSTABLE_BUILD_STD_FEATURES", "panic-unwind,optimize_for_size"),
];

/// The source of the standard library, of the compiler that is used.
pub(super) fn standard_library() -> Option<PathBuf> {
    let out = Command::new(in_path("rustc")?).args(["--print", "sysroot"]).output().ok()?;
    let source = Path::new(String::from_utf8_lossy(&out.stdout).trim()).join("lib/rustlib/src/rust/library");
    source.is_dir().then_some(source)
}

/// Those of the targets that have no standard library here. Where cargo is told to build it, none is missing.
pub(super) fn missing_targets<'a>(targets: impl Iterator<Item = &'a str>) -> Result<Vec<&'a str>> {
    if std::env::var_os("CARGO_UNSTABLE_BUILD_STD").is_some() {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    for target in targets {
        let mut rustc =
            Command::new(in_path("rustc").context("rustc is missing: install Rust from https://rustup.rs")?);
        let out =
            rustc.args(["--print", "target-libdir", "--target", target]).output().context("cannot start rustc")?;
        let folder = String::from_utf8_lossy(&out.stdout);
        if !out.status.success() || !Path::new(folder.trim()).is_dir() {
            missing.push(target);
        }
    }
    Ok(missing)
}

/// What cargo makes of a crate of ours.
#[derive(Clone, Copy)]
pub(super) enum Product {
    /// The runtime as a static library.
    Runtime,
    /// The program that measures on a phone.
    Runner,
}

impl Product {
    /// Package and target, as cargo's arguments.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Product::Runtime => &["--package", "knapsack-ffi", "--lib", "--crate-type", "staticlib"],
            Product::Runner => &["--package", "knapsack-runner", "--bin", "knapsack-runner"],
        }
    }

    /// The file in cargo's message about it, if it is one.
    fn file(self, line: &str) -> Option<PathBuf> {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let ours = |name: &str| message["reason"] == "compiler-artifact" && message["target"]["name"] == name;
        match self {
            Product::Runtime => {
                let mut files = message["filenames"].as_array().filter(|_| ours("knapsack"))?.iter();
                files.find_map(|file| file.as_str().filter(|file| file.ends_with(".a"))).map(Into::into)
            }
            Product::Runner => message["executable"].as_str().filter(|_| ours("knapsack-runner")).map(Into::into),
        }
    }
}

/// What is built, and for what.
pub(super) struct Build<'a> {
    pub(super) product: Product,
    pub(super) target: &'a str,
    pub(super) features: &'a [&'a str],
    /// Environment of cargo.
    pub(super) environment: Vec<(String, PathBuf)>,
    /// For rustc, where the code of all crates is made.
    pub(super) rustc: &'a [&'a str],
    /// How much is done for size.
    pub(super) size: Size,
}

/// What is done for size beyond the profile.
#[derive(Clone, Copy)]
pub(super) enum Size {
    /// Nothing.
    Usual,
    /// What the stable compiler can.
    Small,
    /// All that it can, the standard library with it.
    Smallest,
}

/// Builds it; returns its file.
pub(super) fn build(sources: &Sources, build: &Build<'_>) -> Result<PathBuf> {
    let mut cargo = Command::new(in_path("cargo").context("cargo is missing: install Rust from https://rustup.rs")?);
    cargo.args(["rustc", "--locked", "--profile", PROFILE, "--target", build.target]).args(build.product.arguments());
    cargo.args(["--message-format", "json-render-diagnostics"]);
    if !build.features.is_empty() {
        cargo.arg("--features").arg(build.features.join(","));
    }
    cargo.arg("--").args(build.rustc);
    cargo.envs(build.environment.iter().map(|(name, value)| (name, value)));
    // What the build of this program was told is not meant for that one.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    match build.size {
        Size::Usual => {}
        Size::Small => drop(cargo.env("RUSTFLAGS", UNWIND)),
        Size::Smallest => {
            cargo.env("RUSTFLAGS", [&[UNWIND][..], &SMALL].concat().join(" ")).envs(STANDARD_LIBRARY);
        }
    }
    cargo.current_dir(&sources.0).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot start cargo")?;
    let mut file = None;
    for line in BufReader::new(child.stdout.take().context("cargo has no output")?).lines() {
        file = build.product.file(&line?).or(file);
    }
    if !child.wait()?.success() {
        bail!("cargo could not build the runtime for {}; its messages are above", build.target);
    }
    file.context("cargo made no such file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_message_names_the_file() {
        let message = |name: &str, file: &str, program: Option<&str>| {
            let target = serde_json::json!({ "name": name });
            let message = serde_json::json!({
                "reason": "compiler-artifact", "target": target, "filenames": [file], "executable": program,
            });
            message.to_string()
        };
        let (runtime, runner) = (|line: &str| Product::Runtime.file(line), |line: &str| Product::Runner.file(line));
        assert_eq!(runtime(&message("knapsack", "/t/libknapsack.a", None)), Some("/t/libknapsack.a".into()));
        assert_eq!(runtime(&message("knapsack", "/t/libknapsack.rlib", None)), None);
        assert_eq!(runtime(&message("serde", "/t/libserde.a", None)), None);
        assert_eq!(runtime("not JSON"), None);
        let built = message("knapsack-runner", "/t/knapsack-runner", Some("/t/knapsack-runner"));
        assert_eq!((runner(&built), runtime(&built)), (Some("/t/knapsack-runner".into()), None));
        assert_eq!(runner(&message("build-script-build", "/t/b", Some("/t/b"))), None);
    }

    #[test]
    fn a_target_that_nobody_has_is_missing() {
        let missing = missing_targets(["no-such-target"].into_iter()).unwrap();
        assert_eq!(missing, ["no-such-target"]);
    }
}
