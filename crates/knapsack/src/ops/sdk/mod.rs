//! `knapsack sdk build`: the runtime for an app, from Knapsack's sources. Packaging needs none of this: it is for those who
//! change the runtime, or who want no prebuilt one.

mod android;
mod apple;
mod cargo;

use crate::cli::{SdkArgs, SdkBuildArgs, SdkCommand, SdkTarget};
use crate::exit::wrong_input;
use crate::report::Reporter;
use anyhow::{Context, Result, bail};
use knapsack_artifact::files::{rename, sync_folder, sync_tree};
use std::fs;
use std::path::{Path, PathBuf};

/// Rust's names of everything that the runtime is built for.
pub(crate) fn targets() -> impl Iterator<Item = &'static str> {
    let apple = apple::SLICES.iter().flat_map(|slice| slice.targets).map(|(_, target)| *target);
    apple.chain(android::ABIS.iter().map(|abi| abi.target))
}

/// Does what the arguments say.
pub fn run(args: &SdkArgs, reporter: &Reporter) -> Result<()> {
    match &args.command {
        SdkCommand::Build(args) => build(args, reporter),
    }
}

fn build(args: &SdkBuildArgs, reporter: &Reporter) -> Result<()> {
    let known: Vec<&str> = match args.target {
        SdkTarget::Ios => apple::SLICES.iter().map(|slice| slice.name).collect(),
        SdkTarget::Android => android::ABIS.iter().map(|build| build.abi.name).collect(),
    };
    if let Some(unknown) = args.only.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(wrong_input(format!("`{unknown}` is none of {}", known.join(", "))));
    }
    if args.small && args.target != SdkTarget::Android {
        return Err(wrong_input(
            "--small is for --target android: an app's own link takes what it does not use from the runtime for iOS",
        ));
    }
    let sources = Sources::find(args.source.as_deref())?;
    let built = match args.target {
        SdkTarget::Ios => apple::build(&sources, args, reporter)?,
        SdkTarget::Android => android::build(&sources, args, reporter)?,
    };
    if reporter.is_json() {
        return reporter.result("sdk", &serde_json::json!({ "target": args.target.name(), "files": built.files }));
    }
    for file in &built.files {
        reporter.status("Wrote", file.display());
    }
    reporter.aside(&built.next);
    Ok(())
}

/// What a build leaves behind.
struct Built {
    files: Vec<PathBuf>,
    /// What to do with it.
    next: String,
}

/// Knapsack's own sources.
struct Sources(PathBuf);

impl Sources {
    /// In the folder that was named, or in the current folder or one above it.
    fn find(named: Option<&Path>) -> Result<Self> {
        let is_ours = |folder: &Path| folder.join("crates/knapsack-ffi/Cargo.toml").is_file();
        if let Some(folder) = named {
            let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
            return match is_ours(&folder) {
                true => Ok(Self(folder)),
                false => Err(wrong_input(format!("{} does not hold Knapsack's sources", folder.display()))),
            };
        }
        let current = std::env::current_dir().context("there is no current folder")?;
        let found = current.ancestors().find(|folder| is_ours(folder));
        found.map(|folder| Self(folder.to_owned())).ok_or_else(|| {
            wrong_input(
                "Knapsack's sources are not here: run this in a clone of its repository, or name one with --source",
            )
        })
    }

    fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// A text file of ours.
    fn read(&self, path: &str) -> Result<String> {
        let path = self.join(path);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// Collects everything that is missing, so that it can be installed at once.
#[derive(Default)]
struct Missing(Vec<String>);

impl Missing {
    /// What was found, or a note of what to install.
    fn need<T>(&mut self, what: &str, found: Option<T>, advice: &str) -> Option<T> {
        if found.is_none() {
            self.0.push(format!("{what} is missing: {advice}"));
        }
        found
    }

    fn targets<'a>(&mut self, targets: impl Iterator<Item = &'a str>) -> Result<()> {
        let missing = cargo::missing_targets(targets)?;
        if !missing.is_empty() {
            let names = missing.join(" ");
            self.0.push(format!("Rust cannot build for {names}: run `rustup target add {names}`"));
        }
        Ok(())
    }

    fn check(self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            1 => bail!("{}", self.0[0]),
            _ => bail!("several things are missing:\n  {}", self.0.join("\n  ")),
        }
    }
}

/// Replaces `target` by a folder that `fill` has filled: readers see the old one or the new one.
fn replace_folder(target: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = target.parent().context("a folder has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let beside = tempfile::Builder::new().prefix(".tmp-sdk-").tempdir_in(parent)?;
    let (fresh, old) = (beside.path().join("new"), beside.path().join("old"));
    fs::create_dir(&fresh)?;
    fill(&fresh)?;
    sync_tree(&fresh).with_context(|| format!("cannot write {}", fresh.display()))?;
    let shown = || format!("cannot replace {}", target.display());
    if target.exists() {
        rename(target, &old).with_context(shown)?;
    }
    if let Err(error) = rename(&fresh, target) {
        // As it was.
        let _ = rename(&old, target);
        return Err(error).with_context(shown);
    }
    sync_folder(parent).with_context(shown)
}

/// Copies the files below a folder; links become what they point to.
fn copy_tree(from: &Path, to: &Path, skip: &[&str]) -> Result<()> {
    let shown = || format!("cannot copy {}", from.display());
    fs::create_dir_all(to).with_context(shown)?;
    for entry in fs::read_dir(from).with_context(shown)? {
        let entry = entry.with_context(shown)?;
        let name = entry.file_name();
        if skip.iter().any(|skipped| name == **skipped) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        if source.is_dir() {
            copy_tree(&source, &target, skip)?;
        } else {
            fs::copy(&source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_said_at_once() {
        let mut missing = Missing::default();
        assert_eq!(missing.need("a", Some(1), "get a"), Some(1));
        assert_eq!(missing.need::<()>("Java", None, "install a JDK"), None);
        assert_eq!(missing.need::<()>("Kotlin", None, "install it"), None);
        let text = missing.check().unwrap_err().to_string();
        assert!(text.contains("Java is missing: install a JDK\n  Kotlin is missing: install it"), "{text}");
    }

    #[test]
    fn a_folder_is_replaced_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("sdk/Knapsack");
        replace_folder(&target, |folder| Ok(fs::write(folder.join("one"), "1")?)).unwrap();
        let failed = replace_folder(&target, |folder| {
            fs::write(folder.join("two"), "2")?;
            bail!("no")
        });
        assert!(failed.is_err() && target.join("one").is_file());
        replace_folder(&target, |folder| Ok(fs::write(folder.join("two"), "2")?)).unwrap();
        assert!(target.join("two").is_file() && !target.join("one").exists());
        assert_eq!(fs::read_dir(root.path().join("sdk")).unwrap().count(), 1);
    }

    #[test]
    fn trees_are_copied_without_what_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("from/Sources/.build")).unwrap();
        fs::write(root.path().join("from/Sources/a.swift"), "a").unwrap();
        copy_tree(&root.path().join("from"), &root.path().join("to"), &[".build"]).unwrap();
        assert!(root.path().join("to/Sources/a.swift").is_file() && !root.path().join("to/Sources/.build").exists());
    }

    #[test]
    fn sources_are_found_from_anywhere_in_them() {
        let here = Sources::find(None).unwrap();
        assert!(here.join("sdk/swift/Package.swift").is_file());
        assert!(Sources::find(Some(Path::new("/nowhere"))).is_err());
    }
}
