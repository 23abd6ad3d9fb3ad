//! Writes packages. In: compiled libraries ([`Library`]) and verified weight folders, one [`Entry`] for each model of the
//! manifest. Out: `dist/`, complete or untouched, and a [`PackageChanges`] of what was written, kept and removed.
//!
//! * [`package::write`] is the whole way: plan every output, guard the folder, verify weights, stage beside, read back, swap.
//! * [`objects`] writes libraries as Mach-O, ELF and xcframework without any foreign tool.
//! * [`android`] writes AARs and their places in a Maven repository.
//! * [`archive`] writes ZIP files whose hash is known before they are written.
//! * [`cache`] keeps converted weights and compiled libraries between runs; [`digest`] remembers the hashes of large files.
//!
//! Before it in the flow: `knapsack-weights` and `knapsack-compiler`. After it: the app, through `knapsack-runtime`.

pub mod android;
pub mod archive;
pub mod cache;
pub mod digest;
mod error;
mod files;
pub mod objects;
pub mod package;
mod threads;

pub use cache::{Cache, CacheError};
pub use digest::{Digests, FileDigests};
pub use error::BundleError;
pub use files::{LinkMode, persist};
pub use objects::Library;
pub use package::{
    BILL_OF_MATERIALS, ContentHash, Entry, FileReport, PackageChanges, PackageContents, Provenance, Repository,
    Runtime, SourceFile, Tokenizer, WeightSupply, WriteOptions, WriteReason, check_output, write,
};
#[cfg(test)]
mod testing;
