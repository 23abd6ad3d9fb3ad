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

/// How codes are packed: the numbers that every kernel, routine and packing loop follows. Codes fill `u32` words from the lowest
/// bits up, words fill groups, and a scale belongs to a group. Devices walk the words in *steps* of four, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grouping {
    /// Bits of a code.
    pub bits: u32,
    /// Elements along K that share a scale: a whole number of steps.
    pub group: u32,
}

/// Work that is compiled once for each width of codes.
pub trait WithBits {
    /// What it gives.
    type Output;
    /// The work for codes of `BITS` bits, which [`Grouping::of`] knows.
    fn run<const BITS: u32>(self) -> Self::Output;
}

macro_rules! groupings {
    ($($bits:literal bits by $group:literal),+) => {
        /// Every grouping that can be converted to and executed; one for each width of codes.
        pub const GROUPINGS: &[Grouping] = &[$(Grouping { bits: $bits, group: $group }),+];

        /// Runs `work` as compiled for codes of `bits` bits; `None` when no grouping has such codes.
        #[inline(always)]
        pub fn with_bits<W: WithBits>(bits: u32, work: W) -> Option<W::Output> {
            match bits {
                $($bits => Some(work.run::<$bits>()),)+
                _ => None,
            }
        }
    };
}

groupings!(3 bits by 40, 4 bits by 32, 8 bits by 32);

impl Grouping {
    /// Words of a step: 16 bytes, what a lane loads at once.
    pub(crate) const STEP_WORDS: u32 = 4;

    /// The grouping with codes of `bits` bits.
    ///
    /// # Panics
    /// When [`GROUPINGS`] has none.
    pub const fn of(bits: u32) -> Self {
        let mut index = 0;
        while index < GROUPINGS.len() {
            if GROUPINGS[index].bits == bits {
                return GROUPINGS[index];
            }
            index += 1;
        }
        panic!("no grouping has codes of so many bits")
    }

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

    /// Elements of a step.
    pub const fn step(&self) -> u32 {
        Self::STEP_WORDS * self.codes_per_word()
    }

    /// Steps that share a scale.
    pub const fn steps_per_group(&self) -> u32 {
        self.group / self.step()
    }

    /// Groups along an axis of `k` elements; the last may be partly padding.
    pub const fn groups(&self, k: u64) -> u64 {
        k.div_ceil(self.group as u64)
    }

    /// Steps along an axis of `k` elements, whole groups.
    pub const fn steps(&self, k: u64) -> u64 {
        self.groups(k) * self.steps_per_group() as u64
    }

    /// Words along an axis of `k` elements, whole groups.
    pub const fn words(&self, k: u64) -> u64 {
        self.groups(k) * self.words_per_group() as u64
    }
}

/// Symmetric group quantization without a stored zero point: `w = (code - max_int) * scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupFormat {
    /// Bits of a code, see [`Grouping::bits`].
    pub bits: u32,
    /// Elements along K that share a scale, see [`Grouping::group`].
    pub group: u32,
    /// Which axis is contiguous.
    pub layout: Layout,
    /// Element type of the scales as they are stored.
    pub scale: DType,
}

impl GroupFormat {
    /// How codes are packed.
    pub const fn grouping(&self) -> Grouping {
        Grouping { bits: self.bits, group: self.group }
    }

    /// Whether there are kernels and routines for it: its grouping is one of [`GROUPINGS`], its scales have 16 bits.
    pub fn is_executable(&self) -> bool {
        GROUPINGS.contains(&self.grouping()) && matches!(self.scale, DType::F16 | DType::BF16)
    }

    /// As [`Grouping::max_int`].
    pub const fn max_int(&self) -> u32 {
        self.grouping().max_int()
    }

    /// As [`Grouping::codes_per_word`].
    pub const fn codes_per_word(&self) -> u32 {
        self.grouping().codes_per_word()
    }

    /// As [`Grouping::words_per_group`].
    pub const fn words_per_group(&self) -> u32 {
        self.grouping().words_per_group()
    }

    /// As [`Grouping::groups`].
    pub const fn groups(&self, k: u64) -> u64 {
        self.grouping().groups(k)
    }

    /// As [`Grouping::words`].
    pub const fn words(&self, k: u64) -> u64 {
        self.grouping().words(k)
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

/// A quantization format. Names, arithmetic and layout are MLC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// Its name, such as `q4f16_1`: bits of a code, model dtype, variant.
    pub name: &'static str,
    /// Element type in which the reference computes, and of every tensor that is not quantized.
    pub model_dtype: DType,
    /// Grouping and layout of linear weights; `None` when nothing is quantized.
    group: Option<(Grouping, Layout)>,
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
    Quantization { name, model_dtype, group: Some((Grouping::of(bits), layout)), quantize_embedding }
}

const fn plain(name: &'static str, model_dtype: DType) -> Quantization {
    Quantization { name, model_dtype, group: None, quantize_embedding: false }
}

/// Every supported format.
pub const QUANTIZATIONS: [Quantization; 12] = [
    grouped("q3f16_0", DType::F16, 3, Layout::Kn, true),
    grouped("q3f16_1", DType::F16, 3, Layout::Nk, true),
    grouped("q4f16_0", DType::F16, 4, Layout::Kn, true),
    grouped("q4f16_1", DType::F16, 4, Layout::Nk, true),
    grouped("q4f16_2", DType::F16, 4, Layout::Nk, false),
    grouped("q4bf16_0", DType::BF16, 4, Layout::Kn, true),
    grouped("q4bf16_1", DType::BF16, 4, Layout::Nk, true),
    grouped("q4f32_1", DType::F32, 4, Layout::Nk, true),
    // Not one of MLC's: where four bits hurt, small models above all.
    grouped("q8f16_1", DType::F16, 8, Layout::Nk, true),
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
            Some((Grouping { bits, group }, layout)) => {
                Some(GroupFormat { bits, group, layout, scale: self.stored_dtype() })
            }
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
