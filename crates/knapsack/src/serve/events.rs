//! An answer as server-sent events.

use super::{Answering, Server, lost};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use knapsack_openai::{ApiError, Request};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Bytes of an answer that a client may lag behind: some ten thousand tokens. The model never waits for a client; one that lags
/// further loses its answer.
const MAX_LAG: usize = 4 << 20;

/// An answer as events. A failure before the first event is a status; one after it is an event.
pub(super) async fn stream(server: Server, request: Request, answering: Answering) -> Result<Response, ApiError> {
    let (sender, mut receiver) = queue();
    let (events, cancel) = (sender.clone(), answering.cancel.clone());
    let show = move |event: serde_json::Value| {
        if !events.send(Ok(event.to_string())) {
            cancel.cancel();
        }
    };
    server.answer(request, answering.cancel.clone(), show, move |result| {
        if let Err(error) = result {
            sender.send(Err(error));
        }
    })?;
    match receiver.channel.recv().await {
        Some(Err(error)) => Err(error),
        Some(Ok(first)) => {
            Ok(Sse::new(Events { first: Some(first), receiver, done: false, _answering: answering }).into_response())
        }
        None => Err(lost()),
    }
}

type Item = Result<String, ApiError>;

fn queue() -> (Sender, Receiver) {
    let (sender, receiver) = unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (Sender { channel: sender, waiting: waiting.clone() }, Receiver { channel: receiver, waiting })
}

/// A queue without an end that counts the bytes in it.
#[derive(Clone)]
struct Sender {
    channel: UnboundedSender<Item>,
    waiting: Arc<AtomicUsize>,
}

impl Sender {
    /// False when the client is gone or has fallen too far behind.
    fn send(&self, item: Item) -> bool {
        let bytes = item.as_ref().map_or(0, String::len);
        let waiting = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        waiting <= MAX_LAG && self.channel.send(item).is_ok()
    }
}

struct Receiver {
    channel: UnboundedReceiver<Item>,
    waiting: Arc<AtomicUsize>,
}

/// The first event, those that come, and the end that OpenAI's clients look for.
struct Events {
    first: Option<String>,
    receiver: Receiver,
    done: bool,
    _answering: Answering,
}

impl Stream for Events {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = |data: String| Poll::Ready(Some(Ok(Event::default().data(data))));
        if let Some(first) = self.first.take() {
            return event(first);
        }
        if self.done {
            return Poll::Ready(None);
        }
        match ready!(self.receiver.channel.poll_recv(context)) {
            Some(Ok(data)) => {
                self.receiver.waiting.fetch_sub(data.len(), Ordering::Relaxed);
                event(data)
            }
            Some(Err(error)) => event(error.json().to_string()),
            None => {
                self.done = true;
                event("[DONE]".to_owned())
            }
        }
    }
}
