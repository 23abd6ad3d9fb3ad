//! From logits to a token, in this order:
//!
//! 1. the logit bias is added, presence and frequency penalty are subtracted, the repetition penalty divides or multiplies (MLC's
//!    order; penalties count the tokens of the answer, not those of the prompt);
//! 2. a grammar's mask removes tokens;
//! 3. the temperature divides, softmax makes probabilities of logits;
//! 4. top-k, then top-p over what top-k left, then min-p remove unlikely tokens (the order of transformers' `generate`);
//! 5. one of the rest is drawn by its probability.
//!
//! Log probabilities that a caller asks for are those of the model itself, before step 1.

mod logprobs;

pub use logprobs::{LogProb, TokenLogProbs};

use crate::rng::{SplitMix64, random_seed};
use std::collections::HashMap;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits; 0 takes the most likely token always.
    pub temperature: f32,
    /// Draws from this many of the most likely tokens; 0 is off.
    pub top_k: u32,
    /// Draws from the smallest set of tokens whose probabilities sum to at least this; 1 is off, 0 takes the most likely one.
    pub top_p: f32,
    /// Leaves out tokens that are less likely than this share of the most likely one; 0 is off.
    pub min_p: f32,
    /// Logits of tokens that occurred are divided by it when positive and multiplied otherwise; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens that occurred.
    pub presence_penalty: f32,
    /// Subtracted for each occurrence.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens; tokens outside the vocabulary are ignored.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed, options and logits give the same tokens on every platform. `None`: another seed each time.
    pub seed: Option<u64>,
}

impl SamplingOptions {
    /// Always the most likely token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
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
        range("min_p", self.min_p, 0.0..=1.0)?;
        range("repetition_penalty", self.repetition_penalty, 0.01..=100.0)?;
        range("presence_penalty", self.presence_penalty, -100.0..=100.0)?;
        range("frequency_penalty", self.frequency_penalty, -100.0..=100.0)?;
        self.logit_bias.iter().try_for_each(|&(_, bias)| range("logit_bias", bias, -100.0..=100.0))
    }

    /// How many of the largest logits decide on the token; `None` where all of them do.
    pub(crate) fn most_likely(&self) -> Option<u32> {
        let &Self { repetition_penalty, presence_penalty, frequency_penalty, top_k, .. } = self;
        let penalties = repetition_penalty != 1.0 || presence_penalty != 0.0 || frequency_penalty != 0.0;
        if penalties || !self.logit_bias.is_empty() {
            return None;
        }
        if self.is_greedy() { Some(1) } else { Some(top_k).filter(|&count| count > 0) }
    }

    fn is_greedy(&self) -> bool {
        self.temperature < 1e-6 || self.top_p <= 0.0 || self.top_k == 1
    }
}

impl Default for SamplingOptions {
    /// By the model's own probabilities: everything else is off.
    fn default() -> Self {
        Self { temperature: 1.0, seed: None, ..Self::GREEDY }
    }
}

/// A sampling option outside its range (or not a number).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}, expected {low} to {high}")]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub struct InvalidSampling {
    pub name: &'static str,
    pub value: f32,
    /// Smallest accepted value.
    pub low: f32,
    /// Largest accepted value.
    pub high: f32,
}

/// The sampling state of one answer.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    options: SamplingOptions,
    rng: SplitMix64,
    occurred: HashMap<u32, u32>,
    /// Weights relative to the most likely token, by token; reused from call to call.
    weights: Vec<f64>,
    /// Tokens that may be drawn, with their weights; reused from call to call.
    candidates: Vec<(usize, f64)>,
}

impl Sampler {
    /// A sampler that has seen nothing.
    ///
    /// # Errors
    /// Options outside their ranges.
    pub(crate) fn new(options: SamplingOptions) -> Result<Self, InvalidSampling> {
        options.validate()?;
        let rng = SplitMix64::new(options.seed.unwrap_or_else(random_seed));
        Ok(Self { options, rng, occurred: HashMap::new(), weights: Vec::new(), candidates: Vec::new() })
    }

    /// Chooses a token and counts it; changes `logits` by bias and penalties. `None` when no logit is a usable number:
    /// not-a-number and negative infinity are never chosen.
    pub(crate) fn sample(&mut self, logits: &mut [f32]) -> Option<u32> {
        self.adjust(logits);
        let token = if self.options.is_greedy() { argmax(logits) } else { self.draw(logits) }?;
        self.accept(token);
        Some(token)
    }

    /// Counts a token that was not drawn but given, for the penalties.
    pub(crate) fn accept(&mut self, token: u32) {
        *self.occurred.entry(token).or_default() += 1;
    }

    fn adjust(&self, logits: &mut [f32]) {
        for &(token, bias) in &self.options.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        let &SamplingOptions { repetition_penalty, presence_penalty, frequency_penalty, .. } = &self.options;
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
        self.weights.extend(logits.iter().map(|&logit| match logit.is_nan() || logit == f32::NEG_INFINITY {
            true => 0.0,
            false => ((f64::from(logit) - highest) / temperature).exp(),
        }));
        let uniform = self.rng.unit();
        if self.options.top_k == 0 && self.options.top_p >= 1.0 && self.options.min_p <= 0.0 {
            let total: f64 = self.weights.iter().sum();
            return Some(pick(self.weights.iter().copied().enumerate(), uniform * total).unwrap_or(likely));
        }
        self.choose_candidates();
        let total: f64 = self.candidates.iter().map(|&(_, weight)| weight).sum();
        Some(pick(self.candidates.iter().copied(), uniform * total).unwrap_or(likely))
    }

    /// Top-k, top-p and min-p. Ties go to the lower token.
    fn choose_candidates(&mut self) {
        let &SamplingOptions { top_k, top_p, min_p, .. } = &self.options;
        let descending = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        self.candidates.clear();
        self.candidates.extend(self.weights.iter().copied().enumerate().filter(|&(_, weight)| weight > 0.0));
        if top_k > 0 && (top_k as usize) < self.candidates.len() {
            self.candidates.select_nth_unstable_by(top_k as usize, descending);
            self.candidates.truncate(top_k as usize);
            // Back in the vocabulary's order, so that no sum depends on how the tokens were selected.
            self.candidates.sort_unstable_by_key(|&(token, _)| token);
        }
        if top_p < 1.0 {
            let total: f64 = self.candidates.iter().map(|&(_, weight)| weight).sum();
            let needed = f64::from(top_p) * total;
            // Tokens below this together weigh less than what the nucleus leaves out, so none of them is in it.
            let outside = (total - needed) / self.candidates.len() as f64;
            self.candidates.retain(|&(_, weight)| weight >= outside);
            self.candidates.sort_unstable_by(descending);
            let mut sum = 0.0;
            let size = self.candidates.iter().position(|&(_, weight)| {
                sum += weight;
                sum >= needed
            });
            self.candidates.truncate(size.map_or(self.candidates.len(), |last| last + 1));
        } else {
            self.candidates.sort_unstable_by(descending);
        }
        // The most likely token weighs 1.
        self.candidates.retain(|&(_, weight)| weight >= f64::from(min_p));
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
mod tests;
