//! Ministral 3: llama with yarn, whose queries grow with the position. Published as the text part of a model that sees.

use super::llama::BASE;
use crate::config::{Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, Defaults, LLAMA_LIKE};
use crate::rope;
use crate::write::whole_config;

pub(crate) static MINISTRAL3: Family = Family {
    name: "ministral3",
    architectures: &["Ministral3ForCausalLM"],
    models: "Ministral 3",
    checked: "transformers (logits of a random checkpoint); weights by MLC's rules, by SHA-256",
    skips: super::VISION,
    read,
    write: whole_config,
    ..BASE
};

const DEFAULTS: Defaults = Defaults { norm_epsilon: 1e-5, ..LLAMA_LIKE };

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = read::decoder(family, fields, &DEFAULTS)?;
    let window = fields.positions(&["sliding_window"])?;
    config.set_windows(fields, &DEFAULTS.rope, window, |_| true)?;
    config.query_growth = rope::query_growth(fields)?;
    Ok(config)
}
