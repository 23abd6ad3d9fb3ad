//! The first part of a file while it is downloaded: written and hashed as it arrives.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::digest::{Hasher, hash_prefix};
use crate::error::{Error, Result};
use crate::layout::create_parent;
use crate::paced::is_too_slow;

/// Bytes written and hashed at once: what a killed run may lose.
const PIECE: usize = 256 << 10;
/// Bytes of one write to the file. Larger ones can be much dearer: Linux keeps free blocks of up to 32 KiB at hand, while larger
/// ones may be memory that a virtual machine has lent back to its host. Measured: twice the CPU time of the whole download
/// (BENCHMARKS.md).
const WRITE: usize = 32 << 10;
/// A slow connection's bytes are written after this time.
const MOMENT: Duration = Duration::from_millis(100);
/// Pieces between the connection and the hasher.
const PIECES: usize = 6;
/// From here on a second thread hashes.
const THREAD_FROM: u64 = 4 << 20;
/// The incomplete file of one download, and the hash of what is in it.
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    pub(crate) hasher: Hasher,
    pub(crate) done: u64,
    pub(crate) size: u64,
    git: bool,
}

impl Partial {
    /// Opens or creates that of a file of `size` bytes, and hashes what is there, with `git` as Git does too.
    pub(crate) fn open(path: &Path, size: u64, git: bool) -> Result<Self> {
        create_parent(path)?;
        let mut options = File::options();
        let file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(Error::io("open", path))?;
        let done = file.metadata().map_err(Error::io("read", path))?.len();
        let hasher = Hasher::new(git.then_some(size));
        let mut partial = Self { path: path.to_owned(), file, hasher, done, size, git };
        if done > size {
            partial.restart()?;
        }
        hash_prefix(&mut partial.file, partial.done, &mut partial.hasher).map_err(Error::io("read", path))?;
        Ok(partial)
    }

    /// Forgets what is there.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::io("empty", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(Error::io("empty", &self.path))?;
        self.hasher = Hasher::new(self.git.then_some(self.size));
        self.done = 0;
        Ok(())
    }

    /// Takes the rest of the file from a connection. `done` counts what is written and hashed, also when it ends early.
    pub(crate) fn receive(
        &mut self,
        mut reader: impl Read,
        url: &str,
        arrived: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let Self { path, file, hasher, done, size, .. } = self;
        let mut sink = Sink { path, file, done, size: *size, url, arrived };
        if *sink.done + THREAD_FROM > sink.size {
            let mut piece = vec![0; PIECE];
            loop {
                let (count, outcome) = sink.take(&mut reader, &mut piece);
                hasher.update(&piece[..count]);
                if count == 0 || outcome.is_err() {
                    return outcome;
                }
            }
        }
        std::thread::scope(|scope| {
            let (full, to_hash) = mpsc::sync_channel::<(Vec<u8>, usize)>(PIECES);
            let (hashed, empty) = mpsc::channel();
            (0..PIECES).for_each(|_| hashed.send(vec![0; PIECE]).unwrap_or_default());
            scope.spawn(move || {
                for (piece, count) in to_hash {
                    hasher.update(&piece[..count]);
                    let _ = hashed.send(piece);
                }
            });
            loop {
                // The hasher gives every piece back, so there is always another one.
                let mut piece = empty.recv().unwrap_or_else(|_| vec![0; PIECE]);
                let (count, outcome) = sink.take(&mut reader, &mut piece);
                let _ = full.send((piece, count));
                if count == 0 || outcome.is_err() {
                    return outcome;
                }
            }
        })
    }
}

/// Where the pieces of a body go.
struct Sink<'a> {
    path: &'a Path,
    file: &'a mut File,
    done: &'a mut u64,
    size: u64,
    url: &'a str,
    arrived: &'a mut dyn FnMut(u64) -> Result<()>,
}

impl Sink<'_> {
    /// Reads a piece and writes it: a whole one, or what came within a moment. 0 bytes: the file is whole. What came before a
    /// failure is written too.
    fn take(&mut self, reader: &mut impl Read, piece: &mut [u8]) -> (usize, Result<()>) {
        let start = Instant::now();
        let left = usize::try_from(self.size - *self.done).unwrap_or(usize::MAX).min(piece.len());
        let (mut count, mut outcome) = (0, Ok(()));
        while count < left && start.elapsed() < MOMENT {
            match self.read(reader, &mut piece[count..left], count) {
                Ok(more) => count += more,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        match piece[..count].chunks(WRITE).try_for_each(|part| self.file.write_all(part)) {
            Ok(()) => *self.done += count as u64,
            Err(error) => return (0, Err(Error::io("write", self.path)(error))),
        }
        (count, outcome)
    }

    fn read(&mut self, reader: &mut impl Read, room: &mut [u8], before: usize) -> Result<usize> {
        let there = *self.done + before as u64;
        let failed = |reason: &str| {
            let reason = format!("{reason} after {there} of {} bytes", self.size);
            Error::Connection { url: self.url.to_owned(), reason }
        };
        match reader.read(room) {
            Ok(0) => Err(failed("it ended")),
            Ok(count) => (self.arrived)(count as u64).map(|()| count),
            Err(error) if is_too_slow(&error) => Err(Error::TooSlow {
                url: self.url.to_owned(),
                reason: format!("{error}, {there} of {} bytes are there", self.size),
            }),
            Err(error) => Err(failed(&error.to_string())),
        }
    }
}
