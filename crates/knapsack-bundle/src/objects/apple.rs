//! Static archives for Apple platforms: one Mach-O object with the model table, in a Darwin archive for each architecture, in a
//! fat file where there are two.

use crate::error::BundleError;
use crate::objects::{Library, Table, model_table};
use ar_archive_writer::{ArchiveKind, DEFAULT_OBJECT_READER, NewArchiveMember, write_archive_to_stream};
use knapsack_artifact::device::{self, AppleSlice};
use knapsack_artifact::table;
use object::write::{MachOBuildVersion, Object, StandardSegment, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope, macho};
use std::io::Cursor;

/// Oldest system that the objects link for. An object that is newer than its app makes the linker warn, an older one does not.
const MINIMUM_OS: macho::Version = macho::Version(14 << 16);
/// SDK that the objects claim; nothing depends on it.
const SDK: macho::Version = macho::Version(18 << 16);
const MEMBER: &str = "knapsack_model_table.o";
/// Alignment of the slices of a fat file, as a power of two: that of their strictest section, and archives need 3.
const FAT_ALIGNMENT: u32 = 4;

/// A static archive with the model table and a symbol for each library in it; fat where the slice has two architectures.
///
/// # Errors
/// Libraries of one name that differ; more than a table or a fat file of 4 GiB can hold.
pub fn archive(slice: AppleSlice, libraries: &[Library]) -> Result<Vec<u8>, BundleError> {
    let table = model_table(libraries)?;
    let mut thin = Vec::new();
    for &architecture in slice.architectures {
        let written = match architecture {
            device::Architecture::Arm64 => Architecture::Aarch64,
            device::Architecture::X86_64 => Architecture::X86_64,
        };
        thin.push((architecture, thin_archive(slice, written, &table)?));
    }
    universal(thin)
}

/// One file of several, each for another processor, or the only one as it is.
///
/// # Errors
/// More than a fat file of 4 GiB can hold.
pub fn universal(mut thin: Vec<(device::Architecture, Vec<u8>)>) -> Result<Vec<u8>, BundleError> {
    if thin.len() == 1 {
        return Ok(thin.remove(0).1);
    }
    let numbers = |architecture| match architecture {
        device::Architecture::Arm64 => (macho::CPU_TYPE_ARM64.0, macho::CPU_SUBTYPE_ARM64_ALL.0),
        device::Architecture::X86_64 => (macho::CPU_TYPE_X86_64.0, macho::CPU_SUBTYPE_X86_64_ALL.0),
    };
    let slices = thin.into_iter().map(|(architecture, data)| {
        let (cpu, subtype) = numbers(architecture);
        (cpu, subtype, data)
    });
    fat(&slices.collect::<Vec<_>>())
}

fn thin_archive(slice: AppleSlice, architecture: Architecture, table: &Table) -> Result<Vec<u8>, BundleError> {
    let object = table_object(slice, architecture, table)?;
    let members = [NewArchiveMember::new(object, &DEFAULT_OBJECT_READER, MEMBER.to_owned())];
    let mut bytes = Cursor::new(Vec::new());
    write_archive_to_stream(&mut bytes, &members, ArchiveKind::Darwin, false, None)
        .map_err(|error| BundleError::Object { format: "a static archive", problem: error.to_string() })?;
    Ok(bytes.into_inner())
}

fn table_object(slice: AppleSlice, architecture: Architecture, table: &Table) -> Result<Vec<u8>, BundleError> {
    let mut object = Object::new(BinaryFormat::MachO, architecture, Endianness::Little);
    let mut version = MachOBuildVersion::default();
    version.platform = macho::Platform(slice.build_platform);
    version.minos = MINIMUM_OS;
    version.sdk = SDK;
    object.set_macho_build_version(version);
    object.set_subsections_via_symbols();
    let segment = object.segment_name(StandardSegment::Text).to_vec();
    let section = object.add_section(segment, b"__const".to_vec(), SectionKind::ReadOnlyData);
    object.set_section_data(section, table.bytes.clone(), table::ALIGNMENT);
    // A linker splits a section at its symbols into atoms, which it strips and orders one by one. The libraries' own symbols are
    // alternate entries, which do not split: the table is one atom, and whoever refers to any of them gets all of it.
    for export in &table.exports {
        let first = export.symbol == table::SYMBOL;
        let symbol = object.add_symbol(Symbol {
            // The writer prepends the underscore of Mach-O.
            name: export.symbol.clone().into_bytes(),
            value: export.offset,
            size: export.bytes,
            kind: SymbolKind::Data,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
        if let SymbolFlags::MachO { n_desc, .. } = object.symbol_flags_mut(symbol) {
            *n_desc = if first { macho::N_NO_DEAD_STRIP } else { macho::N_NO_DEAD_STRIP | macho::N_ALT_ENTRY };
        }
    }
    object.write().map_err(|error| BundleError::Object { format: "Mach-O", problem: error.to_string() })
}

/// The universal format: a big-endian header, then the files.
fn fat(slices: &[(u32, u32, Vec<u8>)]) -> Result<Vec<u8>, BundleError> {
    let too_large = || BundleError::Object { format: "a fat archive", problem: "it would exceed 4 GiB".into() };
    let mut out = Vec::new();
    for word in [macho::FAT_MAGIC, slices.len() as u32] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    let alignment = 1usize << FAT_ALIGNMENT;
    let mut offset = (8 + 20 * slices.len()).next_multiple_of(alignment);
    for (cpu, subtype, data) in slices {
        let place = u32::try_from(offset).map_err(|_| too_large())?;
        let size = u32::try_from(data.len()).map_err(|_| too_large())?;
        for word in [*cpu, *subtype, place, size, FAT_ALIGNMENT] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        offset = (offset + data.len()).next_multiple_of(alignment);
    }
    for (_, _, data) in slices {
        out.resize(out.len().next_multiple_of(alignment), 0);
        out.extend_from_slice(data);
    }
    Ok(out)
}
