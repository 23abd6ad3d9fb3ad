//! What the stages tell while they work. Showing it is the caller's business.

use knapsack_bundle::cache::Reason;
use knapsack_source::LockChange;
use std::path::Path;

/// Something that happened or begins.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The hub is asked, or files are downloaded.
    Source(knapsack_source::Event<'a>),
    /// The lockfile says something else about a model than before.
    LockChange(&'a LockChange),
    /// The lockfile was written.
    Locked {
        /// Where the lockfile lies.
        path: &'a Path,
    },
    /// A library is being compiled.
    Compiling {
        /// Of which model.
        model_id: &'a str,
        /// The format of its weights.
        quantization: &'static str,
    },
    /// A library is there.
    Compiled {
        /// Of which model.
        model_id: &'a str,
        /// Why it was compiled, or was not.
        reason: &'a Reason,
    },
    /// A library was taken from a file.
    Prebuilt {
        /// For which model.
        model_id: &'a str,
        /// The prebuilt library.
        path: &'a Path,
    },
    /// A checkpoint is being converted.
    Converting {
        /// The model's name.
        name: &'a str,
        /// The format that it is converted to.
        quantization: &'static str,
    },
    /// So much of the checkpoint is converted.
    ConvertingProgress {
        /// Bytes of the checkpoint so far.
        done: u64,
        /// Bytes of the checkpoint altogether.
        total: u64,
    },
    /// The conversion is over, well or not.
    ConvertingEnd,
    /// A converted model is there.
    Converted {
        /// `model_id` of the manifest.
        model_id: &'a str,
        /// Why it was converted, or was not.
        reason: &'a Reason,
    },
    /// The package is being written.
    Bundling,
    /// A file of the package is about to be hashed or written.
    BundlingFile {
        /// In the package.
        path: &'a str,
        /// Bytes of the file.
        bytes: u64,
    },
    /// The package is written, or it failed.
    BundlingEnd,
    /// Something that the user should know; nothing is wrong.
    Notice {
        /// One sentence.
        text: &'a str,
    },
    /// Something that is probably wrong, and that the work goes on with.
    Warning {
        /// One sentence.
        text: &'a str,
    },
}

/// Receives events, from several threads at once, and says when to stop.
pub trait Observer: Sync {
    /// Takes one event.
    fn event(&self, event: Event<'_>);

    /// Asked often while a checkpoint is converted and the package is written: `true` ends the work soon, with
    /// [`crate::Error::Interrupted`] and nothing half-done.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Drops every event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: Event<'_>) {}
}
