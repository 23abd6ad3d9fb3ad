//! Granite 3 and 4, dense: llama with four multipliers. Those of embedding, residual stream and logits become factors of the
//! graph ([`ModelConfig::residual_scale`]); that of attention is the scale of its scores.

use super::llama::{self, BASE};
use super::rows::*;
use crate::config::{Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::{Fields, shortened};
use crate::read::{self, LLAMA_LIKE};
use crate::table::{Modules, Role, Section, row};
use crate::write::whole_config;

pub(crate) static GRANITE: Family = Family {
    name: "granite",
    architectures: &["GraniteForCausalLM"],
    models: "Granite 3, dense",
    checked: super::TRANSFORMERS,
    read,
    write: whole_config,
    ..BASE
};

pub(crate) static GRANITE_HYBRID: Family = Family {
    name: "granitemoehybrid",
    architectures: &["GraniteMoeHybridForCausalLM"],
    models: "Granite 4, those of attention layers only",
    checked: "the graph is that of granite, the names were taken from transformers' checkpoints",
    modules: &SHARED_MLP,
    read: read_hybrid,
    write: whole_config,
    ..BASE
};

static SHARED_MLP: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[EMBEDDING]),
        Section::Layers(&[
            ATTENTION_NORM,
            MLP_NORM,
            QKV,
            QKV_BIAS,
            OUTPUT,
            OUTPUT_BIAS,
            row(Role::GateUp, "mlp.gate_up_proj", &["shared_mlp.input_linear"]),
            row(Role::Down, "mlp.down_proj", &["shared_mlp.output_linear"]),
        ]),
        Section::Once(&[FINAL_NORM, HEAD]),
    ],
};

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let config = read::decoder(family, fields, &LLAMA_LIKE)?;
    let number = |key: &str| Ok::<_, ConfigError>(fields.positive_f32(&[key])?.unwrap_or(1.0));
    Ok(ModelConfig {
        biases: llama::biases(fields)?,
        embedding_scale: number("embedding_multiplier")?,
        residual_scale: number("residual_multiplier")?,
        attention_scale: number("attention_multiplier")?,
        logit_scale: 1.0 / number("logits_scaling")?,
        ..config
    })
}

fn read_hybrid(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = read(family, fields)?;
    let refuse =
        |key: &str, found: String| Err(ConfigError::NotSupported { key: key.to_owned(), found, family: family.name });
    if let Some(experts) = fields.count(&["num_local_experts"])?.filter(|&experts| experts > 0) {
        return refuse("num_local_experts", experts.to_string());
    }
    if let Some((key, types)) = fields.get(&["layer_types", "layers_block_type"]) {
        let attention = |kind: &serde_json::Value| matches!(kind.as_str(), Some("attention" | "full_attention"));
        if !types.as_array().is_some_and(|types| types.iter().all(attention)) {
            return refuse(key, shortened(types));
        }
    }
    let wide = fields.dim_or(&["shared_intermediate_size"], config.intermediate())?;
    let rotates = match fields.text(&["position_embedding_type"])? {
        Some("rope") => true,
        None | Some("nope") => false,
        Some(other) => return refuse("position_embedding_type", other.chars().take(60).collect()),
    };
    for layer in &mut config.layers {
        layer.intermediate = wide;
        if let Some(attention) = layer.attention_mut() {
            attention.rope = attention.rope.filter(|_| rotates);
        }
    }
    Ok(config)
}
