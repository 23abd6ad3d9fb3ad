//! Plain arrays of four lanes: runs everywhere, and shows what the other instruction sets must do.

use crate::cpu::vector::Vector;
use half::{bf16, f16};
use std::array::from_fn;

/// No particular instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn bytes(v: i32) -> [u8; 4] {
    v.to_le_bytes()
}

#[allow(unused_unsafe, reason = "arithmetic on arrays needs none")]
impl Vector for Scalar {
    const LANES: usize = 4;
    type F = [f32; 4];
    type I = [i32; 4];
    type H = ();

    methods! {
        fn splat(x: f32) -> [f32; 4] { [x; 4] }
        fn load(p: *const f32) -> [f32; 4] { p.cast::<[f32; 4]>().read_unaligned() }
        fn store(p: *mut f32, v: [f32; 4]) { p.cast::<[f32; 4]>().write_unaligned(v) }
        fn load_f16(p: *const u8) -> [f32; 4] {
            p.cast::<[u16; 4]>().read_unaligned().map(|bits| f16::from_bits(bits).to_f32())
        }
        fn load_bf16(p: *const u8) -> [f32; 4] {
            p.cast::<[u16; 4]>().read_unaligned().map(|bits| bf16::from_bits(bits).to_f32())
        }
        fn store_f16(p: *mut u8, v: [f32; 4]) {
            p.cast::<[u16; 4]>().write_unaligned(v.map(|x| f16::from_f32(x).to_bits()))
        }
        fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] { from_fn(|i| a[i] + b[i]) }
        fn sub(a: [f32; 4], b: [f32; 4]) -> [f32; 4] { from_fn(|i| a[i] - b[i]) }
        fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] { from_fn(|i| a[i] * b[i]) }
        fn div(a: [f32; 4], b: [f32; 4]) -> [f32; 4] { from_fn(|i| a[i] / b[i]) }
        fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
            // Two roundings: a fused one would be a library call without the instruction.
            from_fn(|i| a[i] * b[i] + c[i])
        }
        fn max(a: [f32; 4], b: [f32; 4]) -> [f32; 4] { from_fn(|i| a[i].max(b[i])) }
        fn min(a: [f32; 4], b: [f32; 4]) -> [f32; 4] { from_fn(|i| a[i].min(b[i])) }
        fn sum(v: [f32; 4]) -> f32 { (v[0] + v[2]) + (v[1] + v[3]) }
        fn largest(v: [f32; 4]) -> f32 { v[0].max(v[1]).max(v[2].max(v[3])) }
        fn isplat(x: i32) -> [i32; 4] { [x; 4] }
        fn iload(p: *const u8) -> [i32; 4] { p.cast::<[i32; 4]>().read_unaligned().map(i32::from_le) }
        fn iload_groups(p: [*const u8; 4]) -> [i32; 4] { Self::iload(p[0]) }
        fn istore(p: *mut u8, v: [i32; 4]) { p.cast::<[i32; 4]>().write_unaligned(v.map(i32::to_le)) }
        fn quad(p: *const u8) -> [i32; 4] { [i32::from_le(p.cast::<i32>().read_unaligned()); 4] }
        fn store_bytes(p: *mut u8, v: [i32; 4]) { p.cast::<[u8; 4]>().write_unaligned(v.map(|x| x as u8)) }
        fn iadd(a: [i32; 4], b: [i32; 4]) -> [i32; 4] { from_fn(|i| a[i].wrapping_add(b[i])) }
        fn isum(v: [i32; 4]) -> i32 { v.iter().fold(0, |sum, x| sum.wrapping_add(*x)) }
        fn and(a: [i32; 4], b: [i32; 4]) -> [i32; 4] { from_fn(|i| a[i] & b[i]) }
        fn or(a: [i32; 4], b: [i32; 4]) -> [i32; 4] { from_fn(|i| a[i] | b[i]) }
        fn shl<const N: u32>(v: [i32; 4]) -> [i32; 4] { v.map(|x| x << N) }
        fn shr<const N: u32>(v: [i32; 4]) -> [i32; 4] { v.map(|x| (x as u32 >> N) as i32) }
        fn sar<const N: u32>(v: [i32; 4]) -> [i32; 4] { v.map(|x| x >> N) }
        fn to_float(v: [i32; 4]) -> [f32; 4] { v.map(|x| x as f32) }
        fn to_int(v: [f32; 4]) -> [i32; 4] {
            // Adding and taking away 1.5 * 2^23 rounds to nearest even for all that is rounded here (|x| < 2^22).
            const MAGIC: f32 = 12_582_912.0;
            v.map(|x| ((x + MAGIC) - MAGIC) as i32)
        }
        fn as_float(v: [i32; 4]) -> [f32; 4] { v.map(|x| f32::from_bits(x as u32)) }
        fn as_int(v: [f32; 4]) -> [i32; 4] { v.map(|x| x.to_bits() as i32) }
        fn dot(acc: [i32; 4], codes: [i32; 4], acts: [i32; 4]) -> [i32; 4] {
            from_fn(|i| {
                let (codes, acts) = (bytes(codes[i]), bytes(acts[i]));
                let products = codes.iter().zip(acts).map(|(&c, a)| i32::from(c) * i32::from(a as i8));
                acc[i].wrapping_add(products.sum::<i32>())
            })
        }
        fn spread(p: *const f32) -> [f32; 4] { [p.read_unaligned(); 4] }
        fn ispread(p: *const i32) -> [i32; 4] { [p.read_unaligned(); 4] }
        fn transpose(v: [[i32; 4]; 4]) -> [[i32; 4]; 4] { from_fn(|r| from_fn(|c| v[c][r])) }
        fn float_sums(v: [[f32; 4]; 4]) -> [f32; 4] { v.map(|l| (l[0] + l[2]) + (l[1] + l[3])) }
        fn unzip(a: [i32; 4], b: [i32; 4]) -> [[i32; 4]; 2] { [[a[0], a[2], b[0], b[2]], [a[1], a[3], b[1], b[3]]] }
        fn zip(a: [i32; 4], b: [i32; 4]) -> [[i32; 4]; 2] { [[a[0], b[0], a[1], b[1]], [a[2], b[2], a[3], b[3]]] }
        fn octets(a: *const u8, b: *const u8) -> [i32; 4] {
            let ([a, b], [c, d]) = (a.cast::<[i32; 2]>().read_unaligned(), b.cast::<[i32; 2]>().read_unaligned());
            [a, b, c, d].map(i32::from_le)
        }
        fn quads(v: [i32; 4]) -> [[i32; 4]; 4] { v.map(|lane| [lane; 4]) }
        fn store_groups(p: *mut u8, _: usize, v: [i32; 4]) { Self::istore(p, v) }
        fn f16_of_rows(rows: [u64; 4]) -> [f32; 4] { rows.map(|row| f16::from_bits(row as u16).to_f32()) }
        fn bf16_of_rows(rows: [u64; 4]) -> [f32; 4] { rows.map(|row| bf16::from_bits(row as u16).to_f32()) }
        fn fold(v: [f32; 4]) -> [f32; 4] { v }
        fn prefetch(_: *const u8) {}
    }
}
