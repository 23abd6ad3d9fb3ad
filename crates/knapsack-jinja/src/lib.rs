//! The language of chat templates, within bounds: Jinja as `transformers` sets it up (an immutable sandbox with `trim_blocks`,
//! `lstrip_blocks`, loop controls and `{% generation %}`), with Python's strings, numbers, truth and printing.
//!
//! In: a template and a context as JSON. Out: a [`Text`], which knows for every byte whether the template wrote it or the data:
//! so what a user typed can be kept from becoming a control token. Neighbour: `knapsack-runtime` turns the text into tokens.
//!
//! A template comes from a hub and is hostile: nesting is limited while parsing; instructions, bytes, depth and time while
//! rendering ([`Limits`]); both run on a thread of their own with a stack of known size. Whatever trips is an [`Error`].

mod ast;
mod budget;
mod context;
mod error;
mod filters;
mod format;
mod interpreter;
mod json;
mod lexer;
mod lists;
mod methods;
mod operators;
mod parser;
mod statements;
mod strings;
mod template;
mod tests_of_values;
mod text;
mod value;

pub use budget::Limits;
pub use context::Context;
pub use error::{Error, ErrorKind};
pub use template::Template;
pub use text::Text;
