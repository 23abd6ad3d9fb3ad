//! From an address or a shared library to the bytes of the model table.

use super::{Code, Error, Result};
use knapsack_artifact::table::{HEADER_BYTES, ModelTable};
use std::ffi::c_void;

/// The table that begins at `address`.
///
/// # Errors
/// What lies there is no table.
///
/// # Safety
/// `address` is that of `knapsack_model_table` in an image that stays loaded: all bytes that the header promises are readable
/// and never change.
pub unsafe fn table_at(address: *const c_void) -> Result<&'static [u8]> {
    if address.is_null() {
        return Err(Error::new(Code::LibraryMissing, "the address of the model table is null"));
    }
    // SAFETY: every table has at least a header.
    let header = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), HEADER_BYTES) };
    let length = ModelTable::byte_len(header).map_err(|error| Error::new(Code::LibraryUnusable, error.to_string()))?;
    // SAFETY: the caller promises as many bytes as the header says.
    Ok(unsafe { std::slice::from_raw_parts(address.cast::<u8>(), length) })
}

/// The table of a shared library, which stays loaded for ever: models are taken from it whenever one is loaded.
///
/// # Errors
/// A library that cannot be loaded or has no table.
#[cfg(all(unix, not(target_vendor = "apple")))]
pub fn loaded_table(library: &str) -> Result<&'static [u8]> {
    use knapsack_artifact::table::SYMBOL;
    use libloading::os::unix::Library;
    let missing = |problem: libloading::Error| {
        Error::new(Code::LibraryMissing, format!("cannot load the models from {library}: {problem}"))
    };
    // SAFETY: a model library holds data only, so nothing of it runs.
    let loaded = unsafe { Library::new(library) }.map_err(missing)?;
    // SAFETY: the symbol is the first byte of the table; it is only used as an address here.
    let symbol = unsafe { loaded.get::<*const u8>(SYMBOL.as_bytes()) }.map_err(missing)?;
    let address = symbol.as_raw_ptr().cast_const();
    std::mem::forget(loaded);
    // SAFETY: the library is never unloaded, and its data is read-only.
    unsafe { table_at(address) }
}

/// Apple's linker puts the table into the app itself, and other systems have no phones.
///
/// # Errors
/// Always.
#[cfg(not(all(unix, not(target_vendor = "apple"))))]
pub fn loaded_table(library: &str) -> Result<&'static [u8]> {
    Err(Error::new(Code::InvalidArgument, format!("{library}: give the address of knapsack_model_table here")))
}
