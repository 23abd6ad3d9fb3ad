//! Normalization of rows, alone and around a residual addition.

use super::linear::finish::load_floats;
use super::task::{Norm, Rows};
use super::vector::{Vector, load_some, store_some};
use knapsack_tensor::NormKind;

/// `(mean, 1 / sqrt(variance + epsilon))` of `count` floats; the mean of an RMS norm is 0.
///
/// # Safety
/// The instruction set of `V` is available and `count` floats are readable at `x`.
#[inline(always)]
pub(crate) unsafe fn moments<V: Vector>(norm: &Norm, x: *const f32, count: usize) -> (f32, f32) {
    // SAFETY: all indices are below `count`.
    unsafe {
        let mut mean = 0.0;
        if norm.kind == NormKind::Layer {
            let mut sum = V::splat(0.0);
            for i in (0..count).step_by(V::LANES) {
                // The lanes beyond the row are zero.
                sum = V::add(sum, load_some::<V>(x.add(i), count - i));
            }
            mean = V::sum(sum) / count as f32;
        }
        let mut squares = V::splat(0.0);
        for i in (0..count - count % V::LANES).step_by(V::LANES) {
            let d = V::sub(V::load(x.add(i)), V::splat(mean));
            squares = V::fma(d, d, squares);
        }
        let mut total = V::sum(squares);
        for i in count - count % V::LANES..count {
            let d = x.add(i).read() - mean;
            total += d * d;
        }
        (mean, 1.0 / (total / count as f32 + norm.epsilon).sqrt())
    }
}

/// Elements `i..` of the normalized row.
#[inline(always)]
unsafe fn scaled<V: Vector>(norm: &Norm, x: V::F, (mean, factor): (f32, f32), i: usize, some: usize) -> V::F {
    // SAFETY: weights and biases have the row's length.
    unsafe {
        let mut y = V::mul(V::sub(x, V::splat(mean)), V::splat(factor));
        if let Some(weight) = norm.weight {
            y = V::mul(y, load_floats::<V>(weight, i, some));
        }
        if let Some(bias) = norm.bias {
            y = V::add(y, load_floats::<V>(bias, i, some));
        }
        y
    }
}

/// `output = norm(x)`; the two may be the same.
///
/// # Safety
/// The instruction set of `V` is available; `count` floats at both, and in the norm's weights.
#[inline(always)]
unsafe fn normalize<V: Vector>(norm: &Norm, x: *const f32, output: *mut f32, count: usize) {
    // SAFETY: the caller's promises.
    unsafe {
        let moments = moments::<V>(norm, x, count);
        apply::<V>(norm, moments, x, output, count);
    }
}

/// The same with moments that are known.
///
/// # Safety
/// As [`normalize`].
#[inline(always)]
pub(crate) unsafe fn apply<V: Vector>(norm: &Norm, moments: (f32, f32), x: *const f32, output: *mut f32, count: usize) {
    // SAFETY: all indices are below `count`.
    unsafe {
        for i in (0..count).step_by(V::LANES) {
            let y = scaled::<V>(norm, load_some::<V>(x.add(i), count - i), moments, i, count - i);
            store_some::<V>(output.add(i), y, count - i);
        }
    }
}

/// Row `t` of a norm or an addition.
///
/// # Safety
/// The instruction set of `V` is available, the task's invariants hold and row `t` exists.
#[inline(always)]
pub(crate) unsafe fn row<V: Vector>(task: &Rows, t: usize) {
    let count = task.columns;
    let at = t * count;
    // SAFETY: all indices are in row `t`.
    unsafe {
        let input = task.input.add(at);
        let mut x = input;
        if let Some(residual) = task.residual {
            let (residual, sum) = (residual.add(at), task.sum.add(at));
            let scale = task.scale.map(|scale| V::splat(V::sum(load_floats::<V>(scale, 0, 1))));
            let mut statistics = (0.0, 1.0);
            if let Some(norm) = &task.pre {
                statistics = moments::<V>(norm, input, count);
            }
            for i in (0..count).step_by(V::LANES) {
                let mut delta = load_some::<V>(input.add(i), count - i);
                if let Some(norm) = &task.pre {
                    delta = scaled::<V>(norm, delta, statistics, i, count - i);
                }
                let mut total = V::add(load_some::<V>(residual.add(i), count - i), delta);
                if let Some(scale) = scale {
                    total = V::mul(total, scale);
                }
                store_some::<V>(sum.add(i), total, count - i);
            }
            x = sum;
        }
        if let Some((norm, output)) = &task.post {
            normalize::<V>(norm, x, output.add(at), count);
        }
    }
}
