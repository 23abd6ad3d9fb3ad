//! The cache of a team: results that one machine made and others take.
//!
//! ```text
//! <bucket>/<key>/entry.json    inputs, files, and the parts that each file is made of; written last
//! <bucket>/<key>/<blake3>      a part of a file: PART bytes, or less at the end
//! <bucket>/<key>/claim         somebody is making it
//! ```
//!
//! A key is the hash of all inputs, so an entry never changes and nobody has to agree on anything: parts and records are written
//! only where none are. Parts are what a transfer that was interrupted goes on from, in both directions. Everything that comes in
//! is held against its hash, and the record against the key that was asked for. Who may write to the store can still say that
//! weights are what they are not: it is to be trusted as a colleague's machine is.
//!
//! Who is about to make an entry claims it, and renews the claim while it works; others wait for the entry, and take over a claim
//! that nobody renews. A store without conditional writes knows no claims: then a thing may be made twice, which costs time alone.
//!
//! Whatever a store does wrong is a warning, once; from then on this machine works by itself.

mod clock;
mod maintain;
mod store;
#[cfg(test)]
mod tests;

pub use clock::{Clock, RealClock, Stop};
pub use maintain::SharedEntry;
pub use store::{Object, Store, StoreError};

use super::record::{CachedFile, EntryRecord};
use super::{Bucket, Inputs, Key};
use crate::threads::each;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Largest part of a file that is one object.
pub const PART: u64 = 8 << 20;
const RECORD: &str = "entry.json";
const CLAIM: &str = "claim";
const VERSION: u32 = 2;
const MAX_RECORD: u64 = 16 << 20;
const MAX_CLAIM: u64 = 256;
/// Files that travel at a time, each with a part in memory.
const WORKERS: usize = 4;
/// How often a claim is renewed, how often others look, and when they no longer believe in it.
const RENEW: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_secs(2);
const ABANDONED: Duration = Duration::from_secs(40);

/// A store, and how it is used.
pub struct Shared {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// Whether this machine gives as well as takes.
    write: bool,
    /// Told what a store does wrong.
    warn: Box<dyn Fn(&str) + Send + Sync>,
    dead: AtomicBool,
    claims: AtomicUsize,
}

/// What another machine's record says.
#[derive(Debug, Serialize, Deserialize)]
struct SharedRecord {
    version: u32,
    #[serde(flatten)]
    inputs: Inputs,
    files: BTreeMap<String, SharedFile>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SharedFile {
    size: u64,
    sha256: String,
    /// BLAKE3 hashes of its parts, in order.
    parts: Vec<String>,
}

/// What came of asking.
pub(super) enum Obtained<'a> {
    /// The files are in the folder, whole; it was made from these.
    Pulled(Inputs),
    /// Nobody has it: it is to be made here, and given when there is a claim.
    Absent(Option<Claim<'a>>),
}

/// This machine makes an entry. Dropping it lets others try.
pub(super) struct Claim<'a> {
    shared: &'a Shared,
    name: String,
    stop: Stop,
    renewal: Option<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("store", &self.store).field("write", &self.write).finish_non_exhaustive()
    }
}

impl Shared {
    /// Takes from `store`, and gives to it where `write` says so; `warn` is told what goes wrong.
    pub fn new(store: Arc<dyn Store>, write: bool, warn: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let (clock, warn) = (Arc::new(RealClock), Box::new(warn));
        Self { store, clock, write, warn, dead: AtomicBool::new(false), claims: AtomicUsize::new(0) }
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where results are kept, for what is no entry.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    fn warn(&self, what: &str, error: &StoreError) {
        if !error.read_only {
            self.dead.store(true, Ordering::Relaxed);
        }
        let rest = if error.read_only { "it is only read from now on" } else { "this run goes on without it" };
        (self.warn)(&format!("the shared cache {what}: {error}; {rest}"));
    }

    /// Brings the files of an entry into `content`, or says that they are to be made. What an earlier try left there is used.
    pub(super) fn obtain(&self, bucket: Bucket, key: &Key, content: &Path) -> Obtained<'_> {
        match self.pull_or_claim(bucket, key, content) {
            Ok(obtained) => obtained,
            Err(error) => {
                self.warn("cannot be used", &error);
                Obtained::Absent(None)
            }
        }
    }

    fn pull_or_claim(&self, bucket: Bucket, key: &Key, content: &Path) -> Result<Obtained<'_>, StoreError> {
        let claim = format!("{}/{key}/{CLAIM}", bucket.folder());
        let (mut seen, mut unchanged) = (None, Duration::ZERO);
        loop {
            if self.is_dead() {
                return Ok(Obtained::Absent(None));
            }
            match self.pull(bucket, key, content) {
                Ok(Some(inputs)) => return Ok(Obtained::Pulled(inputs)),
                Ok(None) => {}
                Err(PullError::Store(error)) => return Err(error),
                Err(PullError::Damaged(problem)) => {
                    (self.warn)(&format!("the shared cache holds a damaged {key}: {problem}; it is made anew"));
                    if self.write {
                        self.store.delete(&record_name(bucket, key))?;
                    }
                }
            }
            if !self.write {
                return Ok(Obtained::Absent(None));
            }
            let token = self.token(0);
            // An answer that was lost makes a second try find the first one's claim.
            let is_own = |found: Option<Vec<u8>>| found.as_deref() == Some(token.as_bytes());
            if self.store.put(&claim, token.as_bytes(), true)? || is_own(self.store.get(&claim, MAX_CLAIM)?) {
                // The store may have got the entry between the look and the claim.
                let claim = self.claimed(claim, token);
                let late = self.pull(bucket, key, content).ok().flatten();
                return Ok(late.map_or(Obtained::Absent(Some(claim)), Obtained::Pulled));
            }
            self.clock.sleep(POLL, &Stop::default());
            let now = self.store.get(&claim, MAX_CLAIM)?;
            unchanged = if now == seen { unchanged + POLL } else { Duration::ZERO };
            seen = now;
            if unchanged >= ABANDONED {
                self.store.delete(&claim)?;
                (seen, unchanged) = (None, Duration::ZERO);
            }
        }
    }

    /// Text that no other claim has.
    fn token(&self, renewed: usize) -> String {
        let number = self.claims.fetch_add(1, Ordering::Relaxed);
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        format!("{}-{since:x}-{number}-{renewed}", std::process::id())
    }

    fn claimed(&self, name: String, token: String) -> Claim<'_> {
        let stop = Stop::default();
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let (object, until) = (name.clone(), stop.clone());
        clock.thread(true);
        let renewal = std::thread::spawn(move || {
            for count in 1.. {
                clock.sleep(RENEW, &until);
                // A renewal that fails is one that others may miss; the work goes on.
                if until.is_stopped() || store.put(&object, format!("{token}-{count}").as_bytes(), false).is_err() {
                    break;
                }
            }
            clock.thread(false);
        });
        Claim { shared: self, name, stop, renewal: Some(renewal) }
    }

    /// Brings an entry's files into `content` and gives what it was made from; `None`: there is no such entry.
    pub(super) fn pull(&self, bucket: Bucket, key: &Key, content: &Path) -> Result<Option<Inputs>, PullError> {
        let Some(record) = self.record(bucket, key)? else { return Ok(None) };
        fs::create_dir_all(content).map_err(PullError::io(content))?;
        let files: Vec<_> = record.files.iter().collect();
        each(WORKERS, &files, |(name, file)| self.pull_file(bucket, key, &content.join(name), file))?;
        Ok(Some(record.inputs))
    }

    /// The record of an entry. What was damaged on the way is not damaged the next time.
    fn record(&self, bucket: Bucket, key: &Key) -> Result<Option<SharedRecord>, PullError> {
        let name = record_name(bucket, key);
        let mut problem = String::new();
        for _ in 0..2 {
            let Some(text) = self.store.get(&name, MAX_RECORD)? else { return Ok(None) };
            match SharedRecord::read(&text, key) {
                Ok(record) => return Ok(Some(record)),
                Err(wrong) => problem = wrong,
            }
        }
        Err(PullError::Damaged(problem))
    }

    fn pull_file(&self, bucket: Bucket, key: &Key, path: &Path, file: &SharedFile) -> Result<(), PullError> {
        let io = PullError::io(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(&io)?;
        }
        let mut target = File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(&io)?;
        let mut whole = Sha256::new();
        for (index, part) in file.parts.iter().enumerate() {
            let size = file.part_size(index);
            let at = index as u64 * PART;
            let mut bytes = read_at(&mut target, at, size).map_err(&io)?;
            if blake3::hash(&bytes).to_hex().as_str() != part {
                bytes = self.pull_part(&format!("{}/{key}/{part}", bucket.folder()), part, size)?;
                target.seek(SeekFrom::Start(at)).and_then(|_| target.write_all(&bytes)).map_err(&io)?;
            }
            whole.update(&bytes);
        }
        target.set_len(file.size).map_err(&io)?;
        match hex::encode(whole.finalize()) == file.sha256 {
            true => Ok(()),
            false => Err(PullError::Damaged(format!("the parts of {} do not make it", path.display()))),
        }
    }

    fn pull_part(&self, name: &str, hash: &str, size: u64) -> Result<Vec<u8>, PullError> {
        let mut problem = String::new();
        // What was damaged on the way is not damaged the next time.
        for _ in 0..2 {
            let Some(bytes) = self.store.get(name, size)? else {
                return Err(PullError::Damaged(format!("the part {name} is not there")));
            };
            if bytes.len() as u64 == size && blake3::hash(&bytes).to_hex().as_str() == hash {
                return Ok(bytes);
            }
            problem = format!("the part {name} has another content");
        }
        Err(PullError::Damaged(problem))
    }

    /// Gives an entry of this machine's cache; what is there already is not sent again. False: it was all there.
    ///
    /// # Errors
    /// A store that does not answer or may not be written; an entry that cannot be read.
    pub fn push(&self, bucket: Bucket, entry: &Path) -> Result<bool, StoreError> {
        let record = EntryRecord::read(entry).map_err(StoreError::new)?;
        let key = record.inputs.key();
        if self.store.size(&record_name(bucket, &key))?.is_some() {
            return Ok(false);
        }
        let files: Vec<_> = record.files.iter().collect();
        let sent = Mutex::new(BTreeMap::new());
        let send = |(name, file): &(&String, &CachedFile)| {
            let path = record.path(entry, name);
            let parts = self.push_file(bucket, &key, &path, file.size)?;
            let shared = SharedFile { size: file.size, sha256: file.sha256.clone(), parts };
            sent.lock().unwrap_or_else(PoisonError::into_inner).insert((*name).clone(), shared);
            Ok::<_, StoreError>(())
        };
        each(WORKERS, &files, send)?;
        let files = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
        let shared = SharedRecord { version: VERSION, inputs: record.inputs, files };
        let text = serde_json::to_vec(&shared).map_err(|error| StoreError::new(error.to_string()))?;
        self.store.put(&record_name(bucket, &key), &text, true)
    }

    fn push_file(&self, bucket: Bucket, key: &Key, path: &Path, size: u64) -> Result<Vec<String>, StoreError> {
        let failed = |error: io::Error| StoreError::new(format!("cannot read {}: {error}", path.display()));
        let mut source = File::open(path).map_err(failed)?;
        let mut parts = Vec::new();
        for at in (0..size).step_by(PART as usize) {
            let bytes = read_at(&mut source, at, PART.min(size - at)).map_err(failed)?;
            let hash = blake3::hash(&bytes).to_hex().to_string();
            let name = format!("{}/{key}/{hash}", bucket.folder());
            if self.store.size(&name)? != Some(bytes.len() as u64) {
                self.store.put(&name, &bytes, false)?;
            }
            parts.push(hash);
        }
        Ok(parts)
    }

    /// As [`Shared::push`], where a failure is a warning.
    pub(super) fn offer(&self, bucket: Bucket, entry: &Path) {
        if let Err(error) = self.push(bucket, entry) {
            self.warn("was not given a result", &error);
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(renewal) = self.renewal.take() {
            let _ = renewal.join();
        }
        if let Err(error) = self.shared.store.delete(&self.name) {
            self.shared.warn("keeps a claim", &error);
        }
    }
}

/// Why an entry did not come.
pub(super) enum PullError {
    Store(StoreError),
    /// What came is not what it should be.
    Damaged(String),
}

impl From<PullError> for super::CacheError {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Store(error) => error.into(),
            PullError::Damaged(problem) => StoreError::new(problem).into(),
        }
    }
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl PullError {
    /// This machine's own disk.
    fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::Store(StoreError::new(format!("cannot write {}: {error}", path.display())))
    }
}

impl SharedRecord {
    /// Reads the record of `key`; everything in it is believed only as far as it goes together.
    fn read(text: &[u8], key: &Key) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(text).map_err(|error| format!("{RECORD}: {error}"))?;
        if record.version != VERSION {
            return Err(format!("{RECORD}: version {}, not {VERSION}", record.version));
        }
        if record.inputs.key() != *key {
            return Err(format!("{RECORD} is of other inputs"));
        }
        let is_hash = |text: &String| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        for (name, file) in &record.files {
            knapsack_artifact::names::check_relative_path(name).map_err(|error| error.to_string())?;
            let right = file.parts.len() as u64 == file.size.div_ceil(PART) && file.parts.iter().all(is_hash);
            if !right {
                return Err(format!("{RECORD}: the parts of {name} cannot be"));
            }
        }
        Ok(record)
    }
}

impl SharedFile {
    fn part_size(&self, index: usize) -> u64 {
        PART.min(self.size - index as u64 * PART)
    }
}

fn record_name(bucket: Bucket, key: &Key) -> String {
    format!("{}/{key}/{RECORD}", bucket.folder())
}

/// At most `size` bytes at `at`; fewer where the file ends.
fn read_at(file: &mut File, at: u64, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    Read::by_ref(file).take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}
