//! Keys: the hash of everything that a result depends on, and what changed when there is no result.

use crate::digest::{FileDigests, Wanted};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Everything that a step's result depends on, by name, and what the step is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// For people, and for telling what changed: `Llama-3.2-3B-Instruct-q4f16_1-MLC for iphone`. Not part of the key.
    pub subject: String,
    /// Short values; hashes of large ones.
    pub values: BTreeMap<String, String>,
}

/// The name of a cache entry: SHA-256 in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub(super) String);

impl Key {
    /// Reads 64 hexadecimal digits; `None`: it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| Self(text.to_owned()))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An input that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputChange {
    /// What the input is called when it is told why a step ran.
    pub name: String,
    /// What it was; `None`: it was not there.
    pub before: Option<String>,
    /// What it is; `None`: it is not there any more.
    pub after: Option<String>,
}

impl std::fmt::Display for InputChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Two hashes tell people nothing.
        let is_hash = |value: &String| value.len() >= 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (&self.before, &self.after) {
            (Some(before), Some(after)) if is_hash(before) && is_hash(after) => write!(f, "{} changed", self.name),
            (Some(before), Some(after)) => write!(f, "{} changed from {before} to {after}", self.name),
            (None, Some(_)) => write!(f, "{} is new", self.name),
            (Some(_), None) => write!(f, "{} is gone", self.name),
            (None, None) => write!(f, "{} is the same", self.name),
        }
    }
}

impl Inputs {
    /// Of a step for `subject`.
    pub fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), values: BTreeMap::new() }
    }

    /// Adds an input.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.values.insert(name.into(), value.to_string());
        self
    }

    /// Adds the hash of bytes, such as a configuration.
    #[must_use]
    pub fn with_bytes(self, name: impl Into<String>, bytes: &[u8]) -> Self {
        self.with(name, blake3::hash(bytes).to_hex())
    }

    /// Adds the content of several files of a folder, by their names in it. Gigabytes are read once: see [`FileDigests`].
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn with_files(mut self, folder: &Path, names: &[String], digests: &FileDigests) -> io::Result<Self> {
        let paths: Vec<_> = names.iter().map(|name| folder.join(name)).collect();
        for ((name, path), hashed) in names.iter().zip(&paths).zip(digests.of_all(&paths, Wanted::CONTENT)) {
            let hashed =
                hashed.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            self = self.with(format!("file {name}"), hashed.blake3());
        }
        Ok(self)
    }

    /// Adds the content of a file that was verified to have this hash.
    #[must_use]
    pub fn with_verified_file(self, name: &str, sha256: &str) -> Self {
        self.with(format!("file {name}"), sha256)
    }

    /// Adds the compiler: its version, and the running program's own content, so that a changed build never takes old
    /// results for its own.
    #[must_use]
    pub fn with_compiler(self, digests: &FileDigests) -> Self {
        let program = std::env::current_exe().and_then(|path| digests.of(&path, Wanted::CONTENT));
        let build = program.map_or_else(|_| "unknown".to_string(), |hashed| hashed.blake3().to_string());
        self.with("compiler", env!("CARGO_PKG_VERSION")).with("compiler build", build)
    }

    /// The key: a hash of names and values, each with its length.
    pub fn key(&self) -> Key {
        let mut hasher = Sha256::new();
        for text in self.values.iter().flat_map(|(name, value)| [name, value]) {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        Key(hex::encode(hasher.finalize()))
    }

    /// What is different from `before`.
    pub(super) fn changes(&self, before: &Self) -> Vec<InputChange> {
        let names: std::collections::BTreeSet<_> = before.values.keys().chain(self.values.keys()).collect();
        names
            .into_iter()
            .map(|name| InputChange {
                name: name.clone(),
                before: before.values.get(name).cloned(),
                after: self.values.get(name).cloned(),
            })
            .filter(|change| change.before != change.after)
            .collect()
    }
}
