//! ERNIE 4.5, dense: llama that rotates neighbouring elements. The rows of q and k are put into another order when converting, so
//! that they are rotated in halves like everybody's: scores do not depend on the order of a head's elements.

use super::llama::BASE;
use super::rows::*;
use crate::config::{Biases, Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, Defaults, LLAMA_LIKE};
use crate::rope::{PLAIN, RopeDefaults};
use crate::table::{Change, Modules, Section};
use crate::write::whole_config;

pub(crate) static ERNIE4_5: Family = Family {
    name: "ernie4_5",
    architectures: &["Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"],
    models: "ERNIE 4.5, dense",
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
            QKV.with(Change::Unpair),
            QKV_BIAS.with(Change::Unpair),
            OUTPUT,
            OUTPUT_BIAS,
            GATE_UP,
            GATE_UP_BIAS,
            DOWN,
            DOWN_BIAS,
        ]),
        Section::Once(&[FINAL_NORM, HEAD]),
    ],
};

const DEFAULTS: Defaults =
    Defaults { norm_epsilon: 1e-5, tied_embeddings: true, rope: RopeDefaults { base: 5e5, ..PLAIN }, ..LLAMA_LIKE };

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let config = read::decoder(family, fields, &DEFAULTS)?;
    let bias = fields.flag(&["use_bias"], false)?;
    Ok(ModelConfig { biases: Biases { qkv: bias, attention_output: bias, mlp: bias, ..Biases::default() }, ..config })
}
