//! Loads packages and generates text: tokenizer, chat template, sampling, KV cache, engine.
//!
//! In: a package or weight folder, a [`knapsack_device::Device`], a conversation. Out: text, streamed. Neighbours:
//! `knapsack-device` executes the model; `knapsack-artifact` defines the files; the command line and the mobile bindings sit
//! on top. It runs inside an app: every failure is a value, and nothing here is `unsafe`.
//!
//! A [`Session`] is the token side of a loaded model (cache, prefill, decode), a [`ChatModel`] the text side (tokenizer,
//! template, stops), and an [`Engine`] both together.

mod activity;
mod cancel;
mod chat_config;
mod context;
pub mod download;
mod engine;
mod error;
mod grammar;
mod loader;
pub mod manager;
mod package;
mod rng;
mod sampling;
mod saved;
#[cfg(test)]
mod scripted;
mod session;
mod sync;
pub mod text;
mod tools;

pub use activity::Activity;
pub use cancel::CancelFlag;
pub use chat_config::ChatModel;
pub use context::{ContextPolicy, FittedPrompt};
pub use engine::{Engine, Event, FinishReason, GenerateOptions, Generation, GenerationStats};
pub use error::EngineError;
pub use grammar::{Grammar, GrammarError};
pub use loader::{LoadFailed, PackageLoader};
pub use package::{FindFiles, FindLibrary, Package, PackageError, table_libraries};
pub use sampling::{InvalidSampling, LogProb, SamplingOptions, TokenLogProbs};
pub use saved::SavedError;
pub use session::Session;
pub use tools::ToolChoice;
