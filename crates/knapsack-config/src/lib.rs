//! The manifest: parsing with spans, validation, JSON Schema, lockfile.

pub mod lockfile;

pub use lockfile::{LockedFile, LockedFormat, LockedModel, Lockfile, LockfileError};
