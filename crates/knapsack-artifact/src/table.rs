//! The model table: every model library of a package behind one symbol, [`SYMBOL`].
//!
//! An app's code refers to the symbol at link time, so a linker keeps the libraries without a flag, also where it strips what
//! nobody refers to and exports nothing, and an app that forgot them does not link. Layout, little endian, every offset from
//! the first byte of the table: magic `KNAPTABL` (8), format version `u32`, libraries `u32`, length of all of it `u64`; for each
//! library, in order of the names' bytes, the offset and length of its name (`u32`, `u32`) and of its blob (`u64`, `u64`); the
//! names; the blobs, each on a multiple of 16. The table says its own length, so its address is enough to read it, and it
//! holds no address, so nothing needs to be relocated.

use crate::library::{LibraryError, ModelLibrary};

/// The exported symbol (without the underscore that Mach-O adds).
pub const SYMBOL: &str = "knapsack_model_table";
/// First bytes.
pub const MAGIC: &[u8; 8] = b"KNAPTABL";
/// Breaking version of the format.
pub const VERSION: u32 = 1;
/// Bytes before the entries.
pub const HEADER_BYTES: usize = 24;
/// Largest table that is read or written.
pub const MAX_BYTES: u64 = 1 << 30;
/// Most libraries.
pub(crate) const MAX_LIBRARIES: u32 = 1 << 14;
/// Alignment of a blob, and of the table.
pub const ALIGNMENT: u64 = 16;
const ENTRY_BYTES: usize = 24;

/// A table that was read: its libraries are found, not yet decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelTable<'a> {
    /// The whole table.
    bytes: &'a [u8],
    /// By name.
    libraries: Vec<(&'a str, &'a [u8])>,
}

/// Why bytes are not a usable table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum TableError {
    /// Not a table.
    #[error("not a model table: it does not start with `KNAPTABL`")]
    Magic,
    /// Shorter than it says.
    #[error("the model table is cut short: {actual} bytes, {expected} expected")]
    Truncated {
        /// Bytes at hand.
        actual: u64,
        /// Bytes that it promises.
        expected: u64,
    },
    /// Written by another format version.
    #[error("model table format {0}, but this build reads {VERSION}: package the models again")]
    Version(u32),
    /// Larger than any real one.
    #[error(
        "a model table of {libraries} libraries and {bytes} bytes exceeds the limit of {MAX_LIBRARIES} and {MAX_BYTES}"
    )]
    TooLarge { libraries: u64, bytes: u64 },
    /// It contradicts itself.
    #[error("the model table is damaged: {0}")]
    Damaged(&'static str),
}

impl<'a> ModelTable<'a> {
    /// Length of the table that starts with these bytes (at least [`HEADER_BYTES`] of them).
    ///
    /// # Errors
    /// When the header is short, foreign, of another version, or promises too much.
    pub fn byte_len(header: &[u8]) -> Result<usize, TableError> {
        Ok(read_header(header)?.1)
    }

    /// Reads a table; bytes after its end are ignored.
    ///
    /// # Errors
    /// [`TableError`]; every entry lies inside the table then, and no two have one name.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TableError> {
        let (count, length) = read_header(bytes)?;
        let bytes =
            bytes.get(..length).ok_or(TableError::Truncated { actual: bytes.len() as u64, expected: length as u64 })?;
        let entries = bytes[HEADER_BYTES..]
            .get(..count * ENTRY_BYTES)
            .ok_or(TableError::Damaged("its entries do not fit into it"))?;
        let mut libraries: Vec<(&str, &[u8])> = Vec::with_capacity(count);
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            let name = part(bytes, u64::from(u32_at(entry, 0)), u64::from(u32_at(entry, 4)))
                .and_then(|name| std::str::from_utf8(name).ok())
                .ok_or(TableError::Damaged("a name is not text inside it"))?;
            let blob = part(bytes, u64_at(entry, 8), u64_at(entry, 16))
                .ok_or(TableError::Damaged("a library lies outside of it"))?;
            if libraries.last().is_some_and(|(last, _)| *last >= name) {
                return Err(TableError::Damaged("its names are not in order"));
            }
            libraries.push((name, blob));
        }
        Ok(Self { bytes, libraries })
    }

    /// Exactly the table.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Every library's name and blob, by name.
    pub fn libraries(&self) -> &[(&'a str, &'a [u8])] {
        &self.libraries
    }

    /// Decodes and validates the library of that name; `None` when there is none.
    ///
    /// # Errors
    /// A library that cannot be used.
    pub fn find(&self, name: &str) -> Option<Result<ModelLibrary, LibraryError>> {
        let index = self.libraries.binary_search_by_key(&name, |(name, _)| name).ok()?;
        Some(ModelLibrary::decode(self.libraries[index].1))
    }
}

/// A table's bytes, and where each library's blob begins in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedTable {
    /// All of it.
    pub bytes: Vec<u8>,
    /// In the order of the libraries.
    pub blobs: Vec<u64>,
}

/// Writes a table of named blobs.
///
/// # Errors
/// Names that are not in order or occur twice; more than the limits.
pub fn encode(libraries: &[(&str, &[u8])]) -> Result<EncodedTable, TableError> {
    if libraries.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err(TableError::Damaged("its names are not in order"));
    }
    let names = (HEADER_BYTES + libraries.len() * ENTRY_BYTES) as u64;
    let mut end = names + libraries.iter().map(|(name, _)| name.len() as u64).sum::<u64>();
    let mut blobs = Vec::with_capacity(libraries.len());
    for (_, blob) in libraries {
        let start = end.next_multiple_of(ALIGNMENT);
        blobs.push(start);
        end = start + blob.len() as u64;
    }
    if libraries.len() as u64 > u64::from(MAX_LIBRARIES) || end > MAX_BYTES {
        return Err(TableError::TooLarge { libraries: libraries.len() as u64, bytes: end });
    }
    let mut bytes = Vec::with_capacity(end as usize);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(libraries.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&end.to_le_bytes());
    let mut name_at = names as u32;
    for ((name, blob), start) in libraries.iter().zip(&blobs) {
        bytes.extend_from_slice(&name_at.to_le_bytes());
        bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&(blob.len() as u64).to_le_bytes());
        name_at += name.len() as u32;
    }
    for (name, _) in libraries {
        bytes.extend_from_slice(name.as_bytes());
    }
    for ((_, blob), start) in libraries.iter().zip(&blobs) {
        bytes.resize(*start as usize, 0);
        bytes.extend_from_slice(blob);
    }
    Ok(EncodedTable { bytes, blobs })
}

/// Number of libraries and length of the table.
fn read_header(bytes: &[u8]) -> Result<(usize, usize), TableError> {
    if !bytes.starts_with(MAGIC) {
        return Err(TableError::Magic);
    }
    if bytes.len() < HEADER_BYTES {
        return Err(TableError::Truncated { actual: bytes.len() as u64, expected: HEADER_BYTES as u64 });
    }
    let (version, count, length) = (u32_at(bytes, 8), u32_at(bytes, 12), u64_at(bytes, 16));
    if version != VERSION {
        return Err(TableError::Version(version));
    }
    if count > MAX_LIBRARIES || length > MAX_BYTES {
        return Err(TableError::TooLarge { libraries: count.into(), bytes: length });
    }
    if length < HEADER_BYTES as u64 {
        return Err(TableError::Damaged("it is shorter than its header"));
    }
    Ok((count as usize, length as usize))
}

fn part(bytes: &[u8], start: u64, length: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(start).ok()?..usize::try_from(start.checked_add(length)?).ok()?)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller checked the length"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller checked the length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> EncodedTable {
        encode(&[("a", b"first"), ("b.c", b""), ("zz", &[7; 100])]).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = sample().bytes;
        let length = bytes.len();
        bytes.extend_from_slice(b"whatever the linker put behind it");
        assert_eq!(ModelTable::byte_len(&bytes[..HEADER_BYTES]), Ok(length));
        let table = ModelTable::parse(&bytes).unwrap();
        assert_eq!(table.bytes(), &bytes[..length]);
        assert_eq!(table.libraries(), [("a", &b"first"[..]), ("b.c", b""), ("zz", &[7; 100])]);
        assert!(table.find("b").is_none());
        assert!(matches!(table.find("a"), Some(Err(LibraryError::Magic { .. } | LibraryError::Truncated { .. }))));
        for (start, (_, blob)) in sample().blobs.iter().zip(table.libraries()) {
            assert_eq!(start % ALIGNMENT, 0);
            assert!(bytes[*start as usize..].starts_with(blob));
        }
        assert!(ModelTable::parse(&encode(&[]).unwrap().bytes).unwrap().libraries().is_empty());
    }

    #[test]
    fn names_are_in_order_and_once() {
        for names in [["b", "a"], ["a", "a"]] {
            let libraries = names.map(|name| (name, &b"x"[..]));
            assert_eq!(encode(&libraries), Err(TableError::Damaged("its names are not in order")));
        }
    }

    /// Every byte changed in a few ways, and every length: an error or another table, never a panic.
    #[test]
    fn damage_is_noticed_or_harmless() {
        let bytes = sample().bytes;
        for at in 0..bytes.len() {
            assert!(ModelTable::parse(&bytes[..at]).is_err(), "{at}");
            for change in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= change;
                if let Ok(table) = ModelTable::parse(&damaged) {
                    assert!(table.libraries().iter().all(|(_, blob)| blob.len() <= damaged.len()));
                }
            }
        }
        let with = |at: usize, value: &[u8]| {
            let mut changed = bytes.clone();
            changed[at..at + value.len()].copy_from_slice(value);
            ModelTable::parse(&changed).unwrap_err()
        };
        assert_eq!(with(8, &2u32.to_le_bytes()), TableError::Version(2));
        assert!(matches!(with(12, &u32::MAX.to_le_bytes()), TableError::TooLarge { .. }));
        assert!(matches!(with(12, &1000u32.to_le_bytes()), TableError::Damaged(_)));
        assert!(matches!(with(16, &u64::MAX.to_le_bytes()), TableError::TooLarge { .. }));
        assert!(matches!(with(16, &8u64.to_le_bytes()), TableError::Damaged(_)));
        assert!(matches!(with(HEADER_BYTES + 8, &u64::MAX.to_le_bytes()), TableError::Damaged(_)));
    }
}
