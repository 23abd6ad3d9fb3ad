//! A file that is hashed while it is written.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Write};
use std::mem::replace;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes that are written at a time, and then hashed.
const PIECE: usize = 1 << 20;
/// Pieces that are written and not yet hashed, at most.
const AHEAD: usize = 4;

/// Makes a file of what `fill` writes, and gives its SHA-256, which another thread computes meanwhile.
pub(super) fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<String> {
    let file = File::create(path)?;
    let (full, filled) = sync_channel(AHEAD);
    let (empty, emptied) = channel();
    std::thread::scope(|scope| {
        let sum = scope.spawn(move || hash(&filled, &empty));
        let mut writer = Hashed { file, piece: Vec::with_capacity(PIECE), full, emptied };
        let written = fill(&mut writer).and_then(|()| writer.flush());
        drop(writer);
        let sum = sum.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.map(|()| sum)
    })
}

fn hash(filled: &Receiver<Vec<u8>>, empty: &Sender<Vec<u8>>) -> String {
    let mut sum = Sha256::new();
    for mut piece in filled {
        sum.update(&piece);
        piece.clear();
        let _ = empty.send(piece);
    }
    hex::encode(sum.finalize())
}

struct Hashed {
    file: File,
    piece: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    emptied: Receiver<Vec<u8>>,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.piece)?;
        let next = self.emptied.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        // The other end goes only when this one is gone.
        let _ = self.full.send(replace(&mut self.piece, next));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_any_pieces_is_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..3_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for pieces in [1, 1000, PIECE, PIECE + 1, 3_000_001] {
            let bytes = if pieces == 1 { &bytes[..9] } else { &bytes[..] };
            let sum = write(&path, |out| bytes.chunks(pieces).try_for_each(|piece| out.write_all(piece))).unwrap();
            assert_eq!((sum, std::fs::read(&path).unwrap().as_slice()), (hex::encode(Sha256::digest(bytes)), bytes));
        }
        assert_eq!(write(&path, |_| Ok(())).unwrap(), hex::encode(Sha256::digest([])));
        let failed = write(&path, |out| out.write_all(&bytes).and(Err(io::Error::other("no"))));
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert!(write(&folder.path().join("none/file"), |_| Ok(())).is_err());
    }
}
