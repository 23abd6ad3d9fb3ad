use crate::cancel::CancelFlag;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a call that waits to be let in looks at its cancel flag.
const POLL: Duration = Duration::from_millis(20);

/// Whether models may compute: what an app pauses when it goes into the background, where some systems end apps that use the GPU.
/// Cheap to clone; every clone is the same.
///
/// Computation happens under a permit, and none is given while paused; so after [`Activity::pause`] has returned nothing is
/// computed and nothing is submitted until [`Activity::resume`].
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Read between pieces of work, without the lock.
    paused: AtomicBool,
    /// Permits that are held.
    running: Mutex<usize>,
    changed: Condvar,
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, usize> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    /// One that is not paused.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets nothing begin, has what runs stop after its present piece of work, and returns when nothing runs.
    pub fn pause(&self) {
        let mut running = self.0.running();
        self.0.paused.store(true, Ordering::SeqCst);
        while *running > 0 {
            running = self.0.changed.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets computation begin again.
    pub fn resume(&self) {
        let _running = self.0.running();
        self.0.paused.store(false, Ordering::SeqCst);
        self.0.changed.notify_all();
    }

    /// Whether nothing may begin, and what runs should stop.
    pub fn is_paused(&self) -> bool {
        self.0.paused.load(Ordering::SeqCst)
    }

    /// Leave to compute until the permit is dropped; `None` while paused.
    pub(crate) fn enter(&self) -> Option<Permit> {
        let mut running = self.0.running();
        // Under the lock that a pause holds while it begins.
        if self.is_paused() {
            return None;
        }
        *running += 1;
        Some(Permit(self.0.clone()))
    }

    /// Leave to compute, when there is no pause any more; `None` when `cancel` is raised first.
    pub(crate) fn enter_when_resumed(&self, cancel: &CancelFlag) -> Option<Permit> {
        let mut running = self.0.running();
        while self.is_paused() {
            if cancel.is_cancelled() {
                return None;
            }
            running = self.0.changed.wait_timeout(running, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        *running += 1;
        Some(Permit(self.0.clone()))
    }
}

/// Leave to compute.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Shared>);

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.running() -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    #[test]
    fn nothing_runs_after_a_pause_and_everything_after_it_ends() {
        let (activity, computing, done) = (Activity::new(), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let cancel = CancelFlag::new();
                    while done.load(Ordering::SeqCst) < 2000 {
                        let Some(_permit) = activity.enter_when_resumed(&cancel) else { unreachable!() };
                        computing.fetch_add(1, Ordering::SeqCst);
                        while !activity.is_paused() && done.fetch_add(1, Ordering::SeqCst) % 7 != 0 {}
                        computing.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..200 {
                activity.pause();
                for _ in 0..10 {
                    assert_eq!(computing.load(Ordering::SeqCst), 0);
                    assert!(activity.enter().is_none());
                }
                activity.resume();
            }
        });
        assert!(done.load(Ordering::SeqCst) >= 2000 && activity.enter().is_some());
    }

    #[test]
    fn waiting_for_the_end_of_a_pause_can_be_cancelled() {
        let (activity, cancel) = (Activity::new(), CancelFlag::new());
        activity.pause();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| activity.enter_when_resumed(&cancel).is_none());
            thread::sleep(Duration::from_millis(5));
            cancel.cancel();
            assert!(waiting.join().unwrap());
        });
    }
}
