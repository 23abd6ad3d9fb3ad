//! The execution plan: what a device does for a step of inference, launch by launch.
//!
//! Notation: `n` is the number of tokens of the call, `p` the absolute position of its first token. Activations are float32
//! rows, `(n, columns)`, row-major, in the workspace. In the head function `n` is 1 and `p` the position of the selected row. A launch reads and writes nothing but the operands it names and its
//! scratch, and what it writes overlaps no other operand of the same launch, except where an operation says that an
//! output may be *the same rows* as an input. `head` never writes the rows of [`crate::library::Io::hidden`], so that it can
//! be run for several rows of one call.

use knapsack_tensor::{Activation, DType, Grouping, NormKind};
pub use knapsack_tensor::{Growth, NormPlace, ParameterId, QkvOrder, StateLayer, Storage as Weight};
use serde::{Deserialize, Serialize};

/// Every workspace offset is a multiple of this.
pub const ALIGNMENT: u64 = 256;

/// Float32 rows in the workspace: `(n, columns)`, or `(1, columns)` in the head function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rows {
    /// Byte offset of row 0.
    pub offset: u64,
    /// Elements of a row; rows are dense.
    pub columns: u32,
}

/// A region of the workspace whose content no operation defines: token ids, or what a device uses as it likes during a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scratch {
    /// Byte offset.
    pub offset: u64,
    /// Bytes for each token of the call.
    pub bytes_per_token: u64,
}

/// Bytes of a row of `k` activations as a device with integer dot products keeps them: for each step of the weights (four of
/// them together, the most that a vector covers) int8 codes in fours of fours, a float32 scale and a 32-bit sum.
pub const fn quantized_row_bytes(grouping: Grouping, k: u32) -> u64 {
    let codes = grouping.step().next_multiple_of(16) as u64;
    grouping.steps(k as u64).next_multiple_of(4) * (codes + 8)
}

/// The typed operations. Column counts are those of the operands; `y[t]` is row `t` of `y`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Token embedding.
    Embed(Embed),
    /// Normalization of rows.
    Norm(Norm),
    /// Residual addition with an optional normalization before and after.
    AddNorm(AddNorm),
    /// Matrix product with everything fused that follows it elementwise.
    Linear(Linear),
    /// Splits q, k, v, normalizes and rotates q and k, writes k and v to the cache.
    RopeAppend(RopeAppend),
    /// Attention over the cache.
    Attention(Attention),
    /// Convolution of each channel over the last tokens.
    CausalConv(CausalConv),
    /// The gated delta rule: linear attention over a matrix that is remembered.
    GatedDelta(GatedDelta),
    /// Normalizes and rotates queries whose keys and values another layer has.
    RopeQuery(RopeQuery),
    /// Copies the selected row.
    Select(Select),
}

/// `output[0] = input[row]`; only in the head function, and only from what outlives prefill and decode
/// ([`crate::library::Io::hidden`], [`crate::library::Io::carried`]).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Select {
    /// Rows of a call.
    pub input: Rows,
    /// One row.
    pub output: Rows,
}

/// What [`RopeAppend`] does with queries, alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeQuery {
    /// `(n, heads * head_dim)`.
    pub input: Rows,
    /// Query heads.
    pub heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Leading elements of a head that are rotated; even; 0: none.
    pub rotary: u32,
    /// Index into [`crate::ModelLibrary::rope_tables`]; its pairs are `rotary / 2`.
    pub rope_table: u32,
    /// Of each head, before the rotation; weights are `(head_dim)`.
    pub norm: Option<NormWeights>,
    /// `(n, heads * head_dim)`; may not overlap the input.
    pub output: Rows,
}

/// `output[t] = scale * table[tokens[t]]`. Tokens are checked against the model's vocabulary before the call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embed {
    /// `(vocab, hidden)`; grouped tables are row-major (NK).
    pub table: Weight,
    /// Rows of the table; at least the model's vocabulary, against which tokens are checked.
    pub vocab: u32,
    /// Multiplier (gemma: sqrt(hidden)); 1 otherwise.
    pub scale: f32,
    /// `(n, hidden)`.
    pub output: Rows,
}

/// The weights of a normalization over rows of `weight`'s length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormWeights {
    /// Root mean square, or mean and variance.
    pub kind: NormKind,
    /// Added under the root.
    pub epsilon: f32,
    /// Multiplier, `(columns)`; no implicit 1 is added (gemma's is stored as w + 1). `None`: 1 (LayerNorm without weights).
    pub weight: Option<ParameterId>,
    /// Offset, `(columns)`; only with [`NormKind::Layer`].
    pub bias: Option<ParameterId>,
}

/// Which rows a [`Norm`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowSelect {
    /// Row `t` gives row `t`.
    All,
    /// The call's `row` gives row 0; only in the head function, and only from [`crate::library::Io::hidden`].
    One,
}

/// `output[t] = norm(input[t])`, or of the one selected row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// What is read.
    pub input: Rows,
    /// Which of its rows.
    pub rows: RowSelect,
    /// Kind, epsilon and weights.
    pub norm: NormWeights,
    /// Same columns as the input; may not overlap it.
    pub output: Rows,
}

/// `sum[t] = scale * (residual[t] + pre(delta[t]))`, then `output[t] = post(sum[t])` where there is a `post`. A missing `pre` is the
/// identity, a missing `scale` 1. `sum` may be the same rows as `residual`; nothing else may overlap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddNorm {
    /// The residual stream.
    pub residual: Rows,
    /// What is added.
    pub delta: Rows,
    /// Normalization of `delta` before the addition (gemma2's post-norms).
    pub pre: Option<NormWeights>,
    /// Groups of neighbouring columns that are normalized apart, with the same weights, by `pre` (gemma4's inputs of all layers).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub groups: u32,
    /// One number, `(1)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ParameterId>,
    /// The new residual stream.
    pub sum: Rows,
    /// Normalization of the sum, and where it goes.
    pub post: Option<(NormWeights, Rows)>,
}

const fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_one(count: &u32) -> bool {
    *count == 1
}

/// What a [`Linear`] does with a product.
pub type Epilogue = knapsack_tensor::Epilogue<Rows>;

/// `output = epilogue(input W^T + bias)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// `(n, k)`.
    pub input: Rows,
    /// `(out_features, k)`.
    pub weight: Weight,
    /// out_features: rows of the weight (twice the output's columns with [`Epilogue::Gated`]).
    pub out_features: u32,
    /// `(out_features)`.
    pub bias: Option<ParameterId>,
    /// What follows the product.
    pub epilogue: Epilogue,
    /// Where it goes; may not overlap the input.
    pub output: Rows,
}

/// Keys and values that come from projections of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyValueRows {
    /// `(n, kv_heads * head_dim)`.
    pub keys: Rows,
    /// `(n, kv_heads * head_dim)`.
    pub values: Rows,
}

/// For each token, from one row of the projection: q and k heads are normalized (where there is a norm), the first `rotary`
/// elements of each head are rotated in halves, `(a, b) -> (a cos - b sin, b cos + a sin)` with `a = x[i]`,
/// `b = x[i + rotary/2]` and the angle of pair `i` at position `p + t`; then q goes to `query` and k, v to the slot
/// [`KvLayer::slot`] of position `p + t` in cache layer `layer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeAppend {
    /// `(n, (heads + 2 kv_heads) * head_dim)`, with [`QkvOrder::Gated`] `(n, 2 (heads + kv_heads) * head_dim)`; with `apart` only
    /// the queries, `(n, heads * head_dim)`.
    pub qkv: Rows,
    /// Keys and values where they are not in `qkv` (gemma3, whose checkpoint keeps the three projections apart).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<KeyValueRows>,
    /// Column order of `qkv`; [`QkvOrder::Sections`] with `apart`.
    pub order: QkvOrder,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Leading elements of a head that are rotated; even; 0: none.
    pub rotary: u32,
    /// Index into [`crate::ModelLibrary::rope_tables`]; its pairs are `rotary / 2`.
    pub rope_table: u32,
    /// Another table of as many pairs, which the queries are rotated by (ministral3, whose queries grow with the position);
    /// whole heads are rotated then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_table: Option<u32>,
    /// What the norms are over.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub norm_place: NormPlace,
    /// Normalization of q; weights are `(head_dim)` shared by the heads or `(heads * head_dim)`.
    pub query_norm: Option<NormWeights>,
    /// The same for k.
    pub key_norm: Option<NormWeights>,
    /// Root mean square of each v head, without weights (gemma4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_norm: Option<NormWeights>,
    /// Cache layer.
    pub layer: u32,
    /// `(n, heads * head_dim)`; may not overlap `qkv`.
    pub query: Rows,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_usual(place: &NormPlace) -> bool {
    *place == NormPlace::default()
}

/// What each head's result is multiplied by: the logistic function of `rows[t][start + head * stride + i]` for element `i`, or of
/// `rows[t][start + head * stride]` for all of them where `width` is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeadGate {
    /// Where the gates are.
    pub rows: Rows,
    /// Column of the first.
    pub start: u32,
    /// Columns from one head to the next.
    pub stride: u32,
    /// Columns of a head: `head_dim`, or 1.
    pub width: u32,
}

/// For each token `t` and head: scores `s_j = scale * q . k_j` over the visible positions `j <= p + t`
/// ([`KvLayer::visible`]), soft-capped as `cap * tanh(s / cap)` where there is a cap, softmax, weighted sum of `v_j`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// `(n, heads * head_dim)`.
    pub query: Rows,
    /// Query heads; head `h` uses kv head `h / (heads / kv_heads)`.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Multiplier of the scores.
    pub scale: f32,
    /// Soft-capping of the scores.
    pub soft_cap: Option<f32>,
    /// Cache layer.
    pub layer: u32,
    /// What the result is multiplied by (qwen3_5, lfm3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<HeadGate>,
    /// `(n, heads * head_dim)`; may not overlap the query.
    pub output: Rows,
}

impl Attention {
    /// Work groups that a GPU should have for one token at least, so that none of its cores idles.
    const WORK_GROUPS: u32 = 64;
    /// Positions that are worth a work group of their own.
    const POSITIONS: u32 = 64;

    /// Parts that the positions of a cache are divided into for one token: kv heads alone are too few work groups.
    pub fn parts(kv_heads: u32, positions: u32) -> u32 {
        let (wanted, most) = (Self::WORK_GROUPS.div_ceil(kv_heads), positions.div_ceil(Self::POSITIONS));
        wanted.min(most).max(1)
    }

    /// Bytes of what the parts give for each head: a sum of values, the largest score, and the sum of the weights. `None` for one
    /// part, which gives the result itself.
    pub fn parts_bytes(heads: u32, kv: &KvLayer) -> Option<u64> {
        match Self::parts(kv.kv_heads, kv.positions) {
            1 => None,
            parts => Some(4 * heads as u64 * parts as u64 * (kv.head_dim as u64 + 2)),
        }
    }
}

/// For each channel `c` and token `t`: `u[t] = input[t][start + c]`, times `input[t][gate_in + c]` where there is such a gate;
/// `y[t] = f(bias[c] + sum over j < taps of weight[c][j] u[t - (taps - 1) + j])`; `output[t][c] = y[t]`, times
/// `input[t][gate_out + c]` where there is such a gate. `u` of the tokens before the call is in the state, which becomes that of
/// the last `taps - 1` tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CausalConv {
    /// `(n, columns)`; all columns that are named lie in it.
    pub input: Rows,
    /// Column of the first channel.
    pub start: u32,
    /// First column of what multiplies the input of the convolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_in: Option<u32>,
    /// First column of what multiplies its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_out: Option<u32>,
    /// `(channels, 1, taps)`.
    pub weight: ParameterId,
    /// `(channels)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<ParameterId>,
    /// What follows the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Tokens that a sum is over, its own included.
    pub taps: u32,
    /// Index into [`crate::ModelLibrary::states`]; its channels are the output's columns, its taps these.
    pub state: u32,
    /// `(n, channels)`; may not overlap the input.
    pub output: Rows,
}

/// For each token and head `h`, with `q` and `k` those of key head `h / (heads / key_heads)`, and `S` the head's matrix:
/// `q' = q / sqrt(sum q^2 + 1e-6) / sqrt(key_dim)`, `k' = k / sqrt(sum k^2 + 1e-6)`,
/// `alpha = exp(-exp(decay_log[h]) softplus(decay[t][h] + decay_bias[h]))`, `beta = sigmoid(write[t][h])`;
/// `S = alpha S`, `S = S + k' (beta (v - S^T k'))^T`, `o = S^T q'`; `output = norm(o) * silu(gate[t])`. The state is the matrices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatedDelta {
    /// `(n, 2 key_heads * key_dim + heads * value_dim)`: all q heads, all k heads, all v heads.
    pub qkv: Rows,
    /// `(n, heads)`.
    pub decay: Rows,
    /// `(n, heads)`.
    pub write: Rows,
    /// `(n, heads * value_dim)`.
    pub gate: Rows,
    /// `(heads)`.
    pub decay_log: ParameterId,
    /// `(heads)`.
    pub decay_bias: ParameterId,
    /// Of each head's result: root mean square over `value_dim`, weights shared by the heads.
    pub norm: NormWeights,
    /// Heads of q and k; divides `heads`.
    pub key_heads: u32,
    /// Heads of v.
    pub heads: u32,
    /// Elements of a q or k head.
    pub key_dim: u32,
    /// Elements of a v head.
    pub value_dim: u32,
    /// Index into [`crate::ModelLibrary::states`]; its sizes are these.
    pub state: u32,
    /// `(n, heads * value_dim)`; may overlap none of what is read.
    pub output: Rows,
}

/// The cache of one layer. K and V are each `(kv_heads, positions, head_dim)`, dense, of dtype `dtype`. Without a window there
/// are at least as many slots as the context has positions; with one, at least `sinks + window + chunk - 1` or the context,
/// whichever is less, so that a chunk's writes never hit what its first query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KvLayer {
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Slots.
    pub positions: u32,
    /// Positions that a query sees, its own included; `None`: all.
    pub window: Option<u32>,
    /// First positions that are always seen and never overwritten (attention sinks).
    pub sinks: u32,
    /// Element type: float16 or float32.
    pub dtype: DType,
}

impl KvLayer {
    /// The slot of an absolute position: sinks keep theirs, the others go round.
    pub const fn slot(&self, position: u32) -> u32 {
        if position < self.positions {
            position
        } else {
            self.sinks + (position - self.sinks) % (self.positions - self.sinks)
        }
    }

    /// The positions that a query at `position` sees: `0..a` and `b..=position`, with `a <= b`.
    pub const fn visible(&self, position: u32) -> (u32, u32) {
        match self.window {
            Some(window) if position >= window => {
                let start = position - window + 1;
                if self.sinks < start { (self.sinks, start) } else { (start, start) }
            }
            _ => (0, 0),
        }
    }

    /// Positions whose keys and values are set aside with the states of a model, so that both are those of one position again: what
    /// the next query sees besides itself, where the ring may go round before it is asked; a ring as long as `context` never does.
    pub const fn kept_positions(&self, context: Option<u32>) -> u32 {
        match (self.window, context) {
            (_, Some(context)) if context <= self.positions => 0,
            (Some(window), _) => window.saturating_sub(1),
            (None, _) => 0,
        }
    }

    /// Elements of K, and as many of V.
    pub const fn elements(&self) -> u64 {
        self.kv_heads as u64 * self.positions as u64 * self.head_dim as u64
    }

    /// Bytes of K and V together.
    pub const fn bytes(&self) -> u64 {
        2 * self.elements() * self.dtype.size()
    }
}

/// Bytes that a model remembers in besides its cache: its states, and what is set aside to come back to, which is a copy of each and
/// [`KvLayer::kept_positions`]. `None` on overflow.
pub fn state_bytes(states: &[StateLayer], layers: &[KvLayer], context: Option<u32>) -> Option<u64> {
    let both = states.iter().try_fold(0u64, |sum, state| sum.checked_add(state.bytes().checked_mul(2)?))?;
    if states.is_empty() {
        return Some(0);
    }
    layers.iter().try_fold(both, |sum, layer| {
        let elements = u64::from(layer.kv_heads).checked_mul(u64::from(layer.kept_positions(context)))?;
        sum.checked_add(elements.checked_mul(u64::from(layer.head_dim))?.checked_mul(2 * layer.dtype.size())?)
    })
}

/// A table of which a device holds no copy: the host takes the rows of a call's tokens out of the mapped file and writes
/// `scale * table[tokens[t]]` into row `t` before the launches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    /// `(vocab, columns)`; grouped tables are row-major (NK). No launch reads its parameters.
    pub table: Weight,
    /// Rows of the table; at least the model's vocabulary.
    pub vocab: u32,
    /// Multiplier.
    pub scale: f32,
    /// `(n, columns)`.
    pub rows: Rows,
}

impl Lookup {
    /// The parameters that stay in the file.
    pub fn parameters(&self) -> impl Iterator<Item = ParameterId> {
        self.table.parameters()
    }
}

/// Rotary frequencies. The host writes `(cos, sin)` of `position * frequency[i]`, times `magnitude`, for each token of a call
/// into the table's rows before the launches. The angle is the float32 product, as the models were trained with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeTable {
    /// Radians per position of each pair.
    pub frequencies: Vec<f32>,
    /// Multiplier of both cosine and sine (longrope's and yarn's attention factor); 1 otherwise.
    pub magnitude: f32,
    /// A further multiplier of both, which depends on the position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// `(n, 2 * frequencies)`: cosine and sine of pair `i` at columns `2 i` and `2 i + 1`.
    pub rows: Rows,
}

/// Work groups along one axis: `count * ceil(n / tokens_per_group)`, or `count` when `tokens_per_group` is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Groups {
    /// Groups that do not depend on the token count.
    pub count: u32,
    /// Tokens that one group covers; 0: the axis does not depend on them.
    pub tokens_per_group: u32,
}

impl Groups {
    /// Groups for a call of `n` tokens.
    pub const fn at(&self, n: u32) -> u32 {
        match self.tokens_per_group {
            0 => self.count,
            per => self.count * n.div_ceil(per),
        }
    }
}

/// A kernel that follows another with the same buffers, when all work groups of that one have ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Then {
    /// Index into [`crate::library::KernelModule::kernels`].
    pub kernel: u32,
    /// Work groups in x, y, z.
    pub groups: [Groups; 3],
}

/// Which kernel executes a launch on a GPU, and its grid. Kernel arguments are the launch's buffers in the order of
/// [`Op::operands`], those of the launches after it that the kernel executes too, the launch's scratch where the kernel takes
/// it, then `n`, `p` and `row` as `u32` in a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCall {
    /// Index into [`crate::library::KernelModule::kernels`].
    pub kernel: u32,
    /// Work groups in x, y, z.
    pub groups: [Groups; 3],
    /// Launches after this one that the kernel executes together with it; they name no kernel.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u32,
    /// Whether the kernel takes the launch's scratch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scratch: bool,
    /// What merges the results of its work groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<Then>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// One step of a function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// What is computed.
    #[serde(flatten)]
    pub op: Op,
    /// Room for the device that executes it; overlaps no operand. The plan gives what [`Op::scratch_bytes`] says that devices
    /// ask for, and to attention of one token what [`Attention::parts_bytes`] says; a device that needs more refuses the library. A
    /// product that is given twice as much has a device that rounds activations to eight bits keep what it rounds off in eight
    /// more: what a recurrence amplifies. Kernels see it where [`KernelCall::scratch`] says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Scratch>,
    /// How a GPU does it; absent in libraries for the host, and where the kernel of a launch before does it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<KernelCall>,
}

/// A list of launches, each after the one before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// In order.
    pub launches: Vec<Launch>,
}

impl Function {
    /// What a GPU starts: every kernel call with the launches that it executes. Ends at the first launch without one.
    pub fn calls(&self) -> impl Iterator<Item = (&KernelCall, &[Launch])> {
        let mut rest = self.launches.as_slice();
        std::iter::from_fn(move || {
            let call = rest.first()?.gpu.as_ref()?;
            let (these, after) = rest.split_at_checked(1 + call.more as usize)?;
            rest = after;
            Some((call, these))
        })
    }
}

/// An operand of a launch: a whole buffer or a place in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The token ids of the call, `u32`, at [`crate::library::Io::tokens`].
    Tokens,
    /// The rows of a rope table.
    RopeTable(u32),
    /// Weights, at the beginning of their tensor.
    Parameter(ParameterId),
    /// Workspace rows that are read.
    Input(Rows),
    /// Workspace rows that are written (and perhaps read).
    Output(Rows),
    /// Keys of a cache layer.
    Keys(u32),
    /// Values of a cache layer.
    Values(u32),
    /// A state, which is read and written.
    State(u32),
}

impl NormWeights {
    fn push(&self, operands: &mut Vec<Operand>) {
        operands.extend(self.weight.iter().chain(&self.bias).map(|&id| Operand::Parameter(id)));
    }
}

impl Op {
    /// The operands in the order of a kernel's arguments.
    pub fn operands(&self) -> Vec<Operand> {
        let mut list = Vec::with_capacity(8);
        match self {
            Op::Embed(op) => {
                list.push(Operand::Tokens);
                list.extend(op.table.parameters().map(Operand::Parameter));
                list.push(Operand::Output(op.output));
            }
            Op::Norm(op) => {
                list.push(Operand::Input(op.input));
                op.norm.push(&mut list);
                list.push(Operand::Output(op.output));
            }
            Op::AddNorm(op) => {
                list.extend([Operand::Input(op.residual), Operand::Input(op.delta)]);
                if let Some(pre) = &op.pre {
                    pre.push(&mut list);
                }
                list.extend(op.scale.map(Operand::Parameter));
                list.push(Operand::Output(op.sum));
                if let Some((post, output)) = &op.post {
                    post.push(&mut list);
                    list.push(Operand::Output(*output));
                }
            }
            Op::Linear(op) => {
                list.push(Operand::Input(op.input));
                list.extend(op.weight.parameters().map(Operand::Parameter));
                list.extend(op.bias.map(Operand::Parameter));
                list.extend(op.epilogue.rows().map(Operand::Input));
                list.push(Operand::Output(op.output));
            }
            Op::RopeAppend(op) => {
                list.push(Operand::Input(op.qkv));
                if let Some(apart) = op.apart {
                    list.extend([Operand::Input(apart.keys), Operand::Input(apart.values)]);
                }
                if op.rotary > 0 {
                    list.push(Operand::RopeTable(op.rope_table));
                    list.extend(op.query_table.map(Operand::RopeTable));
                }
                for norm in op.query_norm.iter().chain(&op.key_norm) {
                    norm.push(&mut list);
                }
                list.extend([Operand::Output(op.query), Operand::Keys(op.layer), Operand::Values(op.layer)]);
            }
            Op::Attention(op) => {
                list.extend([Operand::Input(op.query), Operand::Keys(op.layer), Operand::Values(op.layer)]);
                list.extend(op.gate.map(|gate| Operand::Input(gate.rows)));
                list.push(Operand::Output(op.output));
            }
            Op::CausalConv(op) => {
                list.extend([Operand::Input(op.input), Operand::Parameter(op.weight)]);
                list.extend(op.bias.map(Operand::Parameter));
                list.extend([Operand::State(op.state), Operand::Output(op.output)]);
            }
            Op::Select(op) => list.extend([Operand::Input(op.input), Operand::Output(op.output)]),
            Op::RopeQuery(op) => {
                list.push(Operand::Input(op.input));
                if op.rotary > 0 {
                    list.push(Operand::RopeTable(op.rope_table));
                }
                op.norm.iter().for_each(|norm| norm.push(&mut list));
                list.push(Operand::Output(op.output));
            }
            Op::GatedDelta(op) => {
                list.extend([op.qkv, op.decay, op.write, op.gate].map(Operand::Input));
                list.extend([op.decay_log, op.decay_bias].map(Operand::Parameter));
                op.norm.push(&mut list);
                list.extend([Operand::State(op.state), Operand::Output(op.output)]);
            }
        }
        list
    }

    /// The most that any device asks for while it executes this, in bytes for each token of the call: the CPU quantizes the
    /// activations that meet grouped weights.
    pub const fn scratch_bytes(&self) -> Option<u64> {
        match self {
            Op::Linear(Linear { weight: Weight::Grouped { format, .. }, input, .. }) => {
                Some(quantized_row_bytes(format.grouping(), input.columns))
            }
            _ => None,
        }
    }

    /// The rows that it writes.
    pub fn outputs(&self) -> impl Iterator<Item = Rows> {
        self.operands().into_iter().filter_map(|operand| match operand {
            Operand::Output(rows) => Some(rows),
            _ => None,
        })
    }

    /// The operation's name as in the serialized form.
    pub const fn name(&self) -> &'static str {
        match self {
            Op::Embed(_) => "embed",
            Op::Norm(_) => "norm",
            Op::AddNorm(_) => "add_norm",
            Op::Linear(_) => "linear",
            Op::RopeAppend(_) => "rope_append",
            Op::Attention(_) => "attention",
            Op::CausalConv(_) => "causal_conv",
            Op::GatedDelta(_) => "gated_delta",
            Op::RopeQuery(_) => "rope_query",
            Op::Select(_) => "select",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(positions: u32, window: Option<u32>, sinks: u32) -> KvLayer {
        KvLayer { kv_heads: 1, head_dim: 4, positions, window, sinks, dtype: DType::F16 }
    }

    /// Every position that a chunk's queries see is still in the cache when the whole chunk has been written.
    #[test]
    fn a_ring_keeps_what_a_chunk_sees() {
        for (window, sinks, chunk) in [(5, 0, 1), (5, 0, 4), (5, 2, 4), (3, 4, 8), (8, 4, 3)] {
            let kv = layer(sinks + window + chunk - 1, Some(window), sinks);
            let mut slots = vec![u32::MAX; kv.positions as usize];
            let mut start = 0;
            while start < 100 {
                for p in start..start + chunk {
                    slots[kv.slot(p) as usize] = p;
                }
                for p in start..start + chunk {
                    let (a, b) = kv.visible(p);
                    assert!(a <= b && b <= p);
                    for j in (0..a).chain(b..=p) {
                        assert_eq!(
                            slots[kv.slot(j) as usize],
                            j,
                            "window {window} sinks {sinks} chunk {chunk} query {p}"
                        );
                    }
                    let seen = (0..a).chain(b..=p).count() as u32;
                    assert_eq!(seen, (p + 1).min(window + sinks.min((p + 1).saturating_sub(window))));
                }
                start += chunk;
            }
        }
    }
}
