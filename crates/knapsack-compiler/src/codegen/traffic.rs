//! What kernels move: the bytes that a launch must move, and the bytes that its grid makes it move.
//!
//! Counted are the bytes that work groups ask for: what one of them reads, times their number. Weights and the KV cache stream
//! from memory, so for them a re-read costs bandwidth; activations are small and their re-reads are served by caches.

use super::count::{Counter, Place, ThreadCount};
use super::module::{Specialization, without_prelude};
use super::{Tokens, functions, specialize};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Tiles;
use knapsack_artifact::plan::{Attention, CausalConv, GatedDelta, KernelCall, KvLayer, Launch, Op, Operand, RowSelect};

/// Bytes, by what they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Parameters.
    pub weights: u64,
    /// Keys and values, and what recurrent layers remember.
    pub cache: u64,
    /// Tokens, activations, rotary tables.
    pub activations: u64,
}

impl Traffic {
    fn add(&mut self, other: Traffic) {
        self.weights += other.weights;
        self.cache += other.cache;
        self.activations += other.activations;
    }
}

/// The launches of one kernel in one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTraffic {
    /// `prefill`, `decode` or `head`.
    pub function: &'static str,
    /// The kernel's name.
    pub kernel: String,
    /// What it computes, for people.
    pub summary: String,
    /// Launches in the function.
    pub launches: u32,
    /// Work groups of all of them.
    pub groups: u64,
    /// Threads of a work group.
    pub threads: u32,
    /// Bytes that they must move: each operand once.
    pub must: Traffic,
    /// Bytes that they move.
    pub moves: Traffic,
    /// Weights that linear layers multiply, each as often as tokens meet it.
    pub weights: u64,
}

impl KernelTraffic {
    /// Moved weight and cache bytes over those that must be moved; 1 where there are none.
    pub fn ratio(&self) -> f64 {
        match self.must.weights + self.must.cache {
            0 => 1.0,
            must => (self.moves.weights + self.moves.cache) as f64 / must as f64,
        }
    }

    /// Operations for each product of a weight and an input; `None` where there are no weights to multiply.
    pub fn operations_per_weight(&self, thread: &ThreadCount) -> Option<f64> {
        (self.weights > 0).then(|| self.operations(thread) as f64 / self.weights as f64)
    }

    /// The share of its work groups' lanes that have something to do: of a linear layer's, those whose rows are in the matrix.
    pub fn filled(&self) -> f64 {
        match self.moves.weights {
            moved if moved > self.must.weights && self.weights > 0 && self.function != "prefill" => {
                self.must.weights as f64 / moved as f64
            }
            _ => 1.0,
        }
    }

    /// Operations of all launches, every thread taken for one that does `thread`.
    pub const fn operations(&self, thread: &ThreadCount) -> u64 {
        thread.operations * self.threads as u64 * self.groups
    }
}

/// The traffic of every kernel of a library with GPU kernels, in order of first use: of `prefill` for a whole chunk from
/// position 0, of `decode` and `head` with every cache position in use. Empty for libraries without kernels, and for launches
/// that this compiler would not launch as the library does.
pub fn kernel_traffic(library: &ModelLibrary) -> Vec<KernelTraffic> {
    let Some(module) = &library.kernels else { return Vec::new() };
    let mut table: Vec<KernelTraffic> = Vec::new();
    for (name, function, tokens) in functions(library) {
        for (call, launches) in function.calls() {
            let Ok((kernel, count)) = specialize(library, launches, tokens) else { continue };
            let Some(entry) = module.kernels.get(call.kernel as usize) else { continue };
            if kernel.groups != call.groups || count != launches.len() {
                continue;
            }
            let (must, moves, groups) = call_traffic(library, launches, &kernel, tokens);
            let at = table.iter().position(|row| row.function == name && row.kernel == entry.name);
            let row = match at {
                Some(at) => &mut table[at],
                None => {
                    table.push(KernelTraffic {
                        function: name,
                        kernel: entry.name.clone(),
                        summary: kernel.summary.clone(),
                        launches: 0,
                        groups: 0,
                        threads: kernel.threads,
                        must: Traffic::default(),
                        moves: Traffic::default(),
                        weights: 0,
                    });
                    table.last_mut().expect("a row was just pushed")
                }
            };
            row.launches += 1;
            row.groups += groups;
            row.weights += launches.iter().map(|launch| products(library, &launch.op, tokens)).sum::<u64>();
            row.must.add(must);
            row.moves.add(moves);
            if let (Some(then), Some(kernel)) = (&call.then, &kernel.then)
                && let Some(entry) = module.kernels.get(then.kernel as usize)
            {
                merge_row(&mut table, name, &entry.name, kernel);
            }
        }
    }
    table
}

/// Counts a launch of a kernel that merges what another's work groups gave.
fn merge_row(table: &mut Vec<KernelTraffic>, function: &'static str, name: &str, kernel: &Specialization) {
    let groups = kernel.groups.iter().map(|axis| u64::from(axis.at(1))).product::<u64>();
    let moved = Traffic { activations: groups * kernel.reads.inputs, ..Traffic::default() };
    if let Some(row) = table.iter_mut().find(|row| row.function == function && row.kernel == name) {
        row.launches += 1;
        row.groups += groups;
        row.must.add(moved);
        row.moves.add(moved);
        return;
    }
    table.push(KernelTraffic {
        function,
        kernel: name.to_owned(),
        summary: kernel.summary.clone(),
        launches: 1,
        groups,
        threads: kernel.threads,
        must: moved,
        moves: moved,
        weights: 0,
    });
}

/// Threads of a work group that are run to count what all of them do.
const SAMPLES: u32 = 4;

/// What a thread of each row of `table`, which is the library's [`kernel_traffic`], does in one launch: the mean of four threads,
/// evenly spaced, of the last work group along y, of a whole chunk from position 0 or of a token that sees every cache position.
/// `fp16`: as built with half precision products; `tiles`: as products of many tokens are tiled.
///
/// # Errors
/// A source that this compiler would not write.
pub fn count_threads(
    library: &ModelLibrary,
    table: &[KernelTraffic],
    fp16: bool,
    tiles: Tiles,
) -> Result<Vec<ThreadCount>, String> {
    let Some(module) = &library.kernels else { return Ok(Vec::new()) };
    let source = without_prelude(&module.source).ok_or("the source begins with another prelude")?;
    let counter = Counter::new(source, fp16, tiles)?;
    let mut counts = Vec::with_capacity(table.len());
    for row in table {
        let (_, function, tokens) =
            functions(library).into_iter().find(|(name, ..)| *name == row.function).ok_or("no such function")?;
        let is_it = |index: u32| module.kernels.get(index as usize).is_some_and(|kernel| kernel.name == row.kernel);
        let is_one =
            |call: &KernelCall| is_it(call.kernel) || call.then.as_ref().is_some_and(|then| is_it(then.kernel));
        let (call, launches) = function.calls().find(|(call, _)| is_one(call)).ok_or("no such kernel")?;
        let n = if tokens == Tokens::One { 1 } else { library.model.prefill_chunk_size };
        let seen = match &launches[0].op {
            Op::Attention(op) => library.kv_cache.get(op.layer as usize).map_or(1, |kv| kv.positions),
            _ => 1,
        };
        let p = if tokens == Tokens::One { seen.saturating_sub(1) } else { 0 };
        let group = [0, call.groups[1].at(n).saturating_sub(1), 0];
        let mut sum = ThreadCount::default();
        for sample in 0..SAMPLES {
            let thread = sample * row.threads / SAMPLES;
            sum = sum.plus(counter.count(&row.kernel, &Place { n, p, row: 0, group, thread })?);
        }
        counts.push(sum.divided(u64::from(SAMPLES)));
    }
    Ok(counts)
}

/// Must, moves, and work groups of one kernel call.
fn call_traffic(
    library: &ModelLibrary,
    launches: &[Launch],
    kernel: &Specialization,
    tokens: Tokens,
) -> (Traffic, Traffic, u64) {
    let n = if tokens == Tokens::One { 1 } else { library.model.prefill_chunk_size };
    let groups = kernel.groups.iter().map(|axis| u64::from(axis.at(n))).product::<u64>();
    let (mut read, mut written, mut weights) = (0, 0, 0);
    for Launch { op, .. } in launches {
        let rows = rows_moved(library, op, n);
        (read, written) = (read + rows.0, written + rows.1);
        weights += weights_of(library, op, kernel, n);
    }
    let mut must = Traffic { weights, cache: 0, activations: read + written };
    let mut moves = Traffic {
        weights: groups * kernel.reads.weights,
        cache: 0,
        activations: (groups * kernel.reads.inputs).max(read) + written,
    };
    match &launches[0].op {
        Op::Attention(op) => (must.cache, moves.cache) = attention_cache(library, op, kernel, tokens, n),
        Op::RopeAppend(op) => {
            let element = library.kv_cache[op.layer as usize].dtype.size();
            must.cache = 2 * u64::from(n) * u64::from(op.kv_heads) * u64::from(op.head_dim) * element;
            moves.cache = must.cache;
        }
        Op::CausalConv(CausalConv { state, .. }) | Op::GatedDelta(GatedDelta { state, .. }) => {
            // Read once and written once.
            must.cache = library.states.get(*state as usize).map_or(0, |state| 2 * state.bytes());
            moves.cache = must.cache;
        }
        _ => {}
    }
    (must, moves, groups)
}

/// Weights of a linear layer, for each token of the call.
fn products(library: &ModelLibrary, op: &Op, tokens: Tokens) -> u64 {
    let Op::Linear(op) = op else { return 0 };
    let n = if tokens == Tokens::One { 1 } else { u64::from(library.model.prefill_chunk_size) };
    n * u64::from(op.input.columns) * u64::from(op.out_features)
}

/// Bytes of the parameters of a launch; of an embedding table, the rows of the call's tokens.
fn weights_of(library: &ModelLibrary, op: &Op, kernel: &Specialization, n: u32) -> u64 {
    if let Op::Embed(_) = op {
        return u64::from(n) * kernel.reads.weights;
    }
    let parameters = op.operands().into_iter().filter_map(|operand| match operand {
        Operand::Parameter(id) => library.parameters.get(id.0 as usize)?.bytes(),
        _ => None,
    });
    parameters.sum()
}

/// Bytes of workspace rows that are read and written, each once.
fn rows_moved(library: &ModelLibrary, op: &Op, n: u32) -> (u64, u64) {
    let one = matches!(op, Op::Select(_)) || matches!(op, Op::Norm(norm) if norm.rows == RowSelect::One);
    let rows = if one { 1 } else { u64::from(n) };
    let (mut read, mut written) = (0, 0);
    for operand in op.operands() {
        match operand {
            Operand::Tokens => read += 4 * rows,
            Operand::Input(input) => read += 4 * rows * u64::from(input.columns),
            Operand::Output(output) => written += 4 * rows * u64::from(output.columns),
            Operand::RopeTable(table) => {
                read += 4 * rows * library.rope_tables.get(table as usize).map_or(0, |t| u64::from(t.rows.columns));
            }
            Operand::Parameter(_) | Operand::Keys(_) | Operand::Values(_) | Operand::State(_) => {}
        }
    }
    (read, written)
}

/// Bytes of keys and values that must be read, and that are.
fn attention_cache(
    library: &ModelLibrary,
    op: &Attention,
    kernel: &Specialization,
    tokens: Tokens,
    n: u32,
) -> (u64, u64) {
    let kv = &library.kv_cache[op.layer as usize];
    let position_bytes = 2 * u64::from(kv.head_dim) * kv.dtype.size();
    let heads = u64::from(kernel.groups[0].at(n));
    if tokens == Tokens::One {
        let seen = visible(kv, kv.positions.saturating_sub(1));
        return (u64::from(kv.kv_heads) * seen * position_bytes, heads * seen * position_bytes);
    }
    let tile = kernel.groups[1].tokens_per_group.max(1);
    let tiles = (0..n).step_by(tile as usize);
    let moved: u64 = tiles
        .map(|first| {
            let last = (first + tile).min(n) - 1;
            visible(kv, last) + visible_before(kv, first, last)
        })
        .sum();
    (u64::from(kv.kv_heads) * u64::from(n) * position_bytes, heads * moved * position_bytes)
}

/// Positions that a query sees.
fn visible(kv: &KvLayer, position: u32) -> u64 {
    let (sinks, start) = kv.visible(position);
    u64::from(sinks) + u64::from(position + 1 - start)
}

/// Positions that the first query of a tile sees and the last does not.
fn visible_before(kv: &KvLayer, first: u32, last: u32) -> u64 {
    u64::from(
        kv.visible(last).1.max(kv.sinks) - kv.visible(first).1.max(kv.sinks).min(kv.visible(last).1.max(kv.sinks)),
    )
}
