//! Float activations times rows of stored floats.

use super::finish::Part;
use super::rows::MAX_UNIT;
use crate::cpu::task::{Finish, Linear, Matrix};
use crate::cpu::vector::{Brain, Half, Single, Stored, Vector, load_some, load_stored};
use knapsack_tensor::DType;

/// Rows in flight.
const ROWS: usize = 4;
/// Tokens that share a converted weight.
const TOKENS: usize = 4;
/// Bytes that are asked for ahead of each stream.
const AHEAD: usize = 2048;
/// Most weight rows of a unit: products of [`TOKENS`] tokens are kept.
pub(super) const MAX_ROWS: usize = 64;

/// Computes output columns `unit * task.unit..` of all tokens.
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold, its matrix is dense, `unit` is at most [`MAX_ROWS`]
/// (half of it when gated); unit `unit` exists.
#[inline(always)]
pub(crate) unsafe fn unit<V: Vector>(task: &Linear, unit: usize) {
    let Matrix::Dense(floats) = task.matrix else { return };
    // SAFETY: the caller's promises; the stored type is the matrix's own.
    unsafe {
        match floats.dtype {
            DType::F16 => typed_unit::<V, Half>(task, floats.data, unit),
            DType::BF16 => typed_unit::<V, Brain>(task, floats.data, unit),
            DType::F32 | DType::U32 => typed_unit::<V, Single>(task, floats.data, unit),
        }
    }
}

/// As [`unit`], for one stored type.
#[inline(always)]
unsafe fn typed_unit<V: Vector, S: Stored>(task: &Linear, matrix: *const u8, unit: usize) {
    const { assert!(2 * MAX_ROWS <= MAX_UNIT) };
    let start = unit * task.unit;
    let count = task.unit.min(task.columns - start);
    let mut products = [[0.0f32; MAX_ROWS]; TOKENS];
    let mut t = 0;
    while t < task.n {
        let tokens = if task.n - t >= TOKENS { TOKENS } else { 1 };
        // SAFETY: rows `start..start + count` exist, and `columns + start..` too when gated; tokens `t..t + tokens` exist.
        unsafe {
            let mut halves = [start, task.columns + start].into_iter();
            let parts = if let Finish::Gated(_) = task.finish { 2 } else { 1 };
            for (part, first) in halves.by_ref().take(parts).enumerate() {
                if tokens == TOKENS {
                    range::<V, S, TOKENS>(task, matrix, t, first, count, part * count, &mut products);
                } else {
                    range::<V, S, 1>(task, matrix, t, first, count, part * count, &mut products);
                }
            }
            for (i, row) in products.iter().enumerate().take(tokens) {
                let raw = row.as_ptr();
                V::finish(task, Part { t: t + i, column: start, count, raw, up: raw.add(count) });
            }
        }
        t += tokens;
    }
}

/// Products of weight rows `first..first + count` with tokens `t..t + T`, to elements `to..` of their rows.
#[inline(always)]
unsafe fn range<V: Vector, S: Stored, const T: usize>(
    task: &Linear,
    matrix: *const u8,
    t: usize,
    first: usize,
    count: usize,
    to: usize,
    products: &mut [[f32; MAX_ROWS]; TOKENS],
) {
    let run = count.div_ceil(ROWS);
    for i in 0..run {
        let mut places = [0; ROWS];
        for r in 0..ROWS {
            // Where the runs are not equally long, a row is computed twice.
            places[r] = (r * run + i).min(count - 1);
        }
        // SAFETY: the rows and tokens exist.
        let sums = unsafe { rows::<V, S, T>(task, matrix, t, first, &places) };
        for (row, sums) in products.iter_mut().zip(sums) {
            for r in 0..ROWS {
                row[to + places[r]] = sums[r];
            }
        }
    }
}

/// Products of rows `first + places[r]` with tokens `t..t + T`.
#[inline(always)]
unsafe fn rows<V: Vector, S: Stored, const T: usize>(
    task: &Linear,
    matrix: *const u8,
    t: usize,
    first: usize,
    places: &[usize; ROWS],
) -> [[f32; ROWS]; T] {
    let k = task.k;
    // SAFETY: rows of `k` elements; all indices are below `k`.
    unsafe {
        let input = task.input.add(t * k);
        let mut weights = [matrix; ROWS];
        for r in 0..ROWS {
            weights[r] = matrix.add((first + places[r]) * k * S::SIZE);
        }
        let mut acc = [[V::splat(0.0); ROWS]; T];
        let whole = k - k % V::LANES;
        let mut i = 0;
        while i < whole {
            let mut x = [V::splat(0.0); T];
            for (token, x) in x.iter_mut().enumerate() {
                *x = V::load(input.add(token * k + i));
            }
            for r in 0..ROWS {
                let at = weights[r].add(i * S::SIZE);
                V::prefetch(at.wrapping_add(AHEAD));
                let w = S::load::<V>(at);
                for token in 0..T {
                    acc[token][r] = V::fma(x[token], w, acc[token][r]);
                }
            }
            i += V::LANES;
        }
        if i < k {
            for r in 0..ROWS {
                let w = load_stored::<V, S>(weights[r].add(i * S::SIZE), k - i);
                for token in 0..T {
                    acc[token][r] = V::fma(load_some::<V>(input.add(token * k + i), k - i), w, acc[token][r]);
                }
            }
        }
        let mut sums = [[0.0; ROWS]; T];
        for token in 0..T {
            for r in 0..ROWS {
                sums[token][r] = V::sum(acc[token][r]);
            }
        }
        sums
    }
}
