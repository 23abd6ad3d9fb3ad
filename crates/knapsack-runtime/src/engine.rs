use crate::chat_config::ChatModel;
use crate::context::{ContextPolicy, FittedPrompt};
use crate::error::EngineError;
use crate::grammar::{Grammar, Guide};
use crate::sampling::{Sampler, SamplingOptions, TokenLogProbs};
use crate::session::{CancelFlag, Session};
use crate::text::{Detokenizer, Message, StopStrings, TextError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to generate one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to generate; `None`: until the model stops or the context is full. With a sliding window there is no such
    /// end, so [`GenerateOptions::DEFAULT_MAX_TOKENS`] applies.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Strings that end the answer, besides the model's own.
    pub stop: Vec<String>,
    /// Tokens that end the answer, besides the model's own.
    pub stop_tokens: Vec<u32>,
    /// The form that the answer has. Its stop tokens end it where it is complete; the model's own stop strings do not count.
    pub grammar: Option<Grammar>,
    /// Log probabilities of each token and of this many of its most likely rivals.
    pub logprobs: Option<u8>,
    /// Ignores the model's own stop tokens and strings (for measuring).
    pub ignore_stops: bool,
    /// What [`Engine::answer`] does with a conversation that has outgrown the context.
    pub context: ContextPolicy,
}

impl GenerateOptions {
    /// What ends an answer that nothing else ends.
    pub const DEFAULT_MAX_TOKENS: u32 = 1 << 16;

    /// Until the model stops, by `sampling`.
    pub const fn new(sampling: SamplingOptions) -> Self {
        Self {
            max_tokens: None,
            sampling,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            grammar: None,
            logprobs: None,
            ignore_stops: false,
            context: ContextPolicy::DropOldest,
        }
    }

    fn limit(&self) -> usize {
        self.max_tokens.unwrap_or(Self::DEFAULT_MAX_TOKENS) as usize
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model stopped: a stop token or a stop string.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    /// The caller raised the cancel flag.
    Cancelled,
    /// The app is in the background: it paused its models, or the system refused the GPU.
    Backgrounded,
}

impl FinishReason {
    /// The name in the OpenAI protocol (`cancelled` and `backgrounded` are ours).
    pub const fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
            FinishReason::Backgrounded => "backgrounded",
        }
    }
}

/// What one answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GenerationStats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Messages of the conversation that were left out of it, because it has outgrown the context.
    pub dropped_messages: usize,
    /// Tokens of the prompt that were in the KV cache already.
    pub reused_tokens: usize,
    /// Tokens of the answer, the stop token not counted.
    pub generated_tokens: usize,
    /// Tokens that were computed after the prompt: one at a time, but where a grammar made several follow.
    pub decode_steps: usize,
    /// From the call to the logits of the prompt's last token.
    pub prefill_time: Duration,
    /// From there to the end.
    pub decode_time: Duration,
}

impl GenerationStats {
    /// Computed prompt tokens per second; 0 when none was.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt_tokens - self.reused_tokens, self.prefill_time)
    }

    /// Single-token steps per second; 0 when there was none.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_steps, self.decode_time)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if count == 0 || time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// What an answer brings, in the order in which it becomes certain.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// More text; never empty.
    Text(&'a str),
    /// A token was chosen: only where log probabilities were asked for, and before the text that it completes.
    Token(&'a TokenLogProbs),
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The whole text, as it was streamed.
    pub text: String,
    /// Its tokens, the stop token left out.
    pub tokens: Vec<u32>,
    /// What the model thought of each of them, where that was asked for.
    pub logprobs: Vec<TokenLogProbs>,
    /// Why it ended.
    pub finish: FinishReason,
    /// What it took.
    pub stats: GenerationStats,
}

/// A model that talks: one conversation at a time, its KV cache kept from turn to turn.
pub struct Engine {
    session: Session,
    chat: Arc<ChatModel>,
}

impl Engine {
    /// An engine over a loaded model and its text side.
    pub fn new(session: Session, chat: Arc<ChatModel>) -> Self {
        Self { session, chat }
    }

    /// The text side.
    pub fn chat(&self) -> &Arc<ChatModel> {
        &self.chat
    }

    /// The token side.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Forgets the conversation.
    pub fn reset(&mut self) {
        self.session.reset();
    }

    /// The prompt that asks for the assistant's answer to `messages`, shortened to the context as `options` say.
    ///
    /// # Errors
    /// See [`ChatModel::prompt`].
    pub fn prompt(&self, messages: &[Message], options: &GenerateOptions) -> Result<FittedPrompt, TextError> {
        let context = self.session.info().context_window_size;
        options.context.fit(messages, context, options.max_tokens, &mut |messages| self.chat.prompt(messages))
    }

    /// The assistant's answer to `messages`; what there is goes to `on_event` as soon as it is certain. What a conversation
    /// that has outgrown the context loses is [`GenerateOptions::context`]'s choice, and counted in the answer.
    ///
    /// # Errors
    /// See [`Engine::generate`] and [`ChatModel::prompt`].
    pub fn answer(
        &mut self,
        messages: &[Message],
        options: &GenerateOptions,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Generation, EngineError> {
        let prompt = self.prompt(messages, options)?;
        let mut answer = self.generate(&prompt.tokens, options, cancel, on_event)?;
        answer.stats.dropped_messages = prompt.dropped_messages;
        Ok(answer)
    }

    /// Continues `prompt`, reusing what the KV cache holds of it. With a full context the answer ends with
    /// [`FinishReason::Length`] when the context does; with a sliding window it goes on.
    ///
    /// # Errors
    /// Options out of range, a prompt that is empty, too long or outside the vocabulary, or a failure of the device. A cancel
    /// flag is no error: it gives what there is.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Generation, EngineError> {
        let mut sampler = Sampler::new(options.sampling.clone())?;
        let mut guide = options.grammar.as_ref().map(|grammar| self.chat.guide(grammar)).transpose()?;
        let mut output = Output::new(&self.chat, options, on_event);
        let mut stats = GenerationStats { prompt_tokens: prompt.len(), ..GenerationStats::default() };
        let start = Instant::now();
        // What every answer of the form begins with is computed together with the prompt.
        let beginning = match &mut guide {
            Some(guide) if options.logprobs.is_none() => guide.forced().map_err(EngineError::grammar)?,
            _ => Vec::new(),
        };
        if let Some(finish) = output.add(&beginning, options) {
            return Ok(output.end(finish, stats));
        }
        beginning.iter().for_each(|&forced| sampler.accept(forced));
        guide.iter_mut().for_each(Guide::prepare);
        match self.session.prefill(&[prompt, &beginning].concat(), cancel) {
            Ok(reused) => stats.reused_tokens = reused.min(prompt.len()),
            Err(EngineError::Cancelled) => return Ok(output.end(FinishReason::Cancelled, stats)),
            Err(error) if error.is_backgrounded() => return Ok(output.end(FinishReason::Backgrounded, stats)),
            Err(error) => return Err(error),
        }
        stats.prefill_time = start.elapsed();
        let start = Instant::now();
        let mut run =
            Run { session: &mut self.session, chat: &self.chat, options, cancel, sampler, guide, output, stats };
        let finish = run.decode()?;
        let Run { output, mut stats, .. } = run;
        stats.decode_time = start.elapsed();
        Ok(output.end(finish, stats))
    }
}

/// The state of one answer after its prompt.
struct Run<'a> {
    session: &'a mut Session,
    chat: &'a ChatModel,
    options: &'a GenerateOptions,
    cancel: &'a CancelFlag,
    sampler: Sampler,
    guide: Option<Guide>,
    output: Output<'a>,
    stats: GenerationStats,
}

impl Run<'_> {
    fn decode(&mut self) -> Result<FinishReason, EngineError> {
        loop {
            if self.guide.as_ref().is_some_and(Guide::is_over) {
                return Ok(FinishReason::Stop);
            }
            if self.cancel.is_cancelled() {
                return Ok(FinishReason::Cancelled);
            }
            if self.output.tokens.len() >= self.options.limit() {
                return Ok(FinishReason::Length);
            }
            let Some(mut tokens) = self.choose()? else { return Ok(FinishReason::Stop) };
            // The token that fills the context is the last whose logits there are.
            let room = self.session.room();
            let cut = tokens.len() > room + 1;
            tokens.truncate(room + 1);
            if let Some(finish) = self.output.add(&tokens, self.options) {
                return Ok(finish);
            }
            if tokens.len() > room || self.output.tokens.len() >= self.options.limit() {
                // Nothing is left to be said after the last token of a form.
                let over = !cut && self.guide.as_ref().is_some_and(Guide::is_over);
                return Ok(if over { FinishReason::Stop } else { FinishReason::Length });
            }
            if let Some(guide) = &mut self.guide {
                if guide.is_over() {
                    return Ok(FinishReason::Stop);
                }
                guide.prepare();
            }
            self.stats.decode_steps += tokens.len();
            match self.session.append(&tokens, self.cancel) {
                Err(EngineError::Cancelled) => return Ok(FinishReason::Cancelled),
                Err(error) if error.is_backgrounded() => return Ok(FinishReason::Backgrounded),
                result => result?,
            }
        }
    }

    /// The next token and those that a grammar makes follow it; `None` when it ends the answer.
    fn choose(&mut self) -> Result<Option<Vec<u32>>, EngineError> {
        let position = self.session.cached().len() as u32 - 1;
        let row = self.session.logits();
        let unchanged = self.options.logprobs.map(|top| (row.to_vec(), top));
        if let Some(guide) = &mut self.guide {
            guide.restrict(row).map_err(EngineError::grammar)?;
        }
        let token = self.sampler.sample(row).ok_or(EngineError::NoLogits { position })?;
        // A grammar lets the answer end where it is satisfied, and has no use for the token itself.
        let own = (self.guide.is_some() || !self.options.ignore_stops) && self.chat.stop_tokens().contains(&token);
        if own || self.options.stop_tokens.contains(&token) {
            return Ok(None);
        }
        let mut tokens = vec![token];
        if let Some(guide) = &mut self.guide {
            guide.accept(token).map_err(EngineError::grammar)?;
            if unchanged.is_none() {
                tokens.extend(guide.forced().map_err(EngineError::grammar)?);
            }
            tokens[1..].iter().for_each(|&forced| self.sampler.accept(forced));
        }
        if let Some((row, top)) = unchanged {
            self.output.rank(TokenLogProbs::of(&row, usize::from(top), token));
        }
        Ok(Some(tokens))
    }
}

/// Turns tokens into streamed text.
struct Output<'a> {
    detokenizer: Detokenizer,
    stops: StopStrings,
    on_event: &'a mut dyn FnMut(Event<'_>),
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogProbs>,
    stopped: bool,
}

impl<'a> Output<'a> {
    fn new(chat: &ChatModel, options: &GenerateOptions, on_event: &'a mut dyn FnMut(Event<'_>)) -> Self {
        let own = if options.ignore_stops || options.grammar.is_some() { &[][..] } else { chat.stop_strings() };
        Self {
            detokenizer: chat.tokenizer.detokenizer(),
            stops: StopStrings::new(own.iter().chain(&options.stop).cloned()),
            on_event,
            text: String::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            stopped: false,
        }
    }

    /// What the model thought of the token that is added next.
    fn rank(&mut self, logprobs: TokenLogProbs) {
        (self.on_event)(Event::Token(&logprobs));
        self.logprobs.push(logprobs);
    }

    /// Adds tokens up to the limit; how the answer ends when it does so within them.
    fn add(&mut self, tokens: &[u32], options: &GenerateOptions) -> Option<FinishReason> {
        for &token in tokens {
            if self.tokens.len() >= options.limit() {
                return Some(FinishReason::Length);
            }
            if self.push(token) {
                return Some(FinishReason::Stop);
            }
        }
        None
    }

    /// Adds a token; true when its text completed a stop string.
    fn push(&mut self, token: u32) -> bool {
        self.tokens.push(token);
        let found = self.stops.push(&self.detokenizer.push(token));
        self.give(&found.text);
        self.stopped = found.stopped;
        found.stopped
    }

    fn give(&mut self, text: &str) {
        if !text.is_empty() {
            self.text.push_str(text);
            (self.on_event)(Event::Text(text));
        }
    }

    /// Gives out what was held back. Bytes of a character that was cut off are dropped.
    fn end(mut self, finish: FinishReason, mut stats: GenerationStats) -> Generation {
        if !self.stopped {
            let held = self.stops.finish();
            self.give(&held);
        }
        stats.generated_tokens = self.tokens.len();
        Generation { text: self.text, tokens: self.tokens, logprobs: self.logprobs, finish, stats }
    }
}

#[cfg(test)]
mod tests;
