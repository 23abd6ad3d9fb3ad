//! What an entry says of itself: inputs, files, sizes and hashes.

use super::CacheError;
use super::inputs::Inputs;
use crate::digest::{Digests, Wanted};
use crate::files;
use knapsack_artifact::names;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

const RECORD: &str = "entry.json";
pub(super) const CONTENT: &str = "content";
const VERSION: u32 = 2;
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// What an entry says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EntryRecord {
    version: u32,
    #[serde(flatten)]
    pub(super) inputs: Inputs,
    pub(super) files: BTreeMap<String, CachedFile>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CachedFile {
    pub(super) size: u64,
    pub(super) sha256: String,
}

impl EntryRecord {
    pub(super) fn read(entry: &Path) -> Result<Self, String> {
        let mut text = Vec::new();
        File::open(entry.join(RECORD))
            .and_then(|file| file.take(MAX_RECORD_BYTES).read_to_end(&mut text))
            .map_err(|error| format!("{RECORD}: {error}"))?;
        let record: Self = serde_json::from_slice(&text).map_err(|error| format!("{RECORD}: {error}"))?;
        if record.version != VERSION {
            return Err(format!("{RECORD}: version {}, not {VERSION}", record.version));
        }
        for name in record.files.keys() {
            names::check_relative_path(name).map_err(|error| error.to_string())?;
        }
        Ok(record)
    }

    /// Every file is there with its size.
    pub(super) fn check_sizes(&self, entry: &Path) -> Result<(), String> {
        for (name, file) in &self.files {
            match fs::metadata(entry.join(CONTENT).join(name)) {
                Ok(found) if found.len() == file.size => {}
                Ok(found) => return Err(format!("{name} has {} bytes, not {}", found.len(), file.size)),
                Err(error) => return Err(format!("{name}: {error}")),
            }
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }

    pub(super) fn path(&self, entry: &Path, name: &str) -> PathBuf {
        entry.join(CONTENT).join(name)
    }

    pub(super) fn paths(&self, entry: &Path) -> Vec<PathBuf> {
        self.files.keys().map(|name| self.path(entry, name)).collect()
    }

    /// Writes the record of what was made from `inputs`, in the folder of an entry. Gives the hashes of each file, by its path there.
    pub(super) fn seal(inputs: &Inputs, staging: &Path) -> Result<Vec<(String, Digests)>, CacheError> {
        let content = staging.join(CONTENT);
        let names = list(&content).map_err(CacheError::io("read", &content))?;
        if let Some(bad) = names.iter().find(|name| names::check_relative_path(name).is_err()) {
            return Err(CacheError::Name(bad.clone()));
        }
        let paths: Vec<_> = names.iter().map(|name| content.join(name)).collect();
        // What tells whether a file is whole, and what a package asks next. Not remembered: the paths are about to change.
        let hashed = crate::FileDigests::in_memory().of_all(&paths, Wanted::MEMBER);
        let (mut files, mut digests) = (BTreeMap::new(), Vec::with_capacity(names.len()));
        for ((name, path), hashed) in names.into_iter().zip(&paths).zip(hashed) {
            let hashed = hashed.map_err(CacheError::io("read", path))?;
            files.insert(name.clone(), CachedFile { size: hashed.size, sha256: hashed.sha256().into() });
            digests.push((name, hashed.digests));
        }
        let record = Self { version: VERSION, inputs: inputs.clone(), files };
        let text = serde_json::to_vec_pretty(&record).expect("a record has only serializable fields");
        let path = staging.join(RECORD);
        fs::write(&path, text).map_err(CacheError::io("write", &path))?;
        // An entry that is found whole by its sizes must be whole after a loss of power too.
        let failed = |path: &Path, error| CacheError::io("write", path)(error);
        files::syncing(&failed, |written| {
            paths.iter().chain([&path]).cloned().for_each(written);
            Ok(())
        })?;
        for path in paths.iter().chain([&path]) {
            files::make_read_only(path).map_err(CacheError::io("protect", path))?;
        }
        files::sync_folder(&content)
            .and_then(|()| files::sync_folder(staging))
            .map_err(CacheError::io("write", staging))?;
        Ok(digests)
    }
}

/// Relative paths with `/` of every file below `root`, in order.
fn list(root: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![(root.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                folders.push((entry.path(), format!("{path}/")));
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
