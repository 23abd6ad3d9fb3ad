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
    pub(super) sha256: String,
    pub(super) content: Content,
    /// Of an archive: what it is made of, for telling whether it would be another.
    pub(super) recipe: Option<String>,
}

/// What it is made from.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// These bytes.
    Bytes(Arc<[u8]>),
    /// Model libraries, in this many slices: read back after writing.
    Libraries(Arc<[u8]>, usize),
    /// A verified file, and what it looked like then.
    Copy(PathBuf, Stamp),
    /// An archive of these members.
    Zip(Arc<[Member]>),
}

impl Output {
    pub(super) fn bytes(path: String, bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self { path, size: bytes.len() as u64, sha256: sha256(&bytes), content: Content::Bytes(bytes), recipe: None }
    }

    pub(super) fn libraries(path: String, bytes: Arc<[u8]>, slices: usize) -> Self {
        let (size, sha256) = (bytes.len() as u64, sha256(&bytes));
        Self { path, size, sha256, content: Content::Libraries(bytes, slices), recipe: None }
    }

    pub(super) fn copy(path: String, source: PathBuf, hashed: &Hashed) -> Self {
        let content = Content::Copy(source, hashed.stamp);
        Self { path, size: hashed.size, sha256: hashed.sha256().into(), content, recipe: None }
    }
}
