use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 binary32.
    #[serde(rename = "float32")]
    F32,
    /// IEEE 754 binary16.
    #[serde(rename = "float16")]
    F16,
    /// The upper half of a binary32.
    #[serde(rename = "bfloat16")]
    BF16,
    /// Packed quantization codes.
    #[serde(rename = "uint32")]
    U32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> u64 {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The name that MLC writes: `float32`, `float16`, `bfloat16`, `uint32`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::U32 => "uint32",
        }
    }

    /// Bytes of a tensor of `shape`, or `None` when that overflows.
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        shape.iter().try_fold(self.size(), |bytes, &dim| bytes.checked_mul(dim))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A dtype name that is none of [`DType`]'s.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown dtype `{0}`")]
pub struct UnknownDType(pub String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, UnknownDType> {
        [DType::F32, DType::F16, DType::BF16, DType::U32]
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| UnknownDType(name.to_owned()))
    }
}
