use std::fmt;

/// A difference between two lockfiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockChange {
    /// A model that was not locked.
    Added {
        /// Its `model_id`.
        model_id: String,
        /// Its source in its normal form.
        model: String,
    },
    /// A model that the manifest no longer names.
    Removed {
        /// Its `model_id`.
        model_id: String,
    },
    /// A model that comes from elsewhere now.
    Source {
        /// Its `model_id`.
        model_id: String,
        /// The source before.
        from: String,
        /// The source now.
        to: String,
    },
    /// A model at another commit, or with other files.
    Moved {
        /// Its `model_id`.
        model_id: String,
        /// The commit before.
        from: String,
        /// The commit now.
        to: String,
    },
}

impl fmt::Display for LockChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |commit: &str| commit.chars().take(12).collect::<String>();
        match self {
            Self::Added { model_id, model } => write!(f, "{model_id} ({model}) is not in it"),
            Self::Removed { model_id } => write!(f, "{model_id} is in it, but not in the manifest"),
            Self::Source { model_id, from, to } => write!(f, "{model_id} is locked as {from}, the manifest says {to}"),
            Self::Moved { model_id, from, to } => write!(f, "{model_id} moves from {} to {}", short(from), short(to)),
        }
    }
}

impl LockChange {
    /// The `model_id` of the model that it is about.
    pub fn model_id(&self) -> &str {
        let (Self::Added { model_id, .. }
        | Self::Removed { model_id }
        | Self::Source { model_id, .. }
        | Self::Moved { model_id, .. }) = self;
        model_id
    }
}
