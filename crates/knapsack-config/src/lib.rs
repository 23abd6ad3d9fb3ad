//! The manifest: parsing with spans, validation, JSON Schema, lockfile.
//!
//! In: the path of an `mlc-package-config.json`. Out: a [`Manifest`] whose every value was checked, or all that is wrong
//! with it at once, each finding with its place in the text ([`Report`]). Nothing is fetched and nothing is written here.
//! Next in the flow is `knapsack-source`, which resolves the model sources that the manifest names.
//!
//! The way through [`load`]: text → values with spans ([`parse`]) → the manifest as written, each value checked alone
//! (`written`) and merged with what it extends → resolved, checked as a whole (`resolve`, [`manifest`]).

pub mod codes;
mod device;
pub mod devices;
pub mod diagnostic;
pub mod edit;
mod environment;
mod gpus;
mod load;
mod local;
pub mod lockfile;
pub mod manifest;
pub mod overrides;
pub mod parse;
pub mod render;
mod resolve;
pub mod schema;
pub mod source;
pub mod source_map;
pub mod stores;
pub mod suggest;
mod text;
mod written;

pub use devices::{AppMemory, DEVICES_FILE, DeviceProfile, DeviceProfiles};
pub use diagnostic::{Diagnostic, Report, Severity};
pub use edit::set_overrides;
pub use environment::Environment;
pub use gpus::{Gpu, Rate};
pub use load::{LoadedManifest, load, load_text};
pub use lockfile::{LockedFile, LockedModel, Lockfile, LockfileError};
pub use manifest::{AppKeys, ChatTemplateRef, DEFAULT_QUANTIZATION, Manifest, ModelEntry, PrebuiltLibrary};
pub use overrides::{OverrideKey, Overrides};
pub use schema::json_schema;
pub use source::{HubSource, LocalSource, ModelForm, ModelSource};
pub use source_map::{SourceMap, Span, Spanned};
pub use stores::{Limit, Shipped, StoreLimits};
pub use text::bytes;
pub use written::key_tables;
