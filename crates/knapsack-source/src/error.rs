//! What can go wrong between a manifest's `model` and files on the disk.

use std::path::PathBuf;
use std::time::Duration;

use knapsack_config::lockfile::LockfileError;

use crate::change::LockChange;

/// Failures of this crate. Addresses in it never carry a query (signed links) and never a token.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum Error {
    /// The `model` text is neither a repository nor a path.
    #[error("cannot read the model source {text:?}: {reason}")]
    Location {
        /// As written.
        text: String,
        reason: String,
    },
    /// An environment variable cannot be used.
    #[error("the environment variable {name} cannot be used: {reason}")]
    Setting {
        /// The variable, such as `HF_ENDPOINT`.
        name: &'static str,
        /// What is wrong. Never its value where that is a secret.
        reason: String,
    },
    /// A folder or repository holds no model.
    #[error("{place} is not a model: {reason}")]
    NotAModel {
        /// Folder or repository.
        place: String,
        /// What was looked for, and what is there.
        reason: String,
    },
    /// A checkpoint that the app would have to download and convert.
    #[error(
        "{model_id}: {source_name} is a checkpoint, which an app cannot use as it is; set bundle_weight to true, or name an MLC model"
    )]
    CheckpointNotBundled {
        /// The manifest's `model_id`.
        model_id: String,
        /// The source in its normal form.
        source_name: String,
    },
    /// An index or configuration of a model is damaged.
    #[error("{file} of {place} is damaged: {reason}")]
    DamagedMetadata {
        /// Folder or repository.
        place: String,
        /// Its name in the folder or repository.
        file: String,
        /// What its reader says.
        reason: String,
    },
    /// The disk.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The verb of the message, such as `open`.
        action: &'static str,
        /// The file or folder that the system was asked for.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// Less free space than the downloads need.
    #[error(
        "the downloads need {needed} bytes, but only {available} are free at {}; free some, or set HF_HUB_CACHE to another disk",
        path.display()
    )]
    NoSpace {
        /// Still to be written.
        needed: u64,
        /// Bytes that the file system gives.
        available: u64,
        /// The folder that was looked into.
        path: PathBuf,
    },
    /// Something is not in the cache and the network may not be used.
    #[error("{what} is not in the cache at {}, and this run is offline", cache.display())]
    Offline {
        /// A file, or the answer to a revision.
        what: String,
        /// The folder that was looked into.
        cache: PathBuf,
    },
    /// An address is to be fetched and the network may not be used.
    #[error("{url} has to be downloaded, and this run is offline")]
    OfflineAddress {
        /// The address without its query, which may hold a signature.
        url: String,
    },
    /// The lockfile would change, and `--locked` forbids it.
    #[error("knapsack.lock is not up to date: {}", changes.iter().map(|change| change.to_string()).collect::<Vec<_>>().join("; "))]
    LockOutOfDate {
        /// How, one per model.
        changes: Vec<LockChange>,
    },
    /// The lockfile itself.
    #[error(transparent)]
    Lockfile(#[from] LockfileError),
    /// The repository or file does not exist (or is private, and the token does not open it).
    #[error("{what} was not found at {url}{hint}")]
    NotFound {
        /// Repository, revision or file.
        what: String,
        /// Where it was asked for.
        url: String,
        /// What may help, starting with a semicolon, or empty.
        hint: &'static str,
    },
    /// The hub wants a token, or another one.
    #[error("{repository} may not be read: {reason}")]
    Denied {
        /// `org/name`.
        repository: String,
        /// What the user can do.
        reason: String,
    },
    /// The hub asked to slow down for longer than this run waits.
    #[error("the server at {url} limits requests{}", wait.map(|wait| format!(" and asks to wait {} s", wait.as_secs())).unwrap_or_default())]
    RateLimited {
        /// The address without its query, which may hold a signature.
        url: String,
        /// `Retry-After`, when it was there.
        wait: Option<Duration>,
    },
    /// Any other status.
    #[error("the server answered {status} at {url}{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Status {
        /// HTTP status.
        status: u16,
        /// The address without its query, which may hold a signature.
        url: String,
        /// The server's own words, shortened.
        message: String,
    },
    /// The connection failed, stalled or broke.
    #[error("the connection to {url} failed: {reason}")]
    Connection {
        /// The address without its query, which may hold a signature.
        url: String,
        /// What the socket, TLS or the proxy says.
        reason: String,
    },
    /// The body comes so slowly that the file would never be there.
    #[error("the connection to {url} is too slow: {reason}")]
    TooSlow {
        /// The address without its query, which may hold a signature.
        url: String,
        reason: String,
    },
    /// The server's name means nothing here.
    #[error("the host name of {url} cannot be resolved; without a network, --offline uses what is in the cache")]
    UnknownHost {
        /// The address without its query, which may hold a signature.
        url: String,
    },
    /// The server's certificate is not trusted.
    #[error("{url} is not trusted: {reason}; if a proxy or an own hub is meant, set SSL_CERT_FILE to its certificates")]
    Untrusted {
        /// The address without its query, which may hold a signature.
        url: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects to {target}, which is not followed: {reason}")]
    Redirect {
        /// The address that redirects.
        url: String,
        /// The address that it leads to.
        target: String,
        /// The rule that the target breaks.
        reason: &'static str,
    },
    /// An answer that a hub cannot give.
    #[error("the server's answer at {url} cannot be used: {reason}")]
    BadAnswer {
        /// The address without its query, which may hold a signature.
        url: String,
        reason: String,
    },
    /// A name that would leave the model's folder, or that some file system cannot hold.
    #[error("the file name {name:?} in {place} is refused: {reason}")]
    UnsafeName { name: String, place: String, reason: &'static str },
    /// A file has another length than announced.
    #[error("{file} has {found} bytes, expected {expected}{hint}")]
    WrongSize {
        /// `org/name/path`, or a path of this machine.
        file: String,
        /// What the index or the hub announces.
        expected: u64,
        /// Received or found.
        found: u64,
        /// More about it, starting with a semicolon, or empty.
        hint: &'static str,
    },
    /// A file has other content than announced.
    #[error("{file} is damaged: {algorithm} is {found}, expected {expected}")]
    WrongDigest {
        /// `org/name/path`, or a path of this machine.
        file: String,
        /// `sha256` or `git object id`.
        algorithm: &'static str,
        /// The digest that the lockfile, the hub or the index names.
        expected: String,
        /// The digest of what is there.
        found: String,
    },
    /// Tried as often as allowed.
    #[error("gave up on {file} after {attempts} attempts without progress")]
    GaveUp {
        /// The file or address.
        file: String,
        attempts: u32,
        source: Box<Error>,
    },
    /// Another file failed first, so this one was stopped. Never the error that a caller gets.
    #[error("stopped")]
    Stopped,
}

/// What a failure means for another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again.
    Never,
    /// It may pass.
    Backoff,
    /// It may pass after this time.
    After(Duration),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the user has to change something that they wrote or named: the manifest, the lockfile, a setting, the model
    /// itself. Everything else may pass another time: the network, the disk, a server's limits.
    pub fn is_wrong_input(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            Self::NoSpace { .. }
            | Self::RateLimited { .. }
            | Self::Status { .. }
            | Self::Connection { .. }
            | Self::UnknownHost { .. }
            | Self::TooSlow { .. }
            | Self::Untrusted { .. }
            | Self::Redirect { .. }
            | Self::BadAnswer { .. }
            | Self::WrongDigest { .. }
            | Self::Stopped => false,
            Self::GaveUp { source, .. } => source.is_wrong_input(),
            Self::Lockfile(error) => !matches!(error, LockfileError::Io { .. }),
            _ => true,
        }
    }

    /// Whether nothing at all can be had of the server now, so that asking it for another model is of no use.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::UnknownHost { .. } | Self::Untrusted { .. } | Self::RateLimited { .. } => {
                true
            }
            Self::GaveUp { source, .. } => source.is_unreachable(),
            _ => false,
        }
    }

    /// Whether another attempt is worth it.
    pub fn retry(&self) -> Retry {
        match self {
            Self::RateLimited { wait: Some(wait), .. } => Retry::After(*wait),
            Self::RateLimited { wait: None, .. } | Self::Connection { .. } | Self::TooSlow { .. } => Retry::Backoff,
            Self::Status { status: 408 | 425 | 500..=599, .. } => Retry::Backoff,
            _ => Retry::Never,
        }
    }
}

/// A failure among several things that were to be had at once.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct FetchError {
    /// Which of them failed, counted from 0; `None` when it is none of them, but the disk or a setting.
    pub of: Option<usize>,
    /// The failure.
    pub source: Error,
}

impl From<Error> for FetchError {
    fn from(source: Error) -> Self {
        FetchError { of: None, source }
    }
}

impl From<FetchError> for Error {
    fn from(error: FetchError) -> Self {
        error.source
    }
}

/// This crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;
