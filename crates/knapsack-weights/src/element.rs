//! Element types of checkpoints and the rounding to model dtypes, in a form that the compiler turns into vector instructions.

use knapsack_tensor::DType;
use pulp::Simd;

/// Rounding of a float32 to a model dtype and back, to nearest, ties to even.
pub trait Rounding {
    /// As model libraries call it.
    const DTYPE: DType;
    /// Whether a quotient `x / y` of two numbers of the dtype and the product `x * (1 / y)`, both in float32, round to the same number
    /// of the dtype where that is a normal one. So it is for 11 bits of precision and exponents whose inverse float32 has. Let `m` be as far from one
    /// normal number as from the next: an odd number of 12 bits times a power of two. The exact quotient is not `m`, or `x = m * y` would have
    /// 12 bits. It differs from `m` by more than `2^-23` of it, since `x` differs from `m * y` by a unit at least. Two roundings to 24 bits
    /// are less than that, so quotient and product lie on the same side of `m`. Infinite numbers, zeros and NaN give the same in both; what is
    /// smaller than a normal number vanishes beside the code of zero that is added next.
    const BY_INVERSE: bool;
    /// Any float32.
    fn round(x: f32) -> f32;
    /// Numbers that are 0, infinite, NaN with lower bits 0, or whose rounded value is a normal number of the dtype.
    fn round_normals<V: Simd>(simd: V, x: V::f32s) -> V::f32s;
    /// A float32 whose lower half is 0, as every widened bfloat16 is.
    fn round_bf16(x: f32) -> f32;
}

/// IEEE 754 binary16.
pub struct F16;

/// Largest finite binary16, 65504, as the bits of a float32.
const F16_MAX: u32 = 0x477f_e000;
/// Smallest normal binary16, 2^-14.
const F16_MIN_NORMAL: u32 = 0x3880_0000;
const MAGNITUDE: u32 = 0x7fff_ffff;
const INFINITY: u32 = 0x7f80_0000;
/// The NaN that every other becomes: one whose lower bits are 0, so that [`Rounding::round_normals`] keeps it one.
const NAN: u32 = 0x7fc0_0000;

/// Rounds away the lowest `BITS` of the significand.
#[inline(always)]
fn drop_bits<const BITS: u32>(bits: u32) -> u32 {
    let half = (1 << (BITS - 1)) - 1;
    bits.wrapping_add(half + ((bits >> BITS) & 1)) & !((1 << BITS) - 1)
}

/// [`drop_bits`] of each.
#[inline(always)]
fn drop_bits_of<const BITS: u32, V: Simd>(simd: V, x: V::f32s) -> V::f32s {
    let bits = simd.transmute_u32s_f32s(x);
    let lowest = simd.and_u32s(simd.wrapping_dyn_shr_u32s(bits, simd.splat_u32s(BITS)), simd.splat_u32s(1));
    let up = simd.add_u32s(lowest, simd.splat_u32s((1 << (BITS - 1)) - 1));
    let kept = simd.and_u32s(simd.add_u32s(bits, up), simd.splat_u32s(!((1 << BITS) - 1)));
    simd.transmute_f32s_u32s(kept)
}

/// Subnormal binary16 numbers are the multiples of 2^-24, and so are float32 numbers from 0.5 to 1: an addition rounds to them.
#[inline(always)]
fn round_subnormal(magnitude: u32) -> u32 {
    ((f32::from_bits(magnitude) + 0.5) - 0.5).to_bits()
}

impl Rounding for F16 {
    const DTYPE: DType = DType::F16;
    const BY_INVERSE: bool = true;

    #[inline(always)]
    fn round(x: f32) -> f32 {
        let bits = x.to_bits();
        let magnitude = bits & MAGNITUDE;
        let normal = drop_bits::<13>(magnitude);
        let normal = if normal > F16_MAX { INFINITY } else { normal };
        let finite = if magnitude < F16_MIN_NORMAL { round_subnormal(magnitude) } else { normal };
        let rounded = if magnitude > INFINITY { NAN } else { finite };
        f32::from_bits(rounded | (bits & !MAGNITUDE))
    }

    #[inline(always)]
    fn round_normals<V: Simd>(simd: V, x: V::f32s) -> V::f32s {
        drop_bits_of::<13, V>(simd, x)
    }

    #[inline(always)]
    fn round_bf16(x: f32) -> f32 {
        // Eight significant bits always fit into eleven.
        let bits = x.to_bits();
        let magnitude = bits & MAGNITUDE;
        let normal = if magnitude > F16_MAX && magnitude < INFINITY { INFINITY } else { magnitude };
        let rounded = if magnitude < F16_MIN_NORMAL { round_subnormal(magnitude) } else { normal };
        f32::from_bits(rounded | (bits & !MAGNITUDE))
    }
}

/// The upper half of a binary32.
pub struct Bf16;

impl Rounding for Bf16 {
    const DTYPE: DType = DType::BF16;
    const BY_INVERSE: bool = false;

    #[inline(always)]
    fn round(x: f32) -> f32 {
        let bits = x.to_bits();
        let rounded = drop_bits::<16>(bits);
        f32::from_bits(if bits & MAGNITUDE > INFINITY { NAN } else { rounded })
    }

    #[inline(always)]
    fn round_normals<V: Simd>(simd: V, x: V::f32s) -> V::f32s {
        drop_bits_of::<16, V>(simd, x)
    }

    #[inline(always)]
    fn round_bf16(x: f32) -> f32 {
        x
    }
}

/// IEEE 754 binary32: nothing is rounded.
pub struct F32;

impl Rounding for F32 {
    const DTYPE: DType = DType::F32;
    const BY_INVERSE: bool = false;

    #[inline(always)]
    fn round(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn round_normals<V: Simd>(_: V, x: V::f32s) -> V::f32s {
        x
    }

    #[inline(always)]
    fn round_bf16(x: f32) -> f32 {
        x
    }
}

/// An element type of a checkpoint, little endian.
pub trait Element {
    /// Bytes of an element.
    const BYTES: usize;
    /// Reads elements, each rounded to the model dtype.
    fn decode<R: Rounding>(source: &[u8], out: &mut [f32]);
}

impl Element for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn decode<R: Rounding>(source: &[u8], out: &mut [f32]) {
        for (out, &bytes) in out.iter_mut().zip(source.as_chunks::<2>().0) {
            *out = R::round_bf16(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16));
        }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn decode<R: Rounding>(source: &[u8], out: &mut [f32]) {
        for (out, &bytes) in out.iter_mut().zip(source.as_chunks::<2>().0) {
            *out = R::round(widen_f16(u16::from_le_bytes(bytes)));
        }
    }
}

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn decode<R: Rounding>(source: &[u8], out: &mut [f32]) {
        for (out, &bytes) in out.iter_mut().zip(source.as_chunks::<4>().0) {
            *out = R::round(f32::from_le_bytes(bytes));
        }
    }
}

/// A binary16 as float32, exactly. The significand moved to its place in a float32 is too small by the difference of the
/// exponents' biases, 2^112; the product is exact for subnormal numbers too.
#[inline(always)]
fn widen_f16(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff) << 13;
    let scaled = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
    let widened = if half & 0x7c00 == 0x7c00 { magnitude | INFINITY } else { scaled };
    f32::from_bits(widened | (u32::from(half & 0x8000) << 16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    fn normal<R: Rounding>(x: f32) -> f32 {
        R::round_normals(pulp::Scalar::new(), x)
    }

    /// Bit patterns of float32 on both sides of every rounding boundary of both halves, and all that lie on a coarse grid.
    fn patterns() -> impl Iterator<Item = u32> {
        let around = (0..=u16::MAX).flat_map(|high| {
            let high = u32::from(high) << 16;
            [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| high | low)
        });
        around.chain((0..=u32::MAX).step_by(65_537))
    }

    #[test]
    fn rounding_is_that_of_half() {
        for x in patterns().map(f32::from_bits) {
            let expected = f16::from_f32(x).to_f32();
            assert!(same(F16::round(x), expected), "{x:e} {:#x}", x.to_bits());
            if x == 0.0 || x.is_infinite() || expected.is_normal() && expected.abs() >= 6.2e-5 {
                assert!(same(normal::<F16>(x), expected), "{x:e}");
            }
            assert!(same(Bf16::round(x), bf16::from_f32(x).to_f32()), "{x:e}");
            if !x.is_nan() {
                assert!(same(normal::<Bf16>(x), bf16::from_f32(x).to_f32()), "{x:e}");
            }
        }
    }

    #[test]
    fn every_half_is_read_exactly() {
        let mut out = [0.0];
        for bits in 0..=u16::MAX {
            assert!(same(widen_f16(bits), f16::from_bits(bits).to_f32()), "{bits:#x}");
            <Bf16 as Element>::decode::<F16>(&bits.to_le_bytes(), &mut out);
            assert!(same(out[0], f16::from_f32(bf16::from_bits(bits).to_f32()).to_f32()), "{bits:#x}");
            <F16 as Element>::decode::<Bf16>(&bits.to_le_bytes(), &mut out);
            assert!(same(out[0], bf16::from_f32(f16::from_bits(bits).to_f32()).to_f32()), "{bits:#x}");
        }
    }

    /// Every pair of significands; exponents do not matter while the result is normal.
    #[test]
    fn a_product_with_the_inverse_rounds_as_the_quotient() {
        const { assert!(F16::BY_INVERSE) };
        let all = || (1 << 10..1 << 11).map(|significand: u16| f32::from(significand));
        for y in all() {
            let inverse = 1.0 / y;
            for x in all() {
                assert_eq!(normal::<F16>(x * inverse), normal::<F16>(x / y), "{x} / {y}");
            }
        }
    }
}
