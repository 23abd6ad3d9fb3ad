//! Tools: what a model may call, how it writes a call, and how a call is read.
//!
//! A chat template puts the tools into the prompt ([`crate::text::PromptOptions::tools`]); how the model then writes a call is a
//! matter of its family, a [`ToolFormat`]. The arguments are held to the tool's JSON Schema while they are written, by the same
//! means as any other form of an answer.

mod format;
mod grammar;
mod literal;
mod parser;
#[cfg(test)]
mod tests;

pub(crate) use format::ToolFormat;
pub(crate) use parser::{Parsed, ToolParser};

use crate::grammar::{Grammar, GrammarError};
use serde_json::Value;

/// Most tools of a conversation.
const MAX_TOOLS: usize = 128;

/// Which tools a model may or must call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model chooses between text and calls.
    #[default]
    Auto,
    /// No tool is called, though the prompt tells of them.
    None,
    /// One or more tools are called.
    Required,
    /// This tool is called.
    Named(String),
}

/// A tool as far as a call is concerned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    name: String,
    /// JSON Schema of the arguments.
    parameters: Value,
}

/// Reads tools as OpenAI describes them: `{"type": "function", "function": {"name", "description", "parameters", "strict"}}`.
pub(crate) fn read(tools: &[Value], choice: &ToolChoice) -> Result<Vec<Tool>, GrammarError> {
    let problem = |problem: String| GrammarError::new("tools", problem);
    if tools.len() > MAX_TOOLS {
        return Err(problem(format!("there are {}, at most {MAX_TOOLS}", tools.len())));
    }
    let mut read = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        let wrong = |what: &str| problem(format!("tool {index} {what}"));
        if tool.get("type").is_some_and(|kind| kind != "function") {
            return Err(wrong("is of another type than `function`"));
        }
        let function = tool.get("function").unwrap_or(tool);
        let name = function.get("name").and_then(Value::as_str).ok_or_else(|| wrong("has no name"))?;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            return Err(wrong("has a name that is not 1 to 64 letters, digits, `_`, `-` or `.`"));
        }
        if read.iter().any(|known: &Tool| known.name == name) {
            return Err(problem(format!("there are two of the name `{name}`")));
        }
        let parameters = match function.get("parameters") {
            None | Some(Value::Null) => {
                serde_json::json!({ "type": "object", "properties": {}, "additionalProperties": false })
            }
            Some(schema @ Value::Object(_)) => schema.clone(),
            Some(_) => return Err(wrong("has parameters that are no JSON Schema")),
        };
        read.push(Tool { name: name.to_owned(), parameters });
    }
    match choice {
        ToolChoice::Named(name) if !read.iter().any(|tool| tool.name == *name) => {
            Err(problem(format!("there is none of the name `{name}`")))
        }
        ToolChoice::Named(name) => Ok(read.into_iter().filter(|tool| tool.name == *name).collect()),
        _ => Ok(read),
    }
}

/// The grammar of an answer that may or must have calls. `text` is the form of an answer that has none; `special` gives the token
/// that a text is the spelling of, where it is a special one.
pub(crate) fn grammar(
    format: ToolFormat,
    tools: &[Tool],
    choice: &ToolChoice,
    parallel: bool,
    text: Option<&Grammar>,
    special: &dyn Fn(&str) -> Option<u32>,
) -> Result<Grammar, GrammarError> {
    grammar::Writer { shape: format.shape(), special, parallel }.grammar(tools, choice, text)
}
