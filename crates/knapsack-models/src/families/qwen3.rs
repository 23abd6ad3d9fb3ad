//! Qwen 3: normalized q and k heads, an explicit head size, no biases.

use super::qwen2;
use super::shared::{Defaults, LLAMA_LIKE, MlcConfig, Standard};
use crate::config::{Biases, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::Fields;
use crate::graph::Names;
use crate::registry::{Architecture, Family};
use serde_json::{Map, Value};

pub(crate) struct Qwen3;

const DEFAULTS: Defaults = Defaults { prefill_chunk: 2048, ..LLAMA_LIKE };

impl Architecture for Qwen3 {
    fn name(&self) -> &'static str {
        "qwen3"
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["Qwen3ForCausalLM"]
    }

    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
        let bias = fields.flag(&["attention_bias"], false)?;
        Ok(ModelConfig {
            biases: Biases { qkv: bias, attention_output: bias, ..Biases::default() },
            query_key_norm: QueryKeyNorm::Shared,
            ..qwen2::read(Family::Qwen3, fields, &DEFAULTS)?
        })
    }

    fn standard(&self) -> Standard {
        qwen2::STANDARD
    }

    fn names(&self, _: &ModelConfig) -> Names {
        Names { head_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]), ..qwen2::GRAPH }
    }

    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value> {
        let map = MlcConfig::new(hf)
            .take("hidden_act", "silu")
            .take("hidden_size", config.hidden)
            .take("intermediate_size", config.intermediate)
            .set("attention_bias", config.biases.qkv);
        let map = qwen2::rest(map, config).set("weight_block_size", Value::Null);
        qwen2::windows(map, config).extra_rope_scaling(config).finish()
    }
}
