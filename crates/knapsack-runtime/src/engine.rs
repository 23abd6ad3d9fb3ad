use crate::chat_config::ChatModel;
use crate::context::{ContextPolicy, FittedPrompt};
use crate::error::EngineError;
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
            logprobs: None,
            ignore_stops: false,
            context: ContextPolicy::DropOldest,
        }
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
    /// Model steps of one token.
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
        let mut output = Output::new(&self.chat, options, on_event);
        let mut stats = GenerationStats { prompt_tokens: prompt.len(), ..GenerationStats::default() };
        let start = Instant::now();
        match self.session.prefill(prompt, cancel) {
            Ok(reused) => stats.reused_tokens = reused,
            Err(EngineError::Cancelled) => return Ok(output.end(FinishReason::Cancelled, stats)),
            Err(error) if error.is_backgrounded() => return Ok(output.end(FinishReason::Backgrounded, stats)),
            Err(error) => return Err(error),
        }
        stats.prefill_time = start.elapsed();
        let start = Instant::now();
        let finish = self.decode_loop(&mut sampler, &mut output, options, cancel, &mut stats)?;
        stats.decode_time = start.elapsed();
        Ok(output.end(finish, stats))
    }

    fn decode_loop(
        &mut self,
        sampler: &mut Sampler,
        output: &mut Output<'_>,
        options: &GenerateOptions,
        cancel: &CancelFlag,
        stats: &mut GenerationStats,
    ) -> Result<FinishReason, EngineError> {
        let limit = options.max_tokens.unwrap_or(GenerateOptions::DEFAULT_MAX_TOKENS) as usize;
        loop {
            if cancel.is_cancelled() {
                return Ok(FinishReason::Cancelled);
            }
            if output.tokens.len() >= limit {
                return Ok(FinishReason::Length);
            }
            let position = self.session.cached().len() as u32 - 1;
            let row = self.session.logits();
            let unchanged = options.logprobs.map(|top| (row.to_vec(), top));
            let token = sampler.sample(row).ok_or(EngineError::NoLogits { position })?;
            let own = !options.ignore_stops && self.chat.stop_tokens().contains(&token);
            if own || options.stop_tokens.contains(&token) {
                return Ok(FinishReason::Stop);
            }
            if let Some((row, top)) = unchanged {
                output.rank(TokenLogProbs::of(&row, usize::from(top), token));
            }
            if output.push(token) {
                return Ok(FinishReason::Stop);
            }
            if output.tokens.len() >= limit || self.session.is_full() {
                return Ok(FinishReason::Length);
            }
            match self.session.decode(token) {
                Err(error) if error.is_backgrounded() => return Ok(FinishReason::Backgrounded),
                step => step?,
            }
            stats.decode_steps += 1;
        }
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
        let own = if options.ignore_stops { &[][..] } else { chat.stop_strings() };
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
