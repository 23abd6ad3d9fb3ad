//! Qwen 2 and 2.5: llama with a bias on q, k and v.

use super::llama::BASE;
use super::rows::*;
use crate::config::{Biases, Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, Defaults, LLAMA_LIKE};
use crate::table::{Modules, Role, Row, Section, bias, row};
use crate::write::MlcConfig;
use serde_json::{Map, Value};

pub(crate) static QWEN2: Family = Family {
    name: "qwen2",
    architectures: &["Qwen2ForCausalLM"],
    models: "Qwen 2, 2.5",
    checked: super::GENERATED,
    modules: &MODULES,
    read,
    write,
    ..BASE
};

pub(crate) const C_ATTN: Row = row(Role::Qkv, "self_attn.c_attn", QKV_SOURCES);
pub(crate) const C_ATTN_BIAS: Row = bias(Role::Qkv, "self_attn.c_attn", QKV_SOURCES);

static MODULES: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[ATTENTION_NORM, MLP_NORM, C_ATTN, C_ATTN_BIAS, OUTPUT, GATE_UP, DOWN]),
        Section::Once(&[FINAL_NORM, HEAD]),
    ],
};

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let biases = Biases { qkv: true, ..Biases::default() };
    Ok(ModelConfig { biases, ..read_windowed(family, fields, &LLAMA_LIKE)? })
}

/// Reads what Qwen 2 and 3 share: the window, which is on only with `use_sliding_window` and on the upper layers only.
pub(crate) fn read_windowed(
    family: &'static Family,
    fields: &Fields<'_>,
    defaults: &Defaults,
) -> Result<ModelConfig, ConfigError> {
    let mut config = read::decoder(family, fields, defaults)?;
    let on = fields.flag(&["use_sliding_window"], false)?;
    let window = if on { fields.positions(&["sliding_window"])? } else { None };
    let first = fields.count(&["max_window_layers"])?.unwrap_or(28);
    config.set_windows(fields, &defaults.rope, window, |layer| layer >= first)?;
    Ok(config)
}

fn write(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    let map = MlcConfig::new(hf)
        .take("hidden_act", "silu")
        .take("hidden_size", config.hidden)
        .take("intermediate_size", config.intermediate());
    windows(rest(map, config), config).extra_rope_scaling(config).finish()
}

/// The keys that Qwen 2 and 3 share, in MLC's order.
pub(crate) fn rest<'a>(map: MlcConfig<'a>, config: &ModelConfig) -> MlcConfig<'a> {
    map.take("num_attention_heads", config.attention().heads)
        .take("num_hidden_layers", config.layers.len())
        .set("num_key_value_heads", config.attention().kv_heads)
        .take("rms_norm_eps", config.norm_epsilon)
        .rope_base("rope_theta", config)
        .take("vocab_size", config.vocab)
        .set("tie_word_embeddings", config.tied_embeddings)
        .set("context_window_size", config.context_window)
        .set("prefill_chunk_size", config.prefill_chunk)
        .set("tensor_parallel_shards", 1)
        .set("head_dim", config.attention().head_dim)
        .set("dtype", "float32")
        .set("max_batch_size", 128)
}

/// The keys of a window that is on.
pub(crate) fn windows<'a>(map: MlcConfig<'a>, config: &ModelConfig) -> MlcConfig<'a> {
    if config.window().is_none() {
        return map;
    }
    map.extra("use_sliding_window", false)
        .extra("sliding_window", Value::Null)
        .extra("max_window_layers", Value::Null)
        .extra("layer_types", Value::Null)
}
