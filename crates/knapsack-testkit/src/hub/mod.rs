//! A Hugging Face hub on loopback: model info, file tree, `resolve` with its redirects to a second host, LFS pointers, ETags,
//! ranges, gated and renamed repositories. It keeps a log of all requests, and misbehaves on demand ([`Fault`]).

mod repository;
mod serve;
mod wire;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub use repository::{Access, HubRepository};

/// A running hub and the second host that holds its LFS files. Stops when dropped.
#[derive(Debug)]
pub struct HubServer {
    shared: Arc<Shared>,
}

/// Which of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// API, small files, redirects.
    Hub,
    /// LFS files.
    Storage,
}

/// One request that was answered, or at least begun to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which of the hub's hosts was asked.
    pub host: Host,
    /// Decoded, without the query. For stored files: the sha256.
    pub path: String,
    /// First byte asked for by a range.
    pub range: Option<u64>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The status answered.
    pub status: u16,
    /// Bytes of the body handed to the operating system.
    pub sent: u64,
}

/// A way to misbehave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Close the connection after this many bytes of the body.
    CutAfter(u64),
    /// Send this many bytes of the body, then nothing more.
    StallAfter(u64),
    /// Send the body this many bytes at a time, with this pause after each.
    Drip(usize, Duration),
    /// Right length, other bytes.
    WrongBytes,
    /// Announce and send so many bytes fewer.
    Shorter(u64),
    /// Announce and send so many bytes more.
    Longer(u64),
    /// Answer a range with the whole file.
    IgnoreRange,
    /// Answer a range with the whole file, and close the connection after this many bytes.
    CutWhole(u64),
    /// Answer a range with another one.
    OtherRange,
    /// Status 429, with this `Retry-After`.
    TooManyRequests(Option<String>),
    /// This status and nothing else.
    Status(u16),
    /// A redirect to this address.
    RedirectTo(String),
    /// This body, with status 200.
    Body(String),
    /// Send the LFS pointer in place of the file.
    Pointer,
    /// Claim that the body is compressed.
    Compressed,
    /// A tree that lists this name too.
    TreeName(String),
    /// A tree of a million entries.
    EndlessTree,
    /// A tree whose next page is at this address.
    NextPage(String),
}

#[derive(Debug)]
struct Shared {
    hub: SocketAddr,
    storage: SocketAddr,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By name, then by commit.
    repositories: BTreeMap<String, BTreeMap<String, HubRepository>>,
    /// By name, then by branch.
    branches: BTreeMap<String, BTreeMap<String, String>>,
    renamed: BTreeMap<String, String>,
    /// What was put below `/store/`.
    objects: BTreeMap<String, Arc<[u8]>>,
    faults: Vec<Rule>,
    log: Vec<Request>,
    /// Requests that were taken from the log before.
    taken: usize,
    pause: Option<Duration>,
    page: usize,
}

#[derive(Debug)]
struct Rule {
    part: String,
    fault: Fault,
    times: u32,
}

impl HubServer {
    /// Starts both hosts on free ports.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn start() -> Self {
        let listeners =
            [Host::Hub, Host::Storage].map(|host| (host, TcpListener::bind("127.0.0.1:0").expect("a free port")));
        let address = |index: usize| listeners[index].1.local_addr().expect("a bound port");
        let shared = Arc::new(Shared {
            hub: address(0),
            storage: address(1),
            stop: AtomicBool::new(false),
            state: Mutex::new(State { page: 1000, ..State::default() }),
        });
        for (host, listener) in listeners {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || serve::accept(&listener, host, &shared));
        }
        Self { shared }
    }

    /// Address of the hub.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.hub)
    }

    /// Address of the second host.
    pub fn storage_url(&self) -> String {
        format!("http://{}", self.shared.storage)
    }

    /// Address of a store of objects, with GET, HEAD, PUT (`If-None-Match: *`) and DELETE.
    pub fn store_url(&self) -> String {
        format!("http://{}/store", self.shared.hub)
    }

    /// Names of the objects in the store.
    pub fn stored(&self) -> Vec<String> {
        self.shared.state().objects.keys().cloned().collect()
    }

    /// Pushes files to `main` of a repository, which is made if it is not there. Returns the commit.
    pub fn push(&self, name: &str, repository: HubRepository) -> String {
        self.push_to(name, "main", repository)
    }

    /// Pushes files to a branch. Earlier commits stay reachable by their id.
    pub fn push_to(&self, name: &str, branch: &str, repository: HubRepository) -> String {
        let commit = repository.commit();
        let mut state = self.shared.state();
        state.repositories.entry(name.to_owned()).or_default().insert(commit.clone(), repository);
        state.branches.entry(name.to_owned()).or_default().insert(branch.to_owned(), commit.clone());
        commit
    }

    /// Renames a repository: its old name answers with redirects.
    pub fn rename(&self, from: &str, to: &str) {
        let mut state = self.shared.state();
        if let Some(repository) = state.repositories.remove(from) {
            state.repositories.insert(to.to_owned(), repository);
        }
        if let Some(branches) = state.branches.remove(from) {
            state.branches.insert(to.to_owned(), branches);
        }
        state.renamed.insert(from.to_owned(), to.to_owned());
    }

    /// Misbehaves for the next `times` requests whose `METHOD host path` contains `part`, such as `storage` or `/tree/`.
    pub fn fault(&self, part: &str, fault: Fault, times: u32) {
        self.shared.state().faults.push(Rule { part: part.to_owned(), fault, times });
    }

    /// Behaves again.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// Pauses after every 32 KiB of a file.
    pub fn pause(&self, pause: Option<Duration>) {
        self.shared.state().pause = pause;
    }

    /// Entries in a page of a file tree.
    pub fn page_size(&self, entries: usize) {
        self.shared.state().page = entries;
    }

    /// Requests in the log.
    pub fn log_length(&self) -> usize {
        self.shared.state().log.len()
    }

    /// Takes the log of requests since the last call.
    pub fn take_log(&self) -> Vec<Request> {
        let mut state = self.shared.state();
        state.taken += state.log.len();
        std::mem::take(&mut state.log)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the two threads that wait for connections.
        for address in [self.shared.hub, self.shared.storage] {
            let _ = TcpStream::connect(address);
        }
    }
}
