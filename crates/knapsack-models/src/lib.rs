//! Model families: what a configuration says, which parameters a model has and where a checkpoint keeps them.
//!
//! In: the JSON of a checkpoint's `config.json` or of an `mlc-chat-config.json`. Out: a [`ModelConfig`] that means the same
//! whichever it came from, the list of [`Parameter`]s with their MLC names, shapes and sources, and the `model_config` of an
//! `mlc-chat-config.json`, and the model's graph ([`ModelConfig::graph`]). Neighbours: `knapsack-weights` converts by the parameter
//! list, `knapsack-compiler` compiles the graph.
//!
//! One file per family in `families/`; what they share is in `families/shared.rs`. Adding a family is adding a file and a line in
//! [`Family`].

mod config;
mod error;
mod families;
mod fields;
mod graph;
mod parameter;
mod registry;
mod rope;

pub use config::{Biases, ModelConfig, QueryKeyNorm};
pub use error::{ConfigError, TensorsError, UnsupportedFamily};
pub use graph::GraphError;
pub use parameter::{Parameter, ParameterKind, Source, StoredTensor, Transform};
pub use registry::{FAMILIES, Family};
pub use rope::{Rope, RopeFrequencies, RopeScaling};
