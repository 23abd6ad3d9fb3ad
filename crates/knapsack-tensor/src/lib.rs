//! The vocabulary that every other crate shares: element types, quantization formats, the scalar reference codecs and the
//! few attributes and operands of operations that mean the same in the graph and in a compiled library.
//!
//! Nothing comes before this crate in the data flow and it touches neither files nor devices. Its codecs are the definition
//! of each format: fast routines elsewhere are tested against them.

mod attributes;
mod codec;
mod dtype;
mod operands;
mod quantization;

pub use attributes::{Activation, NormKind};
pub use codec::{dequantize_group, pack_group, quantize_group, unpack_group};
pub use dtype::{DType, UnknownDType};
pub use operands::{Epilogue, Growth, NormPlace, ParameterId, QkvOrder, StateLayer, Storage};
pub use quantization::{
    GROUPINGS, GroupFormat, Grouping, Layout, QUANTIZATIONS, Quantization, UnknownQuantization, WithBits, with_bits,
};
