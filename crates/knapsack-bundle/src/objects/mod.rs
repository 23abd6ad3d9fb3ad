//! Model libraries as the files that linkers and loaders take: data under one exported symbol for each library. Written byte
//! for byte here, so one machine packages for every platform, and the same libraries always give the same files.

mod apple;
mod elf;
mod xcframework;

pub use apple::{AppleSlice, archive};
pub use elf::{Abi, shared_library};
pub use xcframework::{XCFRAMEWORK, xcframework};
pub(crate) use xcframework::{info_plist as framework_info, members as framework_members};

use crate::error::BundleError;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::app_config::is_symbol_prefix;
use knapsack_artifact::container;
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

/// A library's place in an object file.
#[derive(Clone, Copy, Debug)]
struct Item<'a> {
    name: &'a str,
    blob: &'a [u8],
}

/// The libraries by name, each once.
///
/// # Errors
/// Two of one name that differ.
fn items(libraries: &[Library]) -> Result<Vec<Item<'_>>, BundleError> {
    let mut unique: BTreeMap<&str, &Library> = BTreeMap::new();
    for library in libraries {
        if let Some(other) = unique.insert(library.name(), library)
            && other.blob != library.blob
        {
            let name = library.name().to_string();
            return Err(BundleError::LibraryClash { first: name.clone(), second: name.clone(), name });
        }
    }
    Ok(unique.into_values().map(|library| Item { name: library.name(), blob: &library.blob }).collect())
}

/// Checks that `bytes`, read back from a written file, hold exactly `libraries` in each of `slices` slices, each of them
/// decodable.
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
    Ok(Ok(()))
}

#[cfg(test)]
mod tests;
