//! What each operation needs of its operands' shapes and types.

use super::{Check, MAX_HEAD_DIM, MAX_HEADS, Role, check_range, ensure};
use crate::ModelLibrary;
use crate::library::Parameter;
use crate::plan::{
    AddNorm, Attention, CausalConv, Embed, Epilogue, GatedDelta, KvLayer, Linear, Norm, NormPlace, NormWeights,
    ParameterId, QkvOrder, RopeAppend, RopeQuery, RowSelect, Rows, Select, StateLayer, Weight,
};
use knapsack_tensor::{DType, GroupFormat, Layout, NormKind};

impl ModelLibrary {
    fn parameter(&self, id: ParameterId) -> Check<&Parameter> {
        let count = self.parameters.len();
        self.parameters.get(id.0 as usize).ok_or_else(|| format!("parameter {} of {count}", id.0))
    }

    /// A parameter of exactly this shape that holds floating-point numbers.
    fn check_floats(&self, what: &str, id: ParameterId, shape: &[u64]) -> Check {
        let parameter = self.parameter(id)?;
        ensure!(parameter.shape == shape, "{what} has shape {:?}, {shape:?} expected", parameter.shape);
        ensure!(parameter.dtype != DType::U32, "{what} is of {}", parameter.dtype);
        Ok(())
    }

    fn check_weight(&self, weight: &Weight, n: u32, k: u32) -> Check {
        let (n, k) = (u64::from(n), u64::from(k));
        match *weight {
            Weight::Dense(id) => self.check_floats("the weight", id, &[n, k]),
            Weight::Grouped { codes, scales, format } => {
                check_format(&format)?;
                let parameter = self.parameter(codes)?;
                let shape = format.code_shape(n, k);
                ensure!(parameter.shape == shape, "codes have shape {:?}, {shape:?} expected", parameter.shape);
                ensure!(parameter.dtype == DType::U32, "codes are of {}", parameter.dtype);
                self.check_floats("the scale", scales, &format.scale_shape(n, k))?;
                let dtype = self.parameter(scales)?.dtype;
                ensure!(dtype == format.scale, "scales are of {dtype}, the format says {}", format.scale);
                Ok(())
            }
        }
    }

    fn check_norm_weights(&self, norm: &NormWeights, shapes: &[u64]) -> Check {
        ensure!(norm.epsilon.is_finite() && norm.epsilon >= 0.0, "epsilon is {}", norm.epsilon);
        ensure!(norm.bias.is_none() || norm.kind == NormKind::Layer, "an RMS norm with a bias");
        for (what, id) in
            norm.weight.iter().map(|id| ("norm weight", id)).chain(norm.bias.iter().map(|id| ("norm bias", id)))
        {
            let parameter = self.parameter(*id)?;
            let fits = matches!(parameter.shape[..], [length] if shapes.contains(&length));
            ensure!(fits, "{what} has shape {:?}, {shapes:?} expected", parameter.shape);
            ensure!(parameter.dtype != DType::U32, "{what} is of {}", parameter.dtype);
        }
        Ok(())
    }

    pub(super) fn check_embed(&self, role: Role, op: &Embed) -> Check {
        ensure!(role != Role::Head, "the head has no tokens");
        self.check_table(&op.table, op.vocab, op.scale, op.output.columns)
    }

    pub(super) fn check_table(&self, table: &Weight, vocab: u32, scale: f32, columns: u32) -> Check {
        let known = self.model.vocab_size;
        ensure!(vocab >= known, "a table of {vocab} rows for a vocabulary of {known}");
        ensure!(scale.is_finite(), "scale is {scale}");
        if let Weight::Grouped { format, .. } = table {
            ensure!(format.layout == Layout::Nk, "a table in KN layout");
        }
        self.check_weight(table, vocab, columns)
    }

    /// Whether rows outlive prefill and decode.
    fn is_carried(&self, rows: Rows) -> bool {
        rows == self.io.hidden || self.io.carried.contains(&rows)
    }

    pub(super) fn check_select(&self, role: Role, op: &Select) -> Check {
        ensure!(role == Role::Head, "selects a row outside the head");
        ensure!(self.is_carried(op.input), "selects a row of what is not carried to the head");
        ensure!(op.output.columns == op.input.columns, "{} columns of {}", op.output.columns, op.input.columns);
        Ok(())
    }

    pub(super) fn check_rope_query(&self, op: &RopeQuery) -> Check {
        check_range("heads", op.heads, MAX_HEADS)?;
        check_range("head_dim", op.head_dim, MAX_HEAD_DIM)?;
        let columns = op.heads * op.head_dim;
        let found = (op.input.columns, op.output.columns);
        ensure!(found == (columns, columns), "{found:?} columns of input and output, {columns} expected");
        self.check_rotary(op.rotary, op.head_dim, op.rope_table)?;
        op.norm.iter().try_for_each(|norm| self.check_norm_weights(norm, &[u64::from(op.head_dim)]))
    }

    /// Rotated elements of a head and their table.
    fn check_rotary(&self, rotary: u32, head_dim: u32, table: u32) -> Check {
        ensure!(rotary.is_multiple_of(2) && rotary <= head_dim, "{rotary} rotated elements of {head_dim}");
        if rotary > 0 {
            let count = self.rope_tables.len();
            let found = self.rope_tables.get(table as usize);
            let pairs = found.ok_or_else(|| format!("rope table {table} of {count}"))?.frequencies.len();
            ensure!(pairs == rotary as usize / 2, "a rope table of {pairs} pairs for {rotary} elements");
        }
        Ok(())
    }

    pub(super) fn check_norm(&self, role: Role, op: &Norm) -> Check {
        if op.rows == RowSelect::One {
            ensure!(role == Role::Head, "selects a row outside the head");
            ensure!(op.input == self.io.hidden, "selects a row of something other than the residual stream");
        }
        let columns = op.input.columns;
        ensure!(op.output.columns == columns, "{} columns out of {columns}", op.output.columns);
        self.check_norm_weights(&op.norm, &[u64::from(columns)])
    }

    pub(super) fn check_add_norm(&self, op: &AddNorm) -> Check {
        let columns = op.residual.columns;
        for other in [op.delta, op.sum].iter().chain(op.post.iter().map(|(_, output)| output)) {
            ensure!(other.columns == columns, "{} columns beside {columns}", other.columns);
        }
        let groups = op.groups;
        ensure!(groups > 0 && columns.is_multiple_of(groups), "{groups} groups of {columns} columns");
        // A group of its own for each norm: `post` and the scale are of whole rows.
        let plain = groups == 1 || (op.pre.is_some() && op.post.is_none() && op.scale.is_none());
        ensure!(plain, "{groups} groups, and something of whole rows");
        if let Some(norm) = &op.pre {
            self.check_norm_weights(norm, &[u64::from(columns / groups)])?;
        }
        if let Some((norm, _)) = &op.post {
            self.check_norm_weights(norm, &[u64::from(columns)])?;
        }
        op.scale.map_or(Ok(()), |scale| self.check_floats("the scale", scale, &[1]))
    }

    pub(super) fn check_linear(&self, op: &Linear) -> Check {
        let k = op.input.columns;
        let columns = op.output.columns;
        let rows_per_column = if matches!(op.epilogue, Epilogue::Gated(_)) { 2 } else { 1 };
        ensure!(
            columns.checked_mul(rows_per_column) == Some(op.out_features),
            "{columns} columns from {} output features",
            op.out_features
        );
        match op.epilogue {
            Epilogue::Add(residual) => {
                ensure!(residual.columns == columns, "a residual of {} columns", residual.columns);
            }
            Epilogue::ActivationTimes { other, start, .. } => {
                let end = u64::from(start) + u64::from(columns);
                ensure!(end <= u64::from(other.columns), "columns {start} to {end} of {}", other.columns);
            }
            Epilogue::SoftCap(cap) => ensure!(cap.is_finite() && cap > 0.0, "a soft cap of {cap}"),
            Epilogue::Scale(factor) => ensure!(factor.is_finite(), "a factor of {factor}"),
            Epilogue::None | Epilogue::Activation(_) | Epilogue::Gated(_) => {}
        }
        if let Some(bias) = op.bias {
            self.check_floats("the bias", bias, &[u64::from(op.out_features)])?;
        }
        self.check_weight(&op.weight, op.out_features, k)
    }

    /// The cache layer of an operation with these heads.
    fn check_heads(&self, layer: u32, heads: u32, kv_heads: u32, head_dim: u32) -> Check<&KvLayer> {
        check_range("heads", heads, MAX_HEADS)?;
        check_range("kv_heads", kv_heads, MAX_HEADS)?;
        check_range("head_dim", head_dim, MAX_HEAD_DIM)?;
        ensure!(heads.is_multiple_of(kv_heads), "{heads} heads over {kv_heads} kv heads");
        let count = self.kv_cache.len();
        let cache = self.kv_cache.get(layer as usize).ok_or_else(|| format!("cache layer {layer} of {count}"))?;
        ensure!(
            cache.kv_heads == kv_heads && cache.head_dim == head_dim,
            "{kv_heads} kv heads of {head_dim}, the cache layer has {} of {}",
            cache.kv_heads,
            cache.head_dim
        );
        Ok(cache)
    }

    pub(super) fn check_rope_append(&self, role: Role, op: &RopeAppend) -> Check {
        ensure!(role != Role::Head, "the head writes no cache");
        self.check_heads(op.layer, op.heads, op.kv_heads, op.head_dim)?;
        let (q, kv) = (op.heads * op.head_dim, op.kv_heads * op.head_dim);
        let qkv = match (op.apart, op.order) {
            (Some(_), _) => q,
            (None, QkvOrder::Gated) => 2 * q + 2 * kv,
            (None, _) => q + 2 * kv,
        };
        if let Some(apart) = op.apart {
            ensure!(op.order == QkvOrder::Sections, "keys and values apart, but heads in turn");
            let found = (apart.keys.columns, apart.values.columns);
            ensure!(found == (kv, kv), "{found:?} columns of keys and values, {kv} expected");
        }
        ensure!(op.qkv.columns == qkv, "{} columns of qkv, {qkv} expected", op.qkv.columns);
        ensure!(op.query.columns == q, "{} columns of query, {q} expected", op.query.columns);
        if op.order == QkvOrder::PerHead {
            ensure!(op.heads == op.kv_heads, "{} heads per head of {} kv heads", op.heads, op.kv_heads);
        }
        for index in [op.rope_table].into_iter().chain(op.query_table) {
            self.check_rotary(op.rotary, op.head_dim, index)?;
        }
        if let Some(norm) = &op.value_norm {
            let bare = norm.kind == NormKind::Rms && norm.weight.is_none() && norm.bias.is_none();
            ensure!(bare, "values are normalized by their root mean square alone");
            self.check_norm_weights(norm, &[])?;
        }
        ensure!(
            op.query_table.is_none() || op.rotary == op.head_dim,
            "a table for queries of which {} of {} elements are rotated",
            op.rotary,
            op.head_dim
        );
        for (norm, heads) in [(&op.query_norm, op.heads), (&op.key_norm, op.kv_heads)] {
            let Some(norm) = norm else { continue };
            let dim = u64::from(op.head_dim);
            let row = dim * u64::from(heads);
            if op.norm_place == NormPlace::Row {
                let usual = norm.kind == NormKind::Rms && op.order == QkvOrder::Sections;
                ensure!(usual, "a norm over all heads that is no root mean square of neighbouring ones");
                self.check_norm_weights(norm, &[row])?;
            } else {
                self.check_norm_weights(norm, &[dim, row])?;
            }
        }
        Ok(())
    }

    pub(super) fn check_attention(&self, op: &Attention) -> Check {
        self.check_heads(op.layer, op.heads, op.kv_heads, op.head_dim)?;
        let columns = op.heads * op.head_dim;
        ensure!(op.query.columns == columns, "{} columns of query, {columns} expected", op.query.columns);
        ensure!(op.output.columns == columns, "{} columns of output, {columns} expected", op.output.columns);
        ensure!(op.scale.is_finite(), "scale is {}", op.scale);
        ensure!(op.soft_cap.is_none_or(|cap| cap.is_finite() && cap > 0.0), "a soft cap of {:?}", op.soft_cap);
        if let Some(gate) = op.gate {
            ensure!(gate.width == 1 || gate.width == op.head_dim, "gates of {} columns", gate.width);
            let end = u64::from(gate.start) + u64::from(op.heads - 1) * u64::from(gate.stride) + u64::from(gate.width);
            ensure!(end <= u64::from(gate.rows.columns), "gates up to column {end} of {}", gate.rows.columns);
        }
        Ok(())
    }

    fn state(&self, index: u32) -> Check<StateLayer> {
        let count = self.states.len();
        self.states.get(index as usize).copied().ok_or_else(|| format!("state {index} of {count}"))
    }

    pub(super) fn check_causal_conv(&self, role: Role, op: &CausalConv) -> Check {
        ensure!(role != Role::Head, "the head has no state");
        let (channels, columns) = (op.output.columns, op.input.columns);
        let state = self.state(op.state)?;
        let needed = StateLayer::Conv { channels, taps: op.taps };
        ensure!(state == needed, "{state:?}, {needed:?} is needed");
        for start in [Some(op.start), op.gate_in, op.gate_out].into_iter().flatten() {
            let end = u64::from(start) + u64::from(channels);
            ensure!(end <= u64::from(columns), "columns {start} to {end} of {columns}");
        }
        self.check_floats("the weight", op.weight, &[u64::from(channels), 1, u64::from(op.taps)])?;
        op.bias.map_or(Ok(()), |bias| self.check_floats("the bias", bias, &[u64::from(channels)]))
    }

    pub(super) fn check_gated_delta(&self, role: Role, op: &GatedDelta) -> Check {
        ensure!(role != Role::Head, "the head has no state");
        let state = self.state(op.state)?;
        // What the state is was checked, so these are bounded.
        let needed = StateLayer::Delta { heads: op.heads, key_dim: op.key_dim, value_dim: op.value_dim };
        ensure!(state == needed, "{state:?}, {needed:?} is needed");
        check_range("key_heads", op.key_heads, MAX_HEADS)?;
        ensure!(op.heads.is_multiple_of(op.key_heads), "{} heads over {} key heads", op.heads, op.key_heads);
        let values = op.heads * op.value_dim;
        let expected = [2 * op.key_heads * op.key_dim + values, op.heads, op.heads, values, values];
        let found = [op.qkv, op.decay, op.write, op.gate, op.output].map(|rows| rows.columns);
        ensure!(
            found == expected,
            "{found:?} columns of q, k and v, decay, write, gate and output, {expected:?} expected"
        );
        for (what, id) in [("the decay's logarithm", op.decay_log), ("the decay's bias", op.decay_bias)] {
            self.check_floats(what, id, &[u64::from(op.heads)])?;
        }
        ensure!(op.norm.kind == NormKind::Rms, "a norm other than the root mean square");
        self.check_norm_weights(&op.norm, &[u64::from(op.value_dim)])
    }
}

/// One of the formats that there are kernels and routines for.
fn check_format(format: &GroupFormat) -> Check {
    ensure!(
        format.is_executable(),
        "no such format: {} bits in groups of {}, scales of {}",
        format.bits,
        format.group,
        format.scale
    );
    Ok(())
}
