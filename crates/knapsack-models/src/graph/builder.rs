//! Writes a graph node by node.

use super::GraphError;
use crate::config::{Attention, Mixer, ModelConfig};
use crate::rope::RopeFrequencies;
use crate::table::Role;
use knapsack_ir::{
    Columns, Graph, Growth, KvLayer, Node, Norm, Op, Parameter, ParameterId, RopeTable, StateLayer, Storage, Type,
    ValueId, Weight, Windows, infer,
};
use knapsack_tensor::{GroupFormat, NormKind, Quantization};
use std::collections::HashMap;

/// A parameter's place in the graph.
#[derive(Clone)]
struct Entry {
    /// Its tensor, or its codes; the scales follow.
    first: ParameterId,
    shape: Vec<u64>,
    format: Option<GroupFormat>,
}

/// A graph under construction. Parameters are declared from the family's list; each value's type is inferred at once.
pub(crate) struct Builder<'a> {
    pub(crate) config: &'a ModelConfig,
    graph: Graph,
    types: Vec<Option<Type>>,
    index: HashMap<String, Entry>,
}

type Built = Result<ValueId, GraphError>;

impl<'a> Builder<'a> {
    pub(crate) fn new(config: &'a ModelConfig, quantization: &Quantization, windows: &Windows) -> Self {
        let mut graph = Graph {
            family: config.family.name.to_owned(),
            quantization: quantization.name.to_owned(),
            vocab: config.vocab,
            hidden: config.hidden,
            layers: config.layers.len() as u32,
            parameters: vec![],
            rope_tables: vec![],
            kv_layers: kv_layers(config, quantization, windows),
            states: states(config),
            nodes: vec![],
            output: ValueId(0),
        };
        let mut index = HashMap::new();
        for parameter in config.parameters() {
            let first = ParameterId(graph.parameters.len() as u32);
            let tensors = parameter.stored(quantization).into_iter();
            graph.parameters.extend(tensors.map(|t| Parameter { name: t.name, shape: t.shape, dtype: t.dtype }));
            let format = parameter.group_format(quantization);
            index.insert(parameter.name, Entry { first, shape: parameter.shape, format });
        }
        // Within the positions trained with first, nothing grows.
        let reaches = |growth: &Growth| windows.sliding.is_some() || windows.context > growth.original;
        let growth = config.query_growth.filter(reaches);
        let growths = if growth.is_some() { vec![None, growth] } else { vec![None] };
        for (growth, rope) in growths.iter().flat_map(|&growth| config.ropes.iter().map(move |rope| (growth, rope))) {
            let RopeFrequencies { frequencies, magnitude } = rope.frequencies(windows.context);
            graph.rope_tables.push(RopeTable { frequencies, magnitude, growth });
        }
        Builder { config, graph, types: vec![], index }
    }

    pub(crate) fn finish(mut self, output: ValueId) -> Graph {
        self.graph.output = output;
        self.graph
    }

    /// Adds a node that defines one value.
    pub(crate) fn push(&mut self, op: Op) -> Built {
        let inferred = infer(&self.graph, &self.types, &op);
        let family = self.config.family.name;
        let types = inferred.map_err(|problem| GraphError::Shape { family, op: op.name(), problem })?;
        let first = ValueId(self.types.len() as u32);
        let results = (first.0..).map(ValueId).zip(types.iter().copied()).collect();
        self.types.extend(types.into_iter().map(Some));
        self.graph.nodes.push(Node { op, results });
        Ok(first)
    }

    /// MLC's name of the module of a role that the decoder cannot do without.
    pub(crate) fn module(&self, role: Role, layer: Option<u32>) -> Result<String, GraphError> {
        let family = self.config.family.name;
        self.config.module(role, layer).ok_or_else(|| GraphError::Parameter { family, name: format!("{role:?}") })
    }

    fn has(&self, parameter: &str) -> bool {
        self.index.contains_key(parameter)
    }

    fn entry(&self, parameter: &str) -> Result<Entry, GraphError> {
        self.index
            .get(parameter)
            .cloned()
            .ok_or_else(|| GraphError::Parameter { family: self.config.family.name, name: parameter.to_owned() })
    }

    /// A parameter that is no matrix, by its whole name.
    pub(crate) fn parameter(&self, name: &str) -> Result<ParameterId, GraphError> {
        self.entry(name).map(|entry| entry.first)
    }

    pub(crate) fn vector(&self, parameter: &str) -> Result<Option<ParameterId>, GraphError> {
        if self.has(parameter) { self.entry(parameter).map(|entry| Some(entry.first)) } else { Ok(None) }
    }

    /// The float32 matrix `<module>.weight`.
    pub(crate) fn matrix(&mut self, module: &str) -> Built {
        let Entry { first, shape, format } = self.entry(&format!("{module}.weight"))?;
        let storage = match format {
            None => Storage::Dense(first),
            Some(format) => Storage::Grouped { codes: first, scales: ParameterId(first.0 + 1), format },
        };
        let dim = |axis: usize| shape.get(axis).and_then(|&dim| u32::try_from(dim).ok()).unwrap_or(0);
        self.push(Op::Dequantize(Weight { storage, rows: dim(0), columns: dim(1) }))
    }

    /// A linear layer: its weight, and its bias where it has one.
    pub(crate) fn linear(&mut self, input: ValueId, module: &str) -> Built {
        let weight = self.matrix(module)?;
        let product = self.push(Op::Matmul { input, weight })?;
        match self.vector(&format!("{module}.bias"))? {
            Some(bias) => self.push(Op::Bias { input: product, bias }),
            None => Ok(product),
        }
    }

    /// The rotary table of queries where keys have `table`.
    pub(crate) fn query_table(&self, table: u32) -> u32 {
        let grown = table + self.config.ropes.len() as u32;
        if (grown as usize) < self.graph.rope_tables.len() { grown } else { table }
    }

    /// A root mean square over groups of `width` columns, without weights.
    pub(crate) fn bare_norm(&mut self, input: ValueId, width: u32) -> Built {
        let (kind, epsilon) = (NormKind::Rms, self.config.norm_epsilon);
        self.push(Op::Norm { input, norm: Norm { kind, epsilon, width, weight: None, bias: None } })
    }

    /// What a normalization over groups of `width` columns is with the weights of a module.
    pub(crate) fn norm_of(&self, module: &str, width: u32, epsilon: f32) -> Result<Norm, GraphError> {
        let weight = Some(self.entry(&format!("{module}.weight"))?.first);
        let bias = self.vector(&format!("{module}.bias"))?;
        Ok(Norm { kind: self.config.norm, epsilon, width, weight, bias })
    }

    /// A normalization over groups of `width` columns, of the configuration's kind.
    pub(crate) fn norm(&mut self, input: ValueId, module: &str, width: u32, epsilon: f32) -> Built {
        let norm = self.norm_of(module, width, epsilon)?;
        self.push(Op::Norm { input, norm })
    }

    pub(crate) fn slice(&mut self, input: ValueId, start: u32, width: u32) -> Built {
        self.push(Op::Slice { input, columns: Columns::range(start, width) })
    }
}

/// What the layers remember that have no attention, in their order.
fn states(config: &ModelConfig) -> Vec<StateLayer> {
    let mut states = vec![];
    for layer in &config.layers {
        match layer.mixer {
            Mixer::Attention(_) => {}
            Mixer::Conv { taps } => states.push(StateLayer::Conv { channels: config.hidden, taps }),
            Mixer::Delta(delta) => states.extend([
                StateLayer::Conv { channels: u32::try_from(delta.columns()).unwrap_or(u32::MAX), taps: delta.taps },
                StateLayer::Delta { heads: delta.heads, key_dim: delta.key_dim, value_dim: delta.value_dim },
            ]),
        }
    }
    states
}

/// The cache of each layer. A layer's own window (gemma2, gemma3) is part of the model and has no sinks; the window of the
/// whole model comes with the sinks that the request gives it. Of two windows the narrower one counts.
fn kv_layers(config: &ModelConfig, quantization: &Quantization, windows: &Windows) -> Vec<KvLayer> {
    let layer = |attention: &Attention| {
        let own = attention.window;
        let (window, sinks) = match (own, windows.sliding) {
            (Some(own), Some(whole)) if own <= whole => (Some(own), 0),
            (_, Some(whole)) => (Some(whole), windows.sinks),
            (own, None) => (own, 0),
        };
        let dtype = quantization.kv_dtype();
        KvLayer { kv_heads: attention.kv_heads, head_dim: attention.head_dim, window, sinks, dtype }
    };
    config.attentions().filter(|attention| attention.shares.is_none()).map(layer).collect()
}
