//! Hashes of files, remembered.
//!
//! Hashing gigabytes on every run would take seconds, so a hash is stored with the file's size, modification and change time
//! and inode, and believed as long as these are the same. The times are a shortcut to a content hash, never an identity:
//! what is compared and recorded elsewhere is always the hash. As git does with its index, a hash is not believed when the
//! file was written so shortly before it was hashed that a second write could have left the same time.

use super::stamp::{Stamp, nanoseconds};
use super::{Digests, Hashed, Wanted, hash_file, sha256};
use crate::threads::{cores, each};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Largest memory file that is believed.
const MAX_MEMORY_BYTES: u64 = 64 << 20;
const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Remembered {
    #[serde(flatten)]
    stamp: Stamp,
    /// When hashing began.
    hashed: u64,
    #[serde(flatten)]
    digests: Digests,
}

impl Remembered {
    fn is_of(&self, stamp: &Stamp) -> bool {
        self.stamp == *stamp && stamp.is_settled(self.hashed)
    }
}

/// The files of one folder, as stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Folder {
    version: u32,
    files: BTreeMap<String, Remembered>,
    #[serde(skip)]
    changed: bool,
}

/// The memory of hashes. Losing it costs time, nothing else.
#[derive(Debug, Default)]
pub struct FileDigests {
    root: Option<PathBuf>,
    folders: Mutex<HashMap<PathBuf, Folder>>,
}

impl FileDigests {
    /// Remembers in `root`, one file for each folder that is hashed. [`FileDigests::save`] writes it.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: Some(root.into()), folders: Mutex::default() }
    }

    /// Remembers until it is dropped.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// The hashes of a file, computed only when they are not known.
    ///
    /// # Errors
    /// When the file cannot be read, or changes while it is.
    pub fn of(&self, path: &Path, wanted: Wanted) -> io::Result<Hashed> {
        // Symbolic links (the Hugging Face cache is made of them) are remembered by what they point to.
        let path = &std::fs::canonicalize(path)?;
        let stamp = Stamp::of(&std::fs::metadata(path)?);
        let known =
            self.lookup(path).filter(|known| known.is_of(&stamp)).map(|known| known.digests).unwrap_or_default();
        let missing = wanted.missing_in(&known);
        if missing == Wanted::default() {
            return Ok(Hashed { size: stamp.size, digests: known, stamp });
        }
        let hashed = nanoseconds(SystemTime::now());
        let digests = hash_file(path, missing)?.or(known);
        if Stamp::of(&std::fs::metadata(path)?) != stamp {
            return Err(io::Error::other("the file changed while it was read"));
        }
        self.store(path, Remembered { stamp, hashed, digests: digests.clone() });
        Ok(Hashed { size: stamp.size, digests, stamp })
    }

    /// Whether [`FileDigests::of`] would answer without reading the file.
    pub fn knows(&self, path: &Path, wanted: Wanted) -> bool {
        let known = || {
            let path = std::fs::canonicalize(path).ok()?;
            let stamp = Stamp::of(&std::fs::metadata(&path).ok()?);
            let known = self.lookup(&path).filter(|known| known.is_of(&stamp))?;
            Some(wanted.missing_in(&known.digests) == Wanted::default())
        };
        known().unwrap_or(false)
    }

    /// [`FileDigests::of`] of many files, on all cores; results in the order of `paths`.
    pub(crate) fn of_all<P: AsRef<Path> + Sync>(&self, paths: &[P], wanted: Wanted) -> Vec<io::Result<Hashed>> {
        let indices: Vec<usize> = (0..paths.len()).collect();
        let results: Mutex<Vec<Option<io::Result<Hashed>>>> = Mutex::new(paths.iter().map(|_| None).collect());
        let hash = |&index: &usize| -> Result<(), Infallible> {
            let result = self.of(paths[index].as_ref(), wanted);
            results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
            Ok(())
        };
        let Ok(()) = each(cores(), &indices, hash);
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(io::Error::other("not hashed")))).collect()
    }

    /// Tells the hashes of a file that was just written with known content, so that it need not be read again.
    pub fn remember(&self, path: &Path, digests: Digests) {
        let Ok(path) = std::fs::canonicalize(path) else { return };
        if let Ok(metadata) = std::fs::metadata(&path) {
            // The writer knows the content without looking, so there is no race between hashing and writing.
            self.store(&path, Remembered { stamp: Stamp::of(&metadata), hashed: u64::MAX, digests });
        }
    }

    /// Writes what was learned. Errors are ignored: the next run hashes again.
    pub fn save(&self) {
        let Some(root) = &self.root else { return };
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, folder) in folders.iter_mut().filter(|(_, folder)| folder.changed) {
            folder.changed = false;
            folder.files.retain(|name, _| path.join(name).symlink_metadata().is_ok());
            if let Ok(text) = serde_json::to_vec(folder) {
                let _ = std::fs::create_dir_all(root);
                let _ = crate::files::write_atomically(&self.memory_file(root, path), &text);
            }
        }
    }

    fn memory_file(&self, root: &Path, folder: &Path) -> PathBuf {
        root.join(format!("{}.json", sha256(folder.as_os_str().as_encoded_bytes())))
    }

    fn lookup(&self, path: &Path) -> Option<Remembered> {
        let (folder, name) = split(path)?;
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        folders.entry(folder.to_path_buf()).or_insert_with(|| self.load(folder)).files.get(&name).cloned()
    }

    fn store(&self, path: &Path, mut new: Remembered) {
        let Some((folder, name)) = split(path) else { return };
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = folders.entry(folder.to_path_buf()).or_insert_with(|| self.load(folder));
        if let Some(old) =
            entry.files.get(&name).filter(|old| old.stamp == new.stamp && new.stamp.is_settled(old.hashed))
        {
            new.digests = new.digests.or(old.digests.clone());
        }
        entry.files.insert(name, new);
        entry.changed = true;
    }

    fn load(&self, folder: &Path) -> Folder {
        let read = || -> Option<Folder> {
            let file = File::open(self.memory_file(self.root.as_ref()?, folder)).ok()?;
            let mut text = Vec::new();
            file.take(MAX_MEMORY_BYTES).read_to_end(&mut text).ok()?;
            serde_json::from_slice(&text).ok().filter(|folder: &Folder| folder.version == VERSION)
        };
        read().unwrap_or(Folder { version: VERSION, ..Folder::default() })
    }
}

impl Drop for FileDigests {
    fn drop(&mut self) {
        self.save();
    }
}

fn split(path: &Path) -> Option<(&Path, String)> {
    Some((path.parent()?, path.file_name()?.to_str()?.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_right_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a file");
        std::fs::write(&file, b"abc").unwrap();
        let digests = FileDigests::at(folder.path().join("memory"));
        let all = Wanted { blake3: true, ..Wanted::SHARD };
        let hashed = digests.of(&file, all).unwrap();
        assert_eq!(hashed.size, 3);
        assert_eq!(hashed.md5(), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(hashed.sha256(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hashed.blake3(), "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
        // The check value of a CRC catalogue is for "123456789"; this is `zlib.crc32(b"abc")`.
        assert_eq!(hashed.digests.crc32, Some(0x3524_41c2));
        let many = digests.of_all(&[&file, &folder.path().join("none"), &file], Wanted::SHARD);
        assert_eq!(many.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn what_is_told_is_believed_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, b"abc").unwrap();
        let told = Digests { sha256: Some("told".into()), ..Digests::default() };
        let digests = FileDigests::at(folder.path().join("memory"));
        digests.remember(&file, told);
        digests.save();
        let again = FileDigests::at(folder.path().join("memory"));
        assert_eq!(again.of(&file, Wanted::PACKAGE).unwrap().sha256(), "told");
        // Only what is not known is computed, and what is known stays so.
        let hashed = again.of(&file, Wanted::SHARD).unwrap();
        assert_eq!((hashed.sha256(), hashed.md5()), ("told", "900150983cd24fb0d6963f7d28e17f72"));
        std::fs::write(&file, b"abcd").unwrap();
        assert_eq!(again.of(&file, Wanted::PACKAGE).unwrap().sha256(), sha256(b"abcd"));
        // A memory file that is garbage is no memory at all.
        for entry in std::fs::read_dir(folder.path().join("memory")).unwrap() {
            std::fs::write(entry.unwrap().path(), b"[").unwrap();
        }
        let third = FileDigests::at(folder.path().join("memory"));
        assert_eq!(third.of(&file, Wanted::PACKAGE).unwrap().sha256(), sha256(b"abcd"));
    }

    #[test]
    fn a_hash_of_a_file_that_was_just_written_is_not_believed() {
        let second = 1_000_000_000;
        let stamp = |modified| Stamp { size: 1, modified, changed: modified, inode: 1 };
        assert!(!stamp(5 * second + 1).is_settled(5 * second + 2));
        assert!(stamp(5 * second + 1).is_settled(5 * second + second / 2));
        assert!(!stamp(5 * second).is_settled(6 * second));
        assert!(stamp(5 * second).is_settled(8 * second));
    }
}
