//! Why a model cannot be compiled.

use knapsack_ir::VerifyError;
use std::fmt;

/// One thing that is wrong with the window sizes asked for.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum WindowProblem {
    /// A size of 0 where at least 1 is needed, or beyond what a library may have.
    #[error("{name} is {value}, but must be between 1 and {max}")]
    Range {
        /// The key in `overrides`.
        name: &'static str,
        value: u32,
        /// The largest that is accepted.
        max: u32,
    },
    /// A chunk that the context cannot hold.
    #[error("prefill_chunk_size {chunk} is larger than context_window_size {context}")]
    ChunkBeyondContext { chunk: u32, context: u32 },
    /// A chunk that the sliding window cannot hold.
    #[error("prefill_chunk_size {chunk} is larger than sliding_window_size {window}")]
    ChunkBeyondWindow { chunk: u32, window: u32 },
    /// Sinks that leave nothing to slide.
    #[error("attention_sink_size {sinks} leaves nothing of sliding_window_size {window}")]
    SinksBeyondWindow { sinks: u32, window: u32 },
}

/// Every window problem of a request, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowProblems(pub Vec<WindowProblem>);

impl fmt::Display for WindowProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for WindowProblems {}

/// Why a model cannot be compiled.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum CompileError {
    /// Window sizes that do not go together.
    #[error(transparent)]
    Windows(#[from] WindowProblems),
    /// The graph means nothing.
    #[error("the model's graph is invalid")]
    Graph(#[from] VerifyError),
    /// Operations that no launch executes; all of them, each with how often it is left over.
    #[error("no launch executes {}", list(.0))]
    NotExecutable(Vec<(&'static str, usize)>),
    /// Sizes beyond what a library can describe.
    #[error("{what} takes more bytes than a library can describe")]
    TooLarge {
        /// What is too large.
        what: String,
    },
    /// A launch that no kernel of the target executes.
    #[error(transparent)]
    Codegen(#[from] crate::codegen::CodegenError),
    /// A library's name that is no symbol.
    #[error(
        "`{0}` cannot be the name of a model library: letters, digits, `_`, `.` and `-`, not starting with a digit"
    )]
    Name(String),
    /// The result contradicts itself; this is a defect of the compiler.
    #[error("the compiled library is invalid")]
    Library(#[from] knapsack_artifact::InvalidLibrary),
}

fn list(operations: &[(&'static str, usize)]) -> String {
    let parts: Vec<String> = operations.iter().map(|(name, count)| format!("`{name}` ({count} times)")).collect();
    parts.join(", ")
}
