use crate::config::ModelConfig;
use crate::error::{ConfigError, UnsupportedFamily};
use crate::families::{self, shared, shared::Standard};
use crate::fields::Fields;
use crate::graph::Names;
use crate::parameter::Parameter;
use serde_json::{Map, Value};
use std::fmt;

/// A model family that can be converted, compiled and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Llama 2 and 3.x, TinyLlama, SmolLM2, DeepSeek-R1-Distill-Llama.
    Llama,
    /// Mistral 7B.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// Gemma 1.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, text only.
    Gemma3Text,
    /// Phi 3 and 3.5 mini.
    Phi3,
    /// Phi 1.5 and 2 as transformers has them.
    Phi,
    /// Phi 1.5 and 2 in Microsoft's own layout.
    PhiMsft,
    /// StableLM 3B and 2.
    StableLm,
    /// GPT-NeoX: Pythia, RedPajama.
    GptNeox,
}

/// Every family.
pub const FAMILIES: [Family; 12] = [
    Family::Llama,
    Family::Mistral,
    Family::Qwen2,
    Family::Qwen3,
    Family::Gemma,
    Family::Gemma2,
    Family::Gemma3Text,
    Family::Phi3,
    Family::Phi,
    Family::PhiMsft,
    Family::StableLm,
    Family::GptNeox,
];

/// What a family's file implements.
pub(crate) trait Architecture: Sync {
    /// MLC's `model_type`.
    fn name(&self) -> &'static str;
    /// Entries of `architectures` in a `config.json`.
    fn architectures(&self) -> &'static [&'static str];
    /// Other values of `model_type` in a `config.json`.
    fn model_types(&self) -> &'static [&'static str] {
        &[]
    }
    /// Reads a `config.json`, or the `model_config` that MLC makes of it.
    fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig, ConfigError>;
    fn read_hf(&self, config: &Value) -> Result<ModelConfig, ConfigError> {
        self.read(&Fields::new(config)?)
    }
    fn read_mlc(&self, chat_config: &Value) -> Result<ModelConfig, ConfigError> {
        shared::read_mlc(chat_config, |fields| self.read(fields))
    }
    /// How the names of parameters differ from llama's.
    fn standard(&self) -> Standard {
        shared::LLAMA
    }
    fn parameters(&self, config: &ModelConfig) -> Vec<Parameter> {
        shared::standard_parameters(config, &self.standard())
    }
    fn ignores(&self, config: &ModelConfig, tensor: &str) -> bool {
        shared::ignores(config, tensor)
    }
    /// What the graph's decoder calls its parameters.
    fn names(&self, config: &ModelConfig) -> Names;
    fn mlc_model_config(&self, config: &ModelConfig, hf: &Value) -> Map<String, Value>;
}

impl Family {
    /// MLC's `model_type`, such as `llama`.
    pub fn name(self) -> &'static str {
        self.architecture().name()
    }

    /// The `architectures` of checkpoints of this family.
    pub fn architectures(self) -> &'static [&'static str] {
        self.architecture().architectures()
    }

    /// The family of an MLC `model_type`.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_model_type(model_type: &str) -> Result<Self, UnsupportedFamily> {
        let found = FAMILIES.into_iter().find(|family| family.name() == model_type);
        found.ok_or_else(|| unsupported(model_type))
    }

    /// The family of an `mlc-chat-config.json`.
    pub(crate) fn of_mlc(chat_config: &Value) -> Result<Self, ConfigError> {
        match chat_config.get("model_type") {
            Some(Value::String(model_type)) => Ok(Family::of_model_type(model_type)?),
            _ => Err(ConfigError::Missing { key: "model_type".to_owned() }),
        }
    }

    /// The family of a checkpoint's `config.json`: by `architectures`, or by `model_type` where there are none.
    pub(crate) fn of_checkpoint(config: &Value) -> Result<Self, ConfigError> {
        let object = config.as_object().ok_or(ConfigError::Shape("is not a JSON object"))?;
        let architecture = object.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        let model_type = object.get("model_type").and_then(Value::as_str);
        let by_architecture =
            architecture.and_then(|name| FAMILIES.into_iter().find(|f| f.architectures().contains(&name)));
        let by_model_type = model_type.and_then(|name| {
            FAMILIES.into_iter().find(|f| f.name() == name || f.architecture().model_types().contains(&name))
        });
        match (architecture, by_architecture, by_model_type) {
            // Both layouts of Phi call themselves `PhiForCausalLM`.
            (_, Some(Family::Phi), Some(Family::PhiMsft)) => Ok(Family::PhiMsft),
            (_, Some(family), _) | (None, None, Some(family)) => Ok(family),
            (Some(name), None, _) => Err(unsupported(name).into()),
            (None, None, None) => match model_type {
                Some(name) => Err(unsupported(name).into()),
                None => Err(ConfigError::Missing { key: "architectures` or `model_type".to_owned() }),
            },
        }
    }

    pub(crate) fn architecture(self) -> &'static dyn Architecture {
        match self {
            Family::Llama => &families::llama::Llama,
            Family::Mistral => &families::mistral::Mistral,
            Family::Qwen2 => &families::qwen2::Qwen2,
            Family::Qwen3 => &families::qwen3::Qwen3,
            Family::Gemma => &families::gemma::Gemma,
            Family::Gemma2 => &families::gemma2::Gemma2,
            Family::Gemma3Text => &families::gemma3::Gemma3Text,
            Family::Phi3 => &families::phi3::Phi3,
            Family::Phi => &families::phi::Phi,
            Family::PhiMsft => &families::phi::PhiMsft,
            Family::StableLm => &families::stablelm::StableLm,
            Family::GptNeox => &families::gpt_neox::GptNeox,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error for a name that no family has, with the nearest of all their names.
fn unsupported(found: &str) -> UnsupportedFamily {
    let found: String = found.chars().take(80).collect();
    let similarity = |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &found.to_lowercase());
    let score = |family: &Family| {
        let names = family.architectures().iter().copied().chain([family.name()]);
        names.map(similarity).fold(0.0, f64::max)
    };
    let nearest = FAMILIES.into_iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap_or(Family::Llama);
    UnsupportedFamily { found, nearest }
}
