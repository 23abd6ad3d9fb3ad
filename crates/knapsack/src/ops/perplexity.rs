//! `knapsack perplexity PATH --file F`: how well the model predicts a text.
//!
//! The whole file is tokenized without special tokens and cut into chunks that fill `--positions` positions, each with the
//! model's BOS in front where it has one. The result is exp of the mean negative log-likelihood of all tokens that have a
//! token before them in their chunk.

use crate::cli::PerplexityArgs;
use crate::exit::{OrWrongInput, wrong_input};
use crate::open::{self, engine_error};
use crate::report::Reporter;
use anyhow::Context;
use knapsack_runtime::{CancelFlag, Session};
use serde_json::json;
use std::time::Instant;

/// Chunks of this many positions, where the context allows it, compare with what others publish.
const DEFAULT_POSITIONS: u32 = 512;

/// Measures and prints.
pub fn run(args: &PerplexityArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let path = &args.file;
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display())).or_wrong_input()?;
    let text = String::from_utf8(text).with_context(|| format!("{} is not text", path.display())).or_wrong_input()?;
    let loaded = open::load(&args.model, reporter)?;
    let chat = loaded.chat()?;
    let (name, device, mut session) = (loaded.name, loaded.device, loaded.session);
    let tokens = chat.tokenizer.encode(&text)?;
    let context = session.info().context_window_size.unwrap_or(u32::MAX);
    let positions = args.positions.unwrap_or(DEFAULT_POSITIONS.min(context));
    if positions < 2 || positions > context {
        return Err(wrong_input(format!("--positions is {positions}, expected 2 to the context of {context}")));
    }
    let start = Instant::now();
    let sum = negative_log_likelihood(&mut session, &tokens, chat.bos(), positions as usize, reporter)?;
    if sum.tokens == 0 {
        return Err(wrong_input(format!("{} has no token to predict", path.display())));
    }
    let seconds = start.elapsed().as_secs_f64();
    let mean = sum.nll / sum.tokens as f64;
    if args.json.json {
        let result = json!({
            "perplexity": mean.exp(),
            "mean_nll": mean,
            "tokens": tokens.len(),
            "predicted_tokens": sum.tokens,
            "positions": positions,
            "seconds": seconds,
            "tokens_per_second": tokens.len() as f64 / seconds,
            "model": name,
            "device": device,
        });
        return reporter.line(result);
    }
    reporter.line(format_args!("perplexity {:.4} over {} tokens of {}", mean.exp(), sum.tokens, path.display()))
}

#[derive(Default)]
struct Sum {
    nll: f64,
    tokens: usize,
}

fn negative_log_likelihood(
    session: &mut Session,
    tokens: &[u32],
    bos: Option<u32>,
    positions: usize,
    reporter: &Reporter,
) -> anyhow::Result<Sum> {
    let length = positions - usize::from(bos.is_some());
    let bar = reporter.steps_bar("Measuring", tokens.len() as u64);
    let mut sum = Sum::default();
    for chunk in tokens.chunks(length) {
        let inputs: Vec<u32> = bos.into_iter().chain(chunk.iter().copied()).collect();
        let mut add = |position: usize, logits: &[f32]| {
            if let Some(&next) = inputs.get(position + 1) {
                sum.nll += log_sum_exp(logits) - f64::from(logits[next as usize]);
                sum.tokens += 1;
            }
        };
        session.score(&inputs, &CancelFlag::new(), &mut add).map_err(engine_error)?;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(sum)
}

/// `ln(sum(exp(x)))` without overflow.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    highest + logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::log_sum_exp;

    #[test]
    fn large_logits_do_not_overflow() {
        assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-9);
        assert!((log_sum_exp(&[-3.0, 0.5, 2.0]) - ((-3f64).exp() + 0.5f64.exp() + 2f64.exp()).ln()).abs() < 1e-12);
    }
}
