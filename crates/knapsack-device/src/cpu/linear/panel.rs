//! Many tokens times a quantized matrix.
//!
//! A panel is two vectors of columns (output features) by a block of K, unpacked once to a byte a code, column beside column,
//! and then met by all tokens: four bytes of a token's activations, broadcast, against four codes of each column. Each step ends
//! in a conversion and a multiplication by weight scale and activation scale.
//!
//! A token's sums do not depend on how many tokens there are: those of rows are kept apart for `GROUPS` successive steps and
//! added at the end, as [`super::rows`] does it in the lanes of a vector; those of columns have one part, as in
//! [`super::columns`].

use super::Format;
use super::codes::{MAX_QUADS, dot, quad_at, quads, rows_to_lanes, scales_of_rows, step_at, steps_per_group, unpack};
use super::finish::{finish, load_floats};
use crate::cpu::task::{Finish, Linear, Matrix};
use crate::cpu::vector::{MAX_GROUPS, MAX_LANES, Vector};

/// Vectors of columns.
const VECTORS: usize = 2;
/// Most columns.
const WIDTH: usize = VECTORS * MAX_LANES;
/// Steps of a block of K; whole groups and whole vectors of steps.
const DEPTH: usize = 16;
/// Tokens whose sums are kept while K is walked; even, so that both rows of a token's codes are among them.
const TOKENS: usize = 128;

/// What a unit works with, on the stack.
struct Panel {
    /// Unpacked codes: `[step][quad][column]`, four codes each.
    quads: [u32; DEPTH * MAX_QUADS * WIDTH],
    /// Weight scales: `[step][column]`.
    scales: [f32; DEPTH * WIDTH],
    /// Sums: `[token][part][column]`.
    sums: [f32; TOKENS * MAX_GROUPS * WIDTH],
}

/// Output columns of a unit, not gated and gated (a vector each of gate and up).
pub(crate) const fn unit_columns<V: Vector>() -> [usize; 2] {
    [VECTORS * V::LANES, V::LANES]
}

/// Computes output columns `unit * task.unit..` of all tokens; `T` tokens are in flight.
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold, its matrix is grouped, `unit` is [`unit_columns`]; unit
/// `unit` exists.
#[inline(always)]
pub(crate) unsafe fn unit<V: Vector, const T: usize>(task: &Linear, unit: usize) {
    // SAFETY: the caller's promises.
    unsafe { super::for_format(&task.matrix, Unit::<V, T> { task, unit, vector: std::marker::PhantomData }) }
}

struct Unit<'a, V, const T: usize> {
    task: &'a Linear,
    unit: usize,
    vector: std::marker::PhantomData<V>,
}

impl<V: Vector, const T: usize> Format for Unit<'_, V, T> {
    #[inline(always)]
    unsafe fn run<const BITS: u32>(self) {
        let Unit { task, unit, .. } = self;
        let Matrix::Grouped { grouping, by_rows, .. } = task.matrix else { return };
        let start = unit * task.unit;
        let gated = matches!(task.finish, Finish::Gated(_));
        // The first feature and the number of features of each vector.
        let second = if gated { task.columns + start } else { start + V::LANES };
        let left = task.columns - start;
        let counts =
            [left.min(V::LANES), if gated { left.min(V::LANES) } else { left.saturating_sub(V::LANES).min(V::LANES) }];
        let features = [(start, counts[0]), (second, counts[1])];
        let steps = grouping.steps(task.k as u64) as usize;
        let (width, parts) = (VECTORS * V::LANES, if by_rows { V::GROUPS } else { 1 });
        let mut room = std::mem::MaybeUninit::<Panel>::uninit();
        // SAFETY: a panel is plain numbers, every bit pattern is one; what is read was written before: `quads` and `scales` of
        // the block by `fill_rows` or `fill_columns`, `sums` of the tokens by the zeros below.
        unsafe {
            let panel = room.as_mut_ptr();
            let sums = (&raw mut (*panel).sums).cast::<f32>();
            for first in (0..task.n).step_by(TOKENS) {
                let tokens = TOKENS.min(task.n - first);
                std::ptr::write_bytes(sums, 0, tokens * parts * width);
                for step in (0..steps).step_by(DEPTH) {
                    let depth = DEPTH.min(steps - step);
                    for (v, (feature, count)) in features.into_iter().enumerate() {
                        let place = Place { vector: v, feature, count, step, depth };
                        if by_rows {
                            fill_rows::<V, BITS>(task, &place, panel);
                        } else {
                            fill_columns::<V, BITS>(task, &place, panel);
                        }
                    }
                    let mut t = 0;
                    while t < tokens {
                        let block = Block { task, token: first + t, step, depth, parts };
                        let to = sums.add(t * parts * width);
                        if tokens - t >= T {
                            multiply::<V, BITS, T>(&block, panel, to);
                            t += T;
                        } else {
                            multiply::<V, BITS, 1>(&block, panel, to);
                            t += 1;
                        }
                    }
                }
                for t in (0..tokens).step_by(task.digits) {
                    let row = sums.add(t * parts * width);
                    add_parts::<V>(row, parts);
                    if task.digits > 1 {
                        let rest = row.add(parts * width);
                        add_parts::<V>(rest, parts);
                        for v in (0..width).step_by(V::LANES) {
                            V::store(row.add(v), V::add(V::load(row.add(v)), V::load(rest.add(v))));
                        }
                    }
                    let count = if gated { counts[0] } else { counts[0] + counts[1] };
                    finish::<V>(task, (first + t) / task.digits, start, count, row, row.add(V::LANES));
                }
            }
        }
    }
}

/// Adds the parts of a token's sums to the first, in the order of [`Vector::fold`].
#[inline(always)]
unsafe fn add_parts<V: Vector>(row: *mut f32, parts: usize) {
    let width = VECTORS * V::LANES;
    // SAFETY: `parts` parts of `width` floats.
    unsafe {
        for v in (0..width).step_by(V::LANES) {
            let part = |index: usize| V::load(row.add(index * width + v));
            let sum = match parts {
                4 => V::add(V::add(part(0), part(2)), V::add(part(1), part(3))),
                2 => V::add(part(0), part(1)),
                _ => part(0),
            };
            V::store(row.add(v), sum);
        }
    }
}

/// A vector of columns of a block: features `feature..feature + count`, steps `step..step + depth`.
struct Place {
    vector: usize,
    feature: usize,
    count: usize,
    step: usize,
    depth: usize,
}

/// Unpacks from rows of codes. Columns beyond `count` repeat others.
#[inline(always)]
unsafe fn fill_rows<V: Vector, const BITS: u32>(task: &Linear, place: &Place, panel: *mut Panel) {
    let Matrix::Grouped { codes, scales, grouping, .. } = task.matrix else { return };
    let &Place { vector, feature, count, step, depth } = place;
    let (width, per_group) = (VECTORS * V::LANES, const { steps_per_group(BITS) });
    let steps = grouping.steps(task.k as u64) as usize;
    // SAFETY: features below `feature + count` (one at least, or there is nothing to do) and steps below `steps` exist; whole
    // blocks are read where they lie, the last from a padded copy; the panel has room for `DEPTH` steps, whole blocks.
    unsafe {
        if count == 0 {
            return;
        }
        let quad_data = (&raw mut (*panel).quads).cast::<u8>();
        let scale_data = (&raw mut (*panel).scales).cast::<u8>();
        for four in 0..V::GROUPS {
            let rows: [usize; 4] = std::array::from_fn(|r| feature + (4 * four + r).min(count - 1));
            let column = vector * V::LANES + 4 * four;
            for at in (0..depth).step_by(V::GROUPS) {
                let first = step + at;
                let mut words = rows.map(|row| codes.add((row * steps + first) * 16));
                let mut stored = rows.map(|row| scales.data.add(row * (steps / per_group) * 2));
                let (mut last, mut last_scales, mut scale_step) = ([[0u8; 64]; 4], [[0u8; 8]; 4], first);
                if depth - at < V::GROUPS {
                    for r in 0..4 {
                        std::ptr::copy_nonoverlapping(words[r], last[r].as_mut_ptr(), (depth - at) * 16);
                        let from = stored[r].add(2 * (first / per_group));
                        let count = steps / per_group - first / per_group;
                        std::ptr::copy_nonoverlapping(from, last_scales[r].as_mut_ptr(), 2 * count);
                        (words[r], stored[r]) = (last[r].as_ptr(), last_scales[r].as_ptr());
                    }
                    scale_step = first % per_group;
                }
                let quads_here = unpack::<V, BITS>(rows_to_lanes::<V>(words));
                for q in 0..const { quads(BITS) } {
                    let to = quad_data.add(((at * quads(BITS) + q) * width + column) * 4);
                    V::store_groups(to, quads(BITS) * width * 4, quads_here[q]);
                }
                let scale = V::as_int(scales_of_rows::<V>(scales.dtype, stored, scale_step, per_group));
                V::store_groups(scale_data.add((at * width + column) * 4), width * 4, scale);
            }
        }
    }
}

/// Unpacks from columns of codes. Columns beyond `count` are zero.
#[inline(always)]
unsafe fn fill_columns<V: Vector, const BITS: u32>(task: &Linear, place: &Place, panel: *mut Panel) {
    let Matrix::Grouped { codes, scales, .. } = task.matrix else { return };
    let &Place { vector, feature, count, step, depth } = place;
    let width = VECTORS * V::LANES;
    // SAFETY: features below `feature + count` and steps below `step + depth` exist; the panel has room for `DEPTH` steps.
    unsafe {
        let quad_data = (&raw mut (*panel).quads).cast::<u8>();
        let scale_data = (&raw mut (*panel).scales).cast::<f32>();
        for at in 0..depth {
            let mut rows: [*const u8; 4] =
                std::array::from_fn(|w| codes.add((((step + at) * 4 + w) * task.features + feature) * 4));
            let group = (step + at) / const { steps_per_group(BITS) };
            let mut last = [[0u8; 4 * MAX_LANES]; 4];
            if count < V::LANES {
                for w in 0..4 {
                    std::ptr::copy_nonoverlapping(rows[w], last[w].as_mut_ptr(), count * 4);
                    rows[w] = last[w].as_ptr();
                }
            }
            let words = [V::iload(rows[0]), V::iload(rows[1]), V::iload(rows[2]), V::iload(rows[3])];
            let quads_here = unpack::<V, BITS>(words);
            for q in 0..const { quads(BITS) } {
                let to = quad_data.add(((at * quads(BITS) + q) * width + vector * V::LANES) * 4);
                V::istore(to, quads_here[q]);
            }
            let scale = load_floats::<V>(scales, group * task.features + feature, count);
            V::store(scale_data.add(at * width + vector * V::LANES), scale);
        }
    }
}

/// A block of K and the tokens that meet it.
struct Block<'a> {
    task: &'a Linear,
    token: usize,
    step: usize,
    depth: usize,
    parts: usize,
}

/// Adds the products of a block with `T` tokens to their sums.
#[inline(always)]
unsafe fn multiply<V: Vector, const BITS: u32, const T: usize>(block: &Block<'_>, panel: *const Panel, sums: *mut f32) {
    let width = VECTORS * V::LANES;
    let (acts, parts) = (&block.task.acts, block.parts);
    // SAFETY: the tokens exist, their activations have the block's steps; the panel holds its quads and scales.
    unsafe {
        let quad_data = (&raw const (*panel).quads).cast::<u8>();
        let scale_data = (&raw const (*panel).scales).cast::<f32>();
        let codes: [*const u8; T] =
            std::array::from_fn(|t| acts.codes(block.token + t).add(step_at::<V>(BITS, block.step)).cast_const());
        for part in 0..parts.min(block.depth) {
            let sums = sums.add(part * width);
            let mut total = [[V::splat(0.0); VECTORS]; T];
            for t in 0..T {
                for v in 0..VECTORS {
                    total[t][v] = V::load(sums.add(t * parts * width + v * V::LANES));
                }
            }
            for at in (part..block.depth).step_by(parts) {
                let mut dots = [[V::isplat(0); VECTORS]; T];
                for (t, dots) in dots.iter_mut().enumerate() {
                    *dots = [V::isplat(acts.corrections(block.token + t).add(block.step + at).read()); VECTORS];
                }
                let (from, step) = (quad_data.add(at * quads(BITS) * width * 4), step_at::<V>(BITS, at));
                for q in 0..const { quads(BITS) } {
                    let weights = [V::iload(from.add(q * width * 4)), V::iload(from.add(q * width * 4 + V::BYTES))];
                    for t in 0..T {
                        let act = V::quad(codes[t].add(step + quad_at(q, V::BYTES)));
                        for v in 0..VECTORS {
                            dots[t][v] = dot::<V, BITS>(dots[t][v], weights[v], act);
                        }
                    }
                }
                for v in 0..VECTORS {
                    let scale = V::load(scale_data.add(at * width + v * V::LANES));
                    for t in 0..T {
                        let act_scale = V::splat(acts.scales(block.token + t).add(block.step + at).read());
                        total[t][v] = V::fma(V::to_float(dots[t][v]), V::mul(scale, act_scale), total[t][v]);
                    }
                }
            }
            for t in 0..T {
                for v in 0..VECTORS {
                    V::store(sums.add(t * parts * width + v * V::LANES), total[t][v]);
                }
            }
        }
    }
}
