//! What ends a stage besides findings about the manifest.

use crate::model::ModelError;
use knapsack_bundle::{BundleError, CacheError};
use knapsack_compiler::codegen::metallib::MetallibError;
use knapsack_config::LockfileError;
use knapsack_weights::ConvertError;
use std::path::PathBuf;

/// Why a stage could not do its work. What was on the disk before is still there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The observer asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The file system refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// The file or folder that the system was asked for.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// The cache of compiled libraries and converted weights.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The lockfile cannot be read, or is another version's.
    #[error(transparent)]
    Lockfile(#[from] LockfileError),
    /// The hub, a download, a folder.
    #[error(transparent)]
    Source(#[from] knapsack_source::Error),
    /// A model cannot be compiled.
    #[error("{model_id} cannot be compiled")]
    Model {
        /// The manifest's `model_id`.
        model_id: String,
        /// What its configuration, graph or sizes say.
        source: Box<ModelError>,
    },
    /// Apple's Metal compiler.
    #[error(transparent)]
    Metal(#[from] MetallibError),
    /// A checkpoint cannot be converted.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The package cannot be written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl Error {
    /// Whether the user has to change something that they wrote or named; otherwise the same run may succeed another time.
    pub fn is_wrong_input(&self) -> bool {
        match self {
            Error::Lockfile(error) => !matches!(error, LockfileError::Io { .. }),
            Error::Source(error) => error.is_wrong_input(),
            Error::Convert(error) => error.is_wrong_input(),
            Error::Bundle(error) => error.is_wrong_input(),
            Error::Model { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }
}
