//! Fusing what stands between the q, k, v projection and attention.

use super::editor::Editor;
use knapsack_ir::{AttentionGate, Columns, KvLayer, Norm, NormPlace, Op, QkvOrder, RopeAppend, ValueId};
use knapsack_tensor::NormKind;

/// One of q, k, v on its way from the projection.
#[derive(Clone, Copy, PartialEq)]
struct Strand {
    /// The projection, or what the strand starts from where there is no slice.
    source: ValueId,
    /// The columns of it, `None`: all.
    columns: Option<Columns>,
    norm: Option<(Norm, NormPlace)>,
    /// Table and rotated elements.
    rope: Option<(u32, u32)>,
}

/// Follows a strand up: rotation and normalization, in either order, then slice; each may be missing, and nothing else may read
/// what is between.
fn strand(editor: &Editor<'_>, mut value: ValueId, head_dim: u32) -> Option<Strand> {
    let (mut rope, mut norm, mut columns) = (None, None, None);
    if let Some(&Op::Norm { input, norm: found }) = editor.sole(value)
        && found.width == head_dim
        && matches!(editor.sole(input), Some(Op::Rope { .. }))
    {
        (norm, value) = (Some((found, NormPlace::Rotated)), input);
    }
    if let Some(&Op::Rope { input, table, head_dim: width, rotary }) = editor.sole(value) {
        (width == head_dim).then_some(())?;
        (rope, value) = (Some((table, rotary)), input);
    }
    if norm.is_none()
        && let Some(&Op::Norm { input, norm: found }) = editor.sole(value)
    {
        let place = match found.width {
            width if width == head_dim => NormPlace::Heads,
            width if width == editor.columns(input) => NormPlace::Row,
            _ => return None,
        };
        (norm, value) = (Some((found, place)), input);
    }
    if let Some(&Op::Slice { input, columns: found }) = editor.sole(value) {
        (columns, value) = (Some(found), input);
    }
    Some(Strand { source: value, columns, norm, rope })
}

/// The column order in which the three strands take up a whole projection.
fn order(q: Columns, k: Columns, v: Columns, kv: KvLayer) -> Option<(QkvOrder, u32)> {
    let width = kv.head_dim;
    let (heads, keys) = (q.len()? / width, kv.kv_heads * width);
    let sections = q.contiguous() == Some(0..q.len()?)
        && k.contiguous() == Some(q.len()?..q.len()? + keys)
        && v.contiguous() == Some(q.len()? + keys..q.len()? + 2 * keys);
    let part = |start| Columns { start, width, count: kv.kv_heads, stride: 3 * width };
    let gated = q == Columns { start: 0, width, count: heads, stride: 2 * width }
        && k.contiguous() == Some(2 * q.len()?..2 * q.len()? + keys)
        && v.contiguous() == Some(2 * q.len()? + keys..2 * (q.len()? + keys));
    if sections {
        Some((QkvOrder::Sections, heads))
    } else if gated {
        Some((QkvOrder::Gated, heads))
    } else if q == part(0) && k == part(width) && v == part(2 * width) {
        Some((QkvOrder::PerHead, heads))
    } else {
        None
    }
}

/// `append(rope(norm(k)), v)` and `rope(norm(q))` of one projection that nothing else reads.
pub(super) fn rope_append(editor: &mut Editor<'_>) {
    // The query of each cache value.
    let mut queries = vec![];
    for index in 0..editor.len() {
        if let Some(&Op::Attention { query, cache, .. }) = editor.op(index) {
            queries.push((cache, query));
        }
    }
    // Later layers may share it; their queries have no keys to go with.
    let query_of = |cache| queries.iter().find(|(of, _)| *of == cache).map(|&(_, query)| query);
    let mut definitions = std::collections::HashMap::new();
    for index in 0..editor.len() {
        for (id, _) in editor.node(index).into_iter().flat_map(|node| &node.results) {
            definitions.insert(*id, index);
        }
    }
    for index in 0..editor.len() {
        let Some(&Op::Append { key, value, layer }) = editor.op(index) else { continue };
        let Some(cache) = editor.node(index).map(|node| node.results[0].0) else { continue };
        let Some(query) = query_of(cache) else { continue };
        let Some(op) = fused(editor, query, key, value, layer) else { continue };
        // The query comes first among the results, so the fused node takes the append's place with swapped results.
        editor.replace_with_query(index, Op::RopeAppend(op), definitions[&query]);
    }
}

fn fused(editor: &Editor<'_>, query: ValueId, key: ValueId, value: ValueId, layer: u32) -> Option<RopeAppend> {
    let kv = *editor.graph().kv_layers.get(layer as usize)?;
    let (q, k, v) =
        (strand(editor, query, kv.head_dim)?, strand(editor, key, kv.head_dim)?, strand(editor, value, kv.head_dim)?);
    let value_norm = match v.norm {
        Some((norm, NormPlace::Heads | NormPlace::Row)) if norm.weight.is_none() && norm.width == kv.head_dim => {
            Some(norm)
        }
        Some(_) => return None,
        None => None,
    };
    let plain_value = v.rope.is_none();
    let [query_rope, key_rope] = [q.rope, k.rope].map(|rope| rope.unwrap_or((0, 0)));
    if !plain_value || query_rope.1 != key_rope.1 {
        return None;
    }
    let place = match (q.norm, k.norm) {
        // Over the only k head is over all of them.
        (Some((_, NormPlace::Row)), Some((norm, NormPlace::Heads))) => {
            (kv.kv_heads == 1 && norm.kind == NormKind::Rms).then_some(NormPlace::Row)?
        }
        (Some((_, one)), Some((_, other))) => (one == other).then_some(one)?,
        (one, other) => one.or(other).map(|(_, place)| place).unwrap_or_default(),
    };
    let (order, heads, apart) = match (q.columns, k.columns, v.columns) {
        (Some(q_columns), Some(k_columns), Some(v_columns)) => {
            let (order, heads) = order(q_columns, k_columns, v_columns, kv)?;
            // With gates between the queries something else reads the projection too.
            let (beside, most) = if order == QkvOrder::Gated { (heads, 4) } else { (0, 3) };
            let whole = (heads + beside + 2 * kv.kv_heads) * kv.head_dim == editor.columns(q.source);
            let alone = q.source == k.source && q.source == v.source && editor.uses(q.source) <= most;
            (whole && alone).then_some((order, heads, None))?
        }
        // Something must stand between the projection and the query for this node to take the place of.
        (None, None, None) if q.source != query => {
            (QkvOrder::Sections, editor.columns(q.source) / kv.head_dim, Some([k.source, v.source]))
        }
        _ => return None,
    };
    let (table, rotary) = key_rope;
    let [query_norm, key_norm] = [q.norm, k.norm].map(|norm| norm.map(|(norm, _)| norm));
    let query_table = query_rope.0;
    let qkv = q.source;
    Some(RopeAppend {
        qkv,
        apart,
        order,
        heads,
        rotary,
        table,
        query_table,
        place,
        query_norm,
        key_norm,
        value_norm,
        layer,
    })
}

/// `rope(norm(q))` of queries that no keys go with.
pub(super) fn rope_query(editor: &mut Editor<'_>) {
    super::each(editor, |editor, op| match *op {
        Op::Rope { input, table, head_dim, rotary } => {
            let (input, norm) = match editor.sole(input) {
                Some(&Op::Norm { input, norm }) if norm.width == head_dim => (input, Some(norm)),
                _ => (input, None),
            };
            Some(Op::RopeQuery { input, head_dim, rotary, table, norm })
        }
        _ => None,
    });
}

/// `attention * sigmoid(gate)`, the gates being columns of some rows.
pub(super) fn gate(editor: &mut Editor<'_>) {
    super::each(editor, |editor, op| {
        let &Op::Gate { input, gate } = op else { return None };
        let &Op::Attention { query, cache, scale, soft_cap, gate: None } = editor.sole(input)? else { return None };
        let (rows, columns) = match editor.sole(gate) {
            Some(&Op::Slice { input, columns }) => (input, columns),
            _ => (gate, Columns::range(0, editor.columns(gate))),
        };
        Some(Op::Attention { query, cache, scale, soft_cap, gate: Some(AttentionGate { rows, columns }) })
    });
}
