//! Mistral 7B: llama with an optional sliding window on every layer.

use super::shared::{self, LLAMA_LIKE, MlcConfig};
use crate::config::ModelConfig;
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::graph::{Names, decoder};
use crate::registry::{Architecture, Family};
use serde_json::{Map, Value};

pub(crate) struct Mistral;

impl Architecture for Mistral {
    fn name(&self) -> &'static str {
        "mistral"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["MistralForCausalLM"]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        // MLC writes -1 for the context of a model with a window.
        let window = fields.positions(&["sliding_window_size"])?;
        shared::decoder_with_context(Family::Mistral, fields, &LLAMA_LIKE, window)
    }

    fn read_hf(&self, config: &Value) -> Result<ModelConfig, ConfigError> {
        let fields = Fields::new(config)?;
        let mut config = self.read(&fields)?;
        config.sliding_window = fields.positions(&["sliding_window"])?;
        if let Some(window) = config.sliding_window {
            config.context_window = None;
            config.prefill_chunk = config.prefill_chunk.min(window);
        }
        Ok(config)
    }

    fn names(&self, _: &ModelConfig) -> Names {
        decoder::LLAMA
    }

    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value> {
        MlcConfig::new(hf)
            .llama_sizes(config)
            .rope_base("position_embedding_base", config)
            .set("num_key_value_heads", config.kv_heads)
            .set("head_dim", config.head_dim)
            .set("context_window_size", config.context_window.map_or(Value::from(-1), Value::from))
            .set("sliding_window_size", config.sliding_window.map_or(Value::from(-1), Value::from))
            .set("prefill_chunk_size", config.prefill_chunk)
            .set("attention_sink_size", config.attention_sinks)
            .set("tensor_parallel_shards", 1)
            .set("max_batch_size", 128)
            .extra("tie_word_embeddings", false)
            .extra("hidden_act", "silu")
            .extra_rope_scaling(config)
            .finish()
    }
}
