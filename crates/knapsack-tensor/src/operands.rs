//! What the operations of a graph and those of a compiled library say in the same words.

use crate::{Activation, GroupFormat};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Index into the parameters of a graph, and of the library that it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParameterId(pub u32);

impl fmt::Display for ParameterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

/// Where the elements are of a weight matrix `(n, k)` = (out_features, in_features), or of an embedding table `(vocab, hidden)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// One tensor of shape `(n, k)` in the parameter's own dtype (f16, bf16 or f32).
    Dense(ParameterId),
    /// Codes and scales; shapes are [`GroupFormat::code_shape`] and [`GroupFormat::scale_shape`].
    Grouped {
        /// Packed codes, `u32`.
        codes: ParameterId,
        /// Scales, of dtype `format.scale`.
        scales: ParameterId,
        /// Bits, group size, layout.
        format: GroupFormat,
    },
}

impl Storage {
    /// The parameters that it names.
    pub fn parameters(self) -> impl Iterator<Item = ParameterId> {
        let (first, second) = match self {
            Storage::Dense(id) => (id, None),
            Storage::Grouped { codes, scales, .. } => (codes, Some(scales)),
        };
        std::iter::once(first).chain(second)
    }
}

/// What follows a matrix product `y = x W^T + bias` in the same operation. `R` says which rows, of a graph or in a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Epilogue<R> {
    /// `y`.
    None,
    /// `f(y)`.
    Activation(Activation),
    /// The matrix has `2 m` rows, gate above up: `f(first half of y) * second half`, `m` columns.
    Gated(Activation),
    /// `f(y) * other[start..]`.
    ActivationTimes {
        /// What is applied to the product.
        function: Activation,
        /// The other factor.
        other: R,
        /// Its first column.
        start: u32,
    },
    /// `y + residual`; in a workspace the residual may be the same rows as the output.
    Add(R),
    /// `cap * tanh(y / cap)`: final logit soft-capping.
    SoftCap(f32),
    /// `factor * y` (granite's logits).
    Scale(f32),
}

impl<R: Copy> Epilogue<R> {
    /// The rows that it reads beside the product.
    pub fn rows(&self) -> Option<R> {
        match *self {
            Epilogue::ActivationTimes { other: rows, .. } | Epilogue::Add(rows) => Some(rows),
            Epilogue::None
            | Epilogue::Activation(_)
            | Epilogue::Gated(_)
            | Epilogue::SoftCap(_)
            | Epilogue::Scale(_) => None,
        }
    }

    /// The same of rows that are named differently.
    ///
    /// # Errors
    /// What `place` returns.
    pub fn try_map<P, E>(self, place: impl FnOnce(R) -> Result<P, E>) -> Result<Epilogue<P>, E> {
        Ok(match self {
            Epilogue::None => Epilogue::None,
            Epilogue::Activation(function) => Epilogue::Activation(function),
            Epilogue::Gated(function) => Epilogue::Gated(function),
            Epilogue::ActivationTimes { function, other, start } => {
                Epilogue::ActivationTimes { function, other: place(other)?, start }
            }
            Epilogue::Add(residual) => Epilogue::Add(place(residual)?),
            Epilogue::SoftCap(cap) => Epilogue::SoftCap(cap),
            Epilogue::Scale(factor) => Epilogue::Scale(factor),
        })
    }
}

/// How the columns of a fused q, k, v projection are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkvOrder {
    /// All q heads, all k heads, all v heads.
    Sections,
    /// For each head its q, k and v (gpt_neox); heads equal kv_heads.
    PerHead,
    /// For each q head its q and as many columns of something else (qwen3_5's gate), then all k heads, all v heads.
    Gated,
}

/// What the norms of q and k are over, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// Over each head, before the rotation.
    #[default]
    Heads,
    /// Over all q heads of a row together, and over all its k heads, before the rotation (olmo2). Root mean square only;
    /// with [`QkvOrder::Sections`]; weights are as long as the heads.
    Row,
    /// Over each head, after the rotation (hunyuan).
    Rotated,
}

/// The factor `1 + beta * ln(1 + floor(position / original))`: what a query is rotated with grows beyond the positions that a
/// model was first trained for, so that attention over many positions stays sharp.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// How much the rotary magnitude grows with the logarithm of the position.
    pub beta: f32,
    /// Positions up to which it is 1; above 0.
    pub original: u32,
}

impl Growth {
    /// The factor at a position.
    pub fn at(&self, position: u32) -> f32 {
        1.0 + self.beta * ((1 + position / self.original.max(1)) as f32).ln()
    }
}

/// What a layer remembers of all tokens before a call, in float32 and in as many bytes however many they were.
///
/// At position 0 a state is zero by definition: an operation of a call that begins there does not read it. Otherwise it is what
/// the call with the tokens just before left. A call reads the state once, takes its tokens one after the other, and writes the
/// state once, so that results do not depend on how tokens are divided into calls. Beside each state a device keeps a second
/// copy, for the runtime to set one aside and come back to it: a state cannot be shortened as a cache can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StateLayer {
    /// `(taps - 1, channels)`: the last inputs of a convolution, the oldest first.
    Conv {
        /// Channels.
        channels: u32,
        /// Tokens that a sum is over, its own included.
        taps: u32,
    },
    /// `(heads, key_dim, value_dim)`: the matrices of the gated delta rule.
    Delta {
        /// Heads.
        heads: u32,
        /// Rows of a matrix.
        key_dim: u32,
        /// Columns of a matrix.
        value_dim: u32,
    },
}

impl StateLayer {
    /// Floats of one copy.
    pub const fn elements(&self) -> u64 {
        match *self {
            StateLayer::Conv { channels, taps } => channels as u64 * (taps as u64).saturating_sub(1),
            StateLayer::Delta { heads, key_dim, value_dim } => heads as u64 * key_dim as u64 * value_dim as u64,
        }
    }

    /// Bytes of one copy; a device holds two.
    pub const fn bytes(&self) -> u64 {
        4 * self.elements()
    }
}
