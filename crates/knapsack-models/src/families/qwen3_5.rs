//! Qwen 3.5: three layers of the gated delta rule to each of gated attention. Published as the text part of a model that sees.

use super::llama::BASE;
use super::qwen2::{C_ATTN, C_ATTN_BIAS};
use super::rows::*;
use crate::config::{AttentionGate, Biases, Delta, Family, Mixer, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, Defaults, LLAMA_LIKE, LayerKind};
use crate::rope::{PLAIN, RopeDefaults};
use crate::table::{Change, Modules, Part, Role, Section, named, row};
use crate::write::whole_config;

pub(crate) static QWEN3_5: Family = Family {
    name: "qwen3_5",
    architectures: &["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"],
    model_types: &["qwen3_5_text"],
    models: "Qwen 3.5, text",
    checked: "transformers (logits of a random checkpoint); weights by MLC's rules, by SHA-256",
    modules: &MODULES,
    skips: &[("model.visual.", "vision"), ("mtp.", "multi-token prediction")],
    read,
    write: whole_config,
    ..BASE
};

static MODULES: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[
            ATTENTION_NORM.with(Change::AddOneExactly),
            MLP_NORM.with(Change::AddOneExactly),
            C_ATTN,
            C_ATTN_BIAS,
            OUTPUT,
            OUTPUT_BIAS,
            QUERY_NORM.with(Change::AddOneExactly),
            KEY_NORM.with(Change::AddOneExactly),
            row(Role::DeltaQkv, "linear_attn.in_proj_qkv", &["linear_attn.in_proj_qkv"]),
            row(Role::DeltaGate, "linear_attn.in_proj_z", &["linear_attn.in_proj_z"]),
            row(Role::DeltaDecay, "linear_attn.in_proj_a", &["linear_attn.in_proj_a"]),
            row(Role::DeltaWrite, "linear_attn.in_proj_b", &["linear_attn.in_proj_b"]),
            named(Role::DeltaConv, Part::Named, "linear_attn.conv1d_weight", &["linear_attn.conv1d.weight"]),
            named(Role::DeltaLog, Part::NamedFloat32, "linear_attn.A_log", &["linear_attn.A_log"]),
            named(Role::DeltaBias, Part::NamedFloat32, "linear_attn.dt_bias", &["linear_attn.dt_bias"]),
            row(Role::DeltaNorm, "linear_attn.norm", &["linear_attn.norm"]),
            row(Role::DeltaOut, "linear_attn.out_proj", &["linear_attn.out_proj"]),
            GATE_UP,
            DOWN,
        ]),
        Section::Once(&[FINAL_NORM.with(Change::AddOneExactly), HEAD]),
    ],
};

const DEFAULTS: Defaults =
    Defaults { prefill_chunk: 2048, rope: RopeDefaults { partial: 0.25, ..PLAIN }, ..LLAMA_LIKE };

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = read::decoder_with_heads(family, fields, &DEFAULTS, 256)?;
    let bias = fields.flag(&["attention_bias"], false)?;
    config.biases = Biases { qkv: bias, attention_output: bias, ..Biases::default() };
    config.query_key_norm = QueryKeyNorm::Shared;
    if !fields.flag(&["attn_output_gate"], true)? {
        let (key, found) = ("attn_output_gate".to_owned(), "false".to_owned());
        return Err(ConfigError::NotSupported { key, found, family: family.name });
    }
    config.attention_gate = AttentionGate::Elements;
    let delta = Delta {
        key_heads: fields.dim_or(&["linear_num_key_heads"], 16)?,
        heads: fields.dim_or(&["linear_num_value_heads"], 32)?,
        key_dim: fields.dim_or(&["linear_key_head_dim"], 128)?,
        value_dim: fields.dim_or(&["linear_value_head_dim"], 128)?,
        taps: read::taps(fields, "linear_conv_kernel_dim", 4)?,
    };
    let interval = fields.count(&["full_attention_interval"])?.unwrap_or(4).max(1);
    let rule = |layer| if (layer + 1) % interval == 0 { LayerKind::Full } else { LayerKind::Linear };
    let kinds = read::layer_kinds(fields, config.layers.len(), &[LayerKind::Full, LayerKind::Linear], rule)?;
    for (layer, kind) in config.layers.iter_mut().zip(kinds) {
        if kind == LayerKind::Linear {
            layer.mixer = Mixer::Delta(delta);
        }
    }
    Ok(config)
}
