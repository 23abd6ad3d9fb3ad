use serde_json::{Map, Value};
use std::ops::Range;

/// Longest prompt that is rendered.
pub(super) const MAX_PROMPT_BYTES: usize = 16 << 20;

/// What a prompt depends on besides the conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptOptions {
    /// Tools that the model may call, each as OpenAI describes one: `{"type": "function", "function": {…}}`.
    pub tools: Vec<Value>,
    /// Documents for templates that know them.
    pub documents: Vec<Value>,
    /// Variables for the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// Whether the model is to think before it answers, where it can be told; `None`: as it does of itself.
    pub thinking: Option<bool>,
    /// Whether special tokens that are spelled out in messages count as such. Otherwise they are text.
    pub special_tokens_in_text: bool,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Tokens that come before the text (MLC's `system_prefix_token_ids`), as written: they may be outside the vocabulary.
    pub prefix: Vec<u32>,
    /// The text, special tokens spelled out.
    pub text: String,
    /// The bytes of it that messages and tools gave and the template did not: sorted, disjoint ranges.
    pub data: Vec<Range<usize>>,
}
