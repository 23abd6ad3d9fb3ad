//! A shared cache over a store in memory that can be broken, and a simulation of a team with a clock of its own.

use super::*;
use crate::cache::{Cache, CacheError, Reason};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Condvar;

/// Objects in memory.
#[derive(Debug, Default)]
struct Memory {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    fault: Mutex<Fault>,
    /// Puts and gets so far.
    puts: AtomicUsize,
    gets: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// Does not answer.
    Dead,
    /// May not be written.
    ReadOnly,
    /// The next answer has a wrong byte.
    OneWrongByte,
    /// Every part is cut.
    Cut,
    /// Dies after so many more parts.
    DeadAfter(usize),
    /// Has no conditional writes.
    Careless,
}

impl Memory {
    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn check(&self, is_write: bool) -> Result<Fault, StoreError> {
        let mut fault = self.fault.lock().unwrap();
        match *fault {
            Fault::Dead | Fault::DeadAfter(0) => return Err(StoreError::new("it does not answer")),
            Fault::ReadOnly if is_write => {
                return Err(StoreError { problem: "it may not be written".into(), read_only: true });
            }
            Fault::DeadAfter(count) => *fault = Fault::DeadAfter(count - 1),
            _ => {}
        }
        Ok(*fault)
    }

    fn names(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }
}

impl Store for Memory {
    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let fault = self.check(false)?;
        self.gets.fetch_add(1, Ordering::Relaxed);
        let Some(mut bytes) = self.objects.lock().unwrap().get(name).cloned() else { return Ok(None) };
        let is_part = !name.ends_with(RECORD) && !name.ends_with(CLAIM);
        match fault {
            Fault::OneWrongByte if is_part => {
                bytes[0] ^= 1;
                self.set(Fault::None);
            }
            Fault::Cut if is_part => bytes.truncate(bytes.len() / 2),
            _ => {}
        }
        bytes.truncate(limit as usize + 1);
        Ok(Some(bytes))
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.check(false)?;
        Ok(self.objects.lock().unwrap().get(name).map(|bytes| bytes.len() as u64))
    }

    fn put(&self, name: &str, bytes: &[u8], only_new: bool) -> Result<bool, StoreError> {
        let fault = self.check(true)?;
        let mut objects = self.objects.lock().unwrap();
        if only_new && objects.contains_key(name) && fault != Fault::Careless {
            return Ok(false);
        }
        self.puts.fetch_add(1, Ordering::Relaxed);
        objects.insert(name.to_owned(), bytes.to_vec());
        Ok(true)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.check(true)?;
        self.objects.lock().unwrap().remove(name);
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        self.check(false)?;
        let objects = self.objects.lock().unwrap();
        let an_hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        let found = objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(found
            .map(|(name, bytes)| Object { name: name.clone(), size: bytes.len() as u64, modified: Some(an_hour_ago) })
            .collect())
    }
}

/// A machine with a cache of its own, and what it was warned of.
struct Machine {
    folder: tempfile::TempDir,
    cache: Cache,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Machine {
    fn new(store: &Arc<Memory>, write: bool) -> Self {
        let (folder, warnings) = (tempfile::tempdir().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let told = Arc::clone(&warnings);
        let warn = move |text: &str| told.lock().unwrap().push(text.to_owned());
        let shared = Shared::new(Arc::clone(store) as Arc<dyn Store>, write, warn);
        let cache = Cache::at(folder.path()).with_shared(shared);
        Self { folder, cache, warnings }
    }

    /// Whether it was made here, and what came of it.
    fn get(&self, inputs: &Inputs) -> (bool, Reason, Vec<u8>) {
        let mut made = false;
        let make = |folder: &Path| -> Result<(), CacheError> {
            made = true;
            fs::create_dir(folder.join("sub")).unwrap();
            fs::write(folder.join("sub/weights.bin"), weights()).unwrap();
            fs::write(folder.join("empty"), "").unwrap();
            Ok(())
        };
        let (entry, reason) = self.cache.get_or_make(Bucket::Converted, inputs, make).unwrap();
        let bytes = fs::read(entry.content().join("sub/weights.bin")).unwrap();
        assert_eq!(fs::read(entry.content().join("empty")).unwrap(), b"");
        (made, reason, bytes)
    }

    fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap())
    }
}

/// Three parts.
fn weights() -> Vec<u8> {
    (0..2 * PART + 1234).map(|index| ((index * 31) >> 3) as u8 ^ (index >> 16) as u8).collect()
}

fn inputs(number: usize) -> Inputs {
    Inputs::new("tiny in q4f16_1").with("number", number).with("compiler", "1")
}

#[test]
fn one_machine_makes_and_others_take() {
    let store = Arc::new(Memory::default());
    let (one, two, reader) = (Machine::new(&store, true), Machine::new(&store, true), Machine::new(&store, false));
    assert_eq!(one.get(&inputs(1)), (true, Reason::First, weights()));
    assert_eq!(two.get(&inputs(1)), (false, Reason::Shared, weights()));
    assert_eq!(reader.get(&inputs(1)), (false, Reason::Shared, weights()));
    assert_eq!(store.names().len(), 4, "a record and three parts, no claim: {:?}", store.names());
    assert!(two.cache.verify(false).unwrap().iter().all(|entry| entry.problems.is_empty()));
    // What lies here is asked of nobody.
    let gets = store.gets.load(Ordering::Relaxed);
    assert_eq!(two.get(&inputs(1)).1, Reason::Cached);
    assert_eq!(store.gets.load(Ordering::Relaxed), gets);
    // Who only reads gives nothing.
    assert!(reader.get(&inputs(2)).0 && one.get(&inputs(2)).0);
    assert!([one.warnings(), two.warnings(), reader.warnings()].concat().is_empty());
}

#[test]
fn a_store_that_fails_is_a_warning_and_told_once() {
    let store = Arc::new(Memory::default());
    let machine = Machine::new(&store, true);
    store.set(Fault::Dead);
    assert_eq!(machine.get(&inputs(1)), (true, Reason::First, weights()));
    assert!(machine.get(&inputs(2)).0);
    let warnings = machine.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("goes on without it"), "{warnings:?}");

    store.set(Fault::ReadOnly);
    let machine = Machine::new(&store, true);
    assert!(machine.get(&inputs(1)).0);
    assert!(machine.warnings()[0].contains("may not be written"));
}

#[test]
fn damage_is_noticed_and_made_anew() {
    let store = Arc::new(Memory::default());
    let one = Machine::new(&store, true);
    one.get(&inputs(1));
    // On the way: asked again.
    store.set(Fault::OneWrongByte);
    let machine = Machine::new(&store, true);
    assert_eq!(machine.get(&inputs(1)), (false, Reason::Shared, weights()));
    assert!(machine.warnings().is_empty());
    // In the store: never taken, and mended by who may write.
    store.set(Fault::Cut);
    let reader = Machine::new(&store, false);
    assert!(reader.get(&inputs(1)).0 && reader.warnings()[0].contains("damaged"));
    store.set(Fault::None);
    let name = store.names().into_iter().find(|name| !name.ends_with(RECORD)).unwrap();
    store.objects.lock().unwrap().insert(name, b"short".to_vec());
    let machine = Machine::new(&store, true);
    assert_eq!((machine.get(&inputs(1)).0, machine.warnings().len()), (true, 1));
    assert_eq!(Machine::new(&store, false).get(&inputs(1)), (false, Reason::Shared, weights()));
}

#[test]
fn hostile_records_are_refused() {
    let store = Arc::new(Memory::default());
    Machine::new(&store, true).get(&inputs(1));
    let name = record_name(Bucket::Converted, &inputs(1).key());
    let good = String::from_utf8(store.objects.lock().unwrap()[&name].clone()).unwrap();
    let changes = [
        ("sub/weights.bin", "../../weights.bin"),
        ("sub/weights.bin", "/etc/weights"),
        ("\"number\":\"1\"", "\"number\":\"2\""),
        ("\"version\":2", "\"version\":9"),
        ("\"size\":16778450", "\"size\":18446744073709551615"),
        ("\"parts\":[]", "\"parts\":[\"../x\"]"),
    ];
    for (from, to) in changes {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        store.objects.lock().unwrap().insert(name.clone(), bad.into_bytes());
        let reader = Machine::new(&store, false);
        assert!(reader.get(&inputs(1)).0, "{to}");
        assert!(reader.warnings()[0].contains("damaged"), "{to}");
    }
}

#[test]
fn interrupted_transfers_go_on_where_they_ended() {
    let store = Arc::new(Memory::default());
    let one = Machine::new(&store, true);
    // Looks, claims, looks again, then a part, and dies.
    store.set(Fault::DeadAfter(7));
    one.get(&inputs(1));
    assert!(!one.warnings().is_empty());
    store.set(Fault::None);
    let there = store.names().iter().filter(|name| !name.ends_with(CLAIM)).count();
    assert!((1..3).contains(&there), "{:?}", store.names());
    let puts = store.puts.load(Ordering::Relaxed);
    let entry = one.cache.list()[0].path.clone();
    assert!(one.cache.shared().unwrap().push(Bucket::Converted, &entry).unwrap());
    assert_eq!(store.puts.load(Ordering::Relaxed) - puts, 4 - there, "what was there is not sent again");

    // The same on the way in.
    let two = Machine::new(&store, false);
    store.set(Fault::DeadAfter(3));
    assert!(two.cache.pull(Bucket::Converted, &inputs(1).key()).is_err());
    store.set(Fault::None);
    let gets = store.gets.load(Ordering::Relaxed);
    assert!(two.cache.pull(Bucket::Converted, &inputs(1).key()).unwrap());
    assert!(store.gets.load(Ordering::Relaxed) - gets < 4, "a part that was there is not asked for again");
    assert_eq!(two.get(&inputs(1)), (false, Reason::Cached, weights()));
    assert!(two.folder.path().join("converted-v1").read_dir().unwrap().count() == 1);
}

/// Time that passes when everybody waits.
#[derive(Debug, Default)]
struct Simulated {
    state: Mutex<Time>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Time {
    now: Duration,
    running: usize,
    waiting: HashMap<usize, (Duration, Stop)>,
    next: usize,
}

impl Simulated {
    fn now(&self) -> Duration {
        self.state.lock().unwrap().now
    }

    /// When nobody runs, the clock goes to the earliest end of a wait.
    fn advance(&self, time: &mut Time) {
        let woken = |time: &Time| time.waiting.values().any(|(end, stop)| *end <= time.now || stop.is_stopped());
        if time.running == 0 && !time.waiting.is_empty() && !woken(time) {
            time.now = time.waiting.values().map(|(end, _)| *end).min().unwrap();
            self.moved.notify_all();
        }
    }
}

impl Clock for Simulated {
    fn sleep(&self, duration: Duration, stop: &Stop) {
        let mut time = self.state.lock().unwrap();
        let (id, end) = (time.next, time.now + duration);
        time.next += 1;
        time.running -= 1;
        time.waiting.insert(id, (end, stop.clone()));
        loop {
            self.advance(&mut time);
            if time.now >= end || stop.is_stopped() {
                break;
            }
            // A stop is not told by the condition variable: it is looked for now and then.
            time = self.moved.wait_timeout(time, Duration::from_millis(1)).unwrap().0;
        }
        time.waiting.remove(&id);
        time.running += 1;
    }

    fn thread(&self, begins: bool) {
        let mut time = self.state.lock().unwrap();
        if begins {
            time.running += 1;
        } else {
            time.running -= 1;
            self.advance(&mut time);
        }
    }
}

/// What a team did in a day.
#[derive(Debug, PartialEq)]
struct Day {
    requests: usize,
    conversions: usize,
    compilations: usize,
    /// Until the last developer had the last package.
    hours: f64,
}

/// `developers` machines, each packaging every one of `manifests` of `models` each, which overlap by half.
fn simulate(developers: usize, manifests: usize, models: usize, shares: bool) -> (Day, usize) {
    const CONVERT: Duration = Duration::from_secs(600);
    const COMPILE: Duration = Duration::from_secs(5);
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(Simulated::default()));
    let (conversions, compilations, requests) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let distinct = Mutex::new(std::collections::BTreeSet::new());
    clock.state.lock().unwrap().running = developers;
    std::thread::scope(|scope| {
        for developer in 0..developers {
            let (store, clock, distinct) = (Arc::clone(&store), Arc::clone(&clock), &distinct);
            let (conversions, compilations, requests) = (&conversions, &compilations, &requests);
            scope.spawn(move || {
                let folder = tempfile::tempdir().unwrap();
                let shared =
                    Shared::new(store, true, |text| panic!("{text}")).with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
                let cache = Cache::at(folder.path());
                let cache = if shares { cache.with_shared(shared) } else { cache };
                // Nobody begins at the same moment, or with the same manifest.
                clock.sleep(Duration::from_secs(developer as u64 % 5 * 60), &Stop::default());
                for manifest in (0..manifests).map(|index| (index + developer) % manifests) {
                    for model in (0..models).map(|model| manifest * models / 2 + model) {
                        for (bucket, count, costs) in
                            [(Bucket::Converted, conversions, CONVERT), (Bucket::Libraries, compilations, COMPILE)]
                        {
                            requests.fetch_add(1, Ordering::Relaxed);
                            distinct.lock().unwrap().insert((bucket, model));
                            let make = |folder: &Path| -> Result<(), CacheError> {
                                clock.sleep(costs, &Stop::default());
                                count.fetch_add(1, Ordering::Relaxed);
                                fs::write(folder.join("result"), model.to_string()).unwrap();
                                Ok(())
                            };
                            let (entry, _) = cache.get_or_make(bucket, &inputs(model), make).unwrap();
                            assert_eq!(fs::read_to_string(entry.content().join("result")).unwrap(), model.to_string());
                        }
                    }
                }
                clock.thread(false);
            });
        }
    });
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    let hours = clock.now().as_secs_f64() / 3600.0;
    let day =
        Day { requests: count(&requests), conversions: count(&conversions), compilations: count(&compilations), hours };
    (day, distinct.into_inner().unwrap().len())
}

#[test]
fn conversions_and_compilations_are_distinct_inputs_not_requests() {
    for (developers, manifests, models) in [(1, 2, 2), (4, 2, 2), (8, 3, 4), (16, 3, 4)] {
        let (shared, distinct) = simulate(developers, manifests, models, true);
        let (alone, _) = simulate(developers, manifests, models, false);
        println!("{developers} developers, {manifests} manifests of {models}: {shared:?}; each for himself: {alone:?}");
        assert_eq!(shared.conversions + shared.compilations, distinct);
        assert_eq!(alone.conversions + alone.compilations, distinct * developers);
        assert_eq!(shared.requests, alone.requests);
        assert!(shared.hours <= alone.hours + 0.2, "{shared:?} {alone:?}");
    }
}

#[test]
fn a_claim_that_nobody_renews_is_taken_over_and_a_careless_store_costs_time_alone() {
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(Simulated::default()));
    clock.state.lock().unwrap().running = 1;
    let claim = format!("converted-v1/{}/{CLAIM}", inputs(1).key());
    store.put(&claim, b"of a machine that was switched off", true).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let shared = Shared::new(Arc::clone(&store) as Arc<dyn Store>, true, |text| panic!("{text}"));
    let cache = Cache::at(folder.path()).with_shared(shared.with_clock(Arc::clone(&clock) as Arc<dyn Clock>));
    let machine = Machine { folder, cache, warnings: Arc::default() };
    assert!(machine.get(&inputs(1)).0);
    assert!(clock.now() >= ABANDONED && clock.now() < ABANDONED + 3 * POLL, "{:?}", clock.now());
    assert!(!store.names().contains(&claim));

    store.set(Fault::Careless);
    let machines: Vec<Machine> = (0..8).map(|_| Machine::new(&store, true)).collect();
    std::thread::scope(|scope| {
        for machine in &machines {
            scope.spawn(|| assert_eq!(machine.get(&inputs(2)).2, weights()));
        }
    });
    assert_eq!(Machine::new(&store, false).get(&inputs(2)), (false, Reason::Shared, weights()));
}

#[test]
fn entries_are_listed_checked_and_removed_when_they_are_old() {
    let store = Arc::new(Memory::default());
    let machine = Machine::new(&store, true);
    machine.get(&inputs(1));
    machine.get(&inputs(2));
    let shared = machine.cache.shared().unwrap();
    let entries = shared.entries().unwrap();
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|entry| entry.bytes > weights().len() as u64));
    assert!(entries.iter().all(|entry| shared.verify(entry).unwrap().is_none()));
    let part = store.names().into_iter().find(|name| name.contains(&entries[1].key.to_string())).unwrap();
    store.objects.lock().unwrap().remove(&part);
    assert!(shared.verify(&entries[0]).unwrap().is_none() && shared.verify(&entries[1]).unwrap().is_some());
    // Half an entry is none, but it goes too.
    store.objects.lock().unwrap().insert(format!("converted-v1/{}/{CLAIM}", "0".repeat(64)), vec![1]);
    store.objects.lock().unwrap().insert("converted-v1/notes.txt".into(), vec![1]);
    assert_eq!(shared.entries().unwrap().len(), 2);
    assert_eq!(shared.gc(Duration::from_secs(7200), false).unwrap().entries, 0);
    assert_eq!(shared.gc(Duration::from_secs(1800), true).unwrap().entries, 3);
    assert_eq!(shared.entries().unwrap().len(), 2, "a dry run removes nothing");
    assert_eq!(shared.gc(Duration::from_secs(1800), false).unwrap().entries, 3);
    assert_eq!(store.names(), ["converted-v1/notes.txt"]);
}

#[test]
fn eight_machines_at_once_make_it_once() {
    let store = Arc::new(Memory::default());
    let machines: Vec<Machine> = (0..8).map(|_| Machine::new(&store, true)).collect();
    let made: usize = std::thread::scope(|scope| {
        let threads: Vec<_> =
            machines.iter().map(|machine| scope.spawn(|| usize::from(machine.get(&inputs(1)).0))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(made, 1);
    let folders: Vec<PathBuf> = machines.iter().map(|machine| machine.folder.path().join("converted-v1")).collect();
    assert!(folders.iter().all(|folder| folder.read_dir().unwrap().count() == 1));
}
