use std::sync::Arc;

/// How a model is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Loaded, not in use.
    Idle,
    /// Loaded, not in use, not to be evicted.
    Pinned,
    /// In use by this many handles.
    InUse(usize),
    /// Being loaded.
    Loading,
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Use::Idle => f.write_str("idle"),
            Use::Pinned => f.write_str("pinned"),
            Use::InUse(handles) => write!(f, "in use by {handles}"),
            Use::Loading => f.write_str("loading"),
        }
    }
}

/// A model that occupies part of the budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// `model_id` of the manifest.
    pub model_id: String,
    /// Device memory that it holds.
    pub bytes: u64,
    /// Why it cannot be evicted.
    pub used: Use,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} bytes ({})", self.model_id, self.bytes, self.used)
    }
}

/// Why a model could not be acquired or unloaded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum ManagerError {
    /// There is no room, and nothing more that may be evicted.
    #[error(
        "`{model_id}` needs {needed} bytes, but only {available} of the budget of {budget} can be had{}",
        held(holders)
    )]
    NoRoom {
        model_id: String,
        needed: u64,
        /// Bytes that are free or could be made free.
        available: u64,
        budget: u64,
        /// Who holds the rest.
        holders: Vec<Holder>,
    },
    /// The loader failed.
    #[error("cannot load `{model_id}`")]
    Load {
        model_id: String,
        /// Why; shared by all calls that waited for this load.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The model is in use.
    #[error("`{model_id}` cannot be unloaded: it is {used}")]
    InUse { model_id: String, used: Use },
    /// The caller's cancel flag was raised.
    #[error("loading `{model_id}` was cancelled")]
    Cancelled { model_id: String },
}

fn held(holders: &[Holder]) -> String {
    match holders {
        [] => String::new(),
        _ => format!("; held: {}", holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}
