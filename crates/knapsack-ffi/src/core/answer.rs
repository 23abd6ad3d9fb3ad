use super::{Code, Error, Models, Result};
use knapsack_openai::{Call, Request};
use knapsack_runtime::text::Message;
use knapsack_runtime::{
    CancelFlag, ContextPolicy, Event, FinishReason, GenerateOptions, GenerationStats, SamplingOptions,
};

/// How one answer is generated; `None` is the model's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerOptions {
    /// Most tokens.
    pub max_tokens: Option<u32>,
    /// See [`SamplingOptions`].
    pub temperature: Option<f32>,
    /// See [`SamplingOptions`].
    pub top_p: Option<f32>,
    /// See [`SamplingOptions`].
    pub repetition_penalty: Option<f32>,
    /// See [`SamplingOptions`].
    pub presence_penalty: Option<f32>,
    /// See [`SamplingOptions`].
    pub frequency_penalty: Option<f32>,
    /// Gives the same answer each time.
    pub seed: Option<u64>,
    /// Strings that end the answer, besides the model's own.
    pub stop: Vec<String>,
    /// Whether a conversation that has outgrown the context is an error; otherwise it loses its oldest turns.
    pub fail_when_full: bool,
}

/// Why an answer ended.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model stopped.
    Stop = 0,
    /// Most tokens, or the end of the context.
    Length = 1,
    /// The caller's flag.
    Cancelled = 2,
    /// The app went to the background.
    Backgrounded = 3,
}

/// An answer; its text was streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Why it ended.
    pub finish: Finish,
    /// What it took.
    pub stats: GenerationStats,
}

impl Models {
    /// Answers a conversation, loading the model first if it is not there. Pieces of text go to `on_text`, on this thread; false
    /// ends the answer as the flag does. A second answer of the same model waits for the first.
    ///
    /// # Errors
    /// A model that cannot be loaded, options out of range, a prompt that does not fit, a device that fails, the flag while the
    /// model is being loaded or waited for, an app in the background.
    pub fn answer(
        &self,
        id: &str,
        messages: &[Message],
        options: &AnswerOptions,
        cancel: &CancelFlag,
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Answer> {
        let pass = self.gate.enter(cancel)?;
        let outcome = self.compute(id, messages, options, cancel, on_text);
        match outcome {
            Ok(mut answer) => {
                if answer.finish == Finish::Cancelled && pass.stopped() {
                    answer.finish = Finish::Backgrounded;
                }
                Ok(answer)
            }
            Err(error) if error.code == Code::Cancelled && pass.stopped() => {
                Err(Error::new(Code::Backgrounded, "the app went to the background"))
            }
            Err(error) => Err(error),
        }
    }

    fn compute(
        &self,
        id: &str,
        messages: &[Message],
        options: &AnswerOptions,
        cancel: &CancelFlag,
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Answer> {
        let handle = self.acquire(id, cancel)?;
        let mut engine = handle
            .lock_unless(cancel)
            .ok_or_else(|| Error::new(Code::Cancelled, "cancelled while another answer ran"))?;
        let mut sampling: SamplingOptions = engine.chat().defaults.into();
        let set = |value: Option<f32>, own: &mut f32| *own = value.unwrap_or(*own);
        set(options.temperature, &mut sampling.temperature);
        set(options.top_p, &mut sampling.top_p);
        set(options.repetition_penalty, &mut sampling.repetition_penalty);
        set(options.presence_penalty, &mut sampling.presence_penalty);
        set(options.frequency_penalty, &mut sampling.frequency_penalty);
        sampling.seed = options.seed;
        let mut how = GenerateOptions::new(sampling);
        how.max_tokens = options.max_tokens;
        how.stop.clone_from(&options.stop);
        how.context = if options.fail_when_full { ContextPolicy::Fail } else { ContextPolicy::DropOldest };
        let generation = engine.answer(messages, &how, cancel, &mut |event| {
            if let Event::Text(piece) = event
                && !cancel.is_cancelled()
                && !on_text(piece)
            {
                cancel.cancel();
            }
        })?;
        let finish = match generation.finish {
            FinishReason::Stop => Finish::Stop,
            FinishReason::Length => Finish::Length,
            FinishReason::Cancelled => Finish::Cancelled,
            FinishReason::Backgrounded => Finish::Backgrounded,
        };
        Ok(Answer { finish, stats: generation.stats })
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
