//! The `knapsack` command line: arguments ([`cli`]), one file per verb ([`ops`]), and everything that is shown
//! ([`report`]).
//!
//! In: the command line. Out: results on stdout, diagnostics and progress on stderr (with `--message-format json`, one
//! JSON object per line on stdout), and the exit code: 0 done, 1 failed, 2 wrong input, 130 interrupted. The work itself
//! is in the other crates; a verb only strings them together.

pub mod cli;
pub mod downloads;
pub mod exit;
pub mod files;
pub mod first_use;
pub mod interrupt;
pub mod logging;
pub mod open;
pub mod ops;
pub mod packaging;
pub mod phones;
pub mod report;
pub mod runtime;
pub mod serve;
mod speed;
pub mod table;
mod tools;

use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs one command line, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match cli::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with exit code 0. A closed pipe is no reason to complain.
            let _ = error.print();
            return ExitCode::from(error.exit_code().clamp(0, 255) as u8);
        }
    };
    let reporter = report::Reporter::new(&cli.output);
    logging::install(&reporter);
    interrupt::install();
    let result = ops::dispatch(&cli.command, &reporter);
    exit::finish(&reporter, result)
}
