use std::io::Read;

/// How files are fetched. On a phone this is the system's own client, which knows about metered networks and background
/// transfers; on the host `HttpTransport` (feature `http`).
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

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// The server answered so.
    #[error("the server answered with status {0}")]
    Status(u16),
    /// There was no answer.
    #[error("{0}")]
    Connection(String),
}

impl TransportError {
    /// Whether asking again may help.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 408 | 416 | 429 | 500..=599),
            Self::Connection(_) => true,
        }
    }
}
