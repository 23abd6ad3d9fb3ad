use crate::response::{Envelope, Usage, call_begins, choice, finish_reason, logprobs, message};
use crate::{ApiError, Request};
use knapsack_runtime::download::DownloadProgress;
use knapsack_runtime::manager::{Acquire, Manager};
use knapsack_runtime::{
    CancelFlag, Engine, EngineError, Event, GenerateOptions, Generation, PackageLoader, TokenLogProbs,
};
use serde_json::{Value, json};
use std::time::Duration;

/// Is told how far the download of a model is.
pub type OnDownload<'a> = dyn Fn(&str, DownloadProgress) + Sync + 'a;

/// What a call is made with besides the request.
#[derive(Clone)]
pub struct Call<'a> {
    /// Ends the call from another thread: the answer ends with what there is.
    pub cancel: CancelFlag,
    /// How long to wait for models in use to make room.
    pub patience: Duration,
    /// Told of a model that is downloaded at its first use.
    pub on_download: Option<&'a OnDownload<'a>>,
}

impl Default for Call<'_> {
    fn default() -> Self {
        Self { cancel: CancelFlag::new(), patience: Duration::from_secs(120), on_download: None }
    }
}

/// Answers a request on the calling thread; what there is goes to `on_event` as it comes, see the crate's documentation.
///
/// # Errors
/// No such model, no room or no memory for it, a conversation that its template refuses or that is too long, or a failure of the
/// device or of a download.
pub fn complete(
    manager: &Manager<PackageLoader>,
    request: &Request,
    call: &Call<'_>,
    on_event: &mut dyn FnMut(Value),
) -> Result<(), ApiError> {
    let loader = manager.loader();
    let model_id = model_of(manager, request)?;
    // Before anything large is downloaded in vain.
    manager.check_fits(model_id).map_err(|error| ApiError::from(&error))?;
    let progress = |progress| {
        if let Some(on_download) = call.on_download {
            on_download(model_id, progress);
        }
    };
    loader.prepare(model_id, &progress, &call.cancel).map_err(|error| ApiError::internal(&error))?;
    let how = Acquire { wait: call.patience, cancel: call.cancel.clone() };
    let handle = manager.acquire(model_id, &how).map_err(|error| ApiError::from(&error))?;
    let mut engine = handle.lock_unless(&call.cancel).ok_or_else(ApiError::cancelled)?;
    let envelope = Envelope::new(model_id);
    let options = request.options(&engine.chat().defaults)?;
    let mut answering = Answering { engine: &mut engine, request, envelope, options, cancel: &call.cancel };
    match request.stream() {
        true => answering.stream(on_event),
        false => answering.whole().map(on_event),
    }
}

/// The model of the request; the package's only one where it names none.
fn model_of<'a>(manager: &'a Manager<PackageLoader>, request: &Request) -> Result<&'a str, ApiError> {
    let config = manager.loader().package().config();
    match (request.model(), &config.model_list[..]) {
        (Some(name), _) => match config.model(name) {
            Some(model) => Ok(&model.model_id),
            None => Err(ApiError::no_such_model(name)),
        },
        (None, [model]) => Ok(&model.model_id),
        (None, models) => {
            let names: Vec<&str> = models.iter().take(20).map(|model| model.model_id.as_str()).collect();
            let message = format!("`model` is missing, and the package has several: {}", names.join(", "));
            Err(ApiError::invalid(message).about("model"))
        }
    }
}

struct Answering<'a> {
    engine: &'a mut Engine,
    request: &'a Request,
    envelope: Envelope,
    options: GenerateOptions,
    cancel: &'a CancelFlag,
}

impl Answering<'_> {
    /// The answer of number `index`: each from random numbers of its own, the first from those of a single answer.
    fn answer(&mut self, index: u32, on_event: &mut dyn FnMut(Event<'_>)) -> Result<Generation, ApiError> {
        let mut options = self.options.clone();
        options.sampling.seed = options.sampling.seed.map(|seed| seed.wrapping_add(u64::from(index)));
        let answer = self.engine.answer(self.request.messages(), &options, self.cancel, on_event);
        answer.map_err(|error| {
            let answer = ApiError::from(&error);
            match (&error, self.request.form_field()) {
                (EngineError::Grammar(_), Some(field)) => answer.about(field),
                _ => answer,
            }
        })
    }

    fn logprobs(&self, tokens: &[TokenLogProbs]) -> Value {
        logprobs(self.request, &self.engine.chat().tokenizer, tokens)
    }

    fn whole(&mut self) -> Result<Value, ApiError> {
        let (mut choices, mut usage) = (Vec::new(), Usage::default());
        for index in 0..self.request.answers() {
            let answer = self.answer(index, &mut |_| ())?;
            usage.add(&answer);
            choices.push(choice(index, message(&answer), self.logprobs(&answer.logprobs), finish_reason(&answer)));
        }
        Ok(self.envelope.completion(choices, usage))
    }

    /// Chunks of one answer after the other: the first says who speaks, the last why it ended.
    fn stream(&mut self, on_event: &mut dyn FnMut(Value)) -> Result<(), ApiError> {
        let mut usage = Usage::default();
        for index in 0..self.request.answers() {
            let (envelope, request, chat) = (self.envelope.clone(), self.request, self.engine.chat().clone());
            let mut begun = false;
            let mut begin = |on_event: &mut dyn FnMut(Value)| {
                if !std::mem::replace(&mut begun, true) {
                    let who = json!({ "role": "assistant", "content": "", "refusal": null });
                    on_event(envelope.chunk(index, who, Value::Null, None));
                }
            };
            // Tokens whose text has not come yet.
            let mut pending: Vec<TokenLogProbs> = Vec::new();
            let mut calls = 0usize;
            let answer = self.answer(index, &mut |event| match event {
                Event::Token(token) => pending.push(token.clone()),
                Event::Text(text) => {
                    begin(on_event);
                    let ranked = logprobs(request, &chat.tokenizer, &std::mem::take(&mut pending));
                    on_event(envelope.chunk(index, json!({ "content": text }), ranked, None));
                }
                Event::Thinking(text) => {
                    begin(on_event);
                    on_event(envelope.chunk(index, json!({ "reasoning_content": text }), Value::Null, None));
                }
                Event::ToolCallBegins { id, name } => {
                    begin(on_event);
                    calls += 1;
                    let delta = call_begins(calls - 1, id, name);
                    on_event(envelope.chunk(index, json!({ "tool_calls": [delta] }), Value::Null, None));
                }
                Event::ToolArguments(text) => {
                    let delta = json!({ "index": calls.saturating_sub(1), "function": { "arguments": text } });
                    on_event(envelope.chunk(index, json!({ "tool_calls": [delta] }), Value::Null, None));
                }
                _ => {}
            })?;
            begin(on_event);
            usage.add(&answer);
            let rest = if pending.is_empty() { Value::Null } else { self.logprobs(&pending) };
            on_event(self.envelope.chunk(index, json!({}), rest, Some(finish_reason(&answer))));
        }
        if self.request.include_usage() {
            on_event(self.envelope.usage(usage));
        }
        Ok(())
    }
}
