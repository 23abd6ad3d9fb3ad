use super::value::{number, positive};
use clap::{Args, ValueHint};
use std::path::PathBuf;

/// How to choose the next token. What is not given is as the model's own configuration says.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Generation")]
pub struct SamplingArgs {
    /// 0 always takes the likeliest token; by default 0 for `run`, the model's own for `chat`
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = temperature)]
    pub temperature: Option<f32>,
    /// Choose among this many of the likeliest tokens; 0: among all
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = probability)]
    pub top_p: Option<f32>,
    /// Leave out tokens that are less likely than this share of the likeliest one
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = share)]
    pub min_p: Option<f32>,
    /// Make tokens that were there already less likely (above 1)
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = positive)]
    pub repetition_penalty: Option<f32>,
    /// Subtract this from the logits of tokens that were there already
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub presence_penalty: Option<f32>,
    /// Subtract this from the logits of tokens for each time that they were there already
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub frequency_penalty: Option<f32>,
    /// Add X to the logits of a token (-100 forbids it); may be given several times
    #[arg(long, value_name = "TOKEN=X", allow_hyphen_values = true, value_parser = bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random numbers, for answers that can be repeated
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// End the answer before this token; may be given several times
    #[arg(long, value_name = "TOKEN")]
    pub stop_token: Vec<u32>,
    /// Go on after the model's own stop tokens and strings
    #[arg(long)]
    pub ignore_eos: bool,
}

/// The form that an answer has.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Form of the answer")]
#[group(multiple = false)]
pub struct FormArgs {
    /// JSON that validates against the schema in this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json_schema: Option<PathBuf>,
    /// Text that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX")]
    pub regex: Option<String>,
    /// Text of the grammar in this file, in Lark or in llama.cpp's GBNF
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub grammar: Option<PathBuf>,
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text).and_then(|value| if value >= 0.0 { Ok(value) } else { Err("must be 0 or more".to_owned()) })
}

fn probability(text: &str) -> Result<f32, String> {
    number(text).and_then(|p| if p > 0.0 && p <= 1.0 { Ok(p) } else { Err("must be above 0 and at most 1".to_owned()) })
}

fn share(text: &str) -> Result<f32, String> {
    number(text).and_then(|p| if (0.0..=1.0).contains(&p) { Ok(p) } else { Err("must be 0 to 1".to_owned()) })
}

/// `123=-5.5`.
fn bias(text: &str) -> Result<(u32, f32), String> {
    let (token, bias) = text.split_once('=').ok_or("must be TOKEN=X, such as 123=-5")?;
    let token = token.trim().parse().map_err(|_| format!("{token:?} is no token id"))?;
    match number(bias)? {
        bias if (-100.0..=100.0).contains(&bias) => Ok((token, bias)),
        bias => Err(format!("{bias} is not between -100 and 100")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_is_a_token_and_a_number() {
        assert_eq!(bias("12=-5.5"), Ok((12, -5.5)));
        for (text, problem) in [("12", "TOKEN=X"), ("x=1", "no token id"), ("1=x", "number"), ("1=101", "between")] {
            assert!(bias(text).unwrap_err().contains(problem), "{text}: {:?}", bias(text));
        }
    }
}
