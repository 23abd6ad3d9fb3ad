//! Gemma 4 E2B and E4B, text: the last layers read the keys and values of earlier ones, and every layer is given something of each
//! token from a table of its own. Published as the text part of a model that sees and hears. MLC has no Gemma 4.

use super::gemma;
use super::llama::BASE;
use super::rows::*;
use crate::config::{Attention, Family, Mixer, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::{Fields, shortened};
use crate::read::{self, Defaults, LayerKind};
use crate::rope::{self, PLAIN, Rope, RopeDefaults};
use crate::table::{Modules, Part, Role, Row, Section, named, row};
use crate::write::whole_config;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// Most columns that a layer is given of each token.
const MAX_PER_LAYER: u32 = 1 << 14;

pub(crate) static GEMMA4: Family = Family {
    name: "gemma4",
    architectures: &["Gemma4ForConditionalGeneration", "Gemma4ForCausalLM"],
    model_types: &["gemma4_text"],
    models: "Gemma 4 E2B and E4B, text",
    checked: super::TRANSFORMERS,
    modules: &MODULES,
    skips: &[
        ("model.vision_tower.", "vision"),
        ("model.embed_vision.", "vision"),
        ("model.audio_tower.", "audio"),
        ("model.embed_audio.", "audio"),
    ],
    read,
    write: whole_config,
    ..BASE
};

const fn same(role: Role, name: &'static [&'static str; 1]) -> Row {
    row(role, name[0], name)
}

static MODULES: Modules = Modules {
    layers: ["model.layers"; 2],
    sections: &[
        Section::Once(&[
            EMBEDDING,
            same(Role::PerLayerTable, &["model.embed_tokens_per_layer"]),
            same(Role::PerLayerModel, &["model.per_layer_model_projection"]),
            same(Role::PerLayerNorm, &["model.per_layer_projection_norm"]),
        ]),
        Section::Layers(&[
            ATTENTION_NORM,
            POST_ATTENTION_NORM,
            same(Role::MlpNorm, &["pre_feedforward_layernorm"]),
            POST_MLP_NORM,
            same(Role::Query, &["self_attn.q_proj"]),
            same(Role::Key, &["self_attn.k_proj"]),
            same(Role::Value, &["self_attn.v_proj"]),
            OUTPUT,
            QUERY_NORM,
            KEY_NORM,
            GATE_UP,
            DOWN,
            same(Role::PerLayerGate, &["per_layer_input_gate"]),
            same(Role::PerLayerProjection, &["per_layer_projection"]),
            same(Role::PostPerLayerNorm, &["post_per_layer_input_norm"]),
            named(Role::LayerScalar, Part::Named, "layer_scalar", &["layer_scalar"]),
        ]),
        Section::Once(&[FINAL_NORM, HEAD]),
    ],
};

const DEFAULTS: Defaults = Defaults { rope: RopeDefaults { base: 1e6, ..PLAIN }, ..gemma::DEFAULTS };

/// What transformers assumes of the rotary embeddings where a configuration is silent: a quarter of the pairs of the layers that see
/// everything, all of the others.
static ROPES: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let ropes = json!({
        "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    });
    std::iter::once(("rope_parameters".to_owned(), ropes)).collect()
});

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let fields = &fields.or(&ROPES);
    let mut config = read::decoder_with_heads(family, fields, &DEFAULTS, 256)?;
    let refuse =
        |key: &str, found: String| ConfigError::NotSupported { key: key.to_owned(), found, family: family.name };
    read::must_be_off(family, fields, &["attention_bias", "enable_moe_block", "attention_k_eq_v"])?;
    // Between the patches of an image only: text is causal.
    if let Some((key, found)) = fields.get(&["use_bidirectional_attention"]).filter(|(_, found)| *found != "vision") {
        return Err(refuse(key, shortened(found)));
    }
    config.embedding_scale = f64::from(config.hidden).sqrt() as f32;
    config.attention_scale = 1.0;
    config.final_soft_cap = fields.positive_f32(&["final_logit_softcapping"])?;
    config.query_key_norm = QueryKeyNorm::Shared;
    config.value_norm = true;
    let given = fields.count(&["hidden_size_per_layer_input"])?.unwrap_or(256);
    if given > MAX_PER_LAYER {
        return Err(refuse("hidden_size_per_layer_input", given.to_string()));
    }
    config.per_layer_input = (given > 0).then_some(given);
    let table = fields.dim_or(&["vocab_size_per_layer_input"], config.vocab)?;
    if given > 0 && table != config.vocab {
        return Err(refuse("vocab_size_per_layer_input", table.to_string()));
    }
    layers(&mut config, fields)?;
    Ok(config)
}

/// Sizes, windows and rotary embeddings by kind of layer, and who shares.
fn layers(config: &mut ModelConfig, fields: &Fields<'_>) -> Result<(), ConfigError> {
    let count = config.layers.len();
    let rule = |layer: u32| if (layer + 1).is_multiple_of(5) { LayerKind::Full } else { LayerKind::Windowed };
    let mut kinds = read::layer_kinds(fields, count, &[LayerKind::Full, LayerKind::Windowed], rule)?;
    // The last layer sees everything whatever the list says.
    kinds[count - 1] = LayerKind::Full;
    let shared = fields.count(&["num_kv_shared_layers"])?.unwrap_or(0) as usize;
    let first = count.saturating_sub(shared);
    let double = fields.flag(&["use_double_wide_mlp"], false)?;
    let window = fields.positions(&["sliding_window"])?.unwrap_or(512);
    let local = *config.attention();
    let global = Attention { head_dim: fields.dim_or(&["global_head_dim"], 512)?, ..local };
    // What transformers writes instead of the global sizes.
    let by_layer = fields.object("per_layer_config")?;
    for (index, layer) in config.layers.iter_mut().enumerate() {
        let full = kinds[index] == LayerKind::Full;
        let mut attention = if full { global } else { local };
        if let Some(own) = by_layer.and_then(|all| all.object(&index.to_string()).transpose()) {
            let own = own?;
            attention.head_dim = own.dim_or(&["head_dim"], attention.head_dim)?;
            attention.kv_heads = own.dim_or(&["num_key_value_heads"], attention.kv_heads)?;
        }
        attention.window = (!full).then_some(window);
        attention.rope = Some(usize::from(!full));
        if index >= first {
            let source = (0..first).rfind(|&other| kinds[other] == kinds[index]);
            let alone =
                || ConfigError::Contradiction(format!("layer {index} has no layer to share keys and values with"));
            attention.shares = Some(source.ok_or_else(alone)? as u32);
            layer.intermediate = if double { layer.intermediate.saturating_mul(2) } else { layer.intermediate };
        }
        layer.mixer = Mixer::Attention(attention);
    }
    config.ropes = ropes(config, fields)?;
    Ok(())
}

/// That of layers that see everything, and of those with a window, each over whole heads.
fn ropes(config: &ModelConfig, fields: &Fields<'_>) -> Result<Vec<Rope>, ConfigError> {
    let dim = |full: bool| -> Result<u32, ConfigError> {
        let mut dims = config.attentions().filter(|attention| attention.window.is_none() == full).map(|a| a.head_dim);
        let first = dims.next().unwrap_or(config.attention().head_dim);
        match dims.find(|&dim| dim != first) {
            Some(other) => {
                Err(ConfigError::Contradiction(format!("layers of one kind have heads of {first} and {other}")))
            }
            None => Ok(first),
        }
    };
    let full = rope::read(fields, dim(true)?, &DEFAULTS.rope)?.full;
    Ok(vec![full, rope::read(fields, dim(false)?, &DEFAULTS.rope)?.windowed])
}
