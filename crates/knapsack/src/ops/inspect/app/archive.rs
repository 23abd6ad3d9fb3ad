//! The files of an app's archive. Everything in it is taken for hostile: nothing is unpacked to the disk, and nothing is read that is
//! larger than what was expected of it.

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// Most files that are looked at.
const MAX_FILES: usize = 1 << 18;

/// An open archive.
pub(super) struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// Its files, without folders, in the archive's order.
    pub(super) files: Vec<Entry>,
    /// Bytes of the archive itself.
    pub(super) bytes: u64,
}

/// What the archive says of a file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    index: usize,
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) compressed: u64,
    pub(super) stored: bool,
    /// Where its bytes begin.
    pub(super) offset: u64,
}

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let bytes = file.metadata()?.len();
        let mut zip = ZipArchive::new(BufReader::new(file))
            .with_context(|| format!("{} is not a readable ZIP archive", path.display()))?;
        ensure!(zip.len() <= MAX_FILES, "{} has {} files, more than any app", path.display(), zip.len());
        let mut files = Vec::with_capacity(zip.len());
        for index in 0..zip.len() {
            let file = zip.by_index_raw(index).with_context(|| format!("{}: file {index}", path.display()))?;
            let name =
                file.name().with_context(|| format!("{}: the name of file {index}", path.display()))?.into_owned();
            if file.is_dir() {
                continue;
            }
            let (size, compressed) = (file.size(), file.compressed_size());
            let stored = file.compression() == CompressionMethod::Stored;
            let offset = file.data_start().context("a file without content")?;
            files.push(Entry { index, name, size, compressed, stored, offset });
        }
        Ok(Archive { zip, files, bytes })
    }

    /// The file of that name.
    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        self.files.iter().find(|file| file.name == name)
    }

    /// The bytes of a file.
    pub(super) fn read(&mut self, entry: &Entry, most: u64) -> Result<Vec<u8>> {
        ensure!(entry.size <= most, "{} has {} bytes, more than the {most} that are read", entry.name, entry.size);
        let file = self.zip.by_index(entry.index).with_context(|| format!("cannot read {}", entry.name))?;
        let mut bytes = Vec::new();
        // What it says of its size need not be true.
        file.take(most + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", entry.name))?;
        ensure!(bytes.len() as u64 <= most, "{} has more bytes than it says", entry.name);
        Ok(bytes)
    }

    /// The SHA-256 of a file's content, which must not be longer than it says.
    pub(super) fn sha256(&mut self, entry: &Entry) -> Result<String> {
        let file = self.zip.by_index(entry.index).with_context(|| format!("cannot read {}", entry.name))?;
        let (mut file, mut sum, mut buffer, mut left) = (file, Sha256::new(), vec![0; 256 << 10], entry.size);
        loop {
            let count = file.read(&mut buffer).with_context(|| format!("cannot read {}", entry.name))?;
            if count == 0 {
                break;
            }
            match left.checked_sub(count as u64) {
                Some(rest) => left = rest,
                None => bail!("{} has more bytes than it says", entry.name),
            }
            sum.update(&buffer[..count]);
        }
        Ok(hex::encode(sum.finalize()))
    }
}
