//! One token times quantized columns (KN layout).
//!
//! A word row holds a word of every column. The four word rows of a step are walked side by side, four long streams, and the
//! sums of a strip of columns stay in the first-level cache.

use super::Format;
use super::codes::{MAX_QUADS, dot, quad_at, quads, step_at, steps_per_group, unpack};
use super::finish::{finish, load_floats};
use crate::cpu::task::{Finish, Linear, Matrix};
use crate::cpu::vector::{MAX_LANES, Vector};

/// Most features of a unit.
pub(super) const MAX_STRIP: usize = 512;

/// Computes output columns `unit * task.unit..` of the only token.
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold, its matrix is grouped and by columns, `n` is 1, `unit`
/// is at most [`MAX_STRIP`] (half of it when gated); unit `unit` exists.
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
        let mut sums = [[0.0f32; MAX_STRIP + 2 * MAX_LANES]; 2];
        // The strips of a gated task start at whole vectors.
        let up = count.next_multiple_of(V::LANES);
        // SAFETY: features `start..start + count` exist, and `columns + start..` too when gated; the sums have room for two
        // strips of half size, each rounded up to a vector.
        unsafe {
            for (digit, sums) in sums.iter_mut().enumerate().take(task.digits) {
                strip::<V, BITS>(task, digit, start, count, sums.as_mut_ptr());
                if let Finish::Gated(_) = task.finish {
                    strip::<V, BITS>(task, digit, task.columns + start, count, sums.as_mut_ptr().add(up));
                }
            }
            let [sums, rest] = &mut sums;
            if task.digits > 1 {
                sums.iter_mut().zip(rest).for_each(|(sum, rest)| *sum += *rest);
            }
            finish::<V>(task, 0, start, count, sums.as_ptr(), sums.as_ptr().add(up));
        }
    }
}

/// Adds the products of features `first..first + count` with a row of codes to `sums`, which has room for whole vectors.
#[inline(always)]
unsafe fn strip<V: Vector, const BITS: u32>(task: &Linear, digit: usize, first: usize, count: usize, sums: *mut f32) {
    let Matrix::Grouped { codes, scales, grouping, .. } = task.matrix else { return };
    let whole = count - count % V::LANES;
    // SAFETY: word rows and scale rows have `task.features` elements; the last columns are read from padded copies.
    unsafe {
        let (acts, act_scales, corrections) =
            (task.acts.codes(digit), task.acts.scales(digit), task.acts.corrections(digit));
        for step in 0..grouping.steps(task.k as u64) as usize {
            let mut here = [V::isplat(0); MAX_QUADS];
            for (q, quad) in here.iter_mut().enumerate().take(const { quads(BITS) }) {
                *quad = V::quad(acts.add(step_at::<V>(BITS, step) + quad_at(q, V::BYTES)));
            }
            let correction = V::isplat(corrections.add(step).read());
            let act_scale = V::splat(act_scales.add(step).read());
            let rows: [*const u8; 4] = std::array::from_fn(|w| codes.add(((step * 4 + w) * task.features + first) * 4));
            let scale_row = step / const { steps_per_group(BITS) } * task.features + first;
            for c in (0..whole).step_by(V::LANES) {
                let dot = columns::<V, BITS>(rows.map(|row| row.add(4 * c)), &here, correction);
                let scale = V::mul(load_floats::<V>(scales, scale_row + c, V::LANES), act_scale);
                V::store(sums.add(c), V::fma(dot, scale, V::load(sums.add(c))));
            }
            if whole < count {
                let mut last = [[0u8; 4 * MAX_LANES]; 4];
                for w in 0..4 {
                    std::ptr::copy_nonoverlapping(rows[w].add(whole * 4), last[w].as_mut_ptr(), (count - whole) * 4);
                }
                let dot = columns::<V, BITS>(std::array::from_fn(|w| last[w].as_ptr()), &here, correction);
                let scale = V::mul(load_floats::<V>(scales, scale_row + whole, count - whole), act_scale);
                V::store(sums.add(whole), V::fma(dot, scale, V::load(sums.add(whole))));
            }
        }
    }
}

/// The products of a step of `LANES` columns whose words are at `rows`.
#[inline(always)]
unsafe fn columns<V: Vector, const BITS: u32>(
    rows: [*const u8; 4],
    acts: &[V::I; MAX_QUADS],
    correction: V::I,
) -> V::F {
    // SAFETY: `BYTES` bytes are readable at each.
    unsafe {
        let codes = unpack::<V, BITS>([V::iload(rows[0]), V::iload(rows[1]), V::iload(rows[2]), V::iload(rows[3])]);
        let mut sum = correction;
        for q in 0..const { quads(BITS) } {
            sum = dot::<V, BITS>(sum, codes[q], acts[q]);
        }
        V::to_float(sum)
    }
}
