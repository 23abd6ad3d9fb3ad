/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogProb {
    /// Its id in the vocabulary.
    pub token: u32,
    /// Logarithm of the probability that the model gives it, by softmax over the whole vocabulary; negative infinity for a
    /// probability of 0.
    pub logprob: f32,
}

/// What the model thought of a token of the answer, and of its rivals.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogProbs {
    /// The token of the answer.
    pub chosen: LogProb,
    /// The most likely tokens, most likely first, ties by token; as many as were asked for.
    pub top: Vec<LogProb>,
}

impl TokenLogProbs {
    /// The probabilities of `chosen` and of the `top` most likely tokens in a row of logits. Values that are no number count as
    /// impossible.
    pub(crate) fn of(logits: &[f32], top: usize, chosen: u32) -> Self {
        let highest = logits.iter().copied().filter(|logit| !logit.is_nan()).fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| if logit.is_nan() { 0.0 } else { (f64::from(logit) - f64::from(highest)).exp() };
        let total: f64 = logits.iter().map(|&logit| weight(logit)).sum();
        let log_total = f64::from(highest) + total.ln();
        let log_prob = |token: u32| match logits.get(token as usize) {
            Some(logit) if !logit.is_nan() => LogProb { token, logprob: (f64::from(*logit) - log_total) as f32 },
            _ => LogProb { token, logprob: f32::NEG_INFINITY },
        };
        let mut ranked: Vec<u32> = (0..logits.len() as u32).filter(|&token| !logits[token as usize].is_nan()).collect();
        let order = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
        if top < ranked.len() {
            ranked.select_nth_unstable_by(top, order);
            ranked.truncate(top);
        }
        ranked.sort_unstable_by(order);
        Self { chosen: log_prob(chosen), top: ranked.into_iter().map(log_prob).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_softmax_over_the_whole_vocabulary() {
        let row = [1.0f32.ln(), 5.0f32.ln(), f32::NAN, 2.0f32.ln(), f32::NEG_INFINITY, 2.0f32.ln()];
        let found = TokenLogProbs::of(&row, 3, 0);
        let close = |found: LogProb, token: u32, probability: f32| {
            found.token == token && (found.logprob - probability.ln()).abs() < 1e-6
        };
        assert!(close(found.chosen, 0, 0.1), "{found:?}");
        assert_eq!(found.top.len(), 3);
        assert!(close(found.top[0], 1, 0.5) && close(found.top[1], 3, 0.2) && close(found.top[2], 5, 0.2), "{found:?}");
        assert_eq!(TokenLogProbs::of(&row, 0, 2).chosen.logprob, f32::NEG_INFINITY);
        assert_eq!(TokenLogProbs::of(&row, 20, 0).top.len(), 5);
    }
}
