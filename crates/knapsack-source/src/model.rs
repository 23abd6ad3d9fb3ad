//! What this crate hands on: a folder with a model in it, and where it came from.

use std::path::PathBuf;

use knapsack_config::ModelForm;

use crate::location::{HubLocation, RepoId};

/// A model that lies on the disk, complete as far as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    /// The manifest's `model_id`.
    pub model_id: String,
    /// The folder. For a remote model it is a snapshot of the hub cache: read it, never write there.
    pub path: PathBuf,
    /// A checkpoint, or weights in MLC's form.
    pub kind: ModelForm,
    /// Where it came from.
    pub origin: Origin,
    /// The model's files, sorted by path. Without weights asked for, weight files are listed but not in the folder.
    pub files: Vec<ModelFile>,
}

/// Provenance of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A folder of this machine, which has no address for an app to download from.
    Local,
    /// A repository.
    Hub {
        /// As the manifest names it.
        location: HubLocation,
        /// The commit, 40 hexadecimal digits.
        commit: String,
    },
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelFile {
    /// Path in the folder, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Of the content; always there for remote models.
    pub sha256: Option<String>,
    /// What it is for.
    pub role: FileRole,
}

/// The first bytes of a file of weights: its header, in which its tensors are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightsHeader {
    /// Path in the folder, with `/`.
    pub path: String,
    /// Bytes of the whole file.
    pub size: u64,
    /// Its first.
    pub bytes: Vec<u8>,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileRole {
    /// Configuration, index, tokenizer: always fetched.
    Metadata,
    /// Shards and safetensors: fetched when weights are asked for.
    Weights,
}

impl Origin {
    /// The address for an app to download from, as MLC writes it. The public hub, also when a mirror was used here: the
    /// package must not depend on the machine that built it.
    pub fn url(&self) -> Option<String> {
        self.repository().map(|repository| format!("{}/{repository}", crate::settings::PUBLIC_ENDPOINT))
    }

    /// The repository of a remote model.
    pub fn repository(&self) -> Option<&RepoId> {
        match self {
            Self::Local => None,
            Self::Hub { location, .. } => Some(&location.repository),
        }
    }

    /// The commit of a remote model.
    pub fn commit(&self) -> Option<&str> {
        match self {
            Self::Local => None,
            Self::Hub { commit, .. } => Some(commit),
        }
    }
}
