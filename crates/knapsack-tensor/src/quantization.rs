use crate::DType;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which axis of a quantized matrix is contiguous. `N` is out_features, `K` is in_features (along which groups run).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Layout {
    /// Codes are `(K words, N)`, scales `(groups, N)`: the `_0` formats.
    #[serde(rename = "KN")]
    Kn,
    /// Codes are `(N, K words)`, scales `(N, groups)`: the `_1` and `_2` formats, and every quantized embedding.
    #[serde(rename = "NK")]
    Nk,
}

/// Symmetric group quantization without a stored zero point: `w = (code - max_int) * scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupFormat {
    /// Bits of a code: 3 or 4.
    pub bits: u32,
    /// Elements along K that share a scale: 40 for 3 bits, 32 for 4.
    pub group: u32,
    /// Which axis is contiguous.
    pub layout: Layout,
    /// Element type of the scales as they are stored.
    pub scale: DType,
}

impl GroupFormat {
    /// Code of the value zero: `2^(bits-1) - 1`. Codes are `0..=2 * max_int`.
    pub const fn max_int(&self) -> u32 {
        (1 << (self.bits - 1)) - 1
    }

    /// Codes in one `u32`, lowest bits first.
    pub const fn codes_per_word(&self) -> u32 {
        32 / self.bits
    }

    /// `u32` words of one group.
    pub const fn words_per_group(&self) -> u32 {
        self.group / self.codes_per_word()
    }

    /// Groups along an axis of `k` elements; the last may be partly padding.
    pub const fn groups(&self, k: u64) -> u64 {
        k.div_ceil(self.group as u64)
    }

    /// Words along an axis of `k` elements, whole groups.
    pub const fn words(&self, k: u64) -> u64 {
        self.groups(k) * self.words_per_group() as u64
    }

    /// Shape of the code tensor of an `(n, k)` matrix.
    pub const fn code_shape(&self, n: u64, k: u64) -> [u64; 2] {
        match self.layout {
            Layout::Nk => [n, self.words(k)],
            Layout::Kn => [self.words(k), n],
        }
    }

    /// Shape of the scale tensor of an `(n, k)` matrix.
    pub const fn scale_shape(&self, n: u64, k: u64) -> [u64; 2] {
        match self.layout {
            Layout::Nk => [n, self.groups(k)],
            Layout::Kn => [self.groups(k), n],
        }
    }

    /// The same format with rows contiguous, as embeddings are stored.
    pub const fn row_major(self) -> Self {
        GroupFormat { layout: Layout::Nk, ..self }
    }
}

/// One of MLC's quantization formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// MLC's name, such as `q4f16_1`.
    pub name: &'static str,
    /// Element type in which the reference computes, and of every tensor that is not quantized.
    pub model_dtype: DType,
    /// Bits, group and layout of linear weights; `None` when nothing is quantized.
    group: Option<(u32, u32, Layout)>,
    /// Whether the embedding and the final linear layer (`lm_head`) are quantized too.
    pub quantize_embedding: bool,
}

const fn grouped(
    name: &'static str,
    model_dtype: DType,
    bits: u32,
    layout: Layout,
    quantize_embedding: bool,
) -> Quantization {
    let group = if bits == 3 { 40 } else { 32 };
    Quantization { name, model_dtype, group: Some((bits, group, layout)), quantize_embedding }
}

const fn plain(name: &'static str, model_dtype: DType) -> Quantization {
    Quantization { name, model_dtype, group: None, quantize_embedding: false }
}

/// Every supported format.
pub const QUANTIZATIONS: [Quantization; 11] = [
    grouped("q3f16_0", DType::F16, 3, Layout::Kn, true),
    grouped("q3f16_1", DType::F16, 3, Layout::Nk, true),
    grouped("q4f16_0", DType::F16, 4, Layout::Kn, true),
    grouped("q4f16_1", DType::F16, 4, Layout::Nk, true),
    grouped("q4f16_2", DType::F16, 4, Layout::Nk, false),
    grouped("q4bf16_0", DType::BF16, 4, Layout::Kn, true),
    grouped("q4bf16_1", DType::BF16, 4, Layout::Nk, true),
    grouped("q4f32_1", DType::F32, 4, Layout::Nk, true),
    plain("q0f16", DType::F16),
    plain("q0bf16", DType::BF16),
    plain("q0f32", DType::F32),
];

impl Quantization {
    /// Element type in which plain tensors and scales are stored and held: float32 models are stored as bfloat16 (MLC's
    /// `f32-to-bf16` records), which loses nothing more by staying so in memory.
    pub const fn stored_dtype(&self) -> DType {
        match self.model_dtype {
            DType::F32 => DType::BF16,
            other => other,
        }
    }

    /// How linear weights are grouped, or `None` when they are stored plainly.
    pub const fn linear(&self) -> Option<GroupFormat> {
        match self.group {
            Some((bits, group, layout)) => Some(GroupFormat { bits, group, layout, scale: self.stored_dtype() }),
            None => None,
        }
    }

    /// How the embedding table is grouped (always row-major), or `None` when it is stored plainly.
    pub const fn embedding(&self) -> Option<GroupFormat> {
        match self.linear() {
            Some(format) if self.quantize_embedding => Some(format.row_major()),
            _ => None,
        }
    }

    /// How the final linear layer is grouped, or `None` when it is stored plainly.
    pub const fn final_linear(&self) -> Option<GroupFormat> {
        if self.quantize_embedding { self.linear() } else { None }
    }

    /// Element type of the KV cache: 2 bytes an element, except for float32 models.
    pub const fn kv_dtype(&self) -> DType {
        match self.model_dtype {
            DType::F32 => DType::F32,
            _ => DType::F16,
        }
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// A quantization name that is none of [`QUANTIZATIONS`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown quantization `{0}`")]
pub struct UnknownQuantization(pub String);

impl FromStr for Quantization {
    type Err = UnknownQuantization;

    fn from_str(name: &str) -> Result<Self, UnknownQuantization> {
        QUANTIZATIONS.into_iter().find(|q| q.name == name).ok_or_else(|| UnknownQuantization(name.to_owned()))
    }
}
