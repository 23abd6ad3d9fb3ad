//! Trying again: which failures are worth it, and how long to pause.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result, Retry};
use crate::progress::{Event, Progress};
use crate::settings::Patience;

/// Counts the failures of one file or request.
pub(crate) struct Attempts<'a> {
    pub(crate) name: &'a str,
    pub(crate) patience: Patience,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) progress: &'a dyn Progress,
    failures: u32,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(name: &'a str, patience: Patience, stop: &'a AtomicBool, progress: &'a dyn Progress) -> Self {
        Self { name, patience, stop, progress, failures: 0 }
    }

    /// Something was gained since the last failure: the count begins anew.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Pauses after a failure, or gives it back when another attempt is not worth it.
    pub(crate) fn failed(&mut self, error: Error) -> Result<()> {
        self.failures += 1;
        let doubled =
            self.patience.pause.saturating_mul(1 << (self.failures - 1).min(16)).min(self.patience.longest_pause);
        let wait = match error.retry() {
            Retry::Never => return Err(error),
            Retry::After(wait) if wait > self.patience.longest_pause => return Err(error),
            Retry::After(wait) => wait,
            Retry::Backoff => doubled.mul_f64(jitter()),
        };
        if self.failures >= self.patience.attempts {
            return match self.failures {
                1 => Err(error),
                attempts => Err(Error::GaveUp { file: self.name.to_owned(), attempts, source: Box::new(error) }),
            };
        }
        let reason = error.to_string();
        self.progress.event(Event::Retry { name: self.name, attempt: self.failures, wait, reason: &reason });
        self.pause(wait)
    }

    fn pause(&self, wait: Duration) -> Result<()> {
        let end = Instant::now() + wait;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            match end.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => std::thread::sleep(left.min(Duration::from_millis(50))),
            }
        }
    }
}

/// Between 0.75 and 1.25, so that many clients do not come back at once.
fn jitter() -> f64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    0.75 + f64::from(nanos % 1000) / 2000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(wait: Option<u64>) -> Error {
        Error::RateLimited { url: "u".into(), wait: wait.map(Duration::from_secs) }
    }

    #[test]
    fn failures_are_counted_until_something_is_gained() {
        let patience = Patience { attempts: 3, pause: Duration::ZERO, ..Patience::default() };
        let (stop, waits) = (AtomicBool::new(false), std::sync::Mutex::new(Vec::new()));
        let progress = |event: Event<'_>| {
            if let Event::Retry { attempt, .. } = event {
                waits.lock().unwrap().push(attempt);
            }
        };
        let mut attempts = Attempts::new("f", patience, &stop, &progress);
        attempts.failed(limited(None)).unwrap();
        attempts.failed(limited(Some(0))).unwrap();
        attempts.progressed();
        attempts.failed(limited(None)).unwrap();
        attempts.failed(limited(None)).unwrap();
        assert!(matches!(attempts.failed(limited(None)), Err(Error::GaveUp { attempts: 3, .. })));
        assert_eq!(*waits.lock().unwrap(), [1, 2, 1, 2]);
    }

    #[test]
    fn hopeless_failures_and_long_waits_come_back_at_once() {
        let stop = AtomicBool::new(false);
        let mut attempts = Attempts::new("f", Patience::default(), &stop, &crate::progress::Silent);
        assert!(matches!(attempts.failed(limited(Some(86_400))), Err(Error::RateLimited { .. })));
        let not_found = Error::Status { status: 404, url: "u".into(), message: String::new() };
        assert!(matches!(attempts.failed(not_found), Err(Error::Status { .. })));
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(attempts.failed(limited(None)), Err(Error::Stopped)));
    }
}
