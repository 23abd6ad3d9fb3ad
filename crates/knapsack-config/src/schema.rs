//! The JSON Schema of a manifest, for editors: `schemas/mlc-package-config.schema.json`.
//!
//! Built from the rows of keys that reading uses. A schema can not look at files or compare keys; what it can say it
//! says as strictly as reading does, and a test holds the two against each other.

use crate::written::{Written, object_schema};
use serde_json::json;

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
            "complete": object_schema(Written::KEYS, false),
            "extending": object_schema(Written::KEYS, true),
        },
    });
    format!("{schema:#}\n")
}
