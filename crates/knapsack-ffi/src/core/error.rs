//! Failures as an app sees them: a stable number, a text for the log, and the figures that a person is told.

use knapsack_runtime::download::{DownloadError, TransportError};
use knapsack_runtime::manager::{Holder, ManagerError, Use};
use knapsack_runtime::text::TextError;
use knapsack_runtime::{EngineError, LoadFailed, PackageError, SavedError};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// What went wrong. Numbers are never used again for something else.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A bug in Knapsack.
    Internal = 1,
    /// An argument is outside its range.
    InvalidArgument = 2,
    /// The package is missing or damaged.
    PackageUnusable = 3,
    /// The package has no such model.
    NoSuchModel = 4,
    /// The app has no library for the model.
    LibraryMissing = 5,
    /// The library is damaged or of another version.
    LibraryUnusable = 6,
    /// The model is to be downloaded first.
    NotDownloaded = 7,
    /// The network; numbers: HTTP status, seconds to wait.
    Network = 8,
    /// The disk is too full; numbers: needed, available.
    NoSpace = 9,
    /// A file is not the one that was packaged.
    WrongContent = 10,
    /// The budget is too small; numbers: needed, available.
    NotEnoughMemory = 11,
    /// The model is in use.
    InUse = 12,
    /// The device failed.
    DeviceFailed = 13,
    /// The prompt does not fit; numbers: tokens, context.
    PromptTooLong = 14,
    /// The model's tokenizer or template.
    Template = 15,
    /// The caller's cancel flag.
    Cancelled = 16,
    /// The app is in the background.
    Backgrounded = 17,
    /// A saved state cannot be read or written, is damaged, or is another model's.
    SavedStateUnusable = 18,
}

/// Why a call failed: a code, a sentence and figures.
#[derive(Clone, Debug)]
pub struct Error {
    /// What went wrong.
    pub code: Code,
    /// For a log.
    pub message: String,
    /// See [`Code`]; 0 where it has none.
    pub numbers: [u64; 2],
    /// Of [`Code::NotEnoughMemory`]: which models hold the rest of the budget.
    pub holders: Vec<Holder>,
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure without figures.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), numbers: [0, 0], holders: Vec::new() }
    }
}

impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let mut found = Self::new(Code::Internal, chain(&error));
        classify(&error, &mut found);
        found
    }
}

/// How a model is held, as a number: idle, pinned, in use, loading.
pub(crate) const fn holding(used: Use) -> u32 {
    match used {
        Use::Idle => 0,
        Use::Pinned => 1,
        Use::InUse(_) => 2,
        Use::Loading => 3,
    }
}

/// An error and what caused it, each thing said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = cause.source();
    }
    text
}

fn classify(error: &(dyn std::error::Error + 'static), found: &mut Error) {
    if let Some(error) = error.downcast_ref::<ManagerError>() {
        found.code = match error {
            ManagerError::NoRoom { needed, available, holders, .. } => {
                found.numbers = [*needed, *available];
                found.holders.clone_from(holders);
                Code::NotEnoughMemory
            }
            ManagerError::Load { source, .. } => return classify(&**source, found),
            ManagerError::InUse { .. } => Code::InUse,
            ManagerError::Cancelled { .. } => Code::Cancelled,
            _ => Code::Internal,
        };
    } else if let Some(error) = error.downcast_ref::<LoadFailed>() {
        match error {
            LoadFailed::Package(error) => classify(error, found),
            LoadFailed::Download(error) => classify(error, found),
            LoadFailed::Engine(error) => classify(error, found),
            LoadFailed::NotDownloaded(_) => found.code = Code::NotDownloaded,
            _ => {}
        }
    } else if let Some(error) = error.downcast_ref::<PackageError>() {
        found.code = match error {
            PackageError::NoSuchModel { .. } | PackageError::ModelNotNamed { .. } => Code::NoSuchModel,
            PackageError::NoSuchLibrary { .. } => Code::LibraryMissing,
            PackageError::Library { .. } | PackageError::Table { .. } => Code::LibraryUnusable,
            PackageError::NotBundled { .. } | PackageError::NotDelivered { .. } => Code::NotDownloaded,
            PackageError::Misplaced { .. } => Code::WrongContent,
            _ => Code::PackageUnusable,
        };
    } else if let Some(error) = error.downcast_ref::<DownloadError>() {
        found.code = match error {
            DownloadError::NoSpace { needed, available, .. } => {
                found.numbers = [*needed, *available];
                Code::NoSpace
            }
            DownloadError::Transport { source, .. } => {
                found.numbers = match source {
                    TransportError::Status(status) => [u64::from(*status), 0],
                    TransportError::Limited(wait) => [429, wait.as_secs()],
                    _ => [0, 0],
                };
                Code::Network
            }
            DownloadError::WrongContent { .. } => Code::WrongContent,
            DownloadError::NotThere(_) => Code::NotDownloaded,
            DownloadError::NoSuchFile { .. } => Code::InvalidArgument,
            DownloadError::Cancelled => Code::Cancelled,
            _ => Code::PackageUnusable,
        };
    } else if let Some(error) = error.downcast_ref::<SavedError>() {
        found.code = match error {
            SavedError::Device(_) => Code::DeviceFailed,
            _ => Code::SavedStateUnusable,
        };
    } else if let Some(error) = error.downcast_ref::<EngineError>() {
        found.code = match error {
            backgrounded if backgrounded.is_backgrounded() => Code::Backgrounded,
            EngineError::Sampling(_)
            | EngineError::Grammar(_)
            | EngineError::Text(TextError::NoThinking)
            | EngineError::EmptyPrompt
            | EngineError::TokenOutOfRange { .. } => Code::InvalidArgument,
            EngineError::PromptTooLong { tokens, context } => {
                found.numbers = [*tokens as u64, u64::from(*context)];
                Code::PromptTooLong
            }
            EngineError::Text(_) => Code::Template,
            EngineError::Cancelled => Code::Cancelled,
            _ => Code::DeviceFailed,
        };
    }
}

thread_local! {
    /// How many [`guard`]s this thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Where the last panic inside of one was.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `body`; a panic becomes an error that says where it was, if the build knows. It goes to the app's log; no stack is looked at, which would be slow and has
/// crashed in libraries whose pages are larger than the symbolizer expects.
///
/// # Errors
/// The body's own, or [`Code::Internal`].
pub fn guard<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if DEPTH.get() == 0 {
                return others(panic);
            }
            // A build for size has no places.
            PLACE.set(panic.location().filter(|place| place.line() > 0).map(ToString::to_string));
        }));
    });
    DEPTH.set(DEPTH.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    outcome.unwrap_or_else(|panic| {
        let error = panicked(&panic);
        ::log::error!("{}", error.message);
        Err(error)
    })
}

/// What a panic said.
pub(super) fn panicked(panic: &Box<dyn Any + Send>) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    let place = PLACE.take().map(|place| format!(" at {place}")).unwrap_or_default();
    Error::new(Code::Internal, format!("a bug in knapsack{place}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_that_says_where() {
        for _ in 0..2 {
            let error = guard::<()>(|| panic!("seven is {}", 7)).unwrap_err();
            assert_eq!(error.code, Code::Internal);
            assert!(error.message.contains("error.rs:") && error.message.ends_with("seven is 7"), "{}", error.message);
        }
        // The inner one does not end the outer one.
        let outer = guard(|| Ok(guard::<()>(|| panic!("inner")).is_err()));
        assert!(outer.unwrap());
    }

    #[test]
    fn causes_are_found_through_every_layer() {
        let inner = LoadFailed::Engine(EngineError::PromptTooLong { tokens: 9, context: 8 });
        let error = Error::from(ManagerError::Load { model_id: "m".into(), source: std::sync::Arc::new(inner) });
        assert_eq!((error.code, error.numbers), (Code::PromptTooLong, [9, 8]));
        assert!(error.message.starts_with("cannot load `m`: the prompt has 9 tokens"), "{}", error.message);
    }
}
