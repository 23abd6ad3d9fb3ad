//! What the libraries log, on stderr: warnings always, the rest with `-v` and `-vv`, nothing with `--quiet`.

use crate::report::Reporter;
use log::{Level, LevelFilter, Log, Metadata, Record};

struct Stderr {
    reporter: Reporter,
}

impl Log for Stderr {
    /// Our own: the crates below log for those who work on them.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("knapsack")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match record.level() {
            Level::Error | Level::Warn => self.reporter.warning(record.args()),
            Level::Info | Level::Debug | Level::Trace => self.reporter.detail("Log", record.args()),
        }
    }

    fn flush(&self) {}
}

/// Shows what is logged from here on. A program that embeds the command line and logs already keeps its own way.
pub fn install(reporter: &Reporter) {
    let level = match reporter.verbosity() {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    if log::set_boxed_logger(Box::new(Stderr { reporter: reporter.clone() })).is_ok() {
        log::set_max_level(level);
    }
}
