//! GPT-NeoX (Pythia, RedPajama): LayerNorm, biases, partial rotation, usually a parallel residual. Checkpoints interleave q, k
//! and v by head.

use super::shared::{self, Defaults, LLAMA_LIKE, List, MlcConfig};
use crate::config::{Biases, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::graph::{Mlp, Names, Projections, decoder};
use crate::parameter::{Parameter, ParameterKind, Source, Transform};
use crate::registry::{Architecture, Family};
use knapsack_tensor::{Activation, NormKind};
use serde_json::{Map, Value};

pub(crate) struct GptNeox;

const DEFAULTS: Defaults = Defaults {
    norm: NormKind::Layer,
    norm_epsilon: 1e-5,
    activation: Activation::Gelu,
    partial_rotary: 0.25,
    ..LLAMA_LIKE
};

impl Architecture for GptNeox {
    fn name(&self) -> &'static str {
        "gpt_neox"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["GPTNeoXForCausalLM"]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        let config = shared::decoder(Family::GptNeox, fields, &DEFAULTS)?;
        if !fields.flag(&["attention_bias"], true)? {
            let (key, found) = ("attention_bias".to_owned(), "false".to_owned());
            return Err(ConfigError::NotSupported { key, found, family: "gpt_neox" });
        }
        Ok(ModelConfig {
            biases: Biases { qkv: true, attention_output: true, mlp: true, head: false },
            parallel_residual: fields.flag(&["use_parallel_residual"], true)?,
            ..config
        })
    }

    fn parameters(&self, config: &ModelConfig) -> Vec<Parameter> {
        let mut list = List::default();
        let hidden = u64::from(config.hidden);
        let split = Transform::SplitHeads { heads: config.heads, head_dim: config.head_dim };
        let name = "gpt_neox.embed_in.weight".to_owned();
        list.matrix(ParameterKind::Embedding, name.clone(), name, config.vocab, hidden);
        for layer in 0..config.layers {
            let layer = format!("gpt_neox.layers.{layer}");
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                let name = format!("{layer}.{norm}");
                list.norm(config, &name, &name, Transform::Keep);
            }
            let qkv = |suffix: &str| {
                let name = format!("{layer}.attention.query_key_value.{suffix}");
                (name.clone(), vec![Source { name, rows: config.qkv_columns() }])
            };
            let (name, sources) = qkv("weight");
            list.fused(name, sources, hidden, split);
            let (name, sources) = qkv("bias");
            list.fused_vector(name, sources, split);
            let columns = config.attention_columns();
            let name = format!("{layer}.attention.dense.weight");
            list.matrix(ParameterKind::Linear, name.clone(), name, config.hidden, columns);
            let name = format!("{layer}.attention.dense.bias");
            list.vector(name.clone(), name, config.hidden, Transform::Keep);
            for (module, rows, columns) in [
                ("dense_h_to_4h", config.intermediate, hidden),
                ("dense_4h_to_h", config.hidden, config.intermediate.into()),
            ] {
                let name = format!("{layer}.mlp.{module}.weight");
                list.matrix(ParameterKind::Linear, name.clone(), name, rows, columns);
                let name = format!("{layer}.mlp.{module}.bias");
                list.float32_vector(name.clone(), name, rows);
            }
        }
        let norm = "gpt_neox.final_layer_norm";
        list.norm(config, norm, norm, Transform::Keep);
        if !config.tied_embeddings {
            let name = "embed_out.weight".to_owned();
            list.matrix(ParameterKind::Final, name.clone(), name, config.vocab, hidden);
        }
        list.finish()
    }

    fn names(&self, _: &ModelConfig) -> Names {
        Names {
            embedding: "gpt_neox.embed_in",
            layers: "gpt_neox.layers",
            projections: Projections::Fused("attention.query_key_value"),
            output: "attention.dense",
            mlp: Mlp::Plain { up: "mlp.dense_h_to_4h", down: "mlp.dense_4h_to_h" },
            final_norm: "gpt_neox.final_layer_norm",
            head: "embed_out",
            ..decoder::LLAMA
        }
    }

    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value> {
        let base = ["rotary_emb_base", "rope_theta"].iter().find_map(|key| hf.get(key)).filter(|v| v.is_number());
        MlcConfig::new(hf)
            .set("use_parallel_residual", config.parallel_residual)
            .take("hidden_size", config.hidden)
            .take("intermediate_size", config.intermediate)
            .take("num_attention_heads", config.heads)
            .take("num_hidden_layers", config.layers)
            .take("layer_norm_eps", config.norm_epsilon)
            .take("vocab_size", config.vocab)
            .set("rotary_pct", f64::from(config.rope.rotary) / f64::from(config.head_dim))
            .set("position_embedding_base", base.cloned().unwrap_or_else(|| shared::whole(config.rope.base)))
            .set("context_window_size", config.context_window)
            .set("head_dim", config.head_dim)
            .set("prefill_chunk_size", config.prefill_chunk)
            .set("tensor_parallel_shards", 1)
            .set("ffn_out_dtype", "float32")
            .set("max_batch_size", 128)
            .extra("tie_word_embeddings", false)
            .extra("hidden_act", "gelu")
            .extra_rope_scaling(config)
            .finish()
    }
}
