//! Which files stay, and writing the others: all beside the old package, then one swap.

use super::guard::{self, Target};
use super::hashing;
use super::output::{Content, Output};
use super::{BundleStep, FileReport, PackageChanges, PackageContents, WriteOptions, WriteReason, record};
use crate::archive;
use crate::digest::{Digests, Stamp, Wanted};
use crate::error::BundleError;
use crate::files::{self, LinkMode, Swapped};
use crate::objects::{self, Library};
use crate::threads::{cores, each};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What is to be done, as the report will tell it.
pub(super) struct Decision {
    pub(super) report: PackageChanges,
    /// Paths of the outputs that are already right, the record among them.
    kept: HashSet<String>,
    outputs: usize,
}

impl Decision {
    /// Nothing is to be done.
    pub(super) fn is_fresh(&self) -> bool {
        self.kept.len() == self.outputs && self.report.is_fresh()
    }
}

/// Compares what should be with what is there. Nothing is changed.
pub(super) fn decide(outputs: &[Output], target: &Target, options: &WriteOptions<'_>) -> Result<Decision, BundleError> {
    let mut report = PackageChanges { foreign: target.foreign(), ..PackageChanges::default() };
    let mut kept = HashSet::new();
    let twins = twins(outputs);
    for output in outputs {
        in_the_way(output, target)?;
        let reason = why(output, twins.get(&*output.path).copied(), target, options)?;
        if reason.is_none() {
            kept.insert(output.path.clone());
        }
        if output.path != record::PATH {
            let list = if reason.is_none() { &mut report.kept } else { &mut report.written };
            let shared = output.same_as.is_some() && options.link_mode != LinkMode::Copy;
            list.push(FileReport { path: output.path.clone(), bytes: output.size, reason, shared });
        }
    }
    let wanted: HashSet<&str> = outputs.iter().map(|output| &*output.path).collect();
    for (path, file) in target.record.iter().flat_map(|record| &record.files) {
        if !wanted.contains(&**path) {
            report.removed.push(FileReport { path: path.clone(), bytes: file.size, reason: None, shared: false });
        }
    }
    for list in [&mut report.written, &mut report.kept] {
        list.sort_by(|a, b| a.path.cmp(&b.path));
    }
    Ok(Decision { report, kept, outputs: outputs.len() })
}

/// Of each path the other one whose file may be the same.
fn twins(outputs: &[Output]) -> HashMap<&str, &str> {
    let pairs = outputs.iter().filter_map(|output| Some((output.same_as.as_deref()?, &*output.path)));
    pairs.flat_map(|(first, second)| [(first, second), (second, first)]).collect()
}

/// A foreign file where an output goes, or where one of its folders goes.
fn in_the_way(output: &Output, target: &Target) -> Result<(), BundleError> {
    let ours = |path: &str| target.record.as_ref().is_some_and(|record| record.lists(path));
    let ends = output.path.match_indices('/').map(|(at, _)| at).chain([output.path.len()]);
    for path in ends.map(|end| &output.path[..end]) {
        if target.tree.contains_key(path) && !ours(path) {
            return Err(BundleError::InTheWay { path: target.path.join(path) });
        }
    }
    let below = format!("{}/", output.path);
    let inside = target.tree.range(below.clone()..).next().filter(|(path, _)| path.starts_with(&below) && !ours(path));
    inside.map_or(Ok(()), |(path, _)| Err(BundleError::InTheWay { path: target.path.join(path) }))
}

/// Why an output must be written; `None`: what is there is right.
fn why(
    output: &Output,
    twin: Option<&str>,
    target: &Target,
    options: &WriteOptions<'_>,
) -> Result<Option<WriteReason>, BundleError> {
    let path = target.path.join(&output.path);
    if output.path == record::PATH {
        // Read in full already; anything but the same bytes is out of date.
        let same = fs::read(&path).is_ok_and(|bytes| matches!(&output.content, Content::Bytes(new) if **new == *bytes));
        return Ok((!same).then_some(WriteReason::InputsChanged));
    }
    let Some(recorded) = target.record.as_ref().and_then(|record| record.files.get(&output.path)) else {
        return Ok(Some(WriteReason::New));
    };
    if recorded.sha256 != output.sha256 {
        return Ok(Some(WriteReason::InputsChanged));
    }
    if target.tree.get(&output.path) != Some(&true) {
        return Ok(Some(WriteReason::Modified));
    }
    let metadata = fs::metadata(&path).map_err(BundleError::io("read", &path))?;
    if metadata.len() != output.size {
        return Ok(Some(WriteReason::Modified));
    }
    let hashed = options.digests.of(&path, Wanted::PACKAGE).map_err(BundleError::io("read", &path))?;
    if hashed.sha256() != output.sha256 {
        return Ok(Some(WriteReason::Modified));
    }
    let twin = twin.filter(|_| options.link_mode != LinkMode::Copy).map(|path| target.path.join(path));
    let linked = files::is_linked(&metadata, twin.as_deref());
    let wrong_link = match (&output.content, options.link_mode) {
        (Content::Copy(source, ..), LinkMode::Hardlink) => !linked && files::is_same_device(source, &metadata),
        _ => linked,
    };
    Ok(wrong_link.then_some(WriteReason::LinkMode))
}

/// Writes the package beside the old one, reads it back, swaps the two and removes what Knapsack wrote into the old one.
pub(super) fn write(
    package: &PackageContents,
    outputs: &[Output],
    target: &Target,
    decision: Decision,
    options: &WriteOptions<'_>,
) -> Result<PackageChanges, BundleError> {
    fs::create_dir_all(&target.parent).map_err(BundleError::io("create", &target.parent))?;
    let staging = target.staging();
    fs::create_dir(&staging).map_err(BundleError::io("create", &staging))?;
    let fill =
        |written: &(dyn Fn(PathBuf) + Sync)| fill(package, outputs, target, &decision, options, &staging, written);
    let filled = match options.sync {
        true => {
            let failed = |path: &Path, error| BundleError::io("write", path)(error);
            files::syncing(&failed, fill).and_then(|archives| sync_folders(outputs, &staging).map(|()| archives))
        }
        false => fill(&drop),
    };
    let written = filled.and_then(|archives| {
        let swapped = files::swap(&staging, &target.path, &target.aside());
        Ok((archives, swapped.map_err(BundleError::io("replace", &target.path))?))
    });
    let archives = match written {
        Ok((archives, swapped)) => {
            if matches!(swapped, Swapped::Exchanged) {
                guard::retire(&staging, target.record.as_ref(), &target.path, true)?;
            }
            archives
        }
        Err(error) => {
            // All of it is ours: files written by this run and second names of files of the old package.
            let _ = files::remove_folder(&staging);
            return Err(error);
        }
    };
    if options.sync {
        files::sync_folder(&target.parent).map_err(BundleError::io("write", &target.parent))?;
    }
    for output in outputs.iter().filter(|output| output.path != record::PATH) {
        let sha256 = archives.get(&*output.path).unwrap_or(&output.sha256).clone();
        let digests = Digests { sha256: Some(sha256), ..Digests::default() };
        options.digests.remember(&target.path.join(&output.path), digests);
    }
    options.digests.save();
    Ok(decision.report)
}

/// Waits until the names of everything are on the disk.
fn sync_folders(outputs: &[Output], staging: &Path) -> Result<(), BundleError> {
    let mut folders = BTreeSet::from([staging.to_path_buf()]);
    for output in outputs {
        let path = staging.join(&output.path);
        let parents = path.ancestors().skip(1).take_while(|parent| *parent != staging);
        folders.extend(parents.map(Path::to_path_buf));
    }
    // The deepest first: a name is worth something when what it names is there.
    for folder in folders.iter().rev() {
        files::sync_folder(folder).map_err(BundleError::io("write", folder))?;
    }
    Ok(())
}

/// The hashes of archives that were written, by their path.
type Archives = HashMap<String, String>;

/// Writes everything, and tells of each file that is on no disk yet.
fn fill(
    package: &PackageContents,
    outputs: &[Output],
    target: &Target,
    decision: &Decision,
    options: &WriteOptions<'_>,
    staging: &Path,
    written: &(dyn Fn(PathBuf) + Sync),
) -> Result<Archives, BundleError> {
    let archives = Mutex::new(Archives::new());
    let libraries: Vec<Library> = package.entries.iter().map(|entry| entry.library.clone()).collect();
    let make = |output: &Output| -> Result<(), BundleError> {
        let path = staging.join(&output.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(BundleError::io("create", parent))?;
        }
        if decision.kept.contains(&output.path) {
            return keep(&target.path.join(&output.path), &path, output, options);
        }
        options.report(BundleStep::Writing { path: &output.path, bytes: output.size })?;
        match another(output, options) {
            Some(first) => files::share(&staging.join(first), &path).map_err(BundleError::io("write", &path))?,
            None => {
                if let Some(sha256) = write_one(output, &path, &libraries, options)? {
                    archives.lock().unwrap_or_else(PoisonError::into_inner).insert(output.path.clone(), sha256);
                }
            }
        }
        written(path);
        Ok(())
    };
    // The record, which is last in the list, is written first: it makes the folder ours from the start.
    let Some((record, others)) = outputs.split_last() else { return Ok(Archives::new()) };
    make(record)?;
    // Archives take the longest. Other names of a file come when it is there.
    let (again, mut first): (Vec<_>, Vec<_>) = others.iter().partition(|output| another(output, options).is_some());
    first.sort_by_key(|output| !matches!(output.content, Content::Zip(_)));
    each(cores(), &first, |output| make(output))?;
    again.into_iter().try_for_each(make)?;
    let archives = archives.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !archives.is_empty() {
        // Now it can say what they are.
        let path = staging.join(record::PATH);
        let text = record::Record::new(outputs, &archives).encode();
        fs::write(&path, text).map_err(BundleError::io("write", &path))?;
        written(path);
    }
    Ok(archives)
}

/// The output before this one whose file this one may be another name of.
fn another<'a>(output: &'a Output, options: &WriteOptions<'_>) -> Option<&'a str> {
    output.same_as.as_deref().filter(|_| options.link_mode != LinkMode::Copy)
}

/// A second name for a file of the old package, until the old one goes.
fn keep(old: &Path, new: &Path, output: &Output, options: &WriteOptions<'_>) -> Result<(), BundleError> {
    if fs::hard_link(old, new).is_ok() {
        return Ok(());
    }
    match (&output.content, options.link_mode) {
        (Content::Copy(source, ..), LinkMode::Hardlink) => files::place(source, new, LinkMode::Hardlink),
        _ => files::place(old, new, LinkMode::Reflink),
    }
    .map_err(BundleError::io("copy", old))
}

/// Writes a file; gives the hash of an archive.
fn write_one(
    output: &Output,
    path: &Path,
    libraries: &[Library],
    options: &WriteOptions<'_>,
) -> Result<Option<String>, BundleError> {
    match &output.content {
        Content::Bytes(bytes) => fs::write(path, bytes).map_err(BundleError::io("write", path))?,
        Content::Libraries(bytes, slices) => {
            fs::write(path, bytes).map_err(BundleError::io("write", path))?;
            read_back(path, libraries, *slices)?;
        }
        Content::Zip(members) => {
            let sum = hashing::write(path, |out| archive::write(members, out));
            return sum.map(Some).map_err(BundleError::io("write", path));
        }
        Content::Copy(source, stamp, _) => {
            files::place(source, path, options.link_mode).map_err(|error| match error.kind() {
                // The source is not to blame for a full disk, nor for what its files may not exceed.
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                    BundleError::io("write", path)(error)
                }
                _ => BundleError::io("copy", source)(error),
            })?;
            let now = fs::metadata(source).map_err(BundleError::io("read", source))?;
            // A hard link changes the source's change time, so then only size and modification time can tell.
            let same = match options.link_mode {
                LinkMode::Hardlink => stamp.has_content_of(&now),
                LinkMode::Reflink | LinkMode::Copy => *stamp == Stamp::of(&now),
            };
            if !same {
                let source_error = io::Error::other("it changed after it was verified");
                return Err(BundleError::Io { action: "copy", path: source.clone(), source: source_error });
            }
        }
    }
    Ok(None)
}

/// Every symbol that the app config names must be found in the file, as it was compiled.
fn read_back(path: &Path, libraries: &[Library], slices: usize) -> Result<(), BundleError> {
    let wrap = |error| BundleError::ReadBackContainer { path: path.to_path_buf(), source: Box::new(error) };
    let bytes = knapsack_artifact::container::read(path).map_err(wrap)?;
    objects::verify(&bytes, libraries, slices)
        .map_err(wrap)?
        .map_err(|problem| BundleError::ReadBack { path: path.to_path_buf(), problem })
}
