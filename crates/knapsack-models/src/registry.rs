//! The list of families, and the way from a configuration to one of them.

use crate::config::{Family, ModelConfig};
use crate::error::{ConfigError, UnsupportedFamily};
use crate::families::{ernie4_5, exaone4, granite, hunyuan, lfm, ministral3, olmo, qwen3_5, smollm3};
use crate::families::{gemma, gemma2, gemma3, gemma4, gpt_neox, llama, mistral, phi, phi3, qwen2, qwen3, stablelm};
use crate::fields::{Asked, Fields, shortened};
use crate::{read, rope, usable};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Every family.
pub static FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &gemma::GEMMA,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3_TEXT,
    &phi3::PHI3,
    &phi::PHI,
    &phi::PHI_MSFT,
    &stablelm::STABLELM,
    &gpt_neox::GPT_NEOX,
    &smollm3::SMOLLM3,
    &ministral3::MINISTRAL3,
    &granite::GRANITE,
    &granite::GRANITE_HYBRID,
    &olmo::OLMO2,
    &olmo::OLMO3,
    &exaone4::EXAONE4,
    &hunyuan::HUNYUAN,
    &ernie4_5::ERNIE4_5,
    &lfm::LFM2,
    &lfm::LFM3,
    &qwen3_5::QWEN3_5,
    &gemma4::GEMMA4,
];

/// Keys that change what a model computes, for families that have them: nobody asking for one means a wrong model. The values
/// by which they are off are 0, 1, false and null.
const DECISIVE: [&str; 12] = [
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "logits_scaling",
    "logit_scale",
    "scale_emb",
    "scale_depth",
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
];

impl Family {
    /// The family of an MLC `model_type`.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<&'static Self, UnsupportedFamily> {
        FAMILIES.iter().copied().find(|family| family.name == name).ok_or_else(|| unsupported(name, &[name]))
    }

    fn has_model_type(&self, name: &str) -> bool {
        self.name == name || self.model_types.contains(&name)
    }

    /// The family of a checkpoint's `config.json`: by `architectures`, or by `model_type` where they name none that is known and
    /// still a causal language model.
    fn of_checkpoint(object: &Map<String, Value>) -> Result<&'static Self, ConfigError> {
        let architecture = object.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        let model_type = object.get("model_type").and_then(Value::as_str);
        let find = |fits: &dyn Fn(&Family) -> bool| FAMILIES.iter().copied().find(|family| fits(family));
        let by_architecture = architecture.and_then(|name| find(&|family| family.architectures.contains(&name)));
        let by_model_type = model_type.and_then(|name| find(&|family| family.has_model_type(name)));
        match (architecture, by_architecture, by_model_type) {
            // Both layouts of Phi call themselves `PhiForCausalLM`.
            (_, Some(family), Some(other)) if family.name == "phi" && other.name == "phi-msft" => Ok(other),
            (_, Some(family), _) | (None, None, Some(family)) => Ok(family),
            // Other spellings, such as `LLaMAForCausalLM`, and classes of somebody's own.
            (Some(name), None, Some(family)) if name.ends_with("ForCausalLM") => Ok(family),
            (Some(name), None, _) => {
                let names = [Some(name), model_type].into_iter().flatten().collect::<Vec<_>>();
                Err(unsupported(name, &names).into())
            }
            (None, None, None) => match model_type {
                Some(name) => Err(unsupported(name, &[name]).into()),
                None => Err(ConfigError::Missing { key: "architectures` or `model_type".to_owned() }),
            },
        }
    }
}

/// Similarity below which no family is called near.
const NEAR: f64 = 0.85;

/// The error for names that no family has. Near is a family whose name the found one begins with (`qwen2_moe` is near `qwen2`), or
/// one that is spelled much like it.
fn unsupported(found: &str, names: &[&str]) -> UnsupportedFamily {
    let lower = |name: &str| name.chars().take(80).collect::<String>().to_lowercase();
    let names: Vec<String> = names.iter().map(|name| lower(name.trim_end_matches("ForCausalLM"))).collect();
    let known = |family: &&'static Family| {
        let architectures = family.architectures.iter().map(|name| name.trim_end_matches("ForCausalLM"));
        architectures.chain([family.name]).map(lower).collect::<Vec<_>>()
    };
    let prefix = |family: &&'static Family| {
        let known = known(family).into_iter().filter(|known| names.iter().any(|name| name.starts_with(known.as_str())));
        known.map(|known| known.len()).max()
    };
    let similarity = |family: &&'static Family| {
        let known = known(family);
        let pairs = names.iter().flat_map(|name| known.iter().map(|known| strsim::normalized_levenshtein(known, name)));
        pairs.fold(0.0, f64::max)
    };
    let by_prefix = FAMILIES.iter().copied().filter(|family| prefix(family).is_some()).max_by_key(prefix);
    let by_spelling =
        FAMILIES.iter().copied().map(|family| (similarity(&family), family)).filter(|(near, _)| *near >= NEAR);
    let nearest = by_prefix.or_else(|| by_spelling.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, family)| family));
    UnsupportedFamily {
        found: found.chars().take(80).collect(),
        nearest: nearest.map(|family| family.name),
        supported: FAMILIES.iter().map(|family| family.name).collect(),
    }
}

/// The configuration of the language model: the whole, or what a model that also sees or hears keeps in `text_config`, with the
/// outer values that win over it.
fn language_model(config: &Value) -> Cow<'_, Value> {
    let Some(text @ Value::Object(_)) = config.get("text_config") else { return Cow::Borrowed(config) };
    let mut text = text.clone();
    for key in [
        "tie_word_embeddings",
        "dtype",
        "torch_dtype",
        "bos_token_id",
        "eos_token_id",
        "quantization_config",
        "quantization",
    ] {
        if let Some(value) = config.get(key).filter(|value| !value.is_null()) {
            text[key] = value.clone();
        }
    }
    Cow::Owned(text)
}

impl ModelConfig {
    /// Reads a checkpoint's `config.json`.
    ///
    /// # Errors
    /// When the family is not known, the checkpoint is of a kind that cannot be converted ([`crate::usable()`]), or a value is
    /// missing, of the wrong type, out of range or not supported.
    pub fn from_hf(config: &Value) -> Result<Self, ConfigError> {
        usable::usable(config)?;
        let config = language_model(config);
        let asked = Asked::default();
        let fields = Fields::new(&config, &asked)?;
        let family = Family::of_checkpoint(config.as_object().ok_or(ConfigError::Shape("is not a JSON object"))?)?;
        let read = (family.read)(family, &fields)?;
        nothing_is_left(family, &fields)?;
        read.checked()
    }

    /// Reads a whole `mlc-chat-config.json`. Windows and the chunk at its top level win over those in `model_config`.
    ///
    /// # Errors
    /// As [`ModelConfig::from_hf`].
    pub fn from_mlc(chat_config: &Value) -> Result<Self, ConfigError> {
        let family = match chat_config.get("model_type") {
            Some(Value::String(model_type)) => Family::named(model_type)?,
            _ => return Err(ConfigError::Missing { key: "model_type".to_owned() }),
        };
        let asked = Asked::default();
        let chat = Fields::new(chat_config, &asked)?;
        let model = read::mlc_model(&chat)?;
        let fields = match model.object("text_config")? {
            Some(text) => text.with_rest(&model),
            None => model,
        };
        let mut read = (family.read)(family, &fields)?;
        nothing_is_left(family, &fields)?;
        (family.finish_mlc)(&mut read, &chat)?;
        read.checked()
    }

    /// The `model_config` object of an `mlc-chat-config.json`, with the fields that MLC writes for this family. Where
    /// MLC has no field for something the model needs, one is added. `hf` is the `config.json` that `self` was read from.
    pub fn mlc_model_config(&self, hf: &Value) -> Map<String, Value> {
        (self.family.write)(self, &language_model(hf))
    }
}

/// Refuses what nobody read and what would change the model's numbers.
fn nothing_is_left(family: &'static Family, fields: &Fields<'_>) -> Result<(), ConfigError> {
    if let Some(key) = rope::unread(fields) {
        return Err(ConfigError::RopeKey { key, family: family.name });
    }
    let off = |value: &Value| matches!(value.as_f64(), Some(0.0 | 1.0));
    let left = fields.unasked().find(|(key, value)| DECISIVE.contains(key) && !off(value));
    match left {
        Some((key, value)) => {
            Err(ConfigError::NotSupported { key: key.to_owned(), found: shortened(value), family: family.name })
        }
        None => Ok(()),
    }
}
