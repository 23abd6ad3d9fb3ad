//! Downloads as people see them: a bar for each file under way, and one for all together with rate and time left.

use crate::report::Reporter;
use indicatif::{BinaryBytes, ProgressBar};
use knapsack_source::{Event, Progress};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// Smaller batches are configurations and indexes, fetched to know what a model is: only `-v` tells of them.
const WORTH_TELLING: u64 = 4 << 20;

/// Shows what `knapsack-source` does.
pub struct Downloads<'a> {
    reporter: &'a Reporter,
    batch: Mutex<Option<Batch>>,
}

/// Files that are downloaded together.
struct Batch {
    files: usize,
    bytes: u64,
    /// Bytes that really came over the network.
    received: u64,
    start: Instant,
    total: ProgressBar,
    bars: BTreeMap<usize, ProgressBar>,
}

impl<'a> Downloads<'a> {
    /// Shows on `reporter`.
    pub fn new(reporter: &'a Reporter) -> Self {
        Downloads { reporter, batch: Mutex::new(None) }
    }

    fn batch(&self) -> MutexGuard<'_, Option<Batch>> {
        self.batch.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn begin(&self, files: usize, bytes: u64) {
        let text = format!("{files} file{}, {}", if files == 1 { "" } else { "s" }, BinaryBytes(bytes));
        match bytes >= WORTH_TELLING {
            true => self.reporter.status("Downloading", text),
            false => self.reporter.detail("Downloading", text),
        }
        let total = self.reporter.bytes_bar("Total", bytes);
        let (received, start, bars) = (0, Instant::now(), BTreeMap::new());
        *self.batch() = Some(Batch { files, bytes, received, start, total, bars });
    }

    /// A file begins, or begins again after a failure, with `done` bytes there already.
    fn start(&self, file: usize, name: &str, size: u64, done: u64) {
        if let Some(batch) = self.batch().as_mut() {
            let bar = batch.bars.entry(file).or_insert_with(|| {
                let short = name.rsplit('/').next().unwrap_or(name).to_owned();
                self.reporter.bytes_bar("", size).with_message(short)
            });
            let others = batch.total.position().saturating_sub(bar.position());
            bar.set_position(done);
            bar.reset_eta();
            batch.total.set_position(others + done);
        }
    }

    fn end(&self) {
        let Some(batch) = self.batch().take() else { return };
        batch.total.finish_and_clear();
        if batch.bytes >= WORTH_TELLING {
            let seconds = batch.start.elapsed().as_secs_f64().max(0.001);
            let rate = BinaryBytes((batch.received as f64 / seconds) as u64);
            let (files, received) = (batch.files, BinaryBytes(batch.received));
            let plural = if files == 1 { "" } else { "s" };
            self.reporter
                .status("Downloaded", format!("{files} file{plural}, {received} in {seconds:.1} s ({rate}/s)"));
        }
    }
}

impl Progress for Downloads<'_> {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Resolving { model_id, source } => {
                self.reporter.status("Resolving", format!("{model_id} ({source})"))
            }
            Event::Batch { files, bytes } => self.begin(files, bytes),
            Event::Start { file, name, size, done } => self.start(file, name, size, done),
            Event::Bytes { file, count } => {
                if let Some(batch) = self.batch().as_mut() {
                    batch.received += count;
                    batch.total.inc(count);
                    batch.bars.get(&file).inspect(|bar| bar.inc(count));
                }
            }
            Event::Waiting { .. } => {
                self.reporter.status("Waiting", "for another process that downloads the same file")
            }
            Event::Retry { name, wait, reason, .. } => {
                self.reporter.status("Retrying", format!("{name} in {:.1} s: {reason}", wait.as_secs_f64()));
            }
            Event::Finish { file } => {
                if let Some(bar) = self.batch().as_mut().and_then(|batch| batch.bars.remove(&file)) {
                    bar.finish_and_clear();
                }
            }
            Event::BatchEnd => self.end(),
            Event::Notice { text } => self.reporter.notice(text),
            // Events of a later version of the library that are not known here change nothing.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::OutputArgs;

    #[test]
    fn the_total_follows_files_that_are_resumed_and_begin_again() {
        let reporter = Reporter::new(&OutputArgs { quiet: true, ..OutputArgs::default() });
        let downloads = Downloads::new(&reporter);
        let total = || downloads.batch().as_ref().unwrap().total.position();
        downloads.event(Event::Batch { files: 2, bytes: 200 });
        downloads.event(Event::Start { file: 0, name: "org/a/x", size: 100, done: 40 });
        downloads.event(Event::Start { file: 1, name: "org/a/y", size: 100, done: 0 });
        assert_eq!(total(), 40);
        downloads.event(Event::Bytes { file: 0, count: 10 });
        downloads.event(Event::Bytes { file: 1, count: 5 });
        assert_eq!(total(), 55);
        // The server ignored the range: the first file begins at its start again.
        downloads.event(Event::Start { file: 0, name: "org/a/x", size: 100, done: 0 });
        assert_eq!(total(), 5);
        downloads.event(Event::Bytes { file: 0, count: 100 });
        downloads.event(Event::Finish { file: 0 });
        assert_eq!(total(), 105);
        assert_eq!(downloads.batch().as_ref().unwrap().received, 115);
        downloads.event(Event::BatchEnd);
        assert!(downloads.batch().is_none());
    }
}
