//! The KV cache: how many positions each layer keeps.

use knapsack_artifact::plan;
use knapsack_ir::{Graph, KvLayer, Windows};

/// The cache layers with their positions.
///
/// A layer without a window keeps the whole context. A layer with one keeps its sinks, its window, and what a chunk writes
/// before its first query is answered: `sinks + window + chunk - 1`; where the conversation ends at a context, never more than
/// that. A window that reaches as far as the context shows everything, so it is none.
pub(super) fn layers(graph: &Graph, windows: &Windows) -> Vec<plan::KvLayer> {
    graph.kv_layers.iter().map(|layer| sized(layer, windows)).collect()
}

fn sized(layer: &KvLayer, windows: &Windows) -> plan::KvLayer {
    let endless = windows.sliding.is_some();
    let ring = |window: u32| layer.sinks.saturating_add(window).saturating_add(windows.chunk - 1);
    let (positions, window, sinks) = match layer.window {
        Some(window) if endless => (ring(window), Some(window), layer.sinks),
        Some(window) if window < windows.context => (ring(window).min(windows.context), Some(window), layer.sinks),
        _ => (windows.context, None, 0),
    };
    plan::KvLayer { kv_heads: layer.kv_heads, head_dim: layer.head_dim, positions, window, sinks, dtype: layer.dtype }
}

/// Bytes of a layer; `None` on overflow.
pub(super) fn bytes(layer: &plan::KvLayer) -> Option<u64> {
    let elements = u64::from(layer.kv_heads).checked_mul(u64::from(layer.positions))?;
    elements.checked_mul(u64::from(layer.head_dim))?.checked_mul(2 * layer.dtype.size())
}
