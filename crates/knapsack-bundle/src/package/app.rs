//! The app config of a package.

use super::Entry;
use super::output::Output;
use crate::error::BundleError;
use knapsack_artifact::AppConfig;
use knapsack_artifact::app_config::{AppFile, AppModel, PlannedMemory, WeightsLocation};

/// One model with its files.
pub(super) fn model(entry: &Entry, weights: WeightsLocation, files: Vec<AppFile>) -> AppModel {
    let library = entry.library.library();
    AppModel {
        weights,
        model_id: entry.model_id.clone(),
        model_lib: library.name.clone(),
        estimated_vram_bytes: entry.estimated_vram_bytes,
        revision: entry.revision.clone(),
        planned_memory: Some(PlannedMemory::new(library.memory, entry.tokenizer.bytes)),
        context_window_size: library.model.context_window_size,
        sliding_window_size: library.model.sliding_window_size,
        prefill_chunk_size: Some(library.model.prefill_chunk_size),
        app: entry.app.clone(),
        files,
    }
}

/// Files with their paths in the model's folder.
pub(super) fn files(outputs: &[Output]) -> Vec<AppFile> {
    let file = |o: &Output| AppFile { path: o.path.clone(), size: o.size, sha256: o.sha256.clone() };
    outputs.iter().map(file).collect()
}

/// The file's text, checked by its own reader.
pub(super) fn encode(config: &AppConfig) -> Result<Vec<u8>, BundleError> {
    let text = config.encode();
    AppConfig::decode(&text)?;
    Ok(text)
}
