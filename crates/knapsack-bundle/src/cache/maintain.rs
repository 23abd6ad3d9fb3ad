//! `knapsack cache list`, `verify` and `clean`.

use super::record::EntryRecord;
use super::{Bucket, Cache, CacheError, Inputs, Key};
use crate::digest::{FileDigests, Wanted};
use crate::files;
use knapsack_artifact::files::rename;
use std::fs::{self, TryLockError};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// An entry as it is listed.
#[derive(Clone, Debug)]
pub struct Summary {
    /// In which bucket.
    pub bucket: Bucket,
    /// The hash of its inputs.
    pub key: Key,
    /// Where its content lies.
    pub path: PathBuf,
    /// Bytes of its files, by its record.
    pub bytes: u64,
    /// What it was made from and for; `None`: its record cannot be read.
    pub inputs: Option<Inputs>,
    /// When it was made.
    pub made: Option<SystemTime>,
}

/// An entry that was checked in full.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The entry that was looked at.
    pub summary: Summary,
    /// What is wrong with it; empty: nothing.
    pub problems: Vec<String>,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Entries that are gone.
    pub entries: usize,
    /// Bytes of files that are gone.
    pub bytes: u64,
    /// Entries that another process uses, and that stay.
    pub in_use: usize,
}

impl Cache {
    /// Every entry, by bucket and key.
    pub fn list(&self) -> Vec<Summary> {
        let entries =
            Bucket::ALL.into_iter().flat_map(|bucket| self.entries(bucket).into_iter().map(move |e| (bucket, e)));
        entries
            .map(|(bucket, (key, path))| {
                let record = EntryRecord::read(&path).ok();
                Summary {
                    bucket,
                    key,
                    bytes: record.as_ref().map_or_else(|| folder_bytes(&path), EntryRecord::bytes),
                    inputs: record.map(|record| record.inputs),
                    made: fs::metadata(&path).and_then(|metadata| metadata.modified()).ok(),
                    path,
                }
            })
            .collect()
    }

    /// Reads every file of every entry and compares its hash. Damaged entries are removed when `repair` is set: they will be
    /// made again when they are needed.
    ///
    /// # Errors
    /// When locks cannot be had or a damaged entry cannot be removed.
    pub fn verify(&self, repair: bool) -> Result<Vec<Verified>, CacheError> {
        let mut all = Vec::new();
        for summary in self.list() {
            let lock = self.lock_file(summary.bucket, &summary.key)?;
            lock.lock_shared().map_err(CacheError::io("lock", &self.locks()))?;
            let problems = problems(&summary);
            if repair && !problems.is_empty() {
                let _ = lock.unlock();
                self.remove(&summary)?;
            }
            all.push(Verified { summary, problems });
        }
        Ok(all)
    }

    /// Removes every entry that no process uses, what killed runs left, buckets of other versions, the memory of hashes, and
    /// tokenizers' tables, which the next run makes again.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn clean(&self) -> Result<Cleaned, CacheError> {
        let mut cleaned = Cleaned::default();
        for summary in self.list() {
            if self.remove(&summary)? {
                cleaned.entries += 1;
                cleaned.bytes += summary.bytes;
            } else {
                cleaned.in_use += 1;
            }
        }
        for (path, name) in children(&self.root) {
            let removable = ["converted-v", "libraries-v", "digests-v", "tokenizers-v"]
                .iter()
                .any(|prefix| name.strip_prefix(prefix).is_some_and(|version| version.parse::<u32>().is_ok()))
                && !Bucket::ALL.iter().any(|bucket| bucket.folder() == name);
            if removable {
                cleaned.bytes += folder_bytes(&path);
                files::remove_folder(&path).map_err(CacheError::io("remove", &path))?;
            }
        }
        for bucket in Bucket::ALL {
            cleaned.bytes += self.remove_leftovers(bucket)?;
        }
        Ok(cleaned)
    }

    /// False: another process uses it.
    fn remove(&self, summary: &Summary) -> Result<bool, CacheError> {
        let lock = self.lock_file(summary.bucket, &summary.key)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(CacheError::io("lock", &self.locks())(error)),
        }
        // Renamed first: a half-removed entry must not look like one.
        let gone = self.root.join(summary.bucket.folder()).join(format!(".tmp-{}", summary.key));
        let _ = files::remove_folder(&gone);
        rename(&summary.path, &gone).map_err(CacheError::io("remove", &summary.path))?;
        files::remove_folder(&gone).map_err(CacheError::io("remove", &gone))?;
        Ok(true)
    }

    fn remove_leftovers(&self, bucket: Bucket) -> Result<u64, CacheError> {
        let mut bytes = 0;
        for (path, name) in children(&self.root.join(bucket.folder())) {
            let Some(key) = [".tmp-", ".pull-"].iter().find_map(|prefix| name.strip_prefix(prefix)) else { continue };
            let lock = self.lock_file(bucket, &Key(key.to_string()))?;
            if lock.try_lock().is_ok() {
                bytes += folder_bytes(&path);
                files::remove_folder(&path).map_err(CacheError::io("remove", &path))?;
            }
        }
        Ok(bytes)
    }
}

fn problems(summary: &Summary) -> Vec<String> {
    let record = match EntryRecord::read(&summary.path) {
        Ok(record) => record,
        Err(problem) => return vec![problem],
    };
    let mut problems = Vec::new();
    if record.inputs.key() != summary.key {
        problems.push("its key is not the hash of its inputs".to_string());
    }
    let hashed = FileDigests::in_memory().of_all(&record.paths(&summary.path), Wanted::PACKAGE);
    for ((name, file), hashed) in record.files.iter().zip(hashed) {
        match hashed {
            Err(error) => problems.push(format!("{name}: {error}")),
            Ok(found) if found.size != file.size => {
                problems.push(format!("{name} has {} bytes, not {}", found.size, file.size));
            }
            Ok(found) if found.sha256() != file.sha256 => problems.push(format!("{name} has another content")),
            Ok(_) => {}
        }
    }
    problems
}

fn children(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?))).collect()
}

fn folder_bytes(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    if metadata.is_dir() { children(path).iter().map(|(path, _)| folder_bytes(path)).sum() } else { metadata.len() }
}
