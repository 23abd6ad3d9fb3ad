//! `knapsack init`: a commented manifest to start from.

use crate::cli::InitArgs;
use crate::exit::wrong_input;
use crate::files::write_atomically;
use crate::report::Reporter;
use anyhow::Context;
use knapsack_artifact::DeviceKind;
use knapsack_config::DeviceProfiles;
use knapsack_config::devices::DEFAULT_APP_RESERVE;
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};

/// The schema beside the manifest.
const SCHEMA_FILE: &str = "mlc-package-config.schema.json";
/// A small model that MLC publishes converted.
const DEFAULT_MODEL: &str = "HF://mlc-ai/Llama-3.2-1B-Instruct-q4f16_1-MLC";

/// Writes the manifest, unless there is one; with `--schema` the schema beside it, which is written anew.
pub fn run(args: &InitArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let text = manifest(args);
    let path = args.config.display();
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&args.config) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(wrong_input(format!("{path} exists already and is left as it is")));
        }
        Err(error) => return Err(error).with_context(|| format!("can not write {path}")),
    };
    file.write_all(text.as_bytes()).with_context(|| format!("can not write {path}"))?;
    if args.schema {
        let schema = args.config.with_file_name(SCHEMA_FILE);
        write_atomically(&schema, knapsack_config::json_schema().as_bytes())?;
        reporter.status("Created", format_args!("{}; editors check the manifest by it", schema.display()));
    }
    reporter.status("Created", format_args!("{path}; `knapsack check` checks it, `knapsack package` builds it"));
    Ok(())
}

/// The manifest's text: every key once, the optional ones as comments.
fn manifest(args: &InitArgs) -> String {
    let device = args.device;
    let devices: Vec<String> =
        DeviceKind::packaged().map(|device| format!("\"{device}\" ({})", device.about)).collect();
    let devices = devices.join(", ");
    let source = args.model.as_deref().unwrap_or(DEFAULT_MODEL);
    let (model, id) = (Value::from(source), Value::from(model_id(source)));
    let targets = target_devices(device);
    let schema = if args.schema { format!("    \"$schema\": \"./{SCHEMA_FILE}\",\n") } else { String::new() };
    format!(
        r#"{{
{schema}    // What to package for: {devices}.
    "device": "{device}",
    "model_list": [
        {{
            // HF://org/name, HF://org/name@revision, or a folder relative to this file.
            "model": {model},
            // Name at run time and of the weight folder.
            "model_id": {id},
            // true: the weights go into the package; false: the app downloads them at first launch.
            "bundle_weight": true,
            // Memory in bytes that the app may give the model; sizes below are chosen to fit it. Computed when left out.
            // "estimated_vram_bytes": 3000000000,
            // Format to convert a checkpoint to; a model that is converted already has its own.
            // "quantization": "q4f16_1",
            // Sizes that differ from the model's own.
            "overrides": {{
                // "context_window_size": 2048,
                // "prefill_chunk_size": 128
            }}
        }}
    ],{targets}
}}
"#
    )
}

/// The lines about phones, for a device that has profiles of some.
fn target_devices(device: DeviceKind) -> String {
    /// Names that show how it is written.
    const SHOWN: usize = 2;
    let profiles = DeviceProfiles::built_in().unwrap_or_default();
    let phones = profiles.iter().filter(|profile| Some(profile.platform) == device.platform);
    let names: Vec<String> = phones.take(SHOWN).map(|profile| format!("\"{}\"", profile.name)).collect();
    if names.is_empty() {
        return String::new();
    }
    format!(
        r#"
    // Phones that every model must fit; `knapsack memory --list-phones` names them.
    // "target_devices": [{}],
    // What the app needs beside its models, in bytes.
    // "app_reserve_bytes": {DEFAULT_APP_RESERVE},"#,
        names.join(", ")
    )
}

/// A model id from the last part of a source.
fn model_id(source: &str) -> String {
    let source = source.trim_end_matches(['/', '\\']);
    let name = source.rsplit(['/', '\\']).next().unwrap_or_default();
    let name = name.split('@').next().unwrap_or_default();
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect();
    let plain = plain.trim_matches('.').replace("..", ".");
    if plain.is_empty() { "model".to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::model_id;

    #[test]
    fn ids_from_sources() {
        assert_eq!(model_id("HF://mlc-ai/Llama-3.2-1B@main"), "Llama-3.2-1B");
        assert_eq!(model_id("../models/my model/"), "my-model");
        assert_eq!(model_id(".."), "model");
    }
}
