//! What families have in common: reading the usual keys, and the parameters of the usual decoder.

use crate::config::{Biases, ModelConfig, QueryKeyNorm};
use crate::error::ConfigError;
use crate::fields::{Fields, MAX_DIM, missing};
use crate::parameter::{Parameter, ParameterKind, Source, Transform};
use crate::registry::Family;
use crate::rope::{self, Rope};
use knapsack_tensor::{Activation, NormKind};
use serde_json::{Map, Value};

/// What a family assumes where its configuration is silent.
pub(crate) struct Defaults {
    pub(crate) norm: NormKind,
    pub(crate) norm_epsilon: f32,
    pub(crate) activation: Activation,
    pub(crate) tied_embeddings: bool,
    /// Share of a head that is rotated.
    pub(crate) partial_rotary: f64,
    /// Largest prefill chunk that is chosen for the model.
    pub(crate) prefill_chunk: u32,
}

/// Llama's, and those of most others.
pub(crate) const LLAMA_LIKE: Defaults = Defaults {
    norm: NormKind::Rms,
    norm_epsilon: 1e-6,
    activation: Activation::Silu,
    tied_embeddings: false,
    partial_rotary: 1.0,
    prefill_chunk: 8192,
};

/// Keys by which configurations give the number of positions.
const POSITIONS: [&str; 4] = ["max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"];

/// Reads the keys that all decoders share, from a `config.json` or from MLC's `model_config`.
pub(crate) fn decoder(family: Family, fields: &Fields<'_>, defaults: &Defaults) -> Result<ModelConfig, ConfigError> {
    decoder_with_context(family, fields, defaults, None)
}

/// The same, with a context for configurations that give no number of positions.
pub(crate) fn decoder_with_context(
    family: Family,
    fields: &Fields<'_>,
    defaults: &Defaults,
    otherwise: Option<u32>,
) -> Result<ModelConfig, ConfigError> {
    let hidden = fields.dim(&["hidden_size", "n_embd"])?;
    let layers = fields.layers(&["num_hidden_layers", "n_layer"])?;
    let heads = fields.dim(&["num_attention_heads", "n_head"])?;
    let kv_heads = fields.dim_or(&["num_key_value_heads", "n_head_kv"], heads)?;
    let own_head_dim = if hidden % heads == 0 { hidden / heads } else { 0 };
    let head_dim = fields.dim_or(&["head_dim"], own_head_dim)?;
    let trained_positions = match fields.positions(&POSITIONS)? {
        Some(positions) => Some(positions),
        None => fields.positions(&["context_window_size"])?,
    };
    let context_window = match fields.positions(&["context_window_size"])? {
        Some(positions) => Some(positions),
        None => trained_positions.or(otherwise),
    };
    let own_chunk = context_window.unwrap_or(defaults.prefill_chunk).min(defaults.prefill_chunk);
    let config = ModelConfig {
        family,
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        intermediate: fields.dim_or(&["intermediate_size", "n_inner"], hidden.saturating_mul(4).min(MAX_DIM))?,
        vocab: fields.dim(&["vocab_size"])?,
        norm: defaults.norm,
        norm_epsilon: fields
            .positive_f32(&["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"])?
            .unwrap_or(defaults.norm_epsilon),
        activation: fields
            .activation(&["hidden_activation", "hidden_act", "activation_function"])?
            .unwrap_or(defaults.activation),
        rope: Rope::read(fields, rotary(fields, head_dim, defaults.partial_rotary)?)?,
        local_rope: None,
        layer_windows: vec![None; layers as usize],
        sliding_window: None,
        attention_sinks: MLC_SINKS,
        attention_scale: (f64::from(head_dim)).powf(-0.5) as f32,
        attention_soft_cap: None,
        final_soft_cap: None,
        embedding_scale: 1.0,
        query_key_norm: QueryKeyNorm::None,
        biases: Biases::default(),
        parallel_residual: false,
        tied_embeddings: fields.flag(&["tie_word_embeddings"], defaults.tied_embeddings)?,
        trained_positions,
        context_window,
        prefill_chunk: fields.positions(&["prefill_chunk_size"])?.unwrap_or(own_chunk),
    };
    if config.context_window.is_none() {
        return Err(missing(&["max_position_embeddings", "context_window_size"]));
    }
    Ok(config)
}

/// Positions that a sliding window keeps at the start where nothing else is said: MLC's default.
const MLC_SINKS: u32 = 4;

/// Rotated elements of a head, rounded down as transformers does.
fn rotary(fields: &Fields<'_>, head_dim: u32, default: f64) -> Result<u32, ConfigError> {
    if let Some(rotary) = fields.count(&["rotary_dim"])? {
        return Ok(rotary);
    }
    let keys = ["partial_rotary_factor", "rotary_pct"];
    let factor = match fields.positive(&keys)? {
        Some(factor) => Some(factor),
        None => fields.object("rope_parameters")?.map(|p| p.positive(&keys)).transpose()?.flatten(),
    };
    let factor = factor.unwrap_or(default);
    if factor > 1.0 {
        return Err(ConfigError::Contradiction(format!(
            "a share of {factor} of a head is rotated: more than all of it"
        )));
    }
    Ok((f64::from(head_dim) * factor) as u32)
}

/// MLC's `model_config` of an `mlc-chat-config.json`.
pub(crate) fn mlc_model<'a>(chat: &Fields<'a>) -> Result<Fields<'a>, ConfigError> {
    chat.object("model_config")?.ok_or_else(|| missing(&["model_config"]))
}

/// Puts the windows of an `mlc-chat-config.json` into the configuration: those at the top level win.
pub(crate) fn apply_mlc_windows(config: &mut ModelConfig, chat_config: &Value) -> Result<(), ConfigError> {
    let chat = Fields::new(chat_config)?;
    let model = mlc_model(&chat)?;
    let either = |key: &str| match chat.positions(&[key])? {
        Some(value) => Ok(Some(value)),
        None => model.positions(&[key]),
    };
    config.sliding_window = either("sliding_window_size")?;
    config.context_window = match config.sliding_window {
        Some(_) => None,
        None => either("context_window_size")?.or(config.context_window),
    };
    let longest = config.sliding_window.or(config.context_window);
    let chunk = either("prefill_chunk_size")?.unwrap_or(config.prefill_chunk);
    config.prefill_chunk = longest.map_or(chunk, |longest| chunk.min(longest));
    let sinks = match chat.count(&["attention_sink_size"])? {
        Some(sinks) => Some(sinks),
        None => model.count(&["attention_sink_size"])?,
    };
    config.attention_sinks = sinks.unwrap_or(MLC_SINKS);
    Ok(())
}

/// The usual way to read an `mlc-chat-config.json`: `model_config` has the checkpoint's keys.
pub(crate) fn read_mlc(
    chat_config: &Value,
    read: impl FnOnce(&Fields<'_>) -> Result<ModelConfig, ConfigError>,
) -> Result<ModelConfig, ConfigError> {
    let mut config = read(&mlc_model(&Fields::new(chat_config)?)?)?;
    apply_mlc_windows(&mut config, chat_config)?;
    Ok(config)
}

/// The window of each layer by transformers' `layer_types`, or by the rule `local` where there are none.
pub(crate) fn layer_windows(
    fields: &Fields<'_>,
    layers: u32,
    window: Option<u32>,
    local: impl Fn(u32) -> bool,
) -> Result<Vec<Option<u32>>, ConfigError> {
    let Some(window) = window else { return Ok(vec![None; layers as usize]) };
    match fields.get(&["layer_types"]) {
        None => Ok((0..layers).map(|layer| local(layer).then_some(window)).collect()),
        Some((key, value)) => {
            let kind = |value: &Value| match value.as_str()? {
                "full_attention" => Some(None),
                "sliding_attention" => Some(Some(window)),
                _ => None,
            };
            let list = value.as_array().filter(|list| list.len() == layers as usize);
            list.and_then(|list| list.iter().map(kind).collect()).ok_or_else(|| {
                let expected = format!("{layers} times full_attention or sliding_attention");
                crate::fields::invalid(key, value, &expected)
            })
        }
    }
}

/// Tensors of a checkpoint that no family needs: rotary tables and causal masks that older versions saved, and the second copy
/// of tied embeddings.
pub(crate) fn ignores(config: &ModelConfig, tensor: &str) -> bool {
    tensor.ends_with(".rotary_emb.inv_freq")
        || tensor.ends_with(".attention.bias")
        || tensor.ends_with(".attention.masked_bias")
        || (config.tied_embeddings && matches!(tensor, "lm_head.weight" | "embed_out.weight"))
}

/// A parameter list under construction.
#[derive(Default)]
pub(crate) struct List {
    parameters: Vec<Parameter>,
}

impl List {
    pub(crate) fn finish(self) -> Vec<Parameter> {
        self.parameters
    }

    fn push(
        &mut self,
        kind: ParameterKind,
        name: String,
        columns: Option<u64>,
        sources: Vec<Source>,
        transform: Transform,
    ) {
        let rows = sources.iter().map(|source| source.rows).sum();
        let shape = [Some(rows), columns].into_iter().flatten().collect();
        self.parameters.push(Parameter { name, shape, kind, sources, transform });
    }

    /// A matrix from one tensor.
    pub(crate) fn matrix(&mut self, kind: ParameterKind, name: String, source: String, rows: u32, columns: u64) {
        self.push(kind, name, Some(columns), vec![Source { name: source, rows: rows.into() }], Transform::Keep);
    }

    /// A matrix of any kind from a list of tensors.
    pub(crate) fn sources(&mut self, kind: ParameterKind, name: String, sources: Vec<Source>, columns: u64) {
        self.push(kind, name, Some(columns), sources, Transform::Keep);
    }

    /// A linear layer whose rows come from several tensors, one after the other.
    pub(crate) fn fused(&mut self, name: String, sources: Vec<Source>, columns: u64, transform: Transform) {
        self.push(ParameterKind::Linear, name, Some(columns), sources, transform);
    }

    /// A vector from one tensor.
    pub(crate) fn vector(&mut self, name: String, source: String, length: u32, transform: Transform) {
        self.push(ParameterKind::Plain, name, None, vec![Source { name: source, rows: length.into() }], transform);
    }

    /// A vector from several tensors.
    pub(crate) fn fused_vector(&mut self, name: String, sources: Vec<Source>, transform: Transform) {
        self.push(ParameterKind::Plain, name, None, sources, transform);
    }

    /// A bias that MLC keeps in float32.
    pub(crate) fn float32_vector(&mut self, name: String, source: String, length: u32) {
        let sources = vec![Source { name: source, rows: length.into() }];
        self.push(ParameterKind::PlainFloat32, name, None, sources, Transform::Keep);
    }

    /// A normalization: its weight, and its bias where it has one.
    pub(crate) fn norm(&mut self, config: &ModelConfig, name: &str, source: &str, transform: Transform) {
        self.vector(format!("{name}.weight"), format!("{source}.weight"), config.hidden, transform);
        if config.norm == NormKind::Layer {
            self.vector(format!("{name}.bias"), format!("{source}.bias"), config.hidden, Transform::Keep);
        }
    }
}

/// Three sources q, k, v in this order, each `<prefix>.<x>_proj.<suffix>`.
pub(crate) fn qkv_sources(config: &ModelConfig, prefix: &str, suffix: &str) -> Vec<Source> {
    let source = |name: &str, heads: u32| Source {
        name: format!("{prefix}.{name}_proj.{suffix}"),
        rows: u64::from(heads) * u64::from(config.head_dim),
    };
    vec![source("q", config.heads), source("k", config.kv_heads), source("v", config.kv_heads)]
}

/// How a family with the usual decoder differs from llama.
pub(crate) struct Standard {
    /// Before the usual names in MLC.
    pub(crate) mlc_prefix: &'static str,
    /// Name of the fused attention projection; `None`: q, k and v stay apart.
    pub(crate) qkv: Option<&'static str>,
    /// Names of the layer's norms.
    pub(crate) norms: &'static [&'static str],
    /// What is done to the weight of each norm.
    pub(crate) norm_transform: Transform,
}

/// Llama's.
pub(crate) const LLAMA: Standard = Standard {
    mlc_prefix: "",
    qkv: Some("qkv_proj"),
    norms: &["input_layernorm", "post_attention_layernorm"],
    norm_transform: Transform::Keep,
};

/// The parameters of the usual decoder.
pub(crate) fn standard_parameters(config: &ModelConfig, standard: &Standard) -> Vec<Parameter> {
    let mut list = List::default();
    let prefix = standard.mlc_prefix;
    let mlc = |name: &str| format!("{prefix}{name}");
    let hidden = u64::from(config.hidden);
    let embedding = "model.embed_tokens.weight";
    list.matrix(ParameterKind::Embedding, mlc(embedding), embedding.to_owned(), config.vocab, hidden);
    for layer in 0..config.layers {
        let layer = format!("model.layers.{layer}");
        for norm in standard.norms {
            let source = format!("{layer}.{norm}");
            list.norm(config, &mlc(&source), &source, standard.norm_transform);
        }
        standard_attention(&mut list, config, standard, &format!("{layer}.self_attn"));
        standard_mlp(&mut list, config, standard, &format!("{layer}.mlp"));
    }
    list.norm(config, &mlc("model.norm"), "model.norm", standard.norm_transform);
    if !config.tied_embeddings {
        list.matrix(ParameterKind::Final, mlc("lm_head.weight"), "lm_head.weight".to_owned(), config.vocab, hidden);
    }
    list.finish()
}

fn standard_attention(list: &mut List, config: &ModelConfig, standard: &Standard, source: &str) {
    let mlc = format!("{}{source}", standard.mlc_prefix);
    let hidden = u64::from(config.hidden);
    match standard.qkv {
        Some(name) => {
            let weights = qkv_sources(config, source, "weight");
            list.fused(format!("{mlc}.{name}.weight"), weights, hidden, Transform::Keep);
            if config.biases.qkv {
                let biases = qkv_sources(config, source, "bias");
                list.fused_vector(format!("{mlc}.{name}.bias"), biases, Transform::Keep);
            }
        }
        None => {
            for (name, heads) in [("q_proj", config.heads), ("k_proj", config.kv_heads), ("v_proj", config.kv_heads)] {
                let rows = heads * config.head_dim;
                let (to, from) = (format!("{mlc}.{name}.weight"), format!("{source}.{name}.weight"));
                list.matrix(ParameterKind::Linear, to, from, rows, hidden);
            }
        }
    }
    let (to, from) = (format!("{mlc}.o_proj.weight"), format!("{source}.o_proj.weight"));
    list.matrix(ParameterKind::Linear, to, from, config.hidden, config.attention_columns());
    if config.biases.attention_output {
        list.vector(format!("{mlc}.o_proj.bias"), format!("{source}.o_proj.bias"), config.hidden, Transform::Keep);
    }
    if config.query_key_norm == QueryKeyNorm::Shared {
        for name in ["q_norm.weight", "k_norm.weight"] {
            let (to, from) = (format!("{mlc}.{name}"), format!("{source}.{name}"));
            list.vector(to, from, config.head_dim, standard.norm_transform);
        }
    }
}

fn standard_mlp(list: &mut List, config: &ModelConfig, standard: &Standard, source: &str) {
    let mlc = format!("{}{source}", standard.mlc_prefix);
    let rows = u64::from(config.intermediate);
    let halves = |suffix: &str| {
        ["gate", "up"].map(|half| Source { name: format!("{source}.{half}_proj.{suffix}"), rows }).to_vec()
    };
    list.fused(format!("{mlc}.gate_up_proj.weight"), halves("weight"), config.hidden.into(), Transform::Keep);
    let (to, from) = (format!("{mlc}.down_proj.weight"), format!("{source}.down_proj.weight"));
    list.matrix(ParameterKind::Linear, to, from, config.hidden, rows);
    if config.biases.mlp {
        list.fused_vector(format!("{mlc}.gate_up_proj.bias"), halves("bias"), Transform::Keep);
        let (to, from) = (format!("{mlc}.down_proj.bias"), format!("{source}.down_proj.bias"));
        list.vector(to, from, config.hidden, Transform::Keep);
    }
}

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

    /// `key` from the checkpoint's `rope_theta`, which transformers 5 keeps in `rope_parameters`.
    pub(crate) fn rope_base(self, key: &str, config: &ModelConfig) -> Self {
        let parameters = self.hf.get("rope_parameters");
        let found = self.hf.get("rope_theta").or_else(|| parameters?.get("rope_theta")).filter(|v| v.is_number());
        let value = found.cloned().unwrap_or_else(|| whole(config.rope.base));
        self.set(key, value)
    }

    /// The sizes that MLC's llama and mistral begin with.
    pub(crate) fn llama_sizes(self, config: &ModelConfig) -> Self {
        self.take("hidden_size", config.hidden)
            .take("intermediate_size", config.intermediate)
            .take("num_attention_heads", config.heads)
            .take("num_hidden_layers", config.layers)
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

/// A float as JSON, as an integer where it is one.
pub(crate) fn whole(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { Value::from(x as i64) } else { Value::from(x) }
}
