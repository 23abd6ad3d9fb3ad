//! From logits to a token, in MLC's order: presence and frequency penalty, repetition penalty, temperature, softmax, top-p, draw.
//! Penalties count the tokens that were generated, not those of the prompt.

use crate::chat_config::SamplingDefaults;
use crate::rng::{SplitMix64, random_seed};
use std::collections::HashMap;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits; 0 takes the most likely token always.
    pub temperature: f32,
    /// Draws from the smallest set of tokens whose probabilities sum to at least this; 1 is off, 0 takes the most likely one.
    pub top_p: f32,
    /// Logits of tokens that occurred are divided by it when positive and multiplied otherwise; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens that occurred.
    pub presence_penalty: f32,
    /// Subtracted for each occurrence.
    pub frequency_penalty: f32,
    /// The same seed, options and logits give the same tokens on every platform. `None`: another seed each time.
    pub seed: Option<u64>,
}

impl SamplingOptions {
    /// Always the most likely token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed: Some(0),
    };

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first option that is outside its range.
    pub fn validate(&self) -> Result<(), InvalidSampling> {
        let range = |name, value: f32, range: std::ops::RangeInclusive<f32>| match range.contains(&value) {
            true => Ok(()),
            false => Err(InvalidSampling { name, value, low: *range.start(), high: *range.end() }),
        };
        range("temperature", self.temperature, 0.0..=100.0)?;
        range("top_p", self.top_p, 0.0..=1.0)?;
        range("repetition_penalty", self.repetition_penalty, 0.01..=100.0)?;
        range("presence_penalty", self.presence_penalty, -100.0..=100.0)?;
        range("frequency_penalty", self.frequency_penalty, -100.0..=100.0)
    }
}

impl From<SamplingDefaults> for SamplingOptions {
    fn from(defaults: SamplingDefaults) -> Self {
        let SamplingDefaults { temperature, top_p, repetition_penalty, presence_penalty, frequency_penalty } = defaults;
        Self { temperature, top_p, repetition_penalty, presence_penalty, frequency_penalty, seed: None }
    }
}

/// A sampling option outside its range (or not a number).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}, expected {low} to {high}")]
pub struct InvalidSampling {
    /// The option.
    pub name: &'static str,
    /// Its value.
    pub value: f32,
    /// Smallest accepted value.
    pub low: f32,
    /// Largest accepted value.
    pub high: f32,
}

/// The sampling state of one answer.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    rng: SplitMix64,
    occurred: HashMap<u32, u32>,
    /// Weights relative to the most likely token, by token; reused from call to call.
    weights: Vec<f64>,
}

impl Sampler {
    /// A sampler that has seen nothing.
    ///
    /// # Errors
    /// Options outside their ranges.
    pub fn new(options: SamplingOptions) -> Result<Self, InvalidSampling> {
        options.validate()?;
        let rng = SplitMix64::new(options.seed.unwrap_or_else(random_seed));
        Ok(Self { options, rng, occurred: HashMap::new(), weights: Vec::new() })
    }

    /// Chooses a token and counts it; changes `logits` by the penalties. `None` when no logit is a usable number: not-a-number
    /// and negative infinity are never chosen.
    pub fn sample(&mut self, logits: &mut [f32]) -> Option<u32> {
        self.penalize(logits);
        let token = match self.options {
            SamplingOptions { temperature, .. } if temperature < 1e-6 => argmax(logits),
            SamplingOptions { top_p, .. } if top_p <= 0.0 => argmax(logits),
            _ => self.draw(logits),
        }?;
        *self.occurred.entry(token).or_default() += 1;
        Some(token)
    }

    fn penalize(&self, logits: &mut [f32]) {
        let SamplingOptions { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.options;
        if repetition_penalty == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0 {
            return;
        }
        for (&token, &count) in &self.occurred {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            *logit -= presence_penalty + count as f32 * frequency_penalty;
            *logit = if *logit < 0.0 { *logit * repetition_penalty } else { *logit / repetition_penalty };
        }
    }

    fn draw(&mut self, logits: &[f32]) -> Option<u32> {
        let likely = argmax(logits)?;
        let highest = f64::from(logits[likely as usize]);
        if highest == f64::INFINITY {
            return Some(likely);
        }
        let temperature = f64::from(self.options.temperature);
        self.weights.clear();
        self.weights.extend(logits.iter().map(|&logit| match logit.is_nan() {
            true => 0.0,
            false => ((f64::from(logit) - highest) / temperature).exp(),
        }));
        let total: f64 = self.weights.iter().sum();
        let uniform = self.rng.unit();
        if self.options.top_p >= 1.0 {
            return Some(pick(self.weights.iter().copied().enumerate(), uniform * total).unwrap_or(likely));
        }
        let needed = f64::from(self.options.top_p) * total;
        // Tokens below this together weigh less than what the nucleus leaves out, so none of them is in it.
        let least = (total - needed) / self.weights.len() as f64;
        let mut nucleus: Vec<(usize, f64)> =
            self.weights.iter().copied().enumerate().filter(|&(_, weight)| weight > 0.0 && weight >= least).collect();
        nucleus.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut sum = 0.0;
        let size = nucleus.iter().position(|&(_, weight)| {
            sum += weight;
            sum >= needed
        });
        nucleus.truncate(size.map_or(nucleus.len(), |last| last + 1));
        Some(pick(nucleus.iter().copied(), uniform * sum).unwrap_or(likely))
    }
}

/// The token at which the running sum passes `target`.
fn pick(weights: impl Iterator<Item = (usize, f64)>, target: f64) -> Option<u32> {
    let mut sum = 0.0;
    let mut last = None;
    for (token, weight) in weights.filter(|&(_, weight)| weight > 0.0) {
        sum += weight;
        last = Some(token as u32);
        if sum > target {
            break;
        }
    }
    last
}

/// The first of the largest logits; `None` when there is none above negative infinity.
pub(crate) fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.map_or(f32::NEG_INFINITY, |(_, highest)| highest) {
            best = Some((token as u32, logit));
        }
    }
    best.map(|(token, _)| token)
}

#[cfg(test)]
mod tests {
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

        #[test]
        fn a_seed_fixes_the_answer(row in proptest::collection::vec(-5.0f32..5.0, 2..30), top_p in 0.3f32..=1.0, seed: u64) {
            let run = || {
                let mut sampler = Sampler::new(options(1.3, top_p, seed)).unwrap();
                (0..20).map(|_| sampler.sample(&mut row.clone()).unwrap()).collect::<Vec<_>>()
            };
            prop_assert_eq!(run(), run());
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let row = [1.0f32.ln(), 2.0f32.ln(), 5.0f32.ln()];
        for (top_p, expected) in [(1.0, [0.125, 0.25, 0.625]), (0.8, [0.0, 2.0 / 7.0, 5.0 / 7.0])] {
            let mut sampler = Sampler::new(options(1.0, top_p, 7)).unwrap();
            let mut counts = [0u32; 3];
            (0..20_000).for_each(|_| counts[sampler.sample(&mut row.clone()).unwrap() as usize] += 1);
            for (count, probability) in counts.into_iter().zip(expected) {
                assert!((f64::from(count) / 20_000.0 - probability).abs() < 0.015, "{counts:?} for top_p {top_p}");
            }
        }
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
            ("repetition_penalty", SamplingOptions { repetition_penalty: 0.0, ..SamplingOptions::GREEDY }),
        ] {
            assert_eq!(Sampler::new(options).unwrap_err().name, name);
        }
    }
}
