//! One file: resumed, verified, tried again.
//!
//! A request runs on a thread of its own, because nothing interrupts one that waits for a server: the download is cancelled at
//! once, and a server that sends too little is left, while that thread ends with the transport's own timeouts.

use super::error::io;
use super::{DownloadError, Pace, Transport, TransportError};
use crate::cancel::CancelFlag;
use knapsack_artifact::app_config::AppFile;
use knapsack_artifact::files::rename;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Requests for one file without a byte of progress in between.
const ATTEMPTS: u32 = 6;
/// Requests for one file that were given up because too little came.
const SLOW: u32 = 3;
/// How often a file may turn out wrong.
const WRONG: u32 = 3;
/// Wait before the second attempt; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const BUFFER: usize = 256 << 10;
/// Pieces of a body that wait to be written.
const PIECES: usize = 2;
/// How often a download that waits looks at its cancel flag.
pub(super) const STEP: Duration = Duration::from_millis(20);
/// Folder of the files that are not verified yet.
pub(super) const PARTS: &str = ".parts";

/// What all files of a download have in common.
pub(super) struct Fetch<'a> {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) partial: &'a Path,
    pub(super) cancel: &'a CancelFlag,
    /// Counts bytes that came, or went because they were wrong.
    pub(super) count: &'a (dyn Fn(i64) + Sync),
    pub(super) pace: Pace,
}

/// Where the bytes of a file are until it is verified.
pub(super) fn part(partial: &Path, path: &str) -> PathBuf {
    partial.join(PARTS).join(path)
}

impl Fetch<'_> {
    /// Makes the file be there, verified.
    pub(super) fn file(&self, url: &str, file: &AppFile) -> Result<(), DownloadError> {
        let (target, part) = (self.partial.join(&file.path), part(self.partial, &file.path));
        for folder in [&target, &part].into_iter().filter_map(|path| path.parent()) {
            fs::create_dir_all(folder).map_err(io(folder))?;
        }
        if target.exists() {
            // From an earlier run or revision: trusted only after its bytes were seen.
            if matches!(hash_file(&target), Ok((size, sha256)) if size == file.size && sha256 == file.sha256) {
                (self.count)(file.size as i64);
                return Ok(());
            }
            fs::remove_file(&target).map_err(io(&target))?;
        }
        let mut problem = String::new();
        for _ in 0..WRONG {
            let (bytes, sha256) = self.bytes(url, file, &part)?;
            if sha256 == file.sha256 {
                return rename(&part, &target).map_err(io(&target));
            }
            fs::remove_file(&part).map_err(io(&part))?;
            (self.count)(-(bytes as i64));
            problem = match bytes > file.size {
                true => format!("it is longer than {} bytes", file.size),
                false => format!("its sha256 is {sha256}, expected {}", file.sha256),
            };
        }
        Err(DownloadError::WrongContent { url: url.to_owned(), problem })
    }

    /// Completes the partial file; returns its length and SHA-256. It is too long when the server sends too much, or when it
    /// is of an earlier revision. Failed requests are repeated while they bring bytes; those that bring too few, some times.
    fn bytes(&self, url: &str, file: &AppFile, part: &Path) -> Result<(u64, String), DownloadError> {
        let mut output =
            File::options().create(true).truncate(false).read(true).write(true).open(part).map_err(io(part))?;
        let mut hasher = Sha256::new();
        let mut have = hash_into(&mut output, &mut hasher).map_err(io(part))?;
        (self.count)(have as i64);
        let (mut failures, mut slow) = (0, 0);
        let mut pause = FIRST_PAUSE;
        while have < file.size {
            let before = have;
            let result = self.request(url, file.size, &mut output, &mut hasher, &mut have, part);
            let error = match result {
                Ok(()) if have >= file.size => break,
                Ok(()) => TransportError::Connection(format!("the server sent {have} of {} bytes", file.size)),
                Err(Failure::Transport(error)) if error.is_transient() => error,
                Err(Failure::Transport(source)) => {
                    return Err(DownloadError::Transport { url: url.to_owned(), source });
                }
                Err(Failure::Other(error)) => return Err(error),
            };
            if have > before {
                (failures, pause) = (0, FIRST_PAUSE);
            }
            failures += 1;
            slow += u32::from(matches!(error, TransportError::Slow { .. }));
            if failures >= ATTEMPTS || slow >= SLOW {
                return Err(DownloadError::Transport { url: url.to_owned(), source: error });
            }
            log::warn!("{url}: {error}; asking again");
            self.pause(if let TransportError::Limited(wait) = error { wait } else { pause })?;
            pause *= 2;
        }
        output.sync_all().map_err(io(part))?;
        Ok((have, hex::encode(hasher.finalize())))
    }

    /// One request; appends what comes.
    fn request(
        &self,
        url: &str,
        size: u64,
        output: &mut File,
        hasher: &mut Sha256,
        have: &mut u64,
        part: &Path,
    ) -> Result<(), Failure> {
        let pieces = start(self.transport.clone(), url, *have);
        let (mut since, mut came) = (Instant::now(), 0);
        loop {
            if self.cancel.is_cancelled() {
                return Err(Failure::Other(DownloadError::Cancelled));
            }
            if since.elapsed() >= self.pace.window {
                if came < self.pace.bytes {
                    return Err(Failure::Transport(TransportError::Slow { bytes: came, window: since.elapsed() }));
                }
                (since, came) = (Instant::now(), 0);
            }
            let bytes = match pieces.recv_timeout(STEP) {
                Err(RecvTimeoutError::Timeout) => continue,
                // The thread has ended: the body has, too.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(Err(error)) => return Err(Failure::Transport(error)),
                Ok(Ok(Piece::From(first))) if first == *have => continue,
                Ok(Ok(Piece::From(0))) => {
                    // The server does not do ranges: from the beginning.
                    output
                        .set_len(0)
                        .and_then(|()| output.rewind())
                        .map_err(|error| Failure::Other(io(part)(error)))?;
                    *hasher = Sha256::new();
                    (self.count)(-(*have as i64));
                    *have = 0;
                    continue;
                }
                Ok(Ok(Piece::From(first))) => {
                    let reason = format!("the server sent bytes from {first} instead of {have}");
                    return Err(Failure::Transport(TransportError::Connection(reason)));
                }
                Ok(Ok(Piece::Bytes(bytes))) => bytes,
            };
            // One byte too many shows that the file is longer than it should be.
            let wanted = usize::try_from(size + 1 - *have).unwrap_or(usize::MAX);
            let bytes = &bytes[..bytes.len().min(wanted)];
            output.write_all(bytes).map_err(|error| Failure::Other(io(part)(error)))?;
            hasher.update(bytes);
            *have += bytes.len() as u64;
            came += bytes.len() as u64;
            (self.count)(bytes.len() as i64);
            if *have > size {
                return Ok(());
            }
        }
    }

    fn pause(&self, time: Duration) -> Result<(), DownloadError> {
        let mut left = time;
        while !left.is_zero() {
            if self.cancel.is_cancelled() {
                return Err(DownloadError::Cancelled);
            }
            let step = left.min(STEP);
            std::thread::sleep(step);
            left -= step;
        }
        Ok(())
    }
}

/// What a request brings, in this order: where it starts, then bytes.
enum Piece {
    From(u64),
    Bytes(Vec<u8>),
}

/// Starts a request. The channel closes at the end of the body; a request whose channel nobody reads any more ends with its next
/// piece.
fn start(transport: Arc<dyn Transport>, url: &str, from: u64) -> Receiver<Result<Piece, TransportError>> {
    let (send, receive) = sync_channel(PIECES);
    let url = url.to_owned();
    let failed = send.clone();
    let work = move || {
        let outcome = transport.get(&url, from).and_then(|mut body| {
            if send.send(Ok(Piece::From(body.start))).is_err() {
                return Ok(());
            }
            let mut buffer = vec![0; BUFFER];
            loop {
                let bytes = match body.reader.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(read) => buffer[..read].to_vec(),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(TransportError::Connection(error.to_string())),
                };
                if send.send(Ok(Piece::Bytes(bytes))).is_err() {
                    return Ok(());
                }
            }
        });
        if let Err(error) = outcome {
            let _ = send.send(Err(error));
        }
    };
    if let Err(error) = std::thread::Builder::new().name("knapsack-download".into()).spawn(work) {
        let _ = failed.try_send(Err(TransportError::Connection(error.to_string())));
    }
    receive
}

enum Failure {
    Transport(TransportError),
    Other(DownloadError),
}

/// Size and SHA-256 of a file.
pub(super) fn hash_file(path: &Path) -> std::io::Result<(u64, String)> {
    let mut hasher = Sha256::new();
    let size = hash_into(&mut File::open(path)?, &mut hasher)?;
    Ok((size, hex::encode(hasher.finalize())))
}

/// Reads a file to its end; leaves it there.
fn hash_into(file: &mut File, hasher: &mut Sha256) -> std::io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(size);
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}
