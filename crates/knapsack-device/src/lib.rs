//! Devices that execute a [`ModelLibrary`]'s plan. In come a library and a [`Weights`] folder, out comes a [`LoadedModel`] that
//! turns tokens into logits. With `knapsack-ffi` the only crate of the workspace with `unsafe`: it owns memory mapping, SIMD, dynamic loading and
//! GPU interfaces.
//!
//! A device allocates exactly what the library's memory plan says and reports it ([`LoadedModel::memory`]). It knows nothing of
//! text, sampling or conversations: that is `knapsack-runtime`.

#![allow(unsafe_code, reason = "mapping, SIMD and GPU interfaces need it; every block states why it holds")]

mod bandwidth;
mod best;
mod call;
mod cpu;
mod error;
mod executor;
mod fake;
mod files;
pub mod gpu;
mod host;
mod kept;
mod lookup;
mod memory;
#[cfg(any(target_vendor = "apple", test))]
pub mod metal;
pub mod opencl;
mod os;
mod reference;
mod watch;
mod weights;

pub use bandwidth::read_bandwidth;
pub use best::BestDevice;
pub use call::Call;
use call::check_tokens;
pub use cpu::{CpuDevice, Isa};
pub use error::DeviceError;
pub use executor::{Executor, OpenOptions, best};
pub use fake::FakeDevice;
pub use files::{FileRange, Folder, MappedFile, PlacedFile, Scattered, WeightFiles};
pub use kept::kept_bytes;
pub use memory::{Account, Part, Region};
pub use os::app_memory_left;
pub use reference::ReferenceDevice;
pub use watch::Watch;
pub use weights::Weights;

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{MemoryPlan, Target};
use knapsack_artifact::plan::KvLayer;
use std::path::Path;
use std::sync::Arc;

/// Somewhere a model can be loaded.
pub trait Device: Send + Sync {
    /// That of its row, see [`Executor`].
    fn name(&self) -> &'static str;

    /// What was found, for people: instruction sets, driver, GPU.
    fn description(&self) -> String;

    /// What libraries are compiled for whose kernels it runs; [`Target::Host`] for devices with routines of their own, which
    /// execute every library.
    fn target(&self) -> Target;

    /// Maps or uploads the weights in `files` and allocates the rest of the plan. `watch` is asked between files and uploads.
    ///
    /// # Errors
    /// Weights that are missing, of another shape or dtype, or damaged; memory that cannot be had; kernels that do not build;
    /// [`DeviceError::Interrupted`]. Nothing stays allocated then.
    fn load_from(
        &self,
        library: Arc<ModelLibrary>,
        files: &dyn WeightFiles,
        watch: &dyn Watch,
    ) -> Result<Box<dyn LoadedModel>, DeviceError>;

    /// Loads from a weight folder, without interruption.
    ///
    /// # Errors
    /// As [`Device::load_from`].
    fn load(&self, library: Arc<ModelLibrary>, folder: &Path) -> Result<Box<dyn LoadedModel>, DeviceError> {
        self.load_from(library, &Folder::new(folder), &())
    }
}

/// Half of a layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheHalf {
    /// The keys.
    Keys,
    /// The values.
    Values,
}

impl CacheHalf {
    /// Keys and values.
    pub const BOTH: [CacheHalf; 2] = [CacheHalf::Keys, CacheHalf::Values];
}

/// Which copy of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateCopy {
    /// What calls read and write.
    Current,
    /// What was set aside.
    Kept,
}

impl StateCopy {
    /// Both, as they lie in memory.
    pub const BOTH: [StateCopy; 2] = [StateCopy::Current, StateCopy::Kept];
}

/// A model on a device, with the KV cache of one conversation and what its recurrent layers remember of it.
///
/// A device may work on its own time: a call that returned `Ok` has been accepted, and what goes wrong in it may only be told by
/// a later call. [`LoadedModel::logits`] and [`LoadedModel::wait`] wait for all that was started before, so what they return is
/// certain. After any error but [`DeviceError::InvalidCall`] and [`DeviceError::Interrupted`], no position of the cache is. After
/// any error of a call but [`DeviceError::InvalidCall`], the current states are those of no position.
pub trait LoadedModel: Send {
    /// The library that it executes.
    fn library(&self) -> &Arc<ModelLibrary>;

    /// What is allocated for it, by the device's own count.
    fn memory(&self) -> MemoryPlan;

    /// Most tokens that a call should have: the chunk, or fewer where no single launch may keep the device busy for long.
    fn step(&self) -> u32 {
        self.library().model.prefill_chunk_size
    }

    /// Runs `prefill`, or `decode` for a single token: appends the tokens at absolute positions `position..` to the cache and
    /// leaves their residual stream for [`LoadedModel::logits`]. A model with states must have computed the position before last,
    /// or taken up the state of it; at position 0 a state is zero. `watch` is asked before each piece of bounded work.
    ///
    /// # Errors
    /// No token, more than the chunk, an id outside the vocabulary, a position past the context window, or a device failure,
    /// perhaps of an earlier call. [`DeviceError::Interrupted`] when `watch` said so: nothing of the call is running then, and
    /// only slots of its own positions may have been written.
    fn forward_while(&mut self, tokens: &[u32], position: u32, watch: &dyn Watch) -> Result<(), DeviceError>;

    /// [`LoadedModel::forward_while`], without interruption.
    ///
    /// # Errors
    /// As there.
    fn forward(&mut self, tokens: &[u32], position: u32) -> Result<(), DeviceError> {
        self.forward_while(tokens, position, &())
    }

    /// Runs `head` on row `row` of the last [`LoadedModel::forward`] and copies the logits out.
    ///
    /// # Errors
    /// A row that the last call did not have, `output` not of vocabulary length, or a device failure, perhaps of an earlier call.
    fn logits(&mut self, row: u32, output: &mut [f32]) -> Result<(), DeviceError>;

    /// Most tokens for which [`LoadedModel::logits_of`] computes less than [`LoadedModel::logits`] does; 0: it never does.
    fn few_logits(&self) -> usize {
        0
    }

    /// The logits of `tokens` only: `output` gets the bits that [`LoadedModel::logits`] gives them, and negative infinity for every
    /// other token.
    ///
    /// # Errors
    /// As [`LoadedModel::logits`], and a token outside the vocabulary.
    fn logits_of(&mut self, row: u32, tokens: &[u32], output: &mut [f32]) -> Result<(), DeviceError> {
        check_tokens(self.library(), tokens)?;
        self.logits(row, output)?;
        let kept: Vec<f32> = tokens.iter().map(|&token| output[token as usize]).collect();
        output.fill(f32::NEG_INFINITY);
        tokens.iter().zip(kept).for_each(|(&token, logit)| output[token as usize] = logit);
        Ok(())
    }

    /// Most tokens that [`LoadedModel::top`] finds for less than [`LoadedModel::logits`] costs; 0: it finds none.
    fn most_likely(&self) -> u32 {
        0
    }

    /// Runs `head` as [`LoadedModel::logits`] does and gives the `count` tokens with the largest logits, in descending order, of equal
    /// ones the lower token first. Fewer where only so many logits are numbers above negative infinity.
    ///
    /// # Errors
    /// As [`LoadedModel::logits`], and no token or more than [`LoadedModel::most_likely`].
    fn top(&mut self, row: u32, count: u32) -> Result<Vec<(u32, f32)>, DeviceError> {
        Err(DeviceError::InvalidCall(format!("the {count} most likely tokens of row {row}, and no way to find them")))
    }

    /// Waits until nothing is running for this model.
    ///
    /// # Errors
    /// What went wrong in work that had not been waited for.
    fn wait(&mut self) -> Result<(), DeviceError>;

    /// Bytes per second that the device reads its memory with, measured now, where that is not memory that [`read_bandwidth`] measures.
    ///
    /// # Errors
    /// Memory for it that cannot be had, or a device failure, perhaps of an earlier call.
    fn read_bandwidth(&mut self) -> Result<Option<f64>, DeviceError> {
        Ok(None)
    }

    /// Whether the system lets the model compute only while the app is in the foreground.
    fn foreground_only(&self) -> bool {
        false
    }

    /// SHA-256 of the index of the weights that it was loaded with.
    fn weights_digest(&self) -> [u8; 32];

    /// The layers of the cache as this device stores them: those of the library, but perhaps of another type.
    fn cache_layout(&self) -> Vec<KvLayer> {
        self.library().kv_cache.clone()
    }

    /// Copies the keys or the values of a layer out, [`KvLayer`] saying what they are, after everything that was started.
    ///
    /// # Errors
    /// A layer that is not there, `bytes` of another length, or a device failure, perhaps of an earlier call.
    fn read_cache(&mut self, layer: usize, half: CacheHalf, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Replaces the keys or the values of a layer.
    ///
    /// # Errors
    /// As [`LoadedModel::read_cache`].
    fn write_cache(&mut self, layer: usize, half: CacheHalf, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies one of the library's states out, after everything that was started.
    ///
    /// # Errors
    /// A state that is not there, `bytes` of another length, or a device failure, perhaps of an earlier call.
    fn read_state(&mut self, state: usize, copy: StateCopy, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Replaces one of the library's states.
    ///
    /// # Errors
    /// As [`LoadedModel::read_state`].
    fn write_state(&mut self, state: usize, copy: StateCopy, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies out what is set aside of the keys or the values of a layer with a window: of each head the rows of as many positions as
    /// [`kept_bytes`] says, of the type that [`LoadedModel::cache_layout`] says.
    ///
    /// # Errors
    /// As [`LoadedModel::read_state`].
    fn read_kept(&mut self, layer: usize, half: CacheHalf, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Replaces what is set aside of the keys or the values of a layer with a window.
    ///
    /// # Errors
    /// As [`LoadedModel::read_state`].
    fn write_kept(&mut self, layer: usize, half: CacheHalf, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies every state, which are those of the first `position` tokens, and what a query there sees of layers with a window: sets
    /// them aside, or takes up what was.
    ///
    /// # Errors
    /// A device failure, perhaps of an earlier call; what it copies to holds nothing then.
    fn copy_states(&mut self, position: u32, to: StateCopy) -> Result<(), DeviceError> {
        kept::copy(self, position, to)
    }
}
