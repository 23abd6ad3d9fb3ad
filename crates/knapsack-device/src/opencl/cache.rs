//! Compiled programs on disk, one file for each source, device, driver and set of options.
//!
//! A file is a checksum of the rest, then the driver's binary. Drivers are not robust against damaged binaries, so nothing
//! that fails the checksum reaches them. A cache that cannot be read or written only costs time.

use knapsack_artifact::files::rename;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Largest binary that is read back.
const MAX_BYTES: u64 = 256 << 20;
/// Bytes of the checksum.
const CHECKSUM: usize = 32;

/// The file of a program; `parts` is everything that its binary depends on.
pub(super) fn file(folder: &Path, parts: &[&str]) -> PathBuf {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let name = hex::encode(&hash.finalize()[..16]);
    folder.join(format!("{name}.clbin"))
}

/// The binary in a file, if it is there and whole.
pub(super) fn read(file: &Path) -> Option<Vec<u8>> {
    if std::fs::metadata(file).ok()?.len() > MAX_BYTES {
        return None;
    }
    let bytes = std::fs::read(file).ok()?;
    let (checksum, binary) = bytes.split_at_checked(CHECKSUM)?;
    (Sha256::digest(binary)[..] == *checksum).then(|| binary.to_vec())
}

/// Writes a binary beside its file and renames it. Failures are ignored: the next build is just not faster.
pub(super) fn write(file: &Path, binary: &[u8]) {
    let Some(folder) = file.parent() else { return };
    let beside = file.with_extension(format!("{}.tmp", std::process::id()));
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::File::create(&beside))
        .and_then(|mut out| {
            out.write_all(&Sha256::digest(binary))?;
            out.write_all(binary)
        })
        .and_then(|()| rename(&beside, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_comes_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder.path().join("new"), &["source", "driver 1", "options"]);
        assert_eq!(read(&path), None);
        write(&path, b"binary");
        assert_eq!(read(&path).as_deref(), Some(&b"binary"[..]));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path), None);
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(read(&path), None);
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let folder = Path::new("cache");
        let files = [&["a", "bc"][..], &["ab", "c"], &["a", "bd"], &["a", "bc", ""]].map(|parts| file(folder, parts));
        for (i, a) in files.iter().enumerate() {
            assert!(files[..i].iter().all(|b| a != b));
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        std::fs::write(&blocked, b"").unwrap();
        write(&file(&blocked, &["x"]), b"binary");
        assert_eq!(read(&file(&blocked, &["x"])), None);
    }
}
