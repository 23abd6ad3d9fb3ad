//! The model manager under schedules that a machine would take years to meet. `KNAPSACK_SCHEDULES=N` says how many each test tries.

use knapsack_schedules::cancel::CancelFlag;
use knapsack_schedules::manager::{Acquire, BoxError, Cancelled, Loader, Manager, ManagerError, Pressure};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::Mutex;
use shuttle::{Config, Runner, thread};
use std::sync::Arc;
use std::time::Duration;

const BUDGET: u64 = 10;

/// Memory as a device counts it, which must never be exceeded.
#[derive(Default)]
struct Device {
    used: u64,
    loads: u32,
}

struct Memory {
    device: Mutex<Device>,
}

/// A loaded model; dropping it frees its memory.
struct Model {
    id: &'static str,
    bytes: u64,
    memory: Arc<Memory>,
}

impl Drop for Model {
    fn drop(&mut self) {
        let mut device = self.memory.device.lock().unwrap();
        device.used -= self.bytes;
    }
}

struct Fake {
    memory: Arc<Memory>,
    /// Loads of `d` that fail before one succeeds.
    failures: Mutex<u32>,
}

fn known(id: &str) -> Option<(&'static str, u64)> {
    [("a", 4), ("b", 4), ("c", 6), ("d", 5), ("e", 10)].into_iter().find(|(known, _)| *known == id)
}

impl Loader for Fake {
    type Model = Model;

    fn bytes(&self, id: &str) -> Result<u64, BoxError> {
        Ok(known(id).ok_or("no such model")?.1)
    }

    fn load(&self, id: &str, progress: &dyn Fn(f32), cancel: &CancelFlag) -> Result<Model, BoxError> {
        let (id, bytes) = known(id).ok_or("no such model")?;
        {
            let mut device = self.memory.device.lock().unwrap();
            device.used += bytes;
            device.loads += 1;
            // A model may be loaded anew while it is still being freed: both are counted.
            assert!(device.used <= BUDGET, "{id} makes it {} of {BUDGET}", device.used);
        }
        let model = Model { id, bytes, memory: self.memory.clone() };
        progress(0.5);
        thread::yield_now();
        if cancel.is_cancelled() {
            return Err(Box::new(Cancelled));
        }
        if id == "d" {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err("it does not load".into());
            }
        }
        Ok(model)
    }
}

fn manager(failures: u32) -> (Manager<Fake>, Arc<Memory>) {
    let memory = Arc::new(Memory { device: Mutex::new(Device::default()) });
    let loader = Fake { memory: memory.clone(), failures: Mutex::new(failures) };
    (Manager::new(loader, BUDGET, None), memory)
}

/// Half of the schedules at random, half with few switches at chosen places, which finds what is rare.
fn explore(test: impl Fn() + Send + Sync + Copy + 'static) {
    let schedules = std::env::var("KNAPSACK_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000usize);
    Runner::new(RandomScheduler::new(schedules / 2), Config::new()).run(test);
    Runner::new(PctScheduler::new(3, schedules / 2), Config::new()).run(test);
}

fn patient() -> Acquire {
    Acquire { wait: Duration::from_secs(100_000), ..Acquire::default() }
}

fn end(threads: Vec<thread::JoinHandle<()>>, manager: &Manager<Fake>, memory: &Memory) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    {
        let device = memory.device.lock().unwrap();
        assert_eq!(device.used, manager.used(), "what is counted is what is there");
    }
    manager.memory_pressure(Pressure::Critical);
    assert_eq!((manager.used(), memory.device.lock().unwrap().used), (0, 0), "everything is given back");
    assert!(manager.models().is_empty());
}

#[test]
fn calls_that_want_one_model_load_it_once() {
    explore(|| {
        let (manager, memory) = manager(0);
        let threads = (0..3).map(|_| {
            let manager = manager.clone();
            thread::spawn(move || {
                let handle = manager.acquire("a", &Acquire::default()).unwrap();
                assert_eq!(handle.lock().id, "a");
            })
        });
        let threads: Vec<_> = threads.collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(memory.device.lock().unwrap().loads, 1);
        end(Vec::new(), &manager, &memory);
    });
}

/// Models that do not fit together, each wanted by calls that wait: all get theirs, and the budget holds at every moment.
#[test]
fn who_waits_is_served() {
    explore(|| {
        let (manager, memory) = manager(0);
        let threads = ["a", "c", "e", "b"].map(|id| {
            let manager = manager.clone();
            thread::spawn(move || {
                let handle = manager.acquire(id, &patient()).unwrap();
                assert_eq!(handle.lock().id, id);
                thread::yield_now();
            })
        });
        end(threads.into(), &manager, &memory);
    });
}

/// A failed load fails for all that waited for it, is not counted, and the next one is tried.
#[test]
fn failures_leave_nothing() {
    explore(|| {
        let (manager, memory) = manager(1);
        let threads = ["d", "d", "c"].map(|id| {
            let manager = manager.clone();
            thread::spawn(move || match manager.acquire(id, &patient()) {
                Ok(handle) => assert_eq!(handle.lock().id, id),
                Err(error) => assert!(id == "d" && matches!(error, ManagerError::Load { .. }), "{error}"),
            })
        });
        end(threads.into(), &manager, &memory);
    });
}

/// A call that is cancelled while it loads lets the others that want the model load it.
#[test]
fn cancelled_loads_hand_over() {
    explore(|| {
        let (manager, memory) = manager(0);
        let cancel = CancelFlag::new();
        let cancelled = {
            let (manager, cancel) = (manager.clone(), cancel.clone());
            thread::spawn(move || match manager.acquire("a", &Acquire { cancel, ..patient() }) {
                Ok(handle) => assert_eq!(handle.lock().id, "a"),
                Err(error) => assert!(matches!(error, ManagerError::Cancelled { .. }), "{error}"),
            })
        };
        let other = {
            let manager = manager.clone();
            thread::spawn(move || assert_eq!(manager.acquire("a", &patient()).unwrap().lock().id, "a"))
        };
        let canceller = thread::spawn(move || cancel.cancel());
        end(vec![cancelled, other, canceller], &manager, &memory);
    });
}

/// Everything at once that changes who may stay: pins, pressure, unloading and a budget that falls and rises.
#[test]
fn what_changes_meanwhile_keeps_the_books() {
    explore(|| {
        let (manager, memory) = manager(0);
        let mut threads: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .map(|id| {
                let manager = manager.clone();
                thread::spawn(move || {
                    for how in [Acquire::default(), patient()] {
                        match manager.acquire(id, &how) {
                            Ok(handle) => assert_eq!(handle.lock().id, id),
                            Err(error) => assert!(matches!(error, ManagerError::NoRoom { .. }), "{error}"),
                        }
                    }
                })
            })
            .collect();
        let other = manager.clone();
        threads.push(thread::spawn(move || {
            other.pin("a", true);
            other.memory_pressure(Pressure::Moderate);
            other.set_budget(6);
            let _ = other.unload("b");
            other.set_budget(BUDGET);
            other.pin("a", false);
            other.memory_pressure(Pressure::Critical);
        }));
        end(threads, &manager, &memory);
    });
}
