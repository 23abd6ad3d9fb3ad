//! Model libraries as the files that linkers and loaders take: the model table under its exported symbol, and a symbol for each
//! library in it. Written byte for byte here, so one machine packages for every platform, and the same libraries always give
//! the same files.

mod apple;
mod elf;
mod xcframework;

pub use apple::{archive, universal};
pub use elf::shared_library;
pub use xcframework::{FrameworkSlice, XCFRAMEWORK, xcframework, xcframework_info};
pub(crate) use xcframework::{info_plist as framework_info, members as framework_members};

use crate::error::BundleError;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::app_config::is_symbol_prefix;
use knapsack_artifact::{container, table};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A compiled library with the exact bytes that go into the object files.
#[derive(Clone, Debug)]
pub struct Library {
    library: Arc<ModelLibrary>,
    blob: Arc<[u8]>,
}

impl Library {
    /// Encodes `library`.
    ///
    /// # Errors
    /// When its name cannot be part of a symbol.
    pub fn new(library: Arc<ModelLibrary>) -> Result<Self, BundleError> {
        check_name(&library.name)?;
        let blob = library.encode().into();
        Ok(Self { library, blob })
    }

    /// Decodes and validates a blob, for example from the cache or from a prebuilt file.
    ///
    /// # Errors
    /// When it is not a valid library of this version, or its name cannot be part of a symbol.
    pub fn from_blob(blob: &[u8]) -> Result<Self, BundleError> {
        let wrap = |source| BundleError::Library { name: "unnamed".into(), source };
        let length = ModelLibrary::blob_len(blob).map_err(wrap)?;
        let library = ModelLibrary::decode(blob).map_err(wrap)?;
        check_name(&library.name)?;
        Ok(Self { library: Arc::new(library), blob: blob[..length].into() })
    }

    /// Its name, `model_lib` in the app config.
    pub fn name(&self) -> &str {
        &self.library.name
    }

    /// Decoded.
    pub const fn library(&self) -> &Arc<ModelLibrary> {
        &self.library
    }

    /// The bytes behind the symbol.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }
}

fn check_name(name: &str) -> Result<(), BundleError> {
    if is_symbol_prefix(name) {
        Ok(())
    } else {
        Err(BundleError::Object {
            format: "a symbol",
            problem: format!("`{}` is not a symbol name", name.escape_default()),
        })
    }
}

/// What an object file holds: the model table, and where its exported symbols are in it.
struct Table {
    bytes: Vec<u8>,
    /// The table's own symbol first.
    exports: Vec<Export>,
}

struct Export {
    symbol: String,
    /// From the first byte of the table.
    offset: u64,
    bytes: u64,
}

/// The table of the libraries, each once.
///
/// # Errors
/// Two of one name that differ; more than a table can hold.
fn model_table(libraries: &[Library]) -> Result<Table, BundleError> {
    let mut unique: BTreeMap<&str, &Library> = BTreeMap::new();
    for library in libraries {
        if let Some(other) = unique.insert(library.name(), library)
            && other.blob != library.blob
        {
            let name = library.name().to_string();
            return Err(BundleError::LibraryClash { first: name.clone(), second: name.clone(), name });
        }
    }
    let named: Vec<(&str, &[u8])> = unique.into_iter().map(|(name, library)| (name, library.blob())).collect();
    let encoded = table::encode(&named)
        .map_err(|error| BundleError::Object { format: "a model table", problem: error.to_string() })?;
    let whole = Export { symbol: table::SYMBOL.into(), offset: 0, bytes: encoded.bytes.len() as u64 };
    let each = named.iter().zip(&encoded.blobs).map(|((name, blob), &offset)| Export {
        symbol: ModelLibrary::symbol(name),
        offset,
        bytes: blob.len() as u64,
    });
    Ok(Table { exports: std::iter::once(whole).chain(each).collect(), bytes: encoded.bytes })
}

/// Checks that `bytes`, read back from a written file, hold exactly `libraries` in each of `slices` slices, each of them
/// decodable, by their own symbols and in the model table.
///
/// # Errors
/// What is missing, different or too much, as text; or why it cannot be read.
pub fn verify(
    bytes: &[u8],
    libraries: &[Library],
    slices: usize,
) -> Result<Result<(), String>, container::ContainerError> {
    let mut seen: BTreeMap<(container::Slice, String), ()> = BTreeMap::new();
    for contained in container::libraries(bytes)? {
        let decoded = contained.decode()?;
        let Some(expected) = libraries.iter().find(|library| library.name() == decoded.name) else {
            return Ok(Err(format!("there is a library `{}` that was not asked for", decoded.name)));
        };
        if contained.blob != expected.blob() || decoded != **expected.library() {
            return Ok(Err(format!("library `{}` ({}) differs from what was written", decoded.name, contained.slice)));
        }
        if seen.insert((contained.slice.clone(), decoded.name.clone()), ()).is_some() {
            return Ok(Err(format!("library `{}` ({}) is there twice", decoded.name, contained.slice)));
        }
    }
    for library in libraries {
        let count = seen.keys().filter(|(_, name)| name == library.name()).count();
        if count != slices {
            return Ok(Err(format!("library `{}` is in {count} of {slices} slices", library.name())));
        }
    }
    let expected: BTreeMap<&str, &[u8]> = libraries.iter().map(|l| (l.name(), l.blob())).collect();
    let tables = container::tables(bytes)?;
    for (slice, table) in &tables {
        if !table.libraries().iter().copied().eq(expected.iter().map(|(name, blob)| (*name, *blob))) {
            return Ok(Err(format!("the model table ({slice}) differs from what was written")));
        }
    }
    // A bare blob has no symbol, and needs no table.
    if tables.len() != slices && !bytes.starts_with(knapsack_artifact::library::MAGIC) {
        return Ok(Err(format!("the model table is in {} of {slices} slices", tables.len())));
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests;
