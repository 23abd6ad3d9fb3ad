//! The form that a request asks of its answer.

use super::fields::Fields;
use crate::ApiError;
use knapsack_runtime::Grammar;
use serde_json::{Map, Value};

/// The form, and the field that asks for it.
pub(super) fn read(fields: &Fields) -> Result<Option<(&'static str, Grammar)>, ApiError> {
    let format = match &fields.response_format {
        Some(format) => response_format(&format.0)?.map(|grammar| ("response_format", grammar)),
        None => None,
    };
    let schema = fields.json_schema.as_ref().map(|schema| ("json_schema", Grammar::JsonSchema(schema.0.clone())));
    let text = fields.grammar.as_deref().map(|text| ("grammar", Grammar::from_text(text)));
    let regex = fields.regex.as_ref().map(|pattern| ("regex", Grammar::Regex(pattern.clone())));
    let mut asked = format.into_iter().chain(schema).chain(text).chain(regex);
    match (asked.next(), asked.next()) {
        (Some((first, _)), Some((second, _))) => {
            let message = format!("`{first}` and `{second}` both say what form the answer has");
            Err(ApiError::invalid(message).about(second))
        }
        (one, _) => Ok(one),
    }
}

/// OpenAI's `response_format`, and llama.cpp's `json_object` with a schema.
fn response_format(format: &Value) -> Result<Option<Grammar>, ApiError> {
    let wrong = |message: &str| ApiError::invalid(format!("`response_format`: {message}")).about("response_format");
    let format = format.as_object().ok_or_else(|| wrong("expected an object"))?;
    let only = |keys: &[&str]| only_of(format, keys).map_err(|key| wrong(&format!("`{key}` is not supported")));
    match format.get("type").and_then(Value::as_str) {
        Some("text") => only(&["type"]).map(|()| None),
        Some("json_object") => {
            only(&["type", "schema"])?;
            let schema = format.get("schema").filter(|schema| !schema.is_null());
            Ok(Some(schema.map_or_else(Grammar::json_object, |schema| Grammar::JsonSchema(schema.clone()))))
        }
        Some("json_schema") => {
            only(&["type", "json_schema"])?;
            let named = format.get("json_schema").and_then(Value::as_object);
            let named = named.ok_or_else(|| wrong("`json_schema` is missing"))?;
            // Whether it is strict or not: the answer has the form either way.
            only_of(named, &["name", "description", "schema", "strict"])
                .map_err(|key| wrong(&format!("`json_schema.{key}` is not supported")))?;
            let schema = named.get("schema").filter(|schema| !schema.is_null());
            Ok(Some(schema.map_or_else(Grammar::json_object, |schema| Grammar::JsonSchema(schema.clone()))))
        }
        _ => Err(wrong("`type` is one of `text`, `json_object` and `json_schema`")),
    }
}

/// The first key that is none of these and says something.
fn only_of<'a>(object: &'a Map<String, Value>, keys: &[&str]) -> Result<(), std::borrow::Cow<'a, str>> {
    match object.iter().find(|(key, value)| !keys.contains(&key.as_str()) && !value.is_null()) {
        Some((key, _)) => Err(super::shortened(key)),
        None => Ok(()),
    }
}
