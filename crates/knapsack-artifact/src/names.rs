//! Names that become files: what is accepted is safe on Linux, macOS, Windows, iOS and Android alike.

/// Longest single name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest relative path, in bytes.
pub const MAX_PATH_BYTES: usize = 1024;

/// Device names that Windows reserves in every folder, with or without an extension.
const RESERVED: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "lpt1", "lpt2",
    "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// Why a name or path from a file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a safe file name: {reason}")]
pub struct UnsafeName {
    /// The name, shortened to what is worth showing.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

fn refuse(name: &str, reason: &'static str) -> UnsafeName {
    UnsafeName { name: name.chars().take(80).flat_map(char::escape_default).collect(), reason }
}

/// Checks one path component.
///
/// # Errors
/// Empty, `.`, `..`, separators, control characters, characters or device names that Windows reserves, a trailing dot or
/// space, more than [`MAX_NAME_BYTES`].
pub fn check_file_name(name: &str) -> Result<(), UnsafeName> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name == "." || name == ".." {
        "it names another folder"
    } else if name.len() > MAX_NAME_BYTES {
        "it is longer than 255 bytes"
    } else if name.contains(['/', '\\']) {
        "it contains a path separator"
    } else if name.chars().any(char::is_control) {
        "it contains a control character"
    } else if name.contains(['<', '>', ':', '"', '|', '?', '*']) {
        "it contains a character that Windows does not allow"
    } else if name.ends_with(['.', ' ']) {
        "it ends with a dot or a space"
    } else if is_reserved(name) {
        "Windows reserves it for a device"
    } else {
        return Ok(());
    };
    Err(refuse(name, reason))
}

/// Whether Windows takes `name`, whatever its extension, for a device.
pub(crate) fn is_reserved(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end();
    RESERVED.iter().any(|device| stem.eq_ignore_ascii_case(device))
}

/// Checks a relative path with `/` between its components.
///
/// # Errors
/// Any component that [`check_file_name`] refuses (so: absolute paths, `..`, drives), or more than [`MAX_PATH_BYTES`].
pub fn check_relative_path(path: &str) -> Result<(), UnsafeName> {
    if path.len() > MAX_PATH_BYTES {
        return Err(refuse(path, "it is longer than 1024 bytes"));
    }
    path.split('/').try_for_each(check_file_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_leave_their_folder() {
        for bad in [
            "",
            ".",
            "..",
            "/etc/passwd",
            "a/../b",
            "a//b",
            "a/",
            "C:x",
            "a\\b",
            "nul",
            "Con.txt",
            "a.",
            "a ",
            "x\0y",
            "a/b?",
            "lpt1.tar.gz",
            "\u{7}",
        ] {
            assert!(check_relative_path(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "params_shard_0.bin", "sub/tokenizer.json", ".hidden", "con1", "Modèle 1.bin", "a..b"] {
            assert!(check_relative_path(good).is_ok(), "{good:?}");
        }
        assert!(check_file_name(&"x".repeat(256)).is_err());
        assert!(check_relative_path(&"ab/".repeat(400)).is_err());
    }
}
