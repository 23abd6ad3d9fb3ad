//! Devices that execute a [`ModelLibrary`]'s plan. In come a library and a [`Weights`] folder, out comes a [`LoadedModel`] that
//! turns tokens into logits. The only crate of the workspace with `unsafe`: it owns memory mapping, SIMD, dynamic loading and
//! GPU interfaces.
//!
//! A device allocates exactly what the library's memory plan says and reports it ([`LoadedModel::memory`]). It knows nothing of
//! text, sampling or conversations: that is `knapsack-runtime`.

// Mapping, SIMD and GPU interfaces need it; every block states why it holds.
#![allow(unsafe_code)]

mod call;
mod cpu;
mod error;
mod fake;
pub mod gpu;
mod host;
mod memory;
#[cfg(target_vendor = "apple")]
pub mod metal;
pub mod opencl;
mod os;
mod reference;
mod weights;

pub use call::{Call, check_forward, check_logits, write_rope_rows};
pub use cpu::{CpuDevice, Isa};
pub use error::DeviceError;
pub use fake::FakeDevice;
pub use memory::{Account, Charge, Part, Region};
pub use os::app_memory_left;
pub use reference::ReferenceDevice;
pub use weights::Weights;

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::MemoryPlan;
use std::path::Path;
use std::sync::Arc;

/// Somewhere a model can be loaded.
pub trait Device: Send + Sync {
    /// The name that `--device` takes: `cpu`, `cpu-reference`, `opencl`, `metal`.
    fn name(&self) -> &'static str;

    /// What was found, for people: instruction sets, driver, GPU.
    fn description(&self) -> String;

    /// Maps or uploads the weights in `folder` (an MLC weight folder) and allocates the rest of the plan.
    ///
    /// # Errors
    /// Weights that are missing, of another shape or dtype, or damaged; memory that cannot be had; kernels that do not build.
    /// Nothing stays allocated then.
    fn load(&self, library: Arc<ModelLibrary>, folder: &Path) -> Result<Box<dyn LoadedModel>, DeviceError>;
}

/// A model on a device, with the KV cache of one conversation.
pub trait LoadedModel: Send {
    /// The library that it executes.
    fn library(&self) -> &Arc<ModelLibrary>;

    /// What is allocated for it, by the device's own count.
    fn memory(&self) -> MemoryPlan;

    /// Runs `prefill`, or `decode` for a single token: appends the tokens at absolute positions `position..` to the cache and
    /// leaves their residual stream for [`LoadedModel::logits`].
    ///
    /// # Errors
    /// No token, more than the chunk, an id outside the vocabulary, a position past the context window, or a device failure.
    fn forward(&mut self, tokens: &[u32], position: u32) -> Result<(), DeviceError>;

    /// Runs `head` on row `row` of the last [`LoadedModel::forward`] and copies the logits out.
    ///
    /// # Errors
    /// A row that the last call did not have, `output` not of vocabulary length, or a device failure.
    fn logits(&mut self, row: u32, output: &mut [f32]) -> Result<(), DeviceError>;
}
