//! StableLM 3B and 2: LayerNorm, partial rotation, gated SiLU; optional bias on q, k, v, normalized heads and parallel residual.

use super::shared::{self, Defaults, LLAMA_LIKE, List, MlcConfig, Standard};
use crate::config::{Biases, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::graph::{Names, decoder};
use crate::parameter::{Parameter, Source, Transform};
use crate::registry::{Architecture, Family};
use knapsack_tensor::NormKind;
use serde_json::{Map, Value};

pub(crate) struct StableLm;

const DEFAULTS: Defaults = Defaults { norm: NormKind::Layer, norm_epsilon: 1e-5, partial_rotary: 0.25, ..LLAMA_LIKE };

/// With a parallel residual, attention and feed-forward network share the norm.
const PARALLEL: Standard = Standard { norms: &["input_layernorm"], ..shared::LLAMA };

impl Architecture for StableLm {
    fn name(&self) -> &'static str {
        "stablelm"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["StableLmForCausalLM", "StableLMEpochForCausalLM"]
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["stablelm_epoch"]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        let config = shared::decoder(Family::StableLm, fields, &DEFAULTS)?;
        let per_head = fields.flag(&["qk_layernorm"], false)?;
        Ok(ModelConfig {
            biases: Biases { qkv: fields.flag(&["use_qkv_bias"], false)?, ..Biases::default() },
            parallel_residual: fields.flag(&["use_parallel_residual"], false)?,
            query_key_norm: if per_head { QueryKeyNorm::PerHead } else { QueryKeyNorm::None },
            ..config
        })
    }

    fn parameters(&self, config: &ModelConfig) -> Vec<Parameter> {
        let standard = if config.parallel_residual { &PARALLEL } else { &shared::LLAMA };
        let mut parameters = shared::standard_parameters(config, standard);
        if config.query_key_norm == QueryKeyNorm::PerHead {
            let mut list = List::default();
            for layer in 0..config.layers {
                for (name, heads) in [("q_layernorm", config.heads), ("k_layernorm", config.kv_heads)] {
                    let module = format!("model.layers.{layer}.self_attn.{name}");
                    let head =
                        |head| Source { name: format!("{module}.norms.{head}.weight"), rows: config.head_dim.into() };
                    let sources = (0..heads).map(head).collect();
                    list.fused_vector(format!("{module}.weight"), sources, Transform::Keep);
                }
            }
            parameters.extend(list.finish());
        }
        parameters
    }

    fn names(&self, config: &ModelConfig) -> Names {
        let norms = ["self_attn.q_layernorm", "self_attn.k_layernorm"];
        Names {
            head_norms: (config.query_key_norm == QueryKeyNorm::PerHead).then_some(norms),
            mlp_norm: decoder::LLAMA.mlp_norm.filter(|_| !config.parallel_residual),
            ..decoder::LLAMA
        }
    }

    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value> {
        MlcConfig::new(hf)
            .take("vocab_size", config.vocab)
            .take("hidden_size", config.hidden)
            .take("num_hidden_layers", config.layers)
            .take("num_attention_heads", config.heads)
            .set("num_key_value_heads", config.kv_heads)
            .take("layer_norm_eps", config.norm_epsilon)
            .set("partial_rotary_factor", f64::from(config.rope.rotary) / f64::from(config.head_dim))
            .rope_base("rope_theta", config)
            .take("intermediate_size", config.intermediate)
            .set("use_qkv_bias", config.biases.qkv)
            .set("head_dim", config.head_dim)
            .set("context_window_size", config.context_window)
            .set("prefill_chunk_size", config.prefill_chunk)
            .set("tensor_parallel_shards", 1)
            .set("max_batch_size", 128)
            .extra("tie_word_embeddings", false)
            .extra("use_parallel_residual", false)
            .extra("qk_layernorm", false)
            .extra("hidden_act", "silu")
            .extra_rope_scaling(config)
            .finish()
    }
}
