//! Phi 3 and 3.5 mini: llama with projections that are fused in the checkpoint already, and longrope.

use super::shared::{self, LLAMA_LIKE, List, MlcConfig};
use crate::config::ModelConfig;
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::graph::{Names, Projections, decoder};
use crate::parameter::{Parameter, ParameterKind, Transform};
use crate::registry::{Architecture, Family};
use serde_json::{Map, Value};

pub(crate) struct Phi3;

impl Architecture for Phi3 {
    fn name(&self) -> &'static str {
        "phi3"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["Phi3ForCausalLM"]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        let config = shared::decoder(Family::Phi3, fields, &LLAMA_LIKE)?;
        let window = fields.positions(&["sliding_window"])?;
        let layer_windows = shared::layer_windows(fields, config.layers, window, |_| true)?;
        Ok(ModelConfig { layer_windows, ..config })
    }

    fn parameters(&self, config: &ModelConfig) -> Vec<Parameter> {
        let mut list = List::default();
        let hidden = u64::from(config.hidden);
        let matrix = |list: &mut List, kind, to: String, from: String, rows: u64, columns: u64| {
            let source = crate::parameter::Source { name: from, rows };
            list.sources(kind, to, vec![source], columns);
        };
        let embedding = ("transformer.embd.weight".to_owned(), "model.embed_tokens.weight".to_owned());
        matrix(&mut list, ParameterKind::Embedding, embedding.0, embedding.1, config.vocab.into(), hidden);
        for layer in 0..config.layers {
            let (to, from) = (format!("transformer.h.{layer}"), format!("model.layers.{layer}"));
            list.norm(config, &format!("{to}.ln"), &format!("{from}.input_layernorm"), Transform::Keep);
            let norm = "post_attention_layernorm";
            list.norm(config, &format!("{to}.{norm}"), &format!("{from}.{norm}"), Transform::Keep);
            for (mlc, hf, rows, columns) in [
                ("mixer.qkv_proj", "self_attn.qkv_proj", config.qkv_columns(), hidden),
                ("mixer.out_proj", "self_attn.o_proj", hidden, config.attention_columns()),
                ("mlp.gate_up_proj", "mlp.gate_up_proj", 2 * u64::from(config.intermediate), hidden),
                ("mlp.down_proj", "mlp.down_proj", hidden, config.intermediate.into()),
            ] {
                let (to, from) = (format!("{to}.{mlc}.weight"), format!("{from}.{hf}.weight"));
                matrix(&mut list, ParameterKind::Linear, to, from, rows, columns);
            }
        }
        list.norm(config, "transformer.norm", "model.norm", Transform::Keep);
        if !config.tied_embeddings {
            let name = "lm_head.weight".to_owned();
            matrix(&mut list, ParameterKind::Final, name.clone(), name, config.vocab.into(), hidden);
        }
        list.finish()
    }

    fn names(&self, _: &ModelConfig) -> Names {
        Names {
            embedding: "transformer.embd",
            layers: "transformer.h",
            attention_norm: "ln",
            projections: Projections::Fused("mixer.qkv_proj"),
            output: "mixer.out_proj",
            final_norm: "transformer.norm",
            ..decoder::LLAMA
        }
    }

    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value> {
        let mut map = MlcConfig::new(hf)
            .set("model_type", "phi3")
            .take("hidden_size", config.hidden)
            .take("vocab_size", config.vocab)
            .take("num_hidden_layers", config.layers)
            .take("num_attention_heads", config.heads)
            .take("intermediate_size", config.intermediate)
            .take("rms_norm_eps", config.norm_epsilon)
            .set("num_key_value_heads", config.kv_heads)
            .take("max_position_embeddings", config.trained_positions)
            .rope_base("position_embedding_base", config)
            .rope_scaling()
            .take("original_max_position_embeddings", 0)
            .set("context_window_size", config.context_window)
            .set("prefill_chunk_size", config.prefill_chunk)
            .set("head_dim", config.head_dim)
            .set("tensor_parallel_shards", 1)
            .set("max_batch_size", 128)
            .set("tie_word_embeddings", config.tied_embeddings)
            .take("partial_rotary_factor", 1.0)
            .extra("sliding_window", Value::Null)
            .finish();
        let positions =
            ["max_position_embeddings", "original_max_position_embeddings"].map(|key| (key, map[key].clone()));
        if let Some(Value::Object(scaling)) = map.get_mut("rope_scaling") {
            for (key, value) in positions {
                scaling.entry(key).or_insert(value);
            }
        }
        map
    }
}
