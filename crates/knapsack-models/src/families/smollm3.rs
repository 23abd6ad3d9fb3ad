//! SmolLM 3: llama whose every fourth layer rotates nothing.

use super::llama::{self, BASE};
use crate::config::{Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::{Fields, invalid};
use crate::read::{self, Defaults, LLAMA_LIKE};
use crate::rope::{PLAIN, RopeDefaults};
use crate::write::whole_config;

pub(crate) static SMOLLM3: Family = Family {
    name: "smollm3",
    architectures: &["SmolLM3ForCausalLM"],
    models: "SmolLM 3",
    checked: super::TRANSFORMERS,
    read,
    write: whole_config,
    ..BASE
};

const DEFAULTS: Defaults = Defaults { tied_embeddings: true, rope: RopeDefaults { base: 2e6, ..PLAIN }, ..LLAMA_LIKE };

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let config = read::decoder(family, fields, &DEFAULTS)?;
    let mut config = ModelConfig { biases: llama::biases(fields)?, ..config };
    let rotated = rotated(fields, config.layers.len())?;
    let on = fields.flag(&["use_sliding_window"], false)?;
    let window = if on { fields.positions(&["sliding_window"])? } else { None };
    config.set_windows(fields, &DEFAULTS.rope, window, |layer| !rotated[layer as usize])?;
    for (layer, rotated) in config.layers.iter_mut().zip(rotated) {
        if let Some(attention) = layer.attention_mut() {
            attention.rope = attention.rope.filter(|_| rotated);
        }
    }
    Ok(config)
}

/// Which layers rotate: those with a 1 in `no_rope_layers`, or all but every `no_rope_layer_interval`th.
fn rotated(fields: &Fields<'_>, layers: usize) -> Result<Vec<bool>, ConfigError> {
    let interval = fields.count(&["no_rope_layer_interval"])?.unwrap_or(4).max(1) as usize;
    let Some((key, value)) = fields.get(&["no_rope_layers"]) else {
        return Ok((0..layers).map(|layer| (layer + 1) % interval != 0).collect());
    };
    let list = value.as_array().filter(|list| list.len() == layers);
    let flags = list.and_then(|list| list.iter().map(|flag| flag.as_u64().filter(|flag| *flag < 2)).collect());
    let flags: Vec<u64> = flags.ok_or_else(|| invalid(key, value, &format!("{layers} times 0 or 1")))?;
    Ok(flags.into_iter().map(|flag| flag == 1).collect())
}
