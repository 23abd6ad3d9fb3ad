//! The threads: blocks are taken in order, converted and written where they belong; a shard whose last block was written is hashed
//! by whichever thread finds enough of them, many at once. The result does not depend on who does what.

use crate::block::{Buffers, Part, Sink, convert_block};
use crate::checkpoint::Checkpoint;
use crate::error::ConvertError;
use crate::io::write_all_at;
use crate::layout::{Place, ShardLayout, shards_of};
use crate::md5;
use crate::unusual::Unusual;
use knapsack_tensor::Quantization;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Finished shards that make a thread stop converting and hash them.
const HASH_AT: usize = md5::LANES / 2;

/// Memory of more bytes is given back at once.
const LARGEST_SPARE: usize = 32 << 20;

/// How far a conversion is, in bytes of the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertProgress {
    /// Converted so far.
    pub done: u64,
    /// That the conversion will read.
    pub total: u64,
}

/// What the threads share.
struct Work<'a> {
    checkpoint: &'a Checkpoint,
    layout: &'a ShardLayout,
    quantization: &'a Quantization,
    paths: Vec<PathBuf>,
    next: AtomicUsize,
    done_bytes: AtomicU64,
    cancel: &'a AtomicBool,
    progress: &'a (dyn Fn(ConvertProgress) + Sync),
    state: Mutex<State>,
    /// Tensors of which each block makes a part of every row: written when they are whole.
    assembled: Mutex<HashMap<Place, Arc<Mutex<Assembled>>>>,
    /// Memory of some that were written, for the next ones: new memory comes page by page, each cleared by the system.
    spare: Mutex<Vec<Vec<u8>>>,
    changed: Condvar,
    threads: usize,
}

/// A tensor that is put together.
struct Assembled {
    bytes: Vec<u8>,
    /// Bytes that are not there yet.
    missing: usize,
}

struct State {
    /// Open files of shards that are being written.
    files: Vec<Option<Arc<File>>>,
    /// Blocks that each shard still waits for.
    waiting: Vec<usize>,
    /// Shards to be hashed.
    ready: Vec<usize>,
    /// Shards that are on their way to the disk.
    written: Vec<(usize, Arc<File>)>,
    /// Shards without a sum.
    unhashed: usize,
    sums: Vec<Option<String>>,
    /// By tensor of the checkpoint.
    unusual: BTreeMap<usize, Unusual>,
    error: Option<ConvertError>,
}

/// What was written.
pub(crate) struct Written {
    /// MD5 sum of each shard.
    pub(crate) sums: Vec<String>,
    /// Values that the user should know of, by tensor of the checkpoint.
    pub(crate) unusual: BTreeMap<usize, Unusual>,
}

/// Writes all shards into `folder`.
pub(crate) fn run(
    checkpoint: &Checkpoint,
    layout: &ShardLayout,
    quantization: &Quantization,
    folder: &Path,
    threads: usize,
    cancel: &AtomicBool,
    progress: &(dyn Fn(ConvertProgress) + Sync),
) -> Result<Written, ConvertError> {
    let shards = layout.index.shards.len();
    let state = State {
        files: vec![None; shards],
        waiting: layout.blocks_of_shard.clone(),
        ready: Vec::new(),
        written: Vec::new(),
        unhashed: shards,
        sums: vec![None; shards],
        unusual: BTreeMap::new(),
        error: None,
    };
    let threads = threads.clamp(1, layout.blocks.len().max(1));
    let work = Work {
        checkpoint,
        layout,
        quantization,
        paths: layout.shard_paths(folder),
        next: AtomicUsize::new(0),
        done_bytes: AtomicU64::new(0),
        cancel,
        progress,
        state: Mutex::new(state),
        assembled: Mutex::default(),
        spare: Mutex::default(),
        changed: Condvar::new(),
        threads,
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| work.thread());
        }
        scope.spawn(|| work.sync());
        work.thread();
    });
    let state = work.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.error {
        Some(error) => Err(error),
        None => {
            let sums = state.sums.into_iter().map(|sum| sum.expect("every shard was hashed")).collect();
            Ok(Written { sums, unusual: state.unusual })
        }
    }
}

impl Work<'_> {
    fn thread(&self) {
        if let Err(error) = self.convert_and_hash() {
            let mut state = self.lock();
            // The first error counts; the others follow from it.
            state.error.get_or_insert(error);
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another thread failed; an error when the caller cancelled.
    fn stopped(&self) -> Result<bool, ConvertError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(ConvertError::Cancelled);
        }
        Ok(self.lock().error.is_some())
    }

    fn convert_and_hash(&self) -> Result<(), ConvertError> {
        let mut buffers = Buffers::default();
        while let Some(block) = self.layout.blocks.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.stopped()? {
                return Ok(());
            }
            let unusual = convert_block(self.checkpoint, self.layout, block, self.quantization, &mut buffers, self)?;
            if unusual != Unusual::default() {
                *self.lock().unusual.entry(block.tensor).or_default() += unusual;
            }
            let job = &self.layout.jobs[block.job];
            let bytes = block.rows * job.columns * self.checkpoint.tensors[block.tensor].dtype.bytes();
            if self.finish_block(shards_of(job), bytes) >= HASH_AT {
                self.hash(usize::MAX)?;
            }
        }
        drop(buffers);
        self.spare().clear();
        self.hash_the_rest()
    }

    /// The open file of a shard.
    fn file(&self, shard: usize) -> Result<Arc<File>, ConvertError> {
        let mut state = self.lock();
        if let Some(file) = &state.files[shard] {
            return Ok(Arc::clone(file));
        }
        let path = &self.paths[shard];
        let file = File::create_new(path).map_err(ConvertError::io("create", path))?;
        let file = Arc::new(file);
        state.files[shard] = Some(Arc::clone(&file));
        Ok(file)
    }

    fn write_error(&self, shard: usize, source: std::io::Error) -> ConvertError {
        let path = &self.paths[shard];
        let folder = path.parent().unwrap_or(path);
        match (source.kind(), crate::io::free_bytes(folder)) {
            (std::io::ErrorKind::StorageFull, Some(available)) => {
                ConvertError::NoSpace { folder: folder.to_owned(), needed: self.layout.index.total_bytes(), available }
            }
            _ => ConvertError::Io { action: "write", path: path.clone(), source },
        }
    }

    /// Counts a block of these shards as written; returns how many shards are ready to be hashed.
    fn finish_block(&self, shards: impl Iterator<Item = usize>, bytes: u64) -> usize {
        let ready = {
            let mut state = self.lock();
            for shard in shards {
                state.waiting[shard] -= 1;
                if state.waiting[shard] == 0 {
                    let file = state.files[shard].take();
                    state.written.extend(file.map(|file| (shard, file)));
                    state.ready.push(shard);
                    self.changed.notify_all();
                }
            }
            state.ready.len()
        };
        let done = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.progress)(ConvertProgress { done, total: self.layout.source_bytes });
        ready
    }

    /// Waits for the disk while the others convert and hash: what is renamed into place must be there, and then costs no time of its own.
    fn sync(&self) {
        loop {
            let mut state = self.lock();
            while state.written.is_empty() && state.unhashed > 0 && state.error.is_none() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.error.is_some() {
                return;
            }
            let Some((shard, file)) = state.written.pop() else { return };
            drop(state);
            if let Err(error) = file.sync_all() {
                self.lock().error.get_or_insert(self.write_error(shard, error));
                self.changed.notify_all();
            }
        }
    }

    /// Hashes shards that are ready, `most` of them.
    fn hash(&self, mut most: usize) -> Result<(), ConvertError> {
        let size = |shard: usize| self.layout.index.shards[shard].nbytes;
        let next = |room: u64| {
            let mut state = self.lock();
            let index = state.ready.iter().position(|shard| size(*shard) <= room)?;
            most = most.checked_sub(1)?;
            let shard = state.ready.swap_remove(index);
            Some((shard, ShardReader { path: &self.paths[shard], size: size(shard), file: None, cancel: self.cancel }))
        };
        let done = |shard: usize, digest: [u8; 16]| {
            let mut state = self.lock();
            state.sums[shard] = Some(hex::encode(digest));
            state.unhashed -= 1;
            self.changed.notify_all();
        };
        md5::hash_all(next, done)
    }

    /// Hashes until every shard has its sum, sharing what is ready with the other threads.
    fn hash_the_rest(&self) -> Result<(), ConvertError> {
        loop {
            let mut state = self.lock();
            while state.ready.is_empty() && state.unhashed > 0 && state.error.is_none() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.unhashed == 0 || state.error.is_some() {
                return Ok(());
            }
            let share = state.ready.len().div_ceil(self.threads);
            drop(state);
            self.hash(share)?;
        }
    }
}

impl Sink for Work<'_> {
    fn write(&self, shard: usize, offset: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        let file = self.file(shard)?;
        write_all_at(&file, bytes, offset).map_err(|error| self.write_error(shard, error))
    }

    fn write_part(&self, place: Place, part: Part, rows: &[u8]) -> Result<(), ConvertError> {
        let whole = rows.len() / part.bytes * part.row;
        let new = || Arc::new(Mutex::new(Assembled { bytes: Vec::new(), missing: whole }));
        let lock = || self.assembled.lock().unwrap_or_else(PoisonError::into_inner);
        let tensor = Arc::clone(lock().entry(place).or_insert_with(new));
        let mut tensor = tensor.lock().unwrap_or_else(PoisonError::into_inner);
        // Here, where only those wait who write to the same tensor.
        if tensor.bytes.is_empty() {
            tensor.bytes = self.spare().pop().unwrap_or_default();
            tensor.bytes.resize(whole, 0);
        }
        for (to, from) in tensor.bytes.chunks_exact_mut(part.row).zip(rows.chunks_exact(part.bytes)) {
            to[part.at..part.at + part.bytes].copy_from_slice(from);
        }
        tensor.missing -= rows.len();
        if tensor.missing == 0 {
            lock().remove(&place);
            self.write(place.shard, place.offset, &tensor.bytes)?;
            let mut spare = self.spare();
            if spare.len() < self.threads && tensor.bytes.capacity() <= LARGEST_SPARE {
                spare.push(std::mem::take(&mut tensor.bytes));
            }
        }
        Ok(())
    }
}

/// A shard that is read back, from the page cache.
struct ShardReader<'a> {
    path: &'a Path,
    size: u64,
    file: Option<File>,
    cancel: &'a AtomicBool,
}

impl md5::Source for ShardReader<'_> {
    type Error = ConvertError;

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ConvertError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(ConvertError::Cancelled);
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(self.path).map_err(ConvertError::io("read", self.path))?),
        };
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ConvertError::io("read", self.path)(error)),
            }
        }
        Ok(filled)
    }
}
