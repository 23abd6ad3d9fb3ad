//! Converting a checkpoint, and the cache of what was converted.

use crate::{Error, Event, Observer};
use knapsack_artifact::WeightIndex;
use knapsack_bundle::Digests;
use knapsack_bundle::cache::{Bucket, Cache, CacheEntry, Inputs};
use knapsack_source::ModelFile;
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
/// entry lives, no other process removes it. Files that came from a hub are known by the hash that they were verified by; others are
/// read for one.
///
/// # Errors
/// A checkpoint that cannot be read, and as [`convert`].
pub fn converted(
    cache: &Cache,
    model_id: &str,
    folder: &Path,
    files: &[ModelFile],
    quantization: Quantization,
    chat_template: &TemplateChoice,
    observer: &dyn Observer,
) -> Result<CacheEntry, Error> {
    let chosen = match chat_template {
        TemplateChoice::Model => b"model".to_vec(),
        TemplateChoice::Preset(name) => name.clone().into_bytes(),
        TemplateChoice::File(path) => std::fs::read(path).map_err(Error::io("read", path))?,
    };
    let mut inputs = Inputs::new(format!("{model_id} in {}", quantization.name))
        .with_compiler(cache.digests())
        .with("quantization", quantization.name)
        .with_bytes("chat template", &chosen);
    let mut unknown = Vec::new();
    for file in files {
        match &file.sha256 {
            Some(sha256) => inputs = inputs.with_verified_file(&file.path, sha256),
            None => unknown.push(file.path.clone()),
        }
    }
    let inputs =
        inputs.with_files(folder, &unknown, cache.digests()).map_err(Error::io("read the checkpoint in", folder))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use knapsack_bundle::digest::Wanted;
    use knapsack_source::open_local;
    use std::collections::HashSet;

    #[test]
    fn files_that_were_verified_are_not_read_for_a_hash() {
        let (root, folder) = (tempfile::tempdir().unwrap(), knapsack_testkit::fixture("llama"));
        let quantization: Quantization = "q4f16_1".parse().unwrap();
        let mut keys = HashSet::new();
        // Of a local folder; from a hub; and another content there.
        for sha256 in [None, Some("00"), Some("01")] {
            let cache = Cache::at(root.path());
            let mut files = open_local(&folder).unwrap().files;
            files.iter_mut().for_each(|file| file.sha256 = sha256.map(str::to_owned));
            for _ in 0..2 {
                let entry =
                    converted(&cache, "m", &folder, &files, quantization, &TemplateChoice::Model, &Silent).unwrap();
                assert!(entry.content().join("tensor-cache.json").is_file());
                keys.insert(entry.content().to_owned());
            }
            let weights = files.iter().find(|file| file.path.ends_with(".safetensors")).unwrap();
            assert_eq!(cache.digests().knows(&folder.join(&weights.path), Wanted::CONTENT), sha256.is_none());
            std::fs::remove_dir_all(root.path().join("digests-v1")).unwrap();
        }
        assert_eq!(keys.len(), 3);
    }
}
