/// What kind of failure ended a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It does not parse, or names a filter, test or statement that does not exist.
    Syntax,
    /// It called `raise_exception`: the message is its own.
    Raised,
    /// An operation that its operands do not allow, as Python would say.
    Operation,
    /// It went beyond a bound.
    Limit,
}

/// Why a template could not be parsed or rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Whether the template, its data or a bound is at fault.
    pub kind: ErrorKind,
    /// One sentence, without the line.
    pub message: String,
    /// The line of the template, from 1, where it is known.
    pub line: Option<u32>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), line: None }
    }

    pub(crate) fn operation(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Operation, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// Adds the line, unless a more precise one is known.
    pub(crate) fn at(mut self, line: u32) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match self.line {
            Some(line) if self.kind != ErrorKind::Raised => write!(f, " (line {line})"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

pub(crate) type Result<T> = std::result::Result<T, Error>;
