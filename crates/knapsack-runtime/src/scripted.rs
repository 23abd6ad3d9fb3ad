//! A device for tests: it keeps tokens in the slots of the plan's KV cache, checks that every position a query may see is
//! still there, and computes logits from exactly those.

use knapsack_artifact::library::{Io, MemoryPlan, ModelInfo, ModelLibrary, Target};
use knapsack_artifact::plan::{Function, KvLayer, Rows, Scratch, StateLayer};
use knapsack_device::{CacheHalf, DeviceError, LoadedModel, StateCopy, Watch};
use knapsack_tensor::DType;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The logits for the tokens that are visible, oldest first.
pub(crate) type Script = Box<dyn Fn(&[u32]) -> Vec<f32> + Send>;

pub(crate) struct Scripted {
    library: Arc<ModelLibrary>,
    /// Position and token of each slot.
    slots: Vec<Option<(u32, u32)>>,
    /// What a recurrent model remembers: position and a sum over all tokens, in their order; the current one and the one set aside.
    states: [u64; 2],
    /// What was visible where states were set aside.
    aside: Vec<(u32, u32)>,
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
            states: Vec::new(),
            lookups: Vec::new(),
            io: Io {
                tokens: Scratch { offset: 0, bytes_per_token: 4 },
                call: 0,
                hidden: rows,
                carried: Vec::new(),
                logits: rows,
            },
            memory: MemoryPlan::default(),
            prefill: Function::default(),
            decode: Function::default(),
            head: Function::default(),
            kernels: None,
        };
        Self {
            library: Arc::new(library),
            slots: vec![None; positions as usize],
            states: [u64::MAX; 2],
            aside: Vec::new(),
            rows: Vec::new(),
            script,
            computed: Arc::default(),
            fail_at: None,
        }
    }

    /// One whose logits depend on what it remembers of every token, too.
    pub(crate) fn recurrent(info: ModelInfo, script: Script) -> Self {
        let mut new = Self::new(info, script);
        let library = Arc::get_mut(&mut new.library).expect("nobody else has it");
        library.states = vec![StateLayer::Delta { heads: 1, key_dim: 1, value_dim: 2 }];
        new
    }

    /// The state after another token at a position; checks that it was that of the position before.
    fn remember(&mut self, position: u32, token: u32) -> u32 {
        let (at, sum) = if position == 0 { (0, 0) } else { ((self.states[0] >> 32) as u32, self.states[0] as u32) };
        assert_eq!(at, position, "the state is that of another position");
        let sum = sum.wrapping_mul(31).wrapping_add(token + 1);
        self.states[0] = u64::from(position + 1) << 32 | u64::from(sum);
        sum
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
            // Nobody knows how far it went.
            self.states[0] = u64::MAX;
            return Err(DeviceError::Interrupted);
        }
        if self.fail_at.is_some_and(|at| positions.contains(&at)) {
            self.slots.fill(None);
            return Err(DeviceError::InvalidCall("scripted".into()));
        }
        for (&token, p) in tokens.iter().zip(positions.clone()) {
            self.slots[self.library.kv_cache[0].slot(p) as usize] = Some((p, token));
        }
        let remembers = !self.library.states.is_empty();
        let mut sums = vec![];
        for (&token, p) in tokens.iter().zip(positions.clone()).filter(|_| remembers) {
            sums.push(self.remember(p, token));
        }
        self.rows = positions.map(|p| self.seen(p)).collect();
        for (row, sum) in self.rows.iter_mut().zip(sums) {
            row.push(sum);
        }
        self.computed.fetch_add(tokens.len(), Ordering::Relaxed);
        Ok(())
    }

    fn logits(&mut self, row: u32, output: &mut [f32]) -> Result<(), DeviceError> {
        output.copy_from_slice(&(self.script)(&self.rows[row as usize]));
        Ok(())
    }

    fn most_likely(&self) -> u32 {
        3
    }

    fn top(&mut self, row: u32, count: u32) -> Result<Vec<(u32, f32)>, DeviceError> {
        let logits = (self.script)(&self.rows[row as usize]);
        let mut top: Vec<(u32, f32)> = (0..).zip(logits).filter(|(_, logit)| *logit > f32::NEG_INFINITY).collect();
        top.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
        top.truncate(count as usize);
        Ok(top)
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

    fn read_state(&mut self, state: usize, copy: StateCopy, bytes: &mut [u8]) -> Result<(), DeviceError> {
        assert_eq!((state, bytes.len()), (0, STATE_BYTES));
        bytes.copy_from_slice(&self.states[copy as usize].to_le_bytes());
        Ok(())
    }

    fn write_state(&mut self, state: usize, copy: StateCopy, bytes: &[u8]) -> Result<(), DeviceError> {
        assert_eq!(state, 0);
        self.states[copy as usize] = u64::from_le_bytes(bytes.try_into().expect("the state's bytes"));
        Ok(())
    }

    fn read_kept(&mut self, layer: usize, half: CacheHalf, _: &mut [u8]) -> Result<(), DeviceError> {
        self.read_cache(layer, half, &mut [])
    }

    fn write_kept(&mut self, layer: usize, half: CacheHalf, _: &[u8]) -> Result<(), DeviceError> {
        self.read_cache(layer, half, &mut [])
    }

    fn copy_states(&mut self, position: u32, to: StateCopy) -> Result<(), DeviceError> {
        let layer = self.library.kv_cache[0];
        let first = layer.visible(position).1.max(layer.sinks);
        if to == StateCopy::Kept {
            let slot = |seen: u32| self.slots[layer.slot(seen) as usize].expect("a visible slot was written");
            (self.states[1], self.aside) = (self.states[0], (first..position).map(slot).collect());
        } else {
            self.states[0] = self.states[1];
            for (seen, kept) in (first..position).zip(&self.aside) {
                self.slots[layer.slot(seen) as usize] = Some(*kept);
            }
        }
        Ok(())
    }
}

/// Bytes of the state.
const STATE_BYTES: usize = 8;

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
