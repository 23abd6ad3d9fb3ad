//! The graph and what it declares: parameters, rotary tables, cache layers, typed values.

use crate::Op;
use knapsack_tensor::{DType, Growth, ParameterId, StateLayer};
use std::fmt;

/// A value: the result of exactly one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// How many rows an activation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowCount {
    /// One for each token of the call: the symbolic axis `n`.
    Tokens,
    /// One: the row whose logits are wanted.
    One,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// `n` token ids.
    Tokens,
    /// Float32 rows.
    Rows {
        /// Known, or as many as the call has tokens.
        count: RowCount,
        /// Elements of a row.
        columns: u32,
    },
    /// A float32 weight matrix, `(rows, columns)` = (out_features, in_features).
    Matrix {
        /// out_features, or the vocabulary.
        rows: u32,
        /// in_features.
        columns: u32,
    },
    /// The cache of this layer with the call's tokens appended.
    Cache(u32),
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tokens => write!(f, "tokens"),
            Type::Rows { count: RowCount::Tokens, columns } => write!(f, "f32[n,{columns}]"),
            Type::Rows { count: RowCount::One, columns } => write!(f, "f32[1,{columns}]"),
            Type::Matrix { rows, columns } => write!(f, "matrix[{rows},{columns}]"),
            Type::Cache(layer) => write!(f, "cache[{layer}]"),
        }
    }
}

/// A weight tensor by its MLC name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name in the weight index.
    pub name: String,
    /// Outermost axis first.
    pub shape: Vec<u64>,
    /// Stored element type.
    pub dtype: DType,
}

/// Rotary frequencies of some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Radians per position of each pair.
    pub frequencies: Vec<f32>,
    /// Multiplier of cosine and sine.
    pub magnitude: f32,
    /// A further multiplier, which grows with the position.
    pub growth: Option<Growth>,
}

/// What is cached for a layer, without saying how many positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvLayer {
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Positions that a query sees, its own included; `None`: all.
    pub window: Option<u32>,
    /// First positions that stay visible beyond the window.
    pub sinks: u32,
    /// Element type.
    pub dtype: DType,
}

/// The window sizes that a model is compiled for; all of them at least 1 but `sinks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Windows {
    /// Most positions of a conversation. With a sliding window it is only what rope scaling is chosen by.
    pub context: u32,
    /// Positions that a query sees on every layer; there is no end of the conversation then.
    pub sliding: Option<u32>,
    /// First positions that stay visible beyond the sliding window.
    pub sinks: u32,
    /// Most tokens of one prefill call.
    pub chunk: u32,
}

/// One operation and the values that it defines.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operation with its operands and attributes.
    pub op: Op,
    /// What it defines, in the order that the operation documents.
    pub results: Vec<(ValueId, Type)>,
}

/// A model as operations in static single assignment form, in an executable order.
///
/// It has one input, the call's tokens, and one result, the logits of one selected row. [`Op::SelectRow`] stands where the
/// residual stream of all tokens ends; what depends on it has one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Family, such as `llama`.
    pub family: String,
    /// Quantization format, such as `q4f16_1`.
    pub quantization: String,
    /// Columns of the logits.
    pub vocab: u32,
    /// Columns of the residual stream.
    pub hidden: u32,
    /// Layers, however they mix tokens.
    pub layers: u32,
    /// Every weight.
    pub parameters: Vec<Parameter>,
    /// Every rotary table.
    pub rope_tables: Vec<RopeTable>,
    /// One entry for each layer that keeps keys and values.
    pub kv_layers: Vec<KvLayer>,
    /// What layers remember that keep none.
    pub states: Vec<StateLayer>,
    /// Every value is defined before it is used.
    pub nodes: Vec<Node>,
    /// Logits of every row.
    pub output: ValueId,
}

impl Graph {
    /// One more than the largest value number.
    pub fn value_bound(&self) -> usize {
        self.nodes.iter().flat_map(|node| &node.results).map(|(id, _)| id.0 as usize + 1).max().unwrap_or(0)
    }

    /// The types of all values, by number; `None` for numbers that are not defined.
    pub fn types(&self) -> Vec<Option<Type>> {
        let mut types = vec![None; self.value_bound()];
        for &(id, ty) in self.nodes.iter().flat_map(|node| &node.results) {
            types[id.0 as usize] = Some(ty);
        }
        types
    }

    /// A parameter, if there is one of this number.
    pub fn parameter(&self, id: ParameterId) -> Option<&Parameter> {
        self.parameters.get(id.0 as usize)
    }
}
