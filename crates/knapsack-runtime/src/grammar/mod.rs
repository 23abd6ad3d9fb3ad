//! Answers of a given form: JSON of a schema, a regular expression, a grammar. The library `llguidance` says which tokens may come
//! next; here is what ties it to a model: the vocabulary as a trie, built once for each model, and a [`Guide`] for each answer.

mod gbnf;
mod guide;
#[cfg(test)]
mod tests;
mod vocabulary;

pub(crate) use guide::Guide;
#[cfg(test)]
pub(crate) use tests::accepts;
pub(crate) use vocabulary::Vocabulary;

use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value, json};

/// Longest grammar or schema, as text.
const MAX_BYTES: usize = 1 << 20;

/// The form of an answer.
///
/// An answer that ends with [`crate::FinishReason::Stop`] has it. One that is cut off by its limit of tokens or by the end of the
/// context is the beginning of one that has.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// JSON that validates against a JSON Schema (draft 2020-12). Properties come in the order in which the schema names them, and
    /// between values there is at most a space, or one or two line ends with up to 20 blanks.
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole: the syntax of Rust's `regex`, without look-around.
    Regex(String),
    /// Text of a context-free grammar, in the dialect of Lark that llguidance reads, with the rule `start`.
    Lark(String),
    /// Text of a context-free grammar in llama.cpp's GBNF, with the rule `root`.
    Gbnf(String),
}

/// Why a form cannot be asked for: what it says is wrong, or asks for something that no token mask can ensure. What is missing is
/// named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} cannot be used: {problem}")]
pub struct GrammarError {
    what: &'static str,
    problem: String,
}

impl GrammarError {
    pub(crate) fn new(what: &'static str, problem: impl Into<String>) -> Self {
        Self { what, problem: problem.into() }
    }
}

impl Grammar {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Self::JsonSchema(json!({ "type": "object" }))
    }

    /// A grammar as text: GBNF where rules are defined by `::=`, else Lark.
    pub fn from_text(text: &str) -> Self {
        if text.contains("::=") { Self::Gbnf(text.to_owned()) } else { Self::Lark(text.to_owned()) }
    }

    const fn what(&self) -> &'static str {
        match self {
            Grammar::JsonSchema(_) => "JSON schema",
            Grammar::Regex(_) => "regular expression",
            Grammar::Lark(_) | Grammar::Gbnf(_) => "grammar",
        }
    }

    fn error(&self, problem: impl Into<String>) -> GrammarError {
        GrammarError::new(self.what(), problem)
    }

    fn top_level(&self) -> Result<TopLevelGrammar, GrammarError> {
        match self {
            Grammar::JsonSchema(schema) => {
                let schema = with_whitespace(schema).map_err(|problem| self.error(problem))?;
                Ok(TopLevelGrammar::from_json_schema(schema))
            }
            Grammar::Regex(pattern) => {
                self.check_length(pattern)?;
                Ok(TopLevelGrammar::from_regex(pattern))
            }
            Grammar::Lark(text) => {
                self.check_length(text)?;
                Ok(TopLevelGrammar::from_lark(text.clone()))
            }
            Grammar::Gbnf(text) => {
                self.check_length(text)?;
                let lark = gbnf::to_lark(text).map_err(|problem| self.error(problem))?;
                Ok(TopLevelGrammar::from_lark(lark))
            }
        }
    }

    fn check_length(&self, text: &str) -> Result<(), GrammarError> {
        match text.len() {
            0..=MAX_BYTES => Ok(()),
            bytes => Err(self.error(format!("it has {bytes} bytes, more than the limit of {MAX_BYTES}"))),
        }
    }
}

/// Key of llguidance's own settings in a schema.
const SETTINGS: &str = "x-guidance";
/// JSON's whitespace, but never so much that a model could go on with it for ever: the rule of llama.cpp's JSON grammars.
const WHITESPACE: &str = r" |\n{1,2}[ \t]{0,20}";

/// The schema with the settings that the library takes from it.
pub(crate) fn with_whitespace(schema: &Value) -> Result<Value, String> {
    let mut map = match schema {
        Value::Object(map) if map.contains_key(SETTINGS) => {
            return Err(format!("`{SETTINGS}` is no keyword of JSON Schema"));
        }
        Value::Object(map) => map.clone(),
        Value::Bool(true) => Map::new(),
        Value::Bool(false) => return Err("`false` allows nothing".to_owned()),
        _ => return Err("it is neither an object nor a boolean".to_owned()),
    };
    map.insert(SETTINGS.to_owned(), json!({ "whitespace_pattern": WHITESPACE }));
    Ok(Value::Object(map))
}
