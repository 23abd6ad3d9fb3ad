//! The arguments that decide what a conversation becomes.

use clap::{Args, ValueEnum, ValueHint};
use std::path::PathBuf;

/// What a prompt depends on besides the conversation.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptOptionArgs {
    /// Tools that the model may call: a JSON list as in the OpenAI protocol
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tools: Option<PathBuf>,
    /// A variable for the chat template, such as enable_thinking=false; the value is JSON, or else text; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = template_variable)]
    pub template_variable: Vec<(String, serde_json::Value)>,
    /// Whether the model thinks before it answers, and for how many tokens at most
    #[arg(long, value_name = "on|off|N", value_parser = thinking)]
    pub thinking: Option<Thinking>,
    /// Take special tokens that are spelled out in messages as such, and not as text
    #[arg(long)]
    pub special_tokens_in_text: bool,
}

/// What happens when a conversation is longer than the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ContextPolicyArg {
    /// Leave out the oldest turns after the system message, and say so.
    #[default]
    DropOldest,
    /// Fail.
    Fail,
}

impl From<ContextPolicyArg> for knapsack_runtime::ContextPolicy {
    fn from(policy: ContextPolicyArg) -> Self {
        match policy {
            ContextPolicyArg::DropOldest => Self::DropOldest,
            ContextPolicyArg::Fail => Self::Fail,
        }
    }
}

/// Whether a model thinks before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// As long as it likes.
    On,
    /// Not at all.
    Off,
    /// For this many tokens at most.
    Tokens(u32),
}

fn thinking(text: &str) -> Result<Thinking, String> {
    match text {
        "on" => Ok(Thinking::On),
        "off" => Ok(Thinking::Off),
        number => number.parse().map(Thinking::Tokens).map_err(|_| "expected on, off or a number of tokens".to_owned()),
    }
}

fn template_variable(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "expected NAME=VALUE".to_owned())?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| serde_json::Value::from(value));
    Ok((name.to_owned(), value))
}
