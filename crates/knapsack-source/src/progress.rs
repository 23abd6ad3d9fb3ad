//! What a caller is told while models are resolved and fetched. Drawing bars is the caller's business.

use std::time::Duration;

/// One step forward. Files are numbered within a batch, which starts with [`Event::Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The hub is asked what a model is.
    Resolving {
        /// The manifest's `model_id`.
        model_id: &'a str,
        /// The source in its normal form.
        source: &'a str,
    },
    /// Files are about to be downloaded.
    Batch {
        /// Files that are not in the cache.
        files: usize,
        /// Their sizes together, resumed parts included.
        bytes: u64,
    },
    /// A file begins, or begins again at another place.
    Start {
        /// Its number in the batch.
        file: usize,
        /// `org/name/path`.
        name: &'a str,
        /// Bytes in the whole file.
        size: u64,
        /// Bytes that are there already.
        done: u64,
    },
    /// Bytes of a file have arrived.
    Bytes {
        /// Its number in the batch.
        file: usize,
        /// Bytes since the last event.
        count: u64,
    },
    /// Another process downloads this file; its end is waited for.
    Waiting {
        /// Its number in the batch.
        file: usize,
    },
    /// An attempt failed and another one follows.
    Retry {
        /// The file or request, as messages name it.
        name: &'a str,
        /// Failures in a row.
        attempt: u32,
        /// Pause before the next attempt.
        wait: Duration,
        /// Why it failed.
        reason: &'a str,
    },
    /// A file is complete, verified and in the cache.
    Finish {
        /// Its number in the batch.
        file: usize,
    },
    /// The batch is complete.
    BatchEnd,
    /// Something that the user should know; nothing is wrong.
    Notice {
        /// One sentence.
        text: &'a str,
    },
}

/// Receives events, from several threads at once.
pub trait Progress: Sync {
    /// Takes one event.
    fn event(&self, event: Event<'_>);
}

/// Drops every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event<'_>) {}
}

impl<F: Fn(Event<'_>) + Sync> Progress for F {
    fn event(&self, event: Event<'_>) {
        self(event);
    }
}
