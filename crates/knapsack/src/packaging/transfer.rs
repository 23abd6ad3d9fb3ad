//! Draws downloads: a bar for each file and one for all of them.

use crate::report::Reporter;
use indicatif::ProgressBar;
use knapsack_source::{Event, Progress};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Bars of one batch of downloads.
#[derive(Debug)]
pub(super) struct Bars<'a> {
    reporter: &'a Reporter,
    drawn: Mutex<Drawn>,
}

#[derive(Debug, Default)]
struct Drawn {
    total: Option<ProgressBar>,
    /// Each file's bar and the bytes counted for it.
    files: HashMap<usize, (ProgressBar, u64)>,
}

impl<'a> Bars<'a> {
    pub(super) fn new(reporter: &'a Reporter) -> Self {
        Bars { reporter, drawn: Mutex::default() }
    }
}

impl Progress for Bars<'_> {
    fn event(&self, event: Event<'_>) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Resolving { model_id, source } => {
                self.reporter.status("Resolving", format_args!("{model_id} ({source})"));
            }
            Event::Batch { files, bytes } => {
                let plural = if files == 1 { "" } else { "s" };
                self.reporter.status("Downloading", format_args!("{files} file{plural}, {bytes} bytes"));
                drawn.total = Some(self.reporter.bytes_bar("Total", bytes));
            }
            Event::Start { file, name, size, done } => drawn.start(self.reporter, file, name, size, done),
            Event::Bytes { file, count } => {
                if let Some((bar, counted)) = drawn.files.get_mut(&file) {
                    bar.inc(count);
                    *counted += count;
                }
                drawn.total.iter().for_each(|total| total.inc(count));
            }
            Event::Waiting { file } => {
                if let Some((bar, _)) = drawn.files.get(&file) {
                    bar.set_message("another process downloads it");
                }
            }
            Event::Retry { name, attempt, wait, reason } => {
                let seconds = wait.as_secs_f32();
                self.reporter.warning(format_args!("{name}: {reason}; attempt {} in {seconds:.1} s", attempt + 1));
            }
            Event::Finish { file } => {
                if let Some((bar, _)) = drawn.files.remove(&file) {
                    bar.finish_and_clear();
                }
            }
            Event::BatchEnd => {
                drawn.total.take().iter().for_each(ProgressBar::finish_and_clear);
                drawn.files.clear();
            }
            Event::Notice { text } => self.reporter.notice(text),
            _ => {}
        }
    }
}

impl Drawn {
    /// A file begins, or begins again with fewer bytes than were counted before.
    fn start(&mut self, reporter: &Reporter, file: usize, name: &str, size: u64, done: u64) {
        let (bar, counted) = self.files.entry(file).or_insert_with(|| (reporter.bytes_bar(name, size), 0));
        if let Some(total) = &self.total {
            total.set_position(total.position().saturating_sub(*counted) + done);
        }
        *counted = done;
        bar.set_position(done);
    }
}
