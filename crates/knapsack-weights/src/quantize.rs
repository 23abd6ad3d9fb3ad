//! The fast quantizer: the arithmetic of `knapsack_tensor::quantize_group`, bit for bit, with vectors. The instruction set is chosen at run
//! time (`pulp`). Decoding and packing are loops that the compiler turns into vector instructions; maxima and codes are written with
//! `pulp`'s vectors, since what the compiler makes of their short loops was mostly scalar.

use crate::element::{Element, Rounding};
use knapsack_tensor::{GroupFormat, Grouping, WithBits, with_bits};
use pulp::{Simd, WithSimd};
use std::marker::PhantomData;

/// Where a block's codes and scales go. Rows are those of the block.
pub struct Quantized<'a> {
    /// `(rows, words)`, row-major whatever the format's layout.
    pub codes: &'a mut [u32],
    /// `(rows, groups)`, rounded to the model dtype, row-major.
    pub scales: &'a mut [f32],
}

/// A row on its way, kept from row to row.
#[derive(Default)]
pub struct Scratch {
    values: Vec<f32>,
    /// What the values of each group are divided by, or multiplied with ([`Rounding::BY_INVERSE`]).
    divisors: Vec<f32>,
    codes: Vec<u32>,
    /// A code in each: packed when the row is whole, so that nothing waits for what was just written.
    bytes: Vec<u8>,
}

/// Quantizes `rows` of `k` elements each. `source` holds them as the checkpoint does, `S` being their type and `R` the model
/// dtype that every step is rounded to.
///
/// # Panics
/// When a slice is shorter than `rows`, `k` and `format` ask for.
pub fn quantize_rows<S: Element, R: Rounding>(
    format: &GroupFormat,
    k: usize,
    source: &[u8],
    scratch: &mut Scratch,
    out: &mut Quantized<'_>,
) {
    let padded = k.next_multiple_of(format.group as usize);
    scratch.values.clear();
    scratch.values.resize(padded, 0.0);
    scratch.divisors.resize(padded / format.group as usize, 0.0);
    scratch.codes.resize(padded, 0);
    scratch.bytes.resize(padded, 0);
    pulp::Arch::new().dispatch(Rows::<S, R> { format, k, source, scratch, out, types: PhantomData });
}

/// The work of [`quantize_rows`], compiled once for each instruction set.
struct Rows<'a, 'b, S, R> {
    format: &'a GroupFormat,
    k: usize,
    source: &'a [u8],
    scratch: &'a mut Scratch,
    out: &'a mut Quantized<'b>,
    types: PhantomData<(S, R)>,
}

impl<S: Element, R: Rounding> WithSimd for Rows<'_, '_, S, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: Simd>(self, simd: V) {
        with_bits(self.format.bits, Vectors { rows: self, simd })
            .expect("the format is one of those that can be converted to");
    }
}

/// The work with vectors of an instruction set.
struct Vectors<V, T> {
    simd: V,
    rows: T,
}

impl<V: Simd, S: Element, R: Rounding> WithBits for Vectors<V, Rows<'_, '_, S, R>> {
    type Output = ();

    #[inline(always)]
    fn run<const BITS: u32>(self) {
        let format = const { Grouping::of(BITS) };
        let group = format.group as usize;
        let Vectors { simd, rows: Rows { k, source, scratch, out, .. } } = self;
        let Scratch { values, divisors, codes, bytes } = scratch;
        let groups = values.len() / group;
        let scales = out.scales.chunks_exact_mut(groups);
        let words = out.codes.chunks_exact_mut(format.words_per_group() as usize * groups);
        for ((source, scales), words) in source.chunks_exact(k * S::BYTES).zip(scales).zip(words) {
            S::decode::<R>(source, &mut values[..k]);
            // Step by step over the row, so that no group waits for the one before.
            for (values, scale) in values.chunks_exact(group).zip(&mut *scales) {
                *scale = largest(simd, values);
            }
            let max_int = format.max_int() as f32;
            for (scale, divisor) in scales.iter_mut().zip(&mut *divisors) {
                *scale = R::round(*scale / max_int);
                *divisor = if R::BY_INVERSE { 1.0 / *scale } else { *scale };
            }
            let groups = values.chunks_exact(group).zip(codes.chunks_exact_mut(group)).zip(&*divisors);
            for ((values, codes), divisor) in groups {
                Quantizer::<V, R>::new(simd, *divisor, max_int).codes(values, codes);
            }
            for (byte, code) in bytes.iter_mut().zip(&*codes) {
                *byte = *code as u8;
            }
            // Codes of the padding are 0, not those of the value 0.
            bytes[k..].fill(0);
            pack::<BITS>(bytes, words);
        }
    }
}

/// Codes, one in each byte, to words, lowest bits first.
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

/// The largest magnitude.
#[inline(always)]
fn largest<V: Simd>(simd: V, values: &[f32]) -> f32 {
    let (vectors, rest) = V::as_simd_f32s(values);
    let mut maxima = simd.splat_f32s(0.0);
    let mut meet = |vector| {
        let magnitude = simd.abs_f32s(vector);
        // A comparison with NaN is false: NaN is passed over, as by `f32::max`.
        maxima = simd.select_f32s(simd.greater_than_f32s(magnitude, maxima), magnitude, maxima);
    };
    vectors.iter().for_each(|vector| meet(*vector));
    if !rest.is_empty() {
        meet(simd.partial_load_f32s(rest));
    }
    simd.reduce_max_f32s(maxima)
}

/// What quantizes the values of a group.
struct Quantizer<V: Simd, R> {
    simd: V,
    /// The scale, or its inverse ([`Rounding::BY_INVERSE`]).
    divisor: V::f32s,
    max_int: V::f32s,
    types: PhantomData<R>,
}

impl<V: Simd, R: Rounding> Quantizer<V, R> {
    #[inline(always)]
    fn new(simd: V, divisor: f32, max_int: f32) -> Self {
        Quantizer { simd, divisor: simd.splat_f32s(divisor), max_int: simd.splat_f32s(max_int), types: PhantomData }
    }

    /// Codes, the lowest byte of each.
    #[inline(always)]
    fn codes(&self, values: &[f32], codes: &mut [u32]) {
        let (vectors, rest) = V::as_simd_f32s(values);
        let (code_vectors, code_rest) = V::as_mut_simd_u32s(codes);
        for (vector, codes) in vectors.iter().zip(code_vectors) {
            *codes = self.vector(*vector);
        }
        if !rest.is_empty() {
            self.simd.partial_store_u32s(code_rest, self.vector(self.simd.partial_load_f32s(rest)));
        }
    }

    #[inline(always)]
    fn vector(&self, values: V::f32s) -> V::u32s {
        let Quantizer { simd, divisor, max_int, .. } = *self;
        let quotients = if R::BY_INVERSE { simd.mul_f32s(values, divisor) } else { simd.div_f32s(values, divisor) };
        let shifted = R::round_normals(simd, simd.add_f32s(R::round_normals(simd, quotients), max_int));
        // NaN (0/0 in a group of zeros) becomes 0 here.
        let zero = simd.splat_f32s(0.0);
        let shifted = simd.select_f32s(simd.greater_than_f32s(shifted, zero), shifted, zero);
        let shifted = simd.min_f32s(shifted, simd.add_f32s(max_int, max_int));
        // Above 2^23 a float32 has no fraction: the addition rounds half to even, the low bits are the integer.
        simd.transmute_u32s_f32s(simd.add_f32s(shifted, simd.splat_f32s(8_388_608.0)))
    }
}
