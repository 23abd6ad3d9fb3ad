//! Gemma 2: Gemma with norms before and after each block, both soft-cappings and a window on every other layer.

use super::gemma;
use super::llama::BASE;
use super::rows::*;
use crate::config::{Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read;
use crate::table::{Change, Modules, Role, Row, Section, row};
use serde_json::{Map, Value};

pub(crate) static GEMMA2: Family = Family {
    name: "gemma2",
    architectures: &["Gemma2ForCausalLM"],
    models: "Gemma 2",
    modules: &MODULES,
    read,
    finish_mlc,
    write,
    ..BASE
};

/// Norms before and after attention and before and after the feed-forward network.
pub(crate) const NORMS: [Row; 4] = [
    ATTENTION_NORM.with(Change::AddOne),
    POST_ATTENTION_NORM.with(Change::AddOne),
    row(Role::MlpNorm, "pre_feedforward_layernorm", &["pre_feedforward_layernorm"]).with(Change::AddOne),
    POST_MLP_NORM.with(Change::AddOne),
];

static MODULES: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[NORMS[0], NORMS[1], NORMS[2], NORMS[3], QKV, OUTPUT, GATE_UP, DOWN]),
        Section::Once(&[FINAL_NORM.with(Change::AddOne), HEAD]),
    ],
};

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = gemma::read(family, fields)?;
    let window = fields.positions(&["sliding_window"])?;
    config.set_windows(fields, &gemma::DEFAULTS.rope, window, |layer| layer % 2 == 0)?;
    scores(&mut config, fields)?;
    Ok(config)
}

/// Reads how Gemma 2 and 3 treat the scores of attention and the logits.
pub(crate) fn scores(config: &mut ModelConfig, fields: &Fields<'_>) -> Result<(), ConfigError> {
    let scalar = fields.positive(&["query_pre_attn_scalar"])?.unwrap_or(256.0);
    config.attention_scale = scalar.powf(-0.5) as f32;
    config.attention_soft_cap = fields.positive_f32(&["attn_logit_softcapping"])?;
    config.final_soft_cap = fields.positive_f32(&["final_logit_softcapping"])?;
    Ok(())
}

fn finish_mlc(config: &mut ModelConfig, chat: &Fields<'_>) -> Result<(), ConfigError> {
    read::apply_mlc_windows(config, chat)?;
    // MLC sets the context to the window because it lacks the alternation; the trained positions are lost.
    config.trained_positions = read::mlc_model(chat)?.positions(&["max_position_embeddings"])?;
    Ok(())
}

fn write(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    let window = config.window();
    let context = window.or(config.context_window);
    gemma::model_config(config, hf)
        .set("context_window_size", context)
        .set("prefill_chunk_size", context.map_or(config.prefill_chunk, |context| config.prefill_chunk.min(context)))
        .take("attn_logit_softcapping", Value::Null)
        .take("final_logit_softcapping", Value::Null)
        .take("query_pre_attn_scalar", 256)
        .take("sliding_window", Value::Null)
        .finish()
}
