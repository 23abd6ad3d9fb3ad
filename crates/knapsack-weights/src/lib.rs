//! Conversion: from a Hugging Face checkpoint to a weight folder in MLC's format, bit for bit what `mlc_llm convert_weight` writes.
//!
//! In: a folder with `config.json`, safetensors files and tokenizer files, and a quantization format. Out: a folder with
//! `params_shard_*.bin`, `tensor-cache.json`, `mlc-chat-config.json` and the tokenizer files, complete or not there at all.
//! Neighbours: `knapsack-models` says which tensors a family has and where they come from, `knapsack-artifact` defines the
//! files, `knapsack-tensor` the arithmetic.
//!
//! [`convert`] works in steps: the checkpoint's headers are read, everything that will be written gets its place (`layout`), then
//! threads take blocks of rows, convert them (`block`, [`quantize`]) and write them there (`pipeline`). So the memory that is needed
//! does not grow with the model, and the result does not depend on the number of threads.

mod block;
mod chat;
mod checkpoint;
mod convert;
pub mod element;
mod error;
mod fit;
mod io;
mod jinja;
mod layout;
mod md5;
mod output;
mod pipeline;
pub mod quantize;
mod safetensors_header;
mod template;
mod tokenizer;
mod unusual;

pub use chat::{ChatWarning, check_chat};
pub use checkpoint::WeightsStart;
pub use convert::{Conversion, ConvertRequest, check, check_headers, convert};
pub use error::ConvertError;
pub use jinja::check_chat_template;
pub use pipeline::ConvertProgress;
pub use template::TemplateChoice;
