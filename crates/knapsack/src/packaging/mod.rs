//! The way from a manifest to a package, stage by stage. Each stage takes what the one before it made and hands on one complete
//! value, so that everything that can be wrong is found before anything that takes long begins:
//!
//! 1. [`load`]: the manifest, checked as a whole.
//! 2. [`Workspace::resolve`]: what each model is, to the byte; the lockfile; configurations on the disk.
//! 3. [`Workspace::plan`]: window sizes and memory of each model, held against its budget ([`Plan`]).
//! 4. [`Workspace::compile`]: a library for each plan.
//! 5. [`Workspace::provide`]: weights on the disk, converted where they are a checkpoint's.
//! 6. [`Workspace::bundle`] writes `dist/`.
//!
//! `knapsack plan` stops after the third.

mod budget;
mod build;
mod manifest;
mod plan;
mod prebuilt;
mod sources;

pub use budget::{Budget, fixed_sizes};
pub use build::{Compiled, Provided};
pub use manifest::{load, profiles};
pub use plan::{Plan, PlannedModel, Row};
pub use sources::Locking;

use crate::report::Reporter;
use anyhow::Result;
use knapsack_bundle::cache::Cache;
use knapsack_source::{ModelSource, Resolution, Settings};

/// What every stage needs: the cache, the hub's settings, where to report.
#[derive(Debug)]
pub struct Workspace<'a> {
    reporter: &'a Reporter,
    cache: Cache,
    settings: Settings,
}

/// The models of a manifest, found: what each is, and its configuration on the disk.
#[derive(Debug)]
pub struct Resolved {
    /// Decided; weights are not necessarily here.
    pub resolution: Resolution,
    /// In the order of the manifest; folders with configurations, and weights where the model is local.
    pub sources: Vec<ModelSource>,
}

impl<'a> Workspace<'a> {
    /// By the environment's settings.
    ///
    /// # Errors
    /// Settings that cannot be understood.
    pub fn new(reporter: &'a Reporter, offline: bool) -> Result<Self> {
        let cache = Cache::at(Cache::place(|name| std::env::var_os(name))?);
        let mut settings = Settings::from_env(cache.root())?;
        settings.offline |= offline;
        Ok(Workspace { reporter, cache, settings })
    }
}

impl Drop for Workspace<'_> {
    fn drop(&mut self) {
        self.cache.digests().save();
    }
}
