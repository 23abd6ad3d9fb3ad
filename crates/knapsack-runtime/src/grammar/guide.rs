use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Leads one answer along a grammar: says which tokens may come next, and which must.
///
/// The mask of the next token takes longer than anything else here (tens of microseconds for a large vocabulary, more for hard
/// grammars), so a thread of its own computes it while the device runs the model.
pub(crate) struct Guide {
    place: Place,
    /// Of the next token, once it is known.
    mask: Option<SimpleVob>,
    worker: Option<Worker>,
}

/// Where the matcher is.
enum Place {
    Here(Box<Matcher>),
    /// With the worker, which gives it back with the mask.
    AtWork,
}

type Masked = (Box<Matcher>, Result<SimpleVob, String>);

struct Worker {
    work: Sender<Box<Matcher>>,
    done: Receiver<Masked>,
}

fn mask(mut matcher: Box<Matcher>) -> Masked {
    let mask = matcher.compute_mask_or_eos().map_err(|error| format!("{error:#}"));
    (matcher, mask)
}

impl Guide {
    pub(super) fn new(matcher: Matcher) -> Self {
        let (work, orders) = channel();
        let (results, done) = channel();
        let run = move || orders.iter().map(mask).try_for_each(|masked| results.send(masked)).unwrap_or(());
        // Without a thread the mask is computed when it is needed.
        let worker = std::thread::Builder::new().name("grammar".into()).spawn(run).is_ok();
        Self { place: Place::Here(Box::new(matcher)), mask: None, worker: worker.then_some(Worker { work, done }) }
    }

    /// Begins to compute the mask of the next token.
    pub(crate) fn prepare(&mut self) {
        if let (Some(worker), Place::Here(_), None) = (&self.worker, &self.place, &self.mask)
            && let Place::Here(matcher) = std::mem::replace(&mut self.place, Place::AtWork)
            && let Err(returned) = worker.work.send(matcher)
        {
            self.place = Place::Here(returned.0);
        }
    }

    /// The tokens that may come next, where they are at most `most`.
    ///
    /// # Errors
    /// A grammar that needs more work than the library's limits allow.
    pub(crate) fn few(&mut self, most: usize) -> Result<Option<Vec<u32>>, String> {
        let mask = self.mask()?;
        Ok((mask.num_set() <= most).then(|| mask.to_list()))
    }

    /// Takes from `logits` what the grammar does not allow next. A token that ends the answer is allowed where the grammar is
    /// satisfied.
    ///
    /// # Errors
    /// As [`Guide::few`].
    pub(crate) fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String> {
        apply(self.mask()?, logits);
        Ok(())
    }

    /// The mask of the next token.
    fn mask(&mut self) -> Result<&SimpleVob, String> {
        let mask = match self.mask.take() {
            Some(mask) => mask,
            None => {
                let (matcher, mask) = match std::mem::replace(&mut self.place, Place::AtWork) {
                    Place::Here(matcher) => mask(matcher),
                    Place::AtWork => self.returned()?,
                };
                self.place = Place::Here(matcher);
                mask?
            }
        };
        Ok(self.mask.insert(mask))
    }

    fn returned(&self) -> Result<Masked, String> {
        let worker = self.worker.as_ref().ok_or("the matcher is lost")?;
        worker.done.recv().map_err(|_| "the grammar library contradicts itself".to_owned())
    }

    /// The answer goes on with `token`, which the mask allowed.
    ///
    /// # Errors
    /// As [`Guide::few`].
    pub(crate) fn accept(&mut self, token: u32) -> Result<(), String> {
        self.here()?.consume_token(token).map_err(|error| format!("{error:#}"))
    }

    /// The tokens that must come next, which the answer goes on with.
    ///
    /// # Errors
    /// As [`Guide::few`].
    pub(crate) fn forced(&mut self) -> Result<Vec<u32>, String> {
        let matcher = self.here()?;
        if matcher.is_stopped() {
            return Ok(Vec::new());
        }
        let tokens = matcher.compute_ff_tokens();
        matcher.consume_tokens(&tokens).map_err(|error| format!("{error:#}"))?;
        Ok(tokens)
    }

    /// Whether nothing may follow any more.
    pub(crate) fn is_over(&self) -> bool {
        matches!(&self.place, Place::Here(matcher) if matcher.is_stopped())
    }

    /// The matcher, to be moved on.
    fn here(&mut self) -> Result<&mut Matcher, String> {
        if let Place::AtWork = self.place {
            self.place = Place::Here(self.returned()?.0);
        }
        self.mask = None;
        match &mut self.place {
            Place::Here(matcher) => Ok(matcher),
            Place::AtWork => Err("the matcher is lost".to_owned()),
        }
    }
}

/// Sets the logits of tokens that are not in the mask to negative infinity, 32 tokens at a time where all or none are.
fn apply(mask: &SimpleVob, logits: &mut [f32]) {
    let words = mask.as_slice();
    for (row, logits) in logits.chunks_mut(32).enumerate() {
        match words.get(row).copied().unwrap_or(0) {
            u32::MAX => {}
            0 => logits.fill(f32::NEG_INFINITY),
            word => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_takes_what_it_does_not_hold() {
        let mut mask = SimpleVob::alloc(100);
        mask.allow_range(32..=63);
        mask.allow_token(70);
        let mut logits: Vec<f32> = (0..110).map(|id| id as f32).collect();
        apply(&mask, &mut logits);
        for (id, logit) in logits.into_iter().enumerate() {
            let allowed = (32..64).contains(&id) || id == 70;
            assert_eq!(logit, if allowed { id as f32 } else { f32::NEG_INFINITY });
        }
        let mut all = SimpleVob::alloc(64);
        all.set_all(true);
        let mut logits = vec![f32::NAN, -0.0];
        apply(&all, &mut logits);
        assert!(logits[0].is_nan() && logits[1].to_bits() == (-0.0f32).to_bits());
    }
}
