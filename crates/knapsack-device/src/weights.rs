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
use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::Range;

/// The parameters of a library, each a slice of a mapped shard.
///
/// Records have no padding between them, so a parameter may start at any byte: readers must not assume alignment.
#[derive(Debug)]
pub struct Weights {
    shards: Vec<Option<Mmap>>,
    /// For each parameter its shard and its bytes there; always in range.
    places: Vec<(usize, Range<usize>)>,
    _charge: Charge,
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
        let index = index(files).map_err(|source| DeviceError::WeightIndex {
            folder: files.place().to_owned(),
            source: Box::new(source),
        })?;
        let records: HashMap<&str, (usize, &Record)> =
            index.records().map(|(shard, record)| (record.name.as_str(), (shard, record))).collect();
        let mut shards: Vec<Option<Mmap>> = index.shards.iter().map(|_| None).collect();
        let mut places = Vec::with_capacity(library.parameters.len());
        let mut bytes = 0;
        for parameter in &library.parameters {
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
                shards[shard] = Some(map(files, &index.shards[shard])?);
            }
            // The index has checked `offset + nbytes <= shard.nbytes`, and the map is as long as that says.
            places.push((shard, record.byte_offset as usize..(record.byte_offset + record.nbytes) as usize));
            bytes += record.nbytes;
        }
        Ok(Weights { shards, places, _charge: account.charge(Part::Weights, bytes)? })
    }

    /// The bytes of a parameter, little endian, at any alignment.
    ///
    /// # Panics
    /// When `id` is not of the library that the weights were opened for.
    pub fn get(&self, id: ParameterId) -> &[u8] {
        let (shard, range) = &self.places[id.0 as usize];
        self.shards[*shard].as_ref().map_or(&[], |map| &map[range.clone()])
    }

    /// Bytes of all parameters.
    pub fn total_bytes(&self) -> u64 {
        self.places.iter().map(|(_, range)| range.len() as u64).sum()
    }

    /// Has the system bring all parameters into memory, file by file. Without it the first token pays for every page.
    ///
    /// # Errors
    /// [`DeviceError::Interrupted`] when `watch` says so.
    pub fn prefetch(&self, watch: &dyn Watch) -> Result<(), DeviceError> {
        let total = self.shards.iter().flatten().map(|map| map.len() as u64).sum();
        let mut done = 0;
        for map in self.shards.iter().flatten() {
            proceed(watch)?;
            // Populating maps what the page cache holds in large steps; older kernels only read ahead.
            #[cfg(target_os = "linux")]
            if map.advise(memmap2::Advice::PopulateRead).is_err() {
                let _ = map.advise(memmap2::Advice::WillNeed);
            }
            #[cfg(all(unix, not(target_os = "linux")))]
            let _ = map.advise(memmap2::Advice::WillNeed);
            done += map.len() as u64;
            watch.progress(done, total);
        }
        Ok(())
    }
}

/// The index among the files, under either of its names.
fn index(files: &dyn WeightFiles) -> Result<WeightIndex, WeightIndexError> {
    for name in [weight_index::FILE_NAME, weight_index::OLD_FILE_NAME] {
        match files.read(name, weight_index::MAX_INDEX_BYTES) {
            Ok(bytes) => return WeightIndex::parse(&bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(WeightIndexError::Read { path: files.place().join(name), source }),
        }
    }
    Err(WeightIndexError::NotFound(files.place().to_owned()))
}

/// Maps one shard, which must have the length that the index says.
fn map(files: &dyn WeightFiles, shard: &Shard) -> Result<Mmap, DeviceError> {
    let io = |source| DeviceError::Io { path: files.place().join(&shard.data_path), source };
    let range = files.open(&shard.data_path).map_err(io)?;
    let (file, offset, length) = range.parts();
    if length != shard.nbytes {
        let problem = format!("{} has {length} bytes, {} expected", shard.data_path, shard.nbytes);
        return Err(DeviceError::Weights { folder: files.place().to_owned(), problem });
    }
    let length = usize::try_from(length).map_err(|_| io(ErrorKind::FileTooLarge.into()))?;
    // SAFETY: the map is read-only and only ever seen as bytes, whose every value is valid, and the range was inside the file
    // when it was opened. Files of a package are replaced by renaming and never written in place (see `Weights::open`), so the
    // bytes do not change under the slices.
    unsafe { MmapOptions::new().offset(offset).len(length).map(file) }.map_err(io)
}
