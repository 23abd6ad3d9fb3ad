//! GPT-NeoX (Pythia, RedPajama): LayerNorm, biases, partial rotation, usually a parallel residual. Checkpoints interleave q, k
//! and v by head.

use super::llama::BASE;
use super::rows::{ATTENTION_NORM, MLP_NORM};
use crate::config::{Biases, Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, Defaults, LLAMA_LIKE};
use crate::rope::{PLAIN, RopeDefaults};
use crate::table::{Change, Modules, Role, Section, bias, row};
use crate::write::MlcConfig;
use knapsack_tensor::{Activation, NormKind};
use serde_json::{Map, Value};

pub(crate) static GPT_NEOX: Family = Family {
    name: "gpt_neox",
    architectures: &["GPTNeoXForCausalLM"],
    models: "Pythia, RedPajama",
    checked: super::GENERATED,
    modules: &MODULES,
    read,
    write,
    ..BASE
};

const QKV: &[&str] = &["attention.query_key_value"];

static MODULES: Modules = Modules {
    layers: ["gpt_neox.layers"; 2],
    sections: &[
        Section::Once(&[row(Role::Embedding, "gpt_neox.embed_in", &["gpt_neox.embed_in"])]),
        Section::Layers(&[
            ATTENTION_NORM,
            MLP_NORM,
            row(Role::Qkv, QKV[0], QKV).with(Change::SplitHeads),
            bias(Role::Qkv, QKV[0], QKV).with(Change::SplitHeads),
            row(Role::Output, "attention.dense", &["attention.dense"]),
            bias(Role::Output, "attention.dense", &["attention.dense"]),
            row(Role::Up, "mlp.dense_h_to_4h", &["mlp.dense_h_to_4h"]),
            bias(Role::Up, "mlp.dense_h_to_4h", &["mlp.dense_h_to_4h"]).in_float32(),
            row(Role::Down, "mlp.dense_4h_to_h", &["mlp.dense_4h_to_h"]),
            bias(Role::Down, "mlp.dense_4h_to_h", &["mlp.dense_4h_to_h"]).in_float32(),
        ]),
        Section::Once(&[
            row(Role::FinalNorm, "gpt_neox.final_layer_norm", &["gpt_neox.final_layer_norm"]),
            row(Role::Head, "embed_out", &["embed_out"]),
        ]),
    ],
};

const DEFAULTS: Defaults = Defaults {
    norm: NormKind::Layer,
    norm_epsilon: 1e-5,
    activation: Activation::Gelu,
    rope: RopeDefaults { partial: 0.25, ..PLAIN },
    ..LLAMA_LIKE
};

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let config = read::decoder(family, fields, &DEFAULTS)?;
    if !fields.flag(&["attention_bias"], true)? {
        let (key, found) = ("attention_bias".to_owned(), "false".to_owned());
        return Err(ConfigError::NotSupported { key, found, family: family.name });
    }
    Ok(ModelConfig {
        biases: Biases { qkv: true, attention_output: true, mlp: true, ..Biases::default() },
        parallel_residual: fields.flag(&["use_parallel_residual"], true)?,
        ..config
    })
}

fn write(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    MlcConfig::new(hf)
        .set("use_parallel_residual", config.parallel_residual)
        .take("hidden_size", config.hidden)
        .take("intermediate_size", config.intermediate())
        .take("num_attention_heads", config.attention().heads)
        .take("num_hidden_layers", config.layers.len())
        .take("layer_norm_eps", config.norm_epsilon)
        .take("vocab_size", config.vocab)
        .rotated_share("rotary_pct", config)
        .rope_base("position_embedding_base", config)
        .set("context_window_size", config.context_window)
        .set("head_dim", config.attention().head_dim)
        .set("prefill_chunk_size", config.prefill_chunk)
        .set("tensor_parallel_shards", 1)
        .set("ffn_out_dtype", "float32")
        .set("max_batch_size", 128)
        .extra("tie_word_embeddings", false)
        .extra("hidden_act", "gelu")
        .extra_rope_scaling(config)
        .finish()
}
