//! Gemma 2: Gemma with norms before and after each block, both soft-cappings and a window on every other layer.

use super::gemma;
use super::shared::{self, Standard};
use crate::config::ModelConfig;
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::graph::{Names, decoder};
use crate::parameter::Transform;
use crate::registry::{Architecture, Family};
use serde_json::{Map, Value};

pub(crate) struct Gemma2;

/// The norms of a layer, before and after attention and before and after the feed-forward network.
pub(crate) const NORMS: &[&str] =
    &["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"];

const STANDARD: Standard = Standard { norms: NORMS, norm_transform: Transform::AddOne, ..shared::LLAMA };

/// What the graph reads.
pub(crate) const GRAPH: Names = Names {
    post_attention_norm: Some("post_attention_layernorm"),
    mlp_norm: Some("pre_feedforward_layernorm"),
    post_mlp_norm: Some("post_feedforward_layernorm"),
    ..decoder::LLAMA
};

impl Architecture for Gemma2 {
    fn name(&self) -> &'static str {
        "gemma2"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["Gemma2ForCausalLM"]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        let config = gemma::read(Family::Gemma2, fields)?;
        let window = fields.positions(&["sliding_window"])?;
        let scalar = fields.positive(&["query_pre_attn_scalar"])?.unwrap_or(256.0);
        Ok(ModelConfig {
            attention_scale: scalar.powf(-0.5) as f32,
            attention_soft_cap: fields.positive_f32(&["attn_logit_softcapping"])?,
            final_soft_cap: fields.positive_f32(&["final_logit_softcapping"])?,
            layer_windows: shared::layer_windows(fields, config.layers, window, |layer| layer % 2 == 0)?,
            ..config
        })
    }

    fn read_mlc(&self, chat_config: &Value) -> Result<ModelConfig, ConfigError> {
        let mut config = shared::read_mlc(chat_config, |fields| self.read(fields))?;
        // MLC sets the context to the window because it lacks the alternation; the trained positions are lost.
        let chat = Fields::new(chat_config)?;
        config.trained_positions = shared::mlc_model(&chat)?.positions(&["max_position_embeddings"])?;
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
        let context = window.or(config.context_window);
        gemma::model_config(config, hf)
            .set("context_window_size", context)
            .set(
                "prefill_chunk_size",
                context.map_or(config.prefill_chunk, |context| config.prefill_chunk.min(context)),
            )
            .take("attn_logit_softcapping", Value::Null)
            .take("final_logit_softcapping", Value::Null)
            .take("query_pre_attn_scalar", 256)
            .take("sliding_window", Value::Null)
            .finish()
    }
}
