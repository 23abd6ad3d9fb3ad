//! A package behind an OpenAI-compatible HTTP endpoint, its models loaded and evicted under a budget as on a phone.
//!
//! `POST /v1/chat/completions` (streamed or not), `GET /v1/models`, `GET /v1/models/{id}`, `GET /health`. Generation runs on threads of
//! its own; a client that goes away ends its answer, and so does [`Server::stop`].

mod protocol;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_core::Stream;
use knapsack_runtime::download::DownloadProgress;
use knapsack_runtime::manager::{Acquire, Manager, ManagerError};
use knapsack_runtime::{CancelFlag, Engine, EngineError, Generation, PackageLoader};
use protocol::{ApiError, ChatRequest, Envelope};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};

/// Largest request body.
const MAX_BODY_BYTES: usize = 16 << 20;
/// How long a request waits for models in use to make room.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pieces of text that a slow client may lag behind.
const LAG: usize = 256;

/// What the handlers share.
#[derive(Clone)]
pub struct Server {
    manager: Manager<PackageLoader>,
    started: u64,
    requests: Arc<Requests>,
    download: OnDownload,
}

/// Is told how far a model's download is.
pub type OnDownload = Arc<dyn Fn(&str, DownloadProgress) + Send + Sync>;

/// The answers that are being worked on, by their number.
#[derive(Default)]
struct Requests {
    next: AtomicU64,
    stopping: AtomicBool,
    running: Mutex<BTreeMap<u64, CancelFlag>>,
}

impl Requests {
    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, CancelFlag>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// A server for the manager's package; `download` is told of models that are downloaded at their first use.
    pub fn new(manager: Manager<PackageLoader>, download: OnDownload) -> Self {
        Self { manager, started: now(), requests: Arc::default(), download }
    }

    /// Ends every answer that is being worked on, and those that are still asked for.
    pub fn stop(&self) {
        self.requests.stopping.store(true, Ordering::SeqCst);
        self.requests.running().values().for_each(CancelFlag::cancel);
    }

    /// A new answer: its number, and the guard that ends it.
    fn begin(&self) -> (u64, Answering) {
        let number = self.requests.next.fetch_add(1, Ordering::Relaxed);
        let cancel = CancelFlag::new();
        self.requests.running().insert(number, cancel.clone());
        if self.requests.stopping.load(Ordering::SeqCst) {
            cancel.cancel();
        }
        (number, Answering { number, cancel, requests: self.requests.clone() })
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/health", get(async || Json(json!({ "status": "ok" }))))
            .route("/v1/models", get(models))
            .route("/v1/models/{id}", get(model))
            .route("/v1/chat/completions", post(chat))
            .fallback(async || ApiError {
                status: 404,
                kind: "invalid_request_error",
                code: "not_found",
                message: "no such route".into(),
            })
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(self)
    }

    fn describe(&self, model_id: &str) -> Value {
        json!({ "id": model_id, "object": "model", "created": self.started, "owned_by": "knapsack" })
    }

    /// Runs a request to its end on the calling thread; text goes to `on_text`.
    fn generate(
        &self,
        request: &ChatRequest,
        cancel: &CancelFlag,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Generation, ApiError> {
        let messages = request.messages()?;
        let loader = self.manager.loader();
        if loader.package().config().model(&request.model).is_none() {
            return Err(no_such_model(&request.model));
        }
        // Before anything large is downloaded in vain.
        self.manager.check_fits(&request.model).map_err(|error| manager_error(&error))?;
        let progress = |progress| (self.download)(&request.model, progress);
        loader.prepare(&request.model, &progress, cancel).map_err(|error| failed(&error))?;
        let how = Acquire { wait: PATIENCE, cancel: cancel.clone() };
        let handle = self.manager.acquire(&request.model, &how).map_err(|error| manager_error(&error))?;
        let mut engine = handle.lock();
        answer(&mut engine, request, &messages, cancel, on_text)
    }
}

fn answer(
    engine: &mut Engine,
    request: &ChatRequest,
    messages: &[knapsack_runtime::text::Message],
    cancel: &CancelFlag,
    on_text: &mut dyn FnMut(&str),
) -> Result<Generation, ApiError> {
    let options = request.options(engine.chat().defaults)?;
    engine.answer(messages, &options, cancel, on_text).map_err(|error| match &error {
        EngineError::PromptTooLong { .. } => {
            ApiError { code: "context_length_exceeded", ..ApiError::invalid(error.to_string()) }
        }
        EngineError::Text(_) | EngineError::EmptyPrompt | EngineError::TokenOutOfRange { .. } => {
            ApiError::invalid(error.to_string())
        }
        _ => failed(&error),
    })
}

fn no_such_model(model_id: &str) -> ApiError {
    let message = format!("the package has no model `{model_id}`");
    ApiError { status: 404, kind: "invalid_request_error", code: "model_not_found", message }
}

fn manager_error(error: &ManagerError) -> ApiError {
    match error {
        // It would never fit: asking again, as clients do after a server's error, is no use.
        ManagerError::NoRoom { needed, budget, .. } if needed > budget => {
            ApiError { code: "over_budget", ..ApiError::invalid(error.to_string()) }
        }
        ManagerError::NoRoom { .. } => {
            ApiError { status: 503, kind: "server_error", code: "over_budget", message: error.to_string() }
        }
        ManagerError::Cancelled { .. } => {
            ApiError { status: 503, kind: "server_error", code: "cancelled", message: error.to_string() }
        }
        _ => failed(error),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ApiError {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    ApiError { status: 500, kind: "server_error", code: "internal_error", message }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.json())).into_response()
    }
}

async fn models(State(server): State<Server>) -> Json<Value> {
    let list = &server.manager.loader().package().config().model_list;
    let data: Vec<Value> = list.iter().map(|model| server.describe(&model.model_id)).collect();
    Json(json!({ "object": "list", "data": data }))
}

async fn model(State(server): State<Server>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    match server.manager.loader().package().config().model(&id) {
        Some(model) => Ok(Json(server.describe(&model.model_id))),
        None => Err(no_such_model(&id)),
    }
}

/// Raises the flag when the handler's future, or the stream of the answer, is dropped: the client is gone.
struct Answering {
    number: u64,
    cancel: CancelFlag,
    requests: Arc<Requests>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.requests.running().remove(&self.number);
    }
}

async fn chat(State(server): State<Server>, body: Result<Bytes, BytesRejection>) -> Result<Response, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError {
            status: 413,
            code: "too_large",
            ..ApiError::invalid(format!("the body is longer than {MAX_BODY_BYTES} bytes"))
        },
        _ => ApiError::invalid(rejection.body_text()),
    })?;
    let request: ChatRequest =
        serde_json::from_slice(&body).map_err(|error| ApiError::invalid(format!("the body is no request: {error}")))?;
    let (number, answering) = server.begin();
    let created = now();
    let envelope = Envelope { id: format!("chatcmpl-{created:x}-{number:x}"), created, model: request.model.clone() };
    if request.stream {
        stream(server, request, envelope, answering).await
    } else {
        let cancel = answering.cancel.clone();
        let (done, result) = oneshot::channel();
        spawn(move || {
            let _ = done.send(server.generate(&request, &cancel, &mut |_| ()));
        })?;
        let answer =
            result.await.map_err(|_| ApiError { status: 500, ..ApiError::invalid("the answer was lost") })??;
        Ok(Json(envelope.completion(&answer)).into_response())
    }
}

/// Generation blocks for long: it gets a thread of its own rather than one of the runtime's.
fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), ApiError> {
    let thread = std::thread::Builder::new().name("answer".into()).spawn(work);
    thread.map(drop).map_err(|error| failed(&error))
}

/// An answer as events. A failure before the first piece of text is a status; one after it is an event.
async fn stream(
    server: Server,
    request: ChatRequest,
    envelope: Envelope,
    answering: Answering,
) -> Result<Response, ApiError> {
    let cancel = answering.cancel.clone();
    let (events, mut receiver) = mpsc::channel::<Result<Value, ApiError>>(LAG);
    let first = envelope.first();
    spawn(move || {
        let mut show = |text: &str| {
            if events.blocking_send(Ok(envelope.piece(text))).is_err() {
                cancel.cancel();
            }
        };
        let result = server.generate(&request, &cancel, &mut show);
        let last = match result {
            Ok(answer) => {
                let usage = request.include_usage().then(|| Ok(envelope.usage(&answer)));
                [Some(Ok(envelope.last(&answer))), usage]
            }
            Err(error) => [Some(Err(error)), None],
        };
        last.into_iter().flatten().for_each(|event| drop(events.blocking_send(event)));
    })?;
    let pending = match receiver.recv().await {
        Some(Err(error)) => return Err(error),
        Some(Ok(event)) => [Some(first), Some(event)],
        None => return Err(ApiError { status: 500, ..ApiError::invalid("the answer was lost") }),
    };
    Ok(Sse::new(Events { pending, receiver, done: false, _answering: answering }).into_response())
}

/// Events that are waiting, those that come, and the end that OpenAI's clients look for.
struct Events {
    pending: [Option<Value>; 2],
    receiver: mpsc::Receiver<Result<Value, ApiError>>,
    done: bool,
    _answering: Answering,
}

impl Stream for Events {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(event) = self.pending.iter_mut().find_map(Option::take) {
            return Poll::Ready(Some(Ok(Event::default().data(event.to_string()))));
        }
        if self.done {
            return Poll::Ready(None);
        }
        match self.receiver.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(event)) => {
                let event = event.unwrap_or_else(|error| error.json());
                Poll::Ready(Some(Ok(Event::default().data(event.to_string()))))
            }
            Poll::Ready(None) => {
                self.done = true;
                Poll::Ready(Some(Ok(Event::default().data("[DONE]"))))
            }
        }
    }
}
