//! Answers and chunks in OpenAI's form.

use crate::request::Request;
use knapsack_runtime::text::{Tokenizer, ToolCall};
use knapsack_runtime::{FinishReason, Generation, LogProb, TokenLogProbs};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What OpenAI gives for the logarithm of 0, which JSON has no number for.
const IMPOSSIBLE: f32 = -9999.0;

/// What every chunk and answer of a request has in common.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    id: String,
    created: u64,
    model: String,
}

/// Tokens of a request and its answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    prompt: usize,
    cached: usize,
    completion: usize,
}

impl Usage {
    /// Counts an answer. The prompt is the same for all of a request, so it counts once.
    pub(crate) fn add(&mut self, answer: &Generation) {
        if self.completion == 0 {
            self.prompt = answer.stats.prompt_tokens;
            self.cached = answer.stats.reused_tokens;
        }
        self.completion += answer.stats.generated_tokens;
    }

    fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }
}

impl Envelope {
    /// With an id that no other answer of this process has.
    pub(crate) fn new(model: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { id: format!("chatcmpl-{created:x}-{number:x}"), created, model: model.to_owned() }
    }

    fn object(&self, kind: &str, choices: Value) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("id".into(), self.id.as_str().into());
        object.insert("object".into(), kind.into());
        object.insert("created".into(), self.created.into());
        object.insert("model".into(), self.model.as_str().into());
        object.insert("choices".into(), choices);
        object
    }

    /// The whole answer.
    pub(crate) fn completion(&self, choices: Vec<Value>, usage: Usage) -> Value {
        let mut object = self.object("chat.completion", choices.into());
        object.insert("usage".into(), usage.json());
        object.into()
    }

    /// A piece of the answer of number `index`.
    pub(crate) fn chunk(&self, index: u32, delta: Value, logprobs: Value, finish: Option<&str>) -> Value {
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
        self.object("chat.completion.chunk", json!([choice])).into()
    }

    /// The token counts, in a chunk without choices.
    pub(crate) fn usage(&self, usage: Usage) -> Value {
        let mut object = self.object("chat.completion.chunk", json!([]));
        object.insert("usage".into(), usage.json());
        object.into()
    }
}

/// One of the answers of a whole completion.
pub(crate) fn choice(index: u32, message: Value, logprobs: Value, finish: &str) -> Value {
    json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": finish })
}

/// OpenAI has no word for an answer that was called off.
pub(crate) fn finish_reason(answer: &Generation) -> &'static str {
    match answer.finish {
        FinishReason::Length => "length",
        FinishReason::Stop if !answer.tool_calls.is_empty() => "tool_calls",
        _ => "stop",
    }
}

/// What the assistant says. A message of nothing but calls has no content.
pub(crate) fn message(answer: &Generation) -> Value {
    let content = (!answer.text.is_empty() || answer.tool_calls.is_empty()).then_some(answer.text.as_str());
    let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
    if !answer.reasoning.is_empty() {
        message["reasoning_content"] = answer.reasoning.as_str().into();
    }
    if !answer.tool_calls.is_empty() {
        message["tool_calls"] = answer.tool_calls.iter().map(tool_call).collect();
    }
    message
}

/// The call of number `index` begins in a stream: who is called.
pub(crate) fn call_begins(index: usize, id: &str, name: &str) -> Value {
    json!({ "index": index, "id": id, "type": "function", "function": { "name": name, "arguments": "" } })
}

/// Log probabilities as the request wants them; null when it wants none.
pub(crate) fn logprobs(request: &Request, tokenizer: &Tokenizer, tokens: &[TokenLogProbs]) -> Value {
    if !request.wants_logprobs() {
        return Value::Null;
    }
    let content: Vec<Value> = tokens.iter().map(|token| token_logprobs(tokenizer, token)).collect();
    json!({ "content": content, "refusal": null })
}

/// A token of an answer as OpenAI's `logprobs.content` has it.
pub fn token_logprobs(tokenizer: &Tokenizer, token: &TokenLogProbs) -> Value {
    let one = |found: &LogProb| {
        let bytes = tokenizer.token_bytes(found.token);
        let mut object = Map::new();
        object.insert("token".into(), String::from_utf8_lossy(&bytes).into());
        object.insert("logprob".into(), json!(found.logprob.max(IMPOSSIBLE)));
        object.insert("bytes".into(), json!(bytes));
        object
    };
    let mut object = one(&token.chosen);
    object.insert("top_logprobs".into(), token.top.iter().map(|found| Value::from(one(found))).collect());
    object.into()
}

/// A call as OpenAI's `tool_calls` has it: its arguments are text.
pub fn tool_call(call: &ToolCall) -> Value {
    let arguments = call.arguments.as_str().map_or_else(|| call.arguments.to_string(), str::to_owned);
    json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": arguments } })
}
