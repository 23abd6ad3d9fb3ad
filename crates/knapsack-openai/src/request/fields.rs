use super::json::{Json, List, TextOr};
use super::message::RequestMessage;
use super::shortened;
use crate::ApiError;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Fields that change no answer here.
const HARMLESS: [&str; 6] = ["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"];
/// Most messages of a conversation.
const MAX_MESSAGES: usize = 16_384;
/// Most tools of a request, as in OpenAI's own interface.
const MAX_TOOLS: usize = 128;
/// Most stop strings of a request, as in OpenAI's own interface.
const MAX_STOPS: usize = 4;
/// Most tokens with a bias, and most tokens that end an answer.
const MAX_TOKENS_NAMED: usize = 1024;
/// Fields that are named when a request is refused for them.
const MAX_NAMED: usize = 10;

/// The fields of a request, null read as absent.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    pub(super) model: Option<String>,
    pub(super) messages: Option<List<RequestMessage, MAX_MESSAGES>>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    pub(super) max_tokens: Option<u32>,
    pub(super) max_completion_tokens: Option<u32>,
    pub(super) max_thinking_tokens: Option<u32>,
    pub(super) temperature: Option<f32>,
    pub(super) top_k: Option<i64>,
    pub(super) top_p: Option<f32>,
    pub(super) min_p: Option<f32>,
    pub(super) repetition_penalty: Option<f32>,
    pub(super) presence_penalty: Option<f32>,
    pub(super) frequency_penalty: Option<f32>,
    pub(super) logit_bias: Option<Bias>,
    pub(super) seed: Option<i64>,
    pub(super) stop: Option<TextOr<String, MAX_STOPS>>,
    pub(super) stop_token_ids: Option<List<u32, MAX_TOKENS_NAMED>>,
    pub(super) ignore_eos: Option<bool>,
    pub(super) n: Option<u32>,
    pub(super) logprobs: Option<bool>,
    pub(super) top_logprobs: Option<u8>,
    pub(super) response_format: Option<Json>,
    /// llama.cpp's: a schema.
    pub(super) json_schema: Option<Json>,
    /// llama.cpp's: a grammar as text.
    pub(super) grammar: Option<String>,
    pub(super) regex: Option<String>,
    pub(super) tools: Option<List<Json, MAX_TOOLS>>,
    pub(super) tool_choice: Option<Json>,
    pub(super) parallel_tool_calls: Option<bool>,
    pub(super) chat_template_kwargs: Option<Json>,
    /// What is not known, by name.
    unknown: Vec<String>,
}

impl Fields {
    /// Refuses what is not known.
    pub(super) fn check_known(&self) -> Result<(), ApiError> {
        let Some(first) = self.unknown.first() else { return Ok(()) };
        let named: Vec<_> = self.unknown.iter().take(MAX_NAMED).map(|name| format!("`{}`", shortened(name))).collect();
        let more = self.unknown.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let message = format!("not supported: {}{more}", named.join(", "));
        Err(ApiError { code: "unsupported_parameter", ..ApiError::invalid(message).about(&shortened(first)) })
    }

    fn set<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "model" => self.model = map.next_value()?,
            "messages" => self.messages = map.next_value()?,
            "stream" => self.stream = map.next_value()?,
            "stream_options" => self.stream_options = map.next_value()?,
            "max_tokens" => self.max_tokens = map.next_value()?,
            "max_completion_tokens" => self.max_completion_tokens = map.next_value()?,
            "max_thinking_tokens" => self.max_thinking_tokens = map.next_value()?,
            "temperature" => self.temperature = map.next_value()?,
            "top_k" => self.top_k = map.next_value()?,
            "top_p" => self.top_p = map.next_value()?,
            "min_p" => self.min_p = map.next_value()?,
            "repetition_penalty" => self.repetition_penalty = map.next_value()?,
            "presence_penalty" => self.presence_penalty = map.next_value()?,
            "frequency_penalty" => self.frequency_penalty = map.next_value()?,
            "logit_bias" => self.logit_bias = map.next_value()?,
            "seed" => self.seed = map.next_value()?,
            "stop" => self.stop = map.next_value()?,
            "stop_token_ids" => self.stop_token_ids = map.next_value()?,
            "ignore_eos" => self.ignore_eos = map.next_value()?,
            "n" => self.n = map.next_value()?,
            "logprobs" => self.logprobs = map.next_value()?,
            "top_logprobs" => self.top_logprobs = map.next_value()?,
            "response_format" => self.response_format = map.next_value()?,
            "json_schema" => self.json_schema = map.next_value()?,
            "grammar" => self.grammar = map.next_value()?,
            "regex" => self.regex = map.next_value()?,
            "tools" => self.tools = map.next_value()?,
            "tool_choice" => self.tool_choice = map.next_value()?,
            "parallel_tool_calls" => self.parallel_tool_calls = map.next_value()?,
            "chat_template_kwargs" => self.chat_template_kwargs = map.next_value()?,
            "modalities" => {
                // Text is what there is anyway.
                let value: Option<Json> = map.next_value()?;
                if value.is_some_and(|value| value.0 != serde_json::json!(["text"])) {
                    self.unknown.push(key.to_owned());
                }
            }
            key if HARMLESS.contains(&key) => drop(map.next_value::<IgnoredAny>()?),
            _ => {
                if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                    self.unknown.push(key.to_owned());
                }
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key::<String>()? {
                    fields
                        .set(&key, &mut map)
                        .map_err(|error| Error::custom(format_args!("`{}`: {error}", shortened(&key))))?;
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
    /// Padding of chunks against eavesdroppers, which a server on this machine has no use for.
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// Tokens, spelled as decimal keys of an object, and what is added to their logits.
#[derive(Clone, Debug)]
pub(super) struct Bias(pub(super) Vec<(u32, f32)>);

impl<'de> Deserialize<'de> for Bias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Bias;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of token ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bias, A::Error> {
                let mut bias = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if bias.len() == MAX_TOKENS_NAMED {
                        return Err(Error::custom(format_args!("more than {MAX_TOKENS_NAMED} tokens")));
                    }
                    let token =
                        key.parse().map_err(|_| Error::custom(format_args!("{:?} is no token id", shortened(&key))))?;
                    bias.push((token, map.next_value()?));
                }
                Ok(Bias(bias))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
