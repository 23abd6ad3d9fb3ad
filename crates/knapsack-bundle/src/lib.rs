//! Writes packages.
mod error;
pub mod objects;
pub use error::BundleError;
pub use objects::Library;
#[cfg(test)]
mod testing;
