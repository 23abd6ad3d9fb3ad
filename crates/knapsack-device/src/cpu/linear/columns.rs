//! One token times 4-bit columns (KN layout).
//!
//! A word row holds 8 elements of K for all columns. For each group its four word rows are walked side by side, four long
//! streams, and the sums of a strip of columns stay in the first-level cache.

use super::finish::finish;
use crate::cpu::task::{Finish, Linear, Matrix};
use crate::cpu::vector::{Brain, Half, MAX_LANES, Single, Stored, Vector};
use knapsack_tensor::DType;

/// Most features of a unit.
pub(super) const MAX_STRIP: usize = 512;

/// Computes output columns `unit * task.unit..` of the only token.
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold, its order is `Words4`, `n` is 1, `unit` is at most
/// [`MAX_STRIP`] (half of it when gated); unit `unit` exists.
#[inline(always)]
pub(crate) unsafe fn unit<V: Vector>(task: &Linear, unit: usize) {
    let Matrix::Grouped { scales, .. } = task.matrix else { return };
    // SAFETY: the caller's promises; the stored type is the scales' own.
    unsafe {
        match scales.dtype {
            DType::F16 => typed_unit::<V, Half>(task, unit),
            DType::BF16 => typed_unit::<V, Brain>(task, unit),
            DType::F32 | DType::U32 => typed_unit::<V, Single>(task, unit),
        }
    }
}

/// As [`unit`], for one type of scales.
#[inline(always)]
unsafe fn typed_unit<V: Vector, S: Stored>(task: &Linear, unit: usize) {
    let start = unit * task.unit;
    let count = task.unit.min(task.columns - start);
    let mut sums = [0.0f32; MAX_STRIP + 2 * MAX_LANES];
    // The strips of a gated task start at whole vectors.
    let up = count.next_multiple_of(V::LANES);
    // SAFETY: features `start..start + count` exist, and `columns + start..` too when gated; the sums have room for two
    // strips of half size, each rounded up to a vector.
    unsafe {
        strip::<V, S>(task, start, count, sums.as_mut_ptr());
        if let Finish::Gated(_) = task.finish {
            strip::<V, S>(task, task.columns + start, count, sums.as_mut_ptr().add(up));
        }
        finish::<V>(task, 0, start, count, sums.as_ptr(), sums.as_ptr().add(up));
    }
}

/// Adds the products of features `first..first + count` to `sums`, which has room for whole vectors.
#[inline(always)]
unsafe fn strip<V: Vector, S: Stored>(task: &Linear, first: usize, count: usize, sums: *mut f32) {
    let Matrix::Grouped { codes, scales, .. } = task.matrix else { return };
    let whole = count - count % V::LANES;
    // SAFETY: word rows and scale rows have `task.features` elements; the last columns are read from padded copies.
    unsafe {
        let (acts, act_scales, corrections) = (task.acts.codes(0), task.acts.scales(0), task.acts.corrections(0));
        for g in 0..task.k.div_ceil(32) {
            let mut quads = [V::isplat(0); 8];
            for (q, quad) in quads.iter_mut().enumerate() {
                *quad = V::quad(acts.add(g * 32 + q * 4));
            }
            let correction = V::isplat(corrections.add(g).read());
            let act_scale = V::splat(act_scales.add(g).read());
            let mut rows = [std::ptr::null::<u8>(); 4];
            for (w, row) in rows.iter_mut().enumerate() {
                *row = codes.add(((g * 4 + w) * task.features + first) * 4);
            }
            let scale_row = scales.data.add((g * task.features + first) * S::SIZE);
            let mut c = 0;
            while c < whole {
                let dot = V::to_float(group::<V>(rows, c * 4, &quads, correction));
                let scale = V::mul(S::load::<V>(scale_row.add(c * S::SIZE)), act_scale);
                V::store(sums.add(c), V::fma(dot, scale, V::load(sums.add(c))));
                c += V::LANES;
            }
            if whole < count {
                let (mut last, mut last_scales) = ([[0u8; 4 * MAX_LANES]; 4], [0u8; 4 * MAX_LANES]);
                let mut copies = [std::ptr::null::<u8>(); 4];
                for w in 0..4 {
                    std::ptr::copy_nonoverlapping(rows[w].add(whole * 4), last[w].as_mut_ptr(), (count - whole) * 4);
                    copies[w] = last[w].as_ptr();
                }
                let from = scale_row.add(whole * S::SIZE);
                std::ptr::copy_nonoverlapping(from, last_scales.as_mut_ptr(), (count - whole) * S::SIZE);
                let dot = V::to_float(group::<V>(copies, 0, &quads, correction));
                let scale = V::mul(S::load::<V>(last_scales.as_ptr()), act_scale);
                V::store(sums.add(whole), V::fma(dot, scale, V::load(sums.add(whole))));
            }
        }
    }
}

/// One group of `LANES` columns: the bytes at `at` of its four word rows.
#[inline(always)]
unsafe fn group<V: Vector>(rows: [*const u8; 4], at: usize, quads: &[V::I; 8], correction: V::I) -> V::I {
    // SAFETY: `BYTES` bytes are readable there.
    unsafe {
        let nibbles = V::isplat(0x0f0f_0f0f);
        let mut dot = correction;
        for w in 0..4 {
            let word = V::iload(rows[w].add(at));
            dot = V::dot(dot, V::and(word, nibbles), quads[2 * w]);
            dot = V::dot(dot, V::and(V::shr::<4>(word), nibbles), quads[2 * w + 1]);
        }
        dot
    }
}
