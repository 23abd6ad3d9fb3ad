//! StableLM 3B and 2: LayerNorm, partial rotation, gated SiLU; optional bias on q, k, v, normalized heads and parallel residual.

use super::llama::BASE;
use super::rows::*;
use crate::config::{Biases, Family, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, Defaults, LLAMA_LIKE};
use crate::rope::{PLAIN, RopeDefaults};
use crate::table::{Modules, Role, Section, row};
use crate::write::MlcConfig;
use knapsack_tensor::NormKind;
use serde_json::{Map, Value};

pub(crate) static STABLELM: Family = Family {
    name: "stablelm",
    architectures: &["StableLmForCausalLM", "StableLMEpochForCausalLM"],
    model_types: &["stablelm_epoch"],
    models: "StableLM 3B, StableLM 2",
    checked: super::GENERATED,
    modules: &SEQUENTIAL,
    read,
    write,
    ..BASE
};

const HEAD_NORMS: Section = Section::Layers(&[
    row(Role::QueryNorm, "self_attn.q_layernorm", &["self_attn.q_layernorm"]),
    row(Role::KeyNorm, "self_attn.k_layernorm", &["self_attn.k_layernorm"]),
]);

static SEQUENTIAL: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[ATTENTION_NORM, MLP_NORM, QKV, QKV_BIAS, OUTPUT, GATE_UP, DOWN]),
        Section::Once(&[FINAL_NORM, HEAD]),
        HEAD_NORMS,
    ],
};

/// With a parallel residual, attention and feed-forward network share the norm.
static PARALLEL: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[ATTENTION_NORM, QKV, QKV_BIAS, OUTPUT, GATE_UP, DOWN]),
        Section::Once(&[FINAL_NORM, HEAD]),
        HEAD_NORMS,
    ],
};

const DEFAULTS: Defaults =
    Defaults { norm: NormKind::Layer, norm_epsilon: 1e-5, rope: RopeDefaults { partial: 0.25, ..PLAIN }, ..LLAMA_LIKE };

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let config = read::decoder(family, fields, &DEFAULTS)?;
    let per_head = fields.flag(&["qk_layernorm"], false)?;
    let parallel_residual = fields.flag(&["use_parallel_residual"], false)?;
    Ok(ModelConfig {
        modules: if parallel_residual { &PARALLEL } else { &SEQUENTIAL },
        biases: Biases { qkv: fields.flag(&["use_qkv_bias"], false)?, ..Biases::default() },
        parallel_residual,
        query_key_norm: if per_head { QueryKeyNorm::PerHead } else { QueryKeyNorm::None },
        ..config
    })
}

fn write(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    MlcConfig::new(hf)
        .take("vocab_size", config.vocab)
        .take("hidden_size", config.hidden)
        .take("num_hidden_layers", config.layers.len())
        .take("num_attention_heads", config.attention().heads)
        .set("num_key_value_heads", config.attention().kv_heads)
        .take("layer_norm_eps", config.norm_epsilon)
        .rotated_share("partial_rotary_factor", config)
        .rope_base("rope_theta", config)
        .take("intermediate_size", config.intermediate())
        .set("use_qkv_bias", config.biases.qkv)
        .set("head_dim", config.attention().head_dim)
        .set("context_window_size", config.context_window)
        .set("prefill_chunk_size", config.prefill_chunk)
        .set("tensor_parallel_shards", 1)
        .set("max_batch_size", 128)
        .extra("tie_word_embeddings", false)
        .extra("use_parallel_residual", false)
        .extra("qk_layernorm", false)
        .extra("hidden_act", "silu")
        .extra_rope_scaling(config)
        .finish()
}
