//! The fast quantizer: the arithmetic of `knapsack_tensor::quantize_group`, bit for bit, in a form that the compiler turns into
//! vector instructions. The instruction set is chosen at run time (`pulp`); without one of the wide sets the same code runs as
//! compiled for the baseline.

use crate::element::{Element, Rounding};
use knapsack_tensor::GroupFormat;
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
        match self.format.bits {
            3 => rows::<S, R, Three>(self.k, self.source, self.row, self.out),
            _ => rows::<S, R, Four>(self.k, self.source, self.row, self.out),
        }
    }
}

/// The numbers of a group format, known when compiling.
trait Group {
    /// Code of the value 0.
    const MAX_INT: f32;
    /// One element for each value of a group.
    type Codes: AsMut<[u8]> + AsRef<[u8]> + Copy;
    const ZERO: Self::Codes;
    /// Elements of a group.
    const LEN: usize;
    fn pack(codes: &Self::Codes, words: &mut [u32]);
}

struct Four;

impl Group for Four {
    const MAX_INT: f32 = 7.0;
    const LEN: usize = 32;
    type Codes = [u8; 32];
    const ZERO: [u8; 32] = [0; 32];

    #[inline(always)]
    fn pack(codes: &[u8; 32], words: &mut [u32]) {
        for (word, eight) in words.iter_mut().zip(codes.as_chunks::<8>().0) {
            // Eight bytes of one code each, folded in halves.
            let x = u64::from_le_bytes(*eight);
            let x = (x | (x >> 4)) & 0x00ff_00ff_00ff_00ff;
            let x = (x | (x >> 8)) & 0x0000_ffff_0000_ffff;
            *word = (x | (x >> 16)) as u32;
        }
    }
}

struct Three;

impl Group for Three {
    const MAX_INT: f32 = 3.0;
    const LEN: usize = 40;
    type Codes = [u8; 40];
    const ZERO: [u8; 40] = [0; 40];

    #[inline(always)]
    fn pack(codes: &[u8; 40], words: &mut [u32]) {
        for (word, ten) in words.iter_mut().zip(codes.as_chunks::<10>().0) {
            let mut packed = 0;
            for (j, &code) in ten.iter().enumerate() {
                packed |= u32::from(code) << (3 * j);
            }
            *word = packed;
        }
    }
}

#[inline(always)]
fn rows<S: Element, R: Rounding, G: Group>(k: usize, source: &[u8], row: &mut [f32], out: &mut Quantized<'_>) {
    let groups = row.len() / G::LEN;
    let bytes = k * S::BYTES;
    let scales = out.scales.chunks_exact_mut(groups);
    let codes = out.codes.chunks_exact_mut(4 * groups);
    for ((source, scales), codes) in source.chunks_exact(bytes).zip(scales).zip(codes) {
        S::decode::<R>(source, &mut row[..k]);
        let words = codes.chunks_exact_mut(4);
        for (index, ((values, scale), words)) in row.chunks_exact(G::LEN).zip(scales).zip(words).enumerate() {
            let mut packed = G::ZERO;
            *scale = group::<R, G>(values, &mut packed);
            // Codes of the padding are 0, not those of the value 0.
            let used = k - index * G::LEN;
            if used < G::LEN {
                packed.as_mut()[used..].fill(0);
            }
            G::pack(&packed, words);
        }
    }
}

#[inline(always)]
fn group<R: Rounding, G: Group>(values: &[f32], codes: &mut G::Codes) -> f32 {
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
    let scale = R::round(largest / G::MAX_INT);
    for (code, &value) in codes.as_mut().iter_mut().zip(values) {
        let shifted = R::round_normal(R::round_normal(value / scale) + G::MAX_INT);
        // NaN (0/0 in a group of zeros) becomes 0 here.
        let shifted = if shifted > 0.0 { shifted } else { 0.0 };
        let shifted = if shifted < 2.0 * G::MAX_INT { shifted } else { 2.0 * G::MAX_INT };
        // Above 2^23 a float32 has no fraction: the addition rounds half to even, the low bits are the integer.
        *code = (shifted + 8_388_608.0).to_bits() as u8;
    }
    scale
}
