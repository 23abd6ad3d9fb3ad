//! What a request may say, and what it means.

mod fields;
mod format;
mod json;
mod message;
#[cfg(test)]
mod tests;
mod tools;

use crate::ApiError;
use fields::Fields;
use json::TextOr;
use knapsack_runtime::text::{Message, PromptOptions};
use knapsack_runtime::{GenerateOptions, Grammar, SamplingOptions, ToolChoice};
use std::borrow::Cow;

/// Most answers to one request, as in OpenAI's own interface.
const MAX_ANSWERS: u32 = 128;
/// Most rivals of a token whose probabilities are given, as in OpenAI's own interface.
const MAX_TOP_LOGPROBS: u8 = 20;

/// A request of `POST /v1/chat/completions`, read and checked as far as it can be without its model.
#[derive(Clone, Debug)]
pub struct Request {
    fields: Fields,
    messages: Vec<Message>,
    /// The form of the answer, and the field that asks for it.
    form: Option<(&'static str, Grammar)>,
    prompt: PromptOptions,
    tool_choice: ToolChoice,
}

impl Request {
    /// Reads a request. Fields that change no answer (`user`, `metadata`, `store`, `service_tier`, `safety_identifier`,
    /// `prompt_cache_key`) are passed over, null counts as absent, and every other field that is not known is refused by its name.
    ///
    /// # Errors
    /// What is no request, or asks for what cannot be done.
    pub fn parse(json: &[u8]) -> Result<Self, ApiError> {
        let fields: Fields = serde_json::from_slice(json)
            .map_err(|error| ApiError::invalid(format!("the body is no request: {error}")))?;
        fields.check_known()?;
        let messages = match &fields.messages {
            Some(messages) if !messages.0.is_empty() => {
                messages.0.iter().map(message::read).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(ApiError::invalid("`messages` is empty").about("messages")),
            None => return Err(ApiError::invalid("`messages` is missing").about("messages")),
        };
        let form = format::read(&fields)?;
        let (prompt, tool_choice) = tools::read(&fields)?;
        let request = Self { fields, messages, form, prompt, tool_choice };
        request.options(&SamplingOptions::default())?;
        Ok(request)
    }

    /// The model it names, a `model_id` of the package.
    pub fn model(&self) -> Option<&str> {
        self.fields.model.as_deref()
    }

    /// Whether the answer comes in chunks.
    pub fn stream(&self) -> bool {
        self.fields.stream.unwrap_or(false)
    }

    /// Whether the last chunk carries the token counts.
    pub(crate) fn include_usage(&self) -> bool {
        self.fields.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// The conversation.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Whether log probabilities are asked for.
    pub(crate) fn wants_logprobs(&self) -> bool {
        self.fields.logprobs.unwrap_or(false)
    }

    /// The field that says what form the answer has.
    pub(crate) fn form_field(&self) -> Option<&'static str> {
        match self.prompt.tools.is_empty() {
            true => self.form.as_ref().map(|(field, _)| *field),
            false => Some("tools"),
        }
    }

    /// How many answers are asked for.
    pub fn answers(&self) -> u32 {
        self.fields.n.unwrap_or(1)
    }

    /// How to generate, the model's defaults where the request says nothing.
    ///
    /// # Errors
    /// A value outside its range.
    pub fn options(&self, defaults: &SamplingOptions) -> Result<GenerateOptions, ApiError> {
        let fields = &self.fields;
        if !(1..=MAX_ANSWERS).contains(&self.answers()) {
            return Err(out_of_range("n", self.answers(), "1 to 128"));
        }
        let stop = match &fields.stop {
            None => Vec::new(),
            Some(TextOr::Text(stop)) => vec![stop.clone()],
            Some(TextOr::List(stops)) => stops.clone(),
        };
        let max_tokens = fields.max_completion_tokens.or(fields.max_tokens);
        if max_tokens == Some(0) {
            return Err(out_of_range("max_tokens", 0, "1 or more"));
        }
        Ok(GenerateOptions {
            max_tokens,
            max_thinking_tokens: fields.max_thinking_tokens,
            stop,
            stop_tokens: fields.stop_token_ids.clone().unwrap_or_default().0,
            grammar: self.form.as_ref().map(|(_, grammar)| grammar.clone()),
            prompt: self.prompt.clone(),
            tool_choice: self.tool_choice.clone(),
            parallel_tool_calls: fields.parallel_tool_calls.unwrap_or(true),
            logprobs: self.logprobs()?,
            ignore_stops: fields.ignore_eos.unwrap_or(false),
            ..GenerateOptions::new(self.sampling(defaults)?)
        })
    }

    fn logprobs(&self) -> Result<Option<u8>, ApiError> {
        match (self.fields.logprobs.unwrap_or(false), self.fields.top_logprobs) {
            (_, Some(top)) if top > MAX_TOP_LOGPROBS => Err(out_of_range("top_logprobs", top, "0 to 20")),
            (false, Some(top)) if top > 0 => {
                Err(ApiError::invalid("`top_logprobs` needs `logprobs`: true").about("top_logprobs"))
            }
            (true, top) => Ok(Some(top.unwrap_or(0))),
            (false, _) => Ok(None),
        }
    }

    fn sampling(&self, base: &SamplingOptions) -> Result<SamplingOptions, ApiError> {
        let fields = &self.fields;
        let top_k = match fields.top_k {
            None => base.top_k,
            // Both are how other servers spell "off".
            Some(-1 | 0) => 0,
            Some(top_k) => u32::try_from(top_k).map_err(|_| out_of_range("top_k", top_k, "-1 or more"))?,
        };
        let sampling = SamplingOptions {
            temperature: fields.temperature.unwrap_or(base.temperature),
            top_k,
            top_p: fields.top_p.unwrap_or(base.top_p),
            min_p: fields.min_p.unwrap_or(base.min_p),
            repetition_penalty: fields.repetition_penalty.unwrap_or(base.repetition_penalty),
            presence_penalty: fields.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: fields.frequency_penalty.unwrap_or(base.frequency_penalty),
            logit_bias: fields.logit_bias.as_ref().map(|bias| bias.0.clone()).unwrap_or_default(),
            seed: fields.seed.map(|seed| seed as u64),
        };
        sampling.validate().map_err(|error| ApiError::invalid(error.to_string()).about(error.name))?;
        Ok(sampling)
    }
}

fn out_of_range(name: &str, value: impl std::fmt::Display, expected: &str) -> ApiError {
    ApiError::invalid(format!("`{name}` is {value}, expected {expected}")).about(name)
}

/// A name of the request as an error may repeat it.
pub(crate) fn shortened(name: &str) -> Cow<'_, str> {
    const LONGEST: usize = 100;
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => Cow::Owned(format!("{}…", &name[..end])),
        None => Cow::Borrowed(name),
    }
}
