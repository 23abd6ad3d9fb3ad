//! The fast quantizer: the arithmetic of `knapsack_tensor::quantize_group`, bit for bit, in a form that the compiler turns into
//! vector instructions. The instruction set is chosen at run time (`pulp`); without one of the wide sets the same code runs as
//! compiled for the baseline.

use crate::element::{Element, Rounding};
use knapsack_tensor::{GROUPINGS, GroupFormat, Grouping, WithBits, with_bits};
use std::marker::PhantomData;

/// Where a block's codes and scales go. Rows are those of the block.
pub struct Quantized<'a> {
    /// `(rows, words)`, row-major whatever the format's layout.
    pub codes: &'a mut [u32],
    /// `(rows, groups)`, rounded to the model dtype, row-major.
    pub scales: &'a mut [f32],
}

/// Quantizes `rows` of `k` elements each. `source` holds them as the checkpoint does, `S` being their type and `R` the model
/// dtype that every step is rounded to. `row` is scratch.
///
/// # Panics
/// When a slice is shorter than `rows`, `k` and `format` ask for.
pub fn quantize_rows<S: Element, R: Rounding>(
    format: &GroupFormat,
    k: usize,
    source: &[u8],
    row: &mut Vec<f32>,
    out: &mut Quantized<'_>,
) {
    row.clear();
    row.resize(k.next_multiple_of(format.group as usize), 0.0);
    pulp::Arch::new().dispatch(Rows::<S, R> { format, k, source, row, out, types: PhantomData });
}

/// The work of [`quantize_rows`], compiled once for each instruction set.
struct Rows<'a, 'b, S, R> {
    format: &'a GroupFormat,
    k: usize,
    source: &'a [u8],
    row: &'a mut [f32],
    out: &'a mut Quantized<'b>,
    types: PhantomData<(S, R)>,
}

impl<S: Element, R: Rounding> pulp::WithSimd for Rows<'_, '_, S, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: pulp::Simd>(self, _: V) {
        with_bits(self.format.bits, self).expect("the format is one of those that can be converted to");
    }
}

impl<S: Element, R: Rounding> WithBits for Rows<'_, '_, S, R> {
    type Output = ();

    #[inline(always)]
    fn run<const BITS: u32>(self) {
        let format = const { Grouping::of(BITS) };
        let (group, words) = (format.group as usize, format.words_per_group() as usize);
        let groups = self.row.len() / group;
        let scales = self.out.scales.chunks_exact_mut(groups);
        let codes = self.out.codes.chunks_exact_mut(words * groups);
        for ((source, scales), codes) in self.source.chunks_exact(self.k * S::BYTES).zip(scales).zip(codes) {
            S::decode::<R>(source, &mut self.row[..self.k]);
            let values = self.row.chunks_exact(group);
            for (index, ((values, scale), words)) in values.zip(scales).zip(codes.chunks_exact_mut(words)).enumerate() {
                let mut packed = [0; MAX_GROUP];
                let packed = &mut packed[..group];
                *scale = quantize_group::<R>(format.max_int() as f32, values, packed);
                // Codes of the padding are 0, not those of the value 0.
                let used = self.k - index * group;
                if used < group {
                    packed[used..].fill(0);
                }
                pack::<BITS>(packed, words);
            }
        }
    }
}

/// Elements of the largest group.
const MAX_GROUP: usize = {
    let (mut largest, mut index) = (0, 0);
    while index < GROUPINGS.len() {
        let group = GROUPINGS[index].group as usize;
        largest = if group > largest { group } else { largest };
        index += 1;
    }
    largest
};

#[inline(always)]
fn pack<const BITS: u32>(codes: &[u8], words: &mut [u32]) {
    let per_word = const { 32 / BITS } as usize;
    for (word, codes) in words.iter_mut().zip(codes.chunks_exact(per_word)) {
        *word = if let (4, Ok(eight)) = (BITS, codes.try_into()) {
            // Eight bytes of one code each, folded in halves.
            let x = u64::from_le_bytes(eight);
            let x = (x | (x >> 4)) & 0x00ff_00ff_00ff_00ff;
            let x = (x | (x >> 8)) & 0x0000_ffff_0000_ffff;
            (x | (x >> 16)) as u32
        } else {
            codes.iter().rfold(0, |word, &code| word << BITS | u32::from(code))
        };
    }
}

#[inline(always)]
fn quantize_group<R: Rounding>(max_int: f32, values: &[f32], codes: &mut [u8]) -> f32 {
    // Lanes of maxima, so that the reduction has no long chain.
    let mut maxima = [0.0f32; 8];
    for eight in values.as_chunks::<8>().0 {
        for (largest, value) in maxima.iter_mut().zip(eight) {
            let magnitude = value.abs();
            // A comparison with NaN is false: NaN is passed over, as by `f32::max`.
            *largest = if magnitude > *largest { magnitude } else { *largest };
        }
    }
    let mut largest = 0.0f32;
    for lane in maxima {
        largest = if lane > largest { lane } else { largest };
    }
    let scale = R::round(largest / max_int);
    for (code, &value) in codes.iter_mut().zip(values) {
        let shifted = R::round_normal(R::round_normal(value / scale) + max_int);
        // NaN (0/0 in a group of zeros) becomes 0 here.
        let shifted = if shifted > 0.0 { shifted } else { 0.0 };
        let shifted = if shifted < 2.0 * max_int { shifted } else { 2.0 * max_int };
        // Above 2^23 a float32 has no fraction: the addition rounds half to even, the low bits are the integer.
        *code = (shifted + 8_388_608.0).to_bits() as u8;
    }
    scale
}
