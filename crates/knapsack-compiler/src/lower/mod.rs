//! From a fused graph to a launch plan.
//!
//! The graph is cut at the row selection: what has one row becomes `head`, the rest `prefill`, planned for a chunk, and
//! `decode`, planned for one token. The workspace starts with what lives across functions (token ids, rotary tables, the
//! residual stream); behind it the functions use the same bytes, one after the other.

mod cache;
mod launch;
mod values;

use crate::error::CompileError;
use crate::memory::{Buffer, aligned, place};
use knapsack_artifact::library::{CallInputs, Io, MemoryPlan, Parameter};
use knapsack_artifact::plan::{self, Function, KvLayer, Launch, Lookup, RopeTable, Rows, Scratch, StateLayer};
use knapsack_ir::{Graph, Node, Op, RowCount, Type, ValueId, Windows};
use launch::Places;
use values::Storage;

/// A lowered model: everything of a library but its name, target and kernels.
#[derive(Clone, Debug)]
pub(crate) struct Lowered {
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) rope_tables: Vec<RopeTable>,
    pub(crate) kv_cache: Vec<KvLayer>,
    pub(crate) states: Vec<StateLayer>,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) io: Io,
    pub(crate) memory: MemoryPlan,
    pub(crate) prefill: Function,
    pub(crate) decode: Function,
    pub(crate) head: Function,
}

/// Bytes at the start of the workspace that keep their meaning across functions.
struct Pinned {
    tokens: Scratch,
    call: u64,
    tables: Vec<Rows>,
    hidden: Rows,
    /// Other values with places of their own: what the host looks up, and what the head selects a row of.
    values: Vec<(ValueId, Rows)>,
    end: u64,
}

/// Lowers a graph of which every node is executable.
pub(crate) fn lower(graph: &Graph, windows: &Windows) -> Result<Lowered, CompileError> {
    executable(graph)?;
    let too_large = |what: &str| CompileError::TooLarge { what: what.to_owned() };
    let pinned = pin(graph, windows).ok_or_else(|| too_large("the start of the workspace"))?;
    let (head, body): (Vec<Node>, Vec<Node>) = graph.nodes.iter().cloned().partition(is_head);
    let kv_cache = cache::layers(graph, windows);
    let function = |nodes: &[Node], tokens| {
        plan_function(graph, &kv_cache, nodes, tokens, &pinned).ok_or_else(|| too_large("the workspace"))
    };
    let (prefill, prefill_end) = function(&body, windows.chunk)?;
    let (decode, decode_end) = function(&body, 1)?;
    let (head, head_end) = function(&head, 1)?;
    let logits = logits(graph, &head).ok_or_else(|| CompileError::NotExecutable(vec![("logits", 1)]))?;
    let parameters =
        graph.parameters.iter().map(|p| Parameter { name: p.name.clone(), shape: p.shape.clone(), dtype: p.dtype });
    let parameters: Vec<_> = parameters.collect();
    let sum = |mut sizes: Box<dyn Iterator<Item = Option<u64>> + '_>| {
        sizes.try_fold(0u64, |sum, size| sum.checked_add(size?))
    };
    let lookups = lookups(graph, &pinned);
    let in_file: Vec<_> = lookups.iter().flat_map(Lookup::parameters).collect();
    let of_file = |index: &usize| in_file.contains(&plan::ParameterId(*index as u32));
    let bytes_of = |file: bool| {
        let chosen = (0..parameters.len()).filter(move |index| of_file(index) == file);
        sum(Box::new(chosen.map(|index| parameters[index].bytes()))).ok_or_else(|| too_large("the weights"))
    };
    let (weights, file) = (bytes_of(false)?, bytes_of(true)?);
    let kv_bytes = sum(Box::new(kv_cache.iter().map(cache::bytes))).ok_or_else(|| too_large("the KV cache"))?;
    let states = graph.states.clone();
    let context = windows.sliding.is_none().then_some(windows.context);
    let state = plan::state_bytes(&states, &kv_cache, context).ok_or_else(|| too_large("the state"))?;
    let rope_tables = graph.rope_tables.iter().zip(&pinned.tables);
    let workspace = prefill_end.max(decode_end).max(head_end);
    let memory = MemoryPlan { weights, file, kv_cache: kv_bytes, state, workspace };
    Ok(Lowered {
        parameters,
        rope_tables: rope_tables
            .map(|(t, &rows)| RopeTable {
                frequencies: t.frequencies.clone(),
                magnitude: t.magnitude,
                growth: t.growth,
                rows,
            })
            .collect(),
        kv_cache,
        states,
        lookups,
        io: Io {
            tokens: pinned.tokens,
            call: pinned.call,
            hidden: pinned.hidden,
            carried: carried(graph, &pinned),
            logits,
        },
        memory,
        prefill,
        decode,
        head,
    })
}

/// Whether each node is one that a launch executes; lists all that are not.
fn executable(graph: &Graph) -> Result<(), CompileError> {
    let mut left: Vec<(&'static str, usize)> = vec![];
    for node in &graph.nodes {
        let whole =
            |norm: &knapsack_ir::Norm| matches!(node.results[0].1, Type::Rows { columns, .. } if columns == norm.width);
        let fine = match &node.op {
            Op::Tokens | Op::EmbedRows { .. } | Op::Linear(_) | Op::AddNorm { .. } => true,
            Op::RopeQuery { .. } | Op::SelectRow { .. } => true,
            Op::RopeAppend(_) | Op::Attention { .. } | Op::NormSelected { .. } => true,
            Op::CausalConv(_) | Op::GatedDelta(_) => true,
            Op::Norm { norm, .. } => whole(norm),
            _ => false,
        };
        if !fine {
            match left.iter_mut().find(|(name, _)| *name == node.op.name()) {
                Some((_, count)) => *count += 1,
                None => left.push((node.op.name(), 1)),
            }
        }
    }
    if left.is_empty() { Ok(()) } else { Err(CompileError::NotExecutable(left)) }
}

fn is_head(node: &Node) -> bool {
    node.results.iter().any(|(_, ty)| matches!(ty, Type::Rows { count: RowCount::One, .. }))
}

fn pin(graph: &Graph, windows: &Windows) -> Option<Pinned> {
    let chunk = u64::from(windows.chunk);
    let mut end = 0u64;
    let region = |end: &mut u64, bytes_per_token: u64| {
        let offset = *end;
        *end = aligned(end.checked_add(chunk.checked_mul(bytes_per_token)?)?)?;
        Some(offset)
    };
    let tokens = Scratch { offset: region(&mut end, 4)?, bytes_per_token: 4 };
    let mut tables = Vec::with_capacity(graph.rope_tables.len());
    for table in &graph.rope_tables {
        let columns = u32::try_from(table.frequencies.len()).ok()?.checked_mul(2)?;
        tables.push(Rows { offset: region(&mut end, 4 * u64::from(columns))?, columns });
    }
    let hidden = Rows { offset: region(&mut end, 4 * u64::from(graph.hidden))?, columns: graph.hidden };
    // Rows that the host looks up follow the inputs of one token, so that one copy brings both.
    let inputs = CallInputs::at(end, tables.iter().map(|table: &Rows| table.columns))?;
    end = inputs.end;
    let mut values = vec![];
    for (id, columns) in looked_up(graph).map(|(node, _)| node).chain(selected(graph).skip(1)) {
        values.push((id, Rows { offset: region(&mut end, 4 * u64::from(columns))?, columns }));
    }
    Some(Pinned { tokens, call: inputs.top, tables, hidden, values, end })
}

/// Values that the host looks up, with their columns and nodes.
fn looked_up(graph: &Graph) -> impl Iterator<Item = ((ValueId, u32), &Op)> {
    graph.nodes.iter().filter_map(|node| match &node.op {
        op @ Op::EmbedRows { table, on_host: true, .. } => Some(((node.results[0].0, table.columns), op)),
        _ => None,
    })
}

/// Values of which the head has one row, the residual stream first, each once.
fn selected(graph: &Graph) -> impl Iterator<Item = (ValueId, u32)> {
    let types = graph.types();
    let mut seen = std::collections::HashSet::new();
    let inputs = graph.nodes.iter().filter_map(|node| match node.op {
        Op::SelectRow { input } | Op::NormSelected { input, .. } => Some(input),
        _ => None,
    });
    let each = inputs.filter_map(move |id| match types.get(id.0 as usize)? {
        Some(Type::Rows { columns, .. }) if seen.insert(id) => Some((id, *columns)),
        _ => None,
    });
    each.collect::<Vec<_>>().into_iter()
}

/// Where the head finds what it selects a row of beside the residual stream.
fn carried(graph: &Graph, pinned: &Pinned) -> Vec<Rows> {
    let place = |id| pinned.values.iter().find(|(other, _)| *other == id).map(|(_, rows)| *rows);
    selected(graph).skip(1).filter_map(|(id, _)| place(id)).collect()
}

fn lookups(graph: &Graph, pinned: &Pinned) -> Vec<Lookup> {
    let lookup = |((id, _), op): ((ValueId, u32), &Op)| match op {
        Op::EmbedRows { table, scale, .. } => {
            let rows = pinned.values.iter().find(|(other, _)| *other == id).map(|(_, rows)| *rows)?;
            Some(Lookup { table: table.storage, vocab: table.rows, scale: *scale, rows })
        }
        _ => None,
    };
    looked_up(graph).filter_map(lookup).collect()
}

/// The launches of one function and where its workspace ends.
fn plan_function(
    graph: &Graph,
    caches: &[KvLayer],
    nodes: &[Node],
    tokens: u32,
    pinned: &Pinned,
) -> Option<(Function, u64)> {
    let pinned_values: Vec<ValueId> = pinned.values.iter().map(|(id, _)| *id).collect();
    let storage = Storage::of(graph, nodes, tokens, &pinned_values)?;
    let mut buffers: Vec<Buffer> = storage.buffers.clone();
    let scratch_base = buffers.len();
    let amplified = launch::amplified(graph);
    let bytes_of = |node| launch::scratch_bytes(graph, caches, node, &amplified, tokens);
    let scratch: Vec<Option<u64>> = nodes.iter().map(bytes_of).collect();
    for (at, per_token) in scratch.iter().enumerate() {
        let bytes = per_token.unwrap_or(0).checked_mul(u64::from(tokens))?;
        buffers.push(Buffer { bytes, start: at, end: at });
    }
    let placement = place(&buffers)?;
    let offset = |buffer: usize| placement.offsets[buffer].checked_add(pinned.end);
    let mut launches = Vec::with_capacity(nodes.len());
    for (at, node) in nodes.iter().enumerate() {
        let places =
            Places { graph, storage: &storage, hidden: pinned.hidden, pinned: &pinned.values, offset: &offset };
        let scratch = match scratch[at] {
            Some(bytes_per_token) => Some(Scratch { offset: offset(scratch_base + at)?, bytes_per_token }),
            None => None,
        };
        if !matches!(node.op, Op::Tokens | Op::EmbedRows { on_host: true, .. }) {
            let op = launch::launch(&places, node)?;
            debug_assert!(op.scratch_bytes() <= scratch.map(|scratch: Scratch| scratch.bytes_per_token));
            launches.push(Launch { op, scratch, gpu: None });
        }
    }
    Some((Function { launches }, pinned.end.checked_add(placement.bytes)?))
}

/// Where the head leaves the logits: the output of its last launch.
fn logits(graph: &Graph, head: &Function) -> Option<Rows> {
    match &head.launches.last()?.op {
        knapsack_artifact::plan::Op::Linear(linear) if linear.output.columns == graph.vocab => Some(linear.output),
        _ => None,
    }
}
