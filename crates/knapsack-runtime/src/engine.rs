use crate::cancel::CancelFlag;
use crate::chat_config::ChatModel;
use crate::context::{self, ContextPolicy, FittedPrompt};
use crate::error::EngineError;
use crate::grammar::{Grammar, GrammarError, Guide};
use crate::sampling::{Sampler, SamplingOptions, TokenLogProbs};
use crate::session::{Logits, Session};
use crate::text::{Message, PromptOptions, TextError, ToolCall};
use crate::tools::{self, Tool, ToolChoice, ToolFormat, ToolParser};
use output::Output;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to generate one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to generate; `None`: until the model stops or the context is full. With a sliding window there is no such
    /// end, so [`GenerateOptions::DEFAULT_MAX_TOKENS`] applies.
    pub max_tokens: Option<u32>,
    /// What the prompt depends on besides the conversation: tools, variables of the template.
    pub prompt: PromptOptions,
    /// Most tokens that the model may think with before it has to answer.
    pub max_thinking_tokens: Option<u32>,
    /// Whether what the model thinks is told apart from its answer; otherwise it is part of the text as the model writes it.
    pub separate_thinking: bool,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Strings that end the answer, besides the model's own.
    pub stop: Vec<String>,
    /// Tokens that end the answer, besides the model's own.
    pub stop_tokens: Vec<u32>,
    /// The form that the answer has. Its stop tokens end it where it is complete; the model's own stop strings do not count.
    pub grammar: Option<Grammar>,
    /// Which of the prompt's tools the model may or must call.
    pub tool_choice: ToolChoice,
    /// Whether it may call several at once.
    pub parallel_tool_calls: bool,
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
    pub fn new(sampling: SamplingOptions) -> Self {
        Self {
            max_tokens: None,
            prompt: PromptOptions::default(),
            max_thinking_tokens: None,
            separate_thinking: true,
            sampling,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            grammar: None,
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: true,
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
    /// Those of them that the model thought with.
    pub thinking_tokens: usize,
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
    /// More of what the model thinks before it answers; never empty.
    Thinking(&'a str),
    /// More text; never empty.
    Text(&'a str),
    /// The model begins to call a tool.
    ToolCallBegins {
        /// What the result will refer to.
        id: &'a str,
        /// The tool's name.
        name: &'a str,
    },
    /// More of the JSON text of the arguments of the call that began last; never empty. All at once where the model writes them in
    /// another notation than JSON.
    ToolArguments(&'a str),
    /// The call is complete; or the answer ended within it, and its arguments are the text that there is.
    ToolCall(&'a ToolCall),
    /// A token was chosen: only where log probabilities were asked for, and before the text that it completes.
    Token(&'a TokenLogProbs),
}

/// What was generated, and how it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The whole text, as it was streamed.
    pub text: String,
    /// What the model thought before, as it was streamed.
    pub reasoning: String,
    /// The tools that the model calls.
    pub tool_calls: Vec<ToolCall>,
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
        let mut refused = None;
        let fitted = options.context.fit(messages, context, options.max_tokens, &mut |messages| {
            let prompt = self.chat.render(messages, &options.prompt)?;
            match self.chat.check_length(&prompt.text, context) {
                Ok(()) => self.chat.tokens(&prompt).map(Some),
                Err(error) => {
                    refused = Some(error);
                    Ok(None)
                }
            }
        })?;
        fitted.ok_or_else(|| refused.unwrap_or(TextError::NoTemplate))
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
        // A cache can be shortened to what the next prompt begins with; what recurrent layers remember has to be set aside there.
        let said = self.session.is_recurrent().then(|| {
            let kept = context::kept(messages, prompt.dropped_messages);
            self.chat.said(&kept, &options.prompt, &prompt.tokens)
        });
        let mut answer = self.generate_keeping(&prompt.tokens, said, options, cancel, on_event)?;
        answer.stats.dropped_messages = prompt.dropped_messages;
        Ok(answer)
    }

    /// Computes what the prompt of a conversation begins with whatever its last message says, so that [`Session::save`] keeps it.
    /// Returns how many tokens that are; 0 where the template puts nothing before a question.
    ///
    /// # Errors
    /// As [`Engine::answer`], and the cancel flag.
    pub fn compute_beginning(
        &mut self,
        messages: &[Message],
        options: &GenerateOptions,
        cancel: &CancelFlag,
    ) -> Result<usize, EngineError> {
        let asking = |question: &str| {
            let mut messages = messages.to_vec();
            if let Some(last) = messages.last_mut() {
                last.content = question.to_owned();
            }
            self.prompt(&messages, options).map(|prompt| prompt.tokens)
        };
        let (one, other) = (asking("a")?, asking("1")?);
        let common = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
        match common {
            0 => self.reset(),
            _ => drop(self.session.prefill(&one[..common], cancel)?),
        }
        Ok(common)
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
        self.generate_keeping(prompt, None, options, cancel, on_event)
    }

    fn generate_keeping(
        &mut self,
        prompt: &[u32],
        keep: Option<usize>,
        options: &GenerateOptions,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Generation, EngineError> {
        let mut sampler = Sampler::new(options.sampling.clone())?;
        let tools = tools(&self.chat, options)?;
        let grammar = tools.as_ref().map(|tools| &tools.grammar).or(options.grammar.as_ref());
        let mut guide = grammar.map(|grammar| self.chat.guide(grammar)).transpose()?;
        let parser = tools.map(|tools| (tools.format, ToolParser::new(tools.format, tools.tools)));
        let mut output = Output::new(&self.chat, prompt, options, parser, on_event);
        let mut stats = GenerationStats { prompt_tokens: prompt.len(), ..GenerationStats::default() };
        let start = Instant::now();
        // What every answer of the form begins with is computed together with the prompt.
        let beginning = match &mut guide {
            // A form is the answer's; thoughts before it are free.
            Some(guide) if options.logprobs.is_none() && !output.is_thinking() => {
                guide.forced().map_err(EngineError::grammar)?
            }
            _ => Vec::new(),
        };
        if let Some(finish) = output.add(&beginning, options) {
            return Ok(output.end(finish, stats));
        }
        beginning.iter().for_each(|&forced| sampler.accept(forced));
        guide.iter_mut().for_each(Guide::prepare);
        let held = guide.as_mut().filter(|_| !output.is_thinking());
        match self.session.prefill_for(&[prompt, &beginning].concat(), keep, cancel, &mut few(held, options)) {
            Ok(reused) => stats.reused_tokens = reused.min(prompt.len()),
            Err(EngineError::Cancelled) => return Ok(output.end(FinishReason::Cancelled, stats)),
            Err(error) if error.is_backgrounded() => return Ok(output.end(FinishReason::Backgrounded, stats)),
            Err(error) => return Err(error),
        }
        stats.prefill_time = start.elapsed();
        let start = Instant::now();
        let (session, chat, ending) = (&mut self.session, &*self.chat, VecDeque::new());
        let mut run = Run { session, chat, options, cancel, sampler, guide, ending, output, stats };
        let finish = run.decode()?;
        let Run { output, mut stats, .. } = run;
        stats.decode_time = start.elapsed();
        Ok(output.end(finish, stats))
    }
}

/// How calls of tools are written and what an answer with them looks like.
struct Calls {
    format: ToolFormat,
    tools: Vec<Tool>,
    grammar: Grammar,
}

/// That, where there may be any calls.
fn tools(chat: &ChatModel, options: &GenerateOptions) -> Result<Option<Calls>, GrammarError> {
    if options.prompt.tools.is_empty() || options.tool_choice == ToolChoice::None {
        return Ok(None);
    }
    let none = || GrammarError::new("tools", "the model's chat template takes none");
    let format = chat.tool_format().ok_or_else(none)?;
    let tools = tools::read(&options.prompt.tools, &options.tool_choice)?;
    let special = |text: &str| chat.special_token(text);
    let (parallel, text) = (options.parallel_tool_calls, options.grammar.as_ref());
    let grammar = tools::grammar(format, &tools, &options.tool_choice, parallel, text, &special)?;
    Ok(Some(Calls { format, tools, grammar }))
}

/// The logits that decide on the next token: of the tokens that a guide leaves, where they are few, or of the most likely ones; all
/// where somebody asks what the model thinks of others.
fn few<'a>(
    mut guide: Option<&'a mut Guide>,
    options: &GenerateOptions,
) -> impl FnMut(usize) -> Result<Logits, EngineError> + use<'a> {
    let all = options.logprobs.is_some();
    let top = options.sampling.most_likely().map_or(Logits::All, Logits::Top);
    move |most| match &mut guide {
        _ if all => Ok(Logits::All),
        Some(guide) if most > 0 => Ok(guide.few(most).map_err(EngineError::grammar)?.map_or(Logits::All, Logits::Of)),
        Some(_) => Ok(Logits::All),
        None => Ok(top.clone()),
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
    /// What is still to be written of the end of thoughts that took too long.
    ending: VecDeque<u32>,
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
            let held = self.guide.as_mut().filter(|_| !self.output.is_thinking());
            match self.session.append_for(&tokens, self.cancel, &mut few(held, self.options)) {
                Err(EngineError::Cancelled) => return Ok(FinishReason::Cancelled),
                Err(error) if error.is_backgrounded() => return Ok(FinishReason::Backgrounded),
                result => result?,
            }
        }
    }

    /// The next token and those that a grammar makes follow it; `None` when it ends the answer.
    fn choose(&mut self) -> Result<Option<Vec<u32>>, EngineError> {
        if self.ending.is_empty() && self.output.thought_enough(self.options.max_thinking_tokens) {
            self.ending = self.chat.end_of_thinking()?.into();
        }
        if !self.ending.is_empty() {
            return Ok(Some(self.end_thinking()));
        }
        let position = self.session.cached().len() as u32 - 1;
        let row = self.session.logits();
        let unchanged = self.options.logprobs.map(|top| (row.to_vec(), top));
        let mut guide = self.guide.as_mut().filter(|_| !self.output.is_thinking());
        if let Some(guide) = &mut guide {
            guide.restrict(row).map_err(EngineError::grammar)?;
        }
        let token = self.sampler.sample(row).ok_or(EngineError::NoLogits { position })?;
        // A grammar lets the answer end where it is satisfied, and has no use for the token itself.
        if self.output.stop_tokens.contains(&token) {
            return Ok(None);
        }
        let mut tokens = vec![token];
        if let Some(guide) = guide {
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

    /// The end of the thoughts, in the model's place: at once, or token by token where each one's probability is asked for.
    fn end_thinking(&mut self) -> Vec<u32> {
        let count = if self.options.logprobs.is_some() { 1 } else { self.ending.len() };
        let tokens: Vec<u32> = self.ending.drain(..count).collect();
        tokens.iter().for_each(|&token| self.sampler.accept(token));
        if let (Some(top), [token]) = (self.options.logprobs, &tokens[..]) {
            self.output.rank(TokenLogProbs::of(self.session.logits(), usize::from(top), *token));
        }
        tokens
    }
}

mod output;
#[cfg(test)]
mod tests;
