//! Gemma 3, text only: five windowed layers to each global one, a rope base for each kind, normalized q and k heads.

use super::gemma;
use super::gemma2::{self, NORMS};
use super::llama::BASE;
use super::rows::*;
use crate::config::{Family, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read;
use crate::rope::{PLAIN, RopeDefaults, Windowed};
use crate::table::{Change, Modules, Role, Section, row};
use crate::write::{MlcConfig, whole};
use serde_json::{Map, Value};
use std::sync::LazyLock;

pub(crate) static GEMMA3_TEXT: Family = Family {
    name: "gemma3_text",
    architectures: &["Gemma3ForCausalLM"],
    models: "Gemma 3, text",
    checked: super::GENERATED,
    modules: &MODULES,
    skips: super::VISION,
    read,
    finish_mlc,
    write,
    ..BASE
};

/// MLC keeps q, k and v apart here, for the norms between projection and rotation.
static MODULES: Modules = Modules {
    layers: ["language_model.model.layers", "model.layers"],
    sections: &[
        Section::Once(&[row(Role::Embedding, "language_model.model.embed_tokens", &["model.embed_tokens"])]),
        Section::Layers(&[
            NORMS[0],
            NORMS[1],
            NORMS[2],
            NORMS[3],
            row(Role::Query, "self_attn.q_proj", &["self_attn.q_proj"]),
            row(Role::Key, "self_attn.k_proj", &["self_attn.k_proj"]),
            row(Role::Value, "self_attn.v_proj", &["self_attn.v_proj"]),
            OUTPUT,
            QUERY_NORM.with(Change::AddOne),
            KEY_NORM.with(Change::AddOne),
            GATE_UP,
            DOWN,
        ]),
        Section::Once(&[
            row(Role::FinalNorm, "language_model.model.norm", &["model.norm"]).with(Change::AddOne),
            row(Role::Head, "language_model.lm_head", &["lm_head"]),
        ]),
    ],
};

/// Only the global layers' embedding is ever scaled.
const ROPE: RopeDefaults = RopeDefaults { base: 1e6, windowed: Windowed::Unscaled(Some(1e4)), ..PLAIN };

/// What transformers assumes where a configuration is silent: those of the models that see give a few sizes only.
static SIZES: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let sizes = [
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 256),
        ("vocab_size", 262_208),
        ("max_position_embeddings", 131_072),
        ("sliding_window", 4096),
    ];
    sizes.into_iter().map(|(key, size)| (key.to_owned(), Value::from(size))).collect()
});

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let fields = &if fields.mlc { *fields } else { fields.or(&SIZES) };
    let mut config = gemma::read(family, fields)?;
    let window = fields.positions(&["sliding_window", "sliding_window_size"])?;
    let pattern = fields.count(&["sliding_window_pattern", "_sliding_window_pattern"])?.unwrap_or(6).max(1);
    config.set_windows(fields, &ROPE, window, |layer| (layer + 1) % pattern != 0)?;
    gemma2::scores(&mut config, fields)?;
    config.query_key_norm = QueryKeyNorm::Shared;
    Ok(config)
}

fn finish_mlc(config: &mut ModelConfig, chat: &Fields<'_>) -> Result<(), ConfigError> {
    let model = read::mlc_model(chat)?;
    let text = model.object("text_config")?.unwrap_or(model);
    config.trained_positions = text.positions(&["max_position_embeddings"])?;
    read::apply_mlc_windows(config, chat)?;
    // `sliding_window_size` is that of the local layers here, not one on the whole model.
    if config.sliding_window.take().is_some() {
        let context = chat.positions(&["context_window_size"])?;
        config.context_window = context.or(text.positions(&["context_window_size"])?);
        let chunk = chat.positions(&["prefill_chunk_size"])?.or(text.positions(&["prefill_chunk_size"])?);
        config.prefill_chunk = chunk.unwrap_or(8192).min(config.context_window.unwrap_or(u32::MAX));
    }
    Ok(())
}

fn write(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    let window = config.window();
    let local_base = config.ropes.get(1).map_or(1e4, |rope| rope.base);
    // What the model needs and MLC's text_config has no field for goes where MLC keeps unknown keys.
    let rest = MlcConfig::new(hf)
        .set("max_position_embeddings", config.trained_positions)
        .set("rope_local_base_freq", whole(local_base))
        .set("layer_types", layer_types(config))
        .take("attn_logit_softcapping", Value::Null)
        .take("final_logit_softcapping", Value::Null)
        .set("tie_word_embeddings", config.tied_embeddings)
        .finish();
    let text = MlcConfig::new(hf)
        .take("hidden_size", config.hidden)
        .take("intermediate_size", config.intermediate())
        .take("num_hidden_layers", config.layers.len())
        .set("attention_bias", false)
        .take("num_attention_heads", config.attention().heads)
        .set("num_key_value_heads", config.attention().kv_heads)
        .set("head_dim", config.attention().head_dim)
        .take("rms_norm_eps", config.norm_epsilon)
        .take("hidden_activation", "gelu_pytorch_tanh")
        .set("position_embedding_base", whole(config.ropes[0].base))
        .rope_scaling()
        .set("context_window_size", config.context_window)
        .set("prefill_chunk_size", config.prefill_chunk)
        .take("query_pre_attn_scalar", 256)
        .set("sliding_window_size", window)
        .set("kwargs", Value::Object(rest))
        .finish();
    MlcConfig::new(hf)
        .set("text_config", Value::Object(text))
        .set("vocab_size", config.vocab)
        .set("tensor_parallel_shards", 1)
        .set("max_batch_size", 128)
        .set("context_window_size", config.context_window)
        .set("sliding_window_size", window)
        .set("prefill_chunk_size", config.prefill_chunk)
        .set("is_text_model", true)
        .finish()
}

fn layer_types(config: &ModelConfig) -> Value {
    let name = |window: Option<u32>| if window.is_some() { "sliding_attention" } else { "full_attention" };
    Value::Array(config.attentions().map(|attention| Value::from(name(attention.window))).collect())
}
