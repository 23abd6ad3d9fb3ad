//! The contract between the machine that packages and the device that runs: every file that crosses from one to the other is
//! defined here and nowhere else.
//!
//! * [`AppConfig`]: what the app reads to know its models ([`app_config`]).
//! * [`ModelLibrary`]: one compiled model, as data ([`library`], [`plan`]); validated as a whole before anything executes it;
//!   module `container` (a feature) finds it in the files that carry it.
//!
//! `knapsack-compiler`, `knapsack-weights` and `knapsack-bundle` write these; `knapsack-device` and `knapsack-runtime` read
//! them. Everything read is taken for hostile.

pub mod app_config;
#[cfg(feature = "containers")]
pub mod container;
pub mod library;
pub mod names;
pub mod plan;
pub mod validate;

pub use app_config::AppConfig;
pub use library::{LibraryError, ModelLibrary};
pub use validate::InvalidLibrary;
