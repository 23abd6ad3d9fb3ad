//! A few tokens times quantized columns (KN layout).
//!
//! A word row holds a word of every column. The four word rows of a step are walked side by side, four long streams; the codes of
//! a vector of columns are unpacked once and meet all tokens, whose sums of a strip of columns stay in the first-level cache.

use super::codes::{MAX_QUADS, dot, join_pairs, quad_at, quads, step_at, steps_per_group, unpack_pairs};
use super::finish::{Part, add_row, load_floats};
use super::{Format, MAX_FEW};
use crate::cpu::task::{Finish, Linear, Matrix};
use crate::cpu::vector::{MAX_LANES, Vector};

/// Most features of a unit.
pub(super) const MAX_STRIP: usize = 512;
/// Sums of all tokens, and of a gated task's two strips, each rounded up to a vector.
const SUMS: usize = MAX_STRIP * 8 + 2 * MAX_FEW * MAX_LANES;

/// Features of a unit for `n` tokens: their sums have room.
pub(super) const fn strip_of(n: usize) -> usize {
    if n <= 8 { MAX_STRIP } else { MAX_STRIP * 8 / n / MAX_LANES * MAX_LANES }
}

/// Computes output columns `unit * task.unit..` of all tokens.
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold, its matrix is grouped and by columns, `n` is at most
/// [`MAX_FEW`], `unit` is at most [`strip_of`] (half of it when gated); unit `unit` exists.
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
        let mut sums = std::mem::MaybeUninit::<[f32; SUMS]>::uninit();
        let sums = sums.as_mut_ptr().cast::<f32>();
        // The strips of a gated task start at whole vectors.
        let up = count.next_multiple_of(V::LANES);
        let halves = 1 + usize::from(matches!(task.finish, Finish::Gated(_)));
        let stride = up * halves;
        // SAFETY: features `start..start + count` exist, and `columns + start..` too when gated; the sums have room for `n` times
        // `stride`.
        unsafe {
            std::ptr::write_bytes(sums, 0, task.n * stride);
            // Called in one place, so that the code is there once.
            for half in 0..halves {
                strip::<V, BITS>(task, half * task.columns + start, count, sums.add(half * up), stride);
            }
            for t in (0..task.n).step_by(task.digits) {
                let row = sums.add(t * stride);
                if task.digits > 1 {
                    add_row::<V>(row, row.add(stride), stride);
                }
                let up = row.add((halves - 1) * up);
                V::finish(task, Part { t: t / task.digits, column: start, count, raw: row, up });
            }
        }
    }
}

/// Adds the products of features `first..first + count` to `sums`: of each token whole vectors, `stride` floats apart.
#[inline(always)]
unsafe fn strip<V: Vector, const BITS: u32>(task: &Linear, first: usize, count: usize, sums: *mut f32, stride: usize) {
    let Matrix::Grouped { codes, scales, grouping, .. } = task.matrix else { return };
    let whole = count - count % V::LANES;
    // From a word row to that of the next step.
    let next = 4 * task.features * 4;
    // SAFETY: word rows and scale rows have `task.features` elements; the last columns are read from padded copies.
    unsafe {
        for step in 0..grouping.steps(task.k as u64) as usize {
            let mut rows = [codes; 4];
            for w in 0..4 {
                rows[w] = codes.add(((step * 4 + w) * task.features + first) * 4);
            }
            let scale_row = step / steps_per_group::<BITS>() * task.features + first;
            let mut one = One::<V>::none();
            if task.n == 1 {
                one.load::<BITS>(task, step);
            }
            for c in (0..whole).step_by(V::LANES) {
                let scale = load_floats::<V>(scales, scale_row + c, V::LANES);
                let here = [rows[0].add(4 * c), rows[1].add(4 * c), rows[2].add(4 * c), rows[3].add(4 * c)];
                if c / V::LANES % V::PER_LINE == 0 {
                    for w in 0..4 {
                        V::prefetch(here[w].wrapping_add(next));
                    }
                }
                match task.n {
                    1 => one.columns::<BITS>(here, scale, sums.add(c)),
                    _ => columns::<V, BITS>(task, step, here, scale, sums.add(c), stride),
                }
            }
            if whole < count {
                let mut last = [[0u8; 4 * MAX_LANES]; 4];
                for w in 0..4 {
                    std::ptr::copy_nonoverlapping(rows[w].add(whole * 4), last[w].as_mut_ptr(), (count - whole) * 4);
                }
                let scale = load_floats::<V>(scales, scale_row + whole, count - whole);
                let last = [last[0].as_ptr(), last[1].as_ptr(), last[2].as_ptr(), last[3].as_ptr()];
                columns::<V, BITS>(task, step, last, scale, sums.add(whole), stride);
            }
        }
    }
}

/// A step of the only token, which stays in registers while columns go by.
struct One<V: Vector> {
    quads: [V::I; MAX_QUADS],
    correction: V::I,
    scale: V::F,
}

impl<V: Vector> One<V> {
    #[inline(always)]
    unsafe fn none() -> Self {
        // SAFETY: registers only.
        unsafe { One { quads: [V::isplat(0); MAX_QUADS], correction: V::isplat(0), scale: V::splat(0.0) } }
    }

    /// Takes up step `step`.
    #[inline(always)]
    unsafe fn load<const BITS: u32>(&mut self, task: &Linear, step: usize) {
        // SAFETY: the token's activations have the step.
        unsafe {
            let acts = task.acts.codes(0).add(step_at::<V, BITS>(step));
            for q in 0..quads::<BITS>() {
                self.quads[q] = V::quad(acts.add(quad_at(q, V::BYTES)));
            }
            self.correction = V::isplat(task.acts.corrections(0).add(step).read());
            self.scale = V::splat(task.acts.scales(0).add(step).read());
        }
    }

    /// As [`columns`].
    #[inline(always)]
    unsafe fn columns<const BITS: u32>(&self, rows: [*const u8; 4], scale: V::F, sums: *mut f32) {
        // SAFETY: `BYTES` bytes are readable at each row, `LANES` sums writable.
        unsafe {
            let codes =
                unpack_pairs::<V, BITS>([V::iload(rows[0]), V::iload(rows[1]), V::iload(rows[2]), V::iload(rows[3])]);
            let mut dots = [self.correction, V::isplat(0)];
            for q in 0..quads::<BITS>() {
                dots[q % 2] = dot::<V, BITS>(dots[q % 2], codes[q], self.quads[q]);
            }
            let dot = V::to_float(join_pairs::<V, BITS>(dots));
            V::store(sums, V::fma(dot, V::mul(scale, self.scale), V::load(sums)));
        }
    }
}

/// Adds the products of a step of `LANES` columns, whose words are at `rows`, to each token's sums.
#[inline(always)]
unsafe fn columns<V: Vector, const BITS: u32>(
    task: &Linear,
    step: usize,
    rows: [*const u8; 4],
    scale: V::F,
    sums: *mut f32,
    stride: usize,
) {
    // SAFETY: `BYTES` bytes are readable at each row; the tokens exist, their activations have the step, their sums the vector.
    unsafe {
        let codes =
            unpack_pairs::<V, BITS>([V::iload(rows[0]), V::iload(rows[1]), V::iload(rows[2]), V::iload(rows[3])]);
        for t in 0..task.n {
            let acts = task.acts.codes(t).add(step_at::<V, BITS>(step));
            let mut dots = [V::isplat(task.acts.corrections(t).add(step).read()), V::isplat(0)];
            for q in 0..quads::<BITS>() {
                dots[q % 2] = dot::<V, BITS>(dots[q % 2], codes[q], V::quad(acts.add(quad_at(q, V::BYTES))));
            }
            let scale = V::mul(scale, V::splat(task.acts.scales(t).add(step).read()));
            let sum = sums.add(t * stride);
            V::store(sum, V::fma(V::to_float(join_pairs::<V, BITS>(dots)), scale, V::load(sum)));
        }
    }
}
