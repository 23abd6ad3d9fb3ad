//! Six models on the fake device. What the manager promises about memory is held against what the device counts: its memory
//! is as large as the budget, so a load beyond it fails.

use crate::cancel::CancelFlag;
use crate::manager::{Acquire, BoxError, Cancelled, Handle, Loader, Manager};
use knapsack_artifact::library::{Io, MemoryPlan, ModelInfo, ModelLibrary, Parameter, TOP_BYTES, Target};
use knapsack_artifact::plan::{
    ALIGNMENT, Embed, Function, KvLayer, Launch, Norm, NormWeights, Op, ParameterId, RowSelect, Rows, Scratch, Weight,
};
use knapsack_artifact::weight_index::{Encoding, FILE_NAME, Metadata, Record, Shard, WeightIndex};
use knapsack_device::{Device, DeviceError, FakeDevice, LoadedModel};
use knapsack_tensor::{DType, NormKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

pub(super) const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Their sizes, in units.
pub(super) const SIZES: [u64; 6] = [10, 20, 30, 40, 55, 100];
pub(super) const UNIT: u64 = 64 << 10;
/// Allocations of a load: weights, KV cache, workspace.
pub(super) const ALLOCATIONS: u64 = 3;
/// Launches of [`answer`].
pub(super) const LAUNCHES: u64 = 2;

const WIDTH: u32 = 8;

pub(super) type FakeModel = Box<dyn LoadedModel>;

pub(super) struct World {
    pub(super) device: FakeDevice,
    libraries: [Arc<ModelLibrary>; 6],
    folder: tempfile::TempDir,
    /// What each model answers.
    answers: Vec<Vec<f32>>,
    pub(super) loads: AtomicUsize,
    /// The next load behaves as if it had been cancelled, or panics.
    pub(super) cancel: AtomicBool,
    pub(super) panic: AtomicBool,
}

/// Embeds a token in a workspace of a few regions; the KV cache makes up the size. `scale` tells the models apart.
fn library(size: u64, scale: f32) -> ModelLibrary {
    let rows = |index: u64| Rows { offset: index * ALIGNMENT, columns: WIDTH };
    let table = Parameter { name: "table".into(), shape: vec![8, u64::from(WIDTH)], dtype: DType::F32 };
    let weights = table.bytes().expect("a small table");
    let workspace = 6 * ALIGNMENT + TOP_BYTES;
    let kv_cache = size * UNIT - weights - workspace;
    // Keys and values of one head of two halves: 8 bytes a position.
    let layer = KvLayer {
        kv_heads: 1,
        head_dim: 2,
        positions: (kv_cache / 8) as u32,
        window: None,
        sinks: 0,
        dtype: DType::F16,
    };
    let embed = Op::Embed(Embed { table: Weight::Dense(ParameterId(0)), vocab: 8, scale, output: rows(1) });
    let norm = NormWeights { kind: NormKind::Rms, epsilon: 1e6, weight: None, bias: None };
    let head = Op::Norm(Norm { input: rows(1), rows: RowSelect::One, norm, output: rows(2) });
    let [embed, head] = [embed, head].map(|op| Function { launches: vec![Launch { op, scratch: None, gpu: None }] });
    ModelLibrary {
        name: "world".into(),
        compiler: "test".into(),
        target: Target::Host,
        model: ModelInfo {
            family: "world".into(),
            quantization: "q0f32".into(),
            vocab_size: WIDTH,
            hidden_size: WIDTH,
            layers: 1,
            context_window_size: Some(8),
            sliding_window_size: None,
            attention_sink_size: 0,
            prefill_chunk_size: 4,
        },
        parameters: vec![table],
        rope_tables: Vec::new(),
        kv_cache: vec![layer],
        states: Vec::new(),
        lookups: Vec::new(),
        io: Io {
            tokens: Scratch { offset: 0, bytes_per_token: 4 },
            call: 3 * ALIGNMENT,
            hidden: rows(1),
            carried: Vec::new(),
            logits: rows(2),
        },
        memory: MemoryPlan { weights, kv_cache, workspace, ..MemoryPlan::default() },
        prefill: embed.clone(),
        decode: embed,
        head,
        kernels: None,
    }
}

fn write_weights(folder: &Path) {
    let bytes: Vec<u8> = (0..8 * WIDTH).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let nbytes = bytes.len() as u64;
    let record = Record {
        name: "table".into(),
        shape: vec![8, u64::from(WIDTH)],
        dtype: DType::F32,
        format: Encoding::Raw,
        nbytes,
        byte_offset: 0,
    };
    let shard = Shard {
        data_path: "params_shard_0.bin".into(),
        format: "raw-shard".into(),
        nbytes,
        records: vec![record],
        md5sum: None,
    };
    std::fs::write(folder.join(&shard.data_path), bytes).unwrap();
    let index = WeightIndex { metadata: Metadata::default(), shards: vec![shard] };
    std::fs::write(folder.join(FILE_NAME), index.to_json()).unwrap();
}

/// Runs a model: its logits after a token.
pub(super) fn answer(model: &mut FakeModel) -> Result<Vec<f32>, DeviceError> {
    let mut logits = vec![0.0; WIDTH as usize];
    model.forward(&[3], 0)?;
    model.logits(0, &mut logits)?;
    Ok(logits)
}

impl World {
    fn new() -> Self {
        let device = FakeDevice::new(u64::MAX);
        let folder = tempfile::tempdir().unwrap();
        write_weights(folder.path());
        let libraries = std::array::from_fn(|index| Arc::new(library(SIZES[index], 1.0 + index as f32)));
        let load = |library: &Arc<ModelLibrary>| device.load(library.clone(), folder.path()).unwrap();
        let answers: Vec<Vec<f32>> = libraries.iter().map(|library| answer(&mut load(library)).unwrap()).collect();
        assert!((1..6).all(|index| answers[index] != answers[index - 1]), "the models can be told apart");
        let (loads, cancel, panic) = Default::default();
        World { device, libraries, folder, answers, loads, cancel, panic }
    }

    /// Uses a model that is held; its answer must be right.
    pub(super) fn ask(&self, handle: &Handle<FakeLoader>) -> Result<(), DeviceError> {
        let found = answer(&mut handle.lock())?;
        let index = IDS.iter().position(|id| *id == handle.model_id()).unwrap();
        assert_eq!(found, self.answers[index], "{}", handle.model_id());
        Ok(())
    }

    /// Bytes that are allocated, by the device's count, in units.
    pub(super) fn alive(&self) -> u64 {
        let bytes = self.device.allocated();
        assert_eq!(bytes % UNIT, 0, "no half model is left");
        bytes / UNIT
    }
}

pub(super) struct FakeLoader(Arc<World>);

impl Loader for FakeLoader {
    type Model = FakeModel;

    fn bytes(&self, model_id: &str) -> Result<u64, BoxError> {
        let index = IDS.iter().position(|id| *id == model_id).ok_or("no such model")?;
        Ok(self.0.libraries[index].memory.total())
    }

    fn load(&self, model_id: &str, progress: &dyn Fn(f32), _: &CancelFlag) -> Result<FakeModel, BoxError> {
        let world = &self.0;
        world.loads.fetch_add(1, SeqCst);
        let index = IDS.iter().position(|id| *id == model_id).ok_or("no such model")?;
        let model = world.device.load(world.libraries[index].clone(), world.folder.path())?;
        progress(0.5);
        assert!(!world.panic.swap(false, SeqCst), "asked to");
        if world.cancel.swap(false, SeqCst) {
            return Err(Cancelled.into());
        }
        Ok(model)
    }
}

/// A loader whose device has `budget` units of memory.
pub(super) fn loader(budget: u64) -> (FakeLoader, Arc<World>) {
    let world = Arc::new(World::new());
    world.device.set_memory(budget * UNIT);
    (FakeLoader(world.clone()), world)
}

/// A manager of the models with a budget of so many units, which is also the device's memory.
pub(super) fn manager(budget: u64) -> (Manager<FakeLoader>, Arc<World>) {
    let (loader, world) = loader(budget);
    (Manager::new(loader, budget * UNIT, None), world)
}

/// Without waiting.
pub(super) fn now() -> Acquire {
    Acquire::default()
}
