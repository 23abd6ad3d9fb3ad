//! The executor on a backend that computes nothing, keeps account of what runs, and fails when it is told to.

use super::*;
use crate::Folder;
use knapsack_artifact::library::{Io, Kernel, ModelInfo, Parameter, TOP_BYTES, Top};
use knapsack_artifact::plan::{
    ALIGNMENT, Embed, Epilogue, Groups, Launch, Linear, Norm, NormWeights, Op, RowSelect, Rows, Scratch, Weight,
};
use knapsack_artifact::weight_index::{Encoding, FILE_NAME, Metadata, Record, Shard, WeightIndex};
use knapsack_tensor::{DType, NormKind};
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, Weak};

const WIDTH: u32 = 8;
/// Linear layers of a forward; each is more than a submission's work.
const LAYERS: usize = 4;

fn top() -> Top {
    let groups = [Groups { count: 1, tokens_per_group: 0 }; 3];
    Top { count: 2, gpu: KernelCall { kernel: 0, groups, more: 0, scratch: false, then: None } }
}

/// One kernel for all launches.
fn kernels() -> KernelModule {
    let kernel = Kernel { name: "kernel".into(), threads: [1, 1, 1], images: Vec::new() };
    KernelModule { source: String::new(), kernels: vec![kernel], metallibs: Vec::new(), top: vec![top()] }
}

/// Where the rows begin: behind the tokens, the most likely ones, and the numbers of two calls with a token.
const ROWS: u64 = 4 * ALIGNMENT + TOP_BYTES;

pub(crate) fn library(chunk: u32) -> ModelLibrary {
    let rows = |index: u64| Rows { offset: ROWS + index * ALIGNMENT, columns: WIDTH };
    let table = Parameter { name: "table".into(), shape: vec![8, u64::from(WIDTH)], dtype: DType::F32 };
    let table_weight = Weight::Dense(ParameterId(0));
    let embed = Op::Embed(Embed { table: table_weight, vocab: 8, scale: 1.0, output: rows(1) });
    // 2^32 products for each token; this executor believes what the plan says.
    let linear = Op::Linear(Linear {
        input: Rows { offset: ROWS, columns: 1 << 16 },
        weight: table_weight,
        bias: None,
        out_features: 1 << 16,
        epilogue: Epilogue::None,
        output: rows(2),
    });
    let norm = NormWeights { kind: NormKind::Rms, epsilon: 1e-6, weight: None, bias: None };
    let head = Op::Norm(Norm { input: rows(1), rows: RowSelect::One, norm, output: rows(2) });
    let one = Groups { count: 1, tokens_per_group: 0 };
    let launch = |op| {
        let call = KernelCall { kernel: 0, groups: [one; 3], more: 0, scratch: false, then: None };
        Launch { op, scratch: None, gpu: Some(call) }
    };
    let function = |ops: Vec<Op>| Function { launches: ops.into_iter().map(launch).collect() };
    let layers = || function([vec![embed.clone()], vec![linear.clone(); LAYERS]].concat());
    ModelLibrary {
        name: "idle".into(),
        compiler: "test".into(),
        target: Target::OpenCl,
        model: ModelInfo {
            family: "idle".into(),
            quantization: "q0f32".into(),
            vocab_size: WIDTH,
            hidden_size: WIDTH,
            layers: 1,
            context_window_size: Some(64),
            sliding_window_size: None,
            attention_sink_size: 0,
            prefill_chunk_size: chunk,
        },
        rope_tables: Vec::new(),
        kv_cache: Vec::new(),
        states: Vec::new(),
        lookups: Vec::new(),
        io: Io {
            tokens: Scratch { offset: 0, bytes_per_token: 4 },
            call: ALIGNMENT,
            hidden: rows(1),
            carried: Vec::new(),
            logits: rows(2),
        },
        memory: MemoryPlan {
            weights: table.bytes().unwrap(),
            kv_cache: 0,
            file: 0,
            state: 0,
            workspace: ROWS + 3 * ALIGNMENT,
        },
        parameters: vec![table],
        prefill: layers(),
        decode: layers(),
        head: function(vec![head]),
        kernels: Some(kernels()),
    }
}

fn weights(library: &ModelLibrary) -> (tempfile::TempDir, Weights) {
    let folder = tempfile::tempdir().unwrap();
    let nbytes = library.memory.weights;
    let record = Record {
        name: "table".into(),
        shape: library.parameters[0].shape.clone(),
        dtype: DType::F32,
        format: Encoding::Raw,
        nbytes,
        byte_offset: 0,
    };
    let shard = Shard {
        data_path: "shard.bin".into(),
        format: "raw-shard".into(),
        nbytes,
        records: vec![record],
        md5sum: None,
    };
    std::fs::write(folder.path().join("shard.bin"), vec![0; nbytes as usize]).unwrap();
    let index = WeightIndex { metadata: Metadata::default(), shards: vec![shard] };
    std::fs::write(folder.path().join(FILE_NAME), index.to_json()).unwrap();
    let weights = Weights::open(library, &Folder::new(folder.path()), &Account::default(), &()).unwrap();
    (folder, weights)
}

/// What happened so far.
#[derive(Default)]
struct Log {
    submitted: usize,
    /// Of them what was recorded before.
    replayed: usize,
    waited: usize,
    running: usize,
    written: usize,
    read: usize,
    /// Bytes of the last read.
    bytes: usize,
    /// Times that the caller had to stand still: a read, or waiting for what nothing reads.
    stood: usize,
    /// What the running submissions use, by their numbers.
    used: HashMap<usize, Vec<Place>>,
    /// The submission that the device refuses, and the one that fails while it runs.
    refused: Option<usize>,
    failing: Option<usize>,
}

/// An allocation, and bytes `start..end` of it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    allocation: usize,
    start: u64,
    end: u64,
}

impl Place {
    const fn overlaps(&self, other: &Place) -> bool {
        self.allocation == other.allocation && self.start < other.end && other.start < self.end
    }
}

/// Memory that is there as long as this.
struct Held(Place, Arc<()>);

impl Held {
    fn new(place: Place) -> Self {
        Held(place, Arc::new(()))
    }
}

/// A buffer of a launch, which does not keep it.
type Taken = (Place, Weak<()>);

#[derive(Clone, Default)]
struct Idle(Arc<Mutex<Log>>, usize);

impl Idle {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }
}

/// A submission by its number, and whether it was waited for.
struct Ticket(usize, bool);

impl Drop for Ticket {
    fn drop(&mut self) {
        assert!(self.1 || std::thread::panicking(), "submission {} was never waited for", self.0);
    }
}

fn failure(what: &'static str) -> DeviceError {
    DeviceError::Driver { device: "idle", operation: what, status: "told to".into() }
}

impl Backend for Idle {
    type Buffer = Held;
    type Launch = Vec<Taken>;
    type Ticket = Ticket;
    type Recorded = Vec<(Vec<Taken>, KernelCall)>;

    fn device(&self) -> &'static str {
        "idle"
    }

    fn target(&self) -> Target {
        Target::OpenCl
    }

    fn largest_buffer(&self) -> u64 {
        u64::MAX
    }

    fn prepare(&mut self, _: &ModelLibrary, _: &KernelModule) -> Result<(), DeviceError> {
        Ok(())
    }

    fn allocate(&mut self, _: Part, bytes: u64) -> Result<Held, DeviceError> {
        self.1 += 1;
        Ok(Held::new(Place { allocation: self.1, start: 0, end: bytes }))
    }

    fn parameter(&mut self, weights: &Arc<Weights>, id: ParameterId) -> Result<Held, DeviceError> {
        self.allocate(Part::Weights, weights.get(id).len() as u64)
    }

    fn region(&mut self, Held(of, _): &Held, offset: u64, bytes: u64) -> Result<Held, DeviceError> {
        assert!(of.start + offset + bytes <= of.end, "{bytes} bytes at {offset} of {of:?}");
        Ok(Held::new(Place { start: of.start + offset, end: of.start + offset + bytes, ..*of }))
    }

    fn bind(&mut self, _: u32, buffers: &[&Held]) -> Result<Vec<Taken>, DeviceError> {
        Ok(buffers.iter().map(|held| (held.0, Arc::downgrade(&held.1))).collect())
    }

    fn write(&mut self, Held(to, _): &Held, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut log = self.log();
        let written = Place { end: to.start + bytes.len() as u64, ..*to };
        assert!(written.end <= to.end, "{} bytes into {to:?}", bytes.len());
        let used = log.used.values().flatten().any(|place| place.overlaps(&written));
        assert!(!used, "memory is written that the device uses");
        log.written += 1;
        Ok(())
    }

    fn read(&mut self, running: &mut VecDeque<Ticket>, _: &Held, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let stood = self.log().stood;
        self.wait_all(running)?;
        let mut log = self.log();
        assert_eq!(log.running, 0, "memory is read that the device uses");
        (log.read, log.stood, log.bytes) = (log.read + 1, stood + 1, bytes.len());
        bytes.fill(0);
        Ok(())
    }

    fn submit(&mut self, launches: &[(Vec<Taken>, KernelCall)], _: u32) -> Result<Ticket, DeviceError> {
        let taken = launches.iter().flat_map(|(taken, _)| taken);
        let used = taken.map(|(place, held)| held.upgrade().map(|_| *place).expect("its buffer is still there"));
        let used: Vec<Place> = used.collect();
        let mut log = self.log();
        assert!(!launches.is_empty() && log.running < IN_FLIGHT);
        let number = log.submitted;
        log.submitted += 1;
        if log.refused == Some(number) {
            return Err(failure("submit"));
        }
        log.running += 1;
        log.used.insert(number, used);
        Ok(Ticket(number, false))
    }

    fn record(&mut self, launches: &[(Vec<Taken>, KernelCall)]) -> Option<Self::Recorded> {
        Some(launches.to_vec())
    }

    fn replay(&mut self, recorded: &Self::Recorded) -> Result<Ticket, DeviceError> {
        self.log().replayed += 1;
        self.submit(recorded, 1)
    }

    fn wait(&mut self, mut ticket: Ticket) -> Result<(), DeviceError> {
        ticket.1 = true;
        let mut log = self.log();
        log.running -= 1;
        log.waited += 1;
        log.stood += 1;
        log.used.remove(&ticket.0);
        if log.failing == Some(ticket.0) { Err(failure("run")) } else { Ok(()) }
    }
}

fn model(chunk: u32) -> (tempfile::TempDir, GpuModel<Idle>, Idle) {
    model_of(library(chunk))
}

fn model_of(library: ModelLibrary) -> (tempfile::TempDir, GpuModel<Idle>, Idle) {
    let idle = Idle::default();
    let (folder, weights) = weights(&library);
    let model = GpuModel::load(idle.clone(), Arc::new(library), weights, &()).unwrap();
    (folder, model, idle)
}

/// A prompt of two chunks, then two tokens; stops at the first failure.
fn answer(model: &mut GpuModel<Idle>) -> Result<(), DeviceError> {
    let mut logits = [0.0; WIDTH as usize];
    model.forward(&[1; 4], 0)?;
    model.forward(&[1; 3], 4)?;
    model.logits(2, &mut logits)?;
    for position in 7..9 {
        model.forward(&[1], position)?;
        model.logits(0, &mut logits)?;
    }
    Ok(())
}

#[test]
fn heavy_launches_are_submitted_one_by_one_and_all_are_waited_for() {
    let (_folder, mut model, idle) = model(4);
    answer(&mut model).unwrap();
    // For each chunk the embedding and each layer alone, for each token two layers at once, and three times the head.
    let log = idle.log();
    assert_eq!(log.submitted, 2 * (1 + LAYERS) + 2 * (LAYERS / 2) + 3);
    assert_eq!((log.waited, log.running), (log.submitted, 0));
}

#[test]
fn a_token_costs_one_write_and_one_read() {
    let mut library = library(4);
    // No more than the work of one submission.
    library.decode.launches.truncate(2);
    let (_folder, mut model, idle) = model_of(library);
    answer(&mut model).unwrap();
    for position in 9..12 {
        *idle.log() = Log::default();
        model.forward(&[1], position).unwrap();
        model.logits(0, &mut [0.0; WIDTH as usize]).unwrap();
        let log = idle.log();
        assert_eq!((log.written, log.read, log.stood), (1, 1, 1));
        assert_eq!((log.submitted, log.replayed), (2, 2));
        drop(log);
        // The most likely tokens alone: the same, but for what is read.
        *idle.log() = Log::default();
        model.forward(&[1], position).unwrap();
        assert_eq!(model.top(0, 2).unwrap(), [(0, 0.0); 2]);
        let log = idle.log();
        assert_eq!((log.written, log.read, log.stood, log.bytes), (1, 1, 1, 16));
        drop(log);
        assert!(matches!(model.top(0, 0), Err(DeviceError::InvalidCall(_))));
        assert!(matches!(model.top(1, 1), Err(DeviceError::InvalidCall(_))));
    }
}

#[test]
fn whatever_fails_is_told_once_and_nothing_goes_on() {
    let (_folder, mut model, idle) = model(4);
    answer(&mut model).unwrap();
    let submissions = idle.log().submitted;
    for moment in 0..submissions {
        for late in [false, true] {
            *idle.log() = Log::default();
            let at = Some(moment);
            if late {
                idle.log().failing = at
            } else {
                idle.log().refused = at
            }
            let error = answer(&mut model).expect_err("the failure is told");
            assert!(matches!(error, DeviceError::Driver { .. }), "{moment} {late}: {error}");
            assert_eq!(idle.log().running, 0, "{moment} {late}");
            let error = model.logits(0, &mut [0.0; WIDTH as usize]).unwrap_err();
            assert!(matches!(error, DeviceError::InvalidCall(_)), "{moment} {late}: no rows are left: {error}");
            model.wait().unwrap();
            *idle.log() = Log::default();
            answer(&mut model).unwrap();
        }
    }
}

#[test]
fn a_failure_that_nobody_asked_for_is_told_by_the_next_call() {
    for next in [0, 1] {
        let (_folder, mut model, idle) = model(4);
        model.forward(&[1; 4], 0).unwrap();
        let last = idle.log().submitted - 1;
        idle.log().failing = Some(last);
        let outcome = if next == 0 { model.wait() } else { model.forward(&[1], 4) };
        assert!(matches!(outcome, Err(DeviceError::Driver { .. })));
        assert_eq!(idle.log().running, 0);
    }
}

#[test]
fn a_call_that_is_told_to_stop_submits_nothing_more() {
    let (_folder, mut model, idle) = model(4);
    for allowed in 0..=LAYERS {
        for fails in [false, true] {
            *idle.log() = Log::default();
            idle.log().failing = (fails && allowed > 0).then(|| allowed - 1);
            let left = Cell::new(allowed);
            let watch = || left.replace(left.get().saturating_sub(1)) > 0;
            let error = model.forward_while(&[1; 4], 0, &watch).unwrap_err();
            match idle.log().failing {
                None => assert!(matches!(error, DeviceError::Interrupted), "{error}"),
                Some(_) => assert!(matches!(error, DeviceError::Driver { .. }), "{error}"),
            }
            let log = idle.log();
            assert_eq!((log.submitted, log.waited, log.running), (allowed, allowed, 0));
        }
    }
}

#[test]
fn a_load_stops_between_uploads_and_a_call_has_only_so_many_tokens() {
    let library = Arc::new(library(64));
    let (_folder, all) = weights(&library);
    let left = Cell::new(1);
    let watch = || left.replace(left.get() - 1) > 0;
    let error = GpuModel::load(Idle::default(), library.clone(), all, &watch).err().unwrap();
    assert!(matches!(error, DeviceError::Interrupted), "{error}");
    // 2^36 products at most in a launch, 2^32 for each token.
    assert_eq!(model(64).1.step(), 16);
    assert_eq!(model(8).1.step(), 8);
}
