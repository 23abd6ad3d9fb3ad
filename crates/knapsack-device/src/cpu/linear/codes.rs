//! How packed codes meet quantized activations.
//!
//! The words of a step (16 bytes) are unpacked to *quads*: four codes in the bytes of a lane, an element of K each. Unpacking
//! takes the codes as they are cheap to get, so the elements of a quad are no neighbours; activations are kept in the same order,
//! for `GROUPS` steps together: the first four quads of each of them, then the next four.

use crate::cpu::vector::Vector;
use knapsack_tensor::{DType, GROUPINGS, Grouping};

/// Most quads of a step.
pub(crate) const MAX_QUADS: usize = {
    let (mut most, mut index) = (0, 0);
    while index < GROUPINGS.len() {
        let quads = GROUPINGS[index].step() as usize / 4;
        most = if quads > most { quads } else { most };
        index += 1;
    }
    most
};

/// Elements of the longest step.
pub(crate) const MAX_STEP: usize = 4 * MAX_QUADS;

/// Elements of a step.
#[inline(always)]
pub(crate) const fn step<const BITS: u32>() -> usize {
    const { Grouping::of(BITS).step() as usize }
}

/// Quads of a step.
#[inline(always)]
pub(crate) const fn quads<const BITS: u32>() -> usize {
    step::<BITS>() / 4
}

/// Steps that share a scale.
#[inline(always)]
pub(crate) const fn steps_per_group<const BITS: u32>() -> usize {
    const { Grouping::of(BITS).steps_per_group() as usize }
}

/// Vectors that hold the activations of `GROUPS` steps.
#[inline(always)]
pub(crate) const fn fours<const BITS: u32>() -> usize {
    quads::<BITS>().div_ceil(4)
}

/// Bytes of activations before quad `quad` of a step, in vectors of `bytes` bytes.
#[inline(always)]
pub(crate) const fn quad_at(quad: usize, bytes: usize) -> usize {
    quad / 4 * bytes + quad % 4 * 4
}

/// Bytes of activations before those of step `step`.
#[inline(always)]
pub(crate) const fn step_at<V: Vector, const BITS: u32>(step: usize) -> usize {
    step / V::GROUPS * fours::<BITS>() * V::BYTES + step % V::GROUPS * 16
}

/// Which element of a step is byte `byte` of quad `quad`.
#[inline(always)]
pub(crate) const fn element(bits: u32, quad: usize, byte: usize) -> usize {
    if bits == 3 {
        // Five quads of two words: 0-3, 4-7, 10-13, 14-17, then what is left of both.
        let pair = quad / 5 * 20;
        return pair
            + match quad % 5 {
                4 => [8, 9, 18, 19][byte],
                quad => quad / 2 * 10 + quad % 2 * 4 + byte,
            };
    }
    let (per_word, per_byte) = (32 / bits as usize, 8 / bits as usize);
    quad / per_byte * per_word + byte * per_byte + quad % per_byte
}

/// Four 3-bit codes from the low 12 bits of each lane to its four bytes.
#[inline(always)]
unsafe fn spread3<V: Vector>(v: V::I) -> V::I {
    // SAFETY: registers only.
    unsafe {
        let low = V::or(V::and(v, V::isplat(0x7)), V::and(V::shl::<5>(v), V::isplat(0x700)));
        let high = V::or(V::and(V::shl::<10>(v), V::isplat(0x7_0000)), V::and(V::shl::<15>(v), V::isplat(0x700_0000)));
        V::or(low, high)
    }
}

/// The quads of a step whose words are in each lane of `words`; those beyond [`quads`] are undefined.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn unpack<V: Vector, const BITS: u32>(words: [V::I; 4]) -> [V::I; MAX_QUADS] {
    // SAFETY: registers only.
    unsafe {
        let mut out = [words[0]; MAX_QUADS];
        match BITS {
            3 => {
                for pair in 0..2 {
                    let [first, second] = [words[2 * pair], words[2 * pair + 1]];
                    let last = V::or(
                        V::and(spread3::<V>(V::shr::<24>(first)), V::isplat(0x0707)),
                        V::and(spread3::<V>(V::shl::<6>(V::shr::<24>(second))), V::isplat(0x0707_0000)),
                    );
                    out[5 * pair] = spread3::<V>(first);
                    out[5 * pair + 1] = spread3::<V>(V::shr::<12>(first));
                    out[5 * pair + 2] = spread3::<V>(second);
                    out[5 * pair + 3] = spread3::<V>(V::shr::<12>(second));
                    out[5 * pair + 4] = last;
                }
            }
            4 => {
                let nibbles = V::isplat(0x0f0f_0f0f);
                for w in 0..4 {
                    out[2 * w] = V::and(words[w], nibbles);
                    out[2 * w + 1] = V::high_nibbles(words[w]);
                }
            }
            8 => out[..4].copy_from_slice(&words),
            _ => unreachable!(),
        }
        out
    }
}

/// Whether quads of an odd number may stay 16 times what they are; see [`unpack_pairs`].
const fn high_quads_stay<V: Vector>(bits: u32) -> bool {
    bits == 4 && V::WIDE_CODES && !V::PAIRWISE
}

/// As [`unpack`], for dot products that [`join_pairs`] ends: where it saves a shift, quads of an odd number are left 16 times what
/// they are.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn unpack_pairs<V: Vector, const BITS: u32>(words: [V::I; 4]) -> [V::I; MAX_QUADS] {
    // SAFETY: registers only.
    unsafe {
        if !const { high_quads_stay::<V>(BITS) } {
            return unpack::<V, BITS>(words);
        }
        let mut out = [words[0]; MAX_QUADS];
        for w in 0..4 {
            out[2 * w] = V::and(words[w], V::isplat(0x0f0f_0f0f));
            out[2 * w + 1] = V::and(words[w], V::isplat(0xf0f0_f0f0_u32 as i32));
        }
        out
    }
}

/// The sum of the dot products of even quads and of odd ones, as [`unpack_pairs`] gives them; exact.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn join_pairs<V: Vector, const BITS: u32>([even, odd]: [V::I; 2]) -> V::I {
    // SAFETY: registers only.
    unsafe { V::iadd(even, if const { high_quads_stay::<V>(BITS) } { V::sar::<4>(odd) } else { odd }) }
}

/// Whether a step of a row is as many vectors of bytes as a byte has codes, which meet as many vectors of activations: what
/// [`planes`] gives.
pub(crate) const fn has_planes<V: Vector>(bits: u32) -> bool {
    V::PAIRWISE && (bits == 4 || bits == 8)
}

/// The first codes of all bytes of a step, and the second ones where a byte has two.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn planes<V: Vector, const BITS: u32>(words: V::I) -> [V::I; 2] {
    // SAFETY: registers only.
    unsafe {
        match BITS {
            4 => [V::and(words, V::isplat(0x0f0f_0f0f)), V::high_nibbles(words)],
            _ => [words, words],
        }
    }
}

/// The activations of a step that [`planes`] meet, of a vector with one group of lanes.
///
/// # Safety
/// The instruction set of `V` is available, the activations of a step are readable.
#[inline(always)]
pub(crate) unsafe fn act_planes<V: Vector, const BITS: u32>(acts: *const u8) -> [V::I; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        match BITS {
            4 => V::iload_unzipped(acts),
            _ => [V::iload(acts), V::isplat(0)],
        }
    }
}

/// `acc` and the products of a quad of codes with one of activations, in each lane.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn dot<V: Vector, const BITS: u32>(acc: V::I, codes: V::I, acts: V::I) -> V::I {
    // SAFETY: registers only.
    unsafe {
        if BITS <= 4 || V::WIDE_CODES {
            return V::dot(acc, codes, acts);
        }
        let nibbles = V::isplat(0x0f0f_0f0f);
        let high = V::dot(V::isplat(0), V::and(V::shr::<4>(codes), nibbles), acts);
        V::dot(V::iadd(acc, V::shl::<4>(high)), V::and(codes, nibbles), acts)
    }
}

/// The words of one step of four rows in each group of four lanes: `GROUPS` steps from each pointer.
///
/// # Safety
/// The instruction set of `V` is available; `BYTES` bytes are readable at each pointer.
#[inline(always)]
pub(crate) unsafe fn rows_to_lanes<V: Vector>(rows: [*const u8; 4]) -> [V::I; 4] {
    // SAFETY: the caller's promise.
    unsafe { V::transpose([V::iload(rows[0]), V::iload(rows[1]), V::iload(rows[2]), V::iload(rows[3])]) }
}

/// The scales (of 16 bits) of steps `step..step + GROUPS` of four rows, `per_group` (1 or 2) steps sharing one: those of row `r`
/// and the `g`-th step in lane `4 g + r`.
///
/// # Safety
/// The instruction set of `V` is available; each row has the scales of those steps.
#[inline(always)]
pub(crate) unsafe fn scales_of_rows<V: Vector>(
    dtype: DType,
    rows: [*const u8; 4],
    step: usize,
    per_group: usize,
) -> V::F {
    // SAFETY: as many scales are read as the steps have.
    unsafe {
        let mut bits = [0; 4];
        for r in 0..4 {
            let row = rows[r].add(step / per_group * 2);
            bits[r] = match (V::GROUPS, per_group) {
                (4, 1) => row.cast::<u64>().read_unaligned().to_le(),
                (2, 1) => row.cast::<u32>().read_unaligned().to_le().into(),
                (4, _) => {
                    let two = u64::from(row.cast::<u32>().read_unaligned().to_le());
                    ((two & 0xffff) * 0x1_0001) | (((two >> 16) * 0x1_0001) << 32)
                }
                _ => u64::from(row.cast::<u16>().read_unaligned().to_le()) * 0x1_0001,
            };
        }
        if dtype == DType::F16 { V::f16_of_rows(bits) } else { V::bf16_of_rows(bits) }
    }
}

/// `start` and the products of the planes of a row's step with those of activations: the sum of all lanes is that of the step.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
pub(crate) unsafe fn plane_dots<V: Vector, const BITS: u32>(start: V::I, codes: [V::I; 2], acts: [V::I; 2]) -> V::I {
    // SAFETY: registers only.
    unsafe {
        let first = dot::<V, BITS>(start, codes[0], acts[0]);
        match BITS {
            4 => dot::<V, BITS>(first, codes[1], acts[1]),
            _ => first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::arch::scalar::Scalar;
    use knapsack_tensor::{GroupFormat, Layout, WithBits, pack_group, with_bits};

    struct Unpacked([u32; 4]);

    impl WithBits for Unpacked {
        type Output = Vec<[u8; 4]>;
        fn run<const BITS: u32>(self) -> Vec<[u8; 4]> {
            // SAFETY: needs no instruction set.
            let all = unsafe { unpack::<Scalar, BITS>(self.0.map(|word| [word as i32; 4])) };
            all[..quads::<BITS>()].iter().map(|quad| quad[2].to_le_bytes()).collect()
        }
    }

    #[test]
    fn every_code_is_unpacked_to_its_place() {
        for &grouping in GROUPINGS {
            let format =
                GroupFormat { bits: grouping.bits, group: grouping.step(), layout: Layout::Nk, scale: DType::F16 };
            let codes: Vec<u8> = (0..format.group).map(|i| (i * 37 % (2 * format.max_int() + 1)) as u8).collect();
            let mut words = [0; 4];
            pack_group(&format, &codes, &mut words);
            let found = with_bits(grouping.bits, Unpacked(words)).unwrap();
            let mut seen = vec![false; codes.len()];
            for (quad, bytes) in found.into_iter().enumerate() {
                for (byte, code) in bytes.into_iter().enumerate() {
                    let element = element(grouping.bits, quad, byte);
                    assert_eq!(code, codes[element], "{grouping:?} quad {quad} byte {byte}");
                    assert!(!std::mem::replace(&mut seen[element], true));
                }
            }
            assert!(seen.iter().all(|&seen| seen));
        }
    }
}
