//! Gemma 3, text only: five windowed layers to each global one, a rope base for each kind, normalized q and k heads.

use super::gemma;
use super::gemma2::NORMS;
use super::shared::{self, MlcConfig, Standard, whole};
use crate::config::{ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::{Fields, missing};
use crate::graph::{Names, Projections};
use crate::parameter::Transform;
use crate::registry::{Architecture, Family};
use crate::rope::{Rope, RopeScaling};
use serde_json::{Map, Value};

pub(crate) struct Gemma3Text;

/// MLC keeps q, k and v apart here, for the norms between projection and rotation.
const STANDARD: Standard =
    Standard { mlc_prefix: "language_model.", qkv: None, norms: NORMS, norm_transform: Transform::AddOne };

/// What the graph reads.
const GRAPH: Names = Names {
    embedding: "language_model.model.embed_tokens",
    layers: "language_model.model.layers",
    projections: Projections::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    head_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]),
    final_norm: "language_model.model.norm",
    head: "language_model.lm_head",
    ..super::gemma2::GRAPH
};

/// The global and the local rotary embedding. Only the global one is ever scaled.
fn ropes(fields: &Fields<'_>, head_dim: u32) -> Result<(Rope, Option<Rope>), ConfigError> {
    let parameters = fields.object("rope_parameters")?;
    let (global, local) = match parameters.map(|p| (p.object("full_attention"), p.object("sliding_attention"))) {
        Some((global, local)) => (global?, local?),
        None => (None, None),
    };
    let base = |of: Option<Fields<'_>>| of.map(|of| of.positive(&["rope_theta"])).transpose().map(Option::flatten);
    let scaling = match (fields.object("rope_scaling")?, global) {
        (Some(scaling), _) | (None, Some(scaling)) => RopeScaling::read(fields, &scaling, head_dim)?,
        (None, None) => RopeScaling::None,
    };
    let global_base = fields.positive(&["position_embedding_base", "rope_theta"])?.or(base(global)?).unwrap_or(1e6);
    let local_base = fields.positive(&["rope_local_base_freq"])?.or(base(local)?).unwrap_or(1e4);
    let global = Rope { base: global_base, rotary: head_dim, scaling };
    Ok((global, Some(Rope { base: local_base, rotary: head_dim, scaling: RopeScaling::None })))
}

impl Architecture for Gemma3Text {
    fn name(&self) -> &'static str {
        "gemma3_text"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["Gemma3ForCausalLM"]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        let mut config = gemma::read(Family::Gemma3Text, fields)?;
        let window = fields.positions(&["sliding_window", "sliding_window_size"])?;
        let pattern = fields.count(&["sliding_window_pattern", "_sliding_window_pattern"])?.unwrap_or(6).max(1);
        let scalar = fields.positive(&["query_pre_attn_scalar"])?.unwrap_or(256.0);
        config.layer_windows =
            shared::layer_windows(fields, config.layers, window, |layer| (layer + 1) % pattern != 0)?;
        config.attention_scale = scalar.powf(-0.5) as f32;
        config.attention_soft_cap = fields.positive_f32(&["attn_logit_softcapping"])?;
        config.final_soft_cap = fields.positive_f32(&["final_logit_softcapping"])?;
        config.query_key_norm = QueryKeyNorm::Shared;
        (config.rope, config.local_rope) = ropes(fields, config.head_dim)?;
        Ok(config)
    }

    fn read_mlc(&self, chat_config: &Value) -> Result<ModelConfig, ConfigError> {
        let chat = Fields::new(chat_config)?;
        let model = shared::mlc_model(&chat)?;
        let text = model.object("text_config")?.ok_or_else(|| missing(&["model_config.text_config"]))?;
        let mut config = self.read(&text.with_rest(&model))?;
        config.trained_positions = text.positions(&["max_position_embeddings"])?;
        shared::apply_mlc_windows(&mut config, chat_config)?;
        // `sliding_window_size` is that of the local layers here, not one on the whole model.
        if config.sliding_window.take().is_some() {
            let context = chat.positions(&["context_window_size"])?;
            config.context_window = context.or(text.positions(&["context_window_size"])?);
            let chunk = chat.positions(&["prefill_chunk_size"])?.or(text.positions(&["prefill_chunk_size"])?);
            config.prefill_chunk = chunk.unwrap_or(8192).min(config.context_window.unwrap_or(u32::MAX));
        }
        Ok(config)
    }

    fn standard(&self) -> Standard {
        STANDARD
    }

    fn names(&self, _: &ModelConfig) -> Names {
        GRAPH
    }

    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value> {
        let window = config.layer_windows.iter().flatten().copied().next();
        let local_base = config.local_rope.as_ref().map_or(1e4, |rope| rope.base);
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
            .take("intermediate_size", config.intermediate)
            .take("num_hidden_layers", config.layers)
            .set("attention_bias", false)
            .take("num_attention_heads", config.heads)
            .set("num_key_value_heads", config.kv_heads)
            .set("head_dim", config.head_dim)
            .take("rms_norm_eps", config.norm_epsilon)
            .take("hidden_activation", "gelu_pytorch_tanh")
            .set("position_embedding_base", whole(config.rope.base))
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
}

fn layer_types(config: &ModelConfig) -> Value {
    let name = |window: &Option<u32>| if window.is_some() { "sliding_attention" } else { "full_attention" };
    Value::Array(config.layer_windows.iter().map(|window| Value::from(name(window))).collect())
}
