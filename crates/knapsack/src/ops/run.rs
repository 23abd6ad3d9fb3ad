//! `knapsack run PATH --prompt TEXT`: one answer, streamed; only the generated text on stdout.

use crate::cli::{RunArgs, SamplingArgs};
use crate::exit::{OrWrongInput, wrong_input};
use crate::open::{self, engine_error};
use crate::report::Reporter;
use knapsack_artifact::library::MemoryPlan;
use knapsack_runtime::text::{Message, Role};
use knapsack_runtime::{CancelFlag, GenerateOptions, Generation, SamplingDefaults, SamplingOptions};
use serde_json::json;
use std::io::Read;
use std::time::Duration;

/// Longest prompt that is read from stdin.
const MAX_PROMPT_BYTES: u64 = 64 << 20;

/// Answers one prompt. The default is greedy, so that the same package gives the same answer each time.
pub fn run(args: &RunArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let text = prompt(&args.prompt)?;
    let loaded = open::load(&args.model, reporter)?;
    let (memory, load_time) = (loaded.session.memory(), loaded.load_time);
    let mut engine = loaded.into_engine()?;
    let defaults = SamplingDefaults { temperature: 0.0, ..engine.chat().defaults };
    let options = generate_options(&args.sampling, defaults)?;
    let tokens = if args.raw {
        engine.chat().raw_prompt(&text)?
    } else {
        let system = args.system.iter().map(|system| Message::new(Role::System, system));
        let messages: Vec<Message> = system.chain([Message::new(Role::User, text)]).collect();
        engine.chat().prompt(&messages).map_err(|error| engine_error(error.into()))?
    };
    let cancel = CancelFlag::new();
    let mut written = Ok(());
    let mut show = |piece: &str| {
        if written.is_ok() && !reporter.is_json() {
            written = reporter.stdout(|out| out.write_all(piece.as_bytes()));
            if written.is_err() {
                cancel.cancel();
            }
        }
    };
    let answer = engine.generate(&tokens, &options, &cancel, &mut show).map_err(engine_error)?;
    written?;
    if reporter.is_json() {
        return reporter.result(
            "answer",
            &json!({
                "text": answer.text,
                "finish_reason": answer.finish.as_str(),
                "prompt_tokens": answer.stats.prompt_tokens,
                "completion_tokens": answer.stats.generated_tokens,
                "prefill_tokens_per_second": answer.stats.prefill_rate(),
                "decode_tokens_per_second": answer.stats.decode_rate(),
                "load_seconds": load_time.as_secs_f64(),
                "memory": memory,
            }),
        );
    }
    if !answer.text.ends_with('\n') {
        reporter.line("")?;
    }
    stats(reporter, &answer, load_time, memory);
    Ok(())
}

/// `-` stands for what stdin says.
fn prompt(text: &str) -> anyhow::Result<String> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(MAX_PROMPT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PROMPT_BYTES {
        return Err(wrong_input(format!("the prompt on stdin has more than {MAX_PROMPT_BYTES} bytes")));
    }
    String::from_utf8(bytes).or_wrong_input()
}

/// The model's defaults with what the command line says on top.
pub(super) fn generate_options(args: &SamplingArgs, defaults: SamplingDefaults) -> anyhow::Result<GenerateOptions> {
    let mut sampling = SamplingOptions::from(defaults);
    sampling.temperature = args.temperature.unwrap_or(sampling.temperature);
    sampling.top_p = args.top_p.unwrap_or(sampling.top_p);
    sampling.repetition_penalty = args.repetition_penalty.unwrap_or(sampling.repetition_penalty);
    sampling.seed = args.seed;
    sampling.validate().or_wrong_input()?;
    Ok(GenerateOptions { max_tokens: args.max_tokens, stop: args.stop.clone(), ..GenerateOptions::new(sampling) })
}

/// What an answer took, for `-v`.
pub(super) fn stats(reporter: &Reporter, answer: &Generation, load_time: Duration, memory: MemoryPlan) {
    let stats = &answer.stats;
    reporter.detail("Loaded", format_args!("in {:.3} s, {}", load_time.as_secs_f64(), memory_line(memory)));
    reporter.detail(
        "Prefilled",
        format_args!(
            "{} tokens ({} of them kept from before), {:.1} tokens/s",
            stats.prompt_tokens,
            stats.reused_tokens,
            stats.prefill_rate()
        ),
    );
    reporter.detail(
        "Generated",
        format_args!(
            "{} tokens, {:.1} tokens/s, finish reason {}",
            stats.generated_tokens,
            stats.decode_rate(),
            answer.finish.as_str()
        ),
    );
}

/// `512 bytes (weights 1, KV cache 2, workspace 3)`.
pub(super) fn memory_line(memory: MemoryPlan) -> String {
    let MemoryPlan { weights, kv_cache, workspace } = memory;
    format!("{} bytes (weights {weights}, KV cache {kv_cache}, workspace {workspace})", memory.total())
}
