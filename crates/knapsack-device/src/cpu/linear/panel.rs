//! Many tokens times a quantized matrix.
//!
//! A panel is two vectors of columns (output features) by a block of K, unpacked once to a byte a code, column beside column,
//! and then met by all tokens: four bytes of a token's activations, broadcast, against four codes of each column. Each step ends
//! in a conversion and a multiplication by weight scale and activation scale. While tokens are multiplied, what the next block
//! will be unpacked from is asked for: it lies in as many places as there are columns or words.
//!
//! A token's sums do not depend on how many tokens there are: those of rows are kept apart for `GROUPS` successive steps and
//! added at the end, as [`super::rows`] does it in the lanes of a vector; those of columns have one part, as in
//! [`super::columns`].

use super::Format;
use super::codes::{MAX_QUADS, dot, quad_at, quads, scales_of_rows, step_at, steps_per_group, unpack};
use super::finish::{Part, add_row, load_floats};
use crate::cpu::task::{Finish, Linear, Matrix};
use crate::cpu::vector::{MAX_GROUPS, MAX_LANES, Vector};

/// Vectors of columns.
const VECTORS: usize = 2;
/// Most columns.
const WIDTH: usize = VECTORS * MAX_LANES;
/// Steps of a block of K; whole groups and whole vectors of steps.
const DEPTH: usize = 16;
/// Tokens whose sums are kept while K is walked; even, so that both rows of a token's codes are among them.
const TOKENS: usize = 512;

/// What a unit works with, on the stack.
struct Panel {
    /// Unpacked codes: `[step][quad][column]`, four codes each.
    quads: [u32; DEPTH * MAX_QUADS * WIDTH],
    /// Weight scales: `[step][column]`.
    scales: [f32; DEPTH * WIDTH],
    /// Sums: `[token][part][column]`.
    sums: [f32; TOKENS * MAX_GROUPS * WIDTH],
}

/// Output columns of a panel, not gated and gated (a vector each of gate and up).
pub(crate) const fn unit_columns<V: Vector>() -> [usize; 2] {
    [VECTORS * V::LANES, V::LANES]
}

/// Computes output columns `unit * task.unit..` of all tokens; `T` tokens are in flight.
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold, its matrix is grouped, `unit` is a multiple of
/// [`unit_columns`]; unit `unit` exists.
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
        let columns = unit_columns::<V>()[usize::from(matches!(task.finish, Finish::Gated(_)))];
        let start = unit * task.unit;
        let mut room = std::mem::MaybeUninit::<Panel>::uninit();
        for start in (start..task.columns.min(start + task.unit)).step_by(columns) {
            // SAFETY: a panel is plain numbers, every bit pattern is one; what is read was written before: `quads` and `scales`
            // of a block when it is filled, `sums` of the tokens by the zeros below.
            unsafe {
                let panel = room.as_mut_ptr();
                let sums = (&raw mut (*panel).sums).cast::<f32>();
                for first in (0..task.n).step_by(TOKENS) {
                    let tokens = TOKENS.min(task.n - first);
                    products::<V, BITS, T>(task, start, first, tokens, panel);
                    let parts = parts::<V>(task);
                    let width = VECTORS * V::LANES;
                    for t in (0..tokens).step_by(task.digits) {
                        let row = sums.add(t * parts * width);
                        add_parts::<V>(row, parts);
                        if task.digits > 1 {
                            let rest = row.add(parts * width);
                            add_parts::<V>(rest, parts);
                            add_row::<V>(row, rest, width);
                        }
                        let count = columns.min(task.columns - start);
                        let (t, up) = ((first + t) / task.digits, row.add(V::LANES));
                        V::finish(task, Part { t, column: start, count, raw: row, up });
                    }
                }
            }
        }
    }
}

/// Parts that the sums of a column are kept in.
fn parts<V: Vector>(task: &Linear) -> usize {
    if let Matrix::Grouped { by_rows: true, .. } = task.matrix { V::GROUPS } else { 1 }
}

/// The vectors of a block of the panel of output columns `start..`, from step `step` on.
fn places<V: Vector>(task: &Linear, start: usize, step: usize) -> [Place; VECTORS] {
    let Matrix::Grouped { grouping, .. } = task.matrix else { unreachable!("a panel is of a grouped matrix") };
    let depth = DEPTH.min(grouping.steps(task.k as u64) as usize - step);
    let gated = matches!(task.finish, Finish::Gated(_));
    let left = task.columns - start;
    let place = |vector, feature, left: usize| Place { vector, feature, count: left.min(V::LANES), step, depth };
    match gated {
        true => [place(0, start, left), place(1, task.columns + start, left)],
        false => [place(0, start, left), place(1, start + V::LANES, left.saturating_sub(V::LANES))],
    }
}

/// Products of the panel of output columns `start..` with tokens `first..first + tokens`, to the sums.
#[inline(always)]
unsafe fn products<V: Vector, const BITS: u32, const T: usize>(
    task: &Linear,
    start: usize,
    first: usize,
    tokens: usize,
    panel: *mut Panel,
) {
    let Matrix::Grouped { grouping, by_rows, .. } = task.matrix else { return };
    let steps = grouping.steps(task.k as u64) as usize;
    let (width, parts) = (VECTORS * V::LANES, parts::<V>(task));
    // SAFETY: the caller's promises; `places` names features and steps that exist.
    unsafe {
        let sums = (&raw mut (*panel).sums).cast::<f32>();
        std::ptr::write_bytes(sums, 0, tokens * parts * width);
        for step in (0..steps).step_by(DEPTH) {
            let here = places::<V>(task, start, step);
            for place in &here {
                match by_rows {
                    true => fill_rows::<V, BITS>(task, place, panel),
                    false => fill_columns::<V, BITS>(task, place, panel),
                }
            }
            let after = (step + DEPTH < steps).then(|| places::<V>(task, start, step + DEPTH));
            let tiles = tokens / T + tokens % T;
            for tile in 0..tiles {
                if let Some(after) = &after {
                    for place in after {
                        ask::<V, BITS>(task, place, tile, tiles);
                    }
                }
                let t = if tile < tokens / T { tile * T } else { tokens - tiles + tile };
                let block = Block { task, token: first + t, step, depth: here[0].depth, parts };
                let to = sums.add(t * parts * width);
                match tile < tokens / T {
                    true => multiply::<V, BITS, T>(&block, panel, to),
                    false => multiply::<V, BITS, 1>(&block, panel, to),
                }
            }
        }
    }
}

/// Asks for part `part` of `parts` of what a place will be filled from.
#[inline(always)]
unsafe fn ask<V: Vector, const BITS: u32>(task: &Linear, place: &Place, part: usize, parts: usize) {
    let Matrix::Grouped { codes, scales, grouping, by_rows } = task.matrix else { return };
    let &Place { feature, count, step, depth, .. } = place;
    let per_group = steps_per_group::<BITS>();
    let steps = grouping.steps(task.k as u64) as usize;
    // Rows of codes with what is wanted of each, then rows of scales; a row of one layout is not one of the other.
    let (rows, code_bytes, scale_rows, scale_bytes) = match by_rows {
        true => (count, depth * 16, count, depth.div_ceil(per_group) * 2),
        false => (4 * depth, 4 * count, depth.div_ceil(per_group), 2 * count),
    };
    for row in (part..rows).step_by(parts) {
        let at = if by_rows {
            ((feature + row) * steps + step) * 16
        } else {
            ((4 * step + row) * task.features + feature) * 4
        };
        // SAFETY: the caller's promise.
        unsafe { ask_bytes::<V>(codes.wrapping_add(at), code_bytes) };
    }
    for row in (part..scale_rows).step_by(parts) {
        let at = match by_rows {
            true => (feature + row) * (steps / per_group) + step / per_group,
            false => (step / per_group + row) * task.features + feature,
        };
        // SAFETY: the caller's promise.
        unsafe { ask_bytes::<V>(scales.data.wrapping_add(2 * at), scale_bytes) };
    }
}

/// Asks for the cache lines of `bytes` bytes at `start`, which may be anything.
#[inline(always)]
unsafe fn ask_bytes<V: Vector>(start: *const u8, bytes: usize) {
    // SAFETY: the instruction set is available; an address may be any.
    unsafe {
        for at in (0..bytes).step_by(64) {
            V::prefetch(start.wrapping_add(at));
        }
        V::prefetch(start.wrapping_add(bytes.saturating_sub(1)));
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
    let (width, per_group) = (VECTORS * V::LANES, steps_per_group::<BITS>());
    let steps = grouping.steps(task.k as u64) as usize;
    // SAFETY: features below `feature + count` (one at least, or there is nothing to do) and steps below `steps` exist; whole
    // blocks are read where they lie, the last from a padded copy; the panel has room for `DEPTH` steps, whole blocks.
    unsafe {
        if count == 0 {
            return;
        }
        let quad_data = (&raw mut (*panel).quads).cast::<u8>();
        let scale_data = (&raw mut (*panel).scales).cast::<u8>();
        // Row `4 g + r` in group `g` of lanes of load `r`.
        let mut rows = [[codes; 4]; 4];
        for r in 0..4 {
            for g in 0..4 {
                rows[r][g] = codes.add(((feature + (4 * (g % V::GROUPS) + r).min(count - 1)) * steps + step) * 16);
            }
        }
        for at in 0..depth {
            let mut four = [V::isplat(0); 4];
            for r in 0..4 {
                let at = 16 * at;
                let [a, b, c, d] = rows[r];
                four[r] = V::iload_groups([a.add(at), b.add(at), c.add(at), d.add(at)]);
            }
            // Transposed, a word of each column.
            let quads_here = unpack::<V, BITS>(V::transpose(four));
            store_quads::<V, BITS>(quad_data, at, vector, &quads_here);
        }
        for four in 0..V::GROUPS {
            let mut rows = [scales.data; 4];
            for r in 0..4 {
                rows[r] = scales.data.add((feature + (4 * four + r).min(count - 1)) * (steps / per_group) * 2);
            }
            let column = vector * V::LANES + 4 * four;
            for at in (0..depth).step_by(V::GROUPS) {
                let mut stored = rows;
                let (mut last, mut scale_step) = ([[0u8; 8]; 4], step + at);
                if depth - at < V::GROUPS {
                    for r in 0..4 {
                        let first = scale_step / per_group;
                        let from = stored[r].add(2 * first);
                        std::ptr::copy_nonoverlapping(from, last[r].as_mut_ptr(), 2 * (steps / per_group - first));
                        stored[r] = last[r].as_ptr();
                    }
                    scale_step %= per_group;
                }
                let scale = V::as_int(scales_of_rows::<V>(scales.dtype, stored, scale_step, per_group));
                V::store_groups(scale_data.add((at * width + column) * 4), width * 4, scale);
            }
        }
    }
}

/// Stores the quads of a step of a vector of columns: one by one, or in pairs for products of matrices, of which each takes two
/// quads of half of the columns.
#[inline(always)]
unsafe fn store_quads<V: Vector, const BITS: u32>(
    data: *mut u8,
    at: usize,
    vector: usize,
    quads_here: &[V::I; MAX_QUADS],
) {
    let to = (at * quads::<BITS>() * VECTORS + vector) * V::BYTES;
    // SAFETY: the panel has room for the step.
    unsafe {
        for q in (0..quads::<BITS>()).step_by(2) {
            let mut pair = [quads_here[q], quads_here[q + 1]];
            if V::MATRIX {
                pair = V::zip(pair[0], pair[1]);
            }
            for i in 0..2 {
                V::istore(data.add(to + (q + i) * VECTORS * V::BYTES), pair[i]);
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
            let group = (step + at) / steps_per_group::<BITS>();
            let mut last = [[0u8; 4 * MAX_LANES]; 4];
            if count < V::LANES {
                for w in 0..4 {
                    std::ptr::copy_nonoverlapping(rows[w], last[w].as_mut_ptr(), count * 4);
                    rows[w] = last[w].as_ptr();
                }
            }
            let words = [V::iload(rows[0]), V::iload(rows[1]), V::iload(rows[2]), V::iload(rows[3])];
            let quads_here = unpack::<V, BITS>(words);
            store_quads::<V, BITS>(quad_data, at, vector, &quads_here);
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
            std::array::from_fn(|t| acts.codes(block.token + t).add(step_at::<V, BITS>(block.step)).cast_const());
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
                for t in 0..T {
                    dots[t] = [V::isplat(acts.corrections(block.token + t).add(block.step + at).read()); VECTORS];
                }
                let (from, step) = (quad_data.add(at * quads::<BITS>() * width * 4), step_at::<V, BITS>(at));
                match V::MATRIX {
                    true => matrix_dots::<V, BITS, T>(from, &codes, step, &mut dots),
                    false => quad_dots::<V, BITS, T>(from, &codes, step, &mut dots),
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

/// Adds the dot products of a step, whose quads are at `from`, with that of each token at `step` of its codes.
#[inline(always)]
unsafe fn quad_dots<V: Vector, const BITS: u32, const T: usize>(
    from: *const u8,
    codes: &[*const u8; T],
    step: usize,
    dots: &mut [[V::I; VECTORS]; T],
) {
    // SAFETY: the caller's promises.
    unsafe {
        for q in 0..quads::<BITS>() {
            let at = from.add(q * VECTORS * V::BYTES);
            let weights = [V::iload(at), V::iload(at.add(V::BYTES))];
            for t in 0..T {
                let act = V::quad(codes[t].add(step + quad_at(q, V::BYTES)));
                for v in 0..VECTORS {
                    dots[t][v] = dot::<V, BITS>(dots[t][v], weights[v], act);
                }
            }
        }
    }
}

/// As [`quad_dots`], by products of matrices: two tokens at once, one of them twice where there is no other.
#[inline(always)]
unsafe fn matrix_dots<V: Vector, const BITS: u32, const T: usize>(
    from: *const u8,
    codes: &[*const u8; T],
    step: usize,
    dots: &mut [[V::I; VECTORS]; T],
) {
    // SAFETY: the caller's promises; quads of an even and the next number lie side by side in the activations.
    unsafe {
        let mut sums = [[[V::isplat(0); 2]; VECTORS]; T];
        for q in (0..quads::<BITS>()).step_by(2) {
            let mut weights = [[V::isplat(0); 2]; VECTORS];
            for v in 0..VECTORS {
                for half in 0..2 {
                    weights[v][half] = V::iload(from.add(((q + half) * VECTORS + v) * V::BYTES));
                }
            }
            for t in (0..T).step_by(2) {
                let at = step + quad_at(q, V::BYTES);
                let acts = V::octets(codes[t].add(at), codes[(t + 1).min(T - 1)].add(at));
                for v in 0..VECTORS {
                    for half in 0..2 {
                        sums[t][v][half] = V::matrix(sums[t][v][half], weights[v][half], acts);
                    }
                }
            }
        }
        for t in (0..T).step_by(2) {
            for v in 0..VECTORS {
                let [first, second] = V::unzip(sums[t][v][0], sums[t][v][1]);
                dots[t][v] = V::iadd(dots[t][v], first);
                if t + 1 < T {
                    dots[t + 1][v] = V::iadd(dots[t + 1][v], second);
                }
            }
        }
    }
}
