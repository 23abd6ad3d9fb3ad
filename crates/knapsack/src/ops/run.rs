//! `knapsack run PATH --prompt TEXT`: one answer, streamed; only the generated text on stdout.

use crate::cli::{FormArgs, RunArgs, SamplingArgs};
use crate::exit::{OrWrongInput, wrong_input};
use crate::open::{self, engine_error};
use crate::report::Reporter;
use anyhow::Context;
use knapsack_artifact::library::MemoryPlan;
use knapsack_runtime::text::{Message, Role};
use knapsack_runtime::{CancelFlag, Engine, Event, GenerateOptions, Generation, Grammar, LogProb, SamplingOptions};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Largest file with a schema or a grammar.
const MAX_FORM_BYTES: u64 = 4 << 20;

/// Answers one prompt. The default is greedy, so that the same package gives the same answer each time.
pub fn run(args: &RunArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let text = super::prompt::typed(&args.prompt)?;
    let grammar = form(&args.form)?;
    let loaded = open::load(&args.model, reporter)?;
    let (memory, load_time) = (loaded.session.memory(), loaded.load_time);
    let (mut engine, _held) = loaded.into_engine()?;
    let defaults = SamplingOptions { temperature: 0.0, ..engine.chat().defaults.clone() };
    let mut options = GenerateOptions { grammar, ..generate_options(&args.sampling, defaults)? };
    options.prompt = super::prompt::options(&args.options)?;
    options.max_thinking_tokens = super::prompt::thinking_budget(&args.options);
    options.separate_thinking = !args.raw;
    options.context = args.context_policy.into();
    let tokens = if args.raw {
        let context = engine.session().info().context_window_size;
        let tokens = engine.chat().check_length(&text, context).and_then(|()| engine.chat().raw_prompt(&text));
        tokens.map_err(|error| engine_error(error.into()))?
    } else {
        let system = args.system.iter().map(|system| Message::new(Role::System, system));
        let messages: Vec<Message> = system.chain([Message::new(Role::User, text)]).collect();
        engine.prompt(&messages, &options).map_err(|error| engine_error(error.into()))?.tokens
    };
    for number in 0..args.answers {
        let mut options = GenerateOptions { logprobs: args.logprobs, ..options.clone() };
        options.sampling.seed = options.sampling.seed.map(|seed| seed.wrapping_add(u64::from(number)));
        let answer = answer(&mut engine, &tokens, &options, reporter)?;
        if reporter.is_json() {
            let mut report = json!({
                "text": answer.text,
                "reasoning": answer.reasoning,
                "finish_reason": answer.finish.as_str(),
                "prompt_tokens": answer.stats.prompt_tokens,
                "completion_tokens": answer.stats.generated_tokens,
                "prefill_tokens_per_second": answer.stats.prefill_rate(),
                "decode_tokens_per_second": answer.stats.decode_rate(),
                "load_seconds": load_time.as_secs_f64(),
                "memory": memory,
            });
            if args.logprobs.is_some() {
                report["logprobs"] = logprobs(&engine, &answer);
            }
            reporter.result("answer", &report)?;
            continue;
        }
        if !answer.text.ends_with('\n') {
            reporter.line("")?;
        }
        stats(reporter, &answer, load_time, memory);
    }
    Ok(())
}

/// One answer, shown as it comes.
fn answer(
    engine: &mut Engine,
    tokens: &[u32],
    options: &GenerateOptions,
    reporter: &Reporter,
) -> anyhow::Result<Generation> {
    let cancel = CancelFlag::new();
    let mut written = Ok(());
    let mut show = |event: Event<'_>| {
        if let Event::Thinking(piece) = event {
            reporter.aside(piece);
        }
        if let Event::Text(piece) = event
            && written.is_ok()
            && !reporter.is_json()
        {
            written = reporter.stdout(|out| out.write_all(piece.as_bytes()));
            if written.is_err() {
                cancel.cancel();
            }
        }
    };
    let answer = engine.generate(tokens, options, &cancel, &mut show).map_err(engine_error)?;
    written?;
    Ok(answer)
}

/// `[{ "id", "token", "logprob", "top": [...] }]`, an entry for each token.
fn logprobs(engine: &Engine, answer: &Generation) -> Value {
    let one = |found: &LogProb| {
        let text = String::from_utf8_lossy(&engine.chat().tokenizer.token_bytes(found.token)).into_owned();
        // A probability of 0 has no logarithm: null.
        json!({ "id": found.token, "token": text, "logprob": found.logprob })
    };
    let tokens = answer.logprobs.iter().map(|token| {
        let mut entry = one(&token.chosen);
        entry["top"] = token.top.iter().map(one).collect();
        entry
    });
    tokens.collect()
}

/// The form that the arguments ask of the answer.
fn form(args: &FormArgs) -> anyhow::Result<Option<Grammar>> {
    let FormArgs { json_schema, regex, grammar } = args;
    Ok(match (json_schema, regex, grammar) {
        (Some(path), ..) => {
            let schema = serde_json::from_str(&form_file(path)?).with_context(|| path.display().to_string());
            Some(Grammar::JsonSchema(schema.or_wrong_input()?))
        }
        (_, Some(pattern), _) => Some(Grammar::Regex(pattern.clone())),
        (.., Some(path)) => Some(Grammar::from_text(&form_file(path)?)),
        (None, None, None) => None,
    })
}

fn form_file(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FORM_BYTES + 1).read_to_string(&mut text));
    read.with_context(|| format!("cannot read {}", path.display())).or_wrong_input()?;
    match text.len() as u64 > MAX_FORM_BYTES {
        true => Err(wrong_input(format!("{} has more than {MAX_FORM_BYTES} bytes", path.display()))),
        false => Ok(text),
    }
}

/// The model's defaults with what the command line says on top.
pub(super) fn generate_options(args: &SamplingArgs, mut sampling: SamplingOptions) -> anyhow::Result<GenerateOptions> {
    sampling.temperature = args.temperature.unwrap_or(sampling.temperature);
    sampling.top_k = args.top_k.unwrap_or(sampling.top_k);
    sampling.top_p = args.top_p.unwrap_or(sampling.top_p);
    sampling.min_p = args.min_p.unwrap_or(sampling.min_p);
    sampling.repetition_penalty = args.repetition_penalty.unwrap_or(sampling.repetition_penalty);
    sampling.presence_penalty = args.presence_penalty.unwrap_or(sampling.presence_penalty);
    sampling.frequency_penalty = args.frequency_penalty.unwrap_or(sampling.frequency_penalty);
    sampling.logit_bias.clone_from(&args.logit_bias);
    sampling.seed = args.seed;
    sampling.validate().or_wrong_input()?;
    Ok(GenerateOptions {
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
        stop_tokens: args.stop_token.clone(),
        ignore_stops: args.ignore_eos,
        ..GenerateOptions::new(sampling)
    })
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
    format!("{} bytes ({memory})", memory.total())
}
