//! Reading the keys that decoders share.

use crate::config::{Attention, AttentionGate, Biases, Family, Layer, Mixer, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::{Fields, MAX_DIM, invalid, missing};
use crate::rope::{self, RopeDefaults, Ropes};
use knapsack_tensor::{Activation, NormKind};

/// What a family assumes where its configuration is silent.
pub(crate) struct Defaults {
    pub(crate) norm: NormKind,
    pub(crate) norm_epsilon: f32,
    pub(crate) activation: Activation,
    pub(crate) tied_embeddings: bool,
    pub(crate) rope: RopeDefaults,
    /// Largest prefill chunk that is chosen for the model.
    pub(crate) prefill_chunk: u32,
}

/// Llama's, and those of most others.
pub(crate) const LLAMA_LIKE: Defaults = Defaults {
    norm: NormKind::Rms,
    norm_epsilon: 1e-6,
    activation: Activation::Silu,
    tied_embeddings: false,
    rope: rope::PLAIN,
    prefill_chunk: 8192,
};

/// Keys by which configurations give the number of positions.
const POSITIONS: [&str; 4] = ["max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"];

/// Most tokens that a convolution is over.
const MAX_TAPS: u32 = 16;

/// Positions that a sliding window keeps at the start where nothing else is said: MLC's default.
const MLC_SINKS: u32 = 4;

/// Reads the keys that all decoders share, from a `config.json` or from MLC's `model_config`.
pub(crate) fn decoder(
    family: &'static Family,
    fields: &Fields<'_>,
    defaults: &Defaults,
) -> Result<ModelConfig, ConfigError> {
    decoder_with_context(family, fields, defaults, None)
}

/// The same, with a context for configurations that give no number of positions.
pub(crate) fn decoder_with_context(
    family: &'static Family,
    fields: &Fields<'_>,
    defaults: &Defaults,
    otherwise: Option<u32>,
) -> Result<ModelConfig, ConfigError> {
    whole_decoder(family, fields, defaults, otherwise, None)
}

/// The same as [`decoder`], with the elements of a head for configurations that do not give them.
pub(crate) fn decoder_with_heads(
    family: &'static Family,
    fields: &Fields<'_>,
    defaults: &Defaults,
    head_dim: u32,
) -> Result<ModelConfig, ConfigError> {
    whole_decoder(family, fields, defaults, None, Some(head_dim))
}

fn whole_decoder(
    family: &'static Family,
    fields: &Fields<'_>,
    defaults: &Defaults,
    otherwise: Option<u32>,
    head_dim: Option<u32>,
) -> Result<ModelConfig, ConfigError> {
    let hidden = fields.dim(&["hidden_size", "n_embd"])?;
    let layers = fields.layers(&["num_hidden_layers", "n_layer"])?;
    let intermediate = fields.dim_or(&["intermediate_size", "n_inner"], hidden.saturating_mul(4).min(MAX_DIM))?;
    let attention = attention(fields, hidden, head_dim)?;
    let trained_positions = match fields.positions(&POSITIONS)? {
        Some(positions) => Some(positions),
        None => fields.positions(&["context_window_size"])?,
    };
    let context_window = match fields.positions(&["context_window_size"])? {
        Some(positions) => Some(positions),
        None => trained_positions.or(otherwise),
    };
    let Ropes { full, .. } = rope::read(fields, attention.head_dim, &defaults.rope)?;
    let own_chunk = context_window.unwrap_or(defaults.prefill_chunk).min(defaults.prefill_chunk);
    let config = ModelConfig {
        family,
        modules: family.modules,
        hidden,
        layers: vec![Layer { mixer: Mixer::Attention(attention), intermediate }; layers as usize],
        vocab: fields.dim(&["vocab_size"])?,
        norm: defaults.norm,
        norm_epsilon: fields
            .positive_f32(&["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "block_norm_eps"])?
            .unwrap_or(defaults.norm_epsilon),
        activation: fields
            .activation(&["hidden_activation", "hidden_act", "activation_function"])?
            .unwrap_or(defaults.activation),
        ropes: vec![full],
        sliding_window: None,
        attention_sinks: MLC_SINKS,
        attention_scale: (f64::from(attention.head_dim)).powf(-0.5) as f32,
        attention_soft_cap: None,
        final_soft_cap: None,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        query_growth: None,
        query_key_norm: QueryKeyNorm::None,
        attention_gate: AttentionGate::None,
        value_norm: false,
        per_layer_input: None,
        biases: Biases::default(),
        parallel_residual: false,
        tied_embeddings: fields.flag(&["tie_word_embeddings"], defaults.tied_embeddings)?,
        trained_positions,
        context_window,
        prefill_chunk: fields.positions(&["prefill_chunk_size"])?.unwrap_or(own_chunk),
    };
    if config.context_window.is_none() {
        return Err(missing(&["max_position_embeddings", "context_window_size"]));
    }
    Ok(config)
}

/// The attention of a layer that sees everything.
fn attention(fields: &Fields<'_>, hidden: u32, head_dim: Option<u32>) -> Result<Attention, ConfigError> {
    let heads = fields.dim(&["num_attention_heads", "n_head"])?;
    let kv_heads = fields.dim_or(&["num_key_value_heads", "n_head_kv"], heads)?;
    let own_head_dim = if hidden.is_multiple_of(heads) { hidden / heads } else { 0 };
    let head_dim = fields.dim_or(&["head_dim"], head_dim.unwrap_or(own_head_dim))?;
    Ok(Attention { heads, kv_heads, head_dim, window: None, rope: Some(0), shares: None })
}

impl ModelConfig {
    /// Gives each layer a window by transformers' `layer_types`, or by the rule `local` where there are none, and the rotary
    /// embedding of its kind.
    pub(crate) fn set_windows(
        &mut self,
        fields: &Fields<'_>,
        defaults: &RopeDefaults,
        window: Option<u32>,
        local: impl Fn(u32) -> bool,
    ) -> Result<(), ConfigError> {
        let windows = layer_windows(fields, self.layers.len(), window, local)?;
        let ropes = rope::read(fields, self.attention().head_dim, defaults)?;
        let two = ropes.full != ropes.windowed && windows.iter().any(Option::is_some);
        self.ropes = if two { vec![ropes.full, ropes.windowed] } else { vec![ropes.full] };
        for (layer, window) in self.layers.iter_mut().zip(windows) {
            if let Some(attention) = layer.attention_mut() {
                attention.window = window;
                attention.rope = Some(usize::from(two && window.is_some()));
            }
        }
        Ok(())
    }
}

/// The kinds of layers that `layer_types` tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerKind {
    /// Attention that sees everything.
    Full,
    /// Attention with a window.
    Windowed,
    /// A convolution.
    Conv,
    /// Linear attention.
    Linear,
}

const LAYER_KINDS: [(&str, LayerKind); 5] = [
    ("full_attention", LayerKind::Full),
    ("attention", LayerKind::Full),
    ("sliding_attention", LayerKind::Windowed),
    ("conv", LayerKind::Conv),
    ("linear_attention", LayerKind::Linear),
];

/// The kind of each layer by transformers' `layer_types`, or by the rule `otherwise` where there are none. A family has only the
/// `possible` ones.
pub(crate) fn layer_kinds(
    fields: &Fields<'_>,
    layers: usize,
    possible: &[LayerKind],
    otherwise: impl Fn(u32) -> LayerKind,
) -> Result<Vec<LayerKind>, ConfigError> {
    let Some((key, value)) = fields.get(&["layer_types"]) else {
        return Ok((0..layers as u32).map(otherwise).collect());
    };
    let kind = |value: &serde_json::Value| {
        let name = value.as_str()?;
        let found = LAYER_KINDS.iter().find(|(known, kind)| *known == name && possible.contains(kind));
        found.map(|(_, kind)| *kind)
    };
    let list = value.as_array().filter(|list| list.len() == layers);
    list.and_then(|list| list.iter().map(kind).collect()).ok_or_else(|| {
        let name = |kind: &LayerKind| LAYER_KINDS.iter().find(|(_, known)| known == kind).map_or("", |(name, _)| *name);
        let names: Vec<&str> = possible.iter().map(name).collect();
        invalid(key, value, &format!("{layers} times {}", names.join(" or ")))
    })
}

/// The window of each layer by transformers' `layer_types`, or by the rule `local` where there are none.
fn layer_windows(
    fields: &Fields<'_>,
    layers: usize,
    window: Option<u32>,
    local: impl Fn(u32) -> bool,
) -> Result<Vec<Option<u32>>, ConfigError> {
    let Some(window) = window else { return Ok(vec![None; layers]) };
    let by_rule = |layer| if local(layer) { LayerKind::Windowed } else { LayerKind::Full };
    let kinds = layer_kinds(fields, layers, &[LayerKind::Full, LayerKind::Windowed], by_rule)?;
    Ok(kinds.into_iter().map(|kind| (kind == LayerKind::Windowed).then_some(window)).collect())
}

/// Tokens that a convolution is over.
pub(crate) fn taps(fields: &Fields<'_>, key: &str, otherwise: u32) -> Result<u32, ConfigError> {
    let taps = fields.dim_or(&[key], otherwise)?;
    if (2..=MAX_TAPS).contains(&taps) {
        return Ok(taps);
    }
    Err(invalid(key, &taps.into(), &format!("2 to {MAX_TAPS}")))
}

/// MLC's `model_config` of an `mlc-chat-config.json`.
pub(crate) fn mlc_model<'a>(chat: &Fields<'a>) -> Result<Fields<'a>, ConfigError> {
    Ok(chat.object("model_config")?.ok_or_else(|| missing(&["model_config"]))?.of_mlc())
}

/// Puts the windows of an `mlc-chat-config.json` into the configuration: those at the top level win.
pub(crate) fn apply_mlc_windows(config: &mut ModelConfig, chat: &Fields<'_>) -> Result<(), ConfigError> {
    let model = mlc_model(chat)?;
    let either = |key: &str| match chat.positions(&[key])? {
        Some(value) => Ok(Some(value)),
        None => model.positions(&[key]),
    };
    config.sliding_window = either("sliding_window_size")?;
    config.context_window = match config.sliding_window {
        Some(_) => None,
        None => either("context_window_size")?.or(config.context_window),
    };
    let longest = config.sliding_window.or(config.context_window);
    let chunk = either("prefill_chunk_size")?.unwrap_or(config.prefill_chunk);
    config.prefill_chunk = longest.map_or(chunk, |longest| chunk.min(longest));
    let sinks = match chat.count(&["attention_sink_size"])? {
        Some(sinks) => Some(sinks),
        None => model.count(&["attention_sink_size"])?,
    };
    config.attention_sinks = sinks.unwrap_or(MLC_SINKS);
    Ok(())
}

/// A switch that a family does not have must be off.
pub(crate) fn must_be_off(family: &Family, fields: &Fields<'_>, keys: &[&str]) -> Result<(), ConfigError> {
    for key in keys {
        if fields.flag(&[key], false)? {
            let (key, found) = ((*key).to_owned(), "true".to_owned());
            return Err(ConfigError::NotSupported { key, found, family: family.name });
        }
    }
    Ok(())
}
