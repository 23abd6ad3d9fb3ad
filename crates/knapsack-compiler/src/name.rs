//! Names of libraries.

use crate::error::CompileError;
use knapsack_artifact::ModelLibrary;
use sha2::{Digest, Sha256};

/// Longest name.
const MAX_LENGTH: usize = 128;

/// Whether a name can be given to a library: it becomes part of a symbol and of file names.
pub(crate) fn check(name: &str) -> Result<(), CompileError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if starts && name.len() <= MAX_LENGTH && name.chars().all(good) {
        Ok(())
    } else {
        Err(CompileError::Name(name.chars().take(MAX_LENGTH).collect()))
    }
}

/// `<family>_<quantization>_<hash>`: the hash covers all that a device gets to see, the compiler's version included, so equal
/// names mean equal libraries.
pub(crate) fn of_content(library: &ModelLibrary) -> String {
    let mut nameless = library.clone();
    nameless.name = String::new();
    let digest = Sha256::digest(nameless.encode());
    let hash = hex::encode(&digest[..8]);
    let clean = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    format!("{}_{}_{hash}", clean(&library.model.family), clean(&library.model.quantization))
}
