//! Llama 2 and 3.x and their kin: RMSNorm, rotary embedding, grouped-query attention, gated SiLU.

use super::shared::{self, Defaults, LLAMA_LIKE, MlcConfig};
use crate::config::{Biases, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::graph::{Names, decoder};
use crate::registry::{Architecture, Family};
use serde_json::{Map, Value};

pub(crate) struct Llama;

const DEFAULTS: Defaults = LLAMA_LIKE;

impl Architecture for Llama {
    fn name(&self) -> &'static str {
        "llama"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["LlamaForCausalLM"]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        let attention = fields.flag(&["attention_bias"], false)?;
        let biases = Biases {
            qkv: attention,
            attention_output: attention,
            mlp: fields.flag(&["mlp_bias"], false)?,
            head: false,
        };
        Ok(ModelConfig { biases, ..shared::decoder(Family::Llama, fields, &DEFAULTS)? })
    }

    fn names(&self, _: &ModelConfig) -> Names {
        decoder::LLAMA
    }

    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value> {
        MlcConfig::new(hf)
            .llama_sizes(config)
            .set("tie_word_embeddings", config.tied_embeddings)
            .rope_base("position_embedding_base", config)
            .rope_scaling()
            .set("context_window_size", config.context_window)
            .set("prefill_chunk_size", config.prefill_chunk)
            .set("num_key_value_heads", config.kv_heads)
            .set("head_dim", config.head_dim)
            .set("tensor_parallel_shards", 1)
            .set("pipeline_parallel_stages", 1)
            .set("max_batch_size", 128)
            .set("disaggregation", false)
            .extra("attention_bias", false)
            .extra("mlp_bias", false)
            .finish()
    }
}
