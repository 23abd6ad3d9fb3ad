//! NEON: 4 lanes, with or without the instructions for dot products and for products of matrices. What the standard library does not
//! offer in stable Rust (these, conversion from float16) is one instruction of inline assembly each.

use crate::cpu::linear::finish::{Part, finish};
use crate::cpu::task::Linear;
use crate::cpu::vector::Vector;
use std::arch::aarch64::*;
use std::arch::asm;

/// Plain ARMv8 NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// NEON with the `dotprod` extension.
#[derive(Clone, Copy)]
pub(crate) struct NeonDot;

/// NEON with the `dotprod`, `i8mm` and `fhm` extensions.
#[derive(Clone, Copy)]
pub(crate) struct NeonMatrix;

/// Codes are at most 15, so signed products are the same as unsigned by signed; pairs stay far below 16 bits.
#[inline(always)]
unsafe fn dot_by_pairs(acc: int32x4_t, codes: int32x4_t, acts: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is available by the contract of `Vector`.
    unsafe {
        let (codes, acts) = (vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(acts));
        let low = vmull_s8(vget_low_s8(codes), vget_low_s8(acts));
        let high = vmull_high_s8(codes, acts);
        // Neighbours summed twice: four products of a lane end in that lane.
        vaddq_s32(acc, vpaddlq_s16(vpaddq_s16(low, high)))
    }
}

/// A function that adds products of registers, seen as `$parts`, to `acc`, by one instruction of an extension.
macro_rules! accumulate {
    ($name:ident, $extension:literal, $instruction:literal, $sum:ty, $factor:ty, $parts:literal) => {
        #[doc = concat!("One `", $instruction, "`.")]
        #[inline(always)]
        unsafe fn $name(acc: $sum, a: $factor, b: $factor) -> $sum {
            let mut sum = acc;
            // SAFETY: the extension is available by the contract of `Vector`; registers only.
            unsafe {
                asm!(
                    concat!(".arch_extension ", $extension),
                    concat!($instruction, " {sum:v}.4s, {a:v}.", $parts, ", {b:v}.", $parts),
                    sum = inout(vreg) sum,
                    a = in(vreg) a,
                    b = in(vreg) b,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            sum
        }
    };
}

accumulate!(dot_product, "dotprod", "sdot", int32x4_t, int32x4_t, "16b");
accumulate!(mixed_dot_product, "i8mm", "usdot", int32x4_t, int32x4_t, "16b");
accumulate!(matrix_product, "i8mm", "usmmla", int32x4_t, int32x4_t, "16b");
accumulate!(lower_halves, "fp16fml", "fmlal", float32x4_t, uint16x8_t, "4h");
accumulate!(upper_halves, "fp16fml", "fmlal2", float32x4_t, uint16x8_t, "4h");

/// Sets without matrix products never ask for one.
#[inline(always)]
unsafe fn no_matrix_product(_: int32x4_t, _: int32x4_t, _: int32x4_t) -> int32x4_t {
    unreachable!("this instruction set has no matrix products")
}

/// Sets without products of float16 never ask for one.
#[inline(always)]
unsafe fn no_half_product(_: float32x4_t, _: uint16x8_t, _: uint16x8_t) -> float32x4_t {
    unreachable!("this instruction set has no products of float16")
}

/// A function of registers, each seen as the parts named last, by one instruction of base ARMv8 NEON.
macro_rules! one_instruction {
    ($(#[$doc:meta])* $name:ident, $instruction:literal, $result:ty as $parts:literal, $($from:ident: $of:ty as $seen:literal),+) => {
        $(#[$doc])*
        #[inline(always)]
        unsafe fn $name($($from: $of),+) -> $result {
            let result: $result;
            // SAFETY: NEON is available by the contract of `Vector`; registers only.
            unsafe {
                asm!(
                    concat!($instruction, " {result:v}.", $parts $(, ", {", stringify!($from), ":v}.", $seen)+),
                    result = lateout(vreg) result,
                    $($from = in(vreg) $from,)+
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            result
        }
    };
}

one_instruction!(
    /// Four float16 in the low half to float32.
    widen, "fcvtl", float32x4_t as "4s", halves: uint16x4_t as "4h"
);
one_instruction!(
    /// As [`widen`], from the high half.
    widen_high, "fcvtl2", float32x4_t as "4s", halves: uint16x8_t as "8h"
);
one_instruction!(
    /// Four float32 to float16, nearest.
    narrow, "fcvtn", uint16x4_t as "4h", wide: float32x4_t as "4s"
);
one_instruction!(
    /// Sums of neighbours: of `a`, then of `b`. (`vpaddq_s32` is compiled to three instructions where it meets other shuffles.)
    pairs, "addp", int32x4_t as "4s", a: int32x4_t as "4s", b: int32x4_t as "4s"
);

/// 32 bytes at `p`, which moves on behind them in the same instruction.
#[inline(always)]
unsafe fn next_two(p: &mut *const u8) -> [int32x4_t; 2] {
    let (first, second): (int32x4_t, int32x4_t);
    // SAFETY: the caller's promise: the bytes are readable.
    unsafe {
        asm!(
            "ldp {first:q}, {second:q}, [{p}], #32",
            first = lateout(vreg) first,
            second = lateout(vreg) second,
            p = inout(reg) *p,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    [first, second]
}

/// 8 bytes at each pointer, which moves on behind them.
#[inline(always)]
unsafe fn next_eights(a: &mut *const u8, b: &mut *const u8) -> uint16x8_t {
    let both: uint16x8_t;
    // SAFETY: the caller's promise: the bytes are readable.
    unsafe {
        asm!(
            "ldr {both:d}, [{a}], #8",
            "ld1 {{{both:v}.d}}[1], [{b}], #8",
            both = lateout(vreg) both,
            a = inout(reg) *a,
            b = inout(reg) *b,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    both
}

/// The first 16 bits of all rows, then the second, and the third with the fourth; the rows move on behind them.
#[inline(always)]
unsafe fn side_by_side(rows: &mut [*const u8; 4]) -> [uint16x8_t; 2] {
    // SAFETY: the caller's promise: 8 bytes are readable at each.
    unsafe {
        let [a, b, c, d] = rows;
        let (even, odd) = (next_eights(a, b), next_eights(c, d));
        let (firsts, seconds) = (vzip1q_u16(even, odd), vzip2q_u16(even, odd));
        [vzip1q_u16(firsts, seconds), vzip2q_u16(firsts, seconds)]
    }
}

/// Four times one 16-bit number.
#[inline(always)]
fn together(rows: [u64; 4]) -> u64 {
    let [a, b, c, d] = rows.map(|row| row & 0xffff);
    a | b << 16 | c << 32 | d << 48
}

/// No instruction of it is of one set only, and every processor has NEON: it is there once for all routines of all sets.
#[inline(never)]
unsafe fn finish_once(task: &Linear, part: Part) {
    // SAFETY: the caller's promises.
    unsafe { finish::<Neon>(task, part) }
}

macro_rules! implement {
    ($name:ident, $dot:path, $wide:literal, $matrix:path, $lower:path, $upper:path) => {
        impl Vector for $name {
            const LANES: usize = 4;
            const WIDE_CODES: bool = $wide;
            const MANY: bool = true;
            const PAIRWISE: bool = true;
            const MATRIX: bool = $wide;
            type F = float32x4_t;
            type I = int32x4_t;
            type H = uint16x8_t;

            #[inline(always)]
            unsafe fn finish(task: &Linear, part: Part) {
                // SAFETY: the caller's promises.
                unsafe { finish_once(task, part) }
            }

            methods! {
                fn splat(x: f32) -> float32x4_t { vdupq_n_f32(x) }
                fn load(p: *const f32) -> float32x4_t { vreinterpretq_f32_u8(vld1q_u8(p.cast())) }
                fn store(p: *mut f32, v: float32x4_t) { vst1q_u8(p.cast(), vreinterpretq_u8_f32(v)) }
                fn load_f16(p: *const u8) -> float32x4_t { widen(vreinterpret_u16_u8(vld1_u8(p))) }
                fn load_bf16(p: *const u8) -> float32x4_t {
                    vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(p))))
                }
                fn store_f16(p: *mut u8, v: float32x4_t) { vst1_u8(p, vreinterpret_u8_u16(narrow(v))) }
                fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
                fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
                fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
                fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t { vdivq_f32(a, b) }
                fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t { vfmaq_f32(c, a, b) }
                fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmaxq_f32(a, b) }
                fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t { vminq_f32(a, b) }
                fn sum(v: float32x4_t) -> f32 { vaddvq_f32(v) }
                fn largest(v: float32x4_t) -> f32 { vmaxvq_f32(v) }
                fn isplat(x: i32) -> int32x4_t { vdupq_n_s32(x) }
                fn iload(p: *const u8) -> int32x4_t { vreinterpretq_s32_u8(vld1q_u8(p)) }
                fn iload_two(p: &mut *const u8) -> [int32x4_t; 2] { next_two(p) }
                fn iload_groups(p: [*const u8; 4]) -> int32x4_t { Self::iload(p[0]) }
                fn istore(p: *mut u8, v: int32x4_t) { vst1q_u8(p, vreinterpretq_u8_s32(v)) }
                fn quad(p: *const u8) -> int32x4_t { vdupq_n_s32(p.cast::<i32>().read_unaligned()) }
                fn store_bytes(p: *mut u8, v: int32x4_t) {
                    let halves = vmovn_s32(v);
                    let bytes = vmovn_s16(vcombine_s16(halves, halves));
                    p.cast::<i32>().write_unaligned(vget_lane_s32::<0>(vreinterpret_s32_s8(bytes)));
                }
                fn iadd(a: int32x4_t, b: int32x4_t) -> int32x4_t { vaddq_s32(a, b) }
                fn isum(v: int32x4_t) -> i32 { vaddvq_s32(v) }
                fn and(a: int32x4_t, b: int32x4_t) -> int32x4_t { vandq_s32(a, b) }
                fn or(a: int32x4_t, b: int32x4_t) -> int32x4_t { vorrq_s32(a, b) }
                fn shl<const N: u32>(v: int32x4_t) -> int32x4_t { vshlq_s32(v, vdupq_n_s32(N as i32)) }
                fn shr<const N: u32>(v: int32x4_t) -> int32x4_t {
                    vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), vdupq_n_s32(-(N as i32))))
                }
                fn sar<const N: u32>(v: int32x4_t) -> int32x4_t { vshlq_s32(v, vdupq_n_s32(-(N as i32))) }
                fn to_float(v: int32x4_t) -> float32x4_t { vcvtq_f32_s32(v) }
                fn to_int(v: float32x4_t) -> int32x4_t { vcvtnq_s32_f32(v) }
                fn as_float(v: int32x4_t) -> float32x4_t { vreinterpretq_f32_s32(v) }
                fn as_int(v: float32x4_t) -> int32x4_t { vreinterpretq_s32_f32(v) }
                fn dot(acc: int32x4_t, codes: int32x4_t, acts: int32x4_t) -> int32x4_t { $dot(acc, codes, acts) }
                fn spread(p: *const f32) -> float32x4_t { vdupq_n_f32(p.read_unaligned()) }
                fn ispread(p: *const i32) -> int32x4_t { vdupq_n_s32(p.read_unaligned()) }
                fn ifirst(p: *const i32) -> int32x4_t { vsetq_lane_s32::<0>(p.read_unaligned(), vdupq_n_s32(0)) }
                fn transpose(v: [int32x4_t; 4]) -> [int32x4_t; 4] {
                    let (a, b) = (vtrn1q_s32(v[0], v[1]), vtrn2q_s32(v[0], v[1]));
                    let (c, d) = (vtrn1q_s32(v[2], v[3]), vtrn2q_s32(v[2], v[3]));
                    let [a, b, c, d] = [a, b, c, d].map(|pair| vreinterpretq_s64_s32(pair));
                    [vtrn1q_s64(a, c), vtrn1q_s64(b, d), vtrn2q_s64(a, c), vtrn2q_s64(b, d)]
                        .map(|row| vreinterpretq_s32_s64(row))
                }
                fn sums(v: [int32x4_t; 4]) -> int32x4_t {
                    pairs(pairs(v[0], v[1]), pairs(v[2], v[3]))
                }
                fn float_sums(v: [float32x4_t; 4]) -> float32x4_t {
                    vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3]))
                }
                fn unzip(a: int32x4_t, b: int32x4_t) -> [int32x4_t; 2] { [vuzp1q_s32(a, b), vuzp2q_s32(a, b)] }
                fn iload_unzipped(p: *const u8) -> [int32x4_t; 2] {
                    let both = vld2q_s32(p.cast());
                    [both.0, both.1]
                }
                fn matrix(acc: int32x4_t, codes: int32x4_t, acts: int32x4_t) -> int32x4_t { $matrix(acc, codes, acts) }
                fn high_nibbles(v: int32x4_t) -> int32x4_t {
                    vreinterpretq_s32_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s32(v)))
                }
                fn zip(a: int32x4_t, b: int32x4_t) -> [int32x4_t; 2] { [vzip1q_s32(a, b), vzip2q_s32(a, b)] }
                fn octets(a: *const u8, b: *const u8) -> int32x4_t {
                    vreinterpretq_s32_u8(vcombine_u8(vld1_u8(a), vld1_u8(b)))
                }
                fn quads(v: int32x4_t) -> [int32x4_t; 4] {
                    [
                        vdupq_laneq_s32::<0>(v),
                        vdupq_laneq_s32::<1>(v),
                        vdupq_laneq_s32::<2>(v),
                        vdupq_laneq_s32::<3>(v),
                    ]
                }
                fn store_groups(p: *mut u8, _: usize, v: int32x4_t) { Self::istore(p, v) }
                fn f16_of_rows(rows: [u64; 4]) -> float32x4_t { widen(vcreate_u16(together(rows))) }
                fn bf16_of_rows(rows: [u64; 4]) -> float32x4_t {
                    vreinterpretq_f32_u32(vshll_n_u16::<16>(vcreate_u16(together(rows))))
                }
                fn f16_of_four(rows: &mut [*const u8; 4]) -> [float32x4_t; 4] {
                    let [first, last] = side_by_side(rows);
                    [widen(vget_low_u16(first)), widen_high(first), widen(vget_low_u16(last)), widen_high(last)]
                }
                fn bf16_of_four(rows: &mut [*const u8; 4]) -> [float32x4_t; 4] {
                    let [first, last] = side_by_side(rows);
                    // Written out: calls of the array's own methods are left in.
                    [
                        vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(first))),
                        vreinterpretq_f32_u32(vshll_high_n_u16::<16>(first)),
                        vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(last))),
                        vreinterpretq_f32_u32(vshll_high_n_u16::<16>(last)),
                    ]
                }
                fn fold(v: float32x4_t) -> [f32; 4] {
                    let mut lanes = [0.0; 4];
                    Self::store(lanes.as_mut_ptr(), v);
                    lanes
                }
                fn load_halves(p: *const u8) -> uint16x8_t { vreinterpretq_u16_u8(vld1q_u8(p)) }
                fn splat_half(p: *const u8) -> uint16x8_t { vdupq_n_u16(p.cast::<u16>().read_unaligned()) }
                fn fma_lower(a: uint16x8_t, b: uint16x8_t, c: float32x4_t) -> float32x4_t { $lower(c, a, b) }
                fn fma_upper(a: uint16x8_t, b: uint16x8_t, c: float32x4_t) -> float32x4_t { $upper(c, a, b) }
                fn prefetch_ahead<const N: u32>(p: *const u8) {
                    asm!(
                        "prfm pldl1strm, [{p}, #{bytes}]",
                        p = in(reg) p,
                        bytes = const N,
                        options(nostack, preserves_flags, readonly)
                    )
                }
                fn prefetch(p: *const u8) {
                    // A hint, of any address.
                    asm!("prfm pldl1strm, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly))
                }
            }
        }
    };
}

implement!(Neon, dot_by_pairs, false, no_matrix_product, no_half_product, no_half_product);
implement!(NeonDot, dot_product, false, no_matrix_product, no_half_product, no_half_product);
implement!(NeonMatrix, mixed_dot_product, true, matrix_product, lower_halves, upper_halves);
