use super::TransportError;
use std::path::{Path, PathBuf};

/// Why a model could not be downloaded, verified or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum DownloadError {
    /// The weights are in the package.
    #[error("`{0}` is bundled: there is nothing to download")]
    Bundled(String),
    /// The app config does not say which files the model has.
    #[error("the app config lists no files of `{0}`: package it with a release of knapsack that writes them")]
    NoFileList(String),
    /// The model has not been downloaded.
    #[error("`{0}` has not been downloaded")]
    NotThere(String),
    /// The disk is too full.
    #[error("downloading `{model_id}` needs {needed} bytes, but only {available} are free")]
    NoSpace {
        model_id: String,
        /// Bytes still to be fetched.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The file system refused something.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        source: std::io::Error,
    },
    /// The server kept failing.
    #[error("cannot download {url}")]
    Transport { url: String, source: TransportError },
    /// The file was wrong each time.
    #[error("{url} is not the file that was packaged: {problem}")]
    WrongContent { url: String, problem: String },
    /// A file that is no part of the model.
    #[error("`{model_id}` has no file `{path}`")]
    NoSuchFile { model_id: String, path: String },
    /// The cancel flag was raised.
    #[error("the download was cancelled")]
    Cancelled,
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> DownloadError + '_ {
    move |source| DownloadError::Io { path: path.to_owned(), source }
}
