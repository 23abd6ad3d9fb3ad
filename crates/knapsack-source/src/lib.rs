//! Resolves and fetches model sources.
//!
//! In: what a manifest says of its models ([`ModelRequest`], with a [`Location`] such as `HF://org/name` or a folder), the
//! lockfile beside it, and [`Settings`] from the environment. Out: a [`Resolution`] (commit, size and sha256 of every file that
//! the package needs, and the lockfile that says so), then a [`ModelFolder`] per model: a folder on the disk whose every
//! requested file was verified. Before it in the flow is `knapsack-config`; after it are `knapsack-weights` (checkpoints) and
//! `knapsack-bundle` (MLC models).
//!
//! Downloads go into the Hugging Face hub cache in its own layout, shared with Python's `huggingface_hub`. Everything that a
//! server says is taken for hostile: names become paths only after a check, sizes and counts are capped, redirects are
//! followed only to http and https, and the token goes to the hub alone.

mod address;
mod cache;
mod card;
mod change;
mod digest;
mod error;
mod http;
mod hub;
mod layout;
mod local;
mod location;
mod model;
mod paced;
mod parallel;
mod partial;
mod progress;
mod resolution;
mod retry;
mod select;
mod settings;
mod sources;
mod stamps;
mod transfer;
mod usage;

pub use address::{Addresses, Body};
pub use cache::{
    CachedCommit, CachedRepository, Damage, clean_partial_downloads, list_downloads, remove_download, verify_downloads,
};
pub use change::LockChange;
pub use digest::sha256_file;
pub use error::{Error, FetchError, Result, Retry};
pub use local::{LocalModel, open_local};
pub use location::{HubLocation, Location, RepoId};
pub use model::{FileRole, ModelFile, ModelFolder, Origin, WeightsHeader};
pub use progress::{Event, Progress, Silent};
pub use resolution::{LockPolicy, ModelRequest, Pinned, Resolution, ResolvedModel, Update};
pub use settings::{Patience, Settings, Token};
pub use sources::Sources;
