//! Threads that stay. A task is a number of units that any thread may take; results may not depend on who takes which.
//!
//! Between two tasks of a step the workers spin for some microseconds, so that starting a task costs no system call; after
//! that they sleep, and so does a caller that waits for a worker. The caller works too, and never waits for a worker that has not
//! begun.

use super::cores::{Placement, place_thread};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps.
const SPIN: Duration = Duration::from_micros(60);
/// How often a caller looks whether the last worker is done before it sleeps.
const SPINS: u32 = 20_000;
/// In [`Shared::state`]: the task may be joined.
const OPEN: u64 = 1 << 31;
/// In [`Shared::state`]: workers that are in the task.
const ACTIVE: u64 = OPEN - 1;
/// In [`Shared::state`]: one more task.
const GENERATION: u64 = 1 << 32;

/// A task without its lifetime. The pointer is only used between joining and leaving an open task, and the caller of
/// [`Pool::run`] keeps what it points to alive until nobody can join and all have left.
type Task = (*const (dyn Fn(usize) + Sync), usize);

struct Shared {
    /// Generation, [`OPEN`], number of active workers.
    state: AtomicU64,
    task: std::cell::UnsafeCell<Option<Task>>,
    /// The next unit to take.
    next: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleeping: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    /// The caller sleeps until the last worker has left the task.
    waiting: AtomicBool,
    left: Condvar,
}

// SAFETY: `task` is written only by the caller that holds `Pool::turn`, while the task is closed and no worker is active;
// workers read it only after joining an open task, which orders the read after the write (acquire on `state`).
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in it is to something `Sync`.
unsafe impl Send for Shared {}

/// A pool of threads.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a task runs: one at a time.
    turn: Mutex<()>,
}

/// A lock whose data is `()`: a panic elsewhere leaves nothing broken behind.
fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Takes units until there are none left.
    fn work(&self, (task, units): Task) {
        loop {
            let unit = self.next.fetch_add(1, Ordering::Relaxed);
            if unit >= units {
                return;
            }
            // SAFETY: this thread is the caller or has joined the open task: what `task` points to is alive (see `Task`).
            let task = unsafe { &*task };
            if catch_unwind(AssertUnwindSafe(|| task(unit))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Joins the open task, if there is one that `seen` has not been in; says which.
    fn join(&self, seen: u64) -> Option<u64> {
        let mut state = self.state.load(Ordering::Acquire);
        while state & OPEN != 0 && state / GENERATION != seen {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(state / GENERATION),
                Err(now) => state = now,
            }
        }
        None
    }

    fn worker(&self) {
        let mut seen = 0;
        let mut idle_since = Instant::now();
        let mut spins = 0u32;
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(generation) = self.join(seen) {
                seen = generation;
                // SAFETY: the task was written before it was opened, and stays until this worker has left.
                if let Some(task) = unsafe { *self.task.get() } {
                    self.work(task);
                }
                self.leave();
                idle_since = Instant::now();
                continue;
            }
            spins = spins.wrapping_add(1);
            std::hint::spin_loop();
            if spins.is_multiple_of(64) && idle_since.elapsed() > SPIN {
                self.doze(seen);
                idle_since = Instant::now();
            }
        }
    }

    /// Leaves the task that was joined.
    fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::SeqCst);
        if before & ACTIVE == 1 && self.waiting.load(Ordering::SeqCst) {
            drop(lock(&self.sleep));
            self.left.notify_all();
        }
    }

    /// Waits until no worker is in the task, which is closed: a moment without, then asleep.
    fn wait_until_left(&self) {
        for _ in 0..SPINS {
            if self.state.load(Ordering::Acquire) & ACTIVE == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.sleep);
        self.waiting.store(true, Ordering::SeqCst);
        while self.state.load(Ordering::SeqCst) & ACTIVE != 0 {
            guard = self.left.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.store(false, Ordering::SeqCst);
    }

    /// Sleeps until a task that `seen` has not been in is open.
    fn doze(&self, seen: u64) {
        let mut guard = lock(&self.sleep);
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) || (state & OPEN != 0 && state / GENERATION != seen) {
                break;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake_sleepers(&self) {
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }
    }
}

impl Pool {
    /// A pool of as many threads as the placement says, the caller among them. Threads that cannot be had are done without.
    pub(crate) fn new(placement: &Placement) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(GENERATION),
            task: std::cell::UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleeping: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            waiting: AtomicBool::new(false),
            left: Condvar::new(),
        });
        let workers = (1..placement.threads)
            .map_while(|index| {
                let (shared, cpus) = (shared.clone(), placement.cpus.clone());
                let work = move || {
                    place_thread(&cpus);
                    shared.worker();
                };
                let name = format!("knapsack-cpu-{index}");
                std::thread::Builder::new().name(name).spawn(work).ok()
            })
            .collect();
        Pool { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` once for each unit, on all threads, and returns when all calls have.
    ///
    /// # Panics
    /// When a call panics, after all others are done.
    pub(crate) fn run(&self, units: usize, task: &(dyn Fn(usize) + Sync)) {
        if units <= 1 || self.workers.is_empty() {
            (0..units).for_each(task);
            return;
        }
        let turn = lock(&self.turn);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; nobody uses the pointer after this call, see `Task`.
        let task = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        let task: Task = (task, units);
        // SAFETY: this thread holds the turn, the last task is closed and its workers have left.
        unsafe { *shared.task.get() = Some(task) };
        shared.next.store(0, Ordering::Relaxed);
        let generation = (shared.state.load(Ordering::Relaxed) / GENERATION).wrapping_add(1) & 0xffff_ffff;
        shared.state.store((generation * GENERATION) | OPEN, Ordering::SeqCst);
        shared.wake_sleepers();
        shared.work(task);
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        shared.wait_until_left();
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        drop(turn);
        assert!(!panicked, "a unit of a CPU task panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// The performance cores of this machine, or as many threads as `KNAPSACK_THREADS` says, wherever the system puts them.
pub(crate) fn default_placement() -> Placement {
    match std::env::var("KNAPSACK_THREADS").ok().and_then(|text| text.parse::<usize>().ok()) {
        Some(threads) => Placement::anywhere(threads.clamp(1, 256)),
        None => Placement::of_this_machine(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(&Placement::anywhere(threads));
            for units in [0, 1, 2, 7, 100] {
                for _ in 0..50 {
                    let counts: Vec<AtomicUsize> = (0..units).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(units, &|unit| {
                        counts[unit].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_and_callers_take_turns() {
        let pool = Pool::new(&Placement::anywhere(3));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..20 {
                        let sum = AtomicUsize::new(0);
                        pool.run(64, &|unit| {
                            sum.fetch_add(unit, Ordering::Relaxed);
                        });
                        assert_eq!(sum.load(Ordering::Relaxed), 63 * 32);
                        if round % 5 == 0 {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives() {
        let pool = Pool::new(&Placement::anywhere(2));
        let caught = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|unit| assert!(unit != 5, "unit 5"))));
        assert!(caught.is_err());
        let done = AtomicUsize::new(0);
        pool.run(8, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 8);
    }

    /// CPU time of a thread.
    #[cfg(target_os = "linux")]
    fn thread_time(thread: libc::pthread_t) -> Duration {
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a living thread, and variables of the right types.
        let codes = unsafe { [libc::pthread_getcpuclockid(thread, &mut clock), libc::clock_gettime(clock, &mut time)] };
        assert_eq!(codes, [0, 0]);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn idle_threads_take_no_time() {
        use std::os::unix::thread::JoinHandleExt;
        let pool = Pool::new(&Placement::anywhere(3));
        pool.run(64, &|_| std::thread::sleep(Duration::from_micros(50)));
        // The spinning after a task is over by then, on a machine that is busy with other things too.
        std::thread::sleep(Duration::from_millis(50));
        let time = || pool.workers.iter().map(|worker| thread_time(worker.as_pthread_t())).sum::<Duration>();
        let before = time();
        std::thread::sleep(Duration::from_millis(200));
        assert!(time() - before < Duration::from_millis(1), "{:?}", time() - before);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_caller_that_waits_takes_no_time() {
        let pool = Pool::new(&Placement::anywhere(2));
        let caller = std::thread::current().id();
        let begun = AtomicBool::new(false);
        // SAFETY: no preconditions.
        let own = || thread_time(unsafe { libc::pthread_self() });
        let before = own();
        pool.run(2, &|_| {
            if std::thread::current().id() == caller {
                // Not before the worker is in its unit.
                while !begun.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_micros(100));
                }
            } else {
                begun.store(true, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        let took = own() - before;
        assert!(took < Duration::from_millis(100), "{took:?}");
    }
}
