//! Content hashes of files, remembered.
//!
//! Hashing gigabytes on every run would take seconds, so a hash is stored with the file's size, modification and change time
//! and inode, and believed as long as these are the same. The times are a shortcut to a content hash, never an identity:
//! what is compared and recorded elsewhere is always the hash. As git does with its index, a hash is not believed when the
//! file was written so shortly before it was hashed that a second write could have left the same time.

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use md5::Md5;
use serde::{Deserialize, Serialize};

/// Largest memory file that is believed.
const MAX_MEMORY_BYTES: u64 = 64 << 20;
const VERSION: u32 = 1;

/// Hashes of one file, in lower-case hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// BLAKE3: what caches identify content by, because it is several times as fast as the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// SHA-256: what the app verifies downloads and bundles by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// MD5: what MLC's weight index holds. Not proof against an attacker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
}

/// Which hashes are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// BLAKE3.
    pub blake3: bool,
    /// SHA-256.
    pub sha256: bool,
    /// MD5.
    pub md5: bool,
}

impl Wanted {
    /// For identifying the inputs of a step.
    pub const CONTENT: Self = Self { blake3: true, sha256: false, md5: false };
    /// For files of a package.
    pub const PACKAGE: Self = Self { blake3: false, sha256: true, md5: false };
    /// For weight shards: what their index says, and what the app wants.
    pub const SHARD: Self = Self { blake3: false, sha256: true, md5: true };
}

/// A file's size and hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// Bytes.
    pub size: u64,
    /// At least those that were wanted.
    pub digests: Digests,
    pub(crate) stamp: Stamp,
}

impl Hashed {
    /// The BLAKE3 hash; empty when it was not wanted.
    pub fn blake3(&self) -> &str {
        self.digests.blake3.as_deref().unwrap_or_default()
    }

    /// The SHA-256 hash; empty when it was not wanted.
    pub fn sha256(&self) -> &str {
        self.digests.sha256.as_deref().unwrap_or_default()
    }

    /// The MD5 hash; empty when it was not wanted.
    pub fn md5(&self) -> &str {
        self.digests.md5.as_deref().unwrap_or_default()
    }
}

/// What a file looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    size: u64,
    modified: u64,
    changed: u64,
    inode: u64,
}

impl Stamp {
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        let modified = metadata.modified().ok().map_or(0, nanoseconds);
        #[cfg(unix)]
        let (changed, inode) = {
            use std::os::unix::fs::MetadataExt;
            let changed = metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
            (changed.max(0) as u64, metadata.ino() ^ metadata.dev().rotate_left(32))
        };
        #[cfg(not(unix))]
        let (changed, inode) = (modified, 0);
        Self { size: metadata.len(), modified, changed, inode }
    }

    /// Whether a file of this metadata was not written to since.
    pub(crate) fn has_content_of(&self, metadata: &std::fs::Metadata) -> bool {
        let now = Self::of(metadata);
        (self.size, self.modified, self.inode) == (now.size, now.modified, now.inode)
    }

    /// Whether a write after `hashed` must have left another time. File systems with whole seconds get two of them.
    fn is_settled(&self, hashed: u64) -> bool {
        let margin = if self.modified.is_multiple_of(1_000_000_000) { 2_100_000_000 } else { 100_000_000 };
        self.modified.max(self.changed).saturating_add(margin) <= hashed
    }
}

/// Since 1970; fits until 2554.
fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |duration| duration.as_nanos() as u64)
}

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
    fn is_valid(&self, stamp: &Stamp, wanted: Wanted) -> bool {
        self.stamp == *stamp
            && stamp.is_settled(self.hashed)
            && (!wanted.blake3 || self.digests.blake3.is_some())
            && (!wanted.sha256 || self.digests.sha256.is_some())
            && (!wanted.md5 || self.digests.md5.is_some())
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
        if let Some(known) = self.lookup(path).filter(|known| known.is_valid(&stamp, wanted)) {
            return Ok(Hashed { size: stamp.size, digests: known.digests, stamp });
        }
        let hashed = nanoseconds(SystemTime::now());
        let digests = hash_file(path, wanted)?;
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
            Some(self.lookup(&path)?.is_valid(&stamp, wanted))
        };
        known().unwrap_or(false)
    }

    /// [`FileDigests::of`] of many files, on all cores; results in the order of `paths`.
    pub fn of_all<P: AsRef<Path> + Sync>(&self, paths: &[P], wanted: Wanted) -> Vec<io::Result<Hashed>> {
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<io::Result<Hashed>>>> = Mutex::new(paths.iter().map(|_| None).collect());
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(path) = paths.get(index) else { break };
                let result = self.of(path.as_ref(), wanted);
                results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(paths.len());
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
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
        root.join(format!("{}.json", hex(&Sha256::digest(folder.as_os_str().as_encoded_bytes()))))
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
            let old = old.digests.clone();
            new.digests.blake3 = new.digests.blake3.or(old.blake3);
            new.digests.sha256 = new.digests.sha256.or(old.sha256);
            new.digests.md5 = new.digests.md5.or(old.md5);
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

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of bytes in memory.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hash_file(path: &Path, wanted: Wanted) -> io::Result<Digests> {
    let mut file = File::open(path)?;
    let (mut blake3, mut sha256, mut md5) = (blake3::Hasher::new(), Sha256::new(), Md5::new());
    // Small enough for the second-level cache, so that the second hash reads from there.
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = &buffer[..count];
        if wanted.blake3 {
            blake3.update(bytes);
        }
        if wanted.sha256 {
            sha256.update(bytes);
        }
        if wanted.md5 {
            md5.update(bytes);
        }
    }
    Ok(Digests {
        blake3: wanted.blake3.then(|| blake3.finalize().to_hex().to_string()),
        sha256: wanted.sha256.then(|| hex(&sha256.finalize())),
        md5: wanted.md5.then(|| hex(&md5.finalize())),
    })
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
        let all = Wanted { blake3: true, sha256: true, md5: true };
        let hashed = digests.of(&file, all).unwrap();
        assert_eq!(hashed.size, 3);
        assert_eq!(hashed.md5(), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(hashed.sha256(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hashed.blake3(), "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
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
