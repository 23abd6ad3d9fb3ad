//! What was computed before: converted weights and compiled libraries, by the content of everything they were made from.
//!
//! ```text
//! <root>/                      KNAPSACK_CACHE, or the platform's cache folder
//!   CACHEDIR.TAG               tells backup programs to pass
//!   converted-v1/<key>/        an MLC weight folder, converted from a checkpoint
//!   libraries-v1/<key>/        one compiled model library
//!     entry.json               subject, inputs, files with sizes and hashes
//!     content/                 the files
//!   digests-v1/                hashes of large files ([`crate::FileDigests`])
//!   locks/                     one file for each key and output folder in use
//! ```
//!
//! Each bucket has its own version, raised when its content changes in meaning. A key is the SHA-256 of all inputs, the
//! compiler among them ([`Inputs`]); never of names or times. An entry is made beside and renamed, under a lock that other
//! processes respect; it is checked by its sizes when it is used and by its hashes by [`Cache::verify`].

mod entry;
mod inputs;
mod maintain;
mod record;
pub mod shared;

pub use entry::{CacheEntry, Reason};
pub use inputs::{InputChange, Inputs, Key};
pub use maintain::{Cleaned, Summary, Verified};
pub use shared::{Object, Shared, SharedEntry, Store, StoreError};

use crate::digest::FileDigests;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A kind of cached thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bucket {
    /// MLC weight folders that were converted from checkpoints.
    Converted,
    /// Compiled model libraries.
    Libraries,
}

impl Bucket {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Converted, Self::Libraries];

    /// Its folder, with its version.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Converted => "converted-v1",
            Self::Libraries => "libraries-v1",
        }
    }
}

const DIGESTS: &str = "digests-v1";
/// Tokenizers' tables, which running models left.
const TOKENIZERS: &str = "tokenizers-v1";
const LOCKS: &str = "locks";

/// Why the cache failed. Nothing else was harmed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The environment says nothing.
    #[error("there is no place for the cache: neither KNAPSACK_CACHE nor the home folder is set")]
    NoPlace,
    /// The file system refused something.
    #[error("cache: cannot {action} `{}`", path.display())]
    Io {
        /// `read`, `create`, …
        action: &'static str,
        /// Of which file or folder.
        path: PathBuf,
        /// The system's own error.
        #[source]
        source: std::io::Error,
    },
    /// The shared cache did not do what it was asked for.
    #[error("shared cache: {0}")]
    Shared(#[from] StoreError),
    /// What was made cannot be stored.
    #[error("cache: `{0}` is not a name for a cached file")]
    Name(String),
}

impl CacheError {
    fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}

/// Converted weights and compiled libraries, by the hash of what they were made from.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    digests: FileDigests,
    shared: Option<Shared>,
}

impl Cache {
    /// The cache in `root`, which is created when it is first written to.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let digests = FileDigests::at(root.join(DIGESTS));
        Self { root, digests, shared: None }
    }

    /// The same, taking results from other machines and giving them.
    #[must_use]
    pub fn with_shared(mut self, shared: Shared) -> Self {
        self.shared = Some(shared);
        self
    }

    /// What is shared with other machines.
    pub const fn shared(&self) -> Option<&Shared> {
        self.shared.as_ref()
    }

    /// Where the environment wants it: `KNAPSACK_CACHE`, or `knapsack` in the platform's folder for caches.
    ///
    /// # Errors
    /// When the environment does not even name a home folder.
    pub fn place(lookup: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, CacheError> {
        let path = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(root) = path("KNAPSACK_CACHE") {
            return std::path::absolute(&root).map_err(CacheError::io("resolve", &root));
        }
        let folder = if cfg!(windows) {
            path("LOCALAPPDATA").map(|folder| folder.join("knapsack").join("cache"))
        } else if cfg!(target_vendor = "apple") {
            path("HOME").map(|home| home.join("Library/Caches/knapsack"))
        } else {
            let xdg = path("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
            xdg.or_else(|| Some(path("HOME")?.join(".cache"))).map(|folder| folder.join("knapsack"))
        };
        folder.ok_or(CacheError::NoPlace)
    }

    /// The folder that holds all of it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The memory of file hashes that lies in the cache.
    pub const fn digests(&self) -> &FileDigests {
        &self.digests
    }

    /// Where models that are run keep the tables of their tokenizers.
    pub fn tokenizers(&self) -> PathBuf {
        self.root.join(TOKENIZERS)
    }

    /// Where locks are, for [`crate::WriteOptions::locks`] too.
    pub fn locks(&self) -> PathBuf {
        self.root.join(LOCKS)
    }

    fn bucket(&self, bucket: Bucket) -> PathBuf {
        self.root.join(bucket.folder())
    }
}

#[cfg(test)]
mod tests;
