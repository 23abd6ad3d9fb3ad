//! A few tokens times quantized rows (NK layout): the routine that decoding spends its time in.
//!
//! Four rows are worked on at once, each a run of consecutive rows of its own, so that memory sees four long streams. A load
//! from each, transposed within groups of four lanes, puts a step of the four rows side by side in every group; unpacked once,
//! it meets all tokens. The dot products of a step end in one lane for each row, exact in integers: they start at
//! `-max_int * sum(acts)`, which takes the offset of the codes away. A lane adds its products up in the order of the steps, and
//! [`Vector::fold`] adds the lanes of a row at the end; [`super::panel`] keeps to the same order, so that a token's result does
//! not depend on its company.

use super::codes::{dot, fours, quads, rows_to_lanes, scales_of_rows, steps_per_group, unpack};
use super::finish::finish;
use super::{Format, MAX_FEW};
use crate::cpu::task::{Finish, Linear, Matrix};
use crate::cpu::vector::Vector;

/// Bytes that are asked for ahead of each stream.
const AHEAD: usize = 2048;
/// Most weight rows of a unit.
pub(super) const MAX_UNIT: usize = 128;
/// Tokens that an unpacked step meets.
const TOKENS: usize = 4;

/// Products of up to [`MAX_FEW`] tokens.
type Products = [[f32; MAX_UNIT]; MAX_FEW];

/// Computes output columns `unit * task.unit..` of all tokens, which are at most [`MAX_FEW`].
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold, its matrix is grouped and by rows, `unit` is at most
/// [`MAX_UNIT`] (half of it when gated); unit `unit` exists.
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
        let mut products: Products = [[0.0; MAX_UNIT]; MAX_FEW];
        // SAFETY: rows `start..start + count` exist, and `columns + start..` too when gated; the products have room.
        unsafe {
            range::<V, BITS>(task, start, count, 0, &mut products);
            if let Finish::Gated(_) = task.finish {
                range::<V, BITS>(task, task.columns + start, count, count, &mut products);
            }
            for t in (0..task.n).step_by(task.digits) {
                if task.digits > 1 {
                    let (row, rest) = products.split_at_mut(t + 1);
                    row[t].iter_mut().zip(&rest[0]).for_each(|(sum, rest)| *sum += rest);
                }
                let row = products[t].as_ptr();
                finish::<V>(task, t / task.digits, start, count, row, row.add(count));
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
    products: &mut Products,
) {
    let run = count.div_ceil(4);
    for i in 0..run {
        // Where the four runs are not equally long, a row is computed twice.
        let rows = [i, run + i, 2 * run + i, 3 * run + i].map(|row| row.min(count - 1));
        for t in (0..task.n).step_by(TOKENS) {
            let features = rows.map(|row| first + row);
            // SAFETY: rows below `first + count` and tokens below `n` exist.
            unsafe {
                match task.n - t {
                    1 => four_rows::<V, BITS, 1>(task, features, t, &mut |t, r, sum| products[t][to + rows[r]] = sum),
                    2 => four_rows::<V, BITS, 2>(task, features, t, &mut |t, r, sum| products[t][to + rows[r]] = sum),
                    _ => four_rows::<V, BITS, TOKENS>(task, features, t, &mut |t, r, sum| {
                        products[t][to + rows[r]] = sum;
                    }),
                }
            }
        }
    }
}

/// Where the codes and scales of four rows begin.
#[derive(Clone, Copy)]
struct Streams {
    codes: [*const u8; 4],
    scales: [*const u8; 4],
}

/// Products of four rows with tokens `t..t + T`, as far as there are so many.
#[inline(always)]
unsafe fn four_rows<V: Vector, const BITS: u32, const T: usize>(
    task: &Linear,
    rows: [usize; 4],
    t: usize,
    out: &mut impl FnMut(usize, usize, f32),
) {
    let Matrix::Grouped { codes, scales, grouping, .. } = task.matrix else { return };
    let (dtype, per_group) = (scales.dtype, const { steps_per_group(BITS) });
    let steps = grouping.steps(task.k as u64) as usize;
    let (blocks, rest) = (steps / V::GROUPS, steps % V::GROUPS);
    let tokens: [usize; T] = std::array::from_fn(|i| (t + i).min(task.n - 1));
    // SAFETY: a row has `steps` steps of 16 bytes and `steps / per_group` scales; whole blocks are read where they lie, the rest
    // from a padded copy. The activations are padded to whole blocks.
    unsafe {
        let streams = Streams {
            codes: rows.map(|row| codes.add(row * steps * 16)),
            scales: rows.map(|row| scales.data.add(row * (steps / per_group) * 2)),
        };
        let mut acc = [V::splat(0.0); T];
        for b in 0..blocks {
            let at = streams.codes.map(|row| row.add(b * V::BYTES));
            at.iter().for_each(|row| V::prefetch(row.wrapping_add(AHEAD)));
            let scale = scales_of_rows::<V>(dtype, streams.scales, b * V::GROUPS, per_group);
            block::<V, BITS, T>(task, &tokens, b, rows_to_lanes::<V>(at), scale, &mut acc);
        }
        if rest > 0 {
            let (mut last, mut last_scales) = ([[0u8; 64]; 4], [[0u8; 8]; 4]);
            for r in 0..4 {
                let from = streams.codes[r].add(blocks * V::BYTES);
                std::ptr::copy_nonoverlapping(from, last[r].as_mut_ptr(), rest * 16);
                let first = blocks * V::GROUPS / per_group;
                let from = streams.scales[r].add(2 * first);
                std::ptr::copy_nonoverlapping(from, last_scales[r].as_mut_ptr(), 2 * (steps / per_group - first));
            }
            let last_scales = std::array::from_fn(|r| last_scales[r].as_ptr());
            let scale = scales_of_rows::<V>(dtype, last_scales, blocks * V::GROUPS % per_group, per_group);
            let words = rows_to_lanes::<V>(std::array::from_fn(|r| last[r].as_ptr()));
            block::<V, BITS, T>(task, &tokens, blocks, words, scale, &mut acc);
        }
        for (i, acc) in acc.into_iter().enumerate() {
            for (r, sum) in V::fold(acc).into_iter().enumerate() {
                if t + i < task.n {
                    out(t + i, r, sum);
                }
            }
        }
    }
}

/// Block `b`, `GROUPS` steps, of four rows against its activations.
#[inline(always)]
unsafe fn block<V: Vector, const BITS: u32, const T: usize>(
    task: &Linear,
    tokens: &[usize; T],
    b: usize,
    words: [V::I; 4],
    scale: V::F,
    acc: &mut [V::F; T],
) {
    // SAFETY: the tokens exist, and their activations have block `b`.
    unsafe {
        let codes = unpack::<V, BITS>(words);
        for (&token, acc) in tokens.iter().zip(acc) {
            let acts = task.acts.codes(token).add(b * fours(BITS) * V::BYTES);
            // Two chains, so that one token does not wait for its own sums.
            let mut dots = [V::ispread(task.acts.corrections(token).add(b * V::GROUPS)), V::isplat(0)];
            for f in 0..const { fours(BITS) } {
                let four = V::iload(acts.add(f * V::BYTES));
                let here = V::quads(four);
                for q in 4 * f..(4 * f + 4).min(const { quads(BITS) }) {
                    dots[q % 2] = dot::<V, BITS>(dots[q % 2], codes[q], here[q % 4]);
                }
            }
            let act_scale = V::spread(task.acts.scales(token).add(b * V::GROUPS));
            *acc = V::fma(V::to_float(V::iadd(dots[0], dots[1])), V::mul(scale, act_scale), *acc);
        }
    }
}
