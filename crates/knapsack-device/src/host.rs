//! What every device shares that works on the host's memory: the weights mapped where they lie, KV cache and workspace in
//! [`Region`]s, and the calls of a [`LoadedModel`]. A device adds how a launch is executed ([`Executor`]).

use crate::call::{Call, check_forward, check_logits, check_tokens, write_rope_rows};
use crate::lookup;
use crate::memory::{Account, Part, Region};
use crate::watch::proceed;
use crate::{CacheHalf, DeviceError, LoadedModel, StateCopy, Watch, WeightFiles, Weights, kept_bytes};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::MemoryPlan;
use knapsack_artifact::plan::{KvLayer, Launch, state_bytes};
use knapsack_tensor::DType;
use std::ops::Range;
use std::sync::Arc;

/// Executes launches.
pub(crate) trait Executor: Send {
    /// Executes one launch; the arguments are checked.
    ///
    /// # Errors
    /// Only what the device's memory or driver does.
    fn launch(&self, memory: &mut HostMemory, launch: &Launch, call: Call) -> Result<(), DeviceError>;

    /// Most output columns of a launch that [`Executor::launch_columns`] computes faster than all; 0: it computes all.
    fn few_columns(&self, _launch: &Launch) -> usize {
        0
    }

    /// Executes a launch of one token as far as these output columns need it; the others may hold anything.
    ///
    /// # Errors
    /// As [`Executor::launch`].
    fn launch_columns(
        &self,
        memory: &mut HostMemory,
        launch: &Launch,
        call: Call,
        _columns: &[u32],
    ) -> Result<(), DeviceError> {
        self.launch(memory, launch, call)
    }

    /// Waits for the launches. Those of this machine's own cores are done when they return.
    ///
    /// # Errors
    /// What went wrong in them and was not told yet.
    fn wait(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Keys and values of one layer in the cache.
#[derive(Clone, Copy)]
pub(crate) struct CachedLayer {
    /// The layer, with the type that its elements are stored in here.
    pub(crate) layer: KvLayer,
    /// Where the keys begin, in bytes.
    pub(crate) keys: usize,
    /// Where the values begin, in bytes.
    pub(crate) values: usize,
}

/// All memory of a model.
///
/// The library has been validated when it was decoded; [`HostMemory::load`] does it again, because memory safety rests on it:
/// every index is in range, every operand inside the workspace, and what a launch writes overlaps nothing else that it names.
pub(crate) struct HostMemory {
    pub(crate) library: Arc<ModelLibrary>,
    pub(crate) weights: Weights,
    pub(crate) workspace: Region,
    pub(crate) cache: Region,
    pub(crate) layers: Vec<CachedLayer>,
    /// All states, their copies that are set aside, and then what is set aside of each layer with a window.
    pub(crate) state: Region,
    /// Where each state begins, in bytes.
    pub(crate) states: Vec<usize>,
    account: Account,
}

impl HostMemory {
    /// Maps the weights and allocates cache and workspace, exactly as planned. `cache_dtype` stores the cache in another type
    /// than the plan's.
    ///
    /// # Errors
    /// As [`crate::Device::load`].
    pub(crate) fn load(
        library: Arc<ModelLibrary>,
        files: &dyn WeightFiles,
        account: Account,
        cache_dtype: Option<DType>,
        watch: &dyn Watch,
    ) -> Result<Self, DeviceError> {
        library.validate().map_err(|source| DeviceError::Library { source: Box::new(source) })?;
        let weights = Weights::open(&library, files, &account, watch)?;
        let mut end = 0;
        let mut layers = Vec::with_capacity(library.kv_cache.len());
        for planned in &library.kv_cache {
            let layer = KvLayer { dtype: cache_dtype.unwrap_or(planned.dtype), ..*planned };
            let half = layer.bytes() / 2;
            layers.push(CachedLayer { layer, keys: end as usize, values: (end + half) as usize });
            end += 2 * half;
        }
        let cache = Region::new(&account, Part::KvCache, end)?;
        let state_ends = library.states.iter().scan(0, |end, state| {
            *end += state.bytes() as usize;
            Some(*end)
        });
        let states: Vec<usize> = std::iter::once(0).chain(state_ends).take(library.states.len()).collect();
        let here: Vec<KvLayer> = layers.iter().map(|layer| layer.layer).collect();
        let state = state_bytes(&library.states, &here, library.model.context_window_size);
        // Nobody is asked for nothing.
        let state = match state.unwrap_or(u64::MAX) {
            0 => Region::new(&Account::default(), Part::State, 0)?,
            bytes => Region::new(&account, Part::State, bytes)?,
        };
        let workspace = Region::new(&account, Part::Workspace, library.memory.workspace)?;
        Ok(HostMemory { library, weights, workspace, cache, layers, state, states, account })
    }

    /// Where half of a layer's cache is, when it has that many bytes.
    fn cache_range(&self, layer: usize, half: CacheHalf, bytes: usize) -> Result<Range<usize>, DeviceError> {
        let found = self.layers.get(layer).filter(|layer| layer.layer.bytes() / 2 == bytes as u64);
        let layer = found.ok_or_else(|| DeviceError::InvalidCall(format!("{bytes} bytes of cache layer {layer}")))?;
        let start = if half == CacheHalf::Keys { layer.keys } else { layer.values };
        Ok(start..start + bytes)
    }

    /// Where a copy of a state is, when it has that many bytes.
    fn state_range(&self, state: usize, copy: StateCopy, bytes: usize) -> Result<Range<usize>, DeviceError> {
        let found = self.library.states.get(state).filter(|state| state.bytes() == bytes as u64);
        found.ok_or_else(|| DeviceError::InvalidCall(format!("{bytes} bytes of state {state}")))?;
        let copies = if copy == StateCopy::Kept { self.copies() } else { 0 };
        let start = copies + self.states[state];
        Ok(start..start + bytes)
    }

    /// Bytes of all states.
    fn copies(&self) -> usize {
        self.library.states.iter().map(|state| state.bytes() as usize).sum()
    }

    /// Where what is set aside of half of a layer is, when it has that many bytes.
    fn kept_range(&self, layer: usize, half: CacheHalf, bytes: usize) -> Result<Range<usize>, DeviceError> {
        let size = |layer: &CachedLayer| kept_bytes(&self.library, &layer.layer) as usize;
        let found = self.layers.get(layer).filter(|layer| size(layer) == bytes);
        found.ok_or_else(|| DeviceError::InvalidCall(format!("{bytes} bytes of the window of layer {layer}")))?;
        let before: usize = self.layers[..layer].iter().map(|layer| 2 * size(layer)).sum();
        let start = 2 * self.copies() + before + half as usize * bytes;
        Ok(start..start + bytes)
    }
}

/// A model on a device that works on the host's memory.
pub(crate) struct HostModel<E> {
    memory: HostMemory,
    executor: E,
    /// Rows that the last successful forward left, and where it began.
    rows: u32,
    position: u32,
}

impl<E: Executor> HostModel<E> {
    pub(crate) const fn new(memory: HostMemory, executor: E) -> Self {
        HostModel { memory, executor, rows: 0, position: 0 }
    }

    fn run(&mut self, launches: &[Launch], call: Call, watch: &dyn Watch) -> Result<(), DeviceError> {
        launches.iter().try_for_each(|launch| {
            proceed(watch)?;
            self.executor.launch(&mut self.memory, launch, call)
        })
    }

    /// What the head has written.
    fn head_output(&self, vocab: usize) -> &[f32] {
        let start = self.memory.library.io.logits.offset as usize;
        bytemuck::cast_slice(&self.memory.workspace.bytes()[start..start + 4 * vocab])
    }
}

/// The launch of the head that ends in the logits, where it is the last, and those before it.
fn projection(library: &ModelLibrary) -> Option<(&[Launch], &Launch)> {
    let (last, before) = library.head.launches.split_last()?;
    last.op.outputs().any(|rows| rows == library.io.logits).then_some((before, last))
}

impl<E: Executor> LoadedModel for HostModel<E> {
    fn library(&self) -> &Arc<ModelLibrary> {
        &self.memory.library
    }

    fn memory(&self) -> MemoryPlan {
        self.memory.account.now()
    }

    fn forward_while(&mut self, tokens: &[u32], position: u32, watch: &dyn Watch) -> Result<(), DeviceError> {
        let library = self.memory.library.clone();
        let call = check_forward(&library, tokens, position)?;
        self.rows = 0;
        self.executor.wait()?;
        if call.n > 1 || position == 0 {
            self.memory.weights.check_intact()?;
        }
        let workspace = self.memory.workspace.bytes_mut();
        let start = library.io.tokens.offset as usize;
        workspace[start..start + 4 * tokens.len()].copy_from_slice(bytemuck::cast_slice(tokens));
        for table in &library.rope_tables {
            let (start, len) = (table.rows.offset as usize, 4 * (call.n * table.rows.columns) as usize);
            write_rope_rows(table, call, bytemuck::cast_slice_mut(&mut workspace[start..start + len]));
        }
        for lookup in &library.lookups {
            let (start, len) = (lookup.rows.offset as usize, 4 * call.n as usize * lookup.rows.columns as usize);
            let rows = bytemuck::cast_slice_mut(&mut workspace[start..start + len]);
            lookup::write_rows(&library, &self.memory.weights, lookup, tokens, rows);
        }
        let function = if call.n == 1 { &library.decode } else { &library.prefill };
        if let Err(error) = self.run(&function.launches, call, watch) {
            // What failed before says more than that the rest was not wanted.
            return self.executor.wait().and(Err(error));
        }
        (self.rows, self.position) = (call.n, position);
        Ok(())
    }

    fn logits(&mut self, row: u32, output: &mut [f32]) -> Result<(), DeviceError> {
        let library = self.memory.library.clone();
        let call = check_logits(&library, self.rows, self.position, row, output)?;
        self.run(&library.head.launches, call, &())?;
        self.wait()?;
        output.copy_from_slice(self.head_output(output.len()));
        Ok(())
    }

    fn few_logits(&self) -> usize {
        projection(&self.memory.library).map_or(0, |(_, last)| self.executor.few_columns(last))
    }

    fn logits_of(&mut self, row: u32, tokens: &[u32], output: &mut [f32]) -> Result<(), DeviceError> {
        let library = self.memory.library.clone();
        let call = check_logits(&library, self.rows, self.position, row, output)?;
        check_tokens(&library, tokens)?;
        match projection(&library) {
            Some((before, last)) => {
                self.run(before, call, &())?;
                self.executor.launch_columns(&mut self.memory, last, call, tokens)?;
            }
            None => self.run(&library.head.launches, call, &())?,
        }
        self.wait()?;
        output.fill(f32::NEG_INFINITY);
        let logits = self.head_output(output.len());
        tokens.iter().for_each(|&token| output[token as usize] = logits[token as usize]);
        Ok(())
    }

    fn weights_digest(&self) -> [u8; 32] {
        self.memory.weights.digest()
    }

    fn cache_layout(&self) -> Vec<KvLayer> {
        self.memory.layers.iter().map(|layer| layer.layer).collect()
    }

    fn read_cache(&mut self, layer: usize, half: CacheHalf, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.wait()?;
        let range = self.memory.cache_range(layer, half, bytes.len())?;
        bytes.copy_from_slice(&self.memory.cache.bytes()[range]);
        Ok(())
    }

    fn write_cache(&mut self, layer: usize, half: CacheHalf, bytes: &[u8]) -> Result<(), DeviceError> {
        self.wait()?;
        let range = self.memory.cache_range(layer, half, bytes.len())?;
        self.memory.cache.bytes_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn read_state(&mut self, state: usize, copy: StateCopy, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.wait()?;
        let range = self.memory.state_range(state, copy, bytes.len())?;
        bytes.copy_from_slice(&self.memory.state.bytes()[range]);
        Ok(())
    }

    fn write_state(&mut self, state: usize, copy: StateCopy, bytes: &[u8]) -> Result<(), DeviceError> {
        self.wait()?;
        let range = self.memory.state_range(state, copy, bytes.len())?;
        self.memory.state.bytes_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn read_kept(&mut self, layer: usize, half: CacheHalf, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.wait()?;
        let range = self.memory.kept_range(layer, half, bytes.len())?;
        bytes.copy_from_slice(&self.memory.state.bytes()[range]);
        Ok(())
    }

    fn write_kept(&mut self, layer: usize, half: CacheHalf, bytes: &[u8]) -> Result<(), DeviceError> {
        self.wait()?;
        let range = self.memory.kept_range(layer, half, bytes.len())?;
        self.memory.state.bytes_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        let done = self.executor.wait();
        if done.is_err() {
            self.rows = 0;
        }
        done
    }
}
