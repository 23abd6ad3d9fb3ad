//! Content hashes of files: which kinds there are, and computing them. [`FileDigests`] remembers them.

mod memory;
mod stamp;

pub use memory::FileDigests;
pub(crate) use stamp::Stamp;

use crate::threads::cores;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Hashes of one file, in lower-case hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// BLAKE3: what caches know the inputs of a step by, because all cores can share a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// SHA-256: what the app verifies downloads and bundles by, and a cache its results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// MD5: what MLC's weight index holds. Not proof against an attacker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// CRC-32: what archives hold. Proof against nothing but accidents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32: Option<u32>,
}

impl Digests {
    /// These, and those of `other` that are not among them.
    fn or(self, other: Self) -> Self {
        Digests {
            blake3: self.blake3.or(other.blake3),
            sha256: self.sha256.or(other.sha256),
            md5: self.md5.or(other.md5),
            crc32: self.crc32.or(other.crc32),
        }
    }
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
    /// CRC-32.
    pub crc32: bool,
}

impl Wanted {
    /// For identifying the inputs of a step.
    pub const CONTENT: Self = Self { blake3: true, sha256: false, md5: false, crc32: false };
    /// For files of a package.
    pub const PACKAGE: Self = Self { blake3: false, sha256: true, md5: false, crc32: false };
    /// For files that go into a cache, a package and its archive.
    pub const MEMBER: Self = Self { crc32: true, ..Self::PACKAGE };
    /// For weight shards: what their index says too.
    pub const SHARD: Self = Self { md5: true, ..Self::MEMBER };

    const fn missing_in(self, known: &Digests) -> Self {
        Self {
            blake3: self.blake3 && known.blake3.is_none(),
            sha256: self.sha256 && known.sha256.is_none(),
            md5: self.md5 && known.md5.is_none(),
            crc32: self.crc32 && known.crc32.is_none(),
        }
    }
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

    /// The CRC-32; 0 when it was not wanted.
    pub(crate) fn crc32(&self) -> u32 {
        self.digests.crc32.unwrap_or_default()
    }

    /// The MD5 hash; empty when it was not wanted.
    pub fn md5(&self) -> &str {
        self.digests.md5.as_deref().unwrap_or_default()
    }
}

/// The SHA-256 of bytes in memory.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Bytes from which on a file is hashed on all cores.
const WIDE: u64 = 64 << 20;
/// Bytes of its pieces: each is a subtree of the hash, and small enough for the second-level cache.
const PIECE: u64 = 1 << 20;

fn hash_file(path: &Path, wanted: Wanted) -> io::Result<Digests> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    if wanted == Wanted::CONTENT && size >= WIDE {
        return Ok(Digests { blake3: Some(wide(path, size)?.to_hex().to_string()), ..Digests::default() });
    }
    let (mut blake3, mut sha256, mut md5) = (blake3::Hasher::new(), Sha256::new(), Md5::new());
    let mut crc32 = crc32fast::Hasher::new();
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
        if wanted.crc32 {
            crc32.update(bytes);
        }
    }
    Ok(Digests {
        blake3: wanted.blake3.then(|| blake3.finalize().to_hex().to_string()),
        sha256: wanted.sha256.then(|| hex::encode(sha256.finalize())),
        md5: wanted.md5.then(|| hex::encode(md5.finalize())),
        crc32: wanted.crc32.then(|| crc32.finalize()),
    })
}

/// The BLAKE3 hash of a file of more than one piece, on all cores, which read as well as hash.
fn wide(path: &Path, size: u64) -> io::Result<blake3::Hash> {
    // Each takes all cores, so they take turns.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (next, count) = (AtomicU64::new(0), size.div_ceil(PIECE));
    let work = || -> io::Result<Vec<(u64, ChainingValue)>> {
        let (mut file, mut buffer, mut done) = (File::open(path)?, vec![0; PIECE as usize], Vec::new());
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= count {
                return Ok(done);
            }
            let start = piece * PIECE;
            let bytes = &mut buffer[..PIECE.min(size - start) as usize];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(bytes)?;
            done.push((piece, blake3::Hasher::new().set_input_offset(start).update(bytes).finalize_non_root()));
        }
    };
    let done: io::Result<Vec<_>> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..cores()).map(|_| scope.spawn(work)).collect();
        let own = work();
        let joined = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        [own].into_iter().chain(joined).collect()
    });
    let mut pieces = done?.concat();
    pieces.sort_unstable_by_key(|(piece, _)| *piece);
    let values: Vec<ChainingValue> = pieces.into_iter().map(|(_, value)| value).collect();
    let (left, right) = halves(&values);
    Ok(merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash))
}

/// The value of the node over these pieces.
fn subtree(pieces: &[ChainingValue]) -> ChainingValue {
    match pieces {
        [piece] => *piece,
        _ => {
            let (left, right) = halves(pieces);
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// What lies left and right below the node over more than one piece: left the largest power of two that leaves something to the
/// right (BLAKE3's specification, 2.1).
fn halves(pieces: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    pieces.split_at(pieces.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_large_file_make_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for (pieces, odd) in [(1, 1), (2, 0), (3, 0), (4, 5), (5, 1024), (8, 0), (11, PIECE - 1), (70, 77)] {
            let size = pieces * PIECE + odd;
            let bytes: Vec<u8> =
                (0..size as u32 / 4 + 1).flat_map(|word| word.wrapping_mul(0x9E37_79B9).to_le_bytes()).collect();
            let bytes = &bytes[..size as usize];
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(wide(&path, size).unwrap(), blake3::hash(bytes), "{size} bytes");
            let hashed = hash_file(&path, Wanted::CONTENT).unwrap();
            assert_eq!(hashed.blake3.unwrap(), blake3::hash(bytes).to_hex().as_str());
            // A file that lost its end while it was read.
            assert!(wide(&path, size + 1).is_err());
        }
    }
}
