//! Qwen 2 and 2.5: llama with a bias on q, k and v.

use super::shared::{self, Defaults, LLAMA_LIKE, MlcConfig, Standard};
use crate::config::{Biases, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::graph::{Names, Projections, decoder};
use crate::registry::{Architecture, Family};
use serde_json::{Map, Value};

pub(crate) struct Qwen2;

pub(crate) const STANDARD: Standard = Standard { qkv: Some("c_attn"), ..shared::LLAMA };

/// Reads what Qwen 2 and 3 share: the window, which is on only with `use_sliding_window` and on the upper layers only.
pub(crate) fn read(family: Family, fields: &Fields<'_>, defaults: &Defaults) -> Result<ModelConfig, ConfigError> {
    let config = shared::decoder(family, fields, defaults)?;
    let on = fields.flag(&["use_sliding_window"], false)?;
    let window = if on { fields.positions(&["sliding_window"])? } else { None };
    let first = fields.count(&["max_window_layers"])?.unwrap_or(28);
    let layer_windows = shared::layer_windows(fields, config.layers, window, |layer| layer >= first)?;
    Ok(ModelConfig { layer_windows, ..config })
}

/// What the graph reads.
pub(crate) const GRAPH: Names = Names { projections: Projections::Fused("self_attn.c_attn"), ..decoder::LLAMA };

impl Architecture for Qwen2 {
    fn name(&self) -> &'static str {
        "qwen2"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["Qwen2ForCausalLM"]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        let biases = Biases { qkv: true, ..Biases::default() };
        Ok(ModelConfig { biases, ..read(Family::Qwen2, fields, &LLAMA_LIKE)? })
    }

    fn standard(&self) -> Standard {
        STANDARD
    }

    fn names(&self, _: &ModelConfig) -> Names {
        GRAPH
    }

    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value> {
        let map = MlcConfig::new(hf)
            .take("hidden_act", "silu")
            .take("hidden_size", config.hidden)
            .take("intermediate_size", config.intermediate);
        windows(rest(map, config), config).extra_rope_scaling(config).finish()
    }
}

/// The keys that Qwen 2 and 3 share, in MLC's order.
pub(crate) fn rest<'a>(map: MlcConfig<'a>, config: &ModelConfig) -> MlcConfig<'a> {
    map.take("num_attention_heads", config.heads)
        .take("num_hidden_layers", config.layers)
        .set("num_key_value_heads", config.kv_heads)
        .take("rms_norm_eps", config.norm_epsilon)
        .rope_base("rope_theta", config)
        .take("vocab_size", config.vocab)
        .set("tie_word_embeddings", config.tied_embeddings)
        .set("context_window_size", config.context_window)
        .set("prefill_chunk_size", config.prefill_chunk)
        .set("tensor_parallel_shards", 1)
        .set("head_dim", config.head_dim)
        .set("dtype", "float32")
        .set("max_batch_size", 128)
}

/// The keys of a window that is on.
pub(crate) fn windows<'a>(map: MlcConfig<'a>, config: &ModelConfig) -> MlcConfig<'a> {
    if config.layer_windows.iter().all(Option::is_none) {
        return map;
    }
    map.extra("use_sliding_window", false)
        .extra("sliding_window", Value::Null)
        .extra("max_window_layers", Value::Null)
        .extra("layer_types", Value::Null)
}
