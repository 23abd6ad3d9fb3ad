//! A device for tests: it keeps tokens in the slots of the plan's KV cache, checks that every position a query may see is
//! still there, and computes logits from exactly those.

use knapsack_artifact::library::{Io, MemoryPlan, ModelInfo, ModelLibrary, Target};
use knapsack_artifact::plan::{Function, KvLayer, Rows, Scratch};
use knapsack_device::{CacheHalf, DeviceError, LoadedModel, Watch};
use knapsack_tensor::DType;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The logits for the tokens that are visible, oldest first.
pub(crate) type Script = Box<dyn Fn(&[u32]) -> Vec<f32> + Send>;

pub(crate) struct Scripted {
    library: Arc<ModelLibrary>,
    /// Position and token of each slot.
    slots: Vec<Option<(u32, u32)>>,
    /// Visible tokens of each row of the last call.
    rows: Vec<Vec<u32>>,
    script: Script,
    /// Tokens computed so far.
    pub(crate) computed: Arc<AtomicUsize>,
    pub(crate) fail_at: Option<u32>,
}

impl Scripted {
    pub(crate) fn new(info: ModelInfo, script: Script) -> Self {
        let (window, sinks, chunk) = (info.sliding_window_size, info.attention_sink_size, info.prefill_chunk_size);
        let positions = match window {
            Some(window) => sinks + window + chunk - 1,
            None => info.context_window_size.expect("a context or a window"),
        };
        let layer = KvLayer { kv_heads: 1, head_dim: 1, positions, window, sinks, dtype: DType::F16 };
        let rows = Rows { offset: 0, columns: 1 };
        let library = ModelLibrary {
            name: "scripted".into(),
            compiler: "test".into(),
            target: Target::Host,
            model: info,
            parameters: Vec::new(),
            rope_tables: Vec::new(),
            kv_cache: vec![layer],
            io: Io { tokens: Scratch { offset: 0, bytes_per_token: 4 }, hidden: rows, logits: rows },
            memory: MemoryPlan::default(),
            prefill: Function::default(),
            decode: Function::default(),
            head: Function::default(),
            kernels: None,
        };
        Self {
            library: Arc::new(library),
            slots: vec![None; positions as usize],
            rows: Vec::new(),
            script,
            computed: Arc::default(),
            fail_at: None,
        }
    }

    fn seen(&self, position: u32) -> Vec<u32> {
        let layer = self.library.kv_cache[0];
        let (sinks, start) = layer.visible(position);
        let stored = |p: u32| {
            let (at, token) = self.slots[layer.slot(p) as usize].expect("a visible slot was written");
            assert_eq!(at, p, "query {position} sees slot {} of another position", layer.slot(p));
            token
        };
        (0..sinks).chain(start..=position).map(stored).collect()
    }
}

impl LoadedModel for Scripted {
    fn library(&self) -> &Arc<ModelLibrary> {
        &self.library
    }

    fn memory(&self) -> MemoryPlan {
        self.library.memory
    }

    fn forward_while(&mut self, tokens: &[u32], position: u32, watch: &dyn Watch) -> Result<(), DeviceError> {
        assert!(!tokens.is_empty() && tokens.len() <= self.library.model.prefill_chunk_size as usize);
        let positions = position..position + tokens.len() as u32;
        assert!(self.library.model.context_window_size.is_none_or(|context| positions.end <= context));
        if !watch.proceed() {
            return Err(DeviceError::Interrupted);
        }
        if self.fail_at.is_some_and(|at| positions.contains(&at)) {
            self.slots.fill(None);
            return Err(DeviceError::InvalidCall("scripted".into()));
        }
        for (&token, p) in tokens.iter().zip(positions.clone()) {
            self.slots[self.library.kv_cache[0].slot(p) as usize] = Some((p, token));
        }
        self.rows = positions.map(|p| self.seen(p)).collect();
        self.computed.fetch_add(tokens.len(), Ordering::Relaxed);
        Ok(())
    }

    fn logits(&mut self, row: u32, output: &mut [f32]) -> Result<(), DeviceError> {
        output.copy_from_slice(&(self.script)(&self.rows[row as usize]));
        Ok(())
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn weights_digest(&self) -> [u8; 32] {
        [0; 32]
    }

    fn read_cache(&mut self, layer: usize, _: CacheHalf, _: &mut [u8]) -> Result<(), DeviceError> {
        Err(DeviceError::InvalidCall(format!("layer {layer} holds tokens, not numbers")))
    }

    fn write_cache(&mut self, layer: usize, half: CacheHalf, _: &[u8]) -> Result<(), DeviceError> {
        self.read_cache(layer, half, &mut [])
    }
}

pub(crate) fn info(vocab_size: u32, context: Option<u32>, window: Option<u32>, sinks: u32, chunk: u32) -> ModelInfo {
    ModelInfo {
        family: "scripted".into(),
        quantization: "q0f32".into(),
        vocab_size,
        hidden_size: 1,
        layers: 1,
        context_window_size: context,
        sliding_window_size: window,
        attention_sink_size: sinks,
        prefill_chunk_size: chunk,
    }
}
