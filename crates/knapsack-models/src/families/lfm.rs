//! LFM 2, 2.5 and 3: short convolutions between gates, and attention on some layers. MLC has neither; the names of fused modules
//! are ours.

use super::llama::BASE;
use super::rows::*;
use crate::config::{AttentionGate, Biases, Family, Mixer, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::{Fields, MAX_DIM, invalid};
use crate::read::{self, Defaults, LLAMA_LIKE, LayerKind};
use crate::rope::{self, PLAIN, RopeDefaults, RopeScaling};
use crate::table::{Modules, Role, Row, Section, bias, row};
use crate::write::whole_config;
use serde_json::Value;

pub(crate) static LFM2: Family = Family {
    name: "lfm2",
    architectures: &["Lfm2ForCausalLM"],
    models: "LFM 2, LFM 2.5",
    checked: super::TRANSFORMERS,
    modules: &MODULES,
    skips: super::VISION,
    read: read2,
    write: whole_config,
    ..BASE
};

pub(crate) static LFM3: Family = Family {
    name: "lfm3",
    architectures: &["Lfm3ForCausalLM"],
    models: "LFM 3",
    modules: &MODULES3,
    read: read3,
    ..LFM2
};

const CONV_IN: Row = row(Role::ConvIn, "conv.in_proj", &["conv.in_proj"]);
const CONV_IN_BIAS: Row = bias(Role::ConvIn, "conv.in_proj", &["conv.in_proj"]);
const CONV: Row = row(Role::Conv, "conv.conv", &["conv.conv"]);
const CONV_BIAS: Row = bias(Role::Conv, "conv.conv", &["conv.conv"]);
const CONV_OUT: Row = row(Role::ConvOut, "conv.out_proj", &["conv.out_proj"]);
const CONV_OUT_BIAS: Row = bias(Role::ConvOut, "conv.out_proj", &["conv.out_proj"]);
const OPERATOR_NORM: Row = row(Role::AttentionNorm, "operator_norm", &["operator_norm"]);
const FFN_NORM: Row = row(Role::MlpNorm, "ffn_norm", &["ffn_norm"]);
const W1_W3: Row = row(Role::GateUp, "feed_forward.w1_w3", &["feed_forward.w1", "feed_forward.w3"]);
const W2: Row = row(Role::Down, "feed_forward.w2", &["feed_forward.w2"]);
const END: Section = Section::Once(&[row(Role::FinalNorm, "model.embedding_norm", &["model.embedding_norm"]), HEAD]);

static MODULES: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[
            OPERATOR_NORM,
            FFN_NORM,
            QKV,
            row(Role::Output, "self_attn.out_proj", &["self_attn.out_proj"]),
            row(Role::QueryNorm, "self_attn.q_layernorm", &["self_attn.q_layernorm"]),
            row(Role::KeyNorm, "self_attn.k_layernorm", &["self_attn.k_layernorm"]),
            CONV_IN,
            CONV_IN_BIAS,
            CONV,
            CONV_BIAS,
            CONV_OUT,
            CONV_OUT_BIAS,
            W1_W3,
            W2,
        ]),
        END,
    ],
};

static MODULES3: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[
            OPERATOR_NORM,
            row(Role::PostAttentionNorm, "post_operator_norm", &["post_operator_norm"]),
            FFN_NORM,
            row(Role::PostMlpNorm, "post_ffn_norm", &["post_ffn_norm"]),
            QKV,
            row(Role::AttentionGate, "self_attn.gate_proj", &["self_attn.gate_proj"]),
            OUTPUT,
            QUERY_NORM,
            KEY_NORM,
            CONV_IN,
            CONV_IN_BIAS,
            CONV,
            CONV_BIAS,
            CONV_OUT,
            CONV_OUT_BIAS,
            W1_W3,
            W2,
        ]),
        END,
    ],
};

const DEFAULTS: Defaults =
    Defaults { norm_epsilon: 1e-5, tied_embeddings: true, rope: RopeDefaults { base: 1e6, ..PLAIN }, ..LLAMA_LIKE };

/// What both have; `kinds` says what each layer is.
fn read(
    family: &'static Family,
    fields: &Fields<'_>,
    head_dim: Option<u32>,
    possible: &[LayerKind],
    otherwise: impl Fn(u32) -> LayerKind,
) -> Result<(ModelConfig, Vec<LayerKind>), ConfigError> {
    let mut config = match head_dim {
        Some(head_dim) => read::decoder_with_heads(family, fields, &DEFAULTS, head_dim)?,
        None => read::decoder(family, fields, &DEFAULTS)?,
    };
    config.tied_embeddings = fields.flag(&["tie_embedding", "tie_word_embeddings"], true)?;
    config.query_key_norm = QueryKeyNorm::Shared;
    read::must_be_off(family, fields, &["attention_bias"])?;
    config.biases = Biases { conv: fields.flag(&["conv_bias"], false)?, ..Biases::default() };
    let taps = read::taps(fields, "conv_L_cache", 3)?;
    let kinds = read::layer_kinds(fields, config.layers.len(), possible, otherwise)?;
    for (layer, kind) in config.layers.iter_mut().zip(&kinds) {
        if *kind == LayerKind::Conv {
            layer.mixer = Mixer::Conv { taps };
        }
    }
    Ok((config, kinds))
}

fn read2(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let indices = full_attention(fields)?;
    let rule = |layer: u32| match &indices {
        Some(full) if !full.contains(&u64::from(layer)) => LayerKind::Conv,
        _ => LayerKind::Full,
    };
    let (mut config, _) = read(family, fields, None, &[LayerKind::Conv, LayerKind::Full], rule)?;
    let wide = feed_forward(fields, config.intermediate())?;
    config.layers.iter_mut().for_each(|layer| layer.intermediate = wide);
    Ok(config)
}

/// The layers with attention, where the first configurations list them.
fn full_attention(fields: &Fields<'_>) -> Result<Option<Vec<u64>>, ConfigError> {
    let Some((key, value)) = fields.get(&["full_attn_idxs"]) else { return Ok(None) };
    let list = value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect());
    list.map(Some).ok_or_else(|| invalid(key, value, "a list of layers"))
}

/// Columns of the feed-forward network: the configuration gives those of a network without a gate.
fn feed_forward(fields: &Fields<'_>, own: u32) -> Result<u32, ConfigError> {
    let given = fields.dim_or(&["block_ff_dim", "intermediate_size"], own)?;
    if !fields.flag(&["block_auto_adjust_ff_dim"], true)? {
        return Ok(given);
    }
    let multiplier = fields.positive(&["block_ffn_dim_multiplier"])?.unwrap_or(1.0).min(1e3);
    let scaled = (multiplier * f64::from((u64::from(given) * 2 / 3) as u32)) as u32;
    let step = fields.dim_or(&["block_multiple_of"], 256)?;
    let wide = scaled.max(1).checked_next_multiple_of(step).filter(|&wide| wide <= MAX_DIM);
    wide.ok_or_else(|| {
        ConfigError::Contradiction(format!("a feed-forward network of {scaled} columns in steps of {step}"))
    })
}

fn read3(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let rule = |layer: u32| match layer % 4 {
        2 => LayerKind::Full,
        0 if layer > 0 => LayerKind::Windowed,
        _ => LayerKind::Conv,
    };
    let possible = [LayerKind::Conv, LayerKind::Full, LayerKind::Windowed];
    let (mut config, kinds) = read(family, fields, Some(128), &possible, rule)?;
    if !fields.flag(&["use_sandwich_norm"], true)? {
        let (key, found) = ("use_sandwich_norm".to_owned(), "false".to_owned());
        return Err(ConfigError::NotSupported { key, found, family: family.name });
    }
    if fields.flag(&["use_attention_gate"], true)? {
        config.attention_gate = AttentionGate::Heads;
    }
    let window = fields.positions(&["sliding_window"])?.unwrap_or(256);
    let head_dim = fields.dim_or(&["head_dim"], 128)?;
    let mut ropes = rope::read(fields, head_dim, &DEFAULTS.rope)?;
    // Configurations call it `default`, but the model was trained with half of the pairs of the whole head.
    if ropes.full.scaling == RopeScaling::None && ropes.full.rotary < head_dim {
        let pairs = ropes.full.rotary / 2;
        (ropes.full.rotary, ropes.full.scaling) = (head_dim, RopeScaling::Proportional { pairs, factor: 1.0 });
    }
    config.ropes = vec![ropes.full, ropes.windowed];
    for (layer, kind) in config.layers.iter_mut().zip(kinds) {
        if let Some(attention) = layer.attention_mut() {
            attention.window = (kind == LayerKind::Windowed).then_some(window);
            attention.rope = Some(usize::from(kind == LayerKind::Windowed));
        }
    }
    Ok(config)
}
