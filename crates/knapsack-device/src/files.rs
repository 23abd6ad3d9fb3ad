//! Where the files of a model are: a folder, or ranges of files that somebody else opened (an asset in an Android package).

use memmap2::{Mmap, MmapOptions};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files of a model, wherever they are.
pub trait WeightFiles: Send + Sync {
    /// Opens a file by its name in the model's folder.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is none of that name, and what the system says.
    fn open(&self, name: &str) -> io::Result<FileRange>;

    /// Where they are, for messages.
    fn place(&self) -> &Path;

    /// The bytes of a small file.
    ///
    /// # Errors
    /// As [`WeightFiles::open`]; [`ErrorKind::FileTooLarge`] when it has more than `limit` bytes.
    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.open(name)?.read(limit)
    }
}

/// Bytes of a file: all, or a part; or bytes that were read already, of a file that lies nowhere as it is.
#[derive(Debug)]
pub struct FileRange {
    place: Place,
    length: u64,
}

#[derive(Debug)]
enum Place {
    File { file: File, offset: u64 },
    Memory(Arc<[u8]>),
}

impl FileRange {
    /// A whole file.
    ///
    /// # Errors
    /// What is no regular file.
    pub fn whole(file: File) -> io::Result<Self> {
        let length = regular_length(&file)?;
        Ok(FileRange { place: Place::File { file, offset: 0 }, length })
    }

    /// The bytes of a file, such as one that lies compressed in another.
    pub fn of_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        FileRange { length: bytes.len() as u64, place: Place::Memory(bytes) }
    }

    /// `length` bytes from `offset` on. The descriptor is the caller's gift; where it stands does not matter.
    ///
    /// # Errors
    /// What is no regular file, or a range beyond its end.
    pub fn new(file: File, offset: u64, length: u64) -> io::Result<Self> {
        let all = regular_length(&file)?;
        if offset.checked_add(length).is_none_or(|end| end > all) {
            let problem = format!("{length} bytes at {offset} of a file of {all}");
            return Err(io::Error::new(ErrorKind::UnexpectedEof, problem));
        }
        Ok(FileRange { place: Place::File { file, offset }, length })
    }

    /// The same bytes again, by a descriptor of its own.
    ///
    /// # Errors
    /// What the system says, or a file that was shortened meanwhile.
    pub fn try_clone(&self) -> io::Result<Self> {
        match &self.place {
            Place::File { file, offset } => FileRange::new(file.try_clone()?, *offset, self.length),
            Place::Memory(bytes) => Ok(FileRange { place: Place::Memory(bytes.clone()), length: self.length }),
        }
    }

    /// Its bytes, by number.
    pub const fn len(&self) -> u64 {
        self.length
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What can be mapped: a file, where the bytes begin in it, and how many there are.
    pub(crate) fn parts(&self) -> io::Result<(&File, u64, u64)> {
        match &self.place {
            Place::File { file, offset } => Ok((file, *offset, self.length)),
            Place::Memory(_) => Err(io::Error::new(ErrorKind::InvalidInput, "this is no file, so it cannot be mapped")),
        }
    }

    /// Its bytes. Where the descriptor stands is left alone: copies of one share it.
    ///
    /// # Errors
    /// [`ErrorKind::FileTooLarge`] when there are more than `limit`, and what the system says.
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        if self.length > limit {
            let problem = format!("{} bytes, more than the limit of {limit}", self.length);
            return Err(io::Error::new(ErrorKind::FileTooLarge, problem));
        }
        let (file, offset) = match &self.place {
            Place::File { file, offset } => (file, *offset),
            Place::Memory(bytes) => return Ok(bytes.to_vec()),
        };
        let mut bytes = vec![0; self.length as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match read_at(file, &mut bytes[filled..], offset + filled as u64) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Its bytes without a copy: of a file the pages, which the system reads when they are used, and may drop.
    ///
    /// # Errors
    /// As [`FileRange::read`].
    pub fn map(&self, limit: u64) -> io::Result<MappedFile> {
        if self.length > limit {
            let problem = format!("{} bytes, more than the limit of {limit}", self.length);
            return Err(io::Error::new(ErrorKind::FileTooLarge, problem));
        }
        let (file, offset) = match &self.place {
            Place::Memory(bytes) => return Ok(MappedFile::Memory(bytes.clone())),
            // No system maps nothing.
            Place::File { .. } if self.length == 0 => return Ok(MappedFile::Memory(Arc::new([]))),
            Place::File { file, offset } => (file, *offset),
        };
        let bytes = usize::try_from(self.length).map_err(|_| ErrorKind::FileTooLarge)?;
        // SAFETY: the map is read-only and only ever seen as bytes, whose every value is valid, and the range was inside the file
        // when it was opened. Files of a model are replaced by renaming and never written in place, so the bytes do not change
        // under the slices.
        let map = unsafe { MmapOptions::new().offset(offset).len(bytes).map(file) }?;
        Ok(MappedFile::Map(map))
    }
}

/// The bytes of a file: mapped, or in memory where they were already.
#[derive(Debug)]
pub enum MappedFile {
    /// A map of the file.
    Map(Mmap),
    /// Bytes that lie in no file as they are.
    Memory(Arc<[u8]>),
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        match self {
            MappedFile::Map(map) => map,
            MappedFile::Memory(bytes) => bytes,
        }
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, offset)
}

/// Nothing that blocks or never ends, and nothing without a length to check against.
fn regular_length(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok(metadata.len()),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "this is no regular file")),
    }
}

fn open_regular(path: &Path) -> io::Result<FileRange> {
    // A pipe would keep whoever opens it waiting.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "this is no regular file"));
    }
    FileRange::whole(File::open(path)?)
}

/// The files of a folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The files in `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Folder(path.into())
    }
}

impl WeightFiles for Folder {
    fn open(&self, name: &str) -> io::Result<FileRange> {
        open_regular(&self.0.join(name))
    }

    fn place(&self) -> &Path {
        &self.0
    }
}

/// Where one file of a model lies.
#[derive(Clone, Debug)]
pub enum PlacedFile {
    /// There, by its path; opened anew each time.
    Path(PathBuf),
    /// In a file that somebody else opened: on Android what `AssetManager.openFd` gives for an asset that is stored uncompressed.
    Range(Arc<FileRange>),
}

impl PlacedFile {
    /// Opens it.
    ///
    /// # Errors
    /// What the system says; what is no regular file, or was shortened meanwhile.
    pub fn open(&self) -> io::Result<FileRange> {
        match self {
            PlacedFile::Path(path) => open_regular(path),
            PlacedFile::Range(range) => range.try_clone(),
        }
    }

    /// Its path, where it has one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            PlacedFile::Path(path) => Some(path),
            PlacedFile::Range(_) => None,
        }
    }
}

impl From<&Path> for PlacedFile {
    fn from(path: &Path) -> Self {
        PlacedFile::Path(path.to_owned())
    }
}

impl From<FileRange> for PlacedFile {
    fn from(range: FileRange) -> Self {
        PlacedFile::Range(Arc::new(range))
    }
}

/// Files of one model that lie in different places, such as several packs of a store, or an app that nobody unpacks.
#[derive(Clone, Debug)]
pub struct Scattered {
    place: PathBuf,
    files: HashMap<String, PlacedFile>,
}

impl Scattered {
    /// Each file by its name in the model; `place` is what messages call their place.
    pub fn new(place: impl Into<PathBuf>, files: HashMap<String, PlacedFile>) -> Self {
        Scattered { place: place.into(), files }
    }
}

impl WeightFiles for Scattered {
    fn open(&self, name: &str) -> io::Result<FileRange> {
        self.files.get(name).ok_or(ErrorKind::NotFound)?.open()
    }

    fn place(&self) -> &Path {
        &self.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> (tempfile::TempDir, Scattered) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.apk");
        std::fs::write(&path, b"zip..{json}....weights!..").unwrap();
        let ranges = [("a.json", 5, 6), ("b.bin", 15, 8), ("empty", 25, 0)].map(|(name, offset, length)| {
            let range = FileRange::new(File::open(&path).unwrap(), offset, length).unwrap();
            (name.to_owned(), range.into())
        });
        (folder, Scattered::new("app.apk!/assets/model", ranges.into()))
    }

    #[test]
    fn ranges_of_a_file_are_files() {
        let (_folder, ranges) = ranges();
        for _ in 0..2 {
            assert_eq!(ranges.read("a.json", 6).unwrap(), b"{json}");
            assert_eq!(ranges.read("b.bin", 99).unwrap(), b"weights!");
        }
        assert!(ranges.open("empty").unwrap().is_empty() && ranges.read("empty", 0).unwrap().is_empty());
        assert_eq!(ranges.open("b.bin").unwrap().len(), 8);
        assert_eq!(ranges.open("c").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(ranges.read("a.json", 5).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(ranges.open("b.bin").unwrap().map(8).unwrap().as_ref(), b"weights!");
        assert_eq!(ranges.open("b.bin").unwrap().map(7).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert!(ranges.open("empty").unwrap().map(0).unwrap().as_ref().is_empty());
    }

    #[test]
    fn bytes_are_a_file_that_cannot_be_mapped() {
        let range = FileRange::of_bytes(*b"{json}").try_clone().unwrap();
        assert_eq!((range.len(), range.read(6).unwrap()), (6, b"{json}".to_vec()));
        assert_eq!(range.read(5).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(range.parts().unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_no_file_or_lies_beyond_one_is_refused() {
        let (folder, ranges) = ranges();
        let apk = || File::open(folder.path().join("app.apk")).unwrap();
        for (offset, length) in [(20, 6), (26, 0), (u64::MAX, 1), (1, u64::MAX)] {
            assert_eq!(FileRange::new(apk(), offset, length).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
        // Shortened after it was opened.
        File::options().write(true).open(folder.path().join("app.apk")).unwrap().set_len(20).unwrap();
        assert_eq!(ranges.open("b.bin").unwrap_err().kind(), ErrorKind::UnexpectedEof);
        let files = Folder::new(folder.path());
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        assert!(files.open("sub").is_err());
        assert_eq!(files.open("none").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(files.read("app.apk", 99).unwrap().len(), 20);
    }
}
