//! Stores that misbehave as the test hub can, and a real server that speaks S3.

use knapsack_bundle::Cache;
use knapsack_bundle::cache::shared::{Clock, RealClock, Stop};
use knapsack_bundle::cache::{Bucket, CacheError, Inputs, Reason, Shared, Store};
use knapsack_store::Patience;
use knapsack_testkit::hub::{Fault, HubServer};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TOKEN: &str = "a-token-that-nobody-may-see";

fn patience() -> Patience {
    let millis = Duration::from_millis;
    Patience { connect: millis(2000), answer: millis(700), whole: millis(2000), attempts: 3, pause: millis(5) }
}

fn open(address: &str) -> Arc<dyn Store> {
    let lookup = |name: &str| (name == "KNAPSACK_CACHE_TOKEN").then(|| OsString::from(TOKEN));
    knapsack_store::open(address, &lookup, patience()).unwrap()
}

fn inputs() -> Inputs {
    Inputs::new("tiny").with("compiler", "1")
}

fn weights() -> Vec<u8> {
    (0..300_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A clock on which a claim that a fault left behind is given up in 0.4 s.
#[derive(Debug)]
struct Fast;

impl Clock for Fast {
    fn sleep(&self, duration: Duration, stop: &Stop) {
        RealClock.sleep(duration / 100, stop);
    }
}

/// What a machine gets: whether it made it itself, and its warnings.
fn package(store: Arc<dyn Store>, folder: &Path) -> (Reason, Vec<String>) {
    package_by(Arc::new(RealClock), store, folder)
}

fn package_by(clock: Arc<dyn Clock>, store: Arc<dyn Store>, folder: &Path) -> (Reason, Vec<String>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&warnings);
    let shared = Shared::new(store, true, move |text| told.lock().unwrap().push(text.to_owned()));
    let cache = Cache::at(folder).with_shared(shared.with_clock(clock));
    let make = |content: &Path| -> Result<(), CacheError> {
        std::fs::write(content.join("weights.bin"), weights()).unwrap();
        Ok(())
    };
    let (entry, reason) = cache.get_or_make(Bucket::Converted, &inputs(), make).unwrap();
    assert!(std::fs::read(entry.content().join("weights.bin")).unwrap() == weights(), "{reason}");
    let warnings = std::mem::take(&mut *warnings.lock().unwrap());
    (reason, warnings)
}

#[test]
fn a_web_server_is_a_store() {
    let hub = HubServer::start();
    let store = open(&hub.store_url());
    assert_eq!(store.get("a/b", 10).unwrap(), None);
    assert_eq!(store.size("a/b").unwrap(), None);
    assert!(store.put("a/b", b"one", true).unwrap());
    assert!(!store.put("a/b", b"two", true).unwrap(), "it was there");
    assert_eq!(store.get("a/b", 10).unwrap().unwrap(), b"one");
    assert_eq!(store.get("a/b", 1).unwrap().unwrap().len(), 2, "one byte more tells that it is longer");
    assert!(store.put("a/b", b"three", false).unwrap());
    assert_eq!(store.size("a/b").unwrap(), Some(5));
    store.delete("a/b").unwrap();
    store.delete("a/b").unwrap();
    assert_eq!(hub.stored(), [""; 0]);
    assert!(store.list("").unwrap_err().problem.contains("cannot list"));
    let log = hub.take_log();
    assert!(log.iter().all(|request| request.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"))));
}

/// Every fault is over in time, and what the machine has in the end is right: taken or made.
#[test]
fn a_store_that_misbehaves_costs_time_alone() {
    let folder = tempfile::tempdir().unwrap();
    let passing = [
        Fault::Status(503),
        Fault::Status(500),
        Fault::CutAfter(100),
        Fault::Shorter(5),
        Fault::StallAfter(100),
        Fault::WrongBytes,
        Fault::TooManyRequests(Some("0".into())),
    ];
    let lasting = [
        Fault::Status(500),
        Fault::Status(403),
        Fault::CutAfter(100),
        Fault::StallAfter(100),
        Fault::Drip(1, Duration::from_millis(50)),
        Fault::WrongBytes,
        Fault::Longer(9),
        Fault::Shorter(9),
        Fault::Body("<html>".into()),
        Fault::Compressed,
        Fault::TooManyRequests(Some("86400".into())),
        Fault::RedirectTo("http://127.0.0.1:9/".into()),
    ];
    let faults = passing.iter().map(|fault| (fault, 1)).chain(lasting.iter().map(|fault| (fault, 1000)));
    for (index, (fault, times)) in faults.enumerate() {
        for part in ["get hub /store/converted-v1", "put hub /store", "head hub /store"] {
            // What is taken must be there, what is given must not.
            let hub = HubServer::start();
            if part.starts_with("get") {
                let first = package(open(&hub.store_url()), &folder.path().join(format!("{index} first")));
                assert_eq!(first, (Reason::First, vec![]));
            }
            let start = Instant::now();
            hub.fault(part, fault.clone(), times);
            let (reason, warnings) =
                package(open(&hub.store_url()), &folder.path().join(format!("{index} {}", &part[..3])));
            hub.clear_faults();
            println!("{part} {fault:?} x{times}: {reason}, {:?}, {warnings:?}", start.elapsed());
            assert!(times > 1 || warnings.is_empty(), "{fault:?}: {warnings:?}");
            assert!(start.elapsed() < Duration::from_secs(30), "{part} {fault:?}");
            assert!(!warnings.concat().contains(TOKEN));
            // Where the entry was given up as damaged it was made anew, so the next one finds it again.
            let after = folder.path().join(format!("{index} {} after", &part[..3]));
            let (reason, warnings) = package_by(Arc::new(Fast), open(&hub.store_url()), &after);
            assert!(warnings.is_empty(), "{part} {fault:?}: {reason}: {warnings:?}");
        }
    }
}

#[test]
fn nobody_there_is_a_warning_in_time() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let (reason, warnings) = package(open(&format!("http://127.0.0.1:{port}/store?sig=SECRET")), folder.path());
    assert_eq!(reason, Reason::First);
    assert!(warnings.len() == 1 && !warnings[0].contains("SECRET") && !warnings[0].contains(TOKEN), "{warnings:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn addresses_and_tokens_that_would_leak_are_refused() {
    let lookup = |name: &str| match name {
        "KNAPSACK_CACHE_TOKEN" => Some(OsString::from(TOKEN)),
        "AWS_EC2_METADATA_DISABLED" => Some(OsString::from("true")),
        _ => None,
    };
    for bad in
        ["https://user:secret@host/x", "http://elsewhere.example/x", "ftp://host/x", "/a/path", "", "s3://bucket"]
    {
        let error = knapsack_store::open(bad, &lookup, patience()).unwrap_err().problem;
        assert!(!error.contains("secret") && !error.contains(TOKEN), "{bad}: {error}");
    }
}

/// moto's S3, where Python has it.
struct Moto {
    server: Child,
    port: u16,
}

impl Moto {
    fn start() -> Option<Self> {
        let python: PathBuf = knapsack_testkit::python("moto.server")?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Self { server, port };
        let start = Instant::now();
        while !moto.make_bucket() {
            assert!(start.elapsed() < Duration::from_secs(120), "moto does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(moto)
    }

    fn make_bucket(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let host = format!("127.0.0.1:{}", self.port);
        let request = format!("PUT /team HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer)).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }

    fn open(port: u16, address: &str) -> Arc<dyn Store> {
        let lookup = move |name: &str| {
            Some(OsString::from(match name {
                "AWS_ENDPOINT_URL" => format!("http://127.0.0.1:{port}"),
                "AWS_ACCESS_KEY_ID" => "id".to_owned(),
                "AWS_SECRET_ACCESS_KEY" => "very/secret+key".to_owned(),
                _ => return None,
            }))
        };
        let patience = Patience { answer: Duration::from_secs(20), whole: Duration::from_secs(60), ..patience() };
        knapsack_store::open(address, &lookup, patience).unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn an_s3_server_is_a_store() {
    let Some(moto) = Moto::start() else { return };
    let store = Moto::open(moto.port, "s3://team/some folder/caf\u{e9}");
    assert_eq!(store.get("a/b", 10).unwrap(), None);
    assert!(store.put("a/b", b"one", true).unwrap());
    assert!(!store.put("a/b", b"two", true).unwrap(), "it was there");
    assert_eq!(store.get("a/b", 10).unwrap().unwrap(), b"one");
    assert_eq!(store.size("a/b").unwrap(), Some(3));
    for number in 0..3 {
        store.put(&format!("many/{number}"), &[b'x'; 7], false).unwrap();
    }
    let listed = store.list("many/").unwrap();
    let names: Vec<_> = listed.iter().map(|object| (object.name.as_str(), object.size)).collect();
    assert_eq!(names, [("many/0", 7), ("many/1", 7), ("many/2", 7)]);
    assert!(listed[0].modified.unwrap().elapsed().unwrap() < Duration::from_secs(600));
    store.delete("a/b").unwrap();
    assert_eq!(store.size("a/b").unwrap(), None);
    let error = Moto::open(moto.port, "s3://absent").get("x", 1).unwrap_err().problem;
    assert!(error.contains("no such bucket") && !error.contains("secret"), "{error}");
}

const WORKER: &str = "KNAPSACK_TEST_STORE_WORKER";

/// Eight processes, each a machine with a cache of its own.
#[test]
fn eight_processes_at_once_make_it_once() {
    // One of them: this test again, in its own process.
    if let Some(text) = std::env::var_os(WORKER) {
        let text = text.into_string().unwrap();
        let (port, folder) = text.split_once(' ').unwrap();
        let (reason, warnings) = package(Moto::open(port.parse().unwrap(), "s3://team/eight"), Path::new(folder));
        std::fs::write(Path::new(folder).join("outcome"), format!("{reason} {warnings:?}")).unwrap();
        return;
    }
    let Some(moto) = Moto::start() else { return };
    let root = tempfile::tempdir().unwrap();
    let folders: Vec<PathBuf> = (0..8).map(|number| root.path().join(number.to_string())).collect();
    let processes: Vec<Child> = folders
        .iter()
        .map(|folder| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "eight_processes_at_once_make_it_once"]).stdout(Stdio::null());
            command.env(WORKER, format!("{} {}", moto.port, folder.display())).spawn().unwrap()
        })
        .collect();
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    let outcomes: Vec<_> =
        folders.iter().map(|folder| std::fs::read_to_string(folder.join("outcome")).unwrap()).collect();
    let made = outcomes.iter().filter(|outcome| outcome.starts_with("no earlier result")).count();
    assert_eq!(made, 1, "{outcomes:#?}");
    assert!(outcomes.iter().all(|outcome| outcome.ends_with(" []")), "{outcomes:#?}");
}

/// The emulator of a Python package, which knows no conditions.
#[test]
fn an_emulator_of_googles_is_a_store() {
    let Some(python) = knapsack_testkit::python_that_has("gcp_storage_emulator", "KNAPSACK_REQUIRE_STORES") else {
        return;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new(python)
        .args(["-m", "gcp_storage_emulator", "start", "--in-memory", "--default-bucket", "team", "--quiet"])
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let open = |address: &str| {
        let lookup = |name: &str| (name == "STORAGE_EMULATOR_HOST").then(|| format!("127.0.0.1:{port}").into());
        let patience = Patience { answer: Duration::from_secs(20), whole: Duration::from_secs(60), ..patience() };
        knapsack_store::open(address, &lookup, patience).unwrap()
    };
    let outcome = std::panic::catch_unwind(|| {
        let store = open("gs://team/some folder/caf\u{e9}");
        assert_eq!(store.get("a/b", 10).unwrap(), None);
        assert_eq!(store.size("a/b").unwrap(), None);
        assert!(store.put("a/b", b"one", true).unwrap());
        assert_eq!(store.get("a/b", 10).unwrap().unwrap(), b"one");
        assert_eq!(store.get("a/b", 1).unwrap().unwrap().len(), 2, "one byte more tells that it is longer");
        assert_eq!(store.size("a/b").unwrap(), Some(3));
        for number in 0..3 {
            store.put(&format!("many & more/{number}"), &[b'x'; 7], false).unwrap();
        }
        let listed = store.list("many & more/").unwrap();
        let mut names: Vec<_> = listed.iter().map(|object| (object.name.as_str(), object.size)).collect();
        names.sort_unstable();
        assert_eq!(names, [("many & more/0", 7), ("many & more/1", 7), ("many & more/2", 7)]);
        assert!(listed[0].modified.unwrap().elapsed().unwrap() < Duration::from_secs(600));
        store.delete("a/b").unwrap();
        store.delete("a/b").unwrap();
        assert_eq!(store.size("a/b").unwrap(), None);
        let folders = tempfile::tempdir().unwrap();
        let first = package(open("gs://team/shared"), &folders.path().join("first"));
        assert_eq!(first, (Reason::First, vec![]));
        let (second, warnings) = package(open("gs://team/shared"), &folders.path().join("second"));
        assert!(second != Reason::First && warnings.is_empty(), "{second}: {warnings:?}");
    });
    let _ = server.kill();
    let _ = server.wait();
    outcome.unwrap();
}
