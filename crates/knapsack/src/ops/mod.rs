//! The verbs, one file each. A verb takes its arguments and the [`Reporter`], and gives an error whose kind decides the
//! exit code (see [`crate::exit`]).

pub mod completions;

use crate::cli::Command;
use crate::report::Reporter;

/// Runs a verb.
pub fn dispatch(command: &Command, reporter: &Reporter) -> anyhow::Result<()> {
    match command {
        Command::Completions(args) => completions::run(args, reporter),
    }
}
