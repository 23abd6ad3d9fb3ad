//! Jinja chat templates as Hugging Face tokenizers bring them, run in a bounded environment: instructions, recursion and the
//! prompt are limited. What minijinja has no limit for is the length of a string between two instructions, which a hostile template
//! can double with `~`; a package pins the template that was looked at by its hash.

use super::conversation::MAX_PROMPT_BYTES;
use super::template::Message;
use super::{TextError, clock};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

/// Longest template that is read; real ones stay below 20 kB.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Instructions that a rendering may execute. A real template needs about a hundred for each message.
const FUEL: u64 = 10_000_000;
/// Nesting of macros and blocks.
const RECURSION: usize = 100;
const NAME: &str = "chat_template";
/// Marks an error that the template raised on purpose.
const RAISED: &str = "raised by the template: ";

/// A compiled template with the special tokens that it may name (`bos_token`, `eos_token`, …).
#[derive(Clone)]
pub struct JinjaTemplate {
    environment: Arc<Environment<'static>>,
    special_tokens: BTreeMap<String, String>,
}

impl JinjaTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// One that is too long or does not parse.
    pub fn new(source: &str, special_tokens: BTreeMap<String, String>) -> Result<Self, TextError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TextError::Template(format!(
                "it has {} bytes, more than the limit of {MAX_TEMPLATE_BYTES}",
                source.len()
            )));
        }
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
        });
        environment.add_filter("tojson", to_json);
        environment.add_test("mapping", |value: &Value| value.kind() == ValueKind::Map);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| TextError::Template(describe(&error)))?;
        Ok(Self { environment: Arc::new(environment), special_tokens })
    }

    /// The prompt that asks for the assistant's answer to `messages`; `now` is what `strftime_now` tells, in UTC.
    ///
    /// # Errors
    /// A template that refuses the conversation, fails, or runs out of its bounds.
    pub fn render(&self, messages: &[Message], now: SystemTime) -> Result<String, TextError> {
        let template = self.environment.get_template(NAME).map_err(|error| TextError::Template(describe(&error)))?;
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| {
                minijinja::context! { role => message.role.as_str(), content => message.content.as_str() }
            })
            .collect();
        let mut context: BTreeMap<String, Value> =
            self.special_tokens.iter().map(|(name, token)| (name.clone(), Value::from(token.as_str()))).collect();
        context.insert("messages".into(), Value::from(messages));
        context.insert("add_generation_prompt".into(), Value::from(true));
        context
            .insert("strftime_now".into(), Value::from_function(move |format: String| clock::strftime(&format, now)));
        let mut output = Capped(Vec::new());
        match template.render_captured_to(Value::from(context), &mut output) {
            Ok(_) => String::from_utf8(output.0).map_err(|error| TextError::Template(error.to_string())),
            Err(error) if error.kind() == ErrorKind::WriteFailure => Err(TextError::PromptTooLong(MAX_PROMPT_BYTES)),
            Err(error) => match raised(&error) {
                Some(message) => Err(TextError::Refused(message)),
                None => Err(TextError::Template(describe(&error))),
            },
        }
    }
}

impl std::fmt::Debug for JinjaTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JinjaTemplate").field("special_tokens", &self.special_tokens).finish_non_exhaustive()
    }
}

fn raised(error: &Error) -> Option<String> {
    let detail = error.detail()?.strip_prefix(RAISED)?;
    Some(detail.to_owned())
}

fn describe(error: &Error) -> String {
    let place = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    match error.detail() {
        Some(detail) => format!("{}: {detail}{place}", error.kind()),
        None => format!("{}{place}", error.kind()),
    }
}

/// Collects output up to the longest prompt.
struct Capped(Vec<u8>);

impl std::io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PROMPT_BYTES {
            return Err(std::io::Error::other("the prompt is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `tojson` as transformers defines it: Python's `json.dumps` without escaping of non-ASCII text or HTML, `", "` and `": "`
/// between items, and an optional `indent`.
fn to_json(_: &State<'_, '_>, value: Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<usize>>("indent")? {
        Some(indent) => Some(indent),
        None => indent,
    };
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let json =
        serde_json::to_value(&value).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let mut out = String::new();
    write_json(&json, indent.map(|indent| indent.min(16)), 0, &mut out);
    Ok(out)
}

fn write_json(value: &serde_json::Value, indent: Option<usize>, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    match value {
        serde_json::Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(separator);
                }
                line(depth + 1, out);
                write_json(item, indent, depth + 1, out);
            }
            line(depth, out);
            out.push(']');
        }
        serde_json::Value::Object(entries) if !entries.is_empty() => {
            out.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push_str(separator);
                }
                line(depth + 1, out);
                out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write_json(item, indent, depth + 1, out);
            }
            line(depth, out);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests;
