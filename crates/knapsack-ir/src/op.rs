//! The operations: the fine ones that families are written in, and the fused ones that a device executes.

use crate::ValueId;
use knapsack_tensor::{Activation, NormKind, NormPlace, ParameterId, QkvOrder, Storage};

/// A weight matrix `(rows, columns)` = (out_features, in_features).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Weight {
    /// Where its elements are.
    pub storage: Storage,
    /// out_features, or the vocabulary of an embedding.
    pub rows: u32,
    /// in_features.
    pub columns: u32,
}

/// A normalization of each group of `width` columns (a whole row, or a head).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Root mean square, or mean and variance.
    pub kind: NormKind,
    /// Added under the root.
    pub epsilon: f32,
    /// Columns that are normalized together.
    pub width: u32,
    /// Multiplier, of `width` elements shared by all groups, or one element for each column.
    pub weight: Option<ParameterId>,
    /// Offset, of the same length; only with [`NormKind::Layer`].
    pub bias: Option<ParameterId>,
}

/// Columns `start + i * stride + j` for `i` in `0..count`, `j` in `0..width`, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Columns {
    /// First column.
    pub start: u32,
    /// Columns of one piece.
    pub width: u32,
    /// Pieces.
    pub count: u32,
    /// From one piece to the next.
    pub stride: u32,
}

impl Columns {
    /// The contiguous columns `start..start + width`.
    pub const fn range(start: u32, width: u32) -> Self {
        Columns { start, width, count: 1, stride: width }
    }

    /// Columns of the result; `None` on overflow.
    pub fn len(&self) -> Option<u32> {
        self.width.checked_mul(self.count)
    }

    /// Whether nothing is taken.
    pub const fn is_empty(&self) -> bool {
        self.width == 0 || self.count == 0
    }

    /// One past the last column; `None` on overflow or when empty.
    pub fn end(&self) -> Option<u32> {
        self.count.checked_sub(1)?.checked_mul(self.stride)?.checked_add(self.start)?.checked_add(self.width)
    }

    /// The range that this is, when its pieces adjoin.
    pub fn contiguous(&self) -> Option<std::ops::Range<u32>> {
        (self.count == 1 || self.stride == self.width).then(|| self.end().map(|end| self.start..end)).flatten()
    }
}

/// What follows a matrix product in the same operation.
pub type Epilogue = knapsack_tensor::Epilogue<ValueId>;

/// `epilogue(input W^T + bias)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Rows of `weight.columns`.
    pub input: ValueId,
    /// `(n, k)`.
    pub weight: Weight,
    /// One element for each row of the matrix.
    pub bias: Option<ParameterId>,
    /// What is done with the product before it is stored.
    pub epilogue: Epilogue,
}

/// Splits q, k, v, normalizes and rotates q and k, appends k and v.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeAppend {
    /// The projection, or that of the queries where keys and values have their own.
    pub qkv: ValueId,
    /// Keys and values where they have projections of their own.
    pub apart: Option<[ValueId; 2]>,
    /// The projection's column order; [`QkvOrder::Sections`] with `apart`.
    pub order: QkvOrder,
    /// Query heads.
    pub heads: u32,
    /// Leading elements of a head that are rotated; 0: none.
    pub rotary: u32,
    /// Index into [`crate::Graph::rope_tables`]; not looked at when `rotary` is 0.
    pub table: u32,
    /// The table of the queries: `table`, or one that differs from it by its growth.
    pub query_table: u32,
    /// What the norms are over.
    pub place: NormPlace,
    /// Of q.
    pub query_norm: Option<Norm>,
    /// Of k.
    pub key_norm: Option<Norm>,
    /// Of v; without weights.
    pub value_norm: Option<Norm>,
    /// Cache layer.
    pub layer: u32,
}

/// The gates of attention: one column for each element of the query heads, or one for each head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionGate {
    /// Where they are.
    pub rows: ValueId,
    /// Which columns.
    pub columns: Columns,
}

/// A convolution of each channel over the last tokens, with what stands around it: `u = input[start..]`, times
/// `input[gate_in..]`; `y[t] = f(bias + sum over j < taps of weight[j] u[t - (taps - 1) + j])`, times `input[gate_out..]`. What
/// `u` was before the call is in the state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CausalConv {
    /// Rows.
    pub input: ValueId,
    /// Column of the first channel.
    pub start: u32,
    /// First column of what multiplies the input.
    pub gate_in: Option<u32>,
    /// First column of what multiplies the result.
    pub gate_out: Option<u32>,
    /// `(channels, 1, taps)`.
    pub weight: ParameterId,
    /// One element for each channel.
    pub bias: Option<ParameterId>,
    /// What follows the sum.
    pub activation: Option<Activation>,
    /// Index into [`crate::Graph::states`], which says channels and taps.
    pub state: u32,
}

/// The gated delta rule; `knapsack_artifact::plan::GatedDelta` has the formulas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedDelta {
    /// All q heads, all k heads, all v heads.
    pub qkv: ValueId,
    /// One column for each v head.
    pub decay: ValueId,
    /// One column for each v head.
    pub write: ValueId,
    /// As many columns as v.
    pub gate: ValueId,
    /// One element for each v head.
    pub decay_log: ParameterId,
    /// One element for each v head.
    pub decay_bias: ParameterId,
    /// Of each head's result.
    pub norm: Norm,
    /// Heads of q and k.
    pub key_heads: u32,
    /// Index into [`crate::Graph::states`], which says the other sizes.
    pub state: u32,
}

/// An operation. Unless said otherwise it defines one value, float32 rows as many as its operands have.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The call's token ids.
    Tokens,
    /// A weight as a float32 matrix: `(code - max_int) * scale`, or the dense tensor widened.
    Dequantize(Weight),
    /// Row `tokens[t]` of the table.
    Embed {
        /// A matrix, `(vocab, hidden)`.
        table: ValueId,
        /// Ids of the vocabulary.
        tokens: ValueId,
        /// Whether the table stays in the mapped file, of which the host takes the rows.
        on_host: bool,
    },
    /// `input W^T`.
    Matmul {
        /// Rows of in_features.
        input: ValueId,
        /// `(n, k)`.
        weight: ValueId,
    },
    /// Adds a parameter to each row.
    Bias {
        /// Rows.
        input: ValueId,
        /// One element for each column.
        bias: ParameterId,
    },
    /// Elementwise sum.
    Add {
        /// First summand.
        a: ValueId,
        /// Second summand.
        b: ValueId,
    },
    /// Elementwise product.
    Mul {
        /// First factor.
        a: ValueId,
        /// Second factor.
        b: ValueId,
    },
    /// `factor * input`.
    Scale {
        /// Rows.
        input: ValueId,
        /// Multiplier.
        factor: f32,
    },
    /// The only element of a parameter times the input.
    ScaleBy {
        /// Rows.
        input: ValueId,
        /// One element.
        factor: ParameterId,
    },
    /// `cap * tanh(input / cap)`.
    SoftCap {
        /// Rows.
        input: ValueId,
        /// Bound of the result.
        cap: f32,
    },
    /// An elementwise function.
    Activation {
        /// Rows.
        input: ValueId,
        /// Applied to each element.
        function: Activation,
    },
    /// Some of the columns.
    Slice {
        /// Rows.
        input: ValueId,
        /// The range that is kept of every row.
        columns: Columns,
    },
    /// Normalization.
    Norm {
        /// Rows.
        input: ValueId,
        /// Kind, epsilon and weights.
        norm: Norm,
    },
    /// Rotates the first `rotary` elements of each head in halves: `(a, b) -> (a cos - b sin, b cos + a sin)` with `a = x[i]`,
    /// `b = x[i + rotary/2]` and the angle `position * frequency[i]`; cosine and sine times the table's magnitude.
    Rope {
        /// Rows of heads.
        input: ValueId,
        /// Index into [`crate::Graph::rope_tables`].
        table: u32,
        /// Elements of a head.
        head_dim: u32,
        /// Leading elements that are rotated; even, above 0.
        rotary: u32,
    },
    /// Appends keys and values to a layer's cache; defines the cache.
    Append {
        /// Rows of all key heads.
        key: ValueId,
        /// Rows of all value heads.
        value: ValueId,
        /// Cache layer.
        layer: u32,
    },
    /// For each token and head: `softmax(cap(scale * q . k_j)) v_j` over the positions that the layer's window shows. The
    /// query's heads are shared out evenly among the kv heads, in order.
    Attention {
        /// Rows of all query heads.
        query: ValueId,
        /// Number of the layer whose keys and values are attended to.
        cache: ValueId,
        /// Multiplier of the scores.
        scale: f32,
        /// `cap * tanh(s / cap)` of the scores.
        soft_cap: Option<f32>,
        /// Fused: what the result is multiplied by, through the logistic function.
        gate: Option<AttentionGate>,
    },
    /// `input * sigmoid(gate)`; each column of the gate is for as many neighbouring columns of the input as there are.
    Gate {
        /// Rows.
        input: ValueId,
        /// Rows of as many columns, or a divisor of that.
        gate: ValueId,
    },
    /// A convolution over the last tokens; the gates and the activation are what passes fuse.
    CausalConv(CausalConv),
    /// The gated delta rule.
    GatedDelta(GatedDelta),
    /// The row whose logits are wanted. An executor that wants all of them reads it as the identity. What is selected first is the
    /// residual stream; what else is needed of the row is selected too.
    SelectRow {
        /// Rows, one for each token.
        input: ValueId,
    },

    /// Fused: `scale * table[tokens[t]]`.
    EmbedRows {
        /// `(vocab, hidden)`.
        table: Weight,
        /// Ids of the vocabulary.
        tokens: ValueId,
        /// Multiplier.
        scale: f32,
        /// Whether the table stays in the mapped file, of which the host takes the rows.
        on_host: bool,
    },
    /// Fused: normalization of the selected row.
    NormSelected {
        /// Rows, one for each token.
        input: ValueId,
        /// How; over whole rows.
        norm: Norm,
    },
    /// Fused: matrix product and what follows it.
    Linear(Linear),
    /// Fused: `sum = scale * (residual + pre(delta))`, and `post(sum)`. Defines the sum and, where there is a `post`, its result.
    AddNorm {
        /// The residual stream.
        residual: ValueId,
        /// What is added.
        delta: ValueId,
        /// Normalization of `delta`, or without a `post` of groups of its columns.
        pre: Option<Norm>,
        /// One element.
        scale: Option<ParameterId>,
        /// Normalization of the sum.
        post: Option<Norm>,
    },
    /// Fused: everything between the projection and attention. Defines the query rows and the cache.
    RopeAppend(RopeAppend),
    /// Fused: the same for queries of another layer's keys and values.
    RopeQuery {
        /// Rows of query heads.
        input: ValueId,
        /// Elements of a head.
        head_dim: u32,
        /// Leading elements that are rotated; 0: none.
        rotary: u32,
        /// Index into [`crate::Graph::rope_tables`]; not looked at when `rotary` is 0.
        table: u32,
        /// Of each head, before the rotation.
        norm: Option<Norm>,
    },
}

impl Norm {
    fn parameters(&self, list: &mut Vec<ParameterId>) {
        list.extend(self.weight.iter().chain(&self.bias));
    }
}

impl Op {
    /// The values that it reads.
    pub fn operands(&self) -> Vec<ValueId> {
        match *self {
            Op::Tokens | Op::Dequantize(_) => vec![],
            Op::Embed { table, tokens, .. } => vec![table, tokens],
            Op::Matmul { input, weight } => vec![input, weight],
            Op::Add { a, b } | Op::Mul { a, b } => vec![a, b],
            Op::Bias { input, .. }
            | Op::Scale { input, .. }
            | Op::ScaleBy { input, .. }
            | Op::RopeQuery { input, .. }
            | Op::SoftCap { input, .. }
            | Op::Activation { input, .. }
            | Op::Slice { input, .. }
            | Op::Norm { input, .. }
            | Op::Rope { input, .. }
            | Op::SelectRow { input }
            | Op::NormSelected { input, .. } => vec![input],
            Op::Append { key, value, .. } => vec![key, value],
            Op::Attention { query, cache, gate, .. } => {
                [query, cache].into_iter().chain(gate.map(|gate| gate.rows)).collect()
            }
            Op::Gate { input, gate } => vec![input, gate],
            Op::CausalConv(CausalConv { input, .. }) => vec![input],
            Op::GatedDelta(GatedDelta { qkv, decay, write, gate, .. }) => vec![qkv, decay, write, gate],
            Op::EmbedRows { tokens, .. } => vec![tokens],
            Op::Linear(Linear { input, epilogue, .. }) => [input].into_iter().chain(epilogue.rows()).collect(),
            Op::AddNorm { residual, delta, .. } => vec![residual, delta],
            Op::RopeAppend(RopeAppend { qkv, apart, .. }) => {
                [qkv].into_iter().chain(apart.into_iter().flatten()).collect()
            }
        }
    }

    /// The parameters that it reads.
    pub fn parameters(&self) -> Vec<ParameterId> {
        let mut list = Vec::new();
        match self {
            Op::Dequantize(weight) | Op::EmbedRows { table: weight, .. } => list.extend(weight.storage.parameters()),
            Op::Bias { bias, .. } => list.push(*bias),
            Op::ScaleBy { factor, .. } => list.push(*factor),
            Op::RopeQuery { norm, .. } => norm.iter().for_each(|norm| norm.parameters(&mut list)),
            Op::Norm { norm, .. } | Op::NormSelected { norm, .. } => norm.parameters(&mut list),
            Op::Linear(linear) => {
                list.extend(linear.weight.storage.parameters().chain(linear.bias));
            }
            Op::AddNorm { pre, post, scale, .. } => {
                pre.iter().chain(post).for_each(|norm| norm.parameters(&mut list));
                list.extend(scale);
            }
            Op::CausalConv(op) => list.extend([op.weight].into_iter().chain(op.bias)),
            Op::GatedDelta(op) => {
                list.extend([op.decay_log, op.decay_bias]);
                op.norm.parameters(&mut list);
            }
            Op::RopeAppend(op) => {
                op.query_norm
                    .iter()
                    .chain(&op.key_norm)
                    .chain(&op.value_norm)
                    .for_each(|norm| norm.parameters(&mut list));
            }
            _ => {}
        }
        list
    }

    /// Its name in the text form.
    pub const fn name(&self) -> &'static str {
        match self {
            Op::Tokens => "tokens",
            Op::Dequantize(_) => "dequantize",
            Op::Embed { on_host: true, .. } => "embed_on_host",
            Op::Embed { .. } => "embed",
            Op::Matmul { .. } => "matmul",
            Op::Bias { .. } => "bias",
            Op::Add { .. } => "add",
            Op::Mul { .. } => "mul",
            Op::Scale { .. } => "scale",
            Op::ScaleBy { .. } => "scale_by",
            Op::RopeQuery { .. } => "rope_query",
            Op::SoftCap { .. } => "soft_cap",
            Op::Activation { .. } => "activation",
            Op::Slice { .. } => "slice",
            Op::Norm { .. } => "norm",
            Op::Rope { .. } => "rope",
            Op::Append { .. } => "append",
            Op::Attention { .. } => "attention",
            Op::Gate { .. } => "gate",
            Op::CausalConv(_) => "causal_conv",
            Op::GatedDelta(_) => "gated_delta",
            Op::SelectRow { .. } => "select_row",
            Op::EmbedRows { on_host: true, .. } => "embed_rows_on_host",
            Op::EmbedRows { .. } => "embed_rows",
            Op::NormSelected { .. } => "norm_selected",
            Op::Linear(_) => "linear",
            Op::AddNorm { .. } => "add_norm",
            Op::RopeAppend(_) => "rope_append",
        }
    }
}
