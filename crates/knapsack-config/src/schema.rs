//! The JSON Schema of a manifest, for editors: `schemas/mlc-package-config.schema.json`.
//!
//! Built from the rows of keys that reading uses. A schema can not look at files or compare keys; what it can say it
//! says as strictly as reading does, and a test holds the two against each other.

use crate::written::{Key, Null, Written};
use serde_json::{Map, Value, json};

/// The schema as it is kept in `schemas/`, with a newline at the end.
pub fn json_schema() -> String {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Knapsack package manifest",
        "description": "Which language models `knapsack package` packages for which device. MLC's manifests are valid too.",
        "if": { "type": "object", "required": ["extends"] },
        "then": { "$ref": "#/$defs/extending" },
        "else": { "$ref": "#/$defs/complete" },
        "$defs": {
            "complete": object(Written::KEYS, false),
            "extending": object(Written::KEYS, true),
        },
    });
    format!("{schema:#}\n")
}

/// An object of the given keys. In a file that extends another everything may be left out but what says which object is meant.
pub(crate) fn object(keys: &[Key], extending: bool) -> Value {
    let required = keys.iter().filter(|key| key.required.is_some() && !(extending && key.null != Null::Wrong));
    let properties = keys.iter().map(|key| {
        let schema = (key.schema)(extending);
        let mut schema = nullable(schema, key.null, extending);
        schema["description"] = key.meaning.trim().into();
        (key.name.to_owned(), schema)
    });
    json!({
        "type": "object",
        "properties": Map::from_iter(properties),
        "required": required.map(|key| key.name).collect::<Vec<_>>(),
        "additionalProperties": false,
    })
}

/// Also accepts null, where it says something.
pub(crate) fn nullable(schema: Value, null: Null, extending: bool) -> Value {
    if null == Null::Absent || null == Null::Removes && extending {
        json!({ "anyOf": [schema, { "type": "null" }] })
    } else {
        schema
    }
}
