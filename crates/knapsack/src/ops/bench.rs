//! `knapsack bench PATH`: how fast a model loads, reads a prompt and writes, and how much of the machine's read bandwidth
//! writing uses.

use super::phone;
use crate::cli::BenchArgs;
use crate::exit::wrong_input;
use crate::open::{self, engine_error};
use crate::report::Reporter;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::MemoryPlan;
use knapsack_artifact::plan::{KvLayer, Op, Operand};
use knapsack_device::read_bandwidth;
use knapsack_runtime::{CancelFlag, Session};
use serde::Serialize;
use std::collections::BTreeSet;
use std::thread;
use std::time::Instant;

/// What is measured. Rates are medians.
#[derive(Debug, Serialize)]
struct Figures {
    model: String,
    quantization: String,
    device: String,
    load_seconds: f64,
    prefill_tokens: u32,
    prefill_tokens_per_second: f64,
    decode_tokens: u32,
    decode_tokens_per_second: f64,
    memory: MemoryPlan,
    /// Highest resident memory of the process, where the system tells it.
    peak_rss_bytes: Option<u64>,
    /// Weights that one decoded token needs.
    bytes_per_token: u64,
    /// Keys and values that it needs, halfway through what is written.
    cache_bytes_per_token: u64,
    /// Recurrent state that it reads and writes.
    state_bytes_per_token: u64,
    /// What sums over memory read, on as many threads as the model used.
    read_bytes_per_second: f64,
    /// The share of it that decoding uses for weights, keys and values, and state.
    bandwidth_share: f64,
}

/// Measures and prints.
pub fn run(args: &BenchArgs, reporter: &Reporter) -> anyhow::Result<()> {
    if let Some(serial) = &args.phone.adb {
        return on_phone(args, serial, reporter);
    }
    let (prefill_tokens, decode_tokens) = (args.context.unwrap_or(args.prefill_tokens), args.decode_tokens);
    let needed = prefill_tokens.saturating_add(decode_tokens);
    let mut model = args.model.clone();
    if args.context.is_some() {
        let overrides = model.overrides.overrides.get_or_insert_default();
        overrides.context_window_size.get_or_insert(u64::from(needed));
    }
    let mut loaded = open::load(&model, reporter)?;
    if let Some(context) = loaded.library.model.context_window_size.filter(|&context| needed > context) {
        return Err(wrong_input(format!(
            "{prefill_tokens} tokens of prefill and {decode_tokens} of decode do not fit into the context of {context}"
        )));
    }
    let vocab = loaded.library.model.vocab_size;
    let prompt: Vec<u32> = (0..prefill_tokens).map(|index| index.wrapping_mul(2_654_435_761) % vocab).collect();
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    let bar = reporter.steps_bar("Measuring", u64::from(args.repeat));
    // The first round warms caches and page tables and is not counted.
    for round in 0..=args.repeat {
        let (prefill_rate, decode_rate) = measure(&mut loaded.session, &prompt, decode_tokens)?;
        if round > 0 {
            prefill.push(prefill_rate);
            decode.push(decode_rate);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let threads = args
        .model
        .device
        .threads
        .map_or_else(|| thread::available_parallelism().map_or(1, usize::from), |n| n as usize);
    let bytes_per_token = decoded_bytes(&loaded.library);
    let cache_bytes_per_token = cache_bytes(&loaded.library, prefill_tokens + decode_tokens / 2);
    // As planned it counts twice: there is a copy of it, and a token reads it and writes it.
    let state_bytes_per_token = loaded.library.memory.state;
    // Before the bandwidth is measured, which needs memory of its own.
    let peak_rss_bytes = peak_rss();
    let beyond_caches = vec![1u8; 512 << 20];
    let read_bytes_per_second = read_bandwidth(&[&beyond_caches], threads, 3);
    drop(beyond_caches);
    let decode_tokens_per_second = median(&mut decode);
    let figures = Figures {
        model: loaded.name,
        quantization: loaded.library.model.quantization.clone(),
        device: loaded.device,
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
        bandwidth_share: (bytes_per_token + cache_bytes_per_token + state_bytes_per_token) as f64
            * decode_tokens_per_second
            / read_bytes_per_second,
    };
    if args.json.json { reporter.line(serde_json::to_string(&figures)?) } else { show(&figures, reporter) }
}

/// Measures on a phone, and holds its logits against those of this machine's CPU.
fn on_phone(args: &BenchArgs, serial: &str, reporter: &Reporter) -> anyhow::Result<()> {
    let (package, model) = (args.model.path.as_path(), args.model.model.as_deref());
    let request = phone::Request { package, model, serial, runner: args.phone.runner.as_deref() };
    let ready = phone::Ready::new(&request, reporter)?;
    let mut loaded = open::load(&args.model, reporter)?;
    let mut host = Vec::new();
    let mut keep = |_: usize, logits: &[f32]| host.extend_from_slice(logits);
    loaded.session.score(&phone::TOKENS, &CancelFlag::new(), &mut keep).map_err(engine_error)?;
    drop(loaded);
    let numbers = [args.prefill_tokens, args.decode_tokens, args.repeat].map(|number| number.to_string());
    let options = ["--prefill-tokens", &numbers[0], "--decode-tokens", &numbers[1], "--repeat", &numbers[2]];
    let value = phone::bench(&ready, &host, &options, args.report.as_deref(), reporter)?;
    if args.json.json || reporter.is_json() { reporter.line(&value) } else { phone::show(&value, reporter) }
}

/// Tokens per second of one prefill and one run of decodes.
fn measure(session: &mut Session, prompt: &[u32], decode_tokens: u32) -> anyhow::Result<(f64, f64)> {
    session.reset();
    let start = Instant::now();
    session.prefill(prompt, &CancelFlag::new()).map_err(engine_error)?;
    let prefill = prompt.len() as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    for index in 0..decode_tokens {
        session.decode(prompt[index as usize % prompt.len()]).map_err(engine_error)?;
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

fn show(figures: &Figures, reporter: &Reporter) -> anyhow::Result<()> {
    let gigabytes = |bytes: f64| bytes / 1e9;
    reporter.line(format_args!("model      {} ({})", figures.model, figures.quantization))?;
    reporter.line(format_args!("device     {}", figures.device))?;
    reporter.line(format_args!("load       {:.3} s", figures.load_seconds))?;
    let Figures { prefill_tokens, prefill_tokens_per_second, decode_tokens, decode_tokens_per_second, .. } = figures;
    reporter.line(format_args!("prefill    {prefill_tokens_per_second:.1} tokens/s ({prefill_tokens} tokens)"))?;
    reporter.line(format_args!("decode     {decode_tokens_per_second:.1} tokens/s ({decode_tokens} tokens)"))?;
    reporter.line(format_args!("memory     {}", super::run::memory_line(figures.memory)))?;
    if let Some(peak) = figures.peak_rss_bytes {
        reporter.line(format_args!("resident   {peak} bytes at most"))?;
    }
    let state = match figures.state_bytes_per_token {
        0 => String::new(),
        bytes => format!(", {bytes} of state"),
    };
    reporter.line(format_args!(
        "bandwidth  {:.1} % of {:.1} GB/s read (per token {} bytes of weights, {} of keys and values{state})",
        100.0 * figures.bandwidth_share,
        gigabytes(figures.read_bytes_per_second),
        figures.bytes_per_token,
        figures.cache_bytes_per_token
    ))
}
