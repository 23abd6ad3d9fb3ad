//! Writing the `model_config` of an `mlc-chat-config.json`.

use crate::config::ModelConfig;
use crate::rope;
use serde_json::{Map, Value};

/// An object under construction that takes values over from a `config.json` as they are written there.
pub(crate) struct MlcConfig<'a> {
    hf: &'a Map<String, Value>,
    map: Map<String, Value>,
}

impl<'a> MlcConfig<'a> {
    /// `hf` must be an object: a configuration was read from it.
    pub(crate) fn new(hf: &'a Value) -> Self {
        static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        MlcConfig { hf: hf.as_object().unwrap_or(&EMPTY), map: Map::new() }
    }

    pub(crate) fn finish(self) -> Map<String, Value> {
        self.map
    }

    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.map.insert(key.to_owned(), value.into());
        self
    }

    /// The checkpoint's own value, or `default`.
    pub(crate) fn take(self, key: &str, default: impl Into<Value>) -> Self {
        let value = self.hf.get(key).filter(|value| !value.is_null()).cloned().unwrap_or_else(|| default.into());
        self.set(key, value)
    }

    /// `key` from the checkpoint's base, which transformers 5 keeps in the rope dictionary.
    pub(crate) fn rope_base(self, key: &str, config: &ModelConfig) -> Self {
        let top = ["rotary_emb_base", "rope_theta"].iter().find_map(|key| self.hf.get(*key)).filter(|v| v.is_number());
        let found = top.or_else(|| rope::dictionary(self.hf)?.get("rope_theta")).filter(|v| v.is_number());
        let value = found.cloned().unwrap_or_else(|| whole(config.rope().map_or(1e4, |rope| rope.base)));
        self.set(key, value)
    }

    /// `key` as the rotated share of a head.
    pub(crate) fn rotated_share(self, key: &str, config: &ModelConfig) -> Self {
        let rotary = config.rope().map_or(0, |rope| rope.rotary);
        self.set(key, f64::from(rotary) / f64::from(config.attention().head_dim))
    }

    /// The sizes that MLC's llama and mistral begin with.
    pub(crate) fn llama_sizes(self, config: &ModelConfig) -> Self {
        self.take("hidden_size", config.hidden)
            .take("intermediate_size", config.intermediate())
            .take("num_attention_heads", config.attention().heads)
            .take("num_hidden_layers", config.layers.len())
            .take("rms_norm_eps", config.norm_epsilon)
            .take("vocab_size", config.vocab)
    }

    /// `rope_scaling` as the checkpoint has it, null where there is none.
    pub(crate) fn rope_scaling(self) -> Self {
        let scaling = rope::scaling_object(self.hf).map_or(Value::Null, Value::Object);
        self.set("rope_scaling", scaling)
    }

    /// `rope_scaling` where there is one, for families in which MLC has no such field.
    pub(crate) fn extra_rope_scaling(self, config: &ModelConfig) -> Self {
        match rope::scaling_object(self.hf) {
            Some(scaling) => self
                .set("max_position_embeddings", config.trained_positions)
                .set("rope_scaling", Value::Object(scaling)),
            None => self,
        }
    }

    /// The checkpoint's value of each key, where it has one that differs from `default`: for what MLC has no field for.
    pub(crate) fn extra(self, key: &str, default: impl Into<Value>) -> Self {
        match self.hf.get(key).filter(|value| !value.is_null()).cloned() {
            Some(value) if value != default.into() => self.set(key, value),
            _ => self,
        }
    }
}

/// Keys of a `config.json` that say nothing of the model's computation.
const ASIDE: [&str; 12] = [
    "architectures",
    "auto_map",
    "_name_or_path",
    "transformers_version",
    "model_type",
    "torch_dtype",
    "dtype",
    "use_cache",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
];

/// For families of which MLC keeps the checkpoint's keys or has no model: all that the checkpoint says, and MLC's sizes.
pub(crate) fn whole_config(config: &ModelConfig, hf: &Value) -> Map<String, Value> {
    let mut map = hf.as_object().cloned().unwrap_or_default();
    map.retain(|key, value| !ASIDE.contains(&key.as_str()) && !value.is_null());
    MlcConfig { map, ..MlcConfig::new(hf) }
        .set("tie_word_embeddings", config.tied_embeddings)
        .set("context_window_size", config.context_window)
        .set("prefill_chunk_size", config.prefill_chunk)
        .set("tensor_parallel_shards", 1)
        .set("max_batch_size", 128)
        .finish()
}

/// A float as JSON, as an integer where it is one.
pub(crate) fn whole(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { Value::from(x as i64) } else { Value::from(x) }
}
