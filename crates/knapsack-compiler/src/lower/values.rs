//! Which buffer each value of rows has, and how long.

use crate::memory::Buffer;
use knapsack_ir::{Epilogue, Graph, Linear, Node, Op, Type, ValueId};

/// Where a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// In the residual stream's place, which outlives the function.
    Hidden,
    /// In a buffer of the function.
    Buffer(usize),
}

/// The homes of all values of a function.
pub(super) struct Storage {
    homes: Vec<Option<Home>>,
    pub(super) columns: Vec<u32>,
    pub(super) buffers: Vec<Buffer>,
}

/// The value that a node's first result may replace in place: the residual of a sum, which the plan allows for exactly these.
fn in_place(op: &Op) -> Option<ValueId> {
    match *op {
        Op::Linear(Linear { epilogue: Epilogue::Add(residual), input, .. }) if residual != input => Some(residual),
        Op::AddNorm { residual, delta, .. } if residual != delta => Some(residual),
        _ => None,
    }
}

impl Storage {
    /// Homes of what `nodes` define, for rows of `tokens`; `None` when a size is not representable.
    /// `pinned` have places that outlive the function.
    pub(super) fn of(graph: &Graph, nodes: &[Node], tokens: u32, pinned: &[ValueId]) -> Option<Storage> {
        let bound = graph.value_bound();
        let mut last_use = vec![0usize; bound];
        for (at, node) in nodes.iter().enumerate() {
            for id in node.op.operands() {
                last_use[id.0 as usize] = at;
            }
        }
        // The residual stream is what the row selection reads; it and what it replaced in place live in its home.
        let hidden = graph.nodes.iter().find_map(|node| match node.op {
            Op::NormSelected { input, .. } | Op::SelectRow { input } => Some(input),
            _ => None,
        });
        let mut storage = Storage { homes: vec![None; bound], columns: vec![0; bound], buffers: vec![] };
        let reused: Vec<Option<ValueId>> = nodes
            .iter()
            .enumerate()
            .map(|(at, node)| {
                let reusable =
                    |id: &ValueId| last_use[id.0 as usize] == at && Some(*id) != hidden && !pinned.contains(id);
                in_place(&node.op).filter(reusable)
            })
            .collect();
        storage.mark_hidden(nodes, &reused, hidden);
        for (at, node) in nodes.iter().enumerate() {
            for (index, &(id, ty)) in node.results.iter().enumerate() {
                let Type::Rows { columns, .. } = ty else { continue };
                let slot = id.0 as usize;
                storage.columns[slot] = columns;
                if pinned.contains(&id) {
                    continue;
                }
                let end = last_use[slot].max(at);
                let reuse = reused[at].filter(|_| index == 0).and_then(|id| storage.homes[id.0 as usize]);
                match (storage.homes[slot], reuse) {
                    (Some(_), _) => {}
                    (None, Some(Home::Buffer(buffer))) => {
                        storage.buffers[buffer].end = storage.buffers[buffer].end.max(end);
                        storage.homes[slot] = Some(Home::Buffer(buffer));
                    }
                    (None, _) => {
                        let bytes = u64::from(tokens).checked_mul(4 * u64::from(columns))?;
                        storage.homes[slot] = Some(Home::Buffer(storage.buffers.len()));
                        storage.buffers.push(Buffer { bytes, start: at, end });
                    }
                }
            }
        }
        Some(storage)
    }

    /// Gives the residual stream's home to the final stream and to every value it came to replace in place.
    fn mark_hidden(&mut self, nodes: &[Node], reused: &[Option<ValueId>], hidden: Option<ValueId>) {
        let mut stream = hidden;
        while let Some(id) = stream {
            self.homes[id.0 as usize] = Some(Home::Hidden);
            let definition =
                nodes.iter().rposition(|node| node.results.first().is_some_and(|(result, _)| *result == id));
            stream = definition.and_then(|at| reused[at]);
        }
    }

    pub(super) fn home(&self, id: ValueId) -> Option<Home> {
        self.homes.get(id.0 as usize).copied().flatten()
    }
}
