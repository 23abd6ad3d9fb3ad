//! What every GPU device shares: a library's plan bound to buffers and kernels, over the few things that a GPU interface must
//! offer ([`Backend`]).
//!
//! Everything is allocated and bound once, at load: parameters, keys and values of each layer, one workspace, and for each
//! launch its kernel with its buffers, the numbers of the call among them, so that a launch never changes. A call then writes its
//! inputs, submits the launches of a function, and (for logits) reads one row back. What one token takes from the host lies
//! together ([`CallInputs`]): a token costs one write, its submissions, and one read.
//!
//! The launches of a function are submitted in portions of bounded work (`work`), of which at most `IN_FLIGHT` run or wait;
//! between two the caller may say that it is enough. Each submission has a ticket that is waited for, so no failure is missed,
//! and nothing runs that uses memory while it is written.

mod places;
#[cfg(test)]
pub(crate) mod tests;
mod work;

use crate::call::{Call, check_forward, check_logits, check_row, write_rope_rows};
use crate::memory::{Account, Charge, Part};
use crate::watch::proceed;
use crate::{CacheHalf, DeviceError, LoadedModel, StateCopy, Watch, Weights, kept_bytes};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{CallInputs, KernelModule, MemoryPlan, TOP_BYTES, Target, Top};
use knapsack_artifact::plan::{Function, KernelCall, Lookup, Operand, ParameterId};
use places::{NUMBERS, Places, stage_one, workspace_range};
use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;
use work::Work;

/// Submissions that may be under way: the next is there when one ends, and no more than two have to end before a call that is told
/// to stop returns.
const IN_FLIGHT: usize = 2;

/// A GPU interface: memory, kernels, and an in-order queue.
pub trait Backend: Send {
    /// Device memory, or a region of some.
    type Buffer: Send;
    /// A kernel with its buffers.
    type Launch: Send;
    /// A submission. One that is dropped is no longer waited for.
    type Ticket: Send;
    /// The launches of a function for one token, recorded.
    type Recorded: Send;

    /// Whether the system lets only apps in the foreground use the GPU.
    const FOREGROUND_ONLY: bool = false;

    /// Runs what makes or drops objects of the interface, where they need surroundings.
    fn scope<R>(work: impl FnOnce() -> R) -> R {
        work()
    }

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
    fn prepare(&mut self, library: &ModelLibrary, module: &KernelModule) -> Result<(), DeviceError>;

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

    /// A kernel of the module with its buffers, in the order of its arguments. The launch does not keep them: they must outlive it.
    ///
    /// # Errors
    /// When the device refuses.
    fn bind(&mut self, kernel: u32, buffers: &[&Self::Buffer]) -> Result<Self::Launch, DeviceError>;

    /// Copies bytes to the start of a buffer; nothing that is running uses it.
    ///
    /// # Errors
    /// When the device refuses.
    fn write(&mut self, buffer: &Self::Buffer, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Waits for the submissions of `running`, takes them out, and then copies bytes from the start of a buffer.
    ///
    /// # Errors
    /// When the device refuses, or what went wrong in the submissions.
    fn read(
        &mut self,
        running: &mut VecDeque<Self::Ticket>,
        buffer: &Self::Buffer,
        bytes: &mut [u8],
    ) -> Result<(), DeviceError>;

    /// Starts launches on their work groups for `n` tokens, each after the one before it and all after what was submitted before.
    ///
    /// # Errors
    /// When the device refuses. Some may have been started then.
    fn submit(&mut self, launches: &[(Self::Launch, KernelCall)], n: u32) -> Result<Self::Ticket, DeviceError>;

    /// Records launches for one token, to be started together, where the interface can. They outlive what is given.
    fn record(&mut self, launches: &[(Self::Launch, KernelCall)]) -> Option<Self::Recorded>;

    /// Starts what was recorded, as [`Backend::submit`] starts its launches.
    ///
    /// # Errors
    /// When the device refuses. Some may have been started then.
    fn replay(&mut self, recorded: &Self::Recorded) -> Result<Self::Ticket, DeviceError>;

    /// Waits until a submission has ended.
    ///
    /// # Errors
    /// What went wrong in it.
    fn wait(&mut self, ticket: Self::Ticket) -> Result<(), DeviceError>;

    /// Bytes per second that kernels read its memory with, while nothing else runs, where that can be measured.
    ///
    /// # Errors
    /// When the device refuses.
    fn read_bandwidth(&mut self) -> Result<Option<f64>, DeviceError> {
        Ok(None)
    }

    /// Waits until all submissions of `running` have ended, whatever becomes of one, and takes them out.
    ///
    /// # Errors
    /// The first that went wrong.
    fn wait_all(&mut self, running: &mut VecDeque<Self::Ticket>) -> Result<(), DeviceError> {
        let mut outcome = Ok(());
        for ticket in running.drain(..) {
            outcome = outcome.and(self.wait(ticket));
        }
        outcome
    }
}

/// The launches of one function, and for each the work that it is.
struct Bound<B: Backend> {
    // Dropped before the launches that it holds.
    recorded: Option<B::Recorded>,
    launches: Vec<(B::Launch, KernelCall)>,
    work: Vec<Work>,
}

/// A library on a GPU.
pub struct GpuModel<B: Backend> {
    library: Arc<ModelLibrary>,
    account: Account,
    inputs: CallInputs,
    /// Most tokens of a call.
    step: u32,
    /// Rows that the last successful forward left, and where it began.
    rows: u32,
    position: u32,
    /// Inputs of a call, kept to be filled again.
    staging: Vec<f32>,
    weights_digest: [u8; 32],
    /// `Some` until it is dropped.
    resident: Option<Resident<B>>,
}

/// What a model has on the GPU.
struct Resident<B: Backend> {
    // Fields are dropped in this order: launches before the buffers that they use, the backend last.
    running: VecDeque<B::Ticket>,
    prefill: Bound<B>,
    decode: Bound<B>,
    head: Bound<B>,
    /// The head with what finds the most likely tokens, by how many.
    top: Vec<(u32, Bound<B>)>,
    io: InOut,
    memory: Memory<B>,
    backend: B,
}

/// Regions of the workspace that the host writes and reads, by offset and bytes.
struct InOut {
    /// The numbers of `prefill`, and all inputs of one token.
    numbers: (u64, u64),
    one: (u64, u64),
    tokens: (u64, u64),
    ropes: Vec<(u64, u64)>,
    lookups: Vec<(u64, u64)>,
    logits: (u64, u64),
    /// The most likely tokens.
    found: (u64, u64),
}

impl InOut {
    fn new(library: &ModelLibrary, inputs: &CallInputs) -> Self {
        let chunk = library.model.prefill_chunk_size;
        let whole = |operand, n| workspace_range(library, &operand, n).expect("these lie in the workspace");
        let after = library.lookups.first().filter(|lookup| lookup.rows.offset == inputs.end);
        let end = inputs.end + after.map_or(0, |lookup| 4 * u64::from(lookup.rows.columns));
        let tables = 0..library.rope_tables.len() as u32;
        InOut {
            numbers: (inputs.prefill, NUMBERS),
            one: (inputs.one, end - inputs.one),
            tokens: whole(Operand::Tokens, chunk),
            ropes: tables.map(|table| whole(Operand::RopeTable(table), chunk)).collect(),
            lookups: library.lookups.iter().map(|lookup| whole(Operand::Input(lookup.rows), chunk)).collect(),
            logits: whole(Operand::Input(library.io.logits), 1),
            found: (inputs.top, TOP_BYTES),
        }
    }

    fn all(&self) -> impl Iterator<Item = (u64, u64)> {
        let single = [self.numbers, self.one, self.tokens, self.logits, self.found];
        single.into_iter().chain(self.ropes.iter().chain(&self.lookups).copied())
    }
}

/// All device memory of a model, with its count.
struct Memory<B: Backend> {
    /// Parts of the workspace, each made once, by offset and bytes.
    regions: HashMap<(u64, u64), B::Buffer>,
    workspace: B::Buffer,
    cache: Vec<[B::Buffer; 2]>,
    /// By [`StateCopy`].
    states: Vec<[B::Buffer; 2]>,
    /// What is set aside of each layer with a window, keys and values.
    windows: Vec<Option<[B::Buffer; 2]>>,
    /// `None` of those that stay in the mapped file.
    parameters: Vec<Option<B::Buffer>>,
    /// The mapped files, where a table stays in them.
    in_file: Option<Arc<Weights>>,
    _charges: Vec<Charge>,
}

impl<B: Backend> Memory<B> {
    fn allocate(
        backend: &mut B,
        library: &ModelLibrary,
        weights: Weights,
        account: &Account,
        watch: &dyn Watch,
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
        let mut states = Vec::with_capacity(library.states.len());
        for state in &library.states {
            let bytes = state.bytes();
            states.push([allocate(backend, Part::State, bytes)?, allocate(backend, Part::State, bytes)?]);
        }
        let mut windows = Vec::with_capacity(library.kv_cache.len());
        for layer in &library.kv_cache {
            windows.push(match kept_bytes(library, layer) {
                0 => None,
                bytes => Some([allocate(backend, Part::State, bytes)?, allocate(backend, Part::State, bytes)?]),
            });
        }
        let weights = Arc::new(weights);
        let mut parameters = Vec::with_capacity(library.parameters.len());
        let (mut done, total) = (0, weights.total_bytes());
        for index in 0..library.parameters.len() as u32 {
            proceed(watch)?;
            let id = ParameterId(index);
            let bytes = weights.get(id).len() as u64;
            if weights.stays_in_file(id) {
                charges.push(account.charge(Part::File, bytes)?);
                parameters.push(None);
                continue;
            }
            charges.push(account.charge(Part::Weights, bytes)?);
            parameters.push(Some(backend.parameter(&weights, id)?));
            done += bytes;
            watch.progress(done, total);
        }
        let in_file = (!library.lookups.is_empty()).then_some(weights);
        Ok(Memory {
            regions: HashMap::new(),
            workspace,
            cache,
            states,
            windows,
            parameters,
            in_file,
            _charges: charges,
        })
    }

    /// Makes a region of the workspace, by offset and bytes, at its first use.
    fn region(&mut self, backend: &mut B, place: (u64, u64)) -> Result<(), DeviceError> {
        if let Entry::Vacant(entry) = self.regions.entry(place) {
            entry.insert(backend.region(&self.workspace, place.0, place.1)?);
        }
        Ok(())
    }

    fn write(&self, backend: &mut B, place: (u64, u64), bytes: &[u8]) -> Result<(), DeviceError> {
        backend.write(&self.regions[&place], bytes)
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
    for (index, state) in library.states.iter().enumerate() {
        check(state.bytes(), &|| format!("{} {index}", Part::State.name()))?;
    }
    let held = (0..).map(ParameterId).zip(&library.parameters).filter(|(id, _)| !library.stays_in_file(*id));
    for (_, parameter) in held {
        check(parameter.bytes().unwrap_or(u64::MAX), &|| format!("weight `{}`", parameter.name))?;
    }
    Ok(())
}

impl<B: Backend> GpuModel<B> {
    /// Allocates, uploads and binds everything. The library is validated.
    ///
    /// # Errors
    /// A library for another device, kernels that do not build, memory that cannot be had, or [`DeviceError::Interrupted`].
    /// Nothing stays allocated then.
    pub fn load(
        backend: B,
        library: Arc<ModelLibrary>,
        weights: Weights,
        watch: &dyn Watch,
    ) -> Result<Self, DeviceError> {
        let account = Account::default();
        let weights_digest = weights.digest();
        let inputs = library.call_inputs().expect("a validated library has them inside its workspace");
        let resident = Some(B::scope(|| Resident::load(backend, &library, &inputs, weights, &account, watch))?);
        let step = work::step(&library.model, &library, &library.prefill);
        let staging = Vec::new();
        Ok(GpuModel { library, account, inputs, step, rows: 0, position: 0, staging, weights_digest, resident })
    }

    fn resident(&mut self) -> &mut Resident<B> {
        self.resident.as_mut().expect("present until drop")
    }

    /// Whether half of a layer's cache has that many bytes.
    fn check_cache(&self, layer: usize, bytes: usize) -> Result<(), DeviceError> {
        match self.library.kv_cache.get(layer) {
            Some(found) if found.bytes() / 2 == bytes as u64 => Ok(()),
            _ => Err(DeviceError::InvalidCall(format!("{bytes} bytes of cache layer {layer}"))),
        }
    }

    /// Whether a state has that many bytes.
    fn check_state(&self, state: usize, bytes: usize) -> Result<(), DeviceError> {
        match self.library.states.get(state) {
            Some(found) if found.bytes() == bytes as u64 => Ok(()),
            _ => Err(DeviceError::InvalidCall(format!("{bytes} bytes of state {state}"))),
        }
    }

    fn check_kept(&self, layer: usize, bytes: usize) -> Result<(), DeviceError> {
        match self.library.kv_cache.get(layer) {
            Some(found) if bytes > 0 && kept_bytes(&self.library, found) == bytes as u64 => Ok(()),
            _ => Err(DeviceError::InvalidCall(format!("{bytes} bytes of the window of layer {layer}"))),
        }
    }

    /// An outcome after which, when it is a failure, nothing is running and no row is left.
    fn checked<T>(&mut self, outcome: Result<T, DeviceError>) -> Result<T, DeviceError> {
        if outcome.is_err() {
            self.rows = 0;
            let _ = B::scope(|| self.resident().settle());
        }
        outcome
    }

    /// Writes the inputs of a call and submits its function.
    fn start(&mut self, tokens: &[u32], call: Call, watch: &dyn Watch) -> Result<(), DeviceError> {
        let library = self.library.clone();
        let staging = &mut self.staging;
        let resident = self.resident.as_mut().expect("present until drop");
        // What was submitted before reads the inputs.
        resident.settle()?;
        let mut lookups = library.lookups.iter().zip(&resident.io.lookups).peekable();
        let look_up = |lookup: &Lookup, rows: &mut [f32]| {
            let weights = resident.memory.in_file.as_ref().expect("kept where there are lookups");
            crate::lookup::write_rows(&library, weights, lookup, tokens, rows);
        };
        if call.n == 1 {
            stage_one(&library, &self.inputs, call, tokens[0], staging);
            // Rows that follow the inputs go with them.
            if let Some((lookup, _)) = lookups.next_if(|(lookup, _)| lookup.rows.offset == self.inputs.end) {
                let start = staging.len();
                staging.resize(start + lookup.rows.columns as usize, 0.0);
                look_up(lookup, &mut staging[start..]);
            }
            resident.memory.write(&mut resident.backend, resident.io.one, bytemuck::cast_slice(staging))?;
        } else {
            let numbers = [call.n, call.position, call.row];
            resident.memory.write(&mut resident.backend, resident.io.numbers, bytemuck::cast_slice(&numbers))?;
            resident.memory.write(&mut resident.backend, resident.io.tokens, bytemuck::cast_slice(tokens))?;
            for (table, &rows) in library.rope_tables.iter().zip(&resident.io.ropes) {
                staging.resize(call.n as usize * 2 * table.frequencies.len(), 0.0);
                write_rope_rows(table, call, staging);
                resident.memory.write(&mut resident.backend, rows, bytemuck::cast_slice(staging))?;
            }
        }
        for (lookup, &rows) in lookups {
            staging.resize(call.n as usize * lookup.rows.columns as usize, 0.0);
            look_up(lookup, staging);
            resident.memory.write(&mut resident.backend, rows, bytemuck::cast_slice(staging))?;
        }
        let function = if call.n == 1 { &resident.decode } else { &resident.prefill };
        submit(&mut resident.backend, &mut resident.running, function, call, watch)
    }

    /// Runs the head on a row of the last call, and with `way` what finds the most likely tokens.
    fn start_head(&mut self, call: Call, way: Option<usize>) -> Result<(), DeviceError> {
        let library = self.library.clone();
        let resident = self.resident.as_mut().expect("present until drop");
        if self.rows > 1 {
            // The inputs are those of another call. Nothing that may be running reads them: it is `prefill`, which has its own.
            stage_one(&library, &self.inputs, call, 0, &mut self.staging);
            resident.memory.write(&mut resident.backend, resident.io.one, bytemuck::cast_slice(&self.staging))?;
        }
        let function = way.map_or(&resident.head, |way| &resident.top[way].1);
        submit(&mut resident.backend, &mut resident.running, function, call, &())
    }
}

impl<B: Backend> Resident<B> {
    fn load(
        mut backend: B,
        library: &ModelLibrary,
        inputs: &CallInputs,
        weights: Weights,
        account: &Account,
        watch: &dyn Watch,
    ) -> Result<Self, DeviceError> {
        let device = backend.device();
        let module = match &library.kernels {
            Some(module) if library.target == backend.target() => module,
            _ => return Err(DeviceError::WrongTarget { device, found: library.target }),
        };
        proceed(watch)?;
        backend.prepare(library, module)?;
        let mut memory = Memory::allocate(&mut backend, library, weights, account, watch)?;
        let io = InOut::new(library, inputs);
        for place in io.all() {
            memory.region(&mut backend, place)?;
        }
        let chunk = library.model.prefill_chunk_size;
        let many = Places { library, inputs, n: chunk, one: false };
        let prefill = bind_function(&mut backend, &mut memory, &many, &library.prefill)?;
        let one = Places { n: 1, one: true, ..many };
        let mut decode = bind_function(&mut backend, &mut memory, &one, &library.decode)?;
        let mut head = bind_function(&mut backend, &mut memory, &one, &library.head)?;
        let mut top = bind_top(&mut backend, &mut memory, &one, &io, module)?;
        for bound in [&mut decode, &mut head].into_iter().chain(top.iter_mut().map(|(_, bound)| bound)) {
            bound.recorded = backend.record(&bound.launches);
        }
        let running = VecDeque::with_capacity(IN_FLIGHT);
        Ok(Resident { running, prefill, decode, head, top, io, memory, backend })
    }

    /// Waits for everything that is running.
    fn settle(&mut self) -> Result<(), DeviceError> {
        self.backend.wait_all(&mut self.running)
    }
}

/// Submits the launches of a function, portion by portion.
fn submit<B: Backend>(
    backend: &mut B,
    running: &mut VecDeque<B::Ticket>,
    function: &Bound<B>,
    call: Call,
    watch: &dyn Watch,
) -> Result<(), DeviceError> {
    let mut done = 0;
    while done < function.launches.len() {
        let count = work::next(function.work[done..].iter().map(|work| work.at(call)));
        while running.len() >= IN_FLIGHT
            && let Some(ticket) = running.pop_front()
        {
            backend.wait(ticket)?;
        }
        proceed(watch)?;
        running.push_back(match &function.recorded {
            Some(recorded) if call.n == 1 && count == function.launches.len() => backend.replay(recorded)?,
            _ => backend.submit(&function.launches[done..done + count], call.n)?,
        });
        done += count;
    }
    Ok(())
}

fn bind_function<B: Backend>(
    backend: &mut B,
    memory: &mut Memory<B>,
    places: &Places<'_>,
    function: &Function,
) -> Result<Bound<B>, DeviceError> {
    let library = places.library;
    let mut bound = Bound { recorded: None, launches: Vec::with_capacity(function.launches.len()), work: Vec::new() };
    if function.calls().map(|(_, launches)| launches.len()).sum::<usize>() != function.launches.len() {
        return Err(DeviceError::WrongTarget { device: backend.device(), found: Target::Host });
    }
    for (call, launches) in function.calls() {
        let operands: Vec<Operand> = launches.iter().flat_map(|launch| launch.op.operands()).collect();
        let range = |operand: &Operand| places.of(&launches[0].op, operand);
        let scratch = match (call.scratch, launches[0].scratch) {
            (true, Some(scratch)) => Some((scratch.offset, u64::from(places.n) * scratch.bytes_per_token)),
            (true, None) => {
                return Err(DeviceError::InvalidCall("a kernel takes a scratch that is not there".to_owned()));
            }
            (false, _) => None,
        };
        let last = scratch.into_iter().chain([places.numbers()]);
        for place in operands.iter().filter_map(&range).chain(last.clone()) {
            memory.region(backend, place)?;
        }
        let buffers: Vec<&B::Buffer> = operands
            .iter()
            .map(|operand| match *operand {
                Operand::Parameter(id) => {
                    memory.parameters[id.0 as usize].as_ref().expect("no launch reads what stays in the file")
                }
                Operand::Keys(layer) => &memory.cache[layer as usize][0],
                Operand::Values(layer) => &memory.cache[layer as usize][1],
                Operand::State(state) => &memory.states[state as usize][0],
                _ => &memory.regions[&range(operand).expect("the others lie in the workspace")],
            })
            .chain(last.map(|place| &memory.regions[&place]))
            .collect();
        bound.launches.push((backend.bind(call.kernel, &buffers)?, call.clone()));
        bound.work.push(Work::of(library, launches));
        if let Some(then) = &call.then {
            let next = KernelCall { kernel: then.kernel, groups: then.groups, then: None, ..call.clone() };
            bound.launches.push((backend.bind(then.kernel, &buffers)?, next));
            bound.work.push(Work::default());
        }
    }
    Ok(bound)
}

/// The head and after it the kernels that find the most likely tokens, the fewest first.
fn bind_top<B: Backend>(
    backend: &mut B,
    memory: &mut Memory<B>,
    places: &Places<'_>,
    io: &InOut,
    module: &KernelModule,
) -> Result<Vec<(u32, Bound<B>)>, DeviceError> {
    let taken = [io.logits, io.found, places.numbers()];
    let mut all = Vec::with_capacity(module.top.len());
    for Top { count, gpu } in &module.top {
        let then = gpu.then.as_ref().map(|then| KernelCall { kernel: then.kernel, groups: then.groups, ..gpu.clone() });
        let mut bound = bind_function(backend, memory, places, &places.library.head)?;
        let buffers = taken.map(|place| &memory.regions[&place]);
        for call in std::iter::once(gpu.clone()).chain(then) {
            bound.launches.push((backend.bind(call.kernel, &buffers)?, call));
            bound.work.push(Work::default());
        }
        all.push((*count, bound));
    }
    all.sort_by_key(|(count, _)| *count);
    Ok(all)
}

impl<B: Backend> Drop for GpuModel<B> {
    fn drop(&mut self) {
        let resident = self.resident.take();
        B::scope(|| {
            if let Some(mut resident) = resident {
                // The GPU must be done before memory goes. A failure changes nothing here.
                let _ = resident.settle();
            }
        });
    }
}

impl<B: Backend> LoadedModel for GpuModel<B> {
    fn library(&self) -> &Arc<ModelLibrary> {
        &self.library
    }

    fn memory(&self) -> MemoryPlan {
        self.account.now()
    }

    fn step(&self) -> u32 {
        self.step
    }

    fn forward_while(&mut self, tokens: &[u32], position: u32, watch: &dyn Watch) -> Result<(), DeviceError> {
        let call = check_forward(&self.library, tokens, position)?;
        self.rows = 0;
        B::scope(|| {
            if let Err(error) = self.start(tokens, call, watch) {
                // Nothing goes on running, and what failed says more than that the rest was not wanted.
                let settled = self.resident().settle();
                return match error {
                    DeviceError::Interrupted => settled.and(Err(error)),
                    error => Err(error),
                };
            }
            (self.rows, self.position) = (call.n, position);
            Ok(())
        })
    }

    fn logits(&mut self, row: u32, output: &mut [f32]) -> Result<(), DeviceError> {
        let call = check_logits(&self.library, self.rows, self.position, row, output)?;
        let outcome = B::scope(|| {
            self.start_head(call, None)?;
            let Resident { backend, running, memory, io, .. } = self.resident();
            backend.read(running, &memory.regions[&io.logits], bytemuck::cast_slice_mut(output))
        });
        self.checked(outcome)
    }

    fn most_likely(&self) -> u32 {
        self.resident.as_ref().and_then(|resident| resident.top.last()).map_or(0, |(count, _)| *count)
    }

    fn top(&mut self, row: u32, count: u32) -> Result<Vec<(u32, f32)>, DeviceError> {
        let call = check_row(self.rows, self.position, row)?;
        let way = self.resident().top.iter().position(|(most, _)| *most >= count);
        let Some(way) = way.filter(|_| count > 0) else {
            return Err(DeviceError::InvalidCall(format!("{count} tokens, 1 to {} are found", self.most_likely())));
        };
        let mut pairs = vec![[0u32; 2]; count as usize];
        let outcome = B::scope(|| {
            self.start_head(call, Some(way))?;
            let Resident { backend, running, memory, io, .. } = self.resident();
            backend.read(running, &memory.regions[&io.found], bytemuck::cast_slice_mut(&mut pairs))
        });
        self.checked(outcome)?;
        let found = pairs.into_iter().filter(|[token, _]| *token != u32::MAX);
        Ok(found.map(|[token, bits]| (token, f32::from_bits(bits))).collect())
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        let outcome = B::scope(|| self.resident().settle());
        self.checked(outcome)
    }

    fn read_bandwidth(&mut self) -> Result<Option<f64>, DeviceError> {
        let outcome = B::scope(|| {
            let resident = self.resident();
            resident.settle()?;
            resident.backend.read_bandwidth()
        });
        self.checked(outcome)
    }

    fn foreground_only(&self) -> bool {
        B::FOREGROUND_ONLY
    }

    fn weights_digest(&self) -> [u8; 32] {
        self.weights_digest
    }

    fn read_cache(&mut self, layer: usize, half: CacheHalf, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.check_cache(layer, bytes.len())?;
        let outcome = B::scope(|| {
            let Resident { backend, running, memory, .. } = self.resident();
            backend.read(running, &memory.cache[layer][half as usize], bytes)
        });
        self.checked(outcome)
    }

    fn write_cache(&mut self, layer: usize, half: CacheHalf, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check_cache(layer, bytes.len())?;
        let outcome = B::scope(|| {
            let resident = self.resident();
            resident.settle()?;
            resident.backend.write(&resident.memory.cache[layer][half as usize], bytes)
        });
        self.checked(outcome)
    }

    fn read_state(&mut self, state: usize, copy: StateCopy, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.check_state(state, bytes.len())?;
        let outcome = B::scope(|| {
            let Resident { backend, running, memory, .. } = self.resident();
            backend.read(running, &memory.states[state][copy as usize], bytes)
        });
        self.checked(outcome)
    }

    fn write_state(&mut self, state: usize, copy: StateCopy, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check_state(state, bytes.len())?;
        let outcome = B::scope(|| {
            let resident = self.resident();
            resident.settle()?;
            resident.backend.write(&resident.memory.states[state][copy as usize], bytes)
        });
        self.checked(outcome)
    }

    fn read_kept(&mut self, layer: usize, half: CacheHalf, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.check_kept(layer, bytes.len())?;
        let outcome = B::scope(|| {
            let Resident { backend, running, memory, .. } = self.resident();
            memory.windows[layer].as_ref().map_or(Ok(()), |kept| backend.read(running, &kept[half as usize], bytes))
        });
        self.checked(outcome)
    }

    fn write_kept(&mut self, layer: usize, half: CacheHalf, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check_kept(layer, bytes.len())?;
        let outcome = B::scope(|| {
            let resident = self.resident();
            resident.settle()?;
            let Resident { backend, memory, .. } = resident;
            memory.windows[layer].as_ref().map_or(Ok(()), |kept| backend.write(&kept[half as usize], bytes))
        });
        self.checked(outcome)
    }
}
