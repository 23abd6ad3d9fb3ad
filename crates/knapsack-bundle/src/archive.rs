//! ZIP files of stored members, written front to back in one go: their size is known before, the sum of each member stands before its
//! bytes, and the same members give the same bytes.

use crate::error::BundleError;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// One file in an archive.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its path in the archive, with `/`.
    pub name: String,
    /// How many bytes it has.
    pub size: u64,
    /// Their CRC-32.
    pub crc32: u32,
    /// Where they come from.
    pub source: Source,
}

/// The bytes of a member.
#[derive(Clone, Debug)]
pub enum Source {
    /// These.
    Bytes(Arc<[u8]>),
    /// Those of this file, which must have the member's size and sum.
    File(PathBuf),
}

impl Member {
    /// A member in memory.
    pub fn bytes(name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let crc32 = crc32fast::hash(&bytes);
        Member { name: name.into(), size: bytes.len() as u64, crc32, source: Source::Bytes(bytes) }
    }
}

/// Sizes of the fixed parts of a record; PKWARE's APPNOTE, 4.3.7, 4.3.12 and 4.3.16.
const LOCAL: u64 = 30;
const CENTRAL: u64 = 46;
const END: u64 = 22;
/// Version 2.0: folders and nothing else beyond the first.
const VERSION: u16 = 20;
/// Names are UTF-8.
const UTF8: u16 = 1 << 11;
/// 1980-01-01, the first day that there is.
const DATE: u16 = 0x21;
/// A regular file that everybody may read, made on Unix.
const MADE_BY: u16 = 3 << 8 | VERSION;
const ATTRIBUTES: u32 = 0o100_644 << 16;

/// Bytes of an archive of these members.
///
/// # Errors
/// More than a ZIP file without the extension for large ones holds, which Android's tools do not all read.
pub fn size(members: &[Member]) -> Result<u64, BundleError> {
    let names: u64 = members.iter().map(|member| member.name.len() as u64).sum();
    let files: u64 = members.iter().map(|member| member.size).fold(0, u64::saturating_add);
    let size = files.saturating_add(members.len() as u64 * (LOCAL + CENTRAL) + 2 * names + END);
    let longest = members.iter().map(|member| member.name.len()).max().unwrap_or(0);
    if size > u64::from(u32::MAX) || members.len() > usize::from(u16::MAX) || longest > usize::from(u16::MAX) {
        let problem = format!("{size} bytes in {} files are more than it holds", members.len());
        return Err(BundleError::Object { format: "a ZIP file", problem });
    }
    Ok(size)
}

/// Writes an archive of members that [`size`] accepts.
///
/// # Errors
/// What the system says; a file that has another size than its member, or another sum.
pub fn write(members: &[Member], out: &mut dyn Write) -> io::Result<()> {
    let (mut at, mut central) = (0, Vec::new());
    for member in members {
        let header = local(member);
        out.write_all(&header)?;
        let mut sum = crc32fast::Hasher::new();
        copy(member, &mut |bytes| {
            sum.update(bytes);
            out.write_all(bytes)
        })?;
        if sum.finalize() != member.crc32 {
            return Err(changed());
        }
        entry(&mut central, member, at);
        at += header.len() as u64 + member.size;
    }
    out.write_all(&central)?;
    out.write_all(&end(members.len() as u16, central.len() as u32, at as u32))
}

/// Gives a member's bytes, piece by piece.
fn copy(member: &Member, give: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let path = match &member.source {
        Source::Bytes(bytes) => return give(bytes),
        Source::File(path) => path,
    };
    let (mut file, mut buffer, mut left) = (File::open(path)?, vec![0; 256 << 10], member.size);
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        left = left.checked_sub(count as u64).ok_or_else(changed)?;
        give(&buffer[..count])?;
    }
    if left == 0 { Ok(()) } else { Err(changed()) }
}

fn changed() -> io::Error {
    io::Error::other("a file changed while it was put into an archive")
}

/// What the local header and the entry of the directory share, from the flags to the length of the name.
fn common(member: &Member) -> Vec<u8> {
    let size = (member.size as u32).to_le_bytes();
    // Flags, method (stored), time, date.
    let mut bytes: Vec<u8> = [UTF8, 0, 0, DATE].iter().flat_map(|field| field.to_le_bytes()).collect();
    bytes.extend([member.crc32.to_le_bytes(), size, size].concat());
    bytes.extend((member.name.len() as u16).to_le_bytes());
    bytes
}

fn local(member: &Member) -> Vec<u8> {
    let mut bytes = b"PK\x03\x04".to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(common(member));
    bytes.extend([0; 2]);
    bytes.extend(member.name.as_bytes());
    bytes
}

fn entry(central: &mut Vec<u8>, member: &Member, at: u64) {
    central.extend(b"PK\x01\x02");
    central.extend([MADE_BY, VERSION].iter().flat_map(|field| field.to_le_bytes()));
    central.extend(common(member));
    // No extra field, no comment, the first volume, binary.
    central.extend([0; 8]);
    central.extend(ATTRIBUTES.to_le_bytes());
    central.extend((at as u32).to_le_bytes());
    central.extend(member.name.as_bytes());
}

fn end(count: u16, bytes: u32, at: u32) -> Vec<u8> {
    let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
    end.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    end.extend([bytes.to_le_bytes(), at.to_le_bytes()].concat());
    end.extend([0; 2]);
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn other_programs_read_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let big = folder.path().join("big");
        let content: Vec<u8> = (0..600_000u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&big, &content).unwrap();
        let members = [
            Member::bytes("AndroidManifest.xml", *b"<manifest/>"),
            Member::bytes("empty", []),
            Member { source: Source::File(big.clone()), ..Member::bytes("assets/ä/big", content.as_slice()) },
        ];
        let mut bytes = Vec::new();
        write(&members, &mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, size(&members).unwrap());
        let path = folder.path().join("a.zip");
        std::fs::write(&path, &bytes).unwrap();
        let mut archive = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
        let names: Vec<_> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
        assert_eq!(names, ["AndroidManifest.xml", "empty", "assets/ä/big"]);
        let mut found = Vec::new();
        // The reader compares the checksum at the end.
        archive.by_name("assets/ä/big").unwrap().read_to_end(&mut found).unwrap();
        assert_eq!(found, std::fs::read(&big).unwrap());
        if let Ok(told) = Command::new("unzip").arg("-t").arg(&path).output() {
            assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));
        }
        // Another size, and another content of the same size.
        for other in ["shorter".as_bytes(), &content.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>()] {
            std::fs::write(&big, other).unwrap();
            assert!(write(&members, &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn what_it_cannot_hold_is_refused() {
        let member = |size| Member { name: "a".into(), size, crc32: 0, source: Source::File("none".into()) };
        let room = u64::from(u32::MAX) - LOCAL - CENTRAL - END - 2;
        assert_eq!(size(&[member(room)]).unwrap(), u64::from(u32::MAX));
        assert!(size(&[member(room + 1)]).is_err() && size(&[member(u64::MAX), member(1)]).is_err());
        assert_eq!(size(&[]).unwrap(), END);
    }
}
