//! The scalar definition of group quantization, one group at a time.

use crate::{DType, GroupFormat};
use half::{bf16, f16};

/// Rounds to `dtype` and back, as arithmetic in that type does after every step.
fn round_to(dtype: DType, x: f32) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::BF16 => bf16::from_f32(x).to_f32(),
        DType::F32 | DType::U32 => x,
    }
}

/// Quantizes one group of at most `format.group` values, writing a code per value, and returns the scale. Every step is
/// rounded to `model_dtype`: `scale = max|w| / max_int`, `code = clamp(round_half_even(w / scale + max_int), 0, 2 * max_int)`.
/// A group of zeros has scale 0 and codes 0.
///
/// # Panics
/// When `codes` is shorter than `values`.
pub fn quantize_group(format: &GroupFormat, model_dtype: DType, values: &[f32], codes: &mut [u8]) -> f32 {
    let max_int = format.max_int() as f32;
    let largest = values.iter().fold(0.0f32, |m, &w| m.max(round_to(model_dtype, w).abs()));
    let scale = round_to(model_dtype, largest / max_int);
    for (code, &w) in codes[..values.len()].iter_mut().zip(values) {
        let quotient = round_to(model_dtype, round_to(model_dtype, w) / scale);
        let shifted = round_to(model_dtype, quotient + max_int);
        // 0/0 is NaN, which becomes 0; where a tiny maximum makes a scale of 0, the quotients are infinite and saturate.
        *code = shifted.round_ties_even().clamp(0.0, 2.0 * max_int) as u8;
    }
    scale
}

/// Packs codes into words, lowest bits first; missing codes are 0.
///
/// # Panics
/// When `words` is not `format.words_per_group()` long or there are more codes than fit.
pub fn pack_group(format: &GroupFormat, codes: &[u8], words: &mut [u32]) {
    assert_eq!(words.len(), format.words_per_group() as usize);
    assert!(codes.len() <= format.group as usize);
    words.fill(0);
    let per_word = format.codes_per_word() as usize;
    for (j, &code) in codes.iter().enumerate() {
        words[j / per_word] |= u32::from(code) << ((j % per_word) as u32 * format.bits);
    }
}

/// The codes of one packed group: the inverse of [`pack_group`].
///
/// # Panics
/// When `words` holds fewer codes than are asked for.
pub fn unpack_group(format: &GroupFormat, words: &[u32], codes: &mut [u8]) {
    let per_word = format.codes_per_word() as usize;
    let mask = (1u32 << format.bits) - 1;
    for (j, code) in codes.iter_mut().enumerate() {
        *code = ((words[j / per_word] >> ((j % per_word) as u32 * format.bits)) & mask) as u8;
    }
}

/// Dequantizes codes with exact products: `(code - max_int) * scale`.
pub fn dequantize_group(format: &GroupFormat, codes: &[u8], scale: f32, values: &mut [f32]) {
    let max_int = format.max_int() as f32;
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = (f32::from(code) - max_int) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{QUANTIZATIONS, Quantization};
    use proptest::prelude::*;
    use std::str::FromStr;

    fn formats() -> impl Iterator<Item = (Quantization, GroupFormat)> {
        QUANTIZATIONS.into_iter().filter_map(|q| Some((q, q.linear()?)))
    }

    #[test]
    fn a_group_of_zeros_has_scale_and_codes_zero() {
        for (q, format) in formats() {
            let mut codes = vec![9; format.group as usize];
            assert_eq!(quantize_group(&format, q.model_dtype, &vec![0.0; codes.len()], &mut codes), 0.0);
            assert!(codes.iter().all(|&c| c == 0));
        }
    }

    #[test]
    fn a_scale_that_rounds_to_zero_saturates_the_codes() {
        let format = Quantization::from_str("q4f16_1").unwrap().linear().unwrap();
        let tiny = f32::powi(2.0, -24);
        let mut codes = [9; 3];
        assert_eq!(quantize_group(&format, DType::F16, &[tiny, -tiny, 0.0], &mut codes), 0.0);
        assert_eq!(codes, [14, 0, 0]);
    }

    proptest! {
        #[test]
        fn packing_round_trips(codes in proptest::collection::vec(0u8..7, 1..=40)) {
            for (_, format) in formats() {
                let codes = &codes[..codes.len().min(format.group as usize)];
                let mut words = vec![0; format.words_per_group() as usize];
                pack_group(&format, codes, &mut words);
                let mut back = vec![0; codes.len()];
                unpack_group(&format, &words, &mut back);
                prop_assert_eq!(codes, &back[..]);
            }
        }

        #[test]
        fn an_error_is_at_most_half_a_step_and_rounding(values in proptest::collection::vec(-4.0f32..4.0, 32)) {
            for (q, format) in formats() {
                let mut codes = vec![0; values.len()];
                let scale = quantize_group(&format, q.model_dtype, &values, &mut codes);
                let mut back = vec![0.0; values.len()];
                dequantize_group(&format, &codes, scale, &mut back);
                for (a, b) in values.iter().zip(&back) {
                    prop_assert!((a - b).abs() <= scale * 0.5 + 4.0 * 0.02, "{a} {b} {scale}");
                }
            }
        }
    }
}
