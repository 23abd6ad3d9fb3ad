//! OLMo 2 and 3: norms after attention and feed-forward network instead of before them, and norms of q and k over all heads of a
//! row. OLMo 3 has windows on three of four layers, and yarn on the others only.

use super::llama::BASE;
use super::rows::*;
use crate::config::{Biases, Family, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, Defaults, LLAMA_LIKE};
use crate::rope::{PLAIN, RopeDefaults, Windowed};
use crate::table::{Modules, Section};
use crate::write::whole_config;

pub(crate) static OLMO2: Family = Family {
    name: "olmo2",
    architectures: &["Olmo2ForCausalLM"],
    models: "OLMo 2",
    checked: "transformers (logits of a random checkpoint); weights by MLC's rules, by SHA-256",
    modules: &MODULES,
    read: |family, fields| read_normed(family, fields, &DEFAULTS),
    write: whole_config,
    ..BASE
};

pub(crate) static OLMO3: Family = Family {
    name: "olmo3",
    architectures: &["Olmo3ForCausalLM"],
    models: "OLMo 3",
    checked: super::TRANSFORMERS,
    modules: &MODULES,
    read: read_windowed,
    write: whole_config,
    ..BASE
};

static MODULES: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[
            POST_ATTENTION_NORM,
            POST_MLP_NORM,
            QKV,
            QKV_BIAS,
            QUERY_NORM,
            KEY_NORM,
            OUTPUT,
            OUTPUT_BIAS,
            GATE_UP,
            DOWN,
        ]),
        Section::Once(&[FINAL_NORM, HEAD]),
    ],
};

const DEFAULTS: Defaults = Defaults { norm_epsilon: 1e-5, ..LLAMA_LIKE };
const OLMO3_ROPE: RopeDefaults = RopeDefaults { base: 5e5, windowed: Windowed::Unscaled(None), ..PLAIN };

fn read_normed(family: &'static Family, fields: &Fields<'_>, defaults: &Defaults) -> Result<ModelConfig, ConfigError> {
    let bias = fields.flag(&["attention_bias"], false)?;
    Ok(ModelConfig {
        biases: Biases { qkv: bias, attention_output: bias, ..Biases::default() },
        query_key_norm: QueryKeyNorm::Row,
        ..read::decoder(family, fields, defaults)?
    })
}

fn read_windowed(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = read_normed(family, fields, &Defaults { rope: OLMO3_ROPE, ..DEFAULTS })?;
    let window = fields.positions(&["sliding_window"])?;
    config.set_windows(fields, &OLMO3_ROPE, window, |layer| (layer + 1) % 4 != 0)?;
    Ok(config)
}
