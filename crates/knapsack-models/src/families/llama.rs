//! Llama 2 and 3.x and their kin: RMSNorm, rotary embedding, grouped-query attention, gated SiLU.

use super::rows::*;
use crate::config::{Biases, Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, LLAMA_LIKE};
use crate::table::{Modules, Section};
use crate::write::MlcConfig;
use serde_json::{Map, Value};

pub(crate) static LLAMA: Family = Family {
    name: "llama",
    architectures: &["LlamaForCausalLM"],
    models: "Llama 2, 3.x, TinyLlama, SmolLM2, DeepSeek-R1-Distill-Llama, MiniCPM5",
    read,
    write,
    ..BASE
};

/// What other families' rows differ from.
pub(crate) const BASE: Family = Family {
    name: "",
    architectures: &[],
    model_types: &[],
    models: "",
    checked: super::REFERENCE,
    modules: &MODULES,
    skips: &[],
    read,
    finish_mlc: read::apply_mlc_windows,
    write,
};

pub(crate) static MODULES: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[
            ATTENTION_NORM,
            MLP_NORM,
            QKV,
            QKV_BIAS,
            OUTPUT,
            OUTPUT_BIAS,
            GATE_UP,
            DOWN,
            GATE_UP_BIAS,
            DOWN_BIAS,
        ]),
        Section::Once(&[FINAL_NORM, HEAD]),
    ],
};

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let config = read::decoder(family, fields, &LLAMA_LIKE)?;
    Ok(ModelConfig { biases: biases(fields)?, ..config })
}

/// The biases that llama's keys turn on.
pub(crate) fn biases(fields: &Fields<'_>) -> Result<Biases, ConfigError> {
    let attention = fields.flag(&["attention_bias"], false)?;
    let mlp = fields.flag(&["mlp_bias"], false)?;
    Ok(Biases { qkv: attention, attention_output: attention, mlp, ..Biases::default() })
}

fn write(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    MlcConfig::new(hf)
        .llama_sizes(config)
        .set("tie_word_embeddings", config.tied_embeddings)
        .rope_base("position_embedding_base", config)
        .rope_scaling()
        .set("context_window_size", config.context_window)
        .set("prefill_chunk_size", config.prefill_chunk)
        .set("num_key_value_heads", config.attention().kv_heads)
        .set("head_dim", config.attention().head_dim)
        .set("tensor_parallel_shards", 1)
        .set("pipeline_parallel_stages", 1)
        .set("max_batch_size", 128)
        .set("disaggregation", false)
        .extra("attention_bias", false)
        .extra("mlp_bias", false)
        .finish()
}
