//! Everything between strings and tokens: the tokenizer, its inverse as a stream, chat templates and stop strings.

mod clock;
mod conversation;
mod detokenizer;
mod error;
mod jinja;
mod stop;
mod template;
mod tokenizer;

pub use conversation::{ConvTemplate, IncompleteTemplate};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use jinja::JinjaTemplate;
pub use stop::{StopMatch, StopStrings};
pub use template::{ChatTemplate, Message, Prompt, Role};
pub use tokenizer::Tokenizer;
pub(crate) use tokenizer::read_capped;
