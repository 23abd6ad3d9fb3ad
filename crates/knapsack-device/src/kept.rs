//! Setting aside what a model remembers of the first tokens of a conversation, to come back to it: its recurrent states, and the
//! windows of layers whose ring goes round.

use crate::{CacheHalf, DeviceError, LoadedModel, StateCopy};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::plan::KvLayer;

/// Bytes that are set aside of the keys of a layer, and as many of its values: `[kv_heads][kept positions][head_dim]`; none in a model
/// without states, which comes back to whatever its rings still hold.
pub fn kept_bytes(library: &ModelLibrary, layer: &KvLayer) -> u64 {
    if library.states.is_empty() {
        return 0;
    }
    let positions = layer.kept_positions(library.model.context_window_size);
    u64::from(layer.kv_heads) * u64::from(positions) * u64::from(layer.head_dim) * layer.dtype.size()
}

/// [`LoadedModel::copy_states`] by way of the host.
pub(crate) fn copy(model: &mut (impl LoadedModel + ?Sized), position: u32, to: StateCopy) -> Result<(), DeviceError> {
    let library = model.library().clone();
    let from = if to == StateCopy::Kept { StateCopy::Current } else { StateCopy::Kept };
    let mut bytes = Vec::new();
    for (index, state) in library.states.iter().enumerate() {
        bytes.resize(state.bytes() as usize, 0);
        model.read_state(index, from, &mut bytes)?;
        model.write_state(index, to, &bytes)?;
    }
    for (index, layer) in model.cache_layout().into_iter().enumerate() {
        let kept = kept_bytes(&library, &layer);
        if kept == 0 {
            continue;
        }
        let (mut ring, mut aside) = (vec![0; layer.bytes() as usize / 2], vec![0; kept as usize]);
        for half in CacheHalf::BOTH {
            model.read_cache(index, half, &mut ring)?;
            if to == StateCopy::Kept {
                rows(&layer, position, &mut ring, &mut aside, |ring, aside| aside.copy_from_slice(ring));
                model.write_kept(index, half, &aside)?;
            } else {
                model.read_kept(index, half, &mut aside)?;
                rows(&layer, position, &mut ring, &mut aside, |ring, aside| ring.copy_from_slice(aside));
                model.write_cache(index, half, &ring)?;
            }
        }
    }
    Ok(())
}

/// Calls `each` with the rows of the positions that a query at `position` sees besides itself, in the ring and where they are set aside.
fn rows(layer: &KvLayer, position: u32, ring: &mut [u8], aside: &mut [u8], mut each: impl FnMut(&mut [u8], &mut [u8])) {
    let row = layer.head_dim as usize * layer.dtype.size() as usize;
    let (_, start) = layer.visible(position);
    let first = start.max(layer.sinks);
    let heads = layer.kv_heads as usize;
    let kept = aside.len() / row / heads;
    for head in 0..heads {
        for seen in first..position {
            let at = (head * layer.positions as usize + layer.slot(seen) as usize) * row;
            let there = (head * kept + (seen - first) as usize) * row;
            each(&mut ring[at..at + row], &mut aside[there..there + row]);
        }
    }
}
