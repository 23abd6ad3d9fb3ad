//! The JSON Schema of a manifest, for editors: `schemas/mlc-package-config.schema.json`.
//!
//! Built from the same tables of keys that reading uses. A schema can not look at files or compare keys; what it can say it
//! says as strictly as reading does, and a test holds the two against each other.

use crate::device::Device;
use crate::devices::DEFAULT_APP_RESERVE;
use crate::overrides::{MAX_OVERRIDE, OverrideKey};
use crate::written::{MANIFEST_KEYS, MODEL_KEYS};
use knapsack_tensor::QUANTIZATIONS;
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
            "complete": manifest(false),
            "extending": manifest(true),
        },
    });
    format!("{schema:#}\n")
}

/// A manifest. One that extends another may leave everything out, and give null to remove what that one says.
fn manifest(extending: bool) -> Value {
    let required: &[&str] = if extending { &["extends"] } else { &["device", "model_list"] };
    let keys = MANIFEST_KEYS.map(|key| (key, manifest_key(key, extending)));
    object(&keys, required)
}

fn object(properties: &[(&str, Value)], required: &[&str]) -> Value {
    let properties: Map<String, Value> =
        properties.iter().map(|(key, schema)| ((*key).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// Also accepts null, where there is something to remove.
fn removable(schema: Value, extending: bool) -> Value {
    if extending { json!({ "anyOf": [schema, { "type": "null" }] }) } else { schema }
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

fn manifest_key(key: &str, extending: bool) -> Value {
    let nonempty = json!({ "type": "string", "minLength": 1 });
    let (schema, description) = match key {
        "$schema" => (json!({ "type": "string" }), "This schema, for editors."),
        "device" => (
            removable(json!({ "enum": Device::ALL.map(Device::as_str) }), extending),
            "What to package for: decides kernels (Metal or OpenCL), the libraries' format, and where weights go.",
        ),
        "model_list" => {
            let least = u32::from(!extending);
            let list = json!({ "type": "array", "minItems": least, "maxItems": 1000, "items": model(extending) });
            (removable(list, extending), "The models. Their order is kept in the app config.")
        }
        "model_lib_path_for_prepare_libs" => {
            let libraries = json!({
                "type": "object",
                "propertyNames": { "pattern": PREFIX },
                "additionalProperties": removable(nonempty, extending),
            });
            (
                removable(libraries, extending),
                "Prebuilt model libraries: the file of each prefix that a `model_lib` names.",
            )
        }
        "extends" => (
            json!({ "anyOf": [nonempty, { "type": "array", "items": nonempty }] }),
            "Files to start from, relative to this one. This file's keys win, models merge by `model_id`, null removes.",
        ),
        "target_devices" => (
            removable(json!({ "type": "array", "items": { "type": "string" } }), extending),
            "Device profiles that every model must fit, such as `iphone-15-pro`.",
        ),
        "increased_memory_limit" => (
            removable(json!({ "type": "boolean", "default": false }), extending),
            "Whether the app has the entitlement com.apple.developer.kernel.increased-memory-limit.",
        ),
        "app_reserve_bytes" => (
            removable(
                json!({ "type": "integer", "minimum": 0, "maximum": i64::MAX, "default": DEFAULT_APP_RESERVE }),
                extending,
            ),
            "Memory in bytes that the app needs beside its models, when they are held against `target_devices`.",
        ),
        _ => (json!(false), ""),
    };
    if schema.is_object() { described(schema, description) } else { schema }
}

const PREFIX: &str = "^[A-Za-z_][A-Za-z0-9_]{0,127}$";
const MODEL_ID: &str = r"^(?!\.)(?!.*\.\.)(?!.*\.$)[A-Za-z0-9._-]{1,128}$";

fn model(extending: bool) -> Value {
    let keys = MODEL_KEYS.map(|key| (key, model_key(key, extending)));
    let required: &[&str] = if extending { &["model_id"] } else { &["model", "model_id"] };
    object(&keys, required)
}

fn model_key(key: &str, extending: bool) -> Value {
    let (schema, description) = match key {
        "model" => (
            json!({ "type": "string", "minLength": 1 }),
            "HF://org/name, HF://org/name@revision, https://huggingface.co/org/name, or a folder relative to this file.",
        ),
        "model_id" => {
            let id = json!({ "type": "string", "pattern": MODEL_ID });
            return described(id, "Name at run time and of the weight folder; unique without regard to case.");
        }
        "estimated_vram_bytes" => (
            json!({ "type": "integer", "minimum": 1, "maximum": i64::MAX }),
            "Memory in bytes that the runtime loads and evicts by. Computed when it is left out.",
        ),
        "bundle_weight" => (
            json!({ "type": "boolean", "default": false }),
            "Whether the weights go into the package; otherwise the app downloads them at first launch. Local models need it.",
        ),
        "overrides" => {
            let keys = OverrideKey::ALL.map(|key| (key.as_str(), removable(override_key(key), extending)));
            (object(&keys, &[]), "Sizes that differ from the model's own; -1 is the model's own.")
        }
        "model_lib" => (json!({ "type": "string", "pattern": PREFIX }), "Symbol prefix of the model's library."),
        "quantization" => (
            json!({ "enum": QUANTIZATIONS.map(|format| format.name) }),
            "Format that a checkpoint is converted to; not for a model that is converted already.",
        ),
        _ => return json!(false),
    };
    described(removable(schema, extending), description)
}

fn override_key(key: OverrideKey) -> Value {
    let size = |description: &str| {
        let range = json!([{ "minimum": 1, "maximum": MAX_OVERRIDE }, { "const": -1 }]);
        json!({ "type": "integer", "anyOf": range, "description": description })
    };
    match key {
        OverrideKey::ContextWindowSize => size("Positions that a conversation may hold."),
        OverrideKey::SlidingWindowSize => size("Positions that attention sees, when it slides."),
        OverrideKey::PrefillChunkSize => size("Tokens that one prefill call may take."),
        OverrideKey::AttentionSinkSize => json!({
            "type": "integer", "minimum": -1, "maximum": MAX_OVERRIDE,
            "description": "First positions that a sliding window always sees; 0 is none.",
        }),
        OverrideKey::MaxBatchSize => size("Accepted, without effect: a phone serves one conversation at a time."),
        OverrideKey::TensorParallelShards | OverrideKey::PipelineParallelStages => {
            json!({ "type": "integer", "const": 1 })
        }
        OverrideKey::Opt => json!({ "type": "string", "description": "Accepted, without effect." }),
        OverrideKey::Disaggregation => json!({ "const": false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_schema() {
        assert!(MANIFEST_KEYS.iter().all(|key| manifest_key(key, false).is_object()));
        assert!(MODEL_KEYS.iter().all(|key| model_key(key, false).is_object()));
    }

    /// `INSTA_UPDATE`-like: `KNAPSACK_BLESS=1 cargo test -p knapsack-config` writes the file anew.
    #[test]
    fn the_kept_schema_is_up_to_date() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/mlc-package-config.schema.json");
        if std::env::var_os("KNAPSACK_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, json_schema()).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert_eq!(kept, json_schema(), "run with KNAPSACK_BLESS=1 to write the schema anew");
    }
}
