//! What a launch becomes before it is executed: pointers into mapped weights, cache and workspace.
//!
//! Everything here is made by `super::model` from a validated library and checked arguments. The invariants that the kernels
//! rely on: every pointer is valid for what the field says, for as long as the launch runs; what a launch writes overlaps
//! nothing else that it names, except a residual that *is* the output; units of a launch write disjoint parts.

use knapsack_artifact::plan::{KvLayer, NormPlace, QkvOrder};
use knapsack_tensor::{Activation, DType, Epilogue, Grouping, NormKind};

/// A tensor of stored floats.
#[derive(Clone, Copy)]
pub(crate) struct Floats {
    pub(crate) data: *const u8,
    pub(crate) dtype: DType,
}

/// A weight matrix `(n, k)`.
#[derive(Clone, Copy)]
pub(crate) enum Matrix {
    /// Rows of floats.
    Dense(Floats),
    /// Codes and scales; the grouping is one of the executable ones, scales have 16 bits.
    Grouped { codes: *const u8, scales: Floats, grouping: Grouping, by_rows: bool },
}

/// What follows a product.
pub(crate) type Finish = Epilogue<Others>;

/// Rows that a product is added to or multiplied with.
#[derive(Clone, Copy)]
pub(crate) struct Others {
    /// Column 0 of token 0.
    pub(crate) data: *const f32,
    /// Columns from one token to the next.
    pub(crate) columns: usize,
}

/// Quantized activations of all tokens, in steps of the weights: for each token `codes` bytes in the order of
/// `super::linear::codes`, then a float32 scale for each step, then 32-bit corrections: `-max_int` times the sum of its codes.
#[derive(Clone, Copy)]
pub(crate) struct Acts {
    pub(crate) data: *mut u8,
    /// Bytes from one token to the next.
    pub(crate) stride: usize,
    /// Bytes of codes of a token.
    pub(crate) codes: usize,
    /// Steps of a token, a multiple of 4: whole vectors of them.
    pub(crate) steps: usize,
}

impl Acts {
    /// The layout for rows of `k` elements, in `quantized_row_bytes` bytes a token.
    pub(crate) fn new(data: *mut u8, k: usize, grouping: Grouping) -> Self {
        let steps = (grouping.steps(k as u64) as usize).next_multiple_of(4);
        let stride = knapsack_artifact::plan::quantized_row_bytes(grouping, k as u32) as usize;
        Acts { data, stride, codes: stride - 8 * steps, steps }
    }

    /// None, for a task that reads its input as it is.
    pub(crate) const fn none() -> Self {
        Acts { data: std::ptr::null_mut(), stride: 0, codes: 0, steps: 0 }
    }

    /// The codes of token `t`.
    ///
    /// # Safety
    /// `t` is below [`Linear::n`], the rows of codes.
    #[inline(always)]
    pub(crate) unsafe fn codes(&self, t: usize) -> *mut u8 {
        // SAFETY: the scratch has `stride` bytes for each row of codes (one a token, or two where `Launcher::linear` takes two).
        unsafe { self.data.add(t * self.stride) }
    }

    /// The scales of token `t`.
    ///
    /// # Safety
    /// `t` is below [`Linear::n`], the rows of codes.
    #[inline(always)]
    pub(crate) unsafe fn scales(&self, t: usize) -> *mut f32 {
        // SAFETY: as above; codes and scales fit the stride (see `new`).
        unsafe { self.codes(t).add(self.codes).cast() }
    }

    /// The corrections of token `t`.
    ///
    /// # Safety
    /// `t` is below [`Linear::n`], the rows of codes.
    #[inline(always)]
    pub(crate) unsafe fn corrections(&self, t: usize) -> *mut i32 {
        // SAFETY: as above.
        unsafe { self.scales(t).add(self.steps).cast() }
    }
}

/// A [`knapsack_artifact::plan::Linear`].
#[derive(Clone, Copy)]
pub(crate) struct Linear {
    /// Rows of activations: tokens, times `digits`.
    pub(crate) n: usize,
    /// Rows of codes of a token: 1, or 2 of which the second holds what the first rounds off.
    pub(crate) digits: usize,
    pub(crate) k: usize,
    /// Rows of the weight.
    pub(crate) features: usize,
    /// Columns of the output.
    pub(crate) columns: usize,
    pub(crate) input: *const f32,
    pub(crate) output: *mut f32,
    pub(crate) matrix: Matrix,
    pub(crate) bias: Option<Floats>,
    pub(crate) finish: Finish,
    /// Scratch; only with a grouped matrix.
    pub(crate) acts: Acts,
    /// Output columns of one unit.
    pub(crate) unit: usize,
}

/// Normalization weights.
#[derive(Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) epsilon: f32,
    pub(crate) weight: Option<Floats>,
    pub(crate) bias: Option<Floats>,
}

/// A norm of rows, or an addition with norms.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) columns: usize,
    /// Of an addition: the residual stream.
    pub(crate) residual: Option<*const f32>,
    /// The norm's input, or the addition's delta.
    pub(crate) input: *const f32,
    /// Before an addition.
    pub(crate) pre: Option<Norm>,
    /// Of an addition: what the sum is multiplied by.
    pub(crate) scale: Option<Floats>,
    /// Of an addition: the new residual stream.
    pub(crate) sum: *mut f32,
    /// The norm itself, or the one after an addition.
    pub(crate) post: Option<(Norm, *mut f32)>,
}

/// A token embedding.
#[derive(Clone, Copy)]
pub(crate) struct Embed {
    pub(crate) tokens: *const u32,
    pub(crate) table: Matrix,
    pub(crate) columns: usize,
    pub(crate) scale: f32,
    pub(crate) output: *mut f32,
}

/// The cache of a layer.
#[derive(Clone, Copy)]
pub(crate) struct Cache {
    pub(crate) layer: KvLayer,
    pub(crate) keys: *mut u8,
    pub(crate) values: *mut u8,
}

/// A [`knapsack_artifact::plan::RopeAppend`].
#[derive(Clone, Copy)]
pub(crate) struct Rope {
    pub(crate) qkv: *const f32,
    /// Keys and values of projections of their own; `qkv` then has only queries.
    pub(crate) apart: Option<[*const f32; 2]>,
    pub(crate) order: QkvOrder,
    pub(crate) heads: usize,
    pub(crate) rotary: usize,
    /// `(n, rotary)`: pairs of cosine and sine of the keys.
    pub(crate) angles: *const f32,
    /// The same of the queries; mostly the same rows.
    pub(crate) query_angles: *const f32,
    pub(crate) place: NormPlace,
    /// With whether each head has its own part of weight and bias.
    pub(crate) query_norm: Option<(Norm, [bool; 2])>,
    pub(crate) key_norm: Option<(Norm, [bool; 2])>,
    pub(crate) value_norm: Option<Norm>,
    pub(crate) cache: Cache,
    pub(crate) query: *mut f32,
    pub(crate) position: u32,
}

/// A [`knapsack_artifact::plan::RopeQuery`].
#[derive(Clone, Copy)]
pub(crate) struct RopeQuery {
    pub(crate) input: *const f32,
    pub(crate) heads: usize,
    pub(crate) dim: usize,
    pub(crate) rotary: usize,
    /// `(n, rotary)`: pairs of cosine and sine.
    pub(crate) angles: *const f32,
    pub(crate) norm: Option<Norm>,
    pub(crate) output: *mut f32,
}

/// A [`knapsack_artifact::plan::Attention`].
#[derive(Clone, Copy)]
pub(crate) struct Attention {
    pub(crate) n: usize,
    pub(crate) query: *const f32,
    pub(crate) heads: usize,
    pub(crate) scale: f32,
    pub(crate) soft_cap: Option<f32>,
    pub(crate) cache: Cache,
    pub(crate) gate: Option<Gate>,
    pub(crate) output: *mut f32,
    pub(crate) position: u32,
}

/// The gates of attention; see [`knapsack_artifact::plan::HeadGate`].
#[derive(Clone, Copy)]
pub(crate) struct Gate {
    /// The first gate of token 0.
    pub(crate) first: *const f32,
    /// Columns of a row.
    pub(crate) columns: usize,
    /// Columns from one head to the next.
    pub(crate) stride: usize,
    /// Whether a head has one for each of its elements, and not one for all.
    pub(crate) wide: bool,
}

/// A [`knapsack_artifact::plan::CausalConv`]. A unit is a block of channels, for all tokens.
#[derive(Clone, Copy)]
pub(crate) struct Conv {
    pub(crate) n: usize,
    pub(crate) channels: usize,
    pub(crate) taps: usize,
    /// Columns of an input row.
    pub(crate) columns: usize,
    /// Column `start` of token 0.
    pub(crate) input: *const f32,
    /// The first gate of token 0.
    pub(crate) gate_in: Option<*const f32>,
    pub(crate) gate_out: Option<*const f32>,
    pub(crate) weight: Floats,
    pub(crate) bias: Option<Floats>,
    pub(crate) activation: Option<Activation>,
    /// `(taps - 1, channels)`; only this unit's channels are touched by it.
    pub(crate) state: *mut f32,
    /// Whether the state is zero whatever it holds.
    pub(crate) fresh: bool,
    pub(crate) output: *mut f32,
}

/// A [`knapsack_artifact::plan::GatedDelta`]. A unit is a head, for all tokens.
#[derive(Clone, Copy)]
pub(crate) struct Delta {
    pub(crate) n: usize,
    pub(crate) key_heads: usize,
    pub(crate) heads: usize,
    pub(crate) key_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) qkv: *const f32,
    pub(crate) decay: *const f32,
    pub(crate) write: *const f32,
    pub(crate) gate: *const f32,
    pub(crate) decay_log: Floats,
    pub(crate) decay_bias: Floats,
    pub(crate) norm: Norm,
    /// `(heads, key_dim, value_dim)`; only this unit's head is touched by it.
    pub(crate) state: *mut f32,
    /// Whether the state is zero whatever it holds.
    pub(crate) fresh: bool,
    pub(crate) output: *mut f32,
}

/// Shares a task with the threads of the pool.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) T);

// SAFETY: see the invariants above: threads only write disjoint parts, and nothing that another one reads.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Shared<T> {}
