//! A weight folder, mapped and checked against the library that needs it. Parameters are used where they lie in the page
//! cache: nothing is copied.

use crate::DeviceError;
use crate::memory::{Account, Charge, Part};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::plan::ParameterId;
use knapsack_artifact::weight_index::{Record, Shard, WeightIndex};
use memmap2::Mmap;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

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
    /// Maps what `library` needs from `folder` and counts its bytes. Tensors that the library does not name are ignored.
    ///
    /// The files must not be changed while they are mapped (packages are replaced by renaming, never written in place).
    ///
    /// # Errors
    /// A missing or unusable index; a parameter that is missing or of another shape or dtype; a shard of another length.
    pub fn open(library: &ModelLibrary, folder: &Path, account: &Account) -> Result<Self, DeviceError> {
        let mismatch = |problem: String| DeviceError::Weights { folder: folder.to_owned(), problem };
        let index = WeightIndex::open(folder)
            .map_err(|source| DeviceError::WeightIndex { folder: folder.to_owned(), source: Box::new(source) })?;
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
                shards[shard] = Some(map(folder, &index.shards[shard])?);
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

    /// Asks the system to have all parameters in memory soon. Without it the first token pays for every page.
    pub fn prefetch(&self) {
        #[cfg(target_os = "linux")]
        for map in self.shards.iter().flatten() {
            // Populating maps what the page cache holds in large steps; older kernels only read ahead.
            if map.advise(memmap2::Advice::PopulateRead).is_err() {
                let _ = map.advise(memmap2::Advice::WillNeed);
            }
        }
        #[cfg(all(unix, not(target_os = "linux")))]
        for map in self.shards.iter().flatten() {
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
    }
}

/// Maps one shard, which must have the length that the index says.
fn map(folder: &Path, shard: &Shard) -> Result<Mmap, DeviceError> {
    let path = folder.join(&shard.data_path);
    let io = |source| DeviceError::Io { path: path.clone(), source };
    let file = File::open(&path).map_err(io)?;
    // SAFETY: the map is read-only and only ever seen as bytes, whose every value is valid. Files of a package are replaced
    // by renaming and never written in place (see `Weights::open`), so the bytes do not change under the slices.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    if map.len() as u64 != shard.nbytes {
        let problem = format!("{} has {} bytes, {} expected", shard.data_path, map.len(), shard.nbytes);
        return Err(DeviceError::Weights { folder: folder.to_owned(), problem });
    }
    Ok(map)
}
