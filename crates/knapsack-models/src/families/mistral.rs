//! Mistral 7B: llama with an optional sliding window on every layer.

use super::llama::BASE;
use crate::config::{Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, LLAMA_LIKE};
use crate::write::MlcConfig;
use serde_json::{Map, Value};

pub(crate) static MISTRAL: Family =
    Family { name: "mistral", architectures: &["MistralForCausalLM"], models: "Mistral 7B", read, write, ..BASE };

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    // MLC writes -1 for the context of a model with a window.
    let window = fields.positions(&["sliding_window_size"])?;
    let mut config = read::decoder_with_context(family, fields, &LLAMA_LIKE, window)?;
    if !fields.mlc {
        config.sliding_window = fields.positions(&["sliding_window"])?;
        if let Some(window) = config.sliding_window {
            config.context_window = None;
            config.prefill_chunk = config.prefill_chunk.min(window);
        }
    }
    Ok(config)
}

fn write(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    MlcConfig::new(hf)
        .llama_sizes(config)
        .rope_base("position_embedding_base", config)
        .set("num_key_value_heads", config.attention().kv_heads)
        .set("head_dim", config.attention().head_dim)
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
