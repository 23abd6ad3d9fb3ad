//! `knapsack completions SHELL`.

use crate::cli::{Cli, CompletionsArgs};
use crate::report::Reporter;
use clap::CommandFactory;

/// Prints the completion script of a shell.
pub fn run(args: &CompletionsArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "knapsack", &mut script);
    reporter.stdout(|out| out.write_all(&script))
}
