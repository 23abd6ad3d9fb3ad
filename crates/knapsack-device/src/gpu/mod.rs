//! What every GPU device shares: a library's plan bound to buffers and kernels, over the few things that a GPU interface must
//! offer ([`Backend`]).
//!
//! Everything is allocated and bound once, at load: parameters, keys and values of each layer, one workspace, and for each
//! launch its kernel with its buffers. A call then writes the tokens and rotary rows, starts the launches of a function, and
//! (for logits) reads one row back.

use crate::call::{Call, check_forward, check_logits, write_rope_rows};
use crate::memory::{Account, Charge, Part};
use crate::{DeviceError, LoadedModel, Weights};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{KernelModule, MemoryPlan, Target};
use knapsack_artifact::plan::{Function, KernelCall, Op, Operand, ParameterId, RowSelect};
use std::collections::HashMap;
use std::sync::Arc;

/// A GPU interface: memory, kernels, and an in-order queue.
pub trait Backend: Send {
    /// Device memory, or a region of some.
    type Buffer: Send;
    /// A kernel with its buffers.
    type Launch: Send;

    /// The name that `--device` takes.
    fn device(&self) -> &'static str;

    /// The kernels that it runs.
    fn target(&self) -> Target;

    /// Bytes of the largest buffer that [`Backend::allocate`] and [`Backend::parameter`] can make.
    fn largest_buffer(&self) -> u64;

    /// Builds a library's kernels; comes before [`Backend::bind`].
    ///
    /// # Errors
    /// Source that does not build, or kernels that need more than the device has.
    fn prepare(&mut self, module: &KernelModule) -> Result<(), DeviceError>;

    /// Allocates zeroed memory.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] when it cannot be had.
    fn allocate(&mut self, part: Part, bytes: u64) -> Result<Self::Buffer, DeviceError>;

    /// A buffer with a parameter's bytes; may be the mapped file itself, which the backend then keeps.
    ///
    /// # Errors
    /// As [`Backend::allocate`].
    fn parameter(&mut self, weights: &Arc<Weights>, id: ParameterId) -> Result<Self::Buffer, DeviceError>;

    /// A region of a buffer, at a multiple of [`knapsack_artifact::plan::ALIGNMENT`].
    ///
    /// # Errors
    /// When the device refuses.
    fn region(&mut self, buffer: &Self::Buffer, offset: u64, bytes: u64) -> Result<Self::Buffer, DeviceError>;

    /// A kernel of the module with its buffers, in the order of its arguments.
    ///
    /// # Errors
    /// When the device refuses.
    fn bind(&mut self, kernel: u32, buffers: &[&Self::Buffer]) -> Result<Self::Launch, DeviceError>;

    /// Copies bytes to the start of a buffer, after everything that was started before.
    ///
    /// # Errors
    /// When the device refuses.
    fn write(&mut self, buffer: &Self::Buffer, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies bytes from the start of a buffer, after everything that was started before.
    ///
    /// # Errors
    /// When the device refuses.
    fn read(&mut self, buffer: &Self::Buffer, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Starts launches, each after the one before it, on their work groups.
    ///
    /// # Errors
    /// When the device refuses.
    fn run(&mut self, launches: &mut [(Self::Launch, KernelCall)], call: Call) -> Result<(), DeviceError>;

    /// Waits for everything that was started.
    ///
    /// # Errors
    /// What went wrong in it.
    fn finish(&mut self) -> Result<(), DeviceError>;
}

/// The launches of one function.
type Bound<B> = Vec<(<B as Backend>::Launch, KernelCall)>;

/// A library on a GPU.
pub struct GpuModel<B: Backend> {
    // Fields are dropped in this order: launches before the buffers that they use, the backend last.
    prefill: Bound<B>,
    decode: Bound<B>,
    head: Bound<B>,
    tokens: B::Buffer,
    logits: B::Buffer,
    ropes: Vec<B::Buffer>,
    _memory: Memory<B>,
    backend: B,
    library: Arc<ModelLibrary>,
    account: Account,
    /// Rows that the last successful forward left.
    rows: u32,
    /// Bytes of rotary rows, kept to be filled again.
    staging: Vec<f32>,
}

/// All device memory of a model, with its count.
struct Memory<B: Backend> {
    regions: HashMap<(u64, u64), B::Buffer>,
    workspace: B::Buffer,
    cache: Vec<[B::Buffer; 2]>,
    parameters: Vec<B::Buffer>,
    _charges: Vec<Charge>,
}

impl<B: Backend> Memory<B> {
    fn allocate(
        backend: &mut B,
        library: &ModelLibrary,
        weights: Weights,
        account: &Account,
    ) -> Result<Self, DeviceError> {
        check_sizes(backend, library)?;
        let mut charges = Vec::new();
        let mut allocate = |backend: &mut B, part, bytes| {
            charges.push(account.charge(part, bytes)?);
            backend.allocate(part, bytes)
        };
        let workspace = allocate(backend, Part::Workspace, library.memory.workspace)?;
        let mut cache = Vec::with_capacity(library.kv_cache.len());
        for layer in &library.kv_cache {
            let bytes = layer.bytes() / 2;
            cache.push([allocate(backend, Part::KvCache, bytes)?, allocate(backend, Part::KvCache, bytes)?]);
        }
        let weights = Arc::new(weights);
        let mut parameters = Vec::with_capacity(library.parameters.len());
        for index in 0..library.parameters.len() as u32 {
            let id = ParameterId(index);
            charges.push(account.charge(Part::Weights, weights.get(id).len() as u64)?);
            parameters.push(backend.parameter(&weights, id)?);
        }
        Ok(Memory { regions: HashMap::new(), workspace, cache, parameters, _charges: charges })
    }

    /// The workspace region at `offset`, made at its first use.
    fn region(&mut self, backend: &mut B, offset: u64, bytes: u64) -> Result<(), DeviceError> {
        if !self.regions.contains_key(&(offset, bytes)) {
            let region = backend.region(&self.workspace, offset, bytes)?;
            self.regions.insert((offset, bytes), region);
        }
        Ok(())
    }
}

/// Every part of the plan that is one buffer must fit one.
fn check_sizes<B: Backend>(backend: &B, library: &ModelLibrary) -> Result<(), DeviceError> {
    let largest = backend.largest_buffer();
    let check = |bytes: u64, what: &dyn Fn() -> String| match bytes > largest {
        true => Err(DeviceError::BufferTooLarge { device: backend.device(), what: what(), bytes, largest }),
        false => Ok(()),
    };
    check(library.memory.workspace, &|| Part::Workspace.name().to_owned())?;
    for (index, layer) in library.kv_cache.iter().enumerate() {
        check(layer.bytes() / 2, &|| format!("{} of layer {index}", Part::KvCache.name()))?;
    }
    for parameter in &library.parameters {
        check(parameter.bytes().unwrap_or(u64::MAX), &|| format!("weight `{}`", parameter.name))?;
    }
    Ok(())
}

/// Workspace bytes of an operand when a launch has `n` rows; `None` when it lies elsewhere.
fn workspace_range(library: &ModelLibrary, operand: &Operand, n: u32) -> Option<(u64, u64)> {
    let rows = |columns: u32| 4 * u64::from(n) * u64::from(columns);
    let (offset, bytes) = match *operand {
        Operand::Tokens => (library.io.tokens.offset, u64::from(n) * library.io.tokens.bytes_per_token),
        Operand::RopeTable(table) => {
            let table = library.rope_tables[table as usize].rows;
            (table.offset, rows(table.columns))
        }
        Operand::Input(r) | Operand::Output(r) => (r.offset, rows(r.columns)),
        Operand::Scratch(scratch) => (scratch.offset, u64::from(n) * scratch.bytes_per_token),
        Operand::Parameter(_) | Operand::Keys(_) | Operand::Values(_) => return None,
    };
    // Rows of fewer tokens than the chunk may end where the workspace does.
    Some((offset, bytes.min(library.memory.workspace.saturating_sub(offset))))
}

impl<B: Backend> GpuModel<B> {
    /// Allocates, uploads and binds everything. The library is validated.
    ///
    /// # Errors
    /// A library for another device, kernels that do not build, memory that cannot be had. Nothing stays allocated then.
    pub fn load(mut backend: B, library: Arc<ModelLibrary>, weights: Weights) -> Result<Self, DeviceError> {
        let device = backend.device();
        let module = match &library.kernels {
            Some(module) if library.target == backend.target() => module,
            _ => return Err(DeviceError::WrongTarget { device, found: library.target }),
        };
        backend.prepare(module)?;
        let account = Account::default();
        let mut memory = Memory::allocate(&mut backend, &library, weights, &account)?;
        let chunk = library.model.prefill_chunk_size;
        let prefill = bind_function(&mut backend, &mut memory, &library, &library.prefill, chunk)?;
        let decode = bind_function(&mut backend, &mut memory, &library, &library.decode, 1)?;
        let head = bind_function(&mut backend, &mut memory, &library, &library.head, 1)?;
        let mut whole = |operand, n| {
            let (offset, bytes) = workspace_range(&library, &operand, n).expect("these lie in the workspace");
            backend.region(&memory.workspace, offset, bytes)
        };
        let tokens = whole(Operand::Tokens, chunk)?;
        let logits = whole(Operand::Input(library.io.logits), 1)?;
        let tables = 0..library.rope_tables.len() as u32;
        let ropes = tables.map(|table| whole(Operand::RopeTable(table), chunk)).collect::<Result<_, _>>()?;
        Ok(GpuModel {
            prefill,
            decode,
            head,
            tokens,
            logits,
            ropes,
            _memory: memory,
            backend,
            library,
            account,
            rows: 0,
            staging: Vec::new(),
        })
    }
}

fn bind_function<B: Backend>(
    backend: &mut B,
    memory: &mut Memory<B>,
    library: &ModelLibrary,
    function: &Function,
    n: u32,
) -> Result<Bound<B>, DeviceError> {
    let mut bound = Vec::with_capacity(function.launches.len());
    if function.calls().map(|(_, launches)| launches.len()).sum::<usize>() != function.launches.len() {
        return Err(DeviceError::WrongTarget { device: backend.device(), found: Target::Host });
    }
    for (call, launches) in function.calls() {
        let operands: Vec<Operand> = launches.iter().flat_map(|launch| launch.op.operands()).collect();
        // The one operation that picks a row out of those of the last forward.
        let selects = matches!(&launches[0].op, Op::Norm(norm) if norm.rows == RowSelect::One);
        let range = |operand: &Operand| {
            let picked = selects && matches!(operand, Operand::Input(_));
            let rows = if picked { library.model.prefill_chunk_size } else { n };
            workspace_range(library, operand, rows)
        };
        for operand in &operands {
            if let Some((offset, bytes)) = range(operand) {
                memory.region(backend, offset, bytes)?;
            }
        }
        let buffers: Vec<&B::Buffer> = operands
            .iter()
            .map(|operand| match *operand {
                Operand::Parameter(id) => &memory.parameters[id.0 as usize],
                Operand::Keys(layer) => &memory.cache[layer as usize][0],
                Operand::Values(layer) => &memory.cache[layer as usize][1],
                _ => &memory.regions[&range(operand).expect("the others lie in the workspace")],
            })
            .collect();
        bound.push((backend.bind(call.kernel, &buffers)?, call.clone()));
    }
    Ok(bound)
}

impl<B: Backend> Drop for GpuModel<B> {
    fn drop(&mut self) {
        // The GPU must be done before memory goes. A failure changes nothing here.
        let _ = self.backend.finish();
    }
}

impl<B: Backend> LoadedModel for GpuModel<B> {
    fn library(&self) -> &Arc<ModelLibrary> {
        &self.library
    }

    fn memory(&self) -> MemoryPlan {
        self.account.now()
    }

    fn forward(&mut self, tokens: &[u32], position: u32) -> Result<(), DeviceError> {
        let call = check_forward(&self.library, tokens, position)?;
        self.rows = 0;
        self.backend.write(&self.tokens, bytemuck::cast_slice(tokens))?;
        for (table, rows) in self.library.rope_tables.iter().zip(&self.ropes) {
            self.staging.resize(call.n as usize * 2 * table.frequencies.len(), 0.0);
            write_rope_rows(table, call, &mut self.staging);
            self.backend.write(rows, bytemuck::cast_slice(&self.staging))?;
        }
        let function = if call.n == 1 { &mut self.decode } else { &mut self.prefill };
        self.backend.run(function, call)?;
        self.rows = call.n;
        Ok(())
    }

    fn logits(&mut self, row: u32, output: &mut [f32]) -> Result<(), DeviceError> {
        let call = check_logits(&self.library, self.rows, row, output)?;
        self.backend.run(&mut self.head, call)?;
        self.backend.read(&self.logits, bytemuck::cast_slice_mut(output))
    }
}
