use super::*;
use proptest::prelude::*;

fn options(temperature: f32, top_p: f32, seed: u64) -> SamplingOptions {
    SamplingOptions { temperature, top_p, seed: Some(seed), ..SamplingOptions::GREEDY }
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        8 => -30.0f32..30.0,
        1 => Just(f32::NAN),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(f32::MAX),
    ];
    proptest::collection::vec(logit, 1..40)
}

proptest! {
    #[test]
    fn chooses_only_usable_tokens(row in logits(), temperature in 0.0f32..3.0, top_p in 0.0f32..=1.0, seed: u64) {
        let usable = row.iter().any(|&logit| logit > f32::NEG_INFINITY);
        let token = Sampler::new(options(temperature, top_p, seed)).unwrap().sample(&mut row.clone());
        prop_assert_eq!(token.is_some(), usable);
        if let Some(token) = token {
            prop_assert!(row[token as usize] > f32::NEG_INFINITY);
        }
    }

    /// Nothing outside the smallest set that reaches top-p is ever drawn.
    #[test]
    fn stays_in_the_nucleus(row in proptest::collection::vec(-5.0f32..5.0, 1..30), top_p in 0.05f32..0.99, seed: u64) {
        let mut sampler = Sampler::new(options(1.0, top_p, seed)).unwrap();
        let weights: Vec<f64> = row.iter().map(|&logit| f64::from(logit).exp()).collect();
        let total: f64 = weights.iter().sum();
        for _ in 0..20 {
            let token = sampler.sample(&mut row.clone()).unwrap() as usize;
            let above: f64 = weights.iter().filter(|&&weight| weight > weights[token]).sum();
            prop_assert!(above < f64::from(top_p) * total * (1.0 + 1e-9));
        }
    }

    #[test]
    fn zero_temperature_and_tiny_nucleus_are_greedy(row in proptest::collection::vec(-5.0f32..5.0, 1..30), seed: u64) {
        let best = argmax(&row);
        for options in [options(0.0, 0.7, seed), options(0.8, 0.0, seed)] {
            prop_assert_eq!(Sampler::new(options).unwrap().sample(&mut row.clone()), best);
        }
    }

    /// Where a few of the largest logits decide, the others do not matter.
    #[test]
    fn what_decides_is_enough(row in logits(), temperature in 0.0f32..3.0, top_k in 0u32..6, top_p in 0.0f32..=1.0, seed: u64) {
        let options = SamplingOptions { top_k, ..options(temperature, top_p, seed) };
        let Some(count) = options.most_likely() else {
            prop_assert!(top_k == 0 && temperature >= 1e-6 && top_p > 0.0);
            return Ok(());
        };
        let usable = (0..row.len()).filter(|&token| row[token] > f32::NEG_INFINITY);
        let mut largest: Vec<usize> = usable.collect();
        largest.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        let mut few = vec![f32::NEG_INFINITY; row.len()];
        largest.iter().take(count as usize).for_each(|&token| few[token] = row[token]);
        let (mut all, mut of_few) = (Sampler::new(options.clone()).unwrap(), Sampler::new(options).unwrap());
        for _ in 0..5 {
            prop_assert_eq!(all.sample(&mut row.clone()), of_few.sample(&mut few.clone()));
        }
    }

    #[test]
    fn a_seed_fixes_the_answer(row in proptest::collection::vec(-5.0f32..5.0, 2..30), top_p in 0.3f32..=1.0, seed: u64) {
        let run = || {
            let mut sampler = Sampler::new(options(1.3, top_p, seed)).unwrap();
            (0..20).map(|_| sampler.sample(&mut row.clone()).unwrap()).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}

/// Pearson's statistic of draws against what they should be: below `limit` for all but one seed in a million.
fn chi_square(options: SamplingOptions, row: &[f32], expected: &[f64]) {
    const DRAWS: u32 = 40_000;
    /// Quantiles of the chi-square distribution at 1 - 1e-6 for 1 to 5 degrees of freedom.
    const LIMITS: [f64; 5] = [23.93, 27.63, 30.66, 33.38, 35.89];
    let mut sampler = Sampler::new(options.clone()).unwrap();
    let mut counts = vec![0u32; row.len()];
    (0..DRAWS).for_each(|_| counts[sampler.sample(&mut row.to_vec()).unwrap() as usize] += 1);
    let (mut statistic, mut classes) = (0.0, 0);
    for (&count, &probability) in counts.iter().zip(expected) {
        let wanted = probability * f64::from(DRAWS);
        if wanted == 0.0 {
            assert_eq!(count, 0, "{options:?}: {counts:?}");
        } else {
            statistic += (f64::from(count) - wanted).powi(2) / wanted;
            classes += 1;
        }
    }
    assert!(classes < 2 || statistic < LIMITS[classes - 2], "{options:?}: {counts:?}, {statistic}");
}

/// Shares that sum to 1.
fn shares<const N: usize>(weights: [f64; N]) -> [f64; N] {
    let total: f64 = weights.iter().sum();
    weights.map(|weight| weight / total)
}

#[test]
fn frequencies_are_those_of_the_definition() {
    let row = [1.0f32, 2.0, 5.0, 8.0, 4.0].map(f32::ln);
    let at = |change: fn(&mut SamplingOptions)| {
        let mut options = options(1.0, 1.0, 7);
        change(&mut options);
        options
    };
    chi_square(at(|_| ()), &row, &shares([1.0, 2.0, 5.0, 8.0, 4.0]));
    chi_square(at(|o| o.temperature = 0.5), &row, &shares([1.0, 4.0, 25.0, 64.0, 16.0]));
    chi_square(at(|o| o.top_p = 0.8), &row, &shares([0.0, 0.0, 5.0, 8.0, 4.0]));
    chi_square(at(|o| o.top_k = 2), &row, &shares([0.0, 0.0, 5.0, 8.0, 0.0]));
    chi_square(at(|o| o.top_k = 9), &row, &shares([1.0, 2.0, 5.0, 8.0, 4.0]));
    chi_square(at(|o| o.min_p = 0.24), &row, &shares([0.0, 2.0, 5.0, 8.0, 4.0]));
    chi_square(at(|o| o.min_p = 0.26), &row, &shares([0.0, 0.0, 5.0, 8.0, 4.0]));
    // The share of min-p is one of the probabilities after the temperature: 4 and 64.
    chi_square(at(|o| (o.temperature, o.min_p) = (0.5, 0.07)), &row, &shares([0.0, 0.0, 25.0, 64.0, 16.0]));
    // Of what top-k leaves, 13 of 17 are enough for top-p, where the whole would need all three.
    chi_square(at(|o| (o.top_k, o.top_p) = (3, 0.75)), &row, &shares([0.0, 0.0, 5.0, 8.0, 0.0]));
    chi_square(at(|o| (o.top_k, o.top_p, o.min_p) = (4, 0.99, 0.3)), &row, &shares([0.0, 0.0, 5.0, 8.0, 4.0]));
    chi_square(
        at(|o| o.logit_bias = vec![(0, 16.0f32.ln()), (3, -100.0), (99, 1.0)]),
        &row,
        &shares([16.0, 2.0, 5.0, 0.0, 4.0]),
    );
    // Ties go to the lower token.
    chi_square(at(|o| o.top_k = 2), &[0.0, 0.0, 0.0], &[0.5, 0.5, 0.0]);
    // A greedy answer is unmoved by what draws, and moved by the bias.
    chi_square(at(|o| (o.temperature, o.logit_bias) = (0.0, vec![(1, 9.0)])), &row, &[0.0, 1.0, 0.0, 0.0, 0.0]);
    chi_square(at(|o| o.top_k = 1), &row, &[0.0, 0.0, 0.0, 1.0, 0.0]);
}

/// Presence and frequency come off before the repetition factor, which depends on the sign.
#[test]
fn penalties_in_mlcs_order() {
    let options = SamplingOptions {
        repetition_penalty: 2.0,
        presence_penalty: 1.0,
        frequency_penalty: 0.5,
        ..SamplingOptions::GREEDY
    };
    let mut sampler = Sampler::new(options).unwrap();
    assert_eq!(sampler.sample(&mut [5.0, 0.0, -9.0]), Some(0));
    assert_eq!(sampler.sample(&mut [5.0, 0.0, -9.0]), Some(0));
    // Token 0 occurred twice: (5 - 1 - 2 * 0.5) / 2 = 1.5; a negative one is multiplied: (1 - 2) * 2 = -2.
    let mut row = [5.0, 1.0, -9.0];
    assert_eq!(sampler.sample(&mut row), Some(0));
    assert_eq!(row, [1.5, 1.0, -9.0]);
    let mut row = [1.5, -0.9, -9.0];
    assert_eq!(sampler.sample(&mut row), Some(1), "{row:?}");
    assert_eq!(row[0], (1.5 - 1.0 - 1.5) * 2.0);
}

#[test]
fn options_outside_their_range_are_refused() {
    for (name, options) in [
        ("temperature", SamplingOptions { temperature: f32::NAN, ..SamplingOptions::GREEDY }),
        ("temperature", SamplingOptions { temperature: -1.0, ..SamplingOptions::GREEDY }),
        ("top_p", SamplingOptions { top_p: 1.1, ..SamplingOptions::GREEDY }),
        ("min_p", SamplingOptions { min_p: -0.1, ..SamplingOptions::GREEDY }),
        ("logit_bias", SamplingOptions { logit_bias: vec![(0, 1.0), (1, f32::INFINITY)], ..SamplingOptions::GREEDY }),
        ("repetition_penalty", SamplingOptions { repetition_penalty: 0.0, ..SamplingOptions::GREEDY }),
    ] {
        assert_eq!(Sampler::new(options).unwrap_err().name, name);
    }
}
