//! Elementary functions on vectors.

use super::vector::Vector;
use knapsack_tensor::Activation;

/// `e^x` for `x <= 88`, relative error below 2e-7: Cody-Waite reduction by ln 2 and the degree-6 polynomial of Cephes' `expf`.
/// Below -87.3 it gives the smallest normal numbers instead of going to 0.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn exp<V: Vector>(x: V::F) -> V::F {
    // SAFETY: the caller's promise; registers only.
    unsafe {
        let x = V::min(V::max(x, V::splat(-87.3)), V::splat(88.0));
        let n = V::to_int(V::mul(x, V::splat(std::f32::consts::LOG2_E)));
        let whole = V::to_float(n);
        let r = V::fma(whole, V::splat(-0.693_359_4), x);
        let r = V::fma(whole, V::splat(2.121_944_4e-4), r);
        let mut p = V::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = V::fma(p, r, V::splat(c));
        }
        let p = V::add(V::fma(p, V::mul(r, r), r), V::splat(1.0));
        V::mul(p, V::as_float(V::shl::<23>(V::iadd(n, V::isplat(127)))))
    }
}

/// `tanh(x) = 1 - 2 / (e^(2x) + 1)`, absolute error below 2e-7.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn tanh<V: Vector>(x: V::F) -> V::F {
    // SAFETY: the caller's promise; registers only.
    unsafe {
        let e = exp::<V>(V::add(x, x));
        V::sub(V::splat(1.0), V::div(V::splat(2.0), V::add(e, V::splat(1.0))))
    }
}

/// `cap * tanh(x / cap)`.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn soft_cap<V: Vector>(x: V::F, cap: f32) -> V::F {
    // SAFETY: the caller's promise; registers only.
    unsafe { V::mul(V::splat(cap), tanh::<V>(V::mul(x, V::splat(1.0 / cap)))) }
}

/// `erf(|x|)` by 7.1.26 of Abramowitz and Stegun, absolute error below 5e-7 in float32.
#[inline(always)]
unsafe fn erf_of_magnitude<V: Vector>(x: V::F) -> V::F {
    // SAFETY: the caller's promise; registers only.
    unsafe {
        let one = V::splat(1.0);
        let t = V::div(one, V::fma(x, V::splat(0.327_591_1), one));
        let mut p = V::splat(1.061_405_4);
        for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
            p = V::fma(p, t, V::splat(c));
        }
        let tail = exp::<V>(V::sub(V::splat(0.0), V::mul(x, x)));
        V::sub(one, V::mul(V::mul(p, t), tail))
    }
}

/// `1 / (1 + e^-x)`, relative error below 4e-7.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn sigmoid<V: Vector>(x: V::F) -> V::F {
    // SAFETY: the caller's promise; registers only.
    unsafe {
        let one = V::splat(1.0);
        V::div(one, V::add(one, exp::<V>(V::sub(V::splat(0.0), x))))
    }
}

/// An activation function, as [`Activation::apply`].
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn activate<V: Vector>(function: Activation, x: V::F) -> V::F {
    // SAFETY: the caller's promise; registers only.
    unsafe {
        let (zero, one, half) = (V::splat(0.0), V::splat(1.0), V::splat(0.5));
        match function {
            Activation::Silu => V::div(x, V::add(one, exp::<V>(V::sub(zero, x)))),
            Activation::Gelu => {
                // x/2 (1 + erf(x/sqrt 2)) = (x + |x| erf(|x|/sqrt 2)) / 2, since erf is odd.
                let magnitude = V::max(x, V::sub(zero, x));
                let erf = erf_of_magnitude::<V>(V::mul(magnitude, V::splat(std::f32::consts::FRAC_1_SQRT_2)));
                V::mul(half, V::fma(magnitude, erf, x))
            }
            Activation::GeluTanh => {
                let cube = V::mul(V::mul(x, x), x);
                let inner = V::mul(V::splat(0.797_884_6), V::fma(cube, V::splat(0.044_715), x));
                V::mul(V::mul(half, x), V::add(one, tanh::<V>(inner)))
            }
            Activation::Relu => V::max(x, zero),
        }
    }
}
