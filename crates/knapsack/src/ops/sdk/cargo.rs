//! Rust's side of a build: which targets there are, and what cargo makes of `knapsack-ffi`.

use super::Sources;
use crate::tools::in_path;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Size before speed where speed does not matter; see `Cargo.toml`.
const PROFILE: &str = "mobile";

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

/// One static library.
pub(super) struct Library<'a> {
    pub(super) target: &'a str,
    pub(super) features: &'a [&'a str],
    /// Environment of cargo.
    pub(super) environment: Vec<(String, PathBuf)>,
    /// For rustc, where the code of all crates is made.
    pub(super) rustc: &'a [&'a str],
}

/// Builds it as an archive; returns its file.
pub(super) fn build(sources: &Sources, library: &Library<'_>) -> Result<PathBuf> {
    let mut cargo = Command::new(in_path("cargo").context("cargo is missing: install Rust from https://rustup.rs")?);
    cargo.args(["rustc", "--locked", "--profile", PROFILE, "--package", "knapsack-ffi", "--lib"]);
    cargo.args(["--target", library.target, "--crate-type", "staticlib"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    if !library.features.is_empty() {
        cargo.arg("--features").arg(library.features.join(","));
    }
    cargo.arg("--").args(library.rustc);
    cargo.envs(library.environment.iter().map(|(name, value)| (name, value)));
    // What the build of this program was told is not meant for that one.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.current_dir(&sources.0).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot start cargo")?;
    let mut file = None;
    for line in BufReader::new(child.stdout.take().context("cargo has no output")?).lines() {
        file = artifact(&line?).or(file);
    }
    if !child.wait()?.success() {
        bail!("cargo could not build the runtime for {}; its messages are above", library.target);
    }
    file.context("cargo made no library")
}

/// The file in cargo's message about our library, if it is one.
fn artifact(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let ours = message["reason"] == "compiler-artifact" && message["target"]["name"] == "knapsack";
    let files = message["filenames"].as_array().filter(|_| ours)?;
    files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".a")).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_message_names_the_file() {
        let message = |name: &str, file: &str| {
            let target = serde_json::json!({ "name": name });
            serde_json::json!({ "reason": "compiler-artifact", "target": target, "filenames": [file] }).to_string()
        };
        assert_eq!(artifact(&message("knapsack", "/t/libknapsack.a")), Some("/t/libknapsack.a".into()));
        assert_eq!(artifact(&message("knapsack", "/t/libknapsack.rlib")), None);
        assert_eq!(artifact(&message("serde", "/t/libserde.a")), None);
        assert_eq!(artifact("not JSON"), None);
    }

    #[test]
    fn a_target_that_nobody_has_is_missing() {
        let missing = missing_targets(["no-such-target"].into_iter()).unwrap();
        assert_eq!(missing, ["no-such-target"]);
    }
}
