//! What an app's executables and shared libraries say of themselves.

use anyhow::{Context, Result, ensure};
use object::endian::Endianness;
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::macho::{FatArch, MachHeader, MachOFatFile32, Segment};
use object::{FileKind, elf, macho};

/// The smallest alignment of a shared library's loaded segments, whose offset and address agree modulo it.
///
/// # Errors
/// What is no ELF file of 64 bits.
pub(super) fn page_alignment(bytes: &[u8]) -> Result<u64> {
    let header = elf::FileHeader64::<Endianness>::parse(bytes).context("not an ELF file of 64 bits")?;
    let endian = header.endian().context("not an ELF file of 64 bits")?;
    let mut least = u64::MAX;
    for segment in header.program_headers(endian, bytes).context("its segments")? {
        if segment.p_type(endian) != elf::PT_LOAD {
            continue;
        }
        let (offset, address) = (segment.p_offset(endian), segment.p_vaddr(endian));
        // Where they differ a loader cannot map the file, whatever the segment says.
        let agree = 1u64.checked_shl((offset ^ address).trailing_zeros()).unwrap_or(u64::MAX);
        least = least.min(segment.p_align(endian).max(1)).min(agree);
    }
    ensure!(least < u64::MAX, "it has no loaded segment");
    Ok(least)
}

/// Bytes of the segment `__TEXT` over all architectures of a Mach-O file; 0 for anything else.
pub(super) fn text_bytes(bytes: &[u8]) -> u64 {
    match FileKind::parse(bytes) {
        Ok(FileKind::MachO64) => thin_text(bytes).unwrap_or(0),
        Ok(FileKind::MachOFat32) => {
            let Ok(fat) = MachOFatFile32::parse(bytes) else { return 0 };
            fat.arches().iter().filter_map(|arch| thin_text(arch.data(bytes).ok()?)).sum()
        }
        _ => 0,
    }
}

fn thin_text(bytes: &[u8]) -> Option<u64> {
    let header = macho::MachHeader64::<Endianness>::parse(bytes, 0).ok()?;
    let endian = header.endian().ok()?;
    let mut commands = header.load_commands(endian, bytes, 0).ok()?;
    let mut total: u64 = 0;
    while let Ok(Some(command)) = commands.next() {
        if let Ok(Some((segment, _))) = command.segment_64()
            && segment.name() == b"__TEXT"
        {
            total = total.saturating_add(segment.filesize(endian));
        }
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_can_be_asked() {
        for bytes in [&b""[..], b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe\0\0\0\x02", &[0xff; 200]] {
            assert!(page_alignment(bytes).is_err());
            assert_eq!(text_bytes(bytes), 0);
        }
    }
}
