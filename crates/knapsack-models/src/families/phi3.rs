//! Phi 3, 3.5 and 4 mini: llama with projections that are fused in the checkpoint already, and longrope.

use super::llama::BASE;
use crate::config::{Family, ModelConfig};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::read::{self, LLAMA_LIKE};
use crate::table::{Modules, Role, Section, row};
use crate::write::MlcConfig;
use serde_json::{Map, Value};

pub(crate) static PHI3: Family = Family {
    name: "phi3",
    architectures: &["Phi3ForCausalLM"],
    models: "Phi 3, 3.5 mini, 4 mini",
    modules: &MODULES,
    read,
    write,
    ..BASE
};

static MODULES: Modules = Modules {
    layers: ["transformer.h", "model.layers"],
    sections: &[
        Section::Once(&[row(Role::Embedding, "transformer.embd", &["model.embed_tokens"])]),
        Section::Layers(&[
            row(Role::AttentionNorm, "ln", &["input_layernorm"]),
            row(Role::MlpNorm, "post_attention_layernorm", &["post_attention_layernorm"]),
            row(Role::Qkv, "mixer.qkv_proj", &["self_attn.qkv_proj"]),
            row(Role::Output, "mixer.out_proj", &["self_attn.o_proj"]),
            row(Role::GateUp, "mlp.gate_up_proj", &["mlp.gate_up_proj"]),
            row(Role::Down, "mlp.down_proj", &["mlp.down_proj"]),
        ]),
        Section::Once(&[
            row(Role::FinalNorm, "transformer.norm", &["model.norm"]),
            row(Role::Head, "lm_head", &["lm_head"]),
        ]),
    ],
};

fn read(family: &'static Family, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = read::decoder(family, fields, &LLAMA_LIKE)?;
    let window = fields.positions(&["sliding_window"])?;
    config.set_windows(fields, &LLAMA_LIKE.rope, window, |_| true)?;
    Ok(config)
}

fn write(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    let mut map = MlcConfig::new(hf)
        .set("model_type", "phi3")
        .take("hidden_size", config.hidden)
        .take("vocab_size", config.vocab)
        .take("num_hidden_layers", config.layers.len())
        .take("num_attention_heads", config.attention().heads)
        .take("intermediate_size", config.intermediate())
        .take("rms_norm_eps", config.norm_epsilon)
        .set("num_key_value_heads", config.attention().kv_heads)
        .take("max_position_embeddings", config.trained_positions)
        .rope_base("position_embedding_base", config)
        .rope_scaling()
        .take("original_max_position_embeddings", 0)
        .set("context_window_size", config.context_window)
        .set("prefill_chunk_size", config.prefill_chunk)
        .set("head_dim", config.attention().head_dim)
        .set("tensor_parallel_shards", 1)
        .set("max_batch_size", 128)
        .set("tie_word_embeddings", config.tied_embeddings)
        .rotated_share("partial_rotary_factor", config)
        .extra("sliding_window", Value::Null)
        .finish();
    let positions = ["max_position_embeddings", "original_max_position_embeddings"].map(|key| (key, map[key].clone()));
    if let Some(Value::Object(scaling)) = map.get_mut("rope_scaling") {
        for (key, value) in positions {
            scaling.entry(key).or_insert(value);
        }
    }
    map
}
