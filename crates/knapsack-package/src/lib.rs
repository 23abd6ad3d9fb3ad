//! The way from a manifest to a package.
//!
//! In: a manifest that was read and checked ([`knapsack_config::load`]). Out: `dist/`. In between every model is one value that
//! grows by stages, and everything that can be wrong is found before anything that takes long begins:
//!
//! | stage | by | a model is then |
//! |---|---|---|
//! | 1 read | [`knapsack_config::load`] | [`ModelEntry`]: what the manifest says |
//! | 2 find | [`Packager::find`] | [`Found`]: what it is to the byte, with its small files on the disk |
//! | 3 plan | [`Packager::plan`] | [`Planned`]: its sizes and exact memory, held against its budget |
//! | 4 build | [`Packager::build`] | [`Built`]: with its library |
//! | 5 make ready | [`Packager::make_ready`] | [`Ready`]: with its weights, converted where they are a checkpoint's |
//! | 6 bundle | [`Packager::bundle`] | a part of the package |
//!
//! A stage gives its product and its findings ([`Outcome`]); what no manifest can help is an [`Error`]. While it works it tells
//! an [`Observer`] what happens. Nothing here knows a terminal, an environment or a command line.

mod budget;
mod build;
mod bundle;
mod convert;
mod error;
mod event;
mod find;
mod model;
mod outcome;
mod plan;
mod prebuilt;
mod ready;
mod text;
mod tokenizer;
mod weights;

pub use budget::{Budget, fixed_sizes};
pub use build::Built;
pub use bundle::Destination;
pub use convert::{convert, converted};
pub use error::Error;
pub use event::{Event, Observer, Silent};
pub use find::{Found, FoundModels};
pub use knapsack_config::ModelEntry;
pub use model::{Model, ModelError, given_sizes};
pub use outcome::Outcome;
pub use plan::{PlanRow, Planned};
pub use ready::Ready;
pub use text::bytes;
pub use tokenizer::tokenizer;

use knapsack_bundle::cache::Cache;
use knapsack_source::Settings;
use std::ffi::OsString;

/// Runs the stages: what all of them need, and no model.
pub struct Packager<'a> {
    cache: Cache,
    settings: Settings,
    /// Where tools are looked for, in the form of the environment's `PATH`.
    tools: Option<OsString>,
    observer: &'a dyn Observer,
}

impl<'a> Packager<'a> {
    /// With a cache, the hub's settings, and where to look for Apple's Metal compiler (in the form of `PATH`; `None`: nowhere).
    pub fn new(cache: Cache, settings: Settings, tools: Option<OsString>, observer: &'a dyn Observer) -> Self {
        Packager { cache, settings, tools, observer }
    }
}

impl std::fmt::Debug for Packager<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packager").field("cache", &self.cache).field("settings", &self.settings).finish_non_exhaustive()
    }
}
