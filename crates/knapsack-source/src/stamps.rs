//! Which cached files were hashed before, and as what: so that a run over a full cache need not read gigabytes again.
//!
//! A note holds for a file of the same size, modification time and (on Unix) inode, as in Git's index. A file that changed less
//! than two seconds before it was hashed is not noted: its time could not tell a further change.

use knapsack_artifact::files;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::digest::{Found, hash_file};
use crate::error::{Error, Result};
use crate::layout::{beside, create_parent};
use crate::settings::STATE_FOLDER;

const FORMAT: u32 = 1;
const MAX_TEXT: u64 = 256 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    modified: u128,
    inode: u64,
    sha256: String,
    git_oid: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct Notes {
    format: u32,
    files: BTreeMap<PathBuf, Stamp>,
}

/// The notes, kept in one file of Knapsack's own.
pub(crate) struct Stamps {
    path: PathBuf,
    notes: Mutex<(Notes, bool)>,
}

impl Stamps {
    /// Reads the notes in `state`. Damaged ones count as none: everything is then hashed again.
    pub(crate) fn open(state: &Path) -> Self {
        Self::read(state.join(STATE_FOLDER).join("verified.json"))
    }

    fn read(path: PathBuf) -> Self {
        let small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= MAX_TEXT);
        let text = if small { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        let notes =
            serde_json::from_slice(&text).ok().filter(|notes: &Notes| notes.format == FORMAT).unwrap_or_default();
        Self { path, notes: Mutex::new((notes, false)) }
    }

    /// What the file's content is, from the notes or by reading it all.
    pub(crate) fn hash(&self, path: &Path, git: bool) -> Result<Found> {
        let real = fs::canonicalize(path).map_err(Error::io("find", path))?;
        let before = stamp(&real)?;
        let noted = self.notes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).0.files.get(&real).cloned();
        if let Some(noted) = noted
            && (noted.size, noted.modified, noted.inode) == (before.size, before.modified, before.inode)
            && (!git || noted.git_oid.is_some())
        {
            return Ok(Found { size: noted.size, sha256: noted.sha256, git_oid: noted.git_oid });
        }
        let found = hash_file(&real, git)?;
        let settled = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        if before.modified + Duration::from_secs(2).as_nanos() < settled {
            self.set(real, Stamp { sha256: found.sha256.clone(), git_oid: found.git_oid.clone(), ..before });
        }
        Ok(found)
    }

    /// Notes a file that this process wrote and hashed while writing.
    pub(crate) fn note(&self, path: &Path, found: &Found) -> Result<()> {
        let real = fs::canonicalize(path).map_err(Error::io("find", path))?;
        let stamp = stamp(&real)?;
        self.set(real, Stamp { sha256: found.sha256.clone(), git_oid: found.git_oid.clone(), ..stamp });
        Ok(())
    }

    fn set(&self, path: PathBuf, stamp: Stamp) {
        let mut notes = self.notes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        notes.0.files.insert(path, stamp);
        notes.1 = true;
    }

    /// Writes new notes, together with those that another process wrote meanwhile.
    pub(crate) fn save(&self) -> Result<()> {
        let mut notes = self.notes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !notes.1 {
            return Ok(());
        }
        let theirs = Self::read(self.path.clone());
        for (path, stamp) in theirs.notes.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).0.files {
            notes.0.files.entry(path).or_insert(stamp);
        }
        notes.0.files.retain(|path, _| path.exists());
        notes.0.format = FORMAT;
        create_parent(&self.path)?;
        let beside = beside(&self.path);
        let text = serde_json::to_vec(&notes.0).unwrap_or_default();
        files::replace(&self.path, &beside, &text).map_err(Error::io("write", &self.path))?;
        notes.1 = false;
        Ok(())
    }
}

fn stamp(path: &Path) -> Result<Stamp> {
    let meta = fs::metadata(path).map_err(Error::io("read", path))?;
    let modified = meta.modified().map_err(Error::io("read", path))?;
    let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&meta);
    #[cfg(not(unix))]
    let inode = 0;
    Ok(Stamp { size: meta.len(), modified, inode, sha256: String::new(), git_oid: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aged(path: &Path, content: &str, seconds: u64) {
        fs::write(path, content).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn a_note_holds_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (state, file) = (folder.path().join("state"), folder.path().join("file"));
        aged(&file, "one", 60);
        let stamps = Stamps::open(&state);
        let one = stamps.hash(&file, true).unwrap();
        stamps.save().unwrap();

        let stamps = Stamps::open(&state);
        assert_eq!(stamps.notes.lock().unwrap().0.files.len(), 1);
        assert_eq!(stamps.hash(&file, true).unwrap(), one);
        aged(&file, "two", 30);
        assert_ne!(stamps.hash(&file, true).unwrap(), one);
        fs::remove_file(&file).unwrap();
        stamps.save().unwrap();
        assert!(Stamps::open(&state).notes.lock().unwrap().0.files.is_empty());
    }

    #[test]
    fn a_file_that_just_changed_is_not_noted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "one").unwrap();
        let stamps = Stamps::open(folder.path());
        stamps.hash(&file, false).unwrap();
        assert!(stamps.notes.lock().unwrap().0.files.is_empty());
    }

    #[test]
    fn damaged_notes_count_as_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(STATE_FOLDER)).unwrap();
        fs::write(folder.path().join(STATE_FOLDER).join("verified.json"), "{\"format\": 1, \"files\": 3}").unwrap();
        assert!(Stamps::open(folder.path()).notes.lock().unwrap().0.files.is_empty());
    }
}
