//! Gemma 1: norms with an implicit one, scaled embeddings that also give the logits, gated GELU.

use super::shared::{self, Defaults, LLAMA_LIKE, MlcConfig, Standard};
use crate::config::ModelConfig;
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::graph::{Names, decoder};
use crate::parameter::Transform;
use crate::registry::{Architecture, Family};
use knapsack_tensor::Activation;
use serde_json::{Map, Value};

pub(crate) struct Gemma;

pub(crate) const DEFAULTS: Defaults =
    Defaults { activation: Activation::GeluTanh, tied_embeddings: true, ..LLAMA_LIKE };

const STANDARD: Standard = Standard { norm_transform: Transform::AddOne, ..shared::LLAMA };

/// Reads what every Gemma has.
pub(crate) fn read(family: Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = shared::decoder(family, fields, &DEFAULTS)?;
    // Transformers computes `gelu` in the tanh form for Gemma 1, whose first configurations were wrong about it.
    if config.activation == Activation::Gelu {
        config.activation = Activation::GeluTanh;
    }
    if fields.flag(&["attention_bias"], false)? {
        let found = "true".to_owned();
        return Err(ConfigError::NotSupported { key: "attention_bias".to_owned(), found, family: family.name() });
    }
    config.embedding_scale = f64::from(config.hidden).sqrt() as f32;
    Ok(config)
}

/// The `model_config` that Gemma 1 and 2 share.
pub(crate) fn model_config<'a>(config: &ModelConfig, hf: &'a Value) -> MlcConfig<'a> {
    let activation = hf.get("hidden_activation").or_else(|| hf.get("hidden_act")).filter(|value| !value.is_null());
    MlcConfig::new(hf)
        .take("hidden_size", config.hidden)
        .take("intermediate_size", config.intermediate)
        .set("attention_bias", false)
        .take("num_attention_heads", config.heads)
        .set("num_key_value_heads", config.kv_heads)
        .set("head_dim", config.head_dim)
        .take("num_hidden_layers", config.layers)
        .take("rms_norm_eps", config.norm_epsilon)
        .take("vocab_size", config.vocab)
        .set("hidden_activation", activation.cloned().unwrap_or_else(|| Value::from("gelu_pytorch_tanh")))
        .rope_base("position_embedding_base", config)
        .set("context_window_size", config.context_window)
        .set("prefill_chunk_size", config.prefill_chunk)
        .set("tensor_parallel_shards", 1)
        .set("max_batch_size", 128)
        .extra("tie_word_embeddings", true)
        .extra_rope_scaling(config)
}

impl Architecture for Gemma {
    fn name(&self) -> &'static str {
        "gemma"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["GemmaForCausalLM"]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        read(Family::Gemma, fields)
    }

    fn standard(&self) -> Standard {
        STANDARD
    }

    fn names(&self, _: &ModelConfig) -> Names {
        decoder::LLAMA
    }

    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value> {
        model_config(config, hf).finish()
    }
}
