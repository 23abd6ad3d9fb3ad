//! One file of a package, before it is written.

use crate::archive::Member;
use crate::digest::{Hashed, Stamp, sha256};
use std::path::PathBuf;
use std::sync::Arc;

/// One file.
#[derive(Clone, Debug)]
pub(super) struct Output {
    /// Relative to the package, with `/`.
    pub(super) path: String,
    pub(super) size: u64,
    /// Empty: of an archive that must be written, which is when it is hashed.
    pub(super) sha256: String,
    pub(super) content: Content,
    /// Of an archive: what it is made of, for telling whether it would be another.
    pub(super) recipe: Option<String>,
    /// An output before this one with the same content: another name of that file will do.
    pub(super) same_as: Option<String>,
}

/// What it is made from.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// These bytes.
    Bytes(Arc<[u8]>),
    /// Model libraries, in this many slices: read back after writing.
    Libraries(Arc<[u8]>, usize),
    /// A verified file, what it looked like then, and its CRC-32.
    Copy(PathBuf, Stamp, u32),
    /// An archive of these members.
    Zip(Arc<[Member]>),
}

impl Output {
    pub(super) const fn new(path: String, size: u64, sha256: String, content: Content) -> Self {
        Self { path, size, sha256, content, recipe: None, same_as: None }
    }

    pub(super) fn bytes(path: String, bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let (size, sha256) = (bytes.len() as u64, sha256(&bytes));
        Self::new(path, size, sha256, Content::Bytes(bytes))
    }

    pub(super) fn libraries(path: String, bytes: Arc<[u8]>, slices: usize) -> Self {
        let (size, sha256) = (bytes.len() as u64, sha256(&bytes));
        Self::new(path, size, sha256, Content::Libraries(bytes, slices))
    }

    pub(super) fn copy(path: String, source: PathBuf, hashed: &Hashed) -> Self {
        Self::new(path, hashed.size, hashed.sha256().into(), Content::Copy(source, hashed.stamp, hashed.crc32()))
    }
}
