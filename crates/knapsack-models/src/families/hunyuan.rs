//! Hunyuan, dense: llama with norms of q and k heads after the rotation.

use super::llama::{self, BASE};
use super::rows::*;
use crate::config::{Family, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, Defaults, LLAMA_LIKE};
use crate::table::{Modules, Role, Section, row};
use crate::write::whole_config;

pub(crate) static HUNYUAN: Family = Family {
    name: "hunyuan_v1_dense",
    architectures: &["HunYuanDenseV1ForCausalLM"],
    models: "Hunyuan, dense",
    checked: super::TRANSFORMERS,
    modules: &MODULES,
    read,
    write: whole_config,
    ..BASE
};

static MODULES: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[
            ATTENTION_NORM,
            MLP_NORM,
            QKV,
            QKV_BIAS,
            row(Role::QueryNorm, "self_attn.query_layernorm", &["self_attn.query_layernorm"]),
            row(Role::KeyNorm, "self_attn.key_layernorm", &["self_attn.key_layernorm"]),
            OUTPUT,
            OUTPUT_BIAS,
            GATE_UP,
            DOWN,
        ]),
        Section::Once(&[FINAL_NORM, HEAD]),
    ],
};

const DEFAULTS: Defaults = Defaults { norm_epsilon: 1e-5, ..LLAMA_LIKE };

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let config = read::decoder(family, fields, &DEFAULTS)?;
    read::must_be_off(family, fields, &["mlp_bias"])?;
    Ok(ModelConfig { biases: llama::biases(fields)?, query_key_norm: QueryKeyNorm::Rotated, ..config })
}
