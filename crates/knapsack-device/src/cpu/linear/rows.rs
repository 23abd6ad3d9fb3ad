//! One token times 4-bit rows: the routine that decoding spends its time in.
//!
//! A load of `BYTES` bytes holds `GROUPS` groups of 32 codes, the even elements in the low nibbles and the odd ones in the
//! high; the activations lie in that order, so a group costs two dot products and no shuffle. The accumulator starts at
//! `-7 * sum(acts)`, which takes the offset of the codes away exactly. `ROWS` rows are worked on at once, each a run of
//! consecutive rows of its own, so that memory sees that many long streams.

use super::finish::finish;
use crate::cpu::task::{Finish, Linear, Matrix};
use crate::cpu::vector::{Brain, Half, Single, Stored, Vector};
use knapsack_tensor::DType;

/// Rows in flight.
const ROWS: usize = 4;
/// Bytes that are asked for ahead of each stream.
const AHEAD: usize = 2048;
/// Most weight rows of a unit.
pub(super) const MAX_UNIT: usize = 128;

/// Computes output columns `unit * task.unit..` of the only token.
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold, its order is `Rows`, `n` is 1, `unit` is at most
/// [`MAX_UNIT`] (half of it when gated); unit `unit` exists.
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
    let mut products = [0.0f32; MAX_UNIT];
    // SAFETY: rows `start..start + count` exist, and `columns + start..` too when gated; the products have room.
    unsafe {
        range::<V, S>(task, start, count, products.as_mut_ptr());
        let up = products.as_mut_ptr().add(count);
        if let Finish::Gated(_) = task.finish {
            range::<V, S>(task, task.columns + start, count, up);
        }
        finish::<V>(task, 0, start, count, products.as_ptr(), up);
    }
}

/// Products of weight rows `first..first + count`.
#[inline(always)]
unsafe fn range<V: Vector, S: Stored>(task: &Linear, first: usize, count: usize, out: *mut f32) {
    let run = count / ROWS;
    // SAFETY: rows below `first + count` exist and `out` has `count` elements.
    unsafe {
        for i in 0..run {
            let mut sums = [0.0; ROWS];
            rows::<V, S, ROWS>(task, first + i, run, &mut sums);
            for (r, sum) in sums.into_iter().enumerate() {
                out.add(r * run + i).write(sum);
            }
        }
        for i in run * ROWS..count {
            let mut sum = [0.0];
            rows::<V, S, 1>(task, first + i, 0, &mut sum);
            out.add(i).write(sum[0]);
        }
    }
}

/// Products of rows `first + r * step` for `r` below `R`.
#[inline(always)]
unsafe fn rows<V: Vector, S: Stored, const R: usize>(task: &Linear, first: usize, step: usize, sums: &mut [f32; R]) {
    let Matrix::Grouped { codes, scales, .. } = task.matrix else { return };
    let groups = task.k.div_ceil(32);
    let (blocks, rest) = (groups / V::GROUPS, groups % V::GROUPS);
    let (code_step, scale_step) = (step * groups * 16, step * groups * S::SIZE);
    // SAFETY: a row has `groups` groups of 16 bytes and as many scales; whole blocks are read where they lie, the rest from
    // a padded copy. The activations are padded to whole blocks.
    unsafe {
        let codes = codes.add(first * groups * 16);
        let scales = scales.data.add(first * groups * S::SIZE);
        let (acts, act_scales, corrections) = (task.acts.codes(0), task.acts.scales(0), task.acts.corrections(0));
        let mut acc = [V::splat(0.0); R];
        for b in 0..blocks {
            let even = V::iload(acts.add(b * 2 * V::BYTES));
            let odd = V::iload(acts.add((b * 2 + 1) * V::BYTES));
            let correction = V::spread_first(corrections.add(b * V::GROUPS));
            let act_scale = V::spread(act_scales.add(b * V::GROUPS));
            for (r, acc) in acc.iter_mut().enumerate() {
                let at = codes.add(r * code_step + b * V::BYTES);
                V::prefetch(at.wrapping_add(AHEAD));
                let scale = S::spread::<V>(scales.add(r * scale_step + b * V::GROUPS * S::SIZE));
                let dot = V::to_float(block::<V>(V::iload(at), even, odd, correction));
                *acc = V::fma(V::mul(dot, act_scale), scale, *acc);
            }
        }
        if rest > 0 {
            let even = V::iload(acts.add(blocks * 2 * V::BYTES));
            let odd = V::iload(acts.add((blocks * 2 + 1) * V::BYTES));
            let correction = V::spread_first(corrections.add(blocks * V::GROUPS));
            let act_scale = V::spread(act_scales.add(blocks * V::GROUPS));
            for (r, acc) in acc.iter_mut().enumerate() {
                let (mut last, mut last_scales) = ([0u8; 64], [0u8; 16]);
                let at = codes.add(r * code_step + blocks * V::BYTES);
                std::ptr::copy_nonoverlapping(at, last.as_mut_ptr(), rest * 16);
                let at = scales.add(r * scale_step + blocks * V::GROUPS * S::SIZE);
                std::ptr::copy_nonoverlapping(at, last_scales.as_mut_ptr(), rest * S::SIZE);
                let scale = S::spread::<V>(last_scales.as_ptr());
                let dot = V::to_float(block::<V>(V::iload(last.as_ptr()), even, odd, correction));
                *acc = V::fma(V::mul(dot, act_scale), scale, *acc);
            }
        }
        for (sum, acc) in sums.iter_mut().zip(acc) {
            *sum = V::sum(acc);
        }
    }
}

/// One load of packed codes against its activations.
#[inline(always)]
unsafe fn block<V: Vector>(packed: V::I, even: V::I, odd: V::I, correction: V::I) -> V::I {
    // SAFETY: registers only.
    unsafe {
        let nibbles = V::isplat(0x0f0f_0f0f);
        let low = V::and(packed, nibbles);
        let high = V::and(V::shr::<4>(packed), nibbles);
        V::dot(V::dot(correction, low, even), high, odd)
    }
}
