use knapsack_models::{ConfigError, TensorsError};
use std::io;
use std::path::PathBuf;

/// Why a conversion failed. Nothing is left behind in the output's place.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum ConvertError {
    /// The folder is not a checkpoint.
    #[error("{}: {problem}", .folder.display())]
    NotACheckpoint {
        folder: PathBuf,
        /// What was looked for.
        problem: String,
    },
    /// The folder is an MLC model already.
    #[error("{}: already converted to {quantization}: it has an mlc-chat-config.json", .folder.display())]
    AlreadyConverted { folder: PathBuf, quantization: String },
    /// An MLC model in another format than the one asked for.
    #[error("{}: converted to {found}, but {asked} is asked for; convert the original checkpoint instead", .folder.display())]
    OtherQuantization {
        folder: PathBuf,
        found: String,
        /// The format asked for.
        asked: String,
    },
    /// A file that cannot be read or written.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A JSON file that cannot be decoded.
    #[error("{} is not valid JSON", .path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: knapsack_artifact::json::JsonError,
    },
    /// A safetensors file or its index that is not what it should be.
    #[error("{}: {problem}", .path.display())]
    Checkpoint {
        path: PathBuf,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// The model's configuration cannot be used.
    #[error("{}", .path.display())]
    Config {
        path: PathBuf,
        #[source]
        source: ConfigError,
    },
    /// The checkpoint's tensors are not those of its configuration.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
    /// A conversation template that is not known.
    #[error("unknown chat template `{name}`: neither `model` (the checkpoint's own), nor a path, nor one of {known}")]
    ConvTemplate {
        /// The name asked for.
        name: String,
        known: String,
    },
    /// The output is there already.
    #[error("{}: is there already", .0.display())]
    OutputExists(PathBuf),
    /// A chat template that cannot be used.
    #[error("{}: the chat template cannot be used: {problem}", .path.display())]
    ChatTemplate {
        /// The file that it is in.
        path: PathBuf,
        problem: String,
    },
    /// Not enough room for the result.
    #[error("{}: {needed} bytes are needed, {available} are free", .folder.display())]
    NoSpace {
        /// Where the result goes.
        folder: PathBuf,
        /// Bytes of the result.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl ConvertError {
    /// Whether what was asked for or given is wrong, and not the machine's state.
    pub fn is_wrong_input(&self) -> bool {
        !matches!(self, ConvertError::Io { .. } | ConvertError::NoSpace { .. } | ConvertError::Cancelled)
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| ConvertError::Io { action, path, source }
    }
}
