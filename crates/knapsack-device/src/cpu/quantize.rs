//! Activations to int8: symmetric, one scale for each group of the weights they will meet, in the order of [`Order`].

use super::task::{Linear, Order};
use super::vector::{MAX_LANES, Vector, load_some, store_some};
use crate::cpu::task::Matrix;

/// Largest group, and room for a last vector beyond it.
const ROOM: usize = 40 + MAX_LANES;

/// Quantizes row `t` of the input: `scale = max|x| / 127`, `code = round(x / scale)`.
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold; `t < task.n`.
#[inline(always)]
pub(crate) unsafe fn quantize<V: Vector>(task: &Linear, t: usize) {
    let (group, max_int) = match task.matrix {
        Matrix::Grouped { bits: 3, .. } => (40, 3),
        _ => (32, 7),
    };
    let groups = task.k.div_ceil(group);
    // SAFETY: row `t` of input and scratch; scale and correction arrays have `acts.groups` entries.
    unsafe {
        let input = task.input.add(t * task.k);
        let (codes, scales, corrections) = (task.acts.codes(t), task.acts.scales(t), task.acts.corrections(t));
        for g in 0..task.acts.groups {
            let mut natural = [0u8; ROOM];
            let (scale, sum) = if g < groups {
                quantize_group::<V>(input.add(g * group), group.min(task.k - g * group), group, &mut natural)
            } else {
                (0.0, 0)
            };
            scales.add(g).write(scale);
            corrections.add(g).write(-max_int * sum);
            match task.order {
                Order::Words3 if g < groups => words3(&natural, codes.add(g * 40)),
                Order::Words3 => {}
                // Padding groups lie inside `acts.codes` for both: 4 groups of 32 are what a block has at most.
                Order::Words4 => (0..4).for_each(|i| {
                    let [even, odd] = split(&natural, i);
                    codes.add(g * 32 + 8 * i).cast::<[u32; 2]>().write_unaligned([even, odd]);
                }),
                Order::Rows => {
                    let block = codes.add(g / V::GROUPS * 2 * V::BYTES + g % V::GROUPS * 16);
                    (0..4).for_each(|i| {
                        let [even, odd] = split(&natural, i);
                        block.add(4 * i).cast::<u32>().write_unaligned(even);
                        block.add(V::BYTES + 4 * i).cast::<u32>().write_unaligned(odd);
                    });
                }
            }
        }
    }
}

/// The scale and the sum of codes of up to `group` elements, whose codes go to `natural`.
///
/// # Safety
/// `count` floats are readable at `x`.
#[inline(always)]
unsafe fn quantize_group<V: Vector>(x: *const f32, count: usize, group: usize, natural: &mut [u8; ROOM]) -> (f32, i32) {
    // SAFETY: reads stay below `count`; the padded copy has `ROOM` elements, a multiple of every vector's beyond 40.
    unsafe {
        let mut padded = [0.0f32; ROOM];
        let mut x = x;
        if count < group || !group.is_multiple_of(V::LANES) {
            for i in (0..count).step_by(V::LANES) {
                let v = load_some::<V>(x.add(i), count - i);
                store_some::<V>(padded.as_mut_ptr().add(i), v, count - i);
            }
            x = padded.as_ptr();
        }
        let mut largest = V::splat(0.0);
        for i in (0..group).step_by(V::LANES) {
            let v = V::load(x.add(i));
            largest = V::max(largest, V::max(v, V::sub(V::splat(0.0), v)));
        }
        let largest = V::largest(largest);
        // Below this the quotient is not finite; such a group is as good as zero. An infinity spoils its group.
        if !(largest > 1e-30 && largest < f32::INFINITY) {
            return (if largest <= 1e-30 { 0.0 } else { largest }, 0);
        }
        let inverse = V::splat(127.0 / largest);
        let mut sum = V::isplat(0);
        for i in (0..group).step_by(V::LANES) {
            // The bounds matter for NaN only, whose integer would be anything.
            let quotient = V::mul(V::load(x.add(i)), inverse);
            let code = V::to_int(V::min(V::max(quotient, V::splat(-127.0)), V::splat(127.0)));
            sum = V::iadd(sum, code);
            V::store_bytes(natural.as_mut_ptr().add(i), code);
        }
        (largest / 127.0, V::isum(sum))
    }
}

/// The even and the odd ones of elements `8 i..8 i + 8`.
#[inline(always)]
fn split(natural: &[u8; ROOM], i: usize) -> [u32; 2] {
    let eight = u64::from_le_bytes([
        natural[8 * i],
        natural[8 * i + 1],
        natural[8 * i + 2],
        natural[8 * i + 3],
        natural[8 * i + 4],
        natural[8 * i + 5],
        natural[8 * i + 6],
        natural[8 * i + 7],
    ]);
    [compress(eight), compress(eight >> 8)]
}

/// Bytes 0, 2, 4, 6.
#[inline(always)]
fn compress(eight: u64) -> u32 {
    let x = eight & 0x00ff_00ff_00ff_00ff;
    let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    (x | x >> 16) as u32
}

/// One group of 40 in the order of [`Order::Words3`].
///
/// # Safety
/// 40 bytes are writable at `to`.
#[inline(always)]
unsafe fn words3(natural: &[u8; ROOM], to: *mut u8) {
    const ORDER: [usize; 20] = [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 8, 9, 18, 19];
    for (i, from) in ORDER.into_iter().enumerate() {
        // SAFETY: `i + 20 < 40`.
        unsafe {
            to.add(i).write(natural[from]);
            to.add(20 + i).write(natural[20 + from]);
        }
    }
}
