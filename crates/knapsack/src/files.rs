//! Reading files no larger than expected, and writing them so that readers see the old one or the new one.

use anyhow::{Context, Result};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

/// The bytes of a file that has `most` of them at most.
///
/// # Errors
/// A file that cannot be read, or is larger.
pub fn read_limited(path: &Path, most: u64) -> Result<Vec<u8>> {
    let shown = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    let file = fs::File::open(path).with_context(shown)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).with_context(shown)?;
    if bytes.len() as u64 > most {
        anyhow::bail!("{} is larger than {most} bytes", path.display());
    }
    Ok(bytes)
}

/// Writes a file beside its place and renames it. A file that is replaced keeps its permissions; a link keeps pointing to it.
///
/// # Errors
/// When the folder or the file cannot be written; what was there is untouched then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let shown = || format!("cannot write {}", path.display());
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = beside().prefix(".tmp-").tempfile_in(folder).with_context(shown)?;
    file.write_all(bytes).with_context(shown)?;
    if let Ok(old) = fs::metadata(&place) {
        file.as_file().set_permissions(old.permissions()).with_context(shown)?;
    }
    knapsack_bundle::persist(file, &place).with_context(shown)
}

/// Temporary files with the permissions of any other file, not for their owner alone.
fn beside() -> tempfile::Builder<'static, 'static> {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has such permissions"))]
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Less what the umask takes.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"12345").unwrap();
        assert_eq!(read_limited(&file, 5).unwrap(), b"12345");
        assert!(read_limited(&file, 4).unwrap_err().to_string().ends_with("is larger than 4 bytes"));
        assert!(read_limited(&folder.path().join("none"), 4).unwrap_err().to_string().starts_with("cannot read"));
    }
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn permissions_and_links_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        write_atomically(&file, b"one").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::write(folder.path().join("other"), b"").unwrap();
        assert_eq!(mode(&file), mode(&folder.path().join("other")));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        write_atomically(&link, b"two").unwrap();
        assert_eq!((fs::read(&file).unwrap(), mode(&file)), (b"two".to_vec(), 0o640));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(write_atomically(&folder.path().join("none/file"), b"").is_err());
    }
}
