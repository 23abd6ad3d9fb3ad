//! The contract between the machine that packages and the device that runs: every file that crosses from one to the other is
//! defined here and nowhere else.
//!
//! * [`ModelLibrary`]: one compiled model, as data ([`library`], [`plan`]); validated as a whole before anything executes it.
//!
//! `knapsack-compiler`, `knapsack-weights` and `knapsack-bundle` write these; `knapsack-device` and `knapsack-runtime` read
//! them. Everything read is taken for hostile.

pub mod library;
pub mod plan;
mod validate;

pub use library::{LibraryError, ModelLibrary};
pub use validate::InvalidLibrary;
