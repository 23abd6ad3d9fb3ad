//! Time as the shared cache sees it: it waits, and is told to stop waiting. Tests have a clock of their own.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Waits.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Waits so long, or until it is stopped.
    fn sleep(&self, duration: Duration, stop: &Stop);

    /// Another thread is about to run, or has ended: a clock that runs ahead when everybody waits has to know.
    fn thread(&self, _begins: bool) {}
}

/// Ends waiting.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Ends it.
    pub fn stop(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Whether it was ended.
    pub fn is_stopped(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn sleep(&self, duration: Duration, stop: &Stop) {
        let stopped = stop.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(stop.0.1.wait_timeout_while(stopped, duration, |stopped| !*stopped));
    }
}
