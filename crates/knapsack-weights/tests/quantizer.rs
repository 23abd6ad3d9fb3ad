//! The fast quantizer against the scalar codec, bit for bit.

use knapsack_tensor::{DType, GroupFormat, QUANTIZATIONS, pack_group, quantize_group};
use knapsack_weights::element::{Bf16, Element, F16, F32, Rounding};
use knapsack_weights::quantize::{Quantized, Scratch, quantize_rows};
use proptest::prelude::*;

/// Codes and scales of `values`, `k` to a row, by the scalar codec.
fn scalar(format: &GroupFormat, model: DType, k: usize, values: &[f32]) -> (Vec<u32>, Vec<f32>) {
    let (mut all_words, mut scales) = (Vec::new(), Vec::new());
    for row in values.chunks_exact(k) {
        for group in row.chunks(format.group as usize) {
            let mut codes = vec![0; group.len()];
            scales.push(quantize_group(format, model, group, &mut codes));
            let mut words = vec![0; format.words_per_group() as usize];
            pack_group(format, &codes, &mut words);
            all_words.extend(words);
        }
    }
    (all_words, scales)
}

fn fast<S: Element>(format: &GroupFormat, model: DType, k: usize, source: &[u8]) -> (Vec<u32>, Vec<f32>) {
    let rows = source.len() / S::BYTES / k;
    let mut codes = vec![u32::MAX; rows * format.words(k as u64) as usize];
    let mut scales = vec![f32::NAN; rows * format.groups(k as u64) as usize];
    let (mut scratch, mut out) = (Scratch::default(), Quantized { codes: &mut codes, scales: &mut scales });
    match model {
        DType::F16 => quantize_rows::<S, F16>(format, k, source, &mut scratch, &mut out),
        DType::BF16 => quantize_rows::<S, Bf16>(format, k, source, &mut scratch, &mut out),
        _ => quantize_rows::<S, F32>(format, k, source, &mut scratch, &mut out),
    }
    (codes, scales)
}

fn compare<S: Element + Rounding>(k: usize, values: &[f32], source: &[u8]) {
    for quantization in QUANTIZATIONS {
        let Some(format) = quantization.linear() else { continue };
        let model = quantization.model_dtype;
        let (codes, scales) = fast::<S>(&format, model, k, source);
        let (expected_codes, expected_scales) = scalar(&format, model, k, values);
        assert_eq!(codes, expected_codes, "{quantization} from {}", S::DTYPE);
        let bits = |list: &[f32]| list.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&scales), bits(&expected_scales), "{quantization} from {}", S::DTYPE);
    }
}

/// Compares for all three source types; `values` are rounded to each.
fn compare_all(k: usize, values: &[f32]) {
    let rounded: Vec<half::bf16> = values.iter().map(|&x| half::bf16::from_f32(x)).collect();
    let exact: Vec<f32> = rounded.iter().map(|x| x.to_f32()).collect();
    compare::<Bf16>(k, &exact, &rounded.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    let rounded: Vec<half::f16> = values.iter().map(|&x| half::f16::from_f32(x)).collect();
    let exact: Vec<f32> = rounded.iter().map(|x| x.to_f32()).collect();
    compare::<F16>(k, &exact, &rounded.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    compare::<F32>(k, values, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
}

/// Weights as they are, numbers on rounding boundaries, tiny and huge ones, and any bit pattern.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -0.2f32..0.2,
        2 => (-15i32..=15, -24i32..4).prop_map(|(n, e)| n as f32 * 2f32.powi(e)),
        1 => Just(0.0),
        1 => (-40i32..40).prop_map(|n| n as f32 * 2f32.powi(-25)),
        1 => -70000f32..70000.0,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn codes_and_scales_are_those_of_the_scalar_codec(k in 1usize..200, seed in proptest::collection::vec(value(), 1..400)) {
        let values: Vec<f32> = seed.iter().copied().cycle().take(k * 3).collect();
        compare_all(k, &values);
    }

    #[test]
    fn any_bit_pattern_is_treated_alike(bits in proptest::collection::vec(any::<u32>(), 80)) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        compare_all(80, &values);
        // The same, with small exponents only, so that groups are not all infinite.
        let small: Vec<f32> = values.iter().map(|x| f32::from_bits(x.to_bits() & 0x81ff_ffff | 0x3800_0000)).collect();
        compare_all(80, &small);
    }
}

/// Every quotient that 16-bit sources can give lies near a rounding boundary for some scale: go through many systematically.
#[test]
fn rounding_boundaries_are_hit_exactly() {
    let mut values = Vec::new();
    for largest in [0.013f32, 0.02, 0.1, 0.37, 1.0, 6.9, 7.0, 7.1] {
        for step in 0..2000 {
            if step % 31 == 0 {
                values.push(largest);
            }
            values.push(largest * (step as f32 / 1000.0 - 1.0));
        }
    }
    values.truncate(values.len() / 32 * 32);
    compare_all(32, &values);
}
