//! The decoder that all families are instances of: what a family does not have, its table has no row for.

use super::{Builder, GraphError};
use crate::config::{Attention, AttentionGate, Delta, Mixer, QueryKeyNorm};
use crate::table::Role;
use knapsack_ir::{CausalConv, Columns, GatedDelta, Graph, Op, ValueId};
use knapsack_tensor::Activation;

/// Writes the whole model.
pub(crate) fn decoder(mut b: Builder<'_>) -> Result<Graph, GraphError> {
    let config = b.config;
    let tokens = b.push(Op::Tokens)?;
    let table = b.module(Role::Embedding, None)?;
    let table = b.matrix(&table)?;
    let mut stream = b.push(Op::Embed { table, tokens, on_host: false })?;
    let factor = config.embedding_scale / config.residual_scale;
    if factor != 1.0 {
        stream = b.push(Op::Scale { input: stream, factor })?;
    }
    let mut given = match config.per_layer_input {
        Some(columns) => Some(per_layer_inputs(&mut b, tokens, stream, columns)?),
        None => None,
    };
    let (mut caches, mut state) = (Vec::new(), 0);
    // Layers that cache nothing are wanted for the selected row alone.
    let shares = |layer: &crate::config::Layer| layer.attention().is_some_and(|attention| attention.shares.is_some());
    let first = config.layers.iter().position(shares).unwrap_or(config.layers.len());
    for (layer, description) in config.layers.iter().enumerate() {
        if layer == first {
            stream = b.push(Op::SelectRow { input: stream })?;
            given = given.map(|input| b.push(Op::SelectRow { input })).transpose()?;
        }
        stream =
            Layer { b: &mut b, layer: layer as u32, caches: &mut caches, state, given, description }.write(stream)?;
        match description.mixer {
            Mixer::Attention(_) => {}
            Mixer::Conv { .. } => state += 1,
            Mixer::Delta(_) => state += 2,
        }
    }
    let row = if first < config.layers.len() { stream } else { b.push(Op::SelectRow { input: stream })? };
    let norm = b.module(Role::FinalNorm, None)?;
    let row = b.norm(row, &norm, config.hidden, config.stream_epsilon())?;
    let logits = match config.module(Role::Head, None) {
        None => b.push(Op::Matmul { input: row, weight: table })?,
        Some(head) => b.linear(row, &head)?,
    };
    let logits = match config.logit_scale {
        1.0 => logits,
        factor => b.push(Op::Scale { input: logits, factor })?,
    };
    let logits = match config.final_soft_cap {
        Some(cap) => b.push(Op::SoftCap { input: logits, cap })?,
        None => logits,
    };
    Ok(b.finish(logits))
}

/// What each layer is given of each token: a norm of a product of the embedding, layer by layer, plus a row of a table.
///
/// The model divides the product by the root of the hidden size before the norm, which is a larger epsilon; and the sum by the root
/// of two, which the norm that follows in each layer takes away again: its epsilon is twice as large ([`Layer::per_layer`]).
fn per_layer_inputs(b: &mut Builder<'_>, tokens: ValueId, embedded: ValueId, columns: u32) -> Built {
    let config = b.config;
    let table = b.module(Role::PerLayerTable, None)?;
    let table = b.matrix(&table)?;
    let looked_up = b.push(Op::Embed { table, tokens, on_host: true })?;
    let looked_up = b.push(Op::Scale { input: looked_up, factor: f64::from(columns).sqrt() as f32 })?;
    let module = b.module(Role::PerLayerModel, None)?;
    let product = b.linear(embedded, &module)?;
    let norm = b.module(Role::PerLayerNorm, None)?;
    let epsilon = f64::from(config.norm_epsilon) * f64::from(config.hidden);
    let normed = b.norm(product, &norm, columns, epsilon as f32)?;
    b.push(Op::Add { a: looked_up, b: normed })
}

/// One layer under construction.
struct Layer<'b, 'a> {
    b: &'b mut Builder<'a>,
    layer: u32,
    /// The caches of the layers before it, with their layers.
    caches: &'b mut Vec<(u32, ValueId)>,
    /// Its first state, when it has not.
    state: u32,
    /// What all layers are given.
    given: Option<ValueId>,
    description: &'a crate::config::Layer,
}

type Built = Result<ValueId, GraphError>;

impl Layer<'_, '_> {
    fn module(&self, role: Role) -> Option<String> {
        self.b.config.module(role, Some(self.layer))
    }

    /// The norm of this role over whole rows, where the family has one.
    fn norm(&mut self, input: ValueId, role: Role) -> Built {
        let config = self.b.config;
        let of_stream = matches!(role, Role::AttentionNorm | Role::MlpNorm);
        let epsilon = if of_stream { config.stream_epsilon() } else { config.norm_epsilon };
        match self.module(role) {
            Some(module) => self.b.norm(input, &module, config.hidden, epsilon),
            None => Ok(input),
        }
    }

    fn linear(&mut self, input: ValueId, role: Role) -> Built {
        let module = self.b.module(role, Some(self.layer))?;
        self.b.linear(input, &module)
    }

    fn write(&mut self, stream: ValueId) -> Built {
        let normed = self.norm(stream, Role::AttentionNorm)?;
        // With a parallel residual the stream is read before anything is added, so that the sum can take its place.
        let beside = match (self.b.config.parallel_residual, self.module(Role::MlpNorm)) {
            (false, _) => None,
            (true, Some(_)) => Some(self.norm(stream, Role::MlpNorm)?),
            (true, None) => Some(normed),
        };
        let mixed = match self.description.mixer {
            Mixer::Attention(attention) => self.attention(normed, &attention)?,
            Mixer::Conv { .. } => self.conv(normed)?,
            Mixer::Delta(delta) => self.delta(normed, &delta)?,
        };
        let mixed = self.norm(mixed, Role::PostAttentionNorm)?;
        let sum = self.b.push(Op::Add { a: stream, b: mixed })?;
        let input = match beside {
            Some(input) => input,
            None => self.norm(sum, Role::MlpNorm)?,
        };
        let fed = self.mlp(input)?;
        let fed = self.norm(fed, Role::PostMlpNorm)?;
        let mut stream = self.b.push(Op::Add { a: sum, b: fed })?;
        if let (Some(given), Some(columns)) = (self.given, self.b.config.per_layer_input) {
            stream = self.per_layer(stream, given, columns)?;
        }
        match self.module(Role::LayerScalar) {
            Some(name) => {
                let factor = self.b.parameter(&name)?;
                self.b.push(Op::ScaleBy { input: stream, factor })
            }
            None => Ok(stream),
        }
    }

    /// Adds what the stream makes of this layer's own columns.
    fn per_layer(&mut self, stream: ValueId, given: ValueId, columns: u32) -> Built {
        let (function, hidden) = (self.b.config.activation, self.b.config.hidden);
        let gate = self.linear(stream, Role::PerLayerGate)?;
        let gate = self.b.push(Op::Activation { input: gate, function })?;
        let own = self.b.slice(given, self.layer * columns, columns)?;
        let product = self.b.push(Op::Mul { a: gate, b: own })?;
        let product = self.linear(product, Role::PerLayerProjection)?;
        let norm = self.b.module(Role::PostPerLayerNorm, Some(self.layer))?;
        let normed = self.b.norm(product, &norm, hidden, 2.0 * self.b.config.norm_epsilon)?;
        self.b.push(Op::Add { a: stream, b: normed })
    }

    fn attention(&mut self, input: ValueId, attention: &Attention) -> Built {
        let config = self.b.config;
        let (queries, keys) = (attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim);
        let mut gate = None;
        let [q, k, v] = match self.module(Role::Qkv) {
            Some(fused) if config.attention_gate == AttentionGate::Elements => {
                let qkv = self.b.linear(input, &fused)?;
                let width = attention.head_dim;
                let of = |start| Columns { start, width, count: attention.heads, stride: 2 * width };
                let q = self.b.push(Op::Slice { input: qkv, columns: of(0) })?;
                gate = Some(self.b.push(Op::Slice { input: qkv, columns: of(width) })?);
                [q, self.b.slice(qkv, 2 * queries, keys)?, self.b.slice(qkv, 2 * queries + keys, keys)?]
            }
            Some(fused) => {
                let qkv = self.b.linear(input, &fused)?;
                let mut slice = |start, width| self.b.slice(qkv, start, width);
                [slice(0, queries)?, slice(queries, keys)?, slice(queries + keys, keys)?]
            }
            None => {
                let q = self.linear(input, Role::Query)?;
                if let Some(other) = attention.shares {
                    let cache = self.caches.iter().find(|(layer, _)| *layer == other).map(|(_, cache)| *cache);
                    let family = config.family.name;
                    let missing = || GraphError::Parameter { family, name: format!("the cache of layer {other}") };
                    let query = self.positioned(q, Role::QueryNorm, attention)?;
                    return self.attended(query, cache.ok_or_else(missing)?, None);
                }
                [q, self.linear(input, Role::Key)?, self.linear(input, Role::Value)?]
            }
        };
        if self.module(Role::AttentionGate).is_some() {
            gate = Some(self.linear(input, Role::AttentionGate)?);
        }
        let query = self.positioned(q, Role::QueryNorm, attention)?;
        let key = self.positioned(k, Role::KeyNorm, attention)?;
        let value = if config.value_norm { self.b.bare_norm(v, attention.head_dim)? } else { v };
        let cache = self.b.push(Op::Append { key, value, layer: self.caches.len() as u32 })?;
        self.caches.push((self.layer, cache));
        self.attended(query, cache, gate)
    }

    /// What attention gives the stream.
    fn attended(&mut self, query: ValueId, cache: ValueId, gate: Option<ValueId>) -> Built {
        let config = self.b.config;
        let (scale, soft_cap) = (config.attention_scale, config.attention_soft_cap);
        let mut attended = self.b.push(Op::Attention { query, cache, scale, soft_cap, gate: None })?;
        if let Some(gate) = gate {
            attended = self.b.push(Op::Gate { input: attended, gate })?;
        }
        self.linear(attended, Role::Output)
    }

    /// A convolution over the last tokens, of which no weight is a matrix.
    fn convolved(&mut self, input: ValueId, weight: &str, bias: Option<&str>, state: u32) -> Built {
        let weight = self.b.parameter(weight)?;
        let bias = bias.map_or(Ok(None), |bias| self.b.vector(bias))?;
        let (start, gate_in, gate_out, activation) = (0, None, None, None);
        self.b.push(Op::CausalConv(CausalConv { input, start, gate_in, gate_out, weight, bias, activation, state }))
    }

    fn conv(&mut self, input: ValueId) -> Built {
        let hidden = self.b.config.hidden;
        let all = self.linear(input, Role::ConvIn)?;
        let (before, after) = (self.b.slice(all, 0, hidden)?, self.b.slice(all, hidden, hidden)?);
        let x = self.b.slice(all, 2 * hidden, hidden)?;
        let gated = self.b.push(Op::Mul { a: before, b: x })?;
        let module = self.b.module(Role::Conv, Some(self.layer))?;
        let (weight, bias) = (format!("{module}.weight"), format!("{module}.bias"));
        let y = self.convolved(gated, &weight, Some(&bias), self.state)?;
        let product = self.b.push(Op::Mul { a: after, b: y })?;
        self.linear(product, Role::ConvOut)
    }

    fn delta(&mut self, input: ValueId, delta: &Delta) -> Built {
        let qkv = self.linear(input, Role::DeltaQkv)?;
        let gate = self.linear(input, Role::DeltaGate)?;
        let (decay, write) = (self.linear(input, Role::DeltaDecay)?, self.linear(input, Role::DeltaWrite)?);
        let name = |this: &Self, role| this.b.module(role, Some(this.layer));
        let qkv = self.convolved(qkv, &name(self, Role::DeltaConv)?, None, self.state)?;
        let qkv = self.b.push(Op::Activation { input: qkv, function: Activation::Silu })?;
        let decay_log = self.b.parameter(&name(self, Role::DeltaLog)?)?;
        let decay_bias = self.b.parameter(&name(self, Role::DeltaBias)?)?;
        let norm = self.b.norm_of(&name(self, Role::DeltaNorm)?, delta.value_dim, self.b.config.norm_epsilon)?;
        let (key_heads, state) = (delta.key_heads, self.state + 1);
        let op = GatedDelta { qkv, decay, write, gate, decay_log, decay_bias, norm, key_heads, state };
        let mixed = self.b.push(Op::GatedDelta(op))?;
        self.linear(mixed, Role::DeltaOut)
    }

    /// Normalizes q or k heads, where the model does, and rotates them, where the layer does.
    fn positioned(&mut self, heads: ValueId, role: Role, attention: &Attention) -> Built {
        if self.b.config.query_key_norm == QueryKeyNorm::Rotated {
            let rotated = self.rotated(heads, role, attention)?;
            self.normed_heads(rotated, role, attention)
        } else {
            let normed = self.normed_heads(heads, role, attention)?;
            self.rotated(normed, role, attention)
        }
    }

    fn normed_heads(&mut self, heads: ValueId, role: Role, attention: &Attention) -> Built {
        let config = self.b.config;
        let count = if role == Role::QueryNorm { attention.heads } else { attention.kv_heads };
        let together = if config.query_key_norm == QueryKeyNorm::Row { count } else { 1 };
        match self.module(role) {
            Some(module) => self.b.norm(heads, &module, together * attention.head_dim, config.norm_epsilon),
            None => Ok(heads),
        }
    }

    fn rotated(&mut self, input: ValueId, role: Role, attention: &Attention) -> Built {
        let rope = attention.rope.and_then(|table| Some((table as u32, self.b.config.ropes.get(table)?.rotary)));
        let Some((table, rotary)) = rope.filter(|(_, rotary)| *rotary > 0) else { return Ok(input) };
        let table = if role == Role::QueryNorm { self.b.query_table(table) } else { table };
        self.b.push(Op::Rope { input, table, head_dim: attention.head_dim, rotary })
    }

    fn mlp(&mut self, input: ValueId) -> Built {
        let function = self.b.config.activation;
        let columns = self.description.intermediate;
        match self.module(Role::GateUp) {
            Some(gate_up) => {
                let both = self.b.linear(input, &gate_up)?;
                let gate = self.b.slice(both, 0, columns)?;
                let up = self.b.slice(both, columns, columns)?;
                let gate = self.b.push(Op::Activation { input: gate, function })?;
                let product = self.b.push(Op::Mul { a: gate, b: up })?;
                self.linear(product, Role::Down)
            }
            None => {
                let up = self.linear(input, Role::Up)?;
                let activated = self.b.push(Op::Activation { input: up, function })?;
                self.linear(activated, Role::Down)
            }
        }
    }
}
