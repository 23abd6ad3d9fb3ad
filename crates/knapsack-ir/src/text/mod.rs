//! The text form of a graph, for file tests and for people: [`print()`] writes it, [`parse`] reads it back.
//!
//! One declaration or node a line; `//` starts a comment. First `graph FAMILY QUANTIZATION vocab=V hidden=H`, then declarations
//! in the order of their numbers, then nodes in order, at last the output:
//!
//! ```text
//! graph llama q4f16_1 vocab=768 hidden=128 layers=1
//! param @0 model.embed_tokens.q_weight uint32[768,16]
//! rope magnitude=1 growth=- 1 0.1 0.01
//! cache heads=2 head_dim=32 window=- sinks=0 dtype=float16
//! %0:tokens = tokens
//! %1:matrix[768,128] = dequantize 4:32:NK:float16:@0:@1:768x128
//! %2:f32[n,128] = embed %1 %0
//! return %2
//! ```
//!
//! Absent things are `-`. A matrix is `dense:@P:ROWSxCOLUMNS` or `BITS:GROUP:LAYOUT:SCALE:@CODES:@SCALES:ROWSxCOLUMNS`, a
//! normalization `KIND:EPSILON:WIDTH:@WEIGHT:@BIAS`. Numbers are written with as many digits as it takes to read them back.

mod node;
mod parse;
mod print;
mod words;

pub use parse::{ParseError, parse};
pub use print::print;

#[cfg(test)]
mod tests;
