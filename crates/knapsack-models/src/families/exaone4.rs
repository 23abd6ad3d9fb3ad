//! EXAONE 4: norms after attention and feed-forward network instead of before them, normalized q and k heads; with windows, only
//! the layers that have one rotate.

use super::llama::BASE;
use super::rows::*;
use crate::config::{Family, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::{Fields, invalid};
use crate::read::{self, Defaults, LLAMA_LIKE};
use crate::table::{Modules, Section};
use crate::write::whole_config;

pub(crate) static EXAONE4: Family = Family {
    name: "exaone4",
    architectures: &["Exaone4ForCausalLM"],
    models: "EXAONE 4",
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
        Section::Layers(&[POST_ATTENTION_NORM, POST_MLP_NORM, QKV, QUERY_NORM, KEY_NORM, OUTPUT, GATE_UP, DOWN]),
        Section::Once(&[FINAL_NORM, HEAD]),
    ],
};

const DEFAULTS: Defaults = Defaults { norm_epsilon: 1e-5, ..LLAMA_LIKE };

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = read::decoder(family, fields, &DEFAULTS)?;
    config.query_key_norm = QueryKeyNorm::Shared;
    let window = fields.positions(&["sliding_window"])?;
    let pattern = pattern(fields)?;
    config.set_windows(fields, &DEFAULTS.rope, window, |layer| pattern[layer as usize % pattern.len()])?;
    if window.is_some() {
        for layer in &mut config.layers {
            if let Some(attention) = layer.attention_mut() {
                attention.rope = attention.rope.filter(|_| attention.window.is_some());
            }
        }
    }
    Ok(config)
}

/// Which layers have a window, over and over: `sliding_window_pattern` is `LLLG`, or the length of such a pattern.
fn pattern(fields: &Fields<'_>) -> Result<Vec<bool>, ConfigError> {
    let every = |length: usize| (1..=length).map(|layer| layer < length).collect();
    let Some((key, value)) = fields.get(&["sliding_window_pattern"]) else { return Ok(every(4)) };
    let letters = |text: &str| {
        let kinds: Option<Vec<bool>> =
            text.chars().map(|letter| matches!(letter, 'L' | 'G').then_some(letter == 'L')).collect();
        kinds.filter(|kinds| (1..=64).contains(&kinds.len()))
    };
    match (value.as_str(), value.as_u64()) {
        (Some(text), _) => letters(text),
        (None, Some(0)) => Some(every(4)),
        (None, Some(length)) => usize::try_from(length).ok().filter(|length| *length <= 64).map(every),
        (None, None) => None,
    }
    .ok_or_else(|| invalid(key, value, "a pattern such as LLLG, or its length"))
}
