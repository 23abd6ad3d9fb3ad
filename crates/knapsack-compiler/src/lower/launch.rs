//! One fused operation to one launch.

use super::values::{Home, Storage};
use knapsack_artifact::plan::{self, Rows, quantized_row_bytes};
use knapsack_ir::{Columns, GatedDelta, Graph, Node, Op, StateLayer, Type, ValueId};
use std::collections::HashSet;

/// Where a function's values are.
pub(super) struct Places<'a> {
    pub(super) graph: &'a Graph,
    pub(super) storage: &'a Storage,
    pub(super) hidden: Rows,
    pub(super) pinned: &'a [(ValueId, Rows)],
    pub(super) offset: &'a dyn Fn(usize) -> Option<u64>,
}

impl Places<'_> {
    fn rows(&self, id: ValueId) -> Option<Rows> {
        if let Some((_, rows)) = self.pinned.iter().find(|(other, _)| *other == id) {
            return Some(*rows);
        }
        match self.storage.home(id)? {
            Home::Hidden => Some(self.hidden),
            Home::Buffer(buffer) => {
                Some(Rows { offset: (self.offset)(buffer)?, columns: self.storage.columns[id.0 as usize] })
            }
        }
    }
}

impl Places<'_> {
    /// What the head selects a row of: the residual stream, or a value with a place of its own.
    fn selectable(&self, id: ValueId) -> Option<Rows> {
        Some(self.pinned.iter().find(|(other, _)| *other == id).map_or(self.hidden, |(_, rows)| *rows))
    }
}

/// The products of a model that remembers which its recurrences amplify: what they read, what reads them, and what reads the products
/// of gates, whose rows have few large elements. By the values that they define.
pub(super) fn amplified(graph: &Graph) -> HashSet<ValueId> {
    let (mut read, mut made) = (HashSet::new(), HashSet::new());
    for node in graph.nodes.iter().filter(|_| !graph.states.is_empty()) {
        match &node.op {
            Op::CausalConv(_) | Op::GatedDelta(_) => {
                read.extend(node.op.operands());
                made.extend(node.results.iter().map(|(id, _)| *id));
            }
            Op::Linear(knapsack_ir::Linear { epilogue: knapsack_ir::Epilogue::Gated(_), .. }) => {
                made.extend(node.results.iter().map(|(id, _)| *id));
            }
            _ => {}
        }
    }
    let products = graph.nodes.iter().filter_map(|node| match &node.op {
        Op::Linear(linear) => Some((linear.input, node.results[0].0)),
        _ => None,
    });
    products.filter(|(input, result)| made.contains(input) || read.contains(result)).map(|(_, result)| result).collect()
}

/// What [`plan::Op::scratch_bytes`] will say of the operation, before its operands have places, twice that for an amplified one; and
/// what attention of one token takes.
pub(super) fn scratch_bytes(
    graph: &Graph,
    caches: &[plan::KvLayer],
    node: &Node,
    amplified: &HashSet<ValueId>,
    tokens: u32,
) -> Option<u64> {
    match &node.op {
        Op::Attention { query, cache, .. } if tokens == 1 => {
            let kv = caches.get(cache_layer(graph, *cache)? as usize)?;
            plan::Attention::parts_bytes(columns_of(graph, *query)? / kv.head_dim, kv)
        }
        Op::Linear(knapsack_ir::Linear { weight, .. }) => match weight.storage {
            knapsack_ir::Storage::Grouped { format, .. } => {
                let rows = if amplified.contains(&node.results[0].0) { 2 } else { 1 };
                Some(rows * quantized_row_bytes(format.grouping(), weight.columns))
            }
            knapsack_ir::Storage::Dense(_) => None,
        },
        _ => None,
    }
}

fn norm(norm: &knapsack_ir::Norm) -> plan::NormWeights {
    plan::NormWeights { kind: norm.kind, epsilon: norm.epsilon, weight: norm.weight, bias: norm.bias }
}

/// The launch of an executable node; `None` when an operand has no place (the function is not closed).
pub(super) fn launch(places: &Places<'_>, node: &Node) -> Option<plan::Op> {
    let result = |index: usize| node.results.get(index).and_then(|(id, _)| places.rows(*id));
    Some(match &node.op {
        Op::EmbedRows { table, scale, on_host: false, .. } => {
            plan::Op::Embed(plan::Embed { table: table.storage, vocab: table.rows, scale: *scale, output: result(0)? })
        }
        Op::Norm { input, norm: how } => plan::Op::Norm(plan::Norm {
            input: places.rows(*input)?,
            rows: plan::RowSelect::All,
            norm: norm(how),
            output: result(0)?,
        }),
        Op::SelectRow { input } => {
            plan::Op::Select(plan::Select { input: places.selectable(*input)?, output: result(0)? })
        }
        Op::RopeQuery { input, head_dim, rotary, table, norm: how } => {
            let input = places.rows(*input)?;
            plan::Op::RopeQuery(plan::RopeQuery {
                input,
                heads: input.columns / head_dim,
                head_dim: *head_dim,
                rotary: *rotary,
                rope_table: *table,
                norm: how.as_ref().map(norm),
                output: result(0)?,
            })
        }
        Op::NormSelected { norm: how, .. } => plan::Op::Norm(plan::Norm {
            input: places.hidden,
            rows: plan::RowSelect::One,
            norm: norm(how),
            output: result(0)?,
        }),
        Op::Linear(op) => plan::Op::Linear(linear(places, op, result(0)?)?),
        Op::AddNorm { residual, delta, pre, scale, post } => plan::Op::AddNorm(plan::AddNorm {
            residual: places.rows(*residual)?,
            delta: places.rows(*delta)?,
            pre: pre.as_ref().map(norm),
            groups: pre.as_ref().map_or(Some(1), |pre| Some(places.rows(*residual)?.columns / pre.width))?,
            scale: *scale,
            sum: result(0)?,
            post: match post {
                Some(post) => Some((norm(post), result(1)?)),
                None => None,
            },
        }),
        Op::RopeAppend(op) => plan::Op::RopeAppend(rope_append(places, op, result(0)?)?),
        Op::Attention { query, cache, scale, soft_cap, gate } => {
            let layer = cache_layer(places.graph, *cache)?;
            let kv = places.graph.kv_layers.get(layer as usize)?;
            let query = places.rows(*query)?;
            let heads = query.columns / kv.head_dim;
            plan::Op::Attention(plan::Attention {
                query,
                heads,
                kv_heads: kv.kv_heads,
                head_dim: kv.head_dim,
                scale: *scale,
                soft_cap: *soft_cap,
                layer,
                gate: match gate {
                    Some(gate) => Some(head_gate(places.rows(gate.rows)?, gate.columns, heads, kv.head_dim)?),
                    None => None,
                },
                output: result(0)?,
            })
        }
        Op::CausalConv(op) => plan::Op::CausalConv(plan::CausalConv {
            input: places.rows(op.input)?,
            start: op.start,
            gate_in: op.gate_in,
            gate_out: op.gate_out,
            weight: op.weight,
            bias: op.bias,
            activation: op.activation,
            taps: match places.graph.states.get(op.state as usize)? {
                StateLayer::Conv { taps, .. } => *taps,
                StateLayer::Delta { .. } => return None,
            },
            state: op.state,
            output: result(0)?,
        }),
        Op::GatedDelta(op) => plan::Op::GatedDelta(gated_delta(places, op, result(0)?)?),
        _ => return None,
    })
}

/// Gates of heads that follow each other at an even distance: one for each element, or one for each head.
fn head_gate(rows: Rows, columns: Columns, heads: u32, head_dim: u32) -> Option<plan::HeadGate> {
    let Columns { start, width, count, stride } = columns;
    let (stride, width) = match (columns.contiguous(), columns.len()?) {
        (Some(_), all) if all == heads => (1, 1),
        (Some(_), all) if all == heads * head_dim => (head_dim, head_dim),
        (None, _) if (count, width) == (heads, head_dim) || (count, width) == (heads, 1) => (stride, width),
        _ => return None,
    };
    Some(plan::HeadGate { rows, start, stride, width })
}

fn gated_delta(places: &Places<'_>, op: &GatedDelta, output: Rows) -> Option<plan::GatedDelta> {
    let StateLayer::Delta { heads, key_dim, value_dim } = *places.graph.states.get(op.state as usize)? else {
        return None;
    };
    Some(plan::GatedDelta {
        qkv: places.rows(op.qkv)?,
        decay: places.rows(op.decay)?,
        write: places.rows(op.write)?,
        gate: places.rows(op.gate)?,
        decay_log: op.decay_log,
        decay_bias: op.decay_bias,
        norm: norm(&op.norm),
        key_heads: op.key_heads,
        heads,
        key_dim,
        value_dim,
        state: op.state,
        output,
    })
}

fn linear(places: &Places<'_>, op: &knapsack_ir::Linear, output: Rows) -> Option<plan::Linear> {
    Some(plan::Linear {
        input: places.rows(op.input)?,
        weight: op.weight.storage,
        out_features: op.weight.rows,
        bias: op.bias,
        epilogue: op.epilogue.try_map(|id| places.rows(id).ok_or(())).ok()?,
        output,
    })
}

fn rope_append(places: &Places<'_>, op: &knapsack_ir::RopeAppend, query: Rows) -> Option<plan::RopeAppend> {
    let kv = places.graph.kv_layers.get(op.layer as usize)?;
    Some(plan::RopeAppend {
        qkv: places.rows(op.qkv)?,
        apart: match op.apart {
            Some([keys, values]) => Some(plan::KeyValueRows { keys: places.rows(keys)?, values: places.rows(values)? }),
            None => None,
        },
        order: op.order,
        heads: op.heads,
        kv_heads: kv.kv_heads,
        head_dim: kv.head_dim,
        rotary: op.rotary,
        rope_table: op.table,
        query_table: (op.rotary > 0 && op.query_table != op.table).then_some(op.query_table),
        norm_place: op.place,
        query_norm: op.query_norm.as_ref().map(norm),
        key_norm: op.key_norm.as_ref().map(norm),
        value_norm: op.value_norm.as_ref().map(norm),
        layer: op.layer,
        query,
    })
}

/// Columns of a value that is rows.
fn columns_of(graph: &Graph, value: ValueId) -> Option<u32> {
    graph.nodes.iter().flat_map(|node| &node.results).find_map(|&(id, ty)| match ty {
        Type::Rows { columns, .. } if id == value => Some(columns),
        _ => None,
    })
}

fn cache_layer(graph: &Graph, cache: ValueId) -> Option<u32> {
    graph.nodes.iter().flat_map(|node| &node.results).find_map(|&(id, ty)| match ty {
        Type::Cache(layer) if id == cache => Some(layer),
        _ => None,
    })
}
