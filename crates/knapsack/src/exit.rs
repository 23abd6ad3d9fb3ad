//! From the result of a verb to the exit code.

use crate::report::{Reporter, StdoutClosed};
use std::fmt;
use std::process::ExitCode;

/// Done.
pub const DONE: u8 = 0;
/// The work failed.
pub const FAILED: u8 = 1;
/// The input was wrong; nothing was fetched, compiled or written.
pub const WRONG_INPUT: u8 = 2;
/// Ctrl-C: 128 + SIGINT, as shells expect.
pub const INTERRUPTED: u8 = 130;

/// Marks an error as the user's input being wrong: exit code 2 instead of 1.
#[derive(Debug)]
pub struct WrongInput(pub anyhow::Error);

impl fmt::Display for WrongInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for WrongInput {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// An error whose diagnostics were shown already: only the exit code is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadyReported(pub u8);

impl fmt::Display for AlreadyReported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed with exit code {}; the reasons are above", self.0)
    }
}

impl std::error::Error for AlreadyReported {}

/// Work that stopped because of Ctrl-C, after cleaning up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Marks errors as wrong input.
pub trait OrWrongInput<T> {
    /// The same result, with exit code 2 for an error.
    fn or_wrong_input(self) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrWrongInput<T> for Result<T, E> {
    fn or_wrong_input(self) -> anyhow::Result<T> {
        self.map_err(|error| WrongInput(error.into()).into())
    }
}

/// An error with exit code 2 that says `message`.
pub fn wrong_input(message: impl Into<String>) -> anyhow::Error {
    WrongInput(anyhow::Error::msg(message.into())).into()
}

/// Shows the error, if there is one that was not shown, and gives the exit code.
pub fn finish(reporter: &Reporter, result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::from(DONE) };
    let code = code_of(&error);
    let shown = error.is::<AlreadyReported>() || is_broken_pipe(&error);
    if !shown {
        reporter.error(&error, code);
    }
    ExitCode::from(code)
}

/// The exit code of an error.
pub fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(AlreadyReported(code)) = error.downcast_ref() {
        return *code;
    }
    let packaging = error.downcast_ref::<knapsack_package::Error>();
    let interrupted = matches!(packaging, Some(knapsack_package::Error::Interrupted));
    if interrupted || error.chain().any(|cause| cause.is::<Interrupted>()) {
        return INTERRUPTED;
    }
    if is_broken_pipe(error) {
        return DONE;
    }
    let wrong = error.is::<WrongInput>() || packaging.is_some_and(knapsack_package::Error::is_wrong_input);
    if wrong { WRONG_INPUT } else { FAILED }
}

/// Whether the reader of stdout went away, as in `knapsack schema | head -1`: it has what it wants. Only results written
/// through [`Reporter::stdout`] are marked so; a broken connection elsewhere is a failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<StdoutClosed>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use std::io;

    #[test]
    fn codes() {
        assert_eq!(code_of(&anyhow::anyhow!("x")), FAILED);
        assert_eq!(code_of(&wrong_input("x")), WRONG_INPUT);
        assert_eq!(code_of(&Err::<(), _>(wrong_input("x")).context("while y").unwrap_err()), WRONG_INPUT);
        assert_eq!(code_of(&AlreadyReported(2).into()), WRONG_INPUT);
        assert_eq!(code_of(&anyhow::Error::new(Interrupted).context("while y")), INTERRUPTED);
        assert_eq!(code_of(&StdoutClosed::wrap(io::ErrorKind::BrokenPipe.into())), DONE);
        assert_eq!(code_of(&anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe))), FAILED);
    }
}
