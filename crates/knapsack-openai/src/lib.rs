//! OpenAI's chat completions over the models of a package: a request as JSON in, events as JSON out, blocking and without HTTP.
//! `knapsack serve` and the mobile bindings are both thin layers on it.
//!
//! ```no_run
//! # fn example(manager: &knapsack_runtime::manager::Manager<knapsack_runtime::PackageLoader>) -> Result<(), knapsack_openai::ApiError> {
//! use knapsack_openai::{Call, Request, complete};
//! let request = Request::parse(br#"{ "messages": [{ "role": "user", "content": "Hi" }], "stream": true }"#)?;
//! complete(manager, &request, &Call::default(), &mut |event| println!("data: {event}"))?;
//! # Ok(())
//! # }
//! ```
//!
//! With `"stream": true` each event is a `chat.completion.chunk`, otherwise there is one event, a `chat.completion`. Events come on
//! the calling thread while the model is held, so what takes them must not wait for anything; [`Call::cancel`] ends the answer from
//! another thread. An error is an [`ApiError`], whose [`ApiError::json`] is the body that OpenAI's clients expect. Before the first
//! event it stands for the whole answer, after it for its end.
//!
//! What a request asks for and this code cannot do is an error that names the field, never silence.

mod complete;
mod error;
mod request;
mod response;

pub use complete::{Call, OnDownload, complete};
pub use error::ApiError;
pub use request::Request;
pub use response::{token_logprobs, tool_call};
