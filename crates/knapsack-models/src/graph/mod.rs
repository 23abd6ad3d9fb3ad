//! Graphs of models.
//!
//! [`ModelConfig::graph`] is the way in. Families share one decoder ([`decoder`]); what differs between them is the values in
//! their configuration and their table of modules. Operations are written one by one, as the model's definition has them: fusing
//! is the compiler's business.

mod builder;
mod decoder;

use builder::Builder;

use crate::config::ModelConfig;
use knapsack_ir::{Graph, TypeError, Windows};
use knapsack_tensor::Quantization;

/// Why a configuration has no graph.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum GraphError {
    /// The family's graph reads a parameter that its parameter list lacks.
    #[error("{family} has no parameter `{name}`")]
    Parameter { family: &'static str, name: String },
    /// Sizes that do not fit together.
    #[error("the {op} of {family} does not fit")]
    Shape {
        family: &'static str,
        /// The operation's name.
        op: &'static str,
        /// What does not fit.
        #[source]
        problem: TypeError,
    },
}

impl ModelConfig {
    /// The model as a graph, with its weights in the format of `quantization`, for the given window sizes: they decide what each
    /// layer's cache shows, and `windows.context` what longrope and dynamic rope scaling choose their frequencies by.
    ///
    /// # Errors
    /// When sizes in the configuration do not fit together.
    pub fn graph(&self, quantization: &Quantization, windows: &Windows) -> Result<Graph, GraphError> {
        decoder::decoder(Builder::new(self, quantization, windows))
    }

    /// The window sizes that the configuration itself asks for. Where a sliding window leaves the conversation without an end,
    /// `context` is the number of positions that the model was trained for.
    pub fn own_windows(&self) -> Windows {
        let fallback = self.trained_positions.or(self.sliding_window).unwrap_or(self.prefill_chunk);
        Windows {
            context: self.context_window.unwrap_or(fallback),
            sliding: self.sliding_window,
            sinks: self.attention_sinks,
            chunk: self.prefill_chunk,
        }
    }
}
