//! Who computes, and whether anybody may.

use super::{Code, Error, Result};
use knapsack_runtime::CancelFlag;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a waiting call looks at its cancel flag.
const POLL: Duration = Duration::from_millis(20);

/// Closed while the app is in the background.
pub(super) struct Gate {
    /// Whether it ever closes.
    closes: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    inside: Vec<Visit>,
}

struct Visit {
    cancel: CancelFlag,
    stopped: Arc<AtomicBool>,
}

/// An answer that is being computed.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    stopped: Arc<AtomicBool>,
}

impl Gate {
    pub(super) fn new(closes: bool) -> Self {
        Self { closes, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Begins an answer, which `cancel` ends.
    ///
    /// # Errors
    /// The app is in the background.
    pub(super) fn enter(&self, cancel: &CancelFlag) -> Result<Pass<'_>> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::new(Code::Backgrounded, "the app is in the background"));
        }
        let stopped = Arc::new(AtomicBool::new(false));
        state.inside.push(Visit { cancel: cancel.clone(), stopped: stopped.clone() });
        Ok(Pass { gate: self, stopped })
    }

    /// Waits until the app is in the foreground.
    ///
    /// # Errors
    /// The flag.
    pub(super) fn wait(&self, cancel: &CancelFlag) -> Result<()> {
        let mut state = self.lock();
        while state.closed {
            if cancel.is_cancelled() {
                return Err(Error::new(Code::Cancelled, "cancelled"));
            }
            state = self.changed.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    pub(super) fn pause(&self) {
        if !self.closes {
            return;
        }
        let mut state = self.lock();
        state.closed = true;
        for visit in &state.inside {
            visit.stopped.store(true, Ordering::Relaxed);
            visit.cancel.cancel();
        }
        while !state.inside.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn resume(&self) {
        self.lock().closed = false;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// Whether the gate ended it.
    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.lock().inside.retain(|visit| !Arc::ptr_eq(&visit.stopped, &self.stopped));
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_who_is_inside_and_keeps_others_out() {
        let gate = Gate::new(true);
        let cancel = CancelFlag::new();
        std::thread::scope(|scope| {
            let (entered, inside) = std::sync::mpsc::channel();
            let (gate, cancel) = (&gate, &cancel);
            let answer = scope.spawn(move || {
                let pass = gate.enter(cancel).unwrap();
                entered.send(()).unwrap();
                while !cancel.is_cancelled() {
                    std::thread::yield_now();
                }
                pass.stopped()
            });
            inside.recv().unwrap();
            gate.pause();
            assert!(answer.join().unwrap());
        });
        assert_eq!(gate.enter(&CancelFlag::new()).err().unwrap().code, Code::Backgrounded);
        assert_eq!(gate.wait(&cancel).unwrap_err().code, Code::Cancelled);
        gate.resume();
        assert!(gate.wait(&cancel).is_ok() && gate.enter(&cancel).is_ok());
    }

    #[test]
    fn a_gate_that_never_closes_lets_everybody_go_on() {
        let gate = Gate::new(false);
        let cancel = CancelFlag::new();
        let pass = gate.enter(&cancel).unwrap();
        gate.pause();
        assert!(!pass.stopped() && !cancel.is_cancelled() && gate.enter(&cancel).is_ok());
    }
}
