//! The output folder: which one it is, whether Knapsack may change it, and what is in it.

use super::record::{self, Record};
use super::{PackageContents, WeightSupply, WriteOptions};
use crate::digest::sha256;
use crate::error::BundleError;
use crate::files;
use knapsack_artifact::files::rename;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

/// Files that file managers leave everywhere: they do not make a folder someone else's.
const LITTER: [&str; 3] = [".DS_Store", "Thumbs.db", "desktop.ini"];

/// An output folder that Knapsack may write.
pub(super) struct Target {
    /// Absolute, symbolic links resolved.
    pub(super) path: PathBuf,
    pub(super) parent: PathBuf,
    pub(super) name: String,
    /// What an earlier run wrote.
    pub(super) record: Option<Record>,
    /// Everything that is there but folders, by relative path with `/`; `true`: an ordinary file.
    pub(super) tree: BTreeMap<String, bool>,
    /// Held until the run ends.
    _lock: Option<File>,
}

impl Target {
    /// Where the old package waits where names cannot be exchanged in one step.
    pub(super) fn aside(&self) -> PathBuf {
        self.parent.join(format!(".{}.old", self.name))
    }

    /// A new folder of this process beside the package.
    pub(super) fn staging(&self) -> PathBuf {
        self.parent.join(format!(".{}.tmp-{}", self.name, std::process::id()))
    }

    fn is_leftover(&self, name: &str) -> bool {
        name.strip_prefix('.').and_then(|name| name.strip_prefix(&*self.name)).is_some_and(|rest| {
            rest == ".old" || rest.strip_prefix(".tmp-").is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_digit()))
        })
    }

    /// Paths in the folder that Knapsack did not write.
    pub(super) fn foreign(&self) -> Vec<String> {
        let ours = |path: &str| self.record.as_ref().is_some_and(|record| record.lists(path));
        self.tree.keys().filter(|path| !ours(path)).cloned().collect()
    }
}

/// Whether `out` may become a package that is made from the folders `protected`: what can be told before there is anything to
/// write. Nothing is changed.
///
/// # Errors
/// A dangerous folder, or one with somebody else's files.
pub fn check_output(out: &Path, protected: &[PathBuf]) -> Result<(), BundleError> {
    let path = resolve(out)?;
    refuse_dangerous(&path, protected)?;
    if path.exists() { contents(&path).map(drop) } else { Ok(()) }
}

/// What an earlier run wrote there, and what is there.
fn contents(path: &Path) -> Result<(Option<Record>, BTreeMap<String, bool>), BundleError> {
    let record = Record::read(path)?;
    let tree = tree(path).map_err(BundleError::io("read", path))?;
    if record.is_none() {
        let foreign = tree.keys().find(|path| !LITTER.contains(&&***path));
        if let Some(example) = foreign.cloned().or_else(|| first_folder(path)) {
            return Err(BundleError::ForeignOutput { path: path.to_path_buf(), example });
        }
    }
    Ok((record, tree))
}

/// Finds, locks, cleans and reads the folder. Nothing in it is changed, but leftovers beside it are removed.
pub(super) fn prepare(
    package: &PackageContents,
    out: &Path,
    options: &WriteOptions<'_>,
) -> Result<Target, BundleError> {
    let path = resolve(out)?;
    refuse_dangerous(&path, options.protected)?;
    refuse_weights(package, &path)?;
    let dangerous = || BundleError::DangerousOutput { path: path.clone(), reason: "it has no name".into() };
    let parent = path.parent().ok_or_else(dangerous)?.to_path_buf();
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(dangerous)?.to_string();
    let lock = options.locks.map(|locks| lock(locks, &path)).transpose()?;
    let mut target = Target { path, parent, name, record: None, tree: BTreeMap::new(), _lock: lock };
    clear_leftovers(&target)?;
    if !target.path.exists() {
        return Ok(target);
    }
    (target.record, target.tree) = contents(&target.path)?;
    Ok(target)
}

fn first_folder(path: &Path) -> Option<String> {
    let folder = fs::read_dir(path).ok()?.flatten().find(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))?;
    Some(folder.file_name().to_string_lossy().into_owned())
}

/// The absolute path without symbolic links; parts that do not exist yet are kept as they are.
fn resolve(out: &Path) -> Result<PathBuf, BundleError> {
    let absolute = std::path::absolute(out).map_err(BundleError::io("resolve", out))?;
    let refuse = |reason: &str| BundleError::DangerousOutput { path: out.to_path_buf(), reason: reason.into() };
    let mut missing = Vec::new();
    let mut existing = absolute.as_path();
    let mut resolved = loop {
        match fs::canonicalize(existing) {
            Ok(resolved) => break resolved,
            Err(_) if existing.symlink_metadata().is_ok_and(|found| found.is_symlink()) => {
                return Err(refuse("it is a symbolic link that leads nowhere"));
            }
            Err(error) if existing.symlink_metadata().is_ok() => {
                return Err(BundleError::io("resolve", existing)(error));
            }
            Err(error) => {
                let Some(Component::Normal(name)) = existing.components().next_back() else {
                    return Err(refuse("it leads through `..` of a folder that does not exist"));
                };
                missing.push(name.to_os_string());
                existing = existing.parent().ok_or_else(|| BundleError::io("resolve", out)(error))?;
            }
        }
    };
    if !resolved.is_dir() {
        return Err(refuse(if missing.is_empty() { "it is a file" } else { "a part of it is a file" }));
    }
    resolved.extend(missing.into_iter().rev());
    Ok(resolved)
}

/// Folders that nobody means when they say where the package goes.
fn refuse_dangerous(path: &Path, protected: &[PathBuf]) -> Result<(), BundleError> {
    let refuse = |reason: String| Err(BundleError::DangerousOutput { path: path.to_path_buf(), reason });
    if path.parent().is_none() {
        return refuse("it is the root of the file system".into());
    }
    let home = std::env::home_dir().and_then(|home| fs::canonicalize(home).ok());
    if home.is_some_and(|home| home.starts_with(path)) {
        return refuse("it is, or contains, your home folder".into());
    }
    for protected in protected {
        if fs::canonicalize(protected).is_ok_and(|protected| protected.starts_with(path)) {
            return refuse(format!("it is, or contains, `{}`, which the package is made from", protected.display()));
        }
    }
    Ok(())
}

/// A folder that holds what is to be bundled.
fn refuse_weights(package: &PackageContents, path: &Path) -> Result<(), BundleError> {
    for entry in &package.entries {
        if let WeightSupply::Bundled { folder } | WeightSupply::Packed { folder, .. } = &entry.weights
            && fs::canonicalize(folder).is_ok_and(|folder| folder.starts_with(path))
        {
            let reason = format!("it contains the weights of `{}`, which are to be bundled", entry.model_id);
            return Err(BundleError::DangerousOutput { path: path.to_path_buf(), reason });
        }
    }
    Ok(())
}

/// Waits until no other run writes the same folder.
fn lock(locks: &Path, path: &Path) -> Result<File, BundleError> {
    fs::create_dir_all(locks).map_err(BundleError::io("create", locks))?;
    let name = locks.join(format!("{}.lock", sha256(path.as_os_str().as_encoded_bytes())));
    let file = File::options().create(true).append(true).open(&name).map_err(BundleError::io("create", &name))?;
    file.lock().map_err(BundleError::io("lock", &name))?;
    Ok(file)
}

/// Undoes or finishes what an interrupted run left beside the package.
fn clear_leftovers(target: &Target) -> Result<(), BundleError> {
    let Ok(entries) = fs::read_dir(&target.parent) else { return Ok(()) };
    let names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    for name in names.iter().filter(|name| target.is_leftover(name)) {
        let leftover = target.parent.join(name);
        let is_folder = leftover.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        if !is_folder {
            continue;
        }
        // Killed between the two renames of a swap: the old package is the only one.
        if leftover == target.aside() && !target.path.exists() {
            rename(&leftover, &target.path).map_err(BundleError::io("move", &leftover))?;
            continue;
        }
        // Staging writes its record first: a folder without one holds nothing, or half a record.
        let record = Record::read(&leftover).ok().flatten();
        if record.is_none() && tree(&leftover).is_ok_and(|tree| tree.keys().all(|path| path.starts_with(".knapsack/")))
        {
            let _ = files::remove_folder(&leftover);
            continue;
        }
        retire(&leftover, record.as_ref(), &target.path, record.is_some())?;
    }
    Ok(())
}

/// Deletes what `record` lists in `old` and, where `move_foreign`, moves what is not listed to the same place in `package`.
/// What cannot be moved stays where it is.
pub(super) fn retire(
    old: &Path,
    record: Option<&Record>,
    package: &Path,
    move_foreign: bool,
) -> Result<(), BundleError> {
    let listed = |path: &str| record.is_some_and(|record| record.lists(path));
    for (path, _) in tree(old).map_err(BundleError::io("read", old))? {
        let from = old.join(&path);
        if path == record::PATH {
            continue;
        } else if listed(&path) {
            fs::remove_file(&from).map_err(BundleError::io("delete", &from))?;
        } else if move_foreign {
            let to = package.join(&path);
            if to.symlink_metadata().is_err() && to.parent().is_some_and(|parent| fs::create_dir_all(parent).is_ok()) {
                let _ = rename(&from, &to);
            }
        }
    }
    // The record goes last, so that a killed clean-up can go on.
    if record.is_some() {
        let _ = fs::remove_file(old.join(record::PATH));
    }
    remove_empty_folders(old);
    Ok(())
}

fn remove_empty_folders(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty_folders(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

/// Every file and link below `root`; `true`: an ordinary file. Symbolic links are not followed. A name that is not Unicode is
/// an error: such a file could not be carried over to the next package.
fn tree(root: &Path) -> std::io::Result<BTreeMap<String, bool>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(root.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let name = entry.file_name().into_string().map_err(|name| {
                let text = format!("the name of `{}` is not Unicode", folder.join(name).display());
                std::io::Error::new(std::io::ErrorKind::InvalidData, text)
            })?;
            let path = format!("{prefix}{name}");
            if kind.is_dir() {
                folders.push((entry.path(), format!("{path}/")));
            } else {
                found.insert(path, kind.is_file());
            }
        }
    }
    Ok(found)
}
