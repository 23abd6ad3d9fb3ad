//! Everything between strings and tokens: the tokenizer, its inverse as a stream, chat templates and stop strings.

mod bpe;
mod clock;
mod conversation;
mod detokenizer;
mod error;
mod jinja;
mod kept;
mod message;
mod prompt;
mod stop;
mod template;
mod thinking;
mod tokenizer;
mod tokenizer_limits;
mod vocabulary;

pub use conversation::MlcTemplate;
pub(crate) use detokenizer::Detokenizer;
pub use error::TextError;
pub use jinja::JinjaTemplate;
pub(crate) use kept::{Keep, bring_up_to_date};
pub use message::{Message, Role, ToolCall};
pub use prompt::{Prompt, PromptOptions};
pub(crate) use stop::StopStrings;
pub use template::ChatTemplate;
pub(crate) use thinking::ThinkingMarks;
pub(crate) use thinking::{MARKS, Said, ThinkingSplitter};
pub use tokenizer::Tokenizer;
pub(crate) use tokenizer::read_capped;
