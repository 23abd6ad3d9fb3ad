use crate::error::ConfigError;
use crate::parameter::{Parameter, StoredTensor};
use crate::registry::Family;
use crate::rope::Rope;
use knapsack_tensor::{Activation, NormKind, Quantization};
use serde_json::{Map, Value};

/// Which projections have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// The fused query, key, value projection.
    pub qkv: bool,
    /// The projection after attention.
    pub attention_output: bool,
    /// Both sides of the feed-forward network.
    pub mlp: bool,
    /// The final linear layer.
    pub head: bool,
}

/// Normalization of query and key heads before the rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// None.
    #[default]
    None,
    /// Root mean square over each head, one weight vector of `head_dim` shared by the heads.
    Shared,
    /// LayerNorm over each head, without bias, with weights for each head: `(heads * head_dim)`.
    PerHead,
}

/// A model's architecture, normalized: the same whether it was read from a checkpoint's `config.json` or from MLC's
/// `model_config`. Counts are positive and bounded, `heads` is a multiple of `kv_heads`, floats are finite.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family, which decides the graph.
    pub family: Family,
    /// Columns of the residual stream.
    pub hidden: u32,
    /// Transformer layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Columns of the feed-forward network.
    pub intermediate: u32,
    /// Rows of the embedding and of the logits.
    pub vocab: u32,
    /// Kind of every layer and final normalization.
    pub norm: NormKind,
    /// Added under the root.
    pub norm_epsilon: f32,
    /// Activation of the feed-forward network.
    pub activation: Activation,
    /// Rotary embedding of all layers, or of the global ones where there is a [`ModelConfig::local_rope`].
    pub rope: Rope,
    /// Rotary embedding of the layers that have a window (gemma3).
    pub local_rope: Option<Rope>,
    /// The model's own window of each layer, `None` where a layer sees everything. One entry for each layer.
    pub layer_windows: Vec<Option<u32>>,
    /// A window on the whole model, in MLC's sense: the conversation may go on without end. From `sliding_window_size`.
    pub sliding_window: Option<u32>,
    /// First positions that stay visible beyond [`ModelConfig::sliding_window`].
    pub attention_sinks: u32,
    /// Multiplier of the attention scores.
    pub attention_scale: f32,
    /// Soft-capping of the attention scores.
    pub attention_soft_cap: Option<f32>,
    /// Soft-capping of the logits.
    pub final_soft_cap: Option<f32>,
    /// Multiplier of the embedding's rows; 1 for most.
    pub embedding_scale: f32,
    /// Normalization of query and key heads.
    pub query_key_norm: QueryKeyNorm,
    /// Which projections have a bias.
    pub biases: Biases,
    /// Attention and feed-forward network read the same residual stream and are added together.
    pub parallel_residual: bool,
    /// The logits come from the embedding table: there is no final linear layer.
    pub tied_embeddings: bool,
    /// Positions that the model was trained for; `None` where the configuration does not say (MLC's gemma2 and windowed models).
    pub trained_positions: Option<u32>,
    /// The configuration's own context window; `None` with a [`ModelConfig::sliding_window`].
    pub context_window: Option<u32>,
    /// The configuration's own prefill chunk.
    pub prefill_chunk: u32,
}

impl ModelConfig {
    /// Reads a checkpoint's `config.json`.
    ///
    /// # Errors
    /// When the family is not known, or a value is missing, of the wrong type, out of range or not supported.
    pub fn from_hf(config: &Value) -> Result<Self, ConfigError> {
        let family = Family::of_checkpoint(config)?;
        family.architecture().read_hf(config)?.checked()
    }

    /// Reads a whole `mlc-chat-config.json`. Windows and the chunk at its top level win over those in `model_config`.
    ///
    /// # Errors
    /// As [`ModelConfig::from_hf`].
    pub fn from_mlc(chat_config: &Value) -> Result<Self, ConfigError> {
        let family = Family::of_mlc(chat_config)?;
        family.architecture().read_mlc(chat_config)?.checked()
    }

    /// Every parameter, unquantized, by MLC name.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.family.architecture().parameters(self)
    }

    /// Every tensor as a weight folder of this format holds it, in the order of [`ModelConfig::parameters`].
    pub fn stored_tensors(&self, quantization: &Quantization) -> Vec<StoredTensor> {
        self.parameters().iter().flat_map(|parameter| parameter.stored(quantization)).collect()
    }

    /// Whether a checkpoint's tensor of this name is known to carry nothing that is needed (rotary tables, causal masks, the
    /// second copy of tied embeddings).
    pub fn ignores(&self, tensor: &str) -> bool {
        self.family.architecture().ignores(self, tensor)
    }

    /// The `model_config` object of an `mlc-chat-config.json`, with the fields that MLC writes for this family. Where
    /// MLC has no field for something the model needs, one is added. `hf` is the `config.json` that `self` was read from.
    pub fn mlc_model_config(&self, hf: &Value) -> Map<String, Value> {
        self.family.architecture().mlc_model_config(self, hf)
    }

    /// Columns of the fused query, key, value projection.
    pub fn qkv_columns(&self) -> u64 {
        (u64::from(self.heads) + 2 * u64::from(self.kv_heads)) * u64::from(self.head_dim)
    }

    /// Columns of the attention's output.
    pub fn attention_columns(&self) -> u64 {
        u64::from(self.heads) * u64::from(self.head_dim)
    }

    /// The relations between values that hold for every family.
    fn checked(self) -> Result<Self, ConfigError> {
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(ConfigError::Contradiction(format!(
                "{} attention heads are not a multiple of {} key-value heads",
                self.heads, self.kv_heads
            )));
        }
        for (what, columns) in [("attention", self.attention_columns()), ("qkv", self.qkv_columns())] {
            if columns > 1 << 24 {
                return Err(ConfigError::Contradiction(format!(
                    "{columns} {what} columns from {} heads of {}",
                    self.heads, self.head_dim
                )));
            }
        }
        for rope in [Some(&self.rope), self.local_rope.as_ref()].into_iter().flatten() {
            if rope.rotary % 2 != 0 || rope.rotary > self.head_dim {
                return Err(ConfigError::Contradiction(format!(
                    "{} rotary elements of heads of {}: expected an even number that fits",
                    rope.rotary, self.head_dim
                )));
            }
        }
        if self.layer_windows.len() != self.layers as usize {
            return Err(ConfigError::Contradiction(format!(
                "{} layer types for {} layers",
                self.layer_windows.len(),
                self.layers
            )));
        }
        Ok(self)
    }
}
