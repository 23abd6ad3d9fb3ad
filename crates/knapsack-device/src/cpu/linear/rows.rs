//! A few tokens times quantized rows (NK layout): the routine that decoding spends its time in.
//!
//! Four rows are worked on at once, or twice four, each a run of consecutive rows of its own, so that memory sees long streams. A
//! load from each of four, transposed within groups of four lanes, puts a step of the four rows side by side in every group;
//! unpacked once, it meets all tokens. The dot products of a step end in one lane for each row, exact in integers: they start at
//! `-max_int * sum(acts)`, which takes the offset of the codes away. A lane adds its products up in the order of the steps, and
//! [`Vector::fold`] adds the lanes of a row at the end; [`super::panel`] keeps to the same order, so that a token's result does
//! not depend on its company.

use super::Format;
use super::codes::{
    MAX_QUADS, act_planes, dot, fours, has_planes, join_pairs, plane_dots, planes, quads, rows_to_lanes,
    scales_of_rows, steps_per_group, unpack_pairs,
};
use super::finish::Part;
use crate::cpu::task::{Finish, Linear, Matrix};
use crate::cpu::vector::Vector;
use knapsack_tensor::DType;

/// Bytes that are asked for ahead of each stream.
const AHEAD: u32 = 2048;
/// Most weight rows of a unit.
pub(super) const MAX_UNIT: usize = 128;
/// Tokens that an unpacked step meets.
const TOKENS: usize = 4;
/// Most tokens: rows are walked again, from the first-level cache, for those beyond [`TOKENS`].
pub(super) const MAX_TOKENS: usize = 2 * TOKENS;

/// Products of the tokens.
type Products = [[f32; MAX_UNIT]; MAX_TOKENS];

/// Computes output columns `unit * task.unit..` of all tokens.
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold, its matrix is grouped and by rows, `n` is at most
/// [`MAX_TOKENS`],
/// `unit` at most [`MAX_UNIT`] (half of it when gated); unit `unit` exists.
#[inline(always)]
pub(crate) unsafe fn unit<V: Vector>(task: &Linear, unit: usize) {
    // SAFETY: the caller's promises.
    unsafe { super::for_format(&task.matrix, Unit { task, unit, vector: std::marker::PhantomData::<V> }) }
}

struct Unit<'a, V> {
    task: &'a Linear,
    unit: usize,
    vector: std::marker::PhantomData<V>,
}

impl<V: Vector> Format for Unit<'_, V> {
    #[inline(always)]
    unsafe fn run<const BITS: u32>(self) {
        let (task, start) = (self.task, self.unit * self.task.unit);
        let count = task.unit.min(task.columns - start);
        let halves = 1 + usize::from(matches!(task.finish, Finish::Gated(_)));
        let mut products = std::mem::MaybeUninit::<Products>::uninit();
        let products = products.as_mut_ptr().cast::<[f32; MAX_UNIT]>();
        // SAFETY: rows `start..start + count` exist, and `columns + start..` too when gated; the products have room, and those of
        // all tokens are written before they are read.
        unsafe {
            // Called in one place, so that the code is there once.
            for half in 0..halves {
                range::<V, BITS>(task, half * task.columns + start, count, half * count, products);
            }
            for t in (0..task.n).step_by(task.digits) {
                let row = products.add(t).cast::<f32>();
                if task.digits > 1 {
                    for i in 0..halves * count {
                        row.add(i).write(row.add(i).read() + row.add(MAX_UNIT + i).read());
                    }
                }
                let row = row.cast_const();
                let up = row.add((halves - 1) * count);
                V::finish(task, Part { t: t / task.digits, column: start, count, raw: row, up });
            }
        }
    }
}

/// Products of weight rows `first..first + count`, to elements `to..` of their rows.
#[inline(always)]
unsafe fn range<V: Vector, const BITS: u32>(
    task: &Linear,
    first: usize,
    count: usize,
    to: usize,
    products: *mut [f32; MAX_UNIT],
) {
    // SAFETY: the caller's promises.
    unsafe {
        match (task.n, V::MANY) {
            (1, true) => runs::<V, BITS, 1, 2>(task, first, count, to, products),
            (1, false) => runs::<V, BITS, 1, 1>(task, first, count, to, products),
            (2, true) => runs::<V, BITS, 2, 2>(task, first, count, to, products),
            (2, false) => runs::<V, BITS, 2, 1>(task, first, count, to, products),
            _ => runs::<V, BITS, TOKENS, 1>(task, first, count, to, products),
        }
    }
}

/// As [`range`], `T` tokens and `F` fours of rows at once.
#[inline(always)]
unsafe fn runs<V: Vector, const BITS: u32, const T: usize, const F: usize>(
    task: &Linear,
    first: usize,
    count: usize,
    to: usize,
    products: *mut [f32; MAX_UNIT],
) {
    let run = count.div_ceil(4 * F);
    for i in 0..run {
        // Where the runs are not equally long, or there are fewer rows than runs, a row is computed more than once.
        let row = |f: usize, r: usize| ((4 * f + r) * run + i).min(count - 1);
        let mut rows = [[0; 4]; F];
        for f in 0..F {
            for r in 0..4 {
                rows[f][r] = first + row(f, r);
            }
        }
        for first in (0..task.n).step_by(T) {
            // SAFETY: rows below `first + count` and tokens from `first` on exist; products have room for `to + count` of each.
            unsafe {
                some_fours::<V, BITS, T, F>(task, &rows, first, &mut |t, f, r, sum| {
                    products.add(t).cast::<f32>().add(to + row(f, r)).write(sum);
                });
            }
        }
    }
}

/// Products of `F` times four rows with tokens `first..`, at most `T` of them.
#[inline(always)]
unsafe fn some_fours<V: Vector, const BITS: u32, const T: usize, const F: usize>(
    task: &Linear,
    rows: &[[usize; 4]; F],
    first: usize,
    out: &mut impl FnMut(usize, usize, usize, f32),
) {
    let Matrix::Grouped { codes, scales, grouping, .. } = task.matrix else { return };
    let per_group = steps_per_group::<BITS>();
    let steps = grouping.steps(task.k as u64) as usize;
    let (blocks, rest) = (steps / V::GROUPS, steps % V::GROUPS);
    // SAFETY: a row has `steps` steps of 16 bytes and `steps / per_group` scales; whole blocks are read where they lie, the rest
    // from a padded copy. The activations are padded to whole blocks.
    unsafe {
        let mut acc = [[V::splat(0.0); F]; T];
        // Where the codes and the scales of each row are; by loops, since calls of the array's own methods are left in.
        let (mut at, mut row_scales) = ([[codes; 4]; F], [[scales.data; 4]; F]);
        for f in 0..F {
            for r in 0..4 {
                at[f][r] = codes.add(rows[f][r] * steps * 16);
                row_scales[f][r] = scales.data.add(rows[f][r] * (steps / per_group) * 2);
            }
        }
        // A line of the cache at once.
        let whole = blocks - blocks % V::PER_LINE;
        if const { has_lines::<V, BITS, T>() } {
            match scales.dtype {
                DType::F16 => lines::<V, F>(task, first, whole, &mut at, row_scales, V::f16_of_four, &mut acc[0]),
                _ => lines::<V, F>(task, first, whole, &mut at, row_scales, V::bf16_of_four, &mut acc[0]),
            }
        } else {
            for b in (0..whole).step_by(V::PER_LINE) {
                ask_ahead::<V, F>(&at);
                for u in 0..V::PER_LINE {
                    let scale =
                        |f: usize| scales_of_rows::<V>(scales.dtype, row_scales[f], (b + u) * V::GROUPS, per_group);
                    block::<V, BITS, T, F>(task, first, b + u, &at, scale, &mut acc);
                    advance::<V, F>(&mut at);
                }
            }
        }
        for b in whole..blocks {
            let scale = |f: usize| scales_of_rows::<V>(scales.dtype, row_scales[f], b * V::GROUPS, per_group);
            block::<V, BITS, T, F>(task, first, b, &at, scale, &mut acc);
            advance::<V, F>(&mut at);
        }
        if rest > 0 {
            let (mut last, mut last_scales) = ([[[0u8; 64]; 4]; F], [[[0u8; 8]; 4]; F]);
            for f in 0..F {
                for r in 0..4 {
                    std::ptr::copy_nonoverlapping(at[f][r], last[f][r].as_mut_ptr(), rest * 16);
                    let group = blocks * V::GROUPS / per_group;
                    let from = row_scales[f][r].add(2 * group);
                    let to = last_scales[f][r].as_mut_ptr();
                    std::ptr::copy_nonoverlapping(from, to, 2 * (steps / per_group - group));
                    (at[f][r], row_scales[f][r]) = (last[f][r].as_ptr(), last_scales[f][r].as_ptr());
                }
            }
            let scale =
                |f: usize| scales_of_rows::<V>(scales.dtype, row_scales[f], blocks * V::GROUPS % per_group, per_group);
            block::<V, BITS, T, F>(task, first, blocks, &at, scale, &mut acc);
        }
        for t in 0..T.min(task.n - first) {
            for f in 0..F {
                let sums = V::fold(acc[t][f]);
                for r in 0..4 {
                    out(first + t, f, r, sums[r]);
                }
            }
        }
    }
}

/// Whether there is [`lines`] for it: where a vector has but one step, what is no product takes as long as the products.
const fn has_lines<V: Vector, const BITS: u32, const T: usize>() -> bool {
    has_planes::<V>(BITS) && V::GROUPS == 1 && BITS == 4 && T == 1
}

/// A block further in each row.
#[inline(always)]
unsafe fn advance<V: Vector, const F: usize>(at: &mut [[*const u8; 4]; F]) {
    for f in 0..F {
        for r in 0..4 {
            at[f][r] = at[f][r].wrapping_add(V::BYTES);
        }
    }
}

/// Asks for what follows in each row.
#[inline(always)]
unsafe fn ask_ahead<V: Vector, const F: usize>(at: &[[*const u8; 4]; F]) {
    for f in 0..F {
        for r in 0..4 {
            // SAFETY: the instruction set is available; a hint, of any address.
            unsafe { V::prefetch_ahead::<AHEAD>(at[f][r]) };
        }
    }
}

/// The first `steps` steps, whole lines of four, against token `token`: as [`block`] does it, with the scales of a line loaded at
/// once.
#[inline(always)]
unsafe fn lines<V: Vector, const F: usize>(
    task: &Linear,
    token: usize,
    steps: usize,
    at: &mut [[*const u8; 4]; F],
    mut scales: [[*const u8; 4]; F],
    of_four: unsafe fn(&mut [*const u8; 4]) -> [V::F; 4],
    acc: &mut [V::F; F],
) {
    // SAFETY: rows and activations have the steps.
    unsafe {
        let mut acts = task.acts.codes(token).cast_const();
        let mut act_scales = task.acts.scales(token).cast_const();
        let mut corrections = task.acts.corrections(token).cast_const();
        for _ in 0..steps / 4 {
            ask_ahead::<V, F>(at);
            let act_scale = V::quads(V::as_int(V::load(act_scales)));
            let mut scale = [[V::splat(0.0); 4]; F];
            for f in 0..F {
                scale[f] = of_four(&mut scales[f]);
                for s in 0..4 {
                    scale[f][s] = V::mul(scale[f][s], V::as_float(act_scale[s]));
                }
            }
            // Written out, or what was loaded would go through memory.
            two_steps::<V, F>(acts, corrections, at, |f| [scale[f][0], scale[f][1]], acc);
            two_steps::<V, F>(acts.add(4 * V::BYTES), corrections.add(2), at, |f| [scale[f][2], scale[f][3]], acc);
            acts = acts.add(8 * V::BYTES);
            act_scales = act_scales.add(4);
            corrections = corrections.add(4);
        }
    }
}

/// Two steps of [`lines`].
#[inline(always)]
unsafe fn two_steps<V: Vector, const F: usize>(
    acts: *const u8,
    corrections: *const i32,
    at: &mut [[*const u8; 4]; F],
    scales: impl Fn(usize) -> [V::F; 2],
    acc: &mut [V::F; F],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let acts = [act_planes::<V, 4>(acts), act_planes::<V, 4>(acts.add(2 * V::BYTES))];
        // The sums start at the correction, in one lane of each row.
        let start = [V::ifirst(corrections), V::ifirst(corrections.add(1))];
        for f in 0..F {
            let mut words = [[V::isplat(0); 2]; 4];
            for r in 0..4 {
                words[r] = V::iload_two(&mut at[f][r]);
            }
            for s in 0..2 {
                let mut rows = [start[s]; 4];
                for r in 0..4 {
                    rows[r] = plane_dots::<V, 4>(start[s], planes::<V, 4>(words[r][s]), acts[s]);
                }
                acc[f] = V::fma(V::to_float(V::sums(rows)), scales(f)[s], acc[f]);
            }
        }
    }
}

/// Block `b`, `GROUPS` steps, whose codes of row `r` of four `f` lie at `at[f][r]` and whose scales of that four are `scales(f)`,
/// against the activations of tokens `first..`.
#[inline(always)]
unsafe fn block<V: Vector, const BITS: u32, const T: usize, const F: usize>(
    task: &Linear,
    first: usize,
    b: usize,
    at: &[[*const u8; 4]; F],
    scales: impl Fn(usize) -> V::F,
    acc: &mut [[V::F; F]; T],
) {
    // SAFETY: the codes of the block are readable; the activations of the tokens have it.
    unsafe {
        // The quads of four rows in their lanes, or the planes of each of the four.
        let mut unpacked = [[V::isplat(0); MAX_QUADS]; F];
        let mut weight_scales = [V::splat(0.0); F];
        for f in 0..F {
            if const { has_planes::<V>(BITS) } {
                for r in 0..4 {
                    [unpacked[f][2 * r], unpacked[f][2 * r + 1]] = planes::<V, BITS>(V::iload(at[f][r]));
                }
            } else {
                unpacked[f] = unpack_pairs::<V, BITS>(rows_to_lanes::<V>(at[f]));
            }
            weight_scales[f] = scales(f);
        }
        for t in 0..T {
            let token = if T == 1 { first } else { (first + t).min(task.n - 1) };
            let acts = task.acts.codes(token).add(b * fours::<BITS>() * V::BYTES);
            let correction = task.acts.corrections(token).add(b * V::GROUPS).cast_const();
            // Two chains of each row, so that one token does not wait for its own sums.
            let mut dots = [[V::ispread(correction), V::isplat(0)]; F];
            if const { has_planes::<V>(BITS) } {
                let here = act_planes::<V, BITS>(acts);
                // In one lane of each row.
                let start = V::ifirst(correction);
                for f in 0..F {
                    let mut rows = [start; 4];
                    for r in 0..4 {
                        rows[r] = plane_dots::<V, BITS>(start, [unpacked[f][2 * r], unpacked[f][2 * r + 1]], here);
                    }
                    dots[f][0] = V::sums(rows);
                }
            }
            for four in 0..if const { has_planes::<V>(BITS) } { 0 } else { fours::<BITS>() } {
                let here = V::quads(V::iload(acts.add(four * V::BYTES)));
                for q in 4 * four..(4 * four + 4).min(quads::<BITS>()) {
                    for f in 0..F {
                        dots[f][q % 2] = dot::<V, BITS>(dots[f][q % 2], unpacked[f][q], here[q % 4]);
                    }
                }
            }
            let act_scale = V::spread(task.acts.scales(token).add(b * V::GROUPS));
            for f in 0..F {
                let dot = V::to_float(join_pairs::<V, BITS>(dots[f]));
                acc[t][f] = V::fma(dot, V::mul(weight_scales[f], act_scale), acc[t][f]);
            }
        }
    }
}
