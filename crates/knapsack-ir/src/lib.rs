//! The graph of a model between its family's definition and the launch plan.
//!
//! In: nothing but vocabulary from `knapsack-tensor`. `knapsack-models` builds a [`Graph`] of fine-grained operations from a
//! configuration, `knapsack-compiler` rewrites it to fused ones and lowers it to a launch plan.
//!
//! * [`Graph`], [`Op`]: single assignment form with typed values; the token axis `n` is symbolic, columns are static.
//! * [`interpret`]: the float32 reference that passes and devices are compared with.
//! * [`text`]: what graphs look like in file tests.
//! * [`infer`]: which operands an operation accepts and what it defines; [`verify`]: the invariants of a whole graph.

mod graph;
mod infer;
pub mod interpret;
mod op;
pub mod text;
mod verify;

pub use graph::{Graph, KvLayer, Node, Parameter, RopeTable, RowCount, Type, ValueId, Windows};
pub use infer::{TypeError, infer};
pub use knapsack_tensor::{Growth, NormPlace, ParameterId, QkvOrder, StateLayer, Storage};
pub use op::{AttentionGate, CausalConv, Columns, Epilogue, GatedDelta, Linear, Norm, Op, RopeAppend, Weight};
pub use verify::{MAX_COLUMNS, VerifyError, verify};
