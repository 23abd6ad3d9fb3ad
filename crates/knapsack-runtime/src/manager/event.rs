use super::ManagerError;
use std::time::Duration;

/// Why a model was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionReason {
    /// To make room for another, or for a smaller budget.
    Room,
    /// The system needs memory.
    Pressure,
    /// It was asked for.
    Unloaded,
}

/// What an app may want to show.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A model is being loaded.
    Loading {
        /// `model_id` of the manifest.
        model_id: &'a str,
        /// The share that is done, 0 to 1.
        fraction: f32,
    },
    /// A model is there.
    Loaded {
        /// `model_id` of the manifest.
        model_id: &'a str,
        /// Device memory that it takes.
        bytes: u64,
        /// How long loading took.
        time: Duration,
    },
    /// A model was freed; its memory has been given back.
    Evicted {
        /// `model_id` of the manifest.
        model_id: &'a str,
        /// Device memory that was given back.
        bytes: u64,
        /// For whom, or on whose word.
        reason: EvictionReason,
    },
    /// A load failed or was cancelled.
    Failed {
        /// `model_id` of the manifest.
        model_id: &'a str,
        /// What the caller gets too.
        error: &'a ManagerError,
    },
}

/// Is told every [`Event`].
pub type Listener = Box<dyn Fn(&Event<'_>) + Send + Sync>;
