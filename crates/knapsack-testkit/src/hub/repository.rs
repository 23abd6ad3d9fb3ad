//! What the test hub serves: repositories with commits, branches and files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A repository of the test hub. Each set of files is a commit; `main` and other names point to commits.
#[derive(Debug, Clone, Default)]
pub struct HubRepository {
    pub(super) files: BTreeMap<String, HubFile>,
    pub(super) access: Access,
    /// The head of its card, as the hub hands it on.
    pub(super) card: serde_json::Value,
}

/// Who may read a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    #[default]
    Public,
    /// Who has this token; others are told that it does not exist.
    Private(String),
    /// Who has this token; others are told that it is gated.
    Gated(String),
}

/// A file with its digests.
#[derive(Debug, Clone)]
pub(super) struct HubFile {
    pub(super) content: Content,
    pub(super) lfs: bool,
    pub(super) sha256: String,
    pub(super) git_oid: String,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Bytes(Arc<[u8]>),
    File { path: PathBuf, size: u64 },
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }
}

impl HubRepository {
    /// An empty repository that everybody may read.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every file of a folder; weights (`.bin`, `.safetensors`) as LFS files.
    ///
    /// # Panics
    /// When the folder cannot be read.
    pub fn of_folder(folder: &Path) -> Self {
        let mut repository = Self::new();
        for entry in fs::read_dir(folder).expect("the folder of a test repository") {
            let entry = entry.expect("the folder of a test repository");
            let name = entry.file_name().into_string().expect("a UTF-8 name");
            let bytes = fs::read(entry.path()).expect("a file of a test repository");
            let lfs = name.ends_with(".bin") || name.ends_with(".safetensors");
            repository = if lfs { repository.lfs(&name, bytes) } else { repository.file(&name, bytes) };
        }
        repository
    }

    /// Adds or replaces a file that lies in Git.
    pub fn file(self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.add(path, bytes.into(), false)
    }

    /// Adds or replaces a file that lies in LFS.
    pub fn lfs(self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.add(path, bytes.into(), true)
    }

    /// Adds a large LFS file that is sent straight from the disk. `sha256` is not checked.
    pub fn lfs_on_disk(mut self, path: &str, file: &Path, size: u64, sha256: &str) -> Self {
        let content = Content::File { path: file.to_owned(), size };
        let git_oid = git_oid(pointer(sha256, size).as_bytes());
        self.files.insert(path.to_owned(), HubFile { content, lfs: true, sha256: sha256.to_owned(), git_oid });
        self
    }

    /// Removes a file.
    pub fn without(mut self, path: &str) -> Self {
        self.files.remove(path);
        self
    }

    /// Says what its card says.
    pub fn card(mut self, card: serde_json::Value) -> Self {
        self.card = card;
        self
    }

    /// Says who may read it.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    fn add(mut self, path: &str, bytes: Vec<u8>, lfs: bool) -> Self {
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let git_oid = if lfs { git_oid(pointer(&sha256, bytes.len() as u64).as_bytes()) } else { git_oid(&bytes) };
        self.files.insert(path.to_owned(), HubFile { content: Content::Bytes(bytes.into()), lfs, sha256, git_oid });
        self
    }

    /// A made-up commit that depends on all content.
    pub(super) fn commit(&self) -> String {
        let mut hasher = Sha1::new();
        for (path, file) in &self.files {
            hasher.update(format!("{path}\0{}\0", file.sha256));
        }
        hex::encode(hasher.finalize())
    }
}

impl HubFile {
    /// What Git holds in place of the file.
    pub(super) fn pointer(&self) -> String {
        pointer(&self.sha256, self.content.size())
    }

    pub(super) fn etag(&self) -> &str {
        if self.lfs { &self.sha256 } else { &self.git_oid }
    }
}

fn pointer(sha256: &str, size: u64) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n")
}

fn git_oid(bytes: &[u8]) -> String {
    hex::encode(Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}
