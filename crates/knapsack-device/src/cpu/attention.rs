//! Attention over the cache, with a streaming softmax.
//!
//! A unit is one kv head and up to [`ROWS`] of the queries that use it (heads of its group, token by token). Blocks of cached
//! positions are widened to float once for all of them; each query keeps its running maximum, sum and weighted values. Blocks
//! lie at fixed positions (the sinks, then every so many), so that a query's result does not depend on the others of its call.

use super::math::{exp, sigmoid, soft_cap};
use super::task::Attention;
use super::vector::{MAX_LANES, Vector, load_some, store_some};
use half::f16;
use knapsack_artifact::validate::MAX_HEAD_DIM;
use knapsack_tensor::DType;
use std::mem::MaybeUninit;

/// Queries of a unit.
pub(crate) const ROWS: usize = 8;
/// Most positions of a block.
const BLOCK: usize = 32;
/// Elements of a padded head.
const DIM: usize = MAX_HEAD_DIM as usize;
/// Floats of a block: fewer positions where heads are large.
const BLOCK_FLOATS: usize = 8192;

/// What a unit works with, on the stack.
struct Room {
    queries: [f32; ROWS * DIM],
    outputs: [f32; ROWS * DIM],
    block: [f32; BLOCK_FLOATS],
}

/// Units of a call.
pub(crate) fn units(task: &Attention) -> usize {
    let kv_heads = task.cache.layer.kv_heads as usize;
    kv_heads * (task.n * (task.heads / kv_heads)).div_ceil(ROWS)
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
    sum: f32,
}

/// Computes unit `unit`.
///
/// # Safety
/// The instruction set of `V` is available, the task's invariants hold and the unit exists.
#[inline(always)]
pub(crate) unsafe fn unit<V: Vector>(task: &Attention, unit: usize) {
    let layer = &task.cache.layer;
    let (dim, group) = (layer.head_dim as usize, task.heads / layer.kv_heads as usize);
    let per_head = (task.n * group).div_ceil(ROWS);
    let (kv_head, first) = (unit / per_head, unit % per_head * ROWS);
    let count = ROWS.min(task.n * group - first);
    let padded = dim.next_multiple_of(V::LANES);
    let mut queries = [Query::default(); ROWS];
    let mut room = MaybeUninit::<Room>::uninit();
    // SAFETY: `padded <= DIM`; a room is plain floats, and what is read was written before: queries and outputs of `count`
    // rows here, positions of a block by `widen`.
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
            *query = Query { at, start, position, largest: f32::MIN, sum: 0.0 };
            for d in (0..padded).step_by(V::LANES) {
                let q = load_some::<V>(task.query.add(at + d), dim - d);
                V::store(query_room.add(i * padded + d), V::mul(q, V::splat(task.scale)));
                V::store(output_room.add(i * padded + d), V::splat(0.0));
            }
        }
        let queries = &mut queries[..count];
        // Later queries start no earlier and end no earlier.
        let (start, end) = (queries[0].start, queries[count - 1].position + 1);
        span::<V>(task, kv_head, queries, 0..layer.sinks.min(end), room);
        let size = block_size::<V>(dim) as u32;
        let aligned = layer.sinks + start.saturating_sub(layer.sinks) / size * size;
        span::<V>(task, kv_head, queries, aligned..end, room);
        for (i, query) in queries.iter().enumerate() {
            let inverse = V::splat(1.0 / query.sum);
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

/// Positions of a block.
const fn block_size<V: Vector>(dim: usize) -> usize {
    let fit = BLOCK_FLOATS / dim.next_multiple_of(V::LANES);
    if fit < BLOCK { fit } else { BLOCK }
}

/// Lets the queries see positions `span`, where each may.
#[inline(always)]
unsafe fn span<V: Vector>(
    task: &Attention,
    kv_head: usize,
    queries: &mut [Query],
    span: std::ops::Range<u32>,
    room: *mut Room,
) {
    let dim = task.cache.layer.head_dim as usize;
    let padded = dim.next_multiple_of(V::LANES);
    let size = block_size::<V>(dim);
    let mut first = span.start;
    while first < span.end {
        let count = size.min((span.end - first) as usize);
        // SAFETY: `count` positions of `padded` floats fit the block; the positions are cached.
        unsafe {
            let block = (&raw mut (*room).block).cast::<f32>();
            let query_room = (&raw const (*room).queries).cast::<f32>();
            let output_room = (&raw mut (*room).outputs).cast::<f32>();
            let mut weights = [[0.0f32; BLOCK]; ROWS];
            let mut seen = [(0usize, 0usize); ROWS];
            widen::<V>(task, task.cache.keys, kv_head, first, count, block);
            for (i, query) in queries.iter_mut().enumerate() {
                seen[i] = visible(query, task.cache.layer.sinks, first, count);
                let rescale =
                    score::<V>(task, query, query_room.add(i * padded), block, seen[i], &mut weights[i], padded);
                if rescale != 1.0 {
                    for d in (0..padded).step_by(V::LANES) {
                        let o = output_room.add(i * padded + d);
                        V::store(o, V::mul(V::load(o), V::splat(rescale)));
                    }
                }
            }
            widen::<V>(task, task.cache.values, kv_head, first, count, block);
            for i in 0..queries.len() {
                for d in (0..padded).step_by(V::LANES) {
                    let o = output_room.add(i * padded + d);
                    let mut sum = V::load(o);
                    for j in seen[i].0..seen[i].1 {
                        sum = V::fma(V::splat(weights[i][j]), V::load(block.add(j * padded + d)), sum);
                    }
                    V::store(o, sum);
                }
            }
        }
        first += count as u32;
    }
}

/// Which of the block's positions `first..first + count` a query sees, as indices. They are consecutive, since a block lies
/// in the sinks or after them.
#[inline(always)]
fn visible(query: &Query, sinks: u32, first: u32, count: usize) -> (usize, usize) {
    let end = first + count as u32;
    let from = if first < sinks { first } else { first.max(query.start) };
    let to = end.min(query.position + 1);
    if from < to { ((from - first) as usize, (to - first) as usize) } else { (0, 0) }
}

/// Scores one query against the visible part of a block: leaves the weights, updates maximum and sum, and returns what the
/// earlier values must be multiplied with.
#[inline(always)]
unsafe fn score<V: Vector>(
    task: &Attention,
    query: &mut Query,
    q: *const f32,
    block: *const f32,
    (from, to): (usize, usize),
    weights: &mut [f32; BLOCK],
    padded: usize,
) -> f32 {
    if from == to {
        return 1.0;
    }
    // SAFETY: the query and each position have `padded` floats; weights have a multiple of every vector's lanes.
    unsafe {
        let mut lanes = [f32::MIN; BLOCK];
        for j in from..to {
            let mut dot = V::splat(0.0);
            for d in (0..padded).step_by(V::LANES) {
                dot = V::fma(V::load(q.add(d)), V::load(block.add(j * padded + d)), dot);
            }
            lanes[j] = V::sum(dot);
        }
        let mut largest = V::splat(f32::MIN);
        for i in (0..BLOCK).step_by(V::LANES) {
            if let Some(cap) = task.soft_cap {
                // Lanes that are not seen hold the lowest float and come out as -cap: they are reset below.
                let capped = soft_cap::<V>(V::load(lanes.as_ptr().add(i)), cap);
                V::store(lanes.as_mut_ptr().add(i), capped);
            }
        }
        lanes[..from].fill(f32::MIN);
        lanes[to..].fill(f32::MIN);
        for i in (0..BLOCK).step_by(V::LANES) {
            largest = V::max(largest, V::load(lanes.as_ptr().add(i)));
        }
        let new = V::largest(largest).max(query.largest);
        let mut sum = V::splat(0.0);
        for i in (0..BLOCK).step_by(V::LANES) {
            let w = exp::<V>(V::sub(V::load(lanes.as_ptr().add(i)), V::splat(new)));
            V::store(weights.as_mut_ptr().add(i), w);
        }
        weights[..from].fill(0.0);
        weights[to..].fill(0.0);
        for i in (0..BLOCK).step_by(V::LANES) {
            sum = V::add(sum, V::load(weights.as_ptr().add(i)));
        }
        // The first block of a query has nothing to rescale, and its sum is 0.
        let rescale = if query.sum == 0.0 { 1.0 } else { (query.largest - new).exp() };
        query.sum = query.sum * rescale + V::sum(sum);
        query.largest = new;
        rescale
    }
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
    let layer = &task.cache.layer;
    let dim = layer.head_dim as usize;
    let padded = dim.next_multiple_of(V::LANES);
    for j in 0..count {
        let slot = layer.slot(first + j as u32) as usize;
        let from = (kv_head * layer.positions as usize + slot) * dim;
        // SAFETY: the cache has row `slot` of the head, `dim` elements; the block has row `j`.
        unsafe {
            let to = block.add(j * padded);
            for d in (0..dim).step_by(V::LANES) {
                let x = if layer.dtype == DType::F32 {
                    load_some::<V>(cache.cast::<f32>().add(from + d), dim - d)
                } else if dim - d >= V::LANES {
                    V::load_f16(cache.add(2 * (from + d)))
                } else {
                    let mut lanes = [0.0f32; MAX_LANES];
                    for (i, lane) in lanes.iter_mut().enumerate().take(dim - d) {
                        let bits = cache.add(2 * (from + d + i)).cast::<u16>().read_unaligned();
                        *lane = f16::from_bits(bits).to_f32();
                    }
                    V::load(lanes.as_ptr())
                };
                V::store(to.add(d), x);
            }
        }
    }
}
