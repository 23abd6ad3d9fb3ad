//! A model folder as far as planning and compiling need it: its configuration, never its weights.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::chat_config;
use knapsack_artifact::library::{MemoryPlan, Target};
use knapsack_compiler::{ChooseError, Chosen, CompileError, CompileRequest, Fixed, GivenSizes, Own, OwnSizes};
use knapsack_config::{DEFAULT_QUANTIZATION, ModelForm, OverrideKey};
use knapsack_ir::Windows;
use knapsack_models::{ConfigError, GraphError, ModelConfig};
use knapsack_tensor::{Quantization, UnknownQuantization};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest configuration file that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Why a model folder's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The folder has no configuration of a model.
    #[error("{} holds neither mlc-chat-config.json nor config.json", .0.display())]
    NoConfiguration(PathBuf),
    /// The configuration cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The configuration's path.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// The configuration is larger than any real one.
    #[error("{} is larger than {MAX_CONFIG_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    /// The configuration is no JSON.
    #[error("{} is not valid JSON", path.display())]
    Json {
        /// The configuration's path.
        path: PathBuf,
        /// Where it stops being JSON.
        source: knapsack_artifact::json::JsonError,
    },
    /// No family can use the configuration.
    #[error("{}", path.display())]
    Config {
        /// The configuration's path.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The weights are in a format that does not exist.
    #[error("{}", path.display())]
    Format {
        /// The file that says so.
        path: PathBuf,
        /// The name that no format has.
        source: UnknownQuantization,
    },
    /// Weights that were converted are not converted again.
    #[error("{} is in {own} already: {wanted} needs the checkpoint", folder.display())]
    Converted {
        /// The model's folder.
        folder: PathBuf,
        /// The format that its weights are in.
        own: String,
        /// The format asked for.
        wanted: String,
    },
    /// The configuration makes no graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The graph cannot be compiled for these sizes.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// A model's configuration and the format of its weights.
#[derive(Clone, Debug)]
pub struct Model {
    /// Where it was read.
    pub folder: PathBuf,
    /// Whether the weights are converted already.
    pub kind: ModelForm,
    /// Architecture and sizes, as the configuration says them.
    pub config: ModelConfig,
    /// The format of the weights, now or after conversion.
    pub quantization: Quantization,
    /// The configuration file as it stands: with the format and the windows it decides what a library holds.
    pub config_bytes: Vec<u8>,
    /// Bytes that its tokenizer takes of a budget; 0 until somebody says so.
    pub tokenizer: u64,
}

impl Model {
    /// Reads the configuration in `folder`. `quantization` is what a checkpoint is converted to ([`DEFAULT_QUANTIZATION`] when
    /// not said), and must be what an MLC folder says already.
    ///
    /// # Errors
    /// No configuration, one that cannot be read or is not supported, or a format that the folder does not have.
    pub fn open(folder: &Path, quantization: Option<&str>) -> Result<Self, ModelError> {
        let mlc = folder.join(chat_config::FILE_NAME);
        let (kind, path) = match mlc.is_file() {
            true => (ModelForm::Mlc, mlc),
            false => (ModelForm::Checkpoint, folder.join("config.json")),
        };
        if !path.is_file() {
            let path = folder.join("adapter_config.json");
            if !path.is_file() {
                return Err(ModelError::NoConfiguration(folder.to_owned()));
            }
            let source = knapsack_models::adapter(&read_json(&path)?.1);
            return Err(ModelError::Config { path, source });
        }
        let (config_bytes, value) = read_json(&path)?;
        let (config, name) = match kind {
            ModelForm::Checkpoint => {
                (ModelConfig::from_hf(&value), quantization.unwrap_or(DEFAULT_QUANTIZATION).to_owned())
            }
            ModelForm::Mlc => {
                let own = value.get("quantization").and_then(Value::as_str).unwrap_or_default().to_owned();
                if let Some(wanted) = quantization.filter(|wanted| *wanted != own) {
                    return Err(ModelError::Converted { folder: folder.to_owned(), own, wanted: wanted.to_owned() });
                }
                (ModelConfig::from_mlc(&value), own)
            }
        };
        let config = config.map_err(|source| ModelError::Config { path: path.clone(), source })?;
        if name.is_empty() {
            return Err(ModelError::Config { path, source: ConfigError::Missing { key: "quantization".into() } });
        }
        let quantization = name.parse::<Quantization>().map_err(|source| ModelError::Format { path, source })?;
        Ok(Model { folder: folder.to_owned(), kind, config, quantization, config_bytes, tokenizer: 0 })
    }

    /// Chooses the sizes that `overrides` leave open, within `budget` bytes of device memory.
    ///
    /// # Errors
    /// Sizes that do not go together, or a configuration that makes no graph.
    pub fn choose(&self, overrides: &GivenSizes, budget: Option<u64>) -> Result<Chosen, ChooseError<GraphError>> {
        knapsack_compiler::choose(&self.own(), overrides, budget, |windows| {
            self.config.graph(&self.quantization, windows)
        })
    }

    /// Finds the sizes with the largest context that fit `budget` bytes.
    ///
    /// # Errors
    /// As [`Model::choose`].
    pub fn fit(&self, fixed: &Fixed, budget: u64) -> Result<Chosen, ChooseError<GraphError>> {
        knapsack_compiler::fit(&self.own(), fixed, budget, |windows| self.config.graph(&self.quantization, windows))
    }

    /// The memory that the model needs with sizes, exactly as it would be compiled.
    ///
    /// # Errors
    /// Sizes that do not go together, or a configuration that makes no graph.
    pub fn memory(&self, windows: &Windows) -> Result<MemoryPlan, ModelError> {
        Ok(knapsack_compiler::plan(&self.config.graph(&self.quantization, windows)?, windows)?)
    }

    /// Bytes of the largest buffer among them.
    ///
    /// # Errors
    /// As [`Model::memory`].
    pub fn largest_buffer(&self, windows: &Windows) -> Result<u64, ModelError> {
        Ok(knapsack_compiler::largest_buffer(&self.config.graph(&self.quantization, windows)?, windows)?)
    }

    /// What the configuration says about sizes.
    pub fn own(&self) -> Own {
        let trained = self.config.trained_positions.filter(|_| !self.config.extends_positions());
        Own { windows: self.config.own_windows(), trained, beside: self.tokenizer }
    }

    /// The same checkpoint, converted to another format; `None` for weights that are in a format already.
    pub fn with_format(&self, format: &Quantization) -> Option<Self> {
        (self.kind == ModelForm::Checkpoint).then(|| Model { quantization: *format, ..self.clone() })
    }

    /// Compiles the model; `name` is its symbol prefix, made from the content when not given.
    ///
    /// # Errors
    /// As [`knapsack_compiler::compile`].
    pub fn compile(&self, windows: Windows, target: Target, name: Option<&str>) -> Result<ModelLibrary, ModelError> {
        let graph = self.config.graph(&self.quantization, &windows)?;
        Ok(knapsack_compiler::compile(&CompileRequest { graph: &graph, windows, target, name })?)
    }
}

/// A manifest's or a command line's overrides as the compiler takes them. The parser limits them to positive `i32`.
pub fn given_sizes(overrides: &knapsack_config::Overrides) -> GivenSizes {
    let size = |value: Option<u64>| value.map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    GivenSizes {
        context_window_size: size(overrides.context_window_size),
        sliding_window_size: size(overrides.sliding_window_size),
        attention_sink_size: size(overrides.attention_sink_size),
        prefill_chunk_size: size(overrides.prefill_chunk_size),
        own: OwnSizes {
            context: overrides.own.contains(&OverrideKey::ContextWindowSize),
            sliding: overrides.own.contains(&OverrideKey::SlidingWindowSize),
            chunk: overrides.own.contains(&OverrideKey::PrefillChunkSize),
        },
    }
}

pub(crate) fn read_json(path: &Path) -> Result<(Vec<u8>, Value), ModelError> {
    let failed = |source| ModelError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(ModelError::TooLarge(path.to_owned()));
    }
    let json = |source| ModelError::Json { path: path.to_owned(), source };
    let value = knapsack_artifact::json::parse(&bytes).map_err(json)?;
    Ok((bytes, value))
}
