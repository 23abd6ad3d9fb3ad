//! Shared libraries for Android: data only, without code, relocations or dependencies.
//!
//! Two loadable segments: everything that is only read, and the dynamic section, which some loaders write to (glibc before
//! 2.35) and which is read-only afterwards (RELRO). Both start on a 16 KiB page, as Google Play asks of apps for Android 15+.

use super::{Library, Table, model_table};
use crate::error::BundleError;
use knapsack_artifact::device::{Abi, Architecture};
use knapsack_artifact::table;
use object::write::StringId;
use object::write::elf::{FileHeader, ProgramHeader, SectionHeader, SectionIndex, Sym, Writer};
use object::{Endianness, elf};
use sha2::{Digest, Sha256};

/// Largest page of the devices in the field.
const PAGE: u64 = 16 << 10;
/// Second hash of the bloom filter: `hash >> SHIFT`; what `lld` uses for 64 bits.
const BLOOM_SHIFT: u32 = 26;
const SONAME: &[u8] = b"libmodel_android.so";

/// A shared library with the model table and a symbol for each library in it.
///
/// # Errors
/// Libraries of one name that differ; more than a table can hold.
pub fn shared_library(abi: Abi, libraries: &[Library]) -> Result<Vec<u8>, BundleError> {
    let Table { bytes, exports } = model_table(libraries)?;
    let mut exports: Vec<_> =
        exports.into_iter().map(|e| Export { gnu_hash: elf::gnu_hash(e.symbol.as_bytes()), place: e }).collect();
    // The GNU hash table wants its symbols sorted by bucket.
    let buckets = exports.len() as u32;
    exports.sort_by(|a, b| (a.gnu_hash % buckets, &a.place.symbol).cmp(&(b.gnu_hash % buckets, &b.place.symbol)));
    write_elf(abi, &bytes, &exports, buckets)
        .map_err(|error| BundleError::Object { format: "an ELF shared library", problem: error.to_string() })
}

struct Export {
    place: super::Export,
    gnu_hash: u32,
}

/// Offsets in the file, which are the addresses too: the file is mapped as it is.
struct ElfLayout {
    note: u64,
    dynsym: u64,
    gnu_hash: u64,
    hash: u64,
    dynstr: u64,
    rodata: u64,
    rodata_end: u64,
    dynamic: u64,
}

/// `DT_SONAME`, `DT_HASH`, `DT_GNU_HASH`, `DT_SYMTAB`, `DT_SYMENT`, `DT_STRTAB`, `DT_STRSZ`, `DT_NULL`.
const DYNAMIC_ENTRIES: usize = 8;
const SEGMENTS: u32 = 6;
const NOTE_BYTES: u64 = 36;

fn write_elf(abi: Abi, table: &[u8], exports: &[Export], buckets: u32) -> object::write::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut bytes);
    let count = exports.len() as u32;
    let bloom = count.div_ceil(8).next_power_of_two();

    // First pass: places.
    writer.reserve_file_header();
    writer.reserve_program_headers(SEGMENTS);
    let note = writer.reserve(NOTE_BYTES, 4);
    let soname = writer.add_dynamic_string(SONAME);
    let names: Vec<StringId> = exports.iter().map(|e| writer.add_dynamic_string(e.place.symbol.as_bytes())).collect();
    writer.reserve_null_dynamic_symbol_index();
    for _ in exports {
        writer.reserve_dynamic_symbol_index();
    }
    let dynsym = writer.reserve_dynsym();
    let gnu_hash = writer.reserve_gnu_hash(bloom, buckets, count);
    let hash = writer.reserve_hash(buckets, count + 1);
    let dynstr = writer.reserve_dynstr()?;
    let rodata = writer.reserve(table.len() as u64, table::ALIGNMENT);
    let rodata_end = writer.reserved_len();
    writer.reserve(0, PAGE);
    let dynamic = writer.reserve_dynamic(DYNAMIC_ENTRIES);
    let layout = ElfLayout { note, dynsym, gnu_hash, hash, dynstr, rodata, rodata_end, dynamic };

    let note_name = writer.add_section_name(b".note.gnu.build-id");
    writer.reserve_section_index();
    writer.reserve_dynsym_section_index();
    writer.reserve_gnu_hash_section_index();
    writer.reserve_hash_section_index();
    writer.reserve_dynstr_section_index();
    let rodata_name = writer.add_section_name(b".rodata");
    let rodata_index = writer.reserve_section_index();
    writer.reserve_dynamic_section_index();
    let padding_name = writer.add_section_name(b".relro_padding");
    writer.reserve_section_index();
    writer.reserve_shstrtab_section_index();
    writer.reserve_shstrtab()?;
    writer.reserve_section_headers();

    // Second pass: contents, in the same order.
    writer.write_file_header(&file_header(abi))?;
    write_program_headers(&mut writer, &layout);
    write_build_id(&mut writer, &layout, abi, table);
    write_symbols(&mut writer, &layout, exports, &names, rodata_index);
    writer.write_gnu_hash(1, BLOOM_SHIFT, bloom, buckets, count, |i| exports[i as usize].gnu_hash);
    writer.write_hash(buckets, count + 1, |i| {
        i.checked_sub(1).map(|i| elf::hash(exports[i as usize].place.symbol.as_bytes()))
    });
    writer.write_dynstr();
    writer.pad_until(layout.rodata);
    writer.write(table);
    writer.pad_until(layout.dynamic);
    write_dynamic(&mut writer, &layout, soname)?;
    writer.write_shstrtab();
    write_section_headers(&mut writer, &layout, note_name, rodata_name, padding_name);
    debug_assert_eq!(writer.reserved_len(), writer.len());
    Ok(bytes)
}

fn file_header(abi: Abi) -> FileHeader {
    FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_DYN,
        e_machine: match abi.architecture {
            Architecture::Arm64 => elf::EM_AARCH64,
            Architecture::X86_64 => elf::EM_X86_64,
        },
        e_entry: 0,
        e_flags: elf::FileFlags(0),
    }
}

fn write_program_headers(writer: &mut Writer<'_>, layout: &ElfLayout) {
    writer.write_align_program_headers();
    let dynamic_bytes = DYNAMIC_ENTRIES as u64 * 16;
    let mut header = |p_type, p_flags, start, file_bytes, memory_bytes, align| {
        writer.write_program_header(&ProgramHeader {
            p_type,
            p_flags,
            p_offset: start,
            p_vaddr: start,
            p_paddr: start,
            p_filesz: file_bytes,
            p_memsz: memory_bytes,
            p_align: align,
        });
    };
    let (read, write) = (elf::PF_R, elf::PF_R | elf::PF_W);
    header(elf::PT_LOAD, read, 0, layout.rodata_end, layout.rodata_end, PAGE);
    header(elf::PT_LOAD, write, layout.dynamic, dynamic_bytes, PAGE, PAGE);
    header(elf::PT_DYNAMIC, write, layout.dynamic, dynamic_bytes, dynamic_bytes, 8);
    header(elf::PT_GNU_RELRO, read, layout.dynamic, dynamic_bytes, PAGE, 1);
    header(elf::PT_NOTE, read, layout.note, NOTE_BYTES, NOTE_BYTES, 4);
    header(elf::PT_GNU_STACK, write, 0, 0, 0, 0);
}

/// The build id is a hash of what the file is made from, so equal inputs give equal files.
fn write_build_id(writer: &mut Writer<'_>, layout: &ElfLayout, abi: Abi, table: &[u8]) {
    let mut hasher = Sha256::new();
    hasher.update(b"knapsack elf 2");
    hasher.update(abi.name);
    hasher.update(table);
    let id = hasher.finalize();
    writer.pad_until(layout.note);
    for word in [4u32, 20, elf::NT_GNU_BUILD_ID.0] {
        writer.write(&word.to_le_bytes());
    }
    writer.write(b"GNU\0");
    writer.write(&id[..20]);
}

fn write_symbols(
    writer: &mut Writer<'_>,
    layout: &ElfLayout,
    exports: &[Export],
    names: &[StringId],
    rodata: SectionIndex,
) {
    writer.write_null_dynamic_symbol();
    for (export, &name) in exports.iter().zip(names) {
        let st_name = writer.dynamic_string_offset(Some(name));
        writer.write_dynamic_symbol(&Sym {
            section: Some(rodata.0),
            st_name,
            st_info: elf::SymbolInfo::new(elf::STB_GLOBAL, elf::STT_OBJECT),
            st_other: elf::STV_DEFAULT.into(),
            st_shndx: elf::SymbolSection(0),
            st_value: layout.rodata + export.place.offset,
            st_size: export.place.bytes,
        });
    }
}

fn write_dynamic(writer: &mut Writer<'_>, layout: &ElfLayout, soname: StringId) -> object::write::Result<()> {
    writer.write_align_dynamic();
    writer.write_dynamic_string(elf::DT_SONAME, soname)?;
    writer.write_dynamic(elf::DT_HASH, layout.hash)?;
    writer.write_dynamic(elf::DT_GNU_HASH, layout.gnu_hash)?;
    writer.write_dynamic(elf::DT_SYMTAB, layout.dynsym)?;
    writer.write_dynamic(elf::DT_SYMENT, 24)?;
    writer.write_dynamic(elf::DT_STRTAB, layout.dynstr)?;
    let bytes = u64::from(writer.dynstr_len());
    writer.write_dynamic(elf::DT_STRSZ, bytes)?;
    writer.write_dynamic(elf::DT_NULL, 0)
}

fn write_section_headers(
    writer: &mut Writer<'_>,
    layout: &ElfLayout,
    note: StringId,
    rodata: StringId,
    padding: StringId,
) {
    writer.write_null_section_header();
    let header = |name: u32, sh_type, sh_flags, start: u64, sh_size: u64, sh_addralign: u64| SectionHeader {
        sh_name: name,
        sh_type,
        sh_flags,
        sh_addr: start,
        sh_offset: start,
        sh_size,
        sh_link: 0,
        sh_info: 0,
        sh_addralign,
        sh_entsize: 0,
    };
    let name = writer.section_name_offset(Some(note));
    writer.write_section_header(&header(name, elf::SHT_NOTE, elf::SHF_ALLOC, layout.note, NOTE_BYTES, 4));
    writer.write_dynsym_section_header(layout.dynsym, 1);
    writer.write_gnu_hash_section_header(layout.gnu_hash);
    writer.write_hash_section_header(layout.hash);
    writer.write_dynstr_section_header(layout.dynstr);
    let name = writer.section_name_offset(Some(rodata));
    let size = layout.rodata_end - layout.rodata;
    writer.write_section_header(&header(
        name,
        elf::SHT_PROGBITS,
        elf::SHF_ALLOC,
        layout.rodata,
        size,
        table::ALIGNMENT,
    ));
    writer.write_dynamic_section_header(layout.dynamic);
    let name = writer.section_name_offset(Some(padding));
    let used = DYNAMIC_ENTRIES as u64 * 16;
    let writable = elf::SHF_ALLOC | elf::SHF_WRITE;
    writer.write_section_header(&header(name, elf::SHT_NOBITS, writable, layout.dynamic + used, PAGE - used, 1));
    writer.write_shstrtab_section_header();
}
