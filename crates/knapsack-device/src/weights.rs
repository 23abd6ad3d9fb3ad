//! The weights of a model, mapped and checked against the library that needs them. Parameters are used where they lie in the page
//! cache: nothing is copied.

use crate::files::WeightFiles;
use crate::memory::{Account, Charge, Part};
use crate::watch::proceed;
use crate::{DeviceError, Watch};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::plan::ParameterId;
use knapsack_artifact::weight_index::{self, Record, Shard, WeightIndex, WeightIndexError};
use memmap2::{Mmap, MmapOptions};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
#[cfg(unix)]
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The parameters of a library, each a slice of a mapped shard.
///
/// Records have no padding between them, so a parameter may start at any byte: readers must not assume alignment.
#[derive(Debug)]
pub struct Weights {
    shards: Vec<Option<Mmap>>,
    /// For each parameter its shard and its bytes there; always in range.
    places: Vec<(usize, Range<usize>)>,
    digest: [u8; 32],
    origins: Vec<Origin>,
    /// Parameters of which a device holds no copy.
    in_file: Vec<bool>,
    _charges: [Charge; 2],
}

impl Weights {
    /// Maps what `library` needs of `files` and counts its bytes. Tensors that the library does not name are ignored.
    ///
    /// The files must not be changed while they are mapped (packages are replaced by renaming, never written in place).
    ///
    /// # Errors
    /// A missing or unusable index; a parameter that is missing or of another shape or dtype; a shard of another length;
    /// [`DeviceError::Interrupted`] when `watch` says so between two files.
    pub fn open(
        library: &ModelLibrary,
        files: &dyn WeightFiles,
        account: &Account,
        watch: &dyn Watch,
    ) -> Result<Self, DeviceError> {
        let mismatch = |problem: String| DeviceError::Weights { folder: files.place().to_owned(), problem };
        let (index, digest) = index(files).map_err(|source| DeviceError::WeightIndex {
            folder: files.place().to_owned(),
            source: Box::new(source),
        })?;
        let records: HashMap<&str, (usize, &Record)> =
            index.records().map(|(shard, record)| (record.name.as_str(), (shard, record))).collect();
        let mut shards: Vec<Option<Mmap>> = index.shards.iter().map(|_| None).collect();
        let (mut places, mut origins) = (Vec::with_capacity(library.parameters.len()), Vec::new());
        let ids = 0..library.parameters.len() as u32;
        let in_file: Vec<bool> = ids.map(|id| library.stays_in_file(ParameterId(id))).collect();
        let mut bytes = [0, 0];
        for (parameter, &in_file) in library.parameters.iter().zip(&in_file) {
            let name = &parameter.name;
            let &(shard, record) =
                records.get(name.as_str()).ok_or_else(|| mismatch(format!("`{name}` is missing")))?;
            if record.shape != parameter.shape || record.stored_dtype() != parameter.dtype {
                return Err(mismatch(format!(
                    "`{name}` is {:?} of {}, the library needs {:?} of {}",
                    record.shape,
                    record.stored_dtype(),
                    parameter.shape,
                    parameter.dtype
                )));
            }
            if shards[shard].is_none() {
                proceed(watch)?;
                let (map, origin) = map(files, &index.shards[shard])?;
                shards[shard] = Some(map);
                origins.extend(origin);
            }
            // The index has checked `offset + nbytes <= shard.nbytes`, and the map is as long as that says.
            places.push((shard, record.byte_offset as usize..(record.byte_offset + record.nbytes) as usize));
            bytes[usize::from(in_file)] += record.nbytes;
        }
        let charges = [account.charge(Part::Weights, bytes[0])?, account.charge(Part::File, bytes[1])?];
        Ok(Weights { shards, places, digest, origins, in_file, _charges: charges })
    }

    /// The bytes of a parameter, little endian, at any alignment.
    ///
    /// # Panics
    /// When `id` is not of the library that the weights were opened for.
    pub fn get(&self, id: ParameterId) -> &[u8] {
        let (shard, range) = &self.places[id.0 as usize];
        self.shards[*shard].as_ref().map_or(&[], |map| &map[range.clone()])
    }

    /// Whether no mapped file has been shortened, as far as the file system knows now. Reading what a shortened file had ends the
    /// process, so a device asks before each prompt.
    ///
    /// # Errors
    /// [`DeviceError::Weights`] with the file's name.
    pub(crate) fn check_intact(&self) -> Result<(), DeviceError> {
        match self.origins.iter().find(|origin| origin.is_shortened()) {
            None => Ok(()),
            Some(Origin { path, .. }) => Err(DeviceError::Weights {
                folder: path.parent().unwrap_or(path).to_owned(),
                problem: format!("{} was shortened while it was in use", path.display()),
            }),
        }
    }

    /// SHA-256 of the index.
    pub const fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether a parameter stays in the mapped file.
    pub fn stays_in_file(&self, id: ParameterId) -> bool {
        self.in_file[id.0 as usize]
    }

    /// Bytes of all parameters that a device holds.
    pub fn total_bytes(&self) -> u64 {
        let held = self.places.iter().zip(&self.in_file).filter(|(_, in_file)| !**in_file);
        held.map(|((_, range), _)| range.len() as u64).sum()
    }

    /// What is to be brought into memory of each shard: all of it, or the parameters that do not stay in the file.
    fn wanted(&self) -> impl Iterator<Item = (&Mmap, Range<usize>)> {
        let each = self.shards.iter().enumerate().flat_map(move |(shard, map)| {
            let of_shard = move || self.places.iter().zip(&self.in_file).filter(move |((at, _), _)| *at == shard);
            let ranges: Vec<Range<usize>> = match (map, of_shard().any(|(_, in_file)| *in_file)) {
                (Some(map), false) => std::iter::once(0..map.len()).collect(),
                _ => of_shard().filter(|(_, in_file)| !**in_file).map(|((_, range), _)| range.clone()).collect(),
            };
            ranges.into_iter().filter_map(move |range| Some((map.as_ref()?, range)))
        });
        each.filter(|(_, range)| !range.is_empty())
    }

    /// Has the system bring all parameters that a device holds into memory, file by file. Without it the first token pays for every page.
    ///
    /// # Errors
    /// [`DeviceError::Interrupted`] when `watch` says so.
    pub fn prefetch(&self, watch: &dyn Watch) -> Result<(), DeviceError> {
        let total = self.wanted().map(|(_, range)| range.len() as u64).sum();
        let mut done = 0;
        for (map, range) in self.wanted() {
            let (start, length) = (range.start, range.len());
            proceed(watch)?;
            populate(map, start, length);
            done += length as u64;
            watch.progress(done, total);
        }
        Ok(())
    }
}

/// Huge pages are had where the file system gives them to files, and what is not in memory yet is then read into such. Populating maps
/// what the page cache holds in large steps; older kernels only read ahead.
#[cfg(target_os = "linux")]
fn populate(map: &Mmap, start: usize, length: usize) {
    let _ = map.advise_range(memmap2::Advice::HugePage, start, length);
    if map.advise_range(memmap2::Advice::PopulateRead, start, length).is_err() {
        let _ = map.advise_range(memmap2::Advice::WillNeed, start, length);
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn populate(map: &Mmap, start: usize, length: usize) {
    let _ = map.advise_range(memmap2::Advice::WillNeed, start, length);
}

/// Windows reads ahead by itself when a page is missed.
#[cfg(not(unix))]
fn populate(_: &Mmap, _: usize, _: usize) {}

/// The index among the files, under either of its names, and its digest.
fn index(files: &dyn WeightFiles) -> Result<(WeightIndex, [u8; 32]), WeightIndexError> {
    for name in [weight_index::FILE_NAME, weight_index::OLD_FILE_NAME] {
        match files.read(name, weight_index::MAX_INDEX_BYTES) {
            Ok(bytes) => return Ok((WeightIndex::parse(&bytes)?, Sha256::digest(&bytes).into())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(WeightIndexError::Read { path: files.place().join(name), source }),
        }
    }
    Err(WeightIndexError::NotFound(files.place().to_owned()))
}

/// A mapped file where it was found. What lies there later may be another one: a package is replaced by renaming.
#[derive(Debug)]
struct Origin {
    path: PathBuf,
    /// Device and number of the file.
    #[cfg_attr(not(unix), allow(dead_code, reason = "files have no number there"))]
    id: (u64, u64),
    /// What it must at least have.
    #[cfg_attr(not(unix), allow(dead_code, reason = "files have no number there"))]
    length: u64,
}

impl Origin {
    #[cfg(unix)]
    fn of(file: &File, path: PathBuf, length: u64) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        Some(Origin { path, id: (metadata.dev(), metadata.ino()), length })
    }

    /// Mapped files cannot be shortened there.
    #[cfg(not(unix))]
    fn of(_: &File, _: PathBuf, _: u64) -> Option<Self> {
        None
    }

    fn is_shortened(&self) -> bool {
        #[cfg(unix)]
        return std::fs::metadata(&self.path)
            .is_ok_and(|now| (now.dev(), now.ino()) == self.id && now.len() < self.length);
        #[cfg(not(unix))]
        false
    }
}

/// Maps one shard, which must have the length that the index says.
fn map(files: &dyn WeightFiles, shard: &Shard) -> Result<(Mmap, Option<Origin>), DeviceError> {
    let path = files.place().join(&shard.data_path);
    let io = |source| DeviceError::Io { path: path.clone(), source };
    let range = files.open(&shard.data_path).map_err(io)?;
    let (file, offset, length) = range.parts().map_err(io)?;
    if length != shard.nbytes {
        let problem = format!("{} has {length} bytes, {} expected", shard.data_path, shard.nbytes);
        return Err(DeviceError::Weights { folder: files.place().to_owned(), problem });
    }
    let bytes = usize::try_from(length).map_err(|_| io(ErrorKind::FileTooLarge.into()))?;
    // SAFETY: the map is read-only and only ever seen as bytes, whose every value is valid, and the range was inside the file
    // when it was opened. Files of a package are replaced by renaming and never written in place (see `Weights::open`), so the
    // bytes do not change under the slices.
    let map = unsafe { MmapOptions::new().offset(offset).len(bytes).map(file) }.map_err(io)?;
    let origin = Origin::of(file, path.clone(), offset + length);
    Ok((map, origin))
}
