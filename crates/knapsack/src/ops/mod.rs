//! The verbs, one file each. A verb takes its arguments and the [`Reporter`], and gives an error whose kind decides the
//! exit code (see [`crate::exit`]).

pub mod bench;
pub mod cache;
pub mod chat;
pub mod check;
pub mod compile;
pub mod completions;
pub mod convert;
pub mod doctor;
pub mod fit;
pub mod init;
pub mod inspect;
pub mod logits;
pub mod memory;
pub mod models;
pub mod package;
pub mod perplexity;
pub(crate) mod phone;
pub mod plan;
pub mod prompt;
pub mod report;
pub mod run;
pub mod schema;
pub mod sdk;
pub mod serve;
pub mod update;

use crate::cli::Command;
use crate::report::Reporter;

/// Runs a verb.
pub fn dispatch(command: &Command, reporter: &Reporter) -> anyhow::Result<()> {
    match command {
        Command::Init(args) => init::run(args, reporter),
        Command::Check(args) => check::run(args, reporter),
        Command::Convert(args) => convert::run(args, reporter),
        Command::Inspect(args) => inspect::run(args, reporter),
        Command::Cache(args) => cache::run(args, reporter),
        Command::Compile(args) => compile::run(args, reporter),
        Command::Package(args) => package::run(args, reporter),
        Command::Plan(args) => plan::run(args, reporter),
        Command::Memory(args) => memory::run(args, reporter),
        Command::Fit(args) => fit::run(args, reporter),
        Command::Update(args) => update::run(args, reporter),
        Command::Prompt(args) => prompt::run(args, reporter),
        Command::Report(args) => report::run(args, reporter),
        Command::Run(args) => run::run(args, reporter),
        Command::Chat(args) => chat::run(args, reporter),
        Command::Bench(args) => bench::run(args, reporter),
        Command::Perplexity(args) => perplexity::run(args, reporter),
        Command::Logits(args) => logits::run(args, reporter),
        Command::Serve(args) => serve::run(args, reporter),
        Command::Models(args) => models::run(args, reporter),
        Command::Sdk(args) => sdk::run(args, reporter),
        Command::Schema => schema::run(reporter),
        Command::Doctor(args) => doctor::run(args, reporter),
        Command::Completions(args) => completions::run(args, reporter),
    }
}
