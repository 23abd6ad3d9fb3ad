//! The KV cache of a session in a file, so that a long beginning is computed once.
//!
//! ```text
//! magic         8 bytes     "KNAPSKV" and the version
//! model        32 bytes     SHA-256 of the library, the weights' index, and the cache's layout on the device
//! cached        u32         tokens in the cache
//! written       u32         one past the highest position that was written
//! tokens        u32 each
//! for each layer, keys and then values, head by head: the slots that were written
//! kept          u32         of a model with recurrent layers: tokens that the state set aside is of; 2^32 - 1: none is
//! for each state, the current one and then the one set aside, where one is
//! for each layer whose window is set aside with the states, where they are: keys and then values
//! checksum     32 bytes     SHA-256 of everything before
//! ```
//!
//! Numbers are little endian. A file is written beside its place and renamed. The checksum is compared before anything of the file
//! counts: a file that is damaged, cut short or of another model leaves an empty session.

use crate::session::Session;
use knapsack_artifact::files::rename;
use knapsack_artifact::plan::KvLayer;
use knapsack_device::{CacheHalf, DeviceError, LoadedModel, StateCopy, kept_bytes};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"KNAPSKV\x03";
const HEADER: u64 = 8 + 32 + 4 + 4;
const DIGEST: u64 = 32;
/// No state is set aside.
const NONE_KEPT: u32 = u32::MAX;

/// Why a session could not be saved or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum SavedError {
    /// The file system refused something.
    #[error("cannot use {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// It is no saved session of this version, or a damaged one.
    #[error("{} is no saved session that can be used: {problem}", path.display())]
    Invalid { path: PathBuf, problem: &'static str },
    /// It was saved with another library, other weights, or by another kind of device.
    #[error("{} was saved with another model library, other weights or on another device", path.display())]
    OtherModel { path: PathBuf },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Slots of a layer that hold something when positions up to `written` were written.
fn slots(layer: &KvLayer, written: u32) -> usize {
    written.min(layer.positions) as usize
}

/// Bytes of those slots in the keys of one head, and of all slots.
fn head_bytes(layer: &KvLayer, written: u32) -> (usize, usize) {
    let slot = layer.head_dim as usize * layer.dtype.size() as usize;
    (slots(layer, written) * slot, layer.positions as usize * slot)
}

/// What a saved session must agree with.
fn model_digest(model: &dyn LoadedModel) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(Sha256::digest(model.library().encode()));
    hash.update(model.weights_digest());
    for layer in model.cache_layout() {
        let KvLayer { kv_heads, head_dim, positions, window, sinks, dtype } = layer;
        for number in [kv_heads, head_dim, positions, window.unwrap_or(0), sinks, dtype.size() as u32] {
            hash.update(number.to_le_bytes());
        }
    }
    hash.finalize().into()
}

/// Passes bytes on and hashes them.
struct Hashed<T> {
    inner: T,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.hash.update(&bytes[..read]);
        Ok(read)
    }
}

impl Session {
    /// Writes what the KV cache and the states hold into a file, in place of what was there.
    ///
    /// # Errors
    /// The file system's and the device's; the file is as before then.
    pub fn save(&mut self, path: &Path) -> Result<(), SavedError> {
        let beside = path.with_extension(format!("{}.tmp", std::process::id()));
        let io = |source| SavedError::Io { path: path.to_owned(), source };
        let saved = File::create(&beside)
            .map_err(io)
            .and_then(|file| self.write_state(file).map_err(|error| error.of(path)))
            .and_then(|()| rename(&beside, path).map_err(io));
        if let Err(error) = &saved {
            let _ = fs::remove_file(&beside);
            if matches!(error, SavedError::Device(_)) {
                // What the cache holds is not certain any more.
                self.reset();
            }
        }
        saved
    }

    fn write_state(&mut self, file: File) -> Result<(), Failure> {
        self.forget_uncertain()?;
        let layout = self.model().cache_layout();
        let digest = model_digest(self.model());
        let written = self.written();
        let mut output = Hashed { inner: BufWriter::new(file), hash: Sha256::new() };
        output.write_all(&MAGIC)?;
        output.write_all(&digest)?;
        output.write_all(&(self.cached().len() as u32).to_le_bytes())?;
        output.write_all(&written.to_le_bytes())?;
        for token in self.cached() {
            output.write_all(&token.to_le_bytes())?;
        }
        let mut bytes = Vec::new();
        for (index, layer) in layout.iter().enumerate() {
            let (used, whole) = head_bytes(layer, written);
            for half in CacheHalf::BOTH {
                bytes.resize(whole * layer.kv_heads as usize, 0);
                self.model().read_cache(index, half, &mut bytes)?;
                for head in bytes.chunks_exact(whole.max(1)) {
                    output.write_all(&head[..used])?;
                }
            }
        }
        self.write_states(&mut output)?;
        let checksum = output.hash.finalize();
        output.inner.write_all(&checksum)?;
        let file = output.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(file.sync_all()?)
    }

    fn write_states(&mut self, output: &mut impl Write) -> Result<(), Failure> {
        let states = self.model().library().states.clone();
        if states.is_empty() {
            return Ok(());
        }
        let kept = self.kept();
        output.write_all(&kept.unwrap_or(NONE_KEPT).to_le_bytes())?;
        let mut bytes = Vec::new();
        for (index, state) in states.iter().enumerate() {
            bytes.resize(state.bytes() as usize, 0);
            for copy in copies(kept) {
                self.model().read_state(index, *copy, &mut bytes)?;
                output.write_all(&bytes)?;
            }
        }
        for (index, window) in self.windows(kept) {
            bytes.resize(window as usize, 0);
            for half in CacheHalf::BOTH {
                self.model().read_kept(index, half, &mut bytes)?;
                output.write_all(&bytes)?;
            }
        }
        Ok(())
    }

    /// Layers of which a file holds what is set aside, with the bytes of their keys.
    fn windows(&mut self, kept: Option<u32>) -> Vec<(usize, u64)> {
        let (library, layout) = (self.model().library().clone(), self.model().cache_layout());
        let all = layout.iter().map(|layer| kept_bytes(&library, layer)).enumerate();
        all.filter(|&(_, bytes)| bytes > 0 && kept.is_some()).collect()
    }

    fn read_states(&mut self, input: &mut impl Read, cached: u32, left: u64) -> Result<Option<u32>, Failure> {
        let states = self.model().library().states.clone();
        if states.is_empty() {
            return Ok(None);
        }
        let kept = u32::from_le_bytes(take(input)?);
        let kept = (kept != NONE_KEPT).then_some(kept);
        let windows = self.windows(kept);
        let all: u64 = states.iter().map(|state| state.bytes() * copies(kept).len() as u64).sum();
        let all = all + windows.iter().map(|(_, bytes)| 2 * bytes).sum::<u64>();
        if left != 4 + all || kept.is_some_and(|kept| kept > cached) {
            return Err(Failure::Invalid("its length is not what its header says"));
        }
        let mut bytes = Vec::new();
        for (index, state) in states.iter().enumerate() {
            bytes.resize(state.bytes() as usize, 0);
            for copy in copies(kept) {
                input.read_exact(&mut bytes)?;
                self.model().write_state(index, *copy, &bytes)?;
            }
        }
        for (index, window) in windows {
            bytes.resize(window as usize, 0);
            for half in CacheHalf::BOTH {
                input.read_exact(&mut bytes)?;
                self.model().write_kept(index, half, &bytes)?;
            }
        }
        Ok(kept)
    }

    /// Makes the KV cache hold what a file says, which was saved by a session with the same library, weights and kind of device.
    ///
    /// # Errors
    /// A file that is none, damaged, or of another model; the file system's and the device's. The session is empty then.
    pub fn restore(&mut self, path: &Path) -> Result<(), SavedError> {
        self.reset();
        let io = |source| SavedError::Io { path: path.to_owned(), source };
        // A pipe would keep whoever opens it waiting.
        if !fs::metadata(path).map_err(io)?.is_file() {
            return Err(Failure::Invalid("it is no regular file").of(path));
        }
        let read = self.read_state(File::open(path).map_err(io)?);
        let (tokens, written, kept) = read.map_err(|error| error.of(path))?;
        self.put_back(tokens, written, kept);
        Ok(())
    }

    fn read_state(&mut self, file: File) -> Result<(Vec<u32>, u32, Option<u32>), Failure> {
        let metadata = file.metadata()?;
        if metadata.len() < HEADER + DIGEST {
            return Err(Failure::Invalid("it is too short"));
        }
        let mut input = Hashed { inner: BufReader::new(file), hash: Sha256::new() };
        if take::<8>(&mut input)? != MAGIC {
            return Err(Failure::Invalid("it is none, or of another version"));
        }
        if take::<32>(&mut input)? != model_digest(self.model()) {
            return Err(Failure::OtherModel);
        }
        let cached = u32::from_le_bytes(take(&mut input)?);
        let written = u32::from_le_bytes(take(&mut input)?);
        let layout = self.model().cache_layout();
        // The length says everything before anything is allocated.
        let data: u64 =
            layout.iter().map(|layer| 2 * u64::from(layer.kv_heads) * head_bytes(layer, written).0 as u64).sum();
        let known = HEADER + 4 * u64::from(cached) + data + DIGEST;
        let left = metadata.len().checked_sub(known).filter(|&left| left == 0 || self.is_recurrent());
        let left = left.ok_or(Failure::Invalid("its length is not what its header says"))?;
        let info = self.info();
        if written < cached || info.context_window_size.is_some_and(|context| written > context) {
            return Err(Failure::Invalid("it holds more than the context"));
        }
        let vocab_size = info.vocab_size;
        let mut tokens = Vec::with_capacity(cached as usize);
        for _ in 0..cached {
            tokens.push(u32::from_le_bytes(take(&mut input)?));
        }
        if tokens.iter().any(|&token| token >= vocab_size) {
            return Err(Failure::Invalid("a token is outside the vocabulary"));
        }
        let mut bytes = Vec::new();
        for (index, layer) in layout.iter().enumerate() {
            let (used, whole) = head_bytes(layer, written);
            for half in CacheHalf::BOTH {
                bytes.clear();
                bytes.resize(whole * layer.kv_heads as usize, 0);
                for head in bytes.chunks_exact_mut(whole.max(1)) {
                    input.read_exact(&mut head[..used])?;
                }
                self.model().write_cache(index, half, &bytes)?;
            }
        }
        let kept = self.read_states(&mut input, cached, left)?;
        let expected: [u8; 32] = input.hash.finalize().into();
        if take::<32>(&mut input.inner)? != expected {
            return Err(Failure::Invalid("its checksum is wrong"));
        }
        Ok((tokens, written, kept))
    }
}

/// The copies of a state that a file holds.
fn copies(kept: Option<u32>) -> &'static [StateCopy] {
    if kept.is_some() { &StateCopy::BOTH } else { &StateCopy::BOTH[..1] }
}

fn take<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A [`SavedError`] before it knows its file.
enum Failure {
    Io(io::Error),
    Invalid(&'static str),
    OtherModel,
    Device(DeviceError),
}

impl Failure {
    fn of(self, path: &Path) -> SavedError {
        let path = path.to_owned();
        match self {
            Failure::Io(source) => SavedError::Io { path, source },
            Failure::Invalid(problem) => SavedError::Invalid { path, problem },
            Failure::OtherModel => SavedError::OtherModel { path },
            Failure::Device(error) => error.into(),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        Failure::Device(error)
    }
}
