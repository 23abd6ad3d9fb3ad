//! Phi 1.5 and 2: LayerNorm, biases everywhere, attention and feed-forward network in parallel, partial rotation. Two layouts of
//! checkpoint, the one of transformers ([`PHI`]) and Microsoft's own ([`PHI_MSFT`]), become the same MLC tensors.

use super::llama::BASE;
use super::rows::QKV_SOURCES;
use crate::config::{Biases, Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, Defaults, LLAMA_LIKE};
use crate::rope::{PLAIN, RopeDefaults};
use crate::table::{Modules, Role, Row, Section, bias, row};
use crate::write::MlcConfig;
use knapsack_tensor::{Activation, NormKind};
use serde_json::{Map, Value};

pub(crate) static PHI: Family = Family {
    name: "phi",
    architectures: &["PhiForCausalLM"],
    models: "Phi 1.5, 2",
    checked: super::GENERATED,
    modules: &TRANSFORMERS,
    read,
    write,
    ..BASE
};

pub(crate) static PHI_MSFT: Family = Family {
    name: "phi-msft",
    architectures: &[],
    models: "Phi 1.5, 2 in Microsoft's layout",
    checked: "no outside reference; the graph is that of phi",
    modules: &MSFT,
    write: write_msft,
    ..PHI_BASE
};

const PHI_BASE: Family = Family { read, ..BASE };

const UP: Row = row(Role::Up, "mlp.fc1", &["mlp.fc1"]);
const UP_BIAS: Row = bias(Role::Up, "mlp.fc1", &["mlp.fc1"]);
const DOWN: Row = row(Role::Down, "mlp.fc2", &["mlp.fc2"]);
const DOWN_BIAS: Row = bias(Role::Down, "mlp.fc2", &["mlp.fc2"]);

static TRANSFORMERS: Modules = Modules {
    layers: ["transformer.h", "model.layers"],
    sections: &[
        Section::Once(&[row(Role::Embedding, "transformer.embd", &["model.embed_tokens"])]),
        Section::Layers(&[
            row(Role::AttentionNorm, "ln", &["input_layernorm"]),
            row(Role::Qkv, "mixer.Wqkv", QKV_SOURCES),
            bias(Role::Qkv, "mixer.Wqkv", QKV_SOURCES),
            row(Role::Output, "mixer.out_proj", &["self_attn.dense"]),
            bias(Role::Output, "mixer.out_proj", &["self_attn.dense"]),
            UP,
            UP_BIAS,
            DOWN,
            DOWN_BIAS,
        ]),
        Section::Once(&[
            row(Role::FinalNorm, "lm_head.ln", &["model.final_layernorm"]),
            row(Role::Head, "lm_head.linear", &["lm_head"]),
            bias(Role::Head, "lm_head.linear", &["lm_head"]),
        ]),
    ],
};

static MSFT: Modules = Modules {
    layers: ["transformer.h"; 2],
    sections: &[
        Section::Once(&[row(Role::Embedding, "transformer.embd", &["transformer.embd.wte"])]),
        Section::Layers(&[
            row(Role::AttentionNorm, "ln", &["ln"]),
            row(Role::Qkv, "mixer.Wqkv", &["mixer.Wqkv"]),
            bias(Role::Qkv, "mixer.Wqkv", &["mixer.Wqkv"]),
            row(Role::Output, "mixer.out_proj", &["mixer.out_proj"]),
            bias(Role::Output, "mixer.out_proj", &["mixer.out_proj"]),
            UP,
            UP_BIAS,
            DOWN,
            DOWN_BIAS,
        ]),
        Section::Once(&[
            row(Role::FinalNorm, "lm_head.ln", &["lm_head.ln"]),
            row(Role::Head, "lm_head.linear", &["lm_head.linear"]),
            bias(Role::Head, "lm_head.linear", &["lm_head.linear"]),
        ]),
    ],
};

const DEFAULTS: Defaults = Defaults {
    norm: NormKind::Layer,
    norm_epsilon: 1e-5,
    activation: Activation::GeluTanh,
    rope: RopeDefaults { partial: 0.5, ..PLAIN },
    ..LLAMA_LIKE
};

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let config = read::decoder(family, fields, &DEFAULTS)?;
    read::must_be_off(family, fields, &["qk_layernorm", "tie_word_embeddings"])?;
    let biases = Biases { qkv: true, attention_output: true, mlp: true, head: true, ..Biases::default() };
    Ok(ModelConfig { biases, parallel_residual: true, ..config })
}

fn write(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    MlcConfig::new(hf)
        .take("vocab_size", config.vocab)
        .take("hidden_size", config.hidden)
        .take("intermediate_size", config.intermediate())
        .take("num_hidden_layers", config.layers.len())
        .take("num_attention_heads", config.attention().heads)
        .take("layer_norm_eps", config.norm_epsilon)
        .rope_base("position_embedding_base", config)
        .rotated_share("partial_rotary_factor", config)
        .set("num_key_value_heads", config.attention().kv_heads)
        .set("context_window_size", config.context_window)
        .set("prefill_chunk_size", config.prefill_chunk)
        .set("head_dim", config.attention().head_dim)
        .set("tensor_parallel_shards", 1)
        .set("max_batch_size", 128)
        .extra("hidden_act", "gelu_new")
        .extra_rope_scaling(config)
        .finish()
}

fn write_msft(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    MlcConfig::new(hf)
        .set("model_type", "phi-msft")
        .take("vocab_size", config.vocab)
        .take("n_positions", config.trained_positions)
        .take("n_embd", config.hidden)
        .take("n_layer", config.layers.len())
        .set("n_inner", config.intermediate())
        .take("n_head", config.attention().heads)
        .set("rotary_dim", config.ropes[0].rotary)
        .rope_base("position_embedding_base", config)
        .take("layer_norm_epsilon", config.norm_epsilon)
        .set("context_window_size", config.context_window)
        .set("prefill_chunk_size", config.prefill_chunk)
        .set("n_head_kv", config.attention().kv_heads)
        .set("head_dim", config.attention().head_dim)
        .set("tensor_parallel_shards", 1)
        .finish()
}
