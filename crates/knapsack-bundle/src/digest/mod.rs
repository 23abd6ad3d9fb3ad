//! Content hashes of files: which kinds there are, and computing them. [`FileDigests`] remembers them.

mod memory;
mod stamp;

pub use memory::FileDigests;
pub(crate) use stamp::Stamp;

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

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
    /// For files that go into a package and its archive.
    pub const MEMBER: Self = Self { crc32: true, ..Self::PACKAGE };
    /// For weight shards: what their index says too.
    pub const SHARD: Self = Self { md5: true, ..Self::MEMBER };
    /// For files that come into a cache: what tells whether they are whole, and what a package asks next.
    pub const CACHED: Self = Self { blake3: true, ..Self::MEMBER };

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
const WIDE: u64 = 256 << 20;

fn hash_file(path: &Path, wanted: Wanted) -> io::Result<Digests> {
    let mut file = File::open(path)?;
    let (mut blake3, mut sha256, mut md5) = (blake3::Hasher::new(), Sha256::new(), Md5::new());
    let mut crc32 = crc32fast::Hasher::new();
    // One hash of a large file is a matter of all cores, and they want pieces that are worth dividing. Otherwise small enough for the
    // second-level cache, so that the second hash reads from there.
    let wide = wanted == Wanted::CONTENT && file.metadata()?.len() >= WIDE;
    let mut buffer = vec![0; if wide { 4 << 20 } else { 256 << 10 }];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = &buffer[..count];
        if wide {
            blake3.update_rayon(bytes);
        } else if wanted.blake3 {
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
