//! Model families: what a configuration says, which parameters a model has and where a checkpoint keeps them.
//!
//! In: the JSON of a checkpoint's `config.json` or of an `mlc-chat-config.json`. Out: a [`ModelConfig`] that means the same
//! whichever it came from, the list of [`Parameter`]s with their MLC names, shapes and sources, and the `model_config` of an
//! `mlc-chat-config.json`, and the model's graph ([`ModelConfig::graph`]). Neighbours: `knapsack-weights` converts by the parameter
//! list, `knapsack-compiler` compiles the graph.
//!
//! A family is a row of [`FAMILIES`] and a file in `families/`: its facts, its table of modules, and what reads and writes its
//! configuration. The rest reads tables and rows, and knows no family.

mod config;
mod error;
mod families;
mod fields;
mod graph;
mod parameter;
mod read;
mod registry;
mod rope;
mod table;
mod tensors;
mod usable;
mod write;

pub use config::{Attention, AttentionGate, Biases, Delta, Family, Layer, Mixer, ModelConfig, QueryKeyNorm};
pub use error::{ConfigError, TensorsError, UnsupportedFamily};
pub use graph::GraphError;
pub use parameter::{Parameter, ParameterKind, Source, StoredTensor, Transform};
pub use registry::FAMILIES;
pub use rope::{Rope, RopeFrequencies, RopeScaling};
pub use tensors::TensorUse;
pub use usable::{adapter, usable};
