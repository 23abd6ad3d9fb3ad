//! The JSON Schema of a manifest, for editors: `schemas/mlc-package-config.schema.json`.
//!
//! Built from the rows of keys that reading uses. A schema can not look at files or compare keys; what it can say it
//! says as strictly as reading does, and a test holds the two against each other.

use crate::written::{Key, Written};
use serde_json::{Map, Value, json};

/// Name of the schema, as its `$id`.
pub const SCHEMA_ID: &str =
    "https://raw.githubusercontent.com/knapsack-ml/knapsack/main/schemas/mlc-package-config.schema.json";

/// The schema as it is kept in `schemas/`, with a newline at the end.
pub fn json_schema() -> String {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
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
    let required = keys.iter().filter(|key| key.required.is_some() && !(extending && key.removable));
    let properties = keys.iter().map(|key| {
        let schema = (key.schema)(extending);
        let mut schema = if key.removable { removable(schema, extending) } else { schema };
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

/// Also accepts null, where there is something to remove.
pub(crate) fn removable(schema: Value, extending: bool) -> Value {
    if extending { json!({ "anyOf": [schema, { "type": "null" }] }) } else { schema }
}
