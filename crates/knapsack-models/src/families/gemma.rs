//! Gemma 1: norms with an implicit one, scaled embeddings that also give the logits, gated GELU.

use super::llama::BASE;
use super::rows::*;
use crate::config::{Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, Defaults, LLAMA_LIKE};
use crate::table::{Change, Modules, Section};
use crate::write::MlcConfig;
use knapsack_tensor::Activation;
use serde_json::Value;

pub(crate) static GEMMA: Family = Family {
    name: "gemma",
    architectures: &["GemmaForCausalLM"],
    models: "Gemma 1",
    checked: super::GENERATED,
    modules: &MODULES,
    read,
    write: |config, hf| model_config(config, hf).finish(),
    ..BASE
};

static MODULES: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[
            ATTENTION_NORM.with(Change::AddOne),
            MLP_NORM.with(Change::AddOne),
            QKV,
            OUTPUT,
            GATE_UP,
            DOWN,
        ]),
        Section::Once(&[FINAL_NORM.with(Change::AddOne), HEAD]),
    ],
};

pub(crate) const DEFAULTS: Defaults =
    Defaults { activation: Activation::GeluTanh, tied_embeddings: true, ..LLAMA_LIKE };

/// Reads what every Gemma has.
pub(crate) fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = read::decoder(family, fields, &DEFAULTS)?;
    // Transformers computes `gelu` in the tanh form for Gemma 1, whose first configurations were wrong about it.
    if config.activation == Activation::Gelu {
        config.activation = Activation::GeluTanh;
    }
    read::must_be_off(family, fields, &["attention_bias"])?;
    config.embedding_scale = f64::from(config.hidden).sqrt() as f32;
    Ok(config)
}

/// The `model_config` that Gemma 1 and 2 share.
pub(crate) fn model_config<'a>(config: &ModelConfig, hf: &'a Value) -> MlcConfig<'a> {
    let activation = hf.get("hidden_activation").or_else(|| hf.get("hidden_act")).filter(|value| !value.is_null());
    MlcConfig::new(hf)
        .take("hidden_size", config.hidden)
        .take("intermediate_size", config.intermediate())
        .set("attention_bias", false)
        .take("num_attention_heads", config.attention().heads)
        .set("num_key_value_heads", config.attention().kv_heads)
        .set("head_dim", config.attention().head_dim)
        .take("num_hidden_layers", config.layers.len())
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
