//! Converting a checkpoint, and the cache of what was converted.

use crate::{Error, Event, Observer};
use knapsack_artifact::WeightIndex;
use knapsack_bundle::Digests;
use knapsack_bundle::cache::{Bucket, Cache, CacheEntry, Inputs};
use knapsack_tensor::Quantization;
use knapsack_weights::{Conversion, ConvertError, ConvertProgress, ConvertRequest, TemplateChoice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Converts a checkpoint and tells `observer` how far it is; `name` is the model's in what is told.
///
/// # Errors
/// Those of [`knapsack_weights::convert`]; [`Error::Interrupted`] when the observer wants to stop. Nothing is left then.
pub fn convert(request: &ConvertRequest<'_>, name: &str, observer: &dyn Observer) -> Result<Conversion, Error> {
    observer.event(Event::Converting { name, quantization: request.quantization.name });
    let cancel = AtomicBool::new(false);
    let result = knapsack_weights::convert(request, &cancel, &|ConvertProgress { done, total }| {
        observer.event(Event::ConvertingProgress { done, total });
        if observer.cancelled() {
            cancel.store(true, Ordering::Relaxed);
        }
    });
    observer.event(Event::ConvertingEnd);
    let report = result.map_err(|error| match error {
        ConvertError::Cancelled => Error::Interrupted,
        error => error.into(),
    })?;
    for text in &report.notices {
        observer.event(Event::Notice { text });
    }
    for text in &report.warnings {
        observer.event(Event::Warning { text });
    }
    Ok(report)
}

/// The weight folder of the checkpoint in `folder`, whose files are `files`: from the cache, or converted into it. While the
/// entry lives, no other process removes it.
///
/// # Errors
/// A checkpoint that cannot be read, and as [`convert`].
pub fn converted(
    cache: &Cache,
    model_id: &str,
    folder: &Path,
    files: &[String],
    quantization: Quantization,
    chat_template: &TemplateChoice,
    observer: &dyn Observer,
) -> Result<CacheEntry, Error> {
    let chosen = match chat_template {
        TemplateChoice::Model => b"model".to_vec(),
        TemplateChoice::Preset(name) => name.clone().into_bytes(),
        TemplateChoice::File(path) => std::fs::read(path).map_err(Error::io("read", path))?,
    };
    let inputs = Inputs::new(format!("{model_id} in {}", quantization.name))
        .with_compiler(cache.digests())
        .with("quantization", quantization.name)
        .with_bytes("chat template", &chosen)
        .with_files(folder, files, cache.digests())
        .map_err(Error::io("read the checkpoint in", folder))?;
    let (entry, reason) = cache.get_or_make(Bucket::Converted, &inputs, |output| -> Result<(), Error> {
        let request = ConvertRequest { checkpoint: folder, output, quantization, chat_template, jobs: None };
        convert(&request, model_id, observer).map(drop)
    })?;
    if reason.ran() {
        remember_sums(cache, entry.content());
    }
    observer.event(Event::Converted { model_id, reason: &reason });
    cache.digests().save();
    Ok(entry)
}

/// The sums that a conversion just made of its shards, so that a package does not make them again.
fn remember_sums(cache: &Cache, folder: &Path) {
    let Ok(index) = WeightIndex::open(folder) else { return };
    for shard in index.shards {
        cache.digests().remember(&folder.join(&shard.data_path), Digests { md5: shard.md5sum, ..Digests::default() });
    }
}
