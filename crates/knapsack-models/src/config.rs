use crate::error::ConfigError;
use crate::fields::Fields;
use crate::rope::Rope;
use crate::table::Modules;
use knapsack_ir::Growth;
use knapsack_tensor::{Activation, NormKind};
use serde_json::{Map, Value};
use std::fmt;

/// A model family that can be converted, compiled and run: one row of [`crate::FAMILIES`].
pub struct Family {
    /// MLC's `model_type`, such as `llama`.
    pub name: &'static str,
    /// Entries of `architectures` in the `config.json` of its checkpoints.
    pub architectures: &'static [&'static str],
    /// Other values of `model_type` in a `config.json`.
    pub(crate) model_types: &'static [&'static str],
    /// Models that belong to it.
    pub models: &'static str,
    /// What its results are tested against.
    pub checked: &'static str,
    /// What its parameters are called.
    pub(crate) modules: &'static Modules,
    /// Beginnings of tensor names that belong to parts of a checkpoint beside the language model, with the part's name.
    pub(crate) skips: &'static [(&'static str, &'static str)],
    /// Reads a `config.json`, or the `model_config` that MLC makes of it.
    pub(crate) read: fn(&'static Family, &Fields<'_>) -> Result<ModelConfig, ConfigError>,
    /// Changes what was read from a `model_config` by the whole `mlc-chat-config.json`.
    pub(crate) finish_mlc: fn(&mut ModelConfig, &Fields<'_>) -> Result<(), ConfigError>,
    /// Writes the `model_config` of an `mlc-chat-config.json`, from what was read and the `config.json` it was read from.
    pub(crate) write: fn(&ModelConfig, &Value) -> Map<String, Value>,
}

/// Rows are statics with names of their own.
impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Family {}

impl std::hash::Hash for Family {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// Which projections have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// The query, key, value projections.
    pub qkv: bool,
    /// The projection after attention.
    pub attention_output: bool,
    /// Both sides of the feed-forward network.
    pub mlp: bool,
    /// The final linear layer.
    pub head: bool,
    /// Everything of a convolution layer.
    pub conv: bool,
}

/// What attention's result is multiplied by, through the logistic function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttentionGate {
    /// Nothing.
    #[default]
    None,
    /// One number for each head, from a projection of its own.
    Heads,
    /// One number for each element; the projection of the queries gives them after each head's query.
    Elements,
}

/// Normalization of query and key heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// None.
    #[default]
    None,
    /// Over each head, one weight vector of `head_dim` shared by the heads.
    Shared,
    /// The same after the rotation.
    Rotated,
    /// Over all heads of a row together, one weight for each of their elements.
    Row,
    /// Over each head, with weights for each head, `(heads * head_dim)`, that the checkpoint keeps as one tensor a head.
    PerHead,
}

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// How its tokens see each other.
    pub mixer: Mixer,
    /// Columns of the feed-forward network.
    pub intermediate: u32,
}

/// What mixes the tokens of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixer {
    /// Attention over cached keys and values.
    Attention(Attention),
    /// A gated convolution of each channel over the last tokens.
    Conv {
        /// Tokens that it is over, its own included.
        taps: u32,
    },
    /// The gated delta rule.
    Delta(Delta),
}

/// Linear attention by the gated delta rule. Counts are positive, `heads` is a multiple of `key_heads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Heads of q and k.
    pub key_heads: u32,
    /// Heads of v.
    pub heads: u32,
    /// Elements of a q or k head.
    pub key_dim: u32,
    /// Elements of a v head.
    pub value_dim: u32,
    /// Tokens that the convolution before it is over.
    pub taps: u32,
}

impl Delta {
    /// Columns of q, k and v together.
    pub fn columns(&self) -> u64 {
        2 * u64::from(self.key_heads) * u64::from(self.key_dim) + self.value_columns()
    }

    /// Columns of all v heads.
    pub(crate) fn value_columns(&self) -> u64 {
        u64::from(self.heads) * u64::from(self.value_dim)
    }
}

/// The attention of a layer. Counts are positive, `heads` is a multiple of `kv_heads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// The model's own window: positions that a query sees, its own included. `None`: all.
    pub window: Option<u32>,
    /// Index into [`ModelConfig::ropes`]; `None`: heads are not rotated.
    pub rope: Option<usize>,
    /// The earlier layer whose keys and values it reads; `None`: it has its own. All layers after the first that shares share too.
    pub shares: Option<u32>,
}

impl Attention {
    /// Columns of all query heads.
    pub(crate) fn query_columns(&self) -> u64 {
        u64::from(self.heads) * u64::from(self.head_dim)
    }

    /// Columns of all key heads, and as many of all value heads.
    pub(crate) fn key_columns(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.head_dim)
    }
}

impl Layer {
    /// The layer's attention, where it has one.
    pub fn attention(&self) -> Option<&Attention> {
        match &self.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::Conv { .. } | Mixer::Delta(_) => None,
        }
    }

    pub(crate) fn attention_mut(&mut self) -> Option<&mut Attention> {
        match &mut self.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::Conv { .. } | Mixer::Delta(_) => None,
        }
    }
}

/// A model's architecture, normalized: the same whether it was read from a checkpoint's `config.json` or from MLC's
/// `model_config`. At least one layer has attention, counts are positive and bounded, floats are finite.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The row of the registry that read it.
    pub family: &'static Family,
    /// What its parameters are called: the family's table, or that of a variant.
    pub(crate) modules: &'static Modules,
    /// Columns of the residual stream.
    pub hidden: u32,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// Rows of the embedding and of the logits.
    pub vocab: u32,
    /// Kind of every layer and final normalization.
    pub norm: NormKind,
    /// Added under the root.
    pub norm_epsilon: f32,
    /// Activation of the feed-forward network.
    pub activation: Activation,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<Rope>,
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
    /// Multiplier of everything that is added to the residual stream; 1 for most. The graph keeps the stream divided by it, so that
    /// nothing is multiplied: what reads the stream normalizes it, with an epsilon that is divided by its square.
    pub residual_scale: f32,
    /// Multiplier of the logits; 1 for most.
    pub logit_scale: f32,
    /// How queries grow with the position.
    pub query_growth: Option<Growth>,
    /// Normalization of query and key heads.
    pub query_key_norm: QueryKeyNorm,
    /// What attention's result is multiplied by.
    pub attention_gate: AttentionGate,
    /// Whether values are normalized by their root mean square.
    pub value_norm: bool,
    /// Columns of what each layer is given of each token, from a table of its own; `None`: nothing.
    pub per_layer_input: Option<u32>,
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
    /// The attention of the first layer that has one: where a model's layers differ, an example.
    pub fn attention(&self) -> &Attention {
        self.attentions().next().expect("a layer has attention")
    }

    /// The attentions of all layers that have one.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.layers.iter().filter_map(Layer::attention)
    }

    /// Columns of the widest feed-forward network.
    pub fn intermediate(&self) -> u32 {
        self.layers.iter().map(|layer| layer.intermediate).max().unwrap_or(0)
    }

    /// Whether some rotary embedding is meant for positions beyond the trained ones.
    pub fn extends_positions(&self) -> bool {
        self.ropes.iter().any(|rope| rope.scaling.extends())
    }

    /// The epsilon of a norm that reads the residual stream.
    pub(crate) fn stream_epsilon(&self) -> f32 {
        let scale = f64::from(self.residual_scale);
        (f64::from(self.norm_epsilon) / (scale * scale)) as f32
    }

    /// The windows that layers have of their own, each once.
    pub(crate) fn window(&self) -> Option<u32> {
        self.attentions().find_map(|attention| attention.window)
    }

    /// The rotary embedding of the first layer that has one.
    pub(crate) fn rope(&self) -> Option<&Rope> {
        self.attentions().find_map(|attention| attention.rope).and_then(|index| self.ropes.get(index))
    }

    /// The relations between values that hold for every family.
    pub(crate) fn checked(self) -> Result<Self, ConfigError> {
        if self.attentions().next().is_none() {
            return Err(ConfigError::Contradiction("no layer has attention".to_owned()));
        }
        for attention in self.attentions() {
            let Some(other) = attention.shares else { continue };
            let of = |a: &Attention| (a.kv_heads, a.head_dim, a.window);
            let source = self.layers.get(other as usize).and_then(Layer::attention);
            if source.is_none_or(|source| source.shares.is_some() || of(source) != of(attention)) {
                return Err(ConfigError::Contradiction(format!("a layer shares keys and values with layer {other}")));
            }
        }
        for layer in &self.layers {
            let Mixer::Delta(delta) = layer.mixer else { continue };
            if !delta.heads.is_multiple_of(delta.key_heads) || delta.columns() > 1 << 24 {
                return Err(ConfigError::Contradiction(format!(
                    "{} value heads of {} over {} key heads of {}",
                    delta.heads, delta.value_dim, delta.key_heads, delta.key_dim
                )));
            }
        }
        for Attention { heads, kv_heads, head_dim, rope, .. } in self.attentions().copied() {
            if !heads.is_multiple_of(kv_heads) {
                return Err(ConfigError::Contradiction(format!(
                    "{heads} attention heads are not a multiple of {kv_heads} key-value heads"
                )));
            }
            let query = u64::from(heads) * u64::from(head_dim);
            let all = query + 2 * u64::from(kv_heads) * u64::from(head_dim);
            for (what, columns) in [("attention", query), ("qkv", all)] {
                if columns > 1 << 24 {
                    return Err(ConfigError::Contradiction(format!(
                        "{columns} {what} columns from {heads} heads of {head_dim}"
                    )));
                }
            }
            if let Some(rope) = rope.and_then(|index| self.ropes.get(index))
                && (rope.rotary % 2 != 0 || rope.rotary > head_dim)
            {
                return Err(ConfigError::Contradiction(format!(
                    "{} rotary elements of heads of {head_dim}: expected an even number that fits",
                    rope.rotary
                )));
            }
        }
        Ok(self)
    }
}
