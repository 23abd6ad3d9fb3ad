//! Attention over the cache, with a streaming softmax.
//!
//! A unit is one kv head and up to [`ROWS`] of the queries that use it (heads of its group, token by token). Blocks of cached
//! positions are widened to float once for all of them, and meet several queries while they are in registers. Scores are sums of
//! lanes, added up for a vector of positions at once. Each query keeps its running maximum, sum and weighted values. Blocks lie at
//! fixed positions (the sinks, then every so many), and a score or an output is added up in one order, so that a query's result
//! does not depend on the others of its call.
//!
//! Where a processor multiplies float16 with float32 sums, a float16 cache is used as it is: see [`halves`].

mod halves;
mod turned;

use crate::cpu::math::{exp, sigmoid, soft_cap};
use crate::cpu::task::Attention;
use crate::cpu::vector::{Half, MAX_GROUPS, MAX_LANES, Single, Stored, Vector, load_some, load_stored, store_some};
use knapsack_artifact::validate::MAX_HEAD_DIM;
use knapsack_tensor::DType;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Most queries of a unit.
const ROWS: usize = 64;
/// Floats of a unit's queries: fewer queries where heads are large.
const ROW_FLOATS: usize = 8192;
/// Most positions of a block.
const BLOCK: usize = 32;
/// Floats of a block: fewer positions where heads are large.
const BLOCK_FLOATS: usize = 8192;
/// Queries that meet a vector of keys or values while it is in a register.
const QUERIES: usize = 4;
/// Queries that are worth the turning of their keys.
const TURNED: usize = 8;
/// Bytes of the cache that are asked for ahead.
const AHEAD: usize = 4096;

const _: () =
    assert!(ROW_FLOATS >= QUERIES * MAX_HEAD_DIM as usize && BLOCK_FLOATS >= MAX_LANES * MAX_HEAD_DIM as usize);

/// What a unit works with, on the stack.
struct Room {
    queries: [f32; ROW_FLOATS],
    outputs: [f32; ROW_FLOATS],
    /// Keys or values of a block: `[position][element]`.
    rows: [f32; BLOCK_FLOATS],
    /// Of each query and position of a block the score, then the weight.
    weights: [[f32; BLOCK]; ROWS],
}

/// Queries of a unit.
fn queries(task: &Attention) -> usize {
    ROWS.min(ROW_FLOATS / (task.cache.layer.head_dim as usize).next_multiple_of(MAX_LANES))
}

/// Units of a call.
pub(crate) fn units(task: &Attention) -> usize {
    let kv_heads = task.cache.layer.kv_heads as usize;
    kv_heads * (task.n * (task.heads / kv_heads)).div_ceil(queries(task))
}

/// One query of a unit.
#[derive(Clone, Copy, Default)]
struct Query {
    /// Where it lies in the query and output rows.
    at: usize,
    /// It sees the layer's sinks and `start..=position`, which begins after them.
    start: u32,
    position: u32,
    largest: f32,
    /// Of its weights, lane by lane.
    sums: [f32; MAX_LANES],
    /// What its scores are multiplied with, where it was made float16 ([`halves`]).
    raised: f32,
    /// Which of the block's positions it sees, as indices.
    seen: (usize, usize),
}

/// Computes unit `unit`.
///
/// # Safety
/// The instruction set of `V` is available, the task's invariants hold and the unit exists.
#[inline(always)]
pub(crate) unsafe fn unit<V: Vector>(task: &Attention, unit: usize) {
    // SAFETY: the caller's promises.
    unsafe { some_queries::<V, false>(task, unit) }
}

/// As [`unit`], where `V` has products of float16 and the layer is one for [`halves`].
///
/// # Safety
/// As [`unit`].
#[cfg_attr(not(target_arch = "aarch64"), expect(dead_code, reason = "no other processor has them"))]
#[inline(always)]
pub(crate) unsafe fn unit_of_halves<V: Vector>(task: &Attention, unit: usize) {
    // SAFETY: the caller's promises.
    unsafe { some_queries::<V, true>(task, unit) }
}

/// Whether [`unit_of_halves`] may be asked.
#[cfg_attr(not(target_arch = "aarch64"), expect(dead_code, reason = "no other processor has them"))]
pub(crate) fn in_halves(task: &Attention) -> bool {
    let layer = &task.cache.layer;
    layer.dtype == DType::F16 && layer.head_dim.is_multiple_of(halves::ELEMENTS)
}

#[inline(always)]
unsafe fn some_queries<V: Vector, const HALF: bool>(task: &Attention, unit: usize) {
    let layer = &task.cache.layer;
    let (dim, group) = (layer.head_dim as usize, task.heads / layer.kv_heads as usize);
    let per_unit = queries(task);
    let per_head = (task.n * group).div_ceil(per_unit);
    let (kv_head, first) = (unit / per_head, unit % per_head * per_unit);
    let count = per_unit.min(task.n * group - first);
    let padded = dim.next_multiple_of(V::LANES);
    let mut queries = [Query::default(); ROWS];
    let mut room = MaybeUninit::<Room>::uninit();
    // SAFETY: `queries(task)` rows of `padded` floats fit; a room is plain floats, and what is read was written before: queries
    // and outputs of `count` rows here, a block's rows, columns and weights for each block.
    unsafe {
        let room = room.as_mut_ptr();
        let (query_room, output_room) =
            ((&raw mut (*room).queries).cast::<f32>(), (&raw mut (*room).outputs).cast::<f32>());
        for (i, query) in queries.iter_mut().enumerate().take(count) {
            let (t, head) = ((first + i) / group, kv_head * group + (first + i) % group);
            let position = task.position + t as u32;
            let start = match layer.visible(position) {
                // Until the window has left the sinks everything is seen.
                (sinks, start) if sinks == start => layer.sinks,
                (_, start) => start,
            };
            let at = (t * task.heads + head) * dim;
            *query = Query { at, start, position, largest: f32::MIN, ..Query::default() };
            for d in (0..padded).step_by(V::LANES) {
                let q = load_some::<V>(task.query.add(at + d), dim - d);
                V::store(query_room.add(i * padded + d), V::mul(q, V::splat(task.scale)));
                V::store(output_room.add(i * padded + d), V::splat(0.0));
            }
            if HALF {
                query.raised = halves::narrow_query::<V>(query_room.add(i * padded), padded);
            }
        }
        let queries = &mut queries[..count];
        // Later queries start no earlier and end no earlier.
        let (start, end) = (queries[0].start, queries[count - 1].position + 1);
        let size = block_size::<V>(dim) as u32;
        let aligned = layer.sinks + start.saturating_sub(layer.sinks) / size * size;
        // Called in one place, so that the code is there once.
        for positions in [0..layer.sinks.min(end), aligned..end] {
            span::<V, HALF>(task, kv_head, queries, positions, room);
        }
        for (i, query) in queries.iter().enumerate() {
            let inverse = V::splat(1.0 / V::sum(V::load(query.sums.as_ptr())));
            let gates = task.gate.map(|gate| {
                let (t, head) = ((first + i) / group, kv_head * group + (first + i) % group);
                (gate.first.add(t * gate.columns + head * gate.stride), gate.wide)
            });
            for d in (0..dim).step_by(V::LANES) {
                let mut o = V::mul(V::load(output_room.add(i * padded + d)), inverse);
                match gates {
                    Some((gates, true)) => o = V::mul(o, sigmoid::<V>(load_some::<V>(gates.add(d), dim - d))),
                    Some((gate, false)) => o = V::mul(o, sigmoid::<V>(V::splat(gate.read()))),
                    None => {}
                }
                store_some::<V>(task.output.add(query.at + d), o, dim - d);
            }
        }
    }
}

/// Positions of a block: whole vectors of them.
const fn block_size<V: Vector>(dim: usize) -> usize {
    let fit = BLOCK_FLOATS / dim.next_multiple_of(V::LANES);
    let most = if fit < BLOCK { fit } else { BLOCK };
    most - most % V::LANES
}

/// Lets the queries see positions `span`, where each may.
#[inline(always)]
unsafe fn span<V: Vector, const HALF: bool>(
    task: &Attention,
    kv_head: usize,
    queries: &mut [Query],
    span: Range<u32>,
    room: *mut Room,
) {
    let dim = task.cache.layer.head_dim as usize;
    let padded = dim.next_multiple_of(V::LANES);
    let size = block_size::<V>(dim);
    let mut first = span.start;
    while first < span.end {
        let count = size.min((span.end - first) as usize);
        // SAFETY: `size` positions of `padded` floats fit the block; the positions are cached; there are as many rows as queries.
        unsafe {
            let rows = (&raw mut (*room).rows).cast::<f32>();
            let query_room = (&raw const (*room).queries).cast::<f32>();
            let output_room = (&raw mut (*room).outputs).cast::<f32>();
            let weights = (&raw mut (*room).weights).cast::<[f32; BLOCK]>();
            let vectors = count.div_ceil(V::LANES);
            let mut keys = halves::Rows::NONE;
            let turn = V::GROUPS > 1 && queries.len() >= TURNED;
            if HALF {
                keys = halves::Rows::new::<V>(task, task.cache.keys, kv_head, first, count);
            } else if turn {
                turned::turn::<V>(task, kv_head, first, count, rows);
            } else {
                widen::<V>(task, task.cache.keys, kv_head, first, count, rows);
                // What is missing of a last vector of positions.
                std::ptr::write_bytes(rows.add(count * padded), 0, (vectors * V::LANES - count) * padded);
            }
            for (tile, queries) in queries.chunks_mut(QUERIES).enumerate() {
                let i = tile * QUERIES;
                queries.iter_mut().for_each(|query| query.seen = seen(query, task.cache.layer.sinks, first, count));
                let (from, to) = (query_room.add(i * padded), weights.add(i));
                let mut q = 0;
                while q < queries.len() {
                    let (from, to) = (from.add(q * padded), to.add(q));
                    match queries.len() - q {
                        4.. if HALF => q += halves::score::<V, 4>(&keys, count, dim, from, &queries[q..], to),
                        _ if HALF => q += halves::score::<V, 1>(&keys, count, dim, from, &queries[q..], to),
                        4.. if turn && V::MANY => q += turned::score::<V, 4>(from, padded, rows, vectors, to),
                        2.. if turn => q += turned::score::<V, 2>(from, padded, rows, vectors, to),
                        _ if turn => q += turned::score::<V, 1>(from, padded, rows, vectors, to),
                        4.. if V::MANY => q += score::<V, 4>(from, padded, rows, vectors, to),
                        2.. => q += score::<V, 2>(from, padded, rows, vectors, to),
                        _ => q += score::<V, 1>(from, padded, rows, vectors, to),
                    }
                }
                for (q, query) in queries.iter_mut().enumerate() {
                    let rescale = soften::<V>(task.soft_cap, query, vectors, &mut *to.add(q));
                    if rescale != 1.0 {
                        for d in (0..padded).step_by(V::LANES) {
                            let o = output_room.add((i + q) * padded + d);
                            V::store(o, V::mul(V::load(o), V::splat(rescale)));
                        }
                    }
                    if HALF {
                        halves::narrow::<V>(to.add(q).cast(), vectors * V::LANES);
                    }
                }
            }
            if HALF {
                let values = halves::Rows::new::<V>(task, task.cache.values, kv_head, first, count);
                weigh_all::<V, _>(queries, &values, padded, weights, output_room);
            } else {
                widen::<V>(task, task.cache.values, kv_head, first, count, rows);
                weigh_all::<V, _>(queries, Widened { rows, padded }, padded, weights, output_room);
            }
        }
        first += count as u32;
    }
}

/// Which of the block's positions `first..first + count` a query sees, as indices. They are consecutive, since a block lies
/// in the sinks or after them.
#[inline(always)]
fn seen(query: &Query, sinks: u32, first: u32, count: usize) -> (usize, usize) {
    let end = first + count as u32;
    let from = if first < sinks { first } else { first.max(query.start) };
    let to = end.min(query.position + 1);
    if from < to { ((from - first) as usize, (to - first) as usize) } else { (0, 0) }
}

/// Scores of `Q` queries, rows of `padded` floats, against `vectors` vectors of positions; `Q`.
#[inline(always)]
unsafe fn score<V: Vector, const Q: usize>(
    queries: *const f32,
    padded: usize,
    keys: *const f32,
    vectors: usize,
    scores: *mut [f32; BLOCK],
) -> usize {
    for vector in 0..vectors {
        // In each group of lanes, of four positions the sums of what the lanes of that group added up.
        let mut partial = [[[0.0f32; MAX_LANES]; MAX_GROUPS]; Q];
        // SAFETY: queries and keys have `padded` floats, whole vectors; there are keys of whole vectors of positions.
        unsafe {
            for four in 0..V::GROUPS {
                let keys = keys.add((vector * V::LANES + 4 * four) * padded);
                let mut sums = [[V::splat(0.0); 4]; Q];
                for d in (0..padded).step_by(V::LANES) {
                    let mut key = [V::splat(0.0); 4];
                    for j in 0..4 {
                        key[j] = V::load(keys.add(j * padded + d));
                    }
                    for q in 0..Q {
                        let x = V::load(queries.add(q * padded + d));
                        for j in 0..4 {
                            sums[q][j] = V::fma(x, key[j], sums[q][j]);
                        }
                    }
                }
                for q in 0..Q {
                    V::store(partial[q][four].as_mut_ptr(), V::float_sums(sums[q]));
                }
            }
            for q in 0..Q {
                let from = partial[q].as_ptr().cast::<f32>();
                let mut groups = [V::splat(0.0); 4];
                for g in 0..V::GROUPS {
                    let at = from.add(4 * g);
                    let four = |four: usize| at.add(four % V::GROUPS * MAX_LANES).cast::<u8>();
                    groups[g] = V::as_float(V::iload_groups([four(0), four(1), four(2), four(3)]));
                }
                let sum = match V::GROUPS {
                    4 => V::add(V::add(groups[0], groups[2]), V::add(groups[1], groups[3])),
                    2 => V::add(groups[0], groups[1]),
                    _ => groups[0],
                };
                V::store(scores.add(q).cast::<f32>().add(vector * V::LANES), sum);
            }
        }
    }
    Q
}

/// Makes weights of the scores that a query sees, zero of the others, updates maximum and sums, and returns what the earlier values
/// must be multiplied with.
#[inline(always)]
unsafe fn soften<V: Vector>(cap: Option<f32>, query: &mut Query, vectors: usize, scores: &mut [f32; BLOCK]) -> f32 {
    let (from, to) = query.seen;
    if from == to {
        return 1.0;
    }
    let end = vectors * V::LANES;
    let all = (from, to) == (0, end);
    // SAFETY: `vectors` vectors of scores were written; a query has a vector of sums.
    unsafe {
        if let Some(cap) = cap {
            for i in (0..end).step_by(V::LANES) {
                V::store(scores.as_mut_ptr().add(i), soft_cap::<V>(V::load(scores.as_ptr().add(i)), cap));
            }
        }
        if !all {
            scores[..from].fill(f32::MIN);
            scores[to..end].fill(f32::MIN);
        }
        let mut largest = V::splat(query.largest);
        for i in (0..end).step_by(V::LANES) {
            largest = V::max(largest, V::load(scores.as_ptr().add(i)));
        }
        // Rarely, once some positions were seen.
        let new = if V::any_above(largest, query.largest) { V::largest(largest) } else { query.largest };
        for i in (0..end).step_by(V::LANES) {
            let w = exp::<V>(V::sub(V::load(scores.as_ptr().add(i)), V::splat(new)));
            V::store(scores.as_mut_ptr().add(i), w);
        }
        if !all {
            scores[..from].fill(0.0);
            scores[to..end].fill(0.0);
        }
        // The first block of a query has nothing to rescale.
        let first = query.largest == f32::MIN;
        let rescale = if first || new == query.largest { 1.0 } else { (query.largest - new).exp() };
        let mut sums = V::mul(V::load(query.sums.as_ptr()), V::splat(rescale));
        for i in (0..end).step_by(V::LANES) {
            sums = V::add(sums, V::load(scores.as_ptr().add(i)));
        }
        V::store(query.sums.as_mut_ptr(), sums);
        query.largest = new;
        rescale
    }
}

/// How the values of a block are stored.
trait Values<V: Vector>: Copy {
    /// Vectors that come together.
    const TOGETHER: usize;
    /// A weight in all lanes.
    type Weight: Copy;
    /// Weight `j` of a query's.
    unsafe fn weight(weights: *const f32, j: usize) -> Self::Weight;
    /// Adds vectors `d..d + W` of position `j` times the weights of `Q` queries to their sums.
    unsafe fn add<const Q: usize, const W: usize>(
        self,
        j: usize,
        d: usize,
        weights: &[Self::Weight; Q],
        sums: &mut [[V::F; W]; Q],
    );
}

/// Values as [`widen`] lays them.
#[derive(Clone, Copy)]
struct Widened {
    rows: *const f32,
    padded: usize,
}

impl<V: Vector> Values<V> for Widened {
    const TOGETHER: usize = 1;
    type Weight = V::F;

    #[inline(always)]
    unsafe fn weight(weights: *const f32, j: usize) -> V::F {
        // SAFETY: the caller's promise.
        unsafe { V::splat(weights.add(j).read()) }
    }

    #[inline(always)]
    unsafe fn add<const Q: usize, const W: usize>(
        self,
        j: usize,
        d: usize,
        weights: &[V::F; Q],
        sums: &mut [[V::F; W]; Q],
    ) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut value = [V::splat(0.0); W];
            for w in 0..W {
                value[w] = V::load(self.rows.add(j * self.padded + d + w * V::LANES));
            }
            for q in 0..Q {
                for w in 0..W {
                    sums[q][w] = V::fma(weights[q], value[w], sums[q][w]);
                }
            }
        }
    }
}

/// Adds the values that all queries see, times their weights, to their outputs.
#[inline(always)]
unsafe fn weigh_all<V: Vector, X: Values<V>>(
    queries: &[Query],
    values: X,
    padded: usize,
    weights: *const [f32; BLOCK],
    outputs: *mut f32,
) {
    for (tile, queries) in queries.chunks(QUERIES).enumerate() {
        let i = tile * QUERIES;
        // SAFETY: the caller's promises.
        unsafe { weigh::<V, X>(queries, values, padded, weights.add(i), outputs.add(i * padded)) };
    }
}

/// The same for up to [`QUERIES`] queries: each in the order of positions.
#[inline(always)]
unsafe fn weigh<V: Vector, X: Values<V>>(
    queries: &[Query],
    values: X,
    padded: usize,
    weights: *const [f32; BLOCK],
    outputs: *mut f32,
) {
    let common = queries.iter().fold((0, BLOCK), |(from, to), query| (from.max(query.seen.0), to.min(query.seen.1)));
    let together = matches!(queries.len(), 2 | QUERIES) && common.0 < common.1;
    let common = if together { common } else { (BLOCK, BLOCK) };
    // Alone, together, alone again: each in one place, so that the code is there once.
    for part in 0..3 {
        // SAFETY: there are outputs and weights of as many queries, and values of what they see.
        unsafe {
            if part == 1 {
                match queries.len() {
                    2 => add::<V, X, 2>(values, padded, weights, common, outputs),
                    QUERIES => add::<V, X, QUERIES>(values, padded, weights, common, outputs),
                    _ => {}
                }
                continue;
            }
            for (q, query) in queries.iter().enumerate() {
                let (from, to) = query.seen;
                let alone = if part == 0 { (from, to.min(common.0)) } else { (from.max(common.1), to) };
                add::<V, X, 1>(values, padded, weights.add(q), alone, outputs.add(q * padded));
            }
        }
    }
}

/// Adds values `from..to` times the weights of `Q` queries to their outputs.
#[inline(always)]
unsafe fn add<V: Vector, X: Values<V>, const Q: usize>(
    values: X,
    padded: usize,
    weights: *const [f32; BLOCK],
    (from, to): (usize, usize),
    outputs: *mut f32,
) {
    if from >= to {
        return;
    }
    let mut d = 0;
    while d < padded {
        let left = (padded - d) / V::LANES;
        // SAFETY: values and outputs have `padded` elements, whole vectors of them.
        unsafe {
            d += V::LANES
                * match left {
                    // Eight sums in flight at least.
                    4.. if Q <= 2 || V::MANY => {
                        add_elements::<V, X, Q, 4>(values, padded, weights, (from, to), d, outputs)
                    }
                    2.. => add_elements::<V, X, Q, 2>(values, padded, weights, (from, to), d, outputs),
                    _ if X::TOGETHER > 1 => unreachable!("there are whole vectors"),
                    _ => add_elements::<V, X, Q, 1>(values, padded, weights, (from, to), d, outputs),
                };
        }
    }
}

/// As [`add`], for `W` vectors of elements, `d` the first of them; `W`.
#[inline(always)]
unsafe fn add_elements<V: Vector, X: Values<V>, const Q: usize, const W: usize>(
    values: X,
    padded: usize,
    weights: *const [f32; BLOCK],
    (from, to): (usize, usize),
    d: usize,
    outputs: *mut f32,
) -> usize {
    // SAFETY: the caller's promises.
    unsafe {
        let outputs = outputs.add(d);
        let mut sums = [[V::splat(0.0); W]; Q];
        for q in 0..Q {
            for w in 0..W {
                sums[q][w] = V::load(outputs.add(q * padded + w * V::LANES));
            }
        }
        for j in from..to {
            let mut here = [X::weight(weights.cast(), j); Q];
            for q in 1..Q {
                here[q] = X::weight(weights.add(q).cast(), j);
            }
            values.add::<Q, W>(j, d, &here, &mut sums);
        }
        for q in 0..Q {
            for w in 0..W {
                V::store(outputs.add(q * padded + w * V::LANES), sums[q][w]);
            }
        }
    }
    W
}

/// Widens `count` cached positions from `first` on to rows of `padded` floats, zeros at their ends.
#[inline(always)]
unsafe fn widen<V: Vector>(
    task: &Attention,
    cache: *const u8,
    kv_head: usize,
    first: u32,
    count: usize,
    block: *mut f32,
) {
    let dim = task.cache.layer.head_dim as usize;
    let padded = dim.next_multiple_of(V::LANES);
    for j in 0..count {
        // SAFETY: the position is cached; the block has row `j`.
        unsafe {
            let (row, to) = (ask::<V>(task, cache, kv_head, first + j as u32), block.add(j * padded));
            if task.cache.layer.dtype == DType::F32 {
                widen_row::<V, Single>(row, dim, to);
            } else {
                widen_row::<V, Half>(row, dim, to);
            }
        }
    }
}

/// One row: whole vectors, then what is left.
#[inline(always)]
unsafe fn widen_row<V: Vector, S: Stored>(row: *const u8, dim: usize, to: *mut f32) {
    let whole = dim - dim % V::LANES;
    // SAFETY: the caller's promises.
    unsafe {
        for d in (0..whole).step_by(V::LANES) {
            V::store(to.add(d), S::load::<V>(row.add(d * S::SIZE)));
        }
        if whole < dim {
            V::store(to.add(whole), load_stored::<V, S>(row.add(whole * S::SIZE), dim - whole));
        }
    }
}

/// Where the cache has a position of a head; the place [`AHEAD`] of it is asked for.
#[inline(always)]
unsafe fn ask<V: Vector>(task: &Attention, cache: *const u8, kv_head: usize, position: u32) -> *const u8 {
    let layer = &task.cache.layer;
    let bytes = layer.head_dim as usize * layer.dtype.size() as usize;
    // SAFETY: the cache has the position's row of the head. What is asked for may be anything.
    unsafe {
        let row = cache.add((kv_head * layer.positions as usize + layer.slot(position) as usize) * bytes);
        for line in (0..bytes).step_by(64) {
            V::prefetch(row.wrapping_add(line + AHEAD));
        }
        row
    }
}
