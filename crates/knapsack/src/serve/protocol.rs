//! The part of OpenAI's chat completions protocol that is served. What a request asks for and this server cannot do is an error,
//! not silence.

use knapsack_runtime::text::{Message, Role};
use knapsack_runtime::{FinishReason, GenerateOptions, Generation, SamplingDefaults, SamplingOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// `POST /v1/chat/completions`. Unknown keys are ignored, as OpenAI's clients send many.
#[derive(Debug, Deserialize)]
pub(super) struct ChatRequest {
    /// A `model_id` of the package.
    pub(super) model: String,
    messages: Vec<RequestMessage>,
    /// Whether the answer comes as server-sent events.
    #[serde(default)]
    pub(super) stream: bool,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    seed: Option<i64>,
    #[serde(default)]
    stop: Stop,
    n: Option<u32>,
    logprobs: Option<bool>,
    tools: Option<Vec<Value>>,
    response_format: Option<ResponseFormat>,
}

#[derive(Debug, Deserialize)]
struct RequestMessage {
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

/// Text, or a list of parts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
}

/// Absent, one string, or several.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Stop {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

/// Most stop strings of a request, as in OpenAI's own interface.
const MAX_STOPS: usize = 4;

/// An error as OpenAI's clients expect it.
#[derive(Debug)]
pub(super) struct ApiError {
    /// HTTP status.
    pub(super) status: u16,
    /// `invalid_request_error` or `server_error`.
    pub(super) kind: &'static str,
    /// What a program can tell errors apart by.
    pub(super) code: &'static str,
    /// What a person reads.
    pub(super) message: String,
}

impl ApiError {
    /// The request is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self { status: 400, kind: "invalid_request_error", code: "invalid_value", message: message.into() }
    }

    /// The body.
    pub(super) fn json(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": null, "code": self.code } })
    }
}

impl ChatRequest {
    /// Whether the last event carries the token counts.
    pub(super) fn include_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }

    /// The conversation.
    pub(super) fn messages(&self) -> Result<Vec<Message>, ApiError> {
        if self.messages.is_empty() {
            return Err(ApiError::invalid("`messages` is empty"));
        }
        self.messages.iter().map(RequestMessage::message).collect()
    }

    /// How to generate, the model's defaults where the request says nothing.
    pub(super) fn options(&self, defaults: SamplingDefaults) -> Result<GenerateOptions, ApiError> {
        let unsupported = [
            (self.n.is_some_and(|n| n != 1), "`n` other than 1"),
            (self.logprobs == Some(true), "`logprobs`"),
            (self.tools.as_ref().is_some_and(|tools| !tools.is_empty()), "`tools`"),
            (
                self.response_format.as_ref().is_some_and(|format| format.kind != "text"),
                "`response_format` other than text",
            ),
        ];
        if let Some((_, what)) = unsupported.into_iter().find(|(asked, _)| *asked) {
            return Err(ApiError::invalid(format!("{what} is not supported")));
        }
        let stop = match &self.stop {
            Stop::None => Vec::new(),
            Stop::One(stop) => vec![stop.clone()],
            Stop::Many(stops) if stops.len() <= MAX_STOPS => stops.clone(),
            Stop::Many(stops) => {
                return Err(ApiError::invalid(format!("{} stop strings, at most {MAX_STOPS}", stops.len())));
            }
        };
        let base = SamplingOptions::from(defaults);
        let sampling = SamplingOptions {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_p: self.top_p.unwrap_or(base.top_p),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            seed: self.seed.map(|seed| seed as u64),
            ..base
        };
        sampling.validate().map_err(|error| ApiError::invalid(error.to_string()))?;
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        Ok(GenerateOptions { max_tokens, stop, ..GenerateOptions::new(sampling) })
    }
}

impl RequestMessage {
    fn message(&self) -> Result<Message, ApiError> {
        let role =
            Role::parse(&self.role).ok_or_else(|| ApiError::invalid(format!("no such role: `{}`", self.role)))?;
        let content = match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => parts.iter().map(Part::text).collect::<Result<_, _>>()?,
        };
        Ok(Message { role, content })
    }
}

impl Part {
    fn text(&self) -> Result<&str, ApiError> {
        match (self.kind.as_str(), &self.text) {
            ("text", Some(text)) => Ok(text),
            _ => Err(ApiError::invalid(format!("content of type `{}` is not supported", self.kind))),
        }
    }
}

/// What every chunk and answer of a request has in common.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    /// `chatcmpl-…`.
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// The model.
    pub(super) model: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

fn usage(answer: &Generation) -> Usage {
    let (prompt_tokens, completion_tokens) = (answer.stats.prompt_tokens, answer.stats.generated_tokens);
    Usage { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
}

fn finish_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop | FinishReason::Cancelled => "stop",
        FinishReason::Length => "length",
    }
}

impl Envelope {
    /// The whole answer.
    pub(super) fn completion(&self, answer: &Generation) -> Value {
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": answer.text, "refusal": null },
                "logprobs": null,
                "finish_reason": finish_reason(answer.finish),
            }],
            "usage": usage(answer),
        })
    }

    fn chunk(&self, delta: Value, finish: Option<&str>) -> Value {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": [{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }],
        })
    }

    /// The first chunk: who speaks.
    pub(super) fn first(&self) -> Value {
        self.chunk(json!({ "role": "assistant", "content": "" }), None)
    }

    /// A piece of text.
    pub(super) fn piece(&self, text: &str) -> Value {
        self.chunk(json!({ "content": text }), None)
    }

    /// The last chunk with a choice: why it ended.
    pub(super) fn last(&self, answer: &Generation) -> Value {
        self.chunk(json!({}), Some(finish_reason(answer.finish)))
    }

    /// The token counts, in a chunk without choices.
    pub(super) fn usage(&self, answer: &Generation) -> Value {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": [], "usage": usage(answer),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(extra: Value) -> ChatRequest {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(body).unwrap()
    }

    fn refused(extra: Value) -> String {
        let request = request(extra);
        match request.messages().and_then(|_| request.options(SamplingDefaults::default())) {
            Err(error) => error.message,
            Ok(options) => panic!("{options:?}"),
        }
    }

    #[test]
    fn parts_roles_and_stops() {
        let request = request(json!({
            "messages": [
                { "role": "developer", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
                { "role": "assistant", "content": null },
            ],
            "stop": ["x", "y"], "max_tokens": 3, "max_completion_tokens": 5, "seed": -1, "unknown": {},
        }));
        assert_eq!(request.messages().unwrap(), [Message::new(Role::System, "ab"), Message::new(Role::Assistant, "")]);
        let options = request.options(SamplingDefaults::default()).unwrap();
        assert_eq!((options.max_tokens, options.stop.len()), (Some(5), 2));
        assert_eq!(options.sampling.seed, Some(u64::MAX));
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        assert_eq!(refused(json!({ "n": 2 })), "`n` other than 1 is not supported");
        assert_eq!(refused(json!({ "tools": [{}] })), "`tools` is not supported");
        assert_eq!(refused(json!({ "temperature": -1.0 })), "temperature is -1, expected 0 to 100");
        assert_eq!(refused(json!({ "stop": ["a", "b", "c", "d", "e"] })), "5 stop strings, at most 4");
        assert_eq!(refused(json!({ "messages": [] })), "`messages` is empty");
        assert_eq!(refused(json!({ "messages": [{ "role": "x", "content": "" }] })), "no such role: `x`");
        let image = json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }]);
        assert_eq!(refused(json!({ "messages": image })), "content of type `image_url` is not supported");
    }
}
