//! Positioned reads and writes, and small files.

use crate::error::ConvertError;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Fills `buffer` from `offset` on.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Writes all of `buffer` at `offset`.
#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, buffer: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, buffer, offset)
}

/// Fills `buffer` from `offset` on.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// Writes all of `buffer` at `offset`.
#[cfg(windows)]
pub(crate) fn write_all_at(file: &File, mut buffer: &[u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, buffer, offset)?;
        buffer = &buffer[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Bytes that are free where `folder` is; `None` where the system does not say.
#[cfg(unix)]
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let statistics = rustix::fs::statvfs(folder).ok()?;
    statistics.f_bavail.checked_mul(statistics.f_frsize)
}

/// Bytes that are free where `folder` is; `None` where the system does not say.
#[cfg(windows)]
pub(crate) fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

/// Most bytes of a JSON file: a tokenizer with a large vocabulary has some 30 MB.
const MAX_JSON_BYTES: u64 = 256 << 20;

/// Reads a JSON file; `None` when it is not there.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, ConvertError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ConvertError::io("read", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes).map_err(ConvertError::io("read", path))?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        let problem = format!("more than {MAX_JSON_BYTES} bytes");
        return Err(ConvertError::Checkpoint { path: path.to_owned(), problem });
    }
    let json = |source| ConvertError::Json { path: path.to_owned(), source };
    knapsack_artifact::json::parse(&bytes).map(Some).map_err(json)
}
