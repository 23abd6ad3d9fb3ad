//! What passes edit a graph with: who defines a value, how often it is used, and replacing nodes while both stay true.

use knapsack_ir::{Graph, Node, Op, Type, ValueId};

/// A graph under edit. Nodes keep their index until [`Editor::finish`]; nodes that nobody needs any more vanish at once.
pub(super) struct Editor<'g> {
    graph: &'g mut Graph,
    definition: Vec<usize>,
    uses: Vec<u32>,
    removed: Vec<bool>,
}

impl<'g> Editor<'g> {
    pub(super) fn new(graph: &'g mut Graph) -> Self {
        let bound = graph.value_bound();
        let (mut definition, mut uses) = (vec![usize::MAX; bound], vec![0; bound]);
        for (index, node) in graph.nodes.iter().enumerate() {
            for (id, _) in &node.results {
                definition[id.0 as usize] = index;
            }
            for id in node.op.operands() {
                uses[id.0 as usize] += 1;
            }
        }
        uses[graph.output.0 as usize] += 1;
        let removed = vec![false; graph.nodes.len()];
        Editor { graph, definition, uses, removed }
    }

    pub(super) fn len(&self) -> usize {
        self.graph.nodes.len()
    }

    /// The node at an index, unless it is gone.
    pub(super) fn node(&self, index: usize) -> Option<&Node> {
        (!self.removed[index]).then(|| &self.graph.nodes[index])
    }

    /// The operation at an index, unless it is gone.
    pub(super) fn op(&self, index: usize) -> Option<&Op> {
        self.node(index).map(|node| &node.op)
    }

    /// The operation that defines a value.
    pub(super) fn defining(&self, value: ValueId) -> &Op {
        &self.graph.nodes[self.definition[value.0 as usize]].op
    }

    /// The operation that defines a value, if nothing but one operand reads the value.
    pub(super) fn sole(&self, value: ValueId) -> Option<&Op> {
        (self.uses[value.0 as usize] == 1).then(|| self.defining(value))
    }

    pub(super) fn uses(&self, value: ValueId) -> u32 {
        self.uses[value.0 as usize]
    }

    pub(super) fn columns(&self, value: ValueId) -> u32 {
        let node = &self.graph.nodes[self.definition[value.0 as usize]];
        match node.results.iter().find(|(id, _)| *id == value) {
            Some((_, Type::Rows { columns, .. })) => *columns,
            _ => 0,
        }
    }

    pub(super) fn graph(&self) -> &Graph {
        self.graph
    }

    /// Puts `op` at `index`, where it defines what was defined there and the results of the nodes in `absorbed` behind that,
    /// in this order. The absorbed nodes go away.
    pub(super) fn replace(&mut self, index: usize, op: Op, absorbed: &[usize]) {
        for id in op.operands() {
            self.uses[id.0 as usize] += 1;
        }
        let old = std::mem::replace(&mut self.graph.nodes[index].op, op);
        for &other in absorbed {
            let results = std::mem::take(&mut self.graph.nodes[other].results);
            for (id, _) in &results {
                self.definition[id.0 as usize] = index;
            }
            self.graph.nodes[index].results.extend(results);
            self.remove(other);
        }
        self.release(&old);
    }

    /// As [`Editor::replace`], but what the absorbed node defines comes before what `index` defines.
    pub(super) fn replace_with_query(&mut self, index: usize, op: Op, absorbed: usize) {
        let own = self.graph.nodes[index].results.len();
        self.replace(index, op, &[absorbed]);
        self.graph.nodes[index].results.rotate_left(own);
    }

    fn release(&mut self, op: &Op) {
        for id in op.operands() {
            let slot = id.0 as usize;
            self.uses[slot] -= 1;
            let index = self.definition[slot];
            let unused =
                self.uses[slot] == 0 && self.graph.nodes[index].results.iter().all(|(id, _)| self.uses(*id) == 0);
            if unused && !self.removed[index] && !has_effect(&self.graph.nodes[index].op) {
                self.remove(index);
            }
        }
    }

    /// Marks a node whose results nobody uses, and what it alone needed.
    fn remove(&mut self, index: usize) {
        self.removed[index] = true;
        let op = self.graph.nodes[index].op.clone();
        self.release(&op);
    }

    /// Removes every node without effect whose results nobody uses.
    pub(super) fn sweep(&mut self) {
        for index in (0..self.len()).rev() {
            let node = &self.graph.nodes[index];
            let unused = node.results.iter().all(|(id, _)| self.uses(*id) == 0);
            if unused && !self.removed[index] && !has_effect(&node.op) {
                self.remove(index);
            }
        }
    }

    pub(super) fn finish(self) {
        let mut removed = self.removed.into_iter();
        self.graph.nodes.retain(|_| !removed.next().unwrap_or(false));
    }
}

/// Whether a node does something beyond defining its results that a layer shares with others: what only a node's own results
/// depend on, as the state of a convolution, goes with it.
fn has_effect(op: &Op) -> bool {
    matches!(op, Op::Append { .. } | Op::RopeAppend(_))
}
