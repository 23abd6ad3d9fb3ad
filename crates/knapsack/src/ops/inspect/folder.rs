//! Folders: packages, weights, and configurations without weights.

use super::library::{self, FoundLibrary};
use super::{Show, library_files, read_files};
use crate::exit::OrWrongInput;
use crate::files::read_limited;
use crate::report::Reporter;
use crate::table::{Align, Table, bytes};
use anyhow::{Context, Result};
use knapsack_artifact::app_config::{AppModel, WeightsLocation};
use knapsack_artifact::weight_index::WeightIndex;
use knapsack_artifact::{AppConfig, Delivery, chat_config};
use knapsack_models::ModelConfig;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Largest configuration that is read.
const MAX_CONFIG_BYTES: u64 = 64 << 20;

/// A package: its models, and the libraries that they name.
pub(super) fn package(path: &Path, config: &Path, show: Show, reporter: &Reporter) -> Result<()> {
    let app = AppConfig::read(config).with_context(|| config.display().to_string()).or_wrong_input()?;
    let folder = path.join("lib");
    let files = if folder.is_dir() { library_files(&folder).or_wrong_input()? } else { Vec::new() };
    let libraries = read_files(path, &files).or_wrong_input()?;
    let of = |model: &AppModel| libraries.iter().find(|found| found.library.name == model.model_lib);
    if show.json {
        let models: Vec<_> = app.model_list.iter().map(|model| model_value(path, model, of(model))).collect();
        let list: Vec<_> = libraries.iter().map(|found| library::value(found, show)).collect();
        return reporter.line(json!({ "kind": "package", "models": models, "libraries": list }));
    }
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("weights", Align::Left),
        ("size", Align::Right),
        ("planned", Align::Right),
        ("budget", Align::Right),
        ("windows", Align::Left),
        ("library", Align::Left),
    ]);
    for model in &app.model_list {
        let size = model.files.iter().map(|file| file.size).sum();
        table.row([
            model.model_id.clone(),
            delivery(model).name().into(),
            bytes(size),
            model.planned_memory.map_or_else(|| "unknown".into(), |memory| bytes(memory.total)),
            bytes(model.estimated_vram_bytes),
            of(model).map_or_else(|| "library missing".into(), |found| library::windows(&found.library)),
            model.model_lib.clone(),
        ]);
    }
    let (models, count) = (app.model_list.len(), libraries.len());
    let models = format!("{models} model{}", if models == 1 { "" } else { "s" });
    let count = format!("{count} {}", if count == 1 { "library" } else { "libraries" });
    reporter.stdout(|out| write!(out, "Package of {models} and {count}\n{table}\n"))?;
    library::show(&libraries, show, reporter)
}

/// How the weights get onto the device.
pub(super) const fn delivery(model: &AppModel) -> Delivery {
    match &model.weights {
        WeightsLocation::Bundled(_) => Delivery::Bundled,
        WeightsLocation::Download(_) => Delivery::Download,
        WeightsLocation::Packs(packs) => packs.delivery,
    }
}

fn model_value(path: &Path, model: &AppModel, library: Option<&FoundLibrary>) -> Value {
    let mut value = serde_json::to_value(model).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("library_found".into(), library.is_some().into());
        if let WeightsLocation::Bundled(folder) = &model.weights {
            let there = |name: &str| path.join("bundle").join(folder).join(name).is_file();
            fields.insert("files_found".into(), model.files.iter().all(|file| there(&file.path)).into());
        }
    }
    value
}

/// A weight folder: its tensors and what its configuration says.
pub(super) fn weights(path: &Path, show: Show, reporter: &Reporter) -> Result<()> {
    let index = WeightIndex::open(path).with_context(|| path.display().to_string()).or_wrong_input()?;
    let chat = path.join(chat_config::FILE_NAME);
    let chat = if chat.is_file() { read_json(&chat).or_wrong_input()? } else { Map::new() };
    let whole = index.check_files(path);
    let tensors = index.records().count();
    if show.json {
        let missing = whole.as_ref().err().map(|error| format!("{:#}", anyhow::anyhow!("{error}")));
        return reporter.line(json!({
            "kind": "weights",
            "configuration": summary(&chat),
            "bytes": index.total_bytes(),
            "tensors": tensors,
            "shards": index.shards,
            "metadata": index.metadata,
            "problem": missing,
        }));
    }
    let shards = index.shards.len();
    let mut text = format!("Weights: {tensors} tensors in {shards} files, {}\n", bytes(index.total_bytes()));
    for (name, value) in summary(&chat) {
        text.push_str(&format!("  {name:<22} {}\n", plain(&value)));
    }
    if show.verbose {
        let mut table = Table::new(&[
            ("tensor", Align::Left),
            ("dtype", Align::Left),
            ("shape", Align::Left),
            ("bytes", Align::Right),
            ("file", Align::Left),
        ]);
        for (shard, record) in index.records() {
            let file = index.shards.get(shard).map_or_else(String::new, |shard| shard.data_path.clone());
            let (dtype, shape) = (record.stored_dtype().to_string(), format!("{:?}", record.shape));
            table.row([record.name.clone(), dtype, shape, record.nbytes.to_string(), file]);
        }
        text.push_str(&format!("\n{table}"));
    }
    reporter.stdout(|out| write!(out, "{text}"))?;
    whole.with_context(|| format!("{} is not whole", path.display()))
}

/// A folder with a configuration: a checkpoint, or an MLC model without weights.
pub(super) fn configuration(path: &Path, show: Show, reporter: &Reporter) -> Result<()> {
    let mlc = path.join(chat_config::FILE_NAME);
    let checkpoint = !mlc.is_file();
    let file = if checkpoint { path.join("config.json") } else { mlc };
    let fields = read_json(&file).or_wrong_input()?;
    let value = Value::Object(fields);
    let config = if checkpoint { ModelConfig::from_hf(&value) } else { ModelConfig::from_mlc(&value) };
    let config = config.with_context(|| file.display().to_string()).or_wrong_input()?;
    let elements: u64 = config.parameters().iter().map(|parameter| parameter.shape.iter().product::<u64>()).sum();
    let files = tensor_files(path)?;
    let facts = [
        ("family", json!(config.family.name)),
        ("parameters", json!(elements)),
        ("layers", json!(config.layers.len())),
        ("hidden_size", json!(config.hidden)),
        ("heads", json!(config.attention().heads)),
        ("kv_heads", json!(config.attention().kv_heads)),
        ("head_dim", json!(config.attention().head_dim)),
        ("intermediate_size", json!(config.intermediate())),
        ("vocab_size", json!(config.vocab)),
        ("tied_embeddings", json!(config.tied_embeddings)),
        ("trained_positions", json!(config.trained_positions)),
        ("sliding_window", json!(config.sliding_window)),
    ];
    let kind = if checkpoint { "checkpoint" } else { "configuration" };
    if show.json {
        let facts: Map<String, Value> = facts.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        let files: Vec<_> = files.iter().map(|(name, size)| json!({ "path": name, "bytes": size })).collect();
        return reporter.line(json!({ "kind": kind, "configuration": facts, "files": files }));
    }
    let mut text = match checkpoint {
        true => format!("Checkpoint: {} of safetensors\n", bytes(files.iter().map(|(_, size)| size).sum())),
        false => "MLC model without weights\n".to_string(),
    };
    for (name, value) in facts {
        text.push_str(&format!("  {name:<22} {}\n", plain(&value)));
    }
    reporter.stdout(|out| write!(out, "{text}"))
}

fn tensor_files(path: &Path) -> Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") {
            files.push((name, std::fs::metadata(entry.path())?.len()));
        }
    }
    files.sort();
    Ok(files)
}

/// What a chat configuration says about the model and its windows.
fn summary(chat: &Map<String, Value>) -> Map<String, Value> {
    let mut facts = Map::new();
    let keys = [
        "model_type",
        "quantization",
        "vocab_size",
        "context_window_size",
        "sliding_window_size",
        "prefill_chunk_size",
        "attention_sink_size",
        "tokenizer_files",
    ];
    for key in keys {
        if let Some(value) = chat.get(key) {
            facts.insert(key.into(), value.clone());
        }
    }
    if let Some(name) = chat.get("conv_template").and_then(|template| template.get("name")) {
        facts.insert("conv_template".into(), name.clone());
    }
    facts
}

/// A value without the marks of JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn read_json(path: &Path) -> Result<Map<String, Value>> {
    let text = read_limited(path, MAX_CONFIG_BYTES)?;
    knapsack_artifact::json::parse(&text).with_context(|| format!("{} is not valid JSON", path.display()))
}
