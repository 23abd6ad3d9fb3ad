use crate::activity::{Activity, Permit};
use crate::cancel::CancelFlag;
use crate::error::EngineError;
use knapsack_artifact::library::{MemoryPlan, ModelInfo};
use knapsack_artifact::plan::KvLayer;
use knapsack_device::{DeviceError, LoadedModel, StateCopy, Watch};

/// Which logits are wanted; the others are negative infinity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Logits {
    All,
    /// Those of these tokens.
    Of(Vec<u32>),
    /// So many of the largest, of equal ones the lower token first; or more of them.
    Top(u32),
}

/// Says which logits are wanted, given how many tokens are few for the device. Asked while the device is at the token before.
pub(crate) type Wanted<'a> = dyn FnMut(usize) -> Result<Logits, EngineError> + 'a;

/// A loaded model and the tokens that are in its KV cache.
///
/// What a model's recurrent layers remember cannot be shortened as a cache can: such a model goes on from the last token, from where
/// its state was set aside, with the windows that went on since ([`Session::prefill_keeping`]), or from the beginning.
///
/// What the cache is said to hold was computed, for certain: after a failure of the device, whenever it comes to light, it holds
/// nothing, and after a call that was cancelled only what was complete before.
pub struct Session {
    model: Box<dyn LoadedModel>,
    cached: Vec<u32>,
    /// One past the highest position that was written since position 0 was: slots of a ring may hold anything up to here.
    written: u32,
    /// Whether the model's states are those after all tokens of `cached`. Of a model without any: always.
    certain: bool,
    /// How many tokens of `cached` the states that were set aside are of.
    kept: Option<u32>,
    /// Logits of the last token.
    logits: Vec<f32>,
    /// Whether it may compute.
    activity: Option<Activity>,
}

impl Session {
    /// A session with an empty cache.
    pub fn new(model: Box<dyn LoadedModel>) -> Self {
        Self { model, cached: Vec::new(), written: 0, certain: true, kept: None, logits: Vec::new(), activity: None }
    }

    /// Computes only while `activity` is not paused; calls then end with [`EngineError::Paused`], and what was complete stays.
    #[must_use]
    pub fn with_activity(mut self, activity: Activity) -> Self {
        self.activity = Some(activity);
        self
    }

    /// Leave to compute.
    fn permit(&self) -> Result<Option<Permit>, EngineError> {
        self.activity.as_ref().map(|activity| activity.enter().ok_or(EngineError::Paused)).transpose()
    }

    pub(crate) fn model(&mut self) -> &mut dyn LoadedModel {
        &mut *self.model
    }

    /// One past the highest position that was written.
    pub(crate) fn written(&self) -> u32 {
        self.written
    }

    /// How many tokens the states that were set aside are of.
    pub(crate) fn kept(&self) -> Option<u32> {
        self.kept
    }

    /// Forgets the tokens that the states may not be those of.
    pub(crate) fn forget_uncertain(&mut self) -> Result<(), DeviceError> {
        if self.certain { Ok(()) } else { self.return_to(self.return_point(self.cached.len())) }
    }

    /// Says what the cache and the states hold, after they were replaced.
    pub(crate) fn put_back(&mut self, cached: Vec<u32>, written: u32, kept: Option<u32>) {
        (self.cached, self.written, self.certain, self.kept) = (cached, written, true, kept);
    }

    /// What is known of the model without its weights.
    pub fn info(&self) -> &ModelInfo {
        &self.model.library().model
    }

    /// What the device allocated.
    pub fn memory(&self) -> MemoryPlan {
        self.model.memory()
    }

    /// Bytes per second that the device reads its memory with, measured now; `None` where that is the machine's memory.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn read_bandwidth(&mut self) -> Result<Option<f64>, EngineError> {
        let _permit = self.permit()?;
        self.model.read_bandwidth().map_err(|error| self.failed(error))
    }

    /// The tokens in the cache.
    pub fn cached(&self) -> &[u32] {
        &self.cached
    }

    /// Whether another token fits.
    pub(crate) fn is_full(&self) -> bool {
        self.cached.len() >= self.capacity()
    }

    fn capacity(&self) -> usize {
        self.info().context_window_size.unwrap_or(u32::MAX) as usize
    }

    /// Forgets the conversation.
    pub fn reset(&mut self) {
        self.cached.clear();
        (self.written, self.certain, self.kept) = (0, true, None);
    }

    /// Whether the model has layers that remember without a cache.
    pub(crate) fn is_recurrent(&self) -> bool {
        !self.model.library().states.is_empty()
    }

    /// Makes the cache hold exactly `prompt`, computing only what it does not hold already, and leaves the logits of the last
    /// token. Returns how many tokens were taken from the cache.
    ///
    /// # Errors
    /// An empty prompt, one that is longer than the context, a token outside the vocabulary, a raised flag (what was computed
    /// stays in the cache), or the device's own failures (the cache is empty then).
    pub fn prefill(&mut self, prompt: &[u32], cancel: &CancelFlag) -> Result<usize, EngineError> {
        self.prefill_keeping(prompt, None, cancel)
    }

    /// The same, and a model with recurrent layers sets its states aside after the first `keep` tokens, to come back to them: for
    /// prompts of which only that much will be the beginning of the next.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn prefill_keeping(
        &mut self,
        prompt: &[u32],
        keep: Option<usize>,
        cancel: &CancelFlag,
    ) -> Result<usize, EngineError> {
        self.prefill_for(prompt, keep, cancel, &mut |_| Ok(Logits::All))
    }

    /// [`Session::prefill_keeping`] where perhaps not all logits are wanted; the others are negative infinity.
    pub(crate) fn prefill_for(
        &mut self,
        prompt: &[u32],
        keep: Option<usize>,
        cancel: &CancelFlag,
        wanted: &mut Wanted<'_>,
    ) -> Result<usize, EngineError> {
        self.check(prompt)?;
        let _permit = self.permit()?;
        let common = self.cached.iter().zip(prompt).take_while(|(cached, token)| cached == token).count();
        // The last token is always computed, for its logits.
        let reused = self.return_point(common.min(prompt.len() - 1));
        self.return_to(reused).map_err(|error| self.failed(error))?;
        let keep = keep.filter(|&keep| self.is_recurrent() && keep > reused && keep < prompt.len()).unwrap_or(reused);
        let mut last = 0;
        for (part, is_kept) in [(&prompt[reused..keep], true), (&prompt[keep..], false)] {
            for tokens in part.chunks(self.step()) {
                self.forward(tokens, cancel)?;
                last = tokens.len() as u32 - 1;
            }
            if is_kept && !part.is_empty() {
                self.keep_states()?;
            }
        }
        self.read_logits(last, wanted)?;
        Ok(reused)
    }

    /// The most of the first `common` cached tokens that can be gone on from.
    fn return_point(&self, common: usize) -> usize {
        if !self.is_recurrent() {
            return if self.can_return_to(common as u32) { common } else { 0 };
        }
        let whole = Some(self.cached.len()).filter(|&whole| whole <= common && self.is_there(whole));
        let kept = self.kept.map(|kept| kept as usize).filter(|&kept| kept <= common);
        whole.max(kept).unwrap_or(0)
    }

    /// Makes the cache and the states those of the first `position` tokens, which [`Session::return_point`] gave.
    fn return_to(&mut self, position: usize) -> Result<(), DeviceError> {
        if position == 0 {
            self.reset();
            return Ok(());
        }
        if self.is_recurrent() && !(position == self.cached.len() && self.is_there(position)) {
            self.model.copy_states(position as u32, StateCopy::Current)?;
            // Rings hold this position's window again, whatever went through them since.
            self.written = position as u32;
        }
        self.cached.truncate(position);
        self.certain = true;
        self.kept = self.kept.filter(|&kept| kept as usize <= position);
        Ok(())
    }

    /// Sets the states aside.
    fn keep_states(&mut self) -> Result<(), EngineError> {
        self.kept = None;
        self.model.copy_states(self.cached.len() as u32, StateCopy::Kept).map_err(|error| self.failed(error))?;
        self.kept = Some(self.cached.len() as u32);
        Ok(())
    }

    /// Appends a token and leaves its logits.
    ///
    /// # Errors
    /// A full context, a token outside the vocabulary, or a failure of the device.
    pub fn decode(&mut self, token: u32) -> Result<(), EngineError> {
        self.decode_for(token, &Logits::All)
    }

    /// Appends a token and leaves the largest of its logits: where the device finds that one by itself the others are negative infinity.
    ///
    /// # Errors
    /// As [`Session::decode`].
    pub fn decode_greedily(&mut self, token: u32) -> Result<(), EngineError> {
        self.decode_for(token, &Logits::Top(1))
    }

    fn decode_for(&mut self, token: u32, wanted: &Logits) -> Result<(), EngineError> {
        self.check(&[token])?;
        if self.is_full() {
            return Err(EngineError::PromptTooLong { tokens: self.cached.len() + 1, context: self.capacity() as u32 });
        }
        let _permit = self.permit()?;
        self.settle(&())?;
        self.forward(&[token], &())?;
        self.read_logits(0, &mut |_| Ok(wanted.clone()))
    }

    /// Appends tokens, in as few steps as the model's prefill allows, and leaves the logits of the last.
    ///
    /// # Errors
    /// As [`Session::decode`], and a raised flag, which leaves those that were appended.
    pub fn append(&mut self, tokens: &[u32], cancel: &CancelFlag) -> Result<(), EngineError> {
        self.append_for(tokens, cancel, &mut |_| Ok(Logits::All))
    }

    /// [`Session::append`] where perhaps not all logits are wanted; the others are negative infinity.
    pub(crate) fn append_for(
        &mut self,
        tokens: &[u32],
        cancel: &CancelFlag,
        wanted: &mut Wanted<'_>,
    ) -> Result<(), EngineError> {
        self.check(tokens)?;
        let total = self.cached.len() + tokens.len();
        if total > self.capacity() {
            return Err(EngineError::PromptTooLong { tokens: total, context: self.capacity() as u32 });
        }
        let _permit = self.permit()?;
        self.settle(cancel)?;
        let mut last = 0;
        for part in tokens.chunks(self.step()) {
            self.forward(part, cancel)?;
            last = part.len() as u32 - 1;
        }
        self.read_logits(last, wanted)
    }

    /// After a call that was cancelled: makes the states those of the cached tokens again, by what was set aside or from the beginning.
    fn settle(&mut self, watch: &dyn Watch) -> Result<(), EngineError> {
        if self.certain {
            return Ok(());
        }
        let cached = self.cached.clone();
        self.forget_uncertain().map_err(|error| self.failed(error))?;
        for part in cached[self.cached.len()..].chunks(self.step()) {
            self.forward(part, watch)?;
        }
        Ok(())
    }

    /// How many more tokens fit.
    pub fn room(&self) -> usize {
        self.capacity().saturating_sub(self.cached.len())
    }

    /// The logits of the last token, to be changed at will.
    pub fn logits(&mut self) -> &mut [f32] {
        &mut self.logits
    }

    /// Computes `tokens` from an empty cache and gives the logits of every position to `sink`.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn score(
        &mut self,
        tokens: &[u32],
        cancel: &CancelFlag,
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        self.check(tokens)?;
        let _permit = self.permit()?;
        self.reset();
        for part in tokens.chunks(self.step()) {
            let start = self.cached.len();
            self.forward(part, cancel)?;
            for row in 0..part.len() {
                self.read_logits(row as u32, &mut |_| Ok(Logits::All))?;
                sink(start + row, &self.logits);
            }
        }
        Ok(())
    }

    fn check(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let info = self.info();
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if tokens.len() > self.capacity() {
            return Err(EngineError::PromptTooLong { tokens: tokens.len(), context: self.capacity() as u32 });
        }
        match tokens.iter().find(|&&token| token >= info.vocab_size) {
            Some(&token) => Err(EngineError::TokenOutOfRange { token, vocab_size: info.vocab_size }),
            None => Ok(()),
        }
    }

    /// Most tokens of a call.
    fn step(&self) -> usize {
        self.model.step().clamp(1, self.info().prefill_chunk_size.max(1)) as usize
    }

    fn forward(&mut self, tokens: &[u32], watch: &dyn Watch) -> Result<(), EngineError> {
        let position = self.cached.len() as u32;
        let activity = self.activity.clone();
        let proceed = || watch.proceed() && !activity.as_ref().is_some_and(Activity::is_paused);
        let outcome = self.model.forward_while(tokens, position, &proceed);
        if matches!(outcome, Ok(()) | Err(DeviceError::Interrupted)) {
            self.written = self.written.max(position + tokens.len() as u32);
        }
        if matches!(outcome, Err(DeviceError::Interrupted)) && self.is_recurrent() {
            // How far the states went is unknown.
            self.certain = false;
        }
        match outcome {
            Ok(()) => self.cached.extend_from_slice(tokens),
            Err(DeviceError::Interrupted) if watch.proceed() => return Err(EngineError::Paused),
            Err(DeviceError::Interrupted) => return Err(EngineError::Cancelled),
            Err(error) => return Err(self.failed(error)),
        }
        Ok(())
    }

    fn read_logits(&mut self, row: u32, wanted: &mut Wanted<'_>) -> Result<(), EngineError> {
        let vocab_size = self.info().vocab_size as usize;
        self.logits.resize(vocab_size, 0.0);
        let read = match wanted(self.model.few_logits())? {
            Logits::Of(tokens) => self.model.logits_of(row, &tokens, &mut self.logits),
            Logits::Top(count) if (1..=self.model.most_likely()).contains(&count) => self.read_top(row, count),
            Logits::All | Logits::Top(_) => self.model.logits(row, &mut self.logits),
        };
        read.map_err(|error| self.failed(error))
    }

    fn read_top(&mut self, row: u32, count: u32) -> Result<(), DeviceError> {
        let top = self.model.top(row, count)?;
        self.logits.fill(f32::NEG_INFINITY);
        for (token, logit) in top {
            let place = self.logits.get_mut(token as usize);
            *place.ok_or_else(|| DeviceError::InvalidCall(format!("token {token} was found")))? = logit;
        }
        Ok(())
    }

    /// After a failure it is unknown what was written, by this call and by those whose failure comes to light with it.
    fn failed(&mut self, error: DeviceError) -> EngineError {
        log::warn!("the device failed, and the conversation's cache is forgotten: {error}");
        self.reset();
        error.into()
    }

    /// Whether states and cache are those of the first `position` tokens, which are all that are cached.
    fn is_there(&self, position: usize) -> bool {
        self.certain && self.can_return_to(position as u32)
    }

    /// Whether the KV cache can continue from position `position` as if nothing had been written after it.
    fn can_return_to(&self, position: u32) -> bool {
        position as usize == self.cached.len() && self.written == position
            || self.model.library().kv_cache.iter().all(|layer| can_return(layer, self.written, position))
    }
}

/// Whether every position before `position` that a query there sees is still in its slot, when positions up to `written`
/// (exclusive) have been written. Only the last `positions - sinks` of them are sure to be; sinks are never overwritten.
fn can_return(layer: &KvLayer, written: u32, position: u32) -> bool {
    if written <= layer.positions {
        return true;
    }
    let (_, start) = layer.visible(position);
    let first = start.max(layer.sinks);
    first >= position || first >= written - (layer.positions - layer.sinks)
}

#[cfg(test)]
mod tests;
