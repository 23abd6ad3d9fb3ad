//! The manager against a model of it, step by step and from several threads, on the fake device (see `world`).

mod world;

use super::*;
use crate::rng::SplitMix64;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use world::{ALLOCATIONS, FakeLoader, IDS, LAUNCHES, SIZES, UNIT, loader, manager, now};

/// The rules once more, without threads, locks or phases.
#[derive(Default)]
struct Expected {
    budget: u64,
    /// Bytes, handles, last use.
    loaded: BTreeMap<&'static str, (u64, usize, u64)>,
    pinned: BTreeSet<&'static str>,
    clock: u64,
    /// What went since it was last looked at.
    evicted: Vec<&'static str>,
}

impl Expected {
    fn evict(&mut self, id: &'static str) {
        self.loaded.remove(id);
        self.evicted.push(id);
    }

    fn used(&self) -> u64 {
        self.loaded.values().map(|entry| entry.0).sum()
    }

    fn oldest_idle(&self) -> Option<&'static str> {
        let idle = self.loaded.iter().filter(|(id, entry)| entry.1 == 0 && !self.pinned.contains(*id));
        idle.min_by_key(|(_, entry)| entry.2).map(|(id, _)| *id)
    }

    /// Evicts for `bytes`; false, and nothing evicted, when that cannot help.
    fn room(&mut self, bytes: u64) -> bool {
        let stays: u64 =
            self.loaded.iter().filter(|(id, entry)| entry.1 > 0 || self.pinned.contains(*id)).map(|(_, e)| e.0).sum();
        if stays + bytes > self.budget {
            return false;
        }
        while self.used() + bytes > self.budget {
            let oldest = self.oldest_idle().unwrap();
            self.evict(oldest);
        }
        true
    }

    fn shrink(&mut self) {
        while self.used() > self.budget
            && let Some(oldest) = self.oldest_idle()
        {
            self.evict(oldest);
        }
    }

    fn pressure(&mut self, level: Pressure) {
        let last = self.loaded.values().map(|entry| entry.2).max();
        let mut go: Vec<(u64, &'static str)> = Vec::new();
        for (id, entry) in &self.loaded {
            let goes = match level {
                Pressure::Moderate => entry.1 == 0 && !self.pinned.contains(id) && Some(entry.2) != last,
                Pressure::Critical => entry.1 == 0,
            };
            if goes {
                // The least recently used first; when everything goes, by name.
                go.push((if level == Pressure::Moderate { entry.2 } else { 0 }, *id));
            }
        }
        go.sort_unstable();
        go.into_iter().for_each(|(_, id)| self.evict(id));
    }
}

#[test]
fn a_million_random_steps() {
    let mut rng = SplitMix64::new(6);
    let loads = walk(1_000_000, &mut move |n| (rng.next() % n) as usize);
    assert!(loads > 10_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any choices; a sequence that fails is cut down to the shortest that does.
    #[test]
    fn any_steps(choices in proptest::collection::vec(any::<u8>(), 0..600)) {
        let (steps, mut choices) = (choices.len() / 4, choices.into_iter());
        walk(steps, &mut |n| (u64::from(choices.next().unwrap_or(0)) % n) as usize);
    }
}

/// Steps of a manager and of the rules, by choices among so many; both must agree after each, in what is there and in what went, in
/// which order. Returns how many loads there were.
fn walk(steps: usize, pick: &mut dyn FnMut(u64) -> usize) -> usize {
    let (loader, world) = loader(100);
    let evicted = Arc::new(Mutex::new(Vec::new()));
    let listener: Listener = Box::new({
        let evicted = evicted.clone();
        move |event| {
            if let Event::Evicted { model_id, .. } = event {
                evicted.lock().unwrap().push((*model_id).to_owned());
            }
        }
    });
    let manager = Manager::new(loader, 100 * UNIT, Some(listener));
    let mut expected = Expected { budget: 100, ..Expected::default() };
    let mut handles: Vec<(usize, Handle<FakeLoader>)> = Vec::new();
    for step in 0..steps {
        let index = pick(6);
        let id = IDS[index];
        match pick(16) {
            0..=5 => {
                let outcome = pick(12);
                let known = expected.loaded.contains_key(id);
                // Any of its allocations may be the one that fails.
                world.device.refuse_allocation(if !known && outcome == 0 { 1 + pick(ALLOCATIONS) as u64 } else { 0 });
                world.cancel.store(!known && outcome == 1, SeqCst);
                let result = manager.acquire(id, &now());
                if known || expected.room(SIZES[index]) {
                    match (known, outcome) {
                        (false, 0) => assert!(matches!(result, Err(ManagerError::Load { .. })), "step {step}"),
                        (false, 1) => assert!(matches!(result, Err(ManagerError::Cancelled { .. })), "step {step}"),
                        _ => {
                            let handle = result.unwrap_or_else(|error| panic!("step {step}: {error}"));
                            world.device.refuse_launch(if outcome == 2 { 1 + pick(LAUNCHES) as u64 } else { 0 });
                            assert_eq!(world.ask(&handle).is_err(), outcome == 2, "step {step}");
                            world.ask(&handle).unwrap();
                            expected.loaded.entry(id).or_insert((SIZES[index], 0, 0)).1 += 1;
                            handles.push((index, handle));
                        }
                    }
                } else {
                    assert!(matches!(result, Err(ManagerError::NoRoom { .. })), "step {step}");
                }
                world.device.refuse_allocation(0);
                world.cancel.store(false, SeqCst);
            }
            6..=11 if !handles.is_empty() => {
                let (index, handle) = handles.swap_remove(pick(handles.len() as u64));
                drop(handle);
                expected.clock += 1;
                let entry = expected.loaded.get_mut(IDS[index]).unwrap();
                (entry.1, entry.2) = (entry.1 - 1, expected.clock);
                expected.shrink();
            }
            12 => {
                let result = manager.unload(id);
                match expected.loaded.get(id) {
                    None => assert!(!result.unwrap()),
                    Some((_, 0, _)) => {
                        assert!(result.unwrap());
                        expected.evict(id);
                    }
                    Some(_) => assert!(matches!(result, Err(ManagerError::InUse { .. }))),
                }
            }
            13 => {
                let level = [Pressure::Moderate, Pressure::Critical][pick(2)];
                let before = expected.used();
                expected.pressure(level);
                let freed = (before - expected.used()) * UNIT;
                assert_eq!(manager.memory_pressure(level), freed, "step {step}");
            }
            14 => {
                let pinned = pick(3) == 0;
                manager.pin(id, pinned);
                if pinned {
                    expected.pinned.insert(id)
                } else {
                    expected.pinned.remove(id)
                };
            }
            15 if pick(4) == 0 => {
                expected.budget = [60, 100, 130][pick(3)];
                world.device.set_memory(expected.budget * UNIT);
                manager.set_budget(expected.budget * UNIT);
                expected.shrink();
            }
            _ => {}
        }
        assert_eq!(manager.used(), expected.used() * UNIT, "step {step}");
        assert_eq!(world.alive(), expected.used(), "step {step}");
        assert_eq!(std::mem::take(&mut *evicted.lock().unwrap()), std::mem::take(&mut expected.evicted), "step {step}");
        if step % 64 == 0 {
            let models: Vec<_> = manager.models().into_iter().map(|status| status.model_id).collect();
            assert!(models.iter().map(String::as_str).eq(expected.loaded.keys().copied()), "step {step}: {models:?}");
        }
    }
    drop(handles);
    manager.memory_pressure(Pressure::Critical);
    assert_eq!((manager.used(), world.alive()), (0, 0));
    world.loads.load(SeqCst)
}

#[test]
fn threads_never_pass_the_budget_and_never_lose_a_model_in_use() {
    let (manager, world) = manager(110);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (manager, world) = (manager.clone(), world.clone());
            scope.spawn(move || {
                let mut rng = SplitMix64::new(seed);
                let mut pick = move |n: u64| (rng.next() % n) as usize;
                for _ in 0..20_000 {
                    match pick(40) {
                        0 => world.device.refuse_allocation(1 + pick(ALLOCATIONS) as u64),
                        1 => world.cancel.store(true, SeqCst),
                        2 => drop(manager.memory_pressure(Pressure::Critical)),
                        3 => drop(manager.unload(IDS[pick(6)])),
                        4 => world.device.refuse_launch(1 + pick(LAUNCHES) as u64),
                        n => {
                            let wait = Duration::from_micros(if n % 8 == 0 { 500 } else { 0 });
                            let how = Acquire { wait, cancel: CancelFlag::new() };
                            let Ok(handle) = manager.acquire(IDS[pick(6)], &how) else { continue };
                            let second = manager.acquire(handle.model_id(), &now()).unwrap();
                            // Right, or refused when a thread asked for that.
                            let _ = world.ask(&handle);
                            // Alive, and the only one of its name: both handles see the same model.
                            let place = |handle: &Handle<FakeLoader>| std::ptr::from_ref(&*handle.lock()) as usize;
                            assert_eq!(place(&second), place(&handle));
                            let bytes = second.lock().memory().total();
                            assert!(world.device.allocated() >= bytes);
                            assert!(manager.used() <= 110 * UNIT);
                        }
                    }
                }
            });
        }
    });
    manager.memory_pressure(Pressure::Critical);
    assert_eq!((manager.used(), world.alive()), (0, 0));
    assert!(world.device.peak() >= 100 * UNIT && world.device.peak() <= 110 * UNIT);
}

#[test]
fn a_full_budget_says_who_holds_it() {
    let (manager, _) = manager(100);
    let first = manager.acquire("d", &now()).unwrap();
    let _second = manager.acquire("d", &now()).unwrap();
    manager.pin("c", true);
    drop(manager.acquire("c", &now()).unwrap());
    drop(manager.acquire("a", &now()).unwrap());
    let error = manager.acquire("e", &now()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "`e` needs 3604480 bytes, but only 1966080 of the budget of 6553600 can be had; held: c 1966080 bytes (pinned), d 2621440 \
         bytes (in use by 2)"
    );
    // Nothing was evicted in vain.
    assert_eq!(manager.used(), 80 * UNIT);
    assert_eq!(manager.unload("d").unwrap_err().to_string(), "`d` cannot be unloaded: it is in use by 2");
    drop(first);
    assert!(matches!(manager.acquire("x", &now()), Err(ManagerError::Load { .. })));
}

#[test]
fn waiting_gets_the_room_when_it_comes_free() {
    let (manager, _) = manager(100);
    let held = manager.acquire("e", &now()).unwrap();
    let waiting = std::thread::spawn({
        let manager = manager.clone();
        let how = Acquire { wait: Duration::from_secs(600), cancel: CancelFlag::new() };
        move || manager.acquire("f", &how).map(drop)
    });
    // Never enough, however long one waits: pinned models do not go away.
    manager.pin("e", true);
    let how = Acquire { wait: Duration::from_secs(600), cancel: CancelFlag::new() };
    assert!(matches!(manager.acquire("f", &how), Err(ManagerError::NoRoom { .. })));
    manager.pin("e", false);
    drop(held);
    // It may have seen the pin while it waited, which is an answer as well.
    let _ = waiting.join().unwrap();
    let cancel = CancelFlag::new();
    let _held = manager.acquire("e", &now()).unwrap();
    let waiting = std::thread::spawn({
        let (manager, cancel) = (manager.clone(), cancel.clone());
        move || manager.acquire("f", &Acquire { wait: Duration::from_secs(600), cancel }).map(drop)
    });
    cancel.cancel();
    assert!(matches!(waiting.join().unwrap(), Err(ManagerError::Cancelled { .. })));
}

/// Small models never leave enough room at once for the large one, unless those that came after it wait.
#[test]
fn who_waits_is_not_overtaken() {
    let (manager, _) = manager(100);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for index in 0..3usize {
            let (manager, done) = (&manager, &done);
            scope.spawn(move || {
                let how = Acquire { wait: Duration::from_secs(600), cancel: CancelFlag::new() };
                for turn in index.. {
                    if done.load(SeqCst) {
                        return;
                    }
                    // Models of 30, 40 and 55: two fit, so each turn loads one anew.
                    let handle = manager.acquire(IDS[2 + turn % 3], &how).unwrap();
                    std::thread::sleep(Duration::from_micros(300));
                    drop(handle);
                }
            });
        }
        let how = Acquire { wait: Duration::from_secs(60), cancel: CancelFlag::new() };
        for _ in 0..20 {
            let large = manager.acquire("f", &how).map(drop);
            if large.is_err() {
                done.store(true, SeqCst);
            }
            large.unwrap();
        }
        done.store(true, SeqCst);
    });
}

#[test]
fn the_line_is_first_come_first_served_and_gaps_close() {
    let mut state = super::state::State::<()>::new(1);
    assert!(state.is_first(None));
    let [a, b, c] = [(); 3].map(|()| state.join_line());
    assert!(state.is_first(Some(a)) && !state.is_first(Some(b)) && !state.is_first(None));
    state.leave_line(b);
    state.leave_line(a);
    assert!(state.is_first(Some(c)) && !state.is_first(Some(a)));
    state.leave_line(c);
    assert!(state.is_first(None));
}

#[test]
fn many_acquires_load_once_and_share_a_failure() {
    for fails in [false, true] {
        let (manager, world) = manager(100);
        let gate = Arc::new(std::sync::Barrier::new(8));
        world.device.refuse_allocation(u64::from(fails));
        // Handles are kept until all have one, so that nothing is evicted in between.
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    let (manager, gate) = (manager.clone(), gate.clone());
                    scope.spawn(move || {
                        gate.wait();
                        manager.acquire("f", &now())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        if fails {
            // Whoever came after the failure loaded it anew.
            assert!(results.iter().any(Result::is_err));
        } else {
            assert_eq!(world.loads.load(SeqCst), 1);
            assert!(results.iter().all(Result::is_ok));
        }
        drop(results);
        manager.memory_pressure(Pressure::Critical);
        assert_eq!(world.alive(), 0);
    }
}

#[test]
fn a_panicking_loader_is_a_failed_load() {
    let (manager, world) = manager(100);
    world.panic.store(true, SeqCst);
    let error = manager.acquire("a", &now()).err().unwrap();
    assert!(matches!(error, ManagerError::Load { .. }));
    assert_eq!((manager.used(), world.alive()), (0, 0));
    assert!(manager.acquire("a", &now()).is_ok());
}

#[test]
fn events_tell_the_story() {
    let (loader, world) = loader(60);
    let log = Arc::new(Mutex::new(Vec::new()));
    let listener: Listener = Box::new({
        let log = log.clone();
        move |event| {
            let line = match event {
                Event::Loading { model_id, fraction } => format!("loading {model_id} {fraction}"),
                Event::Loaded { model_id, bytes, .. } => format!("loaded {model_id} {}", bytes / UNIT),
                Event::Evicted { model_id, bytes, reason } => format!("evicted {model_id} {} {reason:?}", bytes / UNIT),
                Event::Failed { model_id, error } => format!("failed {model_id}: {error}"),
            };
            log.lock().unwrap().push(line);
        }
    });
    let manager = Manager::new(loader, 60 * UNIT, Some(listener));
    drop(manager.acquire("d", &now()).unwrap());
    drop(manager.acquire("e", &now()).unwrap());
    manager.memory_pressure(Pressure::Moderate);
    manager.unload("e").unwrap();
    world.device.refuse_allocation(1);
    assert!(manager.acquire("a", &now()).is_err());
    let expected = [
        "loading d 0",
        "loading d 0.5",
        "loaded d 40",
        "evicted d 40 Room",
        "loading e 0",
        "loading e 0.5",
        "loaded e 55",
        "evicted e 55 Unloaded",
        "loading a 0",
        "failed a: cannot load `a`",
    ];
    assert_eq!(*log.lock().unwrap(), expected);
}
