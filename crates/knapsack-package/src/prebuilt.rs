//! Libraries that were compiled before: `model_lib_path_for_prepare_libs`.

use crate::text::chain;
use crate::{Event, Packager, Planned};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::container;
use knapsack_artifact::library::Target;
use knapsack_bundle::Library;
use knapsack_config::{Diagnostic, OverrideKey, PrebuiltLibrary, codes};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Packager<'_> {
    /// Takes the library out of a prebuilt file and checks that it is one for this model, device and overrides.
    ///
    /// # Errors
    /// It is not, and why.
    pub(crate) fn prebuilt(
        &self,
        prebuilt: &PrebuiltLibrary,
        planned: &Planned,
        target: Target,
    ) -> Result<Library, Box<Diagnostic>> {
        let found = container::read(&prebuilt.path.value)
            .and_then(|bytes| container::find(&bytes, &prebuilt.prefix))
            .map_err(|error| chain(&error))
            .and_then(|library| mismatch(&library, planned, target).map_or(Ok(library), Err))
            .and_then(|library| Library::new(Arc::new(library)).map_err(|error| chain(&error)));
        match found {
            Ok(library) => {
                self.observer.event(Event::Prebuilt { model_id: planned.id(), path: &prebuilt.path.value });
                Ok(library)
            }
            Err(problem) => {
                let message = format!("the prebuilt library cannot be used for {}: {problem}", planned.id());
                Err(Box::new(Diagnostic::error(codes::PREBUILT_MISMATCH, prebuilt.path.span, message)))
            }
        }
    }
}

/// The first thing in which a library is not what the entry needs.
fn mismatch(library: &ModelLibrary, planned: &Planned, target: Target) -> Option<String> {
    if library.target != target {
        return Some(format!("it was compiled for {:?}, not {target:?}", library.target));
    }
    let has: BTreeMap<_, _> =
        library.parameters.iter().map(|p| (p.name.as_str(), (p.shape.clone(), p.dtype))).collect();
    let stored = planned.model.config.stored_tensors(&planned.model.quantization);
    let needs: BTreeMap<_, _> = stored.iter().map(|t| (t.name.as_str(), (t.shape.clone(), t.dtype))).collect();
    if let Some(name) = needs.iter().find(|(name, tensor)| has.get(*name) != Some(tensor)).map(|(name, _)| name) {
        return Some(format!("it has no parameter {name} as this model does"));
    }
    if let Some(name) = has.keys().find(|name| !needs.contains_key(*name)) {
        return Some(format!("it has a parameter {name} that this model does not have"));
    }
    let model = &library.model;
    let sizes = [
        (OverrideKey::ContextWindowSize, model.context_window_size),
        (OverrideKey::SlidingWindowSize, model.sliding_window_size),
        (OverrideKey::PrefillChunkSize, Some(model.prefill_chunk_size)),
        (OverrideKey::AttentionSinkSize, Some(model.attention_sink_size)),
    ];
    let overrides = &planned.found.entry.overrides;
    let differs = |&(key, found): &(OverrideKey, Option<u32>)| {
        overrides.get(key).is_some_and(|wanted| found.map(u64::from) != Some(wanted))
    };
    let (key, found) = sizes.into_iter().find(differs)?;
    let found = found.map_or("none".to_owned(), |found| found.to_string());
    Some(format!("its {key} is {found}, not {}", overrides.get(key).unwrap_or_default()))
}
