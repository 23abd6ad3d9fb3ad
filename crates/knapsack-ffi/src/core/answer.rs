use super::gate::Pass;
use super::{Code, Error, Models, Result};
use knapsack_openai::{Call, Request, token_logprobs, tool_call};
use knapsack_runtime::{CancelFlag, ContextPolicy, Engine, Event, FinishReason, GenerateOptions, GenerationStats};
use std::path::Path;

/// What an answer brings, as it comes.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece<'a> {
    /// More text.
    Text(&'a str),
    /// More of what the model thinks before it answers.
    Thinking(&'a str),
    /// The model calls a tool: one of OpenAI's `tool_calls` as JSON.
    ToolCall(String),
    /// A token was chosen: one of OpenAI's `logprobs.content` as JSON.
    Token(String),
}

impl Piece<'_> {
    /// The number that the header lists, and the text.
    pub(crate) fn parts(&self) -> (u32, &str) {
        match self {
            Piece::Text(text) => (0, text),
            Piece::Thinking(text) => (1, text),
            Piece::ToolCall(call) => (2, call),
            Piece::Token(token) => (3, token),
        }
    }
}

/// An answer; its text was streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Why it ended; see [`Answer::finish_number`].
    pub finish: FinishReason,
    /// What it took.
    pub stats: GenerationStats,
}

impl Answer {
    /// Why it ended, as apps are told: these numbers never change.
    pub const fn finish_number(&self) -> u32 {
        match self.finish {
            FinishReason::Stop => 0,
            FinishReason::Length => 1,
            FinishReason::Cancelled => 2,
            FinishReason::Backgrounded => 3,
        }
    }
}

impl Models {
    /// Answers a conversation, loading the model first if it is not there. `request` is one of OpenAI's chat completions as JSON, of
    /// which `model`, `stream` and `n` mean nothing here. Pieces go to `on_piece`, on this thread; false ends the answer as the flag
    /// does. A conversation that has outgrown the context is an error or loses its oldest turns. A second answer of the same model
    /// waits for the first.
    ///
    /// # Errors
    /// A model that cannot be loaded, options out of range, a prompt that does not fit, a device that fails, the flag while the
    /// model is being loaded or waited for, an app in the background.
    pub fn answer(
        &self,
        id: &str,
        request: &str,
        when_full: ContextPolicy,
        cancel: &CancelFlag,
        on_piece: &mut dyn FnMut(Piece<'_>) -> bool,
    ) -> Result<Answer> {
        let request = parse(request)?;
        self.with_engine(id, cancel, |engine, pass| {
            let chat = engine.chat().clone();
            let options = options(&request, engine, when_full)?;
            let generation = engine.answer(request.messages(), &options, cancel, &mut |event| {
                let piece = match event {
                    Event::Text(text) => Piece::Text(text),
                    Event::Thinking(text) => Piece::Thinking(text),
                    Event::ToolCall(call) => Piece::ToolCall(tool_call(call).to_string()),
                    Event::Token(token) => Piece::Token(token_logprobs(&chat.tokenizer, token).to_string()),
                    _ => return,
                };
                if !cancel.is_cancelled() && !on_piece(piece) {
                    cancel.cancel();
                }
            })?;
            let finish = match generation.finish {
                FinishReason::Cancelled if pass.stopped() => FinishReason::Backgrounded,
                finish => finish,
            };
            Ok(Answer { finish, stats: generation.stats })
        })
    }

    /// Computes what the prompt of a conversation begins with whatever its last message says, unless it is there already, and writes
    /// it into a file, in place of what was there. `request` is as in [`Models::answer`]; of its fields only those count that the
    /// prompt depends on.
    ///
    /// # Errors
    /// As [`Models::answer`], and a file that cannot be written.
    pub fn save_state(
        &self,
        id: &str,
        request: &str,
        when_full: ContextPolicy,
        file: &Path,
        cancel: &CancelFlag,
    ) -> Result<()> {
        let request = parse(request)?;
        self.with_engine(id, cancel, |engine, _| {
            let options = options(&request, engine, when_full)?;
            engine.compute_beginning(request.messages(), &options, cancel)?;
            Ok(engine.session().save(file)?)
        })
    }

    /// Takes what [`Models::save_state`] wrote, in place of what is computed of the model's conversations: an answer to one that begins
    /// so goes on from there. What of it is lost when the model is unloaded is computed anew, as after an error.
    ///
    /// # Errors
    /// A file that is none, damaged, or of another model, library or kind of device; as [`Models::load`], and an app in the background.
    pub fn restore_state(&self, id: &str, file: &Path, cancel: &CancelFlag) -> Result<()> {
        self.with_engine(id, cancel, |engine, _| Ok(engine.session().restore(file)?))
    }

    /// Runs `body` with a model that is loaded and nobody else's meanwhile.
    fn with_engine<T>(
        &self,
        id: &str,
        cancel: &CancelFlag,
        body: impl FnOnce(&mut Engine, &Pass<'_>) -> Result<T>,
    ) -> Result<T> {
        let pass = self.gate.enter(cancel)?;
        let outcome = self.acquire(id, cancel).and_then(|handle| match handle.lock_unless(cancel) {
            Some(mut engine) => body(&mut engine, &pass),
            None => Err(Error::new(Code::Cancelled, "cancelled while another answer ran")),
        });
        match outcome {
            Err(error) if error.code == Code::Cancelled && pass.stopped() => {
                Err(Error::new(Code::Backgrounded, "the app went to the background"))
            }
            outcome => outcome,
        }
    }

    /// Answers a request of OpenAI's chat completions, as `knapsack serve` does: each event is JSON and goes to `on_event`, on this
    /// thread; false ends the answer.
    ///
    /// # Errors
    /// What the request asks for and cannot be had; the message is the body that OpenAI's clients expect.
    pub fn complete(&self, request: &str, cancel: &CancelFlag, on_event: &mut dyn FnMut(&str) -> bool) -> Result<()> {
        let pass = self.gate.enter(cancel)?;
        self.refresh_budget();
        let call = Call { cancel: cancel.clone(), ..Call::default() };
        let answered = Request::parse(request.as_bytes()).and_then(|request| {
            knapsack_openai::complete(&self.manager, &request, &call, &mut |event| {
                if !cancel.is_cancelled() && !on_event(&event.to_string()) {
                    cancel.cancel();
                }
            })
        });
        answered.map_err(|error| {
            let code = match error.status {
                _ if pass.stopped() => Code::Backgrounded,
                _ if cancel.is_cancelled() => Code::Cancelled,
                400..=403 | 405..=499 => Code::InvalidArgument,
                404 => Code::NoSuchModel,
                _ => Code::DeviceFailed,
            };
            Error::new(code, error.json().to_string())
        })
    }
}

fn parse(request: &str) -> Result<Request> {
    Request::parse(request.as_bytes()).map_err(|error| Error::new(Code::InvalidArgument, error.message))
}

fn options(request: &Request, engine: &Engine, when_full: ContextPolicy) -> Result<GenerateOptions> {
    let options = request.options(&engine.chat().defaults);
    let options = options.map_err(|error| Error::new(Code::InvalidArgument, error.message))?;
    Ok(GenerateOptions { context: when_full, ..options })
}
