//! Jinja chat templates as Hugging Face tokenizers bring them.

use super::prompt::{MAX_PROMPT_BYTES, Prompt, PromptOptions};
use super::{Message, TextError, ToolCall, clock};
use crate::tools::ToolFormat;
use knapsack_jinja::{Context, ErrorKind, Limits, Template};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// Variables that a template is given in any case; a caller's cannot replace them.
const OWN: [&str; 3] = ["messages", "add_generation_prompt", "tools"];

/// A template with the special tokens that it may name (`bos_token`, `eos_token`, …).
#[derive(Clone, Debug)]
pub struct JinjaTemplate {
    place: String,
    source: String,
    template: Result<Template, knapsack_jinja::Error>,
    special_tokens: BTreeMap<String, String>,
}

impl JinjaTemplate {
    /// A template from its source; `place` says where it was found. One that does not parse is kept with its error, which
    /// every rendering gives: such a model can still continue plain text.
    pub fn new(place: impl Into<String>, source: &str, special_tokens: BTreeMap<String, String>) -> Self {
        Self { place: place.into(), template: Template::parse(source), source: source.to_owned(), special_tokens }
    }

    /// How the model writes calls of tools, where the template takes tools.
    pub(crate) fn tool_format(&self) -> Option<ToolFormat> {
        // A template that writes calls but takes no tools tells a model of none.
        self.mentions("tools").then(|| ToolFormat::detect(&self.source)).flatten()
    }

    /// Where the template was found.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether the template's source has this text.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.source.contains(text)
    }

    /// Whether a variable of the template switches thinking on and off.
    pub(crate) fn switches_thinking(&self) -> bool {
        ["enable_thinking", "if thinking", "thinking is"].iter().any(|name| self.mentions(name))
    }

    /// The prompt that asks for the assistant's answer to `messages`; `now` is what `strftime_now` tells, in local time.
    ///
    /// # Errors
    /// A template that does not parse, refuses the conversation, fails, or runs out of its bounds.
    pub fn render(&self, messages: &[Message], options: &PromptOptions, now: SystemTime) -> Result<Prompt, TextError> {
        self.rendered(messages, options, now, true)
    }

    /// The same without what asks for the answer.
    ///
    /// # Errors
    /// As [`JinjaTemplate::render`].
    pub(crate) fn render_said(
        &self,
        messages: &[Message],
        options: &PromptOptions,
        now: SystemTime,
    ) -> Result<Prompt, TextError> {
        self.rendered(messages, options, now, false)
    }

    fn rendered(
        &self,
        messages: &[Message],
        options: &PromptOptions,
        now: SystemTime,
        ask: bool,
    ) -> Result<Prompt, TextError> {
        let template = self.template.as_ref().map_err(|error| self.failed(error.clone()))?;
        let context = self.context(messages, options, ask);
        let limits = Limits { output: MAX_PROMPT_BYTES, ..Limits::default() };
        let text = template
            .render(&context, &|format| clock::strftime(format, now), limits)
            .map_err(|error| self.failed(error))?;
        let (text, data) = text.into_parts();
        let data = if options.special_tokens_in_text { Vec::new() } else { data };
        Ok(Prompt { prefix: Vec::new(), text, data })
    }

    fn failed(&self, error: knapsack_jinja::Error) -> TextError {
        match error.kind {
            ErrorKind::Raised => TextError::Refused(error.message),
            _ => TextError::Template { place: self.place.clone(), problem: error },
        }
    }

    fn context<'a>(&'a self, messages: &[Message], options: &'a PromptOptions, ask: bool) -> Vec<(&'a str, Context)> {
        let list = |items: &[Value]| match items {
            [] => Context::Data(Value::Null),
            items => Context::Data(Value::from(items)),
        };
        let mut context: Vec<(&str, Context)> =
            self.special_tokens.iter().map(|(name, token)| (name.as_str(), Context::Trusted(token.clone()))).collect();
        context.push(("documents", list(&options.documents)));
        if let Some(thinking) = options.thinking {
            context.extend(thinking_variables(thinking).map(|(name, value)| (name, Context::Data(value))));
        }
        let given = options.variables.iter().filter(|(name, _)| !OWN.contains(&name.as_str()));
        context.extend(given.map(|(name, value)| (name.as_str(), Context::Data(value.clone()))));
        context.push(("tools", list(&options.tools)));
        context.push(("add_generation_prompt", Context::Data(Value::Bool(ask))));
        context.push(("messages", Context::List(messages.iter().map(message).collect())));
        context
    }
}

/// The names that models' templates have for thinking: Qwen 3, SmolLM 3, EXAONE and Gemma; Granite; DeepSeek.
fn thinking_variables(on: bool) -> [(&'static str, Value); 2] {
    [("enable_thinking", Value::Bool(on)), ("thinking", Value::Bool(on))]
}

/// A message as templates know it: only what is there has a key. The role is one of a few known words, and templates spell
/// special tokens with it.
fn message(message: &Message) -> Context {
    let data = |text: &str| Context::Data(Value::from(text));
    let mut entries = vec![
        ("role".to_owned(), Context::Trusted(message.role.as_str().to_owned())),
        ("content".to_owned(), data(&message.content)),
    ];
    if let Some(reasoning) = &message.reasoning {
        entries.push(("reasoning_content".to_owned(), data(reasoning)));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(tool_call).collect();
        entries.push(("tool_calls".to_owned(), Context::Data(Value::Array(calls))));
    }
    if let Some(id) = &message.tool_call_id {
        entries.push(("tool_call_id".to_owned(), data(id)));
    }
    if let Some(name) = &message.name {
        entries.push(("name".to_owned(), data(name)));
    }
    Context::Map(entries)
}

fn tool_call(call: &ToolCall) -> Value {
    json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } })
}

#[cfg(test)]
mod tests;
