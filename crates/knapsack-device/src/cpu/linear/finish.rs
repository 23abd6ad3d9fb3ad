//! Bias, activation, residual: from raw products to the output.

use crate::cpu::math::{activate, soft_cap};
use crate::cpu::task::{Finish, Floats, Linear};
use crate::cpu::vector::{Brain, Half, Single, Vector, load_some, load_stored, store_some};
use knapsack_tensor::DType;

/// Elements `at..at + count` of a tensor, at most `LANES` of them.
///
/// # Safety
/// The instruction set of `V` is available and the elements exist.
#[inline(always)]
pub(crate) unsafe fn load_floats<V: Vector>(floats: Floats, at: usize, count: usize) -> V::F {
    // SAFETY: the caller's promise.
    unsafe {
        match floats.dtype {
            DType::F16 => load_stored::<V, Half>(floats.data.add(2 * at), count),
            DType::BF16 => load_stored::<V, Brain>(floats.data.add(2 * at), count),
            DType::F32 | DType::U32 => load_stored::<V, Single>(floats.data.add(4 * at), count),
        }
    }
}

/// Adds `count` floats, whole vectors, of a row to those of another.
///
/// # Safety
/// The instruction set of `V` is available; both rows have the floats.
#[inline(always)]
pub(crate) unsafe fn add_row<V: Vector>(to: *mut f32, from: *const f32, count: usize) {
    for i in (0..count).step_by(V::LANES) {
        // SAFETY: the caller's promise.
        unsafe { V::store(to.add(i), V::add(V::load(to.add(i)), V::load(from.add(i)))) };
    }
}

/// The columns of a row of output that are finished.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// The row.
    pub(crate) t: usize,
    /// The first column.
    pub(crate) column: usize,
    /// How many.
    pub(crate) count: usize,
    /// Their products.
    pub(crate) raw: *const f32,
    /// Those of the upper half of a gated matrix.
    pub(crate) up: *const f32,
}

/// Finishes output columns; routines call it as [`Vector::finish`].
///
/// # Safety
/// The instruction set of `V` is available, the task's invariants hold, `t < n`, `column + count <= columns`; `raw` holds
/// `count` products, `up` too when the task is gated.
#[inline(always)]
pub(crate) unsafe fn finish<V: Vector>(task: &Linear, part: Part) {
    let Part { t, column, count, raw, up } = part;
    let row = t * task.columns + column;
    for i in (0..count).step_by(V::LANES) {
        let some = count - i;
        // SAFETY: all indices are below `count` after the start that the caller vouches for.
        unsafe {
            let mut y = load_some::<V>(raw.add(i), some);
            if let Some(bias) = task.bias {
                y = V::add(y, load_floats::<V>(bias, column + i, some));
            }
            y = match task.finish {
                Finish::None => y,
                Finish::Activation(function) => activate::<V>(function, y),
                Finish::SoftCap(cap) => soft_cap::<V>(y, cap),
                Finish::Scale(factor) => V::mul(V::splat(factor), y),
                Finish::ActivationTimes { function, other, start } => {
                    let first = other.data.add(t * other.columns + start as usize);
                    let factor = load_some::<V>(first.add(column + i), some);
                    V::mul(activate::<V>(function, y), factor)
                }
                Finish::Add(residual) => V::add(y, load_some::<V>(residual.data.add(row + i), some)),
                Finish::Gated(function) => {
                    let mut up = load_some::<V>(up.add(i), some);
                    if let Some(bias) = task.bias {
                        up = V::add(up, load_floats::<V>(bias, task.columns + column + i, some));
                    }
                    V::mul(activate::<V>(function, y), up)
                }
            };
            store_some::<V>(task.output.add(row + i), y, some);
        }
    }
}
