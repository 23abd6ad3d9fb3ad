//! A package behind an OpenAI-compatible HTTP endpoint, its models loaded and evicted under a budget as on a phone.
//!
//! `POST /v1/chat/completions` (streamed or not), `GET /v1/models`, `GET /v1/models/{id}`, `GET /health`. What a request means is
//! `knapsack-openai`'s; here is what HTTP adds. Generation runs on threads of its own, and nothing it does waits for a client: a
//! client that goes away, reads too slowly or sends nothing loses its connection, never the others their model.

mod access;
mod connections;
mod events;

pub use access::Access;
pub use connections::{Limits, listen};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use knapsack_openai::{ApiError, Call, Request, complete};
use knapsack_runtime::download::DownloadProgress;
use knapsack_runtime::manager::Manager;
use knapsack_runtime::{CancelFlag, PackageLoader};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Largest request body.
const MAX_BODY_BYTES: usize = 16 << 20;

/// What the handlers share.
#[derive(Clone)]
pub struct Server {
    manager: Manager<PackageLoader>,
    started: u64,
    requests: Arc<Requests>,
    download: OnDownload,
    access: Arc<Access>,
    body_deadline: Duration,
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
    pub fn new(manager: Manager<PackageLoader>, access: Access, limits: &Limits, download: OnDownload) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (requests, access) = (Arc::default(), Arc::new(access));
        Self { manager, started, requests, download, access, body_deadline: limits.patience }
    }

    /// Ends every answer that is being worked on, and those that are still asked for.
    pub fn stop(&self) {
        self.requests.stopping.store(true, Ordering::SeqCst);
        self.requests.running().values().for_each(CancelFlag::cancel);
    }

    /// A new answer, with the guard that ends it.
    fn begin(&self) -> Answering {
        let number = self.requests.next.fetch_add(1, Ordering::Relaxed);
        let cancel = CancelFlag::new();
        self.requests.running().insert(number, cancel.clone());
        if self.requests.stopping.load(Ordering::SeqCst) {
            cancel.cancel();
        }
        Answering { number, cancel, requests: self.requests.clone() }
    }

    /// The endpoints as an HTTP service.
    pub fn router(self) -> Router {
        let access = self.access.clone();
        Router::new()
            .route("/health", get(async || Json(json!({ "status": "ok" }))))
            .route("/v1/models", get(models))
            .route("/v1/models/{id}", get(model))
            .route("/v1/chat/completions", post(chat))
            .fallback(async || {
                Refused(ApiError { status: 404, code: "not_found", ..ApiError::invalid("no such route") })
            })
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(middleware::from_fn_with_state(access, access::check))
            .with_state(self)
    }

    fn describe(&self, model_id: &str) -> Value {
        json!({ "id": model_id, "object": "model", "created": self.started, "owned_by": "knapsack" })
    }

    /// Answers on a thread of its own, because generating takes long and blocks; `done` is told how it ended.
    fn answer(
        self,
        request: Request,
        cancel: CancelFlag,
        mut on_event: impl FnMut(Value) + Send + 'static,
        done: impl FnOnce(Result<(), ApiError>) + Send + 'static,
    ) -> Result<(), ApiError> {
        let work = move || {
            let call = Call { cancel, on_download: Some(&*self.download), ..Call::default() };
            let result = complete(&self.manager, &request, &call, &mut on_event);
            drop(on_event);
            done(result);
        };
        let thread = std::thread::Builder::new().name("answer".into()).spawn(work);
        thread.map(drop).map_err(|error| ApiError::internal(&error))
    }
}

/// An error as an answer.
struct Refused(ApiError);

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0.json())).into_response()
    }
}

async fn models(State(server): State<Server>) -> Json<Value> {
    let list = &server.manager.loader().package().config().model_list;
    let data: Vec<Value> = list.iter().map(|model| server.describe(&model.model_id)).collect();
    Json(json!({ "object": "list", "data": data }))
}

async fn model(State(server): State<Server>, Path(id): Path<String>) -> Result<Json<Value>, Refused> {
    match server.manager.loader().package().config().model(&id) {
        Some(model) => Ok(Json(server.describe(&model.model_id))),
        None => Err(ApiError::no_such_model(&id).into()),
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

async fn chat(State(server): State<Server>, request: HttpRequest) -> Result<Response, Refused> {
    let body = body(&server, request).await?;
    let request = Request::parse(&body)?;
    drop(body);
    let answering = server.begin();
    if request.stream() {
        return Ok(events::stream(server, request, answering).await?);
    }
    let (sender, receiver) = oneshot::channel();
    let whole = Arc::new(Mutex::new(Value::Null));
    let keep = whole.clone();
    let put = move |answer| *keep.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    server.answer(request, answering.cancel.clone(), put, |result| drop(sender.send(result)))?;
    receiver.await.map_err(|_| lost())??;
    let answer = std::mem::take(&mut *whole.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Json(answer).into_response())
}

/// The thread of the answer ended without a word.
fn lost() -> ApiError {
    ApiError { status: 500, kind: "server_error", code: "internal_error", ..ApiError::invalid("the answer was lost") }
}

/// The request's body, which must come within the deadline.
async fn body(server: &Server, request: HttpRequest) -> Result<Bytes, ApiError> {
    let refused = |status, code, message: String| ApiError { status, code, ..ApiError::invalid(message) };
    match timeout(server.body_deadline, Bytes::from_request(request, server)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(refused(413, "too_large", format!("the body is longer than {MAX_BODY_BYTES} bytes")))
        }
        Ok(Err(rejection)) => Err(ApiError::invalid(rejection.body_text())),
        Err(_) => Err(refused(408, "timeout", "the body took too long to come".into())),
    }
}
