//! The app config of a package.

use super::output::Output;
use super::{Entry, WeightSupply};
use crate::error::BundleError;
use knapsack_artifact::AppConfig;
use knapsack_artifact::app_config::{AppFile, AppModel, PlannedMemory, WeightsLocation};

/// One model with its files; `bundled` are those of `bundle/<model_id>/`.
pub(super) fn model(entry: &Entry, bundled: &[Output]) -> AppModel {
    let library = entry.library.library();
    let prefix = format!("bundle/{}/", entry.model_id);
    let (weights, files) = match &entry.weights {
        WeightSupply::Bundled { .. } => {
            let file = |output: &Output| AppFile {
                path: output.path.strip_prefix(&prefix).unwrap_or(&output.path).to_string(),
                size: output.size,
                sha256: output.sha256.clone(),
            };
            (WeightsLocation::Bundled(entry.model_id.clone()), bundled.iter().map(file).collect())
        }
        WeightSupply::Download { url, files } => (WeightsLocation::Download(url.clone()), files.clone()),
    };
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

/// The file's text, checked by its own reader.
pub(super) fn encode(config: &AppConfig) -> Result<Vec<u8>, BundleError> {
    let text = config.encode();
    AppConfig::decode(&text)?;
    Ok(text)
}
