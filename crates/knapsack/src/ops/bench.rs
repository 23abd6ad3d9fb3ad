//! `knapsack bench PATH`: how fast a model loads, reads a prompt and writes, and how much of the machine's read bandwidth
//! writing uses.

use super::phone;
use crate::cli::BenchArgs;
use crate::exit::wrong_input;
use crate::open::{self, engine_error};
use crate::report::Reporter;
use knapsack_runner::bench::{Figures, Loaded, Rounds};
use knapsack_runtime::CancelFlag;

/// Measures and prints.
pub fn run(args: &BenchArgs, reporter: &Reporter) -> anyhow::Result<()> {
    if let Some(serial) = &args.phone.adb {
        return on_phone(args, serial, reporter);
    }
    let rounds = Rounds {
        prefill_tokens: args.context.unwrap_or(args.prefill_tokens),
        decode_tokens: args.decode_tokens,
        repeat: args.repeat,
        threads: args.model.device.threads,
    };
    let mut model = args.model.clone();
    if args.context.is_some() {
        let needed = u64::from(rounds.prefill_tokens.saturating_add(rounds.decode_tokens));
        model.overrides.overrides.get_or_insert_default().context_window_size.get_or_insert(needed);
    }
    let opened = open::load(&model, reporter)?;
    if let Some(why) = rounds.too_long(&opened.library) {
        return Err(wrong_input(why));
    }
    let bar = reporter.steps_bar("Measuring", u64::from(args.repeat));
    // The rest of what was opened stays as long as the weights are used.
    let (name, device, load_time) = (opened.name, opened.device, opened.load_time);
    let mut loaded = Loaded { name, device, load_time, session: opened.session };
    let figures = rounds.measure(&mut loaded, &opened.library, &mut || bar.inc(1)).map_err(engine_error)?;
    bar.finish_and_clear();
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
