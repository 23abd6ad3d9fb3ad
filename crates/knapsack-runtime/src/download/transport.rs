use std::io::Read;
use std::time::Duration;

/// How files are fetched. On a phone this is the system's own client, which knows about metered networks and background
/// transfers; elsewhere `HttpTransport` (feature `http`), or what
/// the program downloads by anyway.
pub trait Transport: Send + Sync {
    /// GETs `url`, from byte `from` on when that is not 0. Redirects are followed.
    ///
    /// # Errors
    /// Anything but a success status.
    fn get(&self, url: &str, from: u64) -> Result<Body, TransportError>;
}

/// The bytes of a file.
pub struct Body {
    /// Where in the file they start: what was asked for, or 0 when the server does not do ranges.
    pub start: u64,
    /// They themselves.
    pub reader: Box<dyn Read + Send>,
}

/// Longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum TransportError {
    /// The server answered so.
    #[error("the server answered with status {0}")]
    Status(u16),
    /// There was no answer.
    #[error("{0}")]
    Connection(String),
    /// The server asks to come back later.
    #[error("the server limits requests and asks to wait {} s", .0.as_secs())]
    Limited(Duration),
    /// The server sends, but too little.
    #[error("the server sent only {bytes} bytes in {} s", .window.as_secs())]
    Slow {
        bytes: u64,
        /// In which time.
        window: Duration,
    },
    /// Asking again would not help, for this reason.
    #[error("{0}")]
    Refused(String),
}

impl TransportError {
    /// Whether asking again may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 408 | 416 | 429 | 500..=599),
            Self::Connection(_) | Self::Slow { .. } => true,
            Self::Limited(wait) => *wait <= LONGEST_WAIT,
            Self::Refused(_) => false,
        }
    }
}
