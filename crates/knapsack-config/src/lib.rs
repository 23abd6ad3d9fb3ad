//! The manifest: parsing with spans, validation, JSON Schema, lockfile.
//!
//! In: the path of an `mlc-package-config.json`. Out: a manifest whose every value was checked, or all that is wrong
//! with it at once, each finding with its place in the text ([`Report`]). Nothing is fetched and nothing is written here.
//! Next in the flow is `knapsack-source`, which resolves the model sources that the manifest names.

pub mod diagnostic;
pub mod lockfile;
pub mod overrides;
pub mod parse;
pub mod render;
pub mod source_map;
pub mod suggest;

pub use diagnostic::{Diagnostic, Report, Severity};
pub use lockfile::{LockedFile, LockedFormat, LockedModel, Lockfile, LockfileError};
pub use overrides::{OverrideKey, Overrides};
pub use source_map::{SourceMap, Span, Spanned};
