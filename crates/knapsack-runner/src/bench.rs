//! How fast a model loads, reads a prompt and writes, and how much of the machine's read bandwidth writing uses.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::MemoryPlan;
use knapsack_artifact::plan::{KvLayer, Op, Operand};
use knapsack_device::read_bandwidth;
use knapsack_runtime::{CancelFlag, EngineError, Session};
use serde::Serialize;
use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of which not much is in the caches.
const BEYOND_CACHES: usize = 512 << 20;

/// What is measured. Rates are medians.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the name says it, with its unit")]
pub struct Figures {
    pub model: String,
    pub quantization: String,
    pub device: String,
    pub load_seconds: f64,
    pub prefill_tokens: u32,
    pub prefill_tokens_per_second: f64,
    pub decode_tokens: u32,
    pub decode_tokens_per_second: f64,
    pub memory: MemoryPlan,
    /// Highest resident memory of the process, where the system tells it.
    pub peak_rss_bytes: Option<u64>,
    /// Weights that one decoded token needs.
    pub bytes_per_token: u64,
    /// Keys and values that it needs, halfway through what is written.
    pub cache_bytes_per_token: u64,
    /// Recurrent state that it reads and writes.
    pub state_bytes_per_token: u64,
    /// What sums over memory read: of the device where it is a GPU, else of the machine, on as many threads as the model used.
    pub read_bytes_per_second: f64,
    /// The share of it that decoding uses for weights, keys and values, and state.
    pub bandwidth_share: f64,
}

/// A model that was loaded.
pub struct Loaded {
    /// The id in a package, or a folder's name.
    pub name: String,
    /// The device's description.
    pub device: String,
    /// How long it took, text side included.
    pub load_time: Duration,
    /// On the device, with an empty cache.
    pub session: Session,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Tokens to prefill; at least one.
    pub prefill_tokens: u32,
    /// Tokens to decode.
    pub decode_tokens: u32,
    /// How often; the medians count.
    pub repeat: u32,
    /// Threads that the model was given; `None`: all cores.
    pub threads: Option<u32>,
}

impl Rounds {
    /// Why the tokens do not fit into the context of a model, if so.
    pub fn too_long(&self, library: &ModelLibrary) -> Option<String> {
        let Self { prefill_tokens, decode_tokens, .. } = self;
        let needed = prefill_tokens.saturating_add(*decode_tokens);
        let context = library.model.context_window_size.filter(|&context| needed > context)?;
        Some(format!(
            "{prefill_tokens} tokens of prefill and {decode_tokens} of decode do not fit into the context of {context}"
        ))
    }

    /// Measures; `after_round` is called after every round that counts.
    ///
    /// # Errors
    /// A device that fails.
    pub fn measure(
        &self,
        loaded: &mut Loaded,
        library: &ModelLibrary,
        after_round: &mut dyn FnMut(),
    ) -> Result<Figures, EngineError> {
        let &Self { prefill_tokens, decode_tokens, repeat, threads } = self;
        let vocab = library.model.vocab_size;
        let prompt: Vec<u32> = (0..prefill_tokens).map(|index| index.wrapping_mul(2_654_435_761) % vocab).collect();
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        // The first round warms caches and page tables and is not counted.
        for round in 0..=repeat {
            let (prefill_rate, decode_rate) = once(&mut loaded.session, &prompt, decode_tokens)?;
            if round > 0 {
                prefill.push(prefill_rate);
                decode.push(decode_rate);
                after_round();
            }
        }
        let bytes_per_token = decoded_bytes(library);
        let cache_bytes_per_token = cache_bytes(library, prefill_tokens + decode_tokens / 2);
        // As planned it counts twice: there is a copy of it, and a token reads it and writes it.
        let state_bytes_per_token = library.memory.state;
        // Before the bandwidth is measured, which needs memory of its own.
        let peak_rss_bytes = peak_rss();
        let threads =
            threads.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), |threads| threads as usize);
        let own = loaded.session.read_bandwidth()?;
        let read_bytes_per_second = own.unwrap_or_else(|| read_bandwidth(&[&vec![1u8; BEYOND_CACHES]], threads, 3));
        let decode_tokens_per_second = median(&mut decode);
        let bytes = bytes_per_token + cache_bytes_per_token + state_bytes_per_token;
        Ok(Figures {
            model: loaded.name.clone(),
            quantization: library.model.quantization.clone(),
            device: loaded.device.clone(),
            load_seconds: loaded.load_time.as_secs_f64(),
            prefill_tokens,
            prefill_tokens_per_second: median(&mut prefill),
            decode_tokens,
            decode_tokens_per_second,
            memory: loaded.session.memory(),
            peak_rss_bytes,
            bytes_per_token,
            cache_bytes_per_token,
            state_bytes_per_token,
            read_bytes_per_second,
            bandwidth_share: bytes as f64 * decode_tokens_per_second / read_bytes_per_second,
        })
    }
}

/// Tokens per second of one prefill and one run of decodes.
fn once(session: &mut Session, prompt: &[u32], decode_tokens: u32) -> Result<(f64, f64), EngineError> {
    session.reset();
    let start = Instant::now();
    session.prefill(prompt, &CancelFlag::new())?;
    let prefill = prompt.len() as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    for token in prompt.iter().cycle().take(decode_tokens as usize) {
        session.decode_greedily(*token)?;
    }
    Ok((prefill, f64::from(decode_tokens) / start.elapsed().as_secs_f64()))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Bytes of the parameters that decoding a token reads whole. An embedding table that is only looked up in does not count.
fn decoded_bytes(library: &ModelLibrary) -> u64 {
    let launches = library.decode.launches.iter().chain(&library.head.launches);
    let read: BTreeSet<_> = launches
        .filter(|launch| !matches!(launch.op, Op::Embed(_)))
        .flat_map(|launch| launch.op.operands())
        .filter_map(|operand| match operand {
            Operand::Parameter(id) => Some(id),
            _ => None,
        })
        .collect();
    read.iter().filter_map(|id| library.parameters.get(id.0 as usize)?.bytes()).sum()
}

/// Bytes of keys and values that a token at `position` reads.
fn cache_bytes(library: &ModelLibrary, position: u32) -> u64 {
    let bytes = |layer: &KvLayer| {
        let (first, from) = layer.visible(position);
        let positions = u64::from(first) + u64::from(position + 1 - from);
        2 * positions * u64::from(layer.kv_heads) * u64::from(layer.head_dim) * layer.dtype.size()
    };
    library.kv_cache.iter().map(bytes).sum()
}

fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
