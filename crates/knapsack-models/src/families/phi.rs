//! Phi 1.5 and 2: LayerNorm, biases everywhere, attention and feed-forward network in parallel, partial rotation. Two layouts of
//! checkpoint, the one of transformers ([`Phi`]) and Microsoft's own ([`PhiMsft`]), become the same MLC tensors.

use super::shared::{self, Defaults, LLAMA_LIKE, List, MlcConfig, qkv_sources};
use crate::config::{Biases, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::graph::{Mlp, Names, Projections, decoder};
use crate::parameter::{Parameter, ParameterKind, Source, Transform};
use crate::registry::{Architecture, Family};
use knapsack_tensor::{Activation, NormKind};
use serde_json::{Map, Value};

pub(crate) struct Phi;
pub(crate) struct PhiMsft;

const DEFAULTS: Defaults = Defaults {
    norm: NormKind::Layer,
    norm_epsilon: 1e-5,
    activation: Activation::GeluTanh,
    partial_rotary: 0.5,
    ..LLAMA_LIKE
};

/// What the graph reads.
const GRAPH: Names = Names {
    embedding: "transformer.embd",
    layers: "transformer.h",
    attention_norm: "ln",
    projections: Projections::Fused("mixer.Wqkv"),
    output: "mixer.out_proj",
    mlp_norm: None,
    mlp: Mlp::Plain { up: "mlp.fc1", down: "mlp.fc2" },
    final_norm: "lm_head.ln",
    head: "lm_head.linear",
    ..decoder::LLAMA
};

fn read(family: Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let config = shared::decoder(family, fields, &DEFAULTS)?;
    for key in ["qk_layernorm", "tie_word_embeddings"] {
        if fields.flag(&[key], false)? {
            let found = "true".to_owned();
            return Err(ConfigError::NotSupported { key: key.to_owned(), found, family: family.name() });
        }
    }
    let biases = Biases { qkv: true, attention_output: true, mlp: true, head: true };
    Ok(ModelConfig { biases, parallel_residual: true, ..config })
}

/// Where a layout keeps what. Names of linear layers are those before `.weight` and `.bias`.
struct Layout {
    embedding: &'static str,
    final_norm: &'static str,
    head: &'static str,
    layers: &'static str,
    norm: &'static str,
    output: &'static str,
    /// `None`: q, k and v are apart.
    qkv: Option<&'static str>,
}

const TRANSFORMERS: Layout = Layout {
    embedding: "model.embed_tokens",
    final_norm: "model.final_layernorm",
    head: "lm_head",
    layers: "model.layers",
    norm: "input_layernorm",
    output: "self_attn.dense",
    qkv: None,
};

const MSFT: Layout = Layout {
    embedding: "transformer.embd.wte",
    final_norm: "lm_head.ln",
    head: "lm_head.linear",
    layers: "transformer.h",
    norm: "ln",
    output: "mixer.out_proj",
    qkv: Some("mixer.Wqkv"),
};

fn parameters(config: &ModelConfig, layout: &Layout) -> Vec<Parameter> {
    let mut list = List::default();
    let hidden = u64::from(config.hidden);
    let weight = |module: &str| format!("{module}.weight");
    let kind = ParameterKind::Embedding;
    list.matrix(kind, weight("transformer.embd"), weight(layout.embedding), config.vocab, hidden);
    for layer in 0..config.layers {
        let (to, from) = (format!("transformer.h.{layer}"), format!("{}.{layer}", layout.layers));
        list.norm(config, &format!("{to}.ln"), &format!("{from}.{}", layout.norm), Transform::Keep);
        for suffix in ["weight", "bias"] {
            let sources = match layout.qkv {
                Some(name) => vec![Source { name: format!("{from}.{name}.{suffix}"), rows: config.qkv_columns() }],
                None => qkv_sources(config, &format!("{from}.self_attn"), suffix),
            };
            let name = format!("{to}.mixer.Wqkv.{suffix}");
            match suffix {
                "weight" => list.fused(name, sources, hidden, Transform::Keep),
                _ => list.fused_vector(name, sources, Transform::Keep),
            }
        }
        for (mlc, hf, rows, columns) in [
            ("mixer.out_proj", layout.output, config.hidden, config.attention_columns()),
            ("mlp.fc1", "mlp.fc1", config.intermediate, hidden),
            ("mlp.fc2", "mlp.fc2", config.hidden, config.intermediate.into()),
        ] {
            let (to, from) = (format!("{to}.{mlc}"), format!("{from}.{hf}"));
            list.matrix(ParameterKind::Linear, weight(&to), weight(&from), rows, columns);
            list.vector(format!("{to}.bias"), format!("{from}.bias"), rows, Transform::Keep);
        }
    }
    list.norm(config, "lm_head.ln", layout.final_norm, Transform::Keep);
    list.matrix(ParameterKind::Final, weight("lm_head.linear"), weight(layout.head), config.vocab, hidden);
    let bias = format!("{}.bias", layout.head);
    list.vector("lm_head.linear.bias".to_owned(), bias, config.vocab, Transform::Keep);
    list.finish()
}

impl Architecture for Phi {
    fn name(&self) -> &'static str {
        "phi"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["PhiForCausalLM"]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        read(Family::Phi, fields)
    }

    fn parameters(&self, config: &ModelConfig) -> Vec<Parameter> {
        parameters(config, &TRANSFORMERS)
    }

    fn names(&self, _: &ModelConfig) -> Names {
        GRAPH
    }

    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value> {
        MlcConfig::new(hf)
            .take("vocab_size", config.vocab)
            .take("hidden_size", config.hidden)
            .take("intermediate_size", config.intermediate)
            .take("num_hidden_layers", config.layers)
            .take("num_attention_heads", config.heads)
            .take("layer_norm_eps", config.norm_epsilon)
            .rope_base("position_embedding_base", config)
            .set("partial_rotary_factor", f64::from(config.rope.rotary) / f64::from(config.head_dim))
            .set("num_key_value_heads", config.kv_heads)
            .set("context_window_size", config.context_window)
            .set("prefill_chunk_size", config.prefill_chunk)
            .set("head_dim", config.head_dim)
            .set("tensor_parallel_shards", 1)
            .set("max_batch_size", 128)
            .extra("hidden_act", "gelu_new")
            .extra_rope_scaling(config)
            .finish()
    }
}

impl Architecture for PhiMsft {
    fn name(&self) -> &'static str {
        "phi-msft"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &[]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        read(Family::PhiMsft, fields)
    }

    fn parameters(&self, config: &ModelConfig) -> Vec<Parameter> {
        parameters(config, &MSFT)
    }

    fn names(&self, _: &ModelConfig) -> Names {
        GRAPH
    }

    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value> {
        MlcConfig::new(hf)
            .set("model_type", "phi-msft")
            .take("vocab_size", config.vocab)
            .take("n_positions", config.trained_positions)
            .take("n_embd", config.hidden)
            .take("n_layer", config.layers)
            .set("n_inner", config.intermediate)
            .take("n_head", config.heads)
            .set("rotary_dim", config.rope.rotary)
            .rope_base("position_embedding_base", config)
            .take("layer_norm_epsilon", config.norm_epsilon)
            .set("context_window_size", config.context_window)
            .set("prefill_chunk_size", config.prefill_chunk)
            .set("n_head_kv", config.kv_heads)
            .set("head_dim", config.head_dim)
            .set("tensor_parallel_shards", 1)
            .finish()
    }
}
