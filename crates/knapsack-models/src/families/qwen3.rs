//! Qwen 3: normalized q and k heads, an explicit head size, no biases.

use super::llama::BASE;
use super::qwen2::{self, C_ATTN, C_ATTN_BIAS};
use super::rows::*;
use crate::config::{Biases, Family, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{Defaults, LLAMA_LIKE};
use crate::table::{Modules, Section};
use crate::write::MlcConfig;
use serde_json::{Map, Value};

pub(crate) static QWEN3: Family = Family {
    name: "qwen3",
    architectures: &["Qwen3ForCausalLM"],
    models: "Qwen 3",
    modules: &MODULES,
    read,
    write,
    ..BASE
};

static MODULES: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[
            ATTENTION_NORM,
            MLP_NORM,
            C_ATTN,
            C_ATTN_BIAS,
            OUTPUT,
            OUTPUT_BIAS,
            QUERY_NORM,
            KEY_NORM,
            GATE_UP,
            DOWN,
        ]),
        Section::Once(&[FINAL_NORM, HEAD]),
    ],
};

const DEFAULTS: Defaults = Defaults { prefill_chunk: 2048, ..LLAMA_LIKE };

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let bias = fields.flag(&["attention_bias"], false)?;
    Ok(ModelConfig {
        biases: Biases { qkv: bias, attention_output: bias, ..Biases::default() },
        query_key_norm: QueryKeyNorm::Shared,
        ..qwen2::read_windowed(family, fields, &DEFAULTS)?
    })
}

fn write(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    let map = MlcConfig::new(hf)
        .take("hidden_act", "silu")
        .take("hidden_size", config.hidden)
        .take("intermediate_size", config.intermediate())
        .set("attention_bias", config.biases.qkv);
    let map = qwen2::rest(map, config).set("weight_block_size", Value::Null);
    qwen2::windows(map, config).extra_rope_scaling(config).finish()
}
