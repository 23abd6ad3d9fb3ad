//! Tokenizer tables of models that come without them, as from a hub: what one load makes, the next one maps.

use super::tokenizer::MAX_FILE_BYTES;
use knapsack_artifact::files;
use knapsack_artifact::token_tables::{self, Source};
use knapsack_device::{Folder, WeightFiles};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where tables are kept that a load had to make. That they cannot be written is no failure: the next load makes them again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keep<'a> {
    /// Nowhere: the files belong to somebody else.
    Nowhere,
    /// In the model's folder, under the name that they have in a package.
    Beside(&'a Path),
    /// In a folder with those of other models, named by what they were made from.
    Cache(&'a Path),
}

impl Keep<'_> {
    /// The tables of that `tokenizer.json`.
    pub(super) fn path(self, source: &Source) -> Option<PathBuf> {
        match self {
            Keep::Nowhere => None,
            Keep::Beside(folder) => Some(folder.join(token_tables::FILE_NAME)),
            Keep::Cache(folder) => Some(folder.join(source.file_name())),
        }
    }

    /// Keeps them.
    pub(super) fn write(self, source: &Source, tables: &[u8]) {
        let Some(path) = self.path(source) else { return };
        log_failure(&path, replace(&path, tables));
    }
}

fn log_failure(path: &Path, written: io::Result<()>) {
    if let Err(error) = written {
        log::debug!("{}: {error}", path.display());
    }
}

/// Makes the tables of a model's folder what its `tokenizer.json` says, where it has any.
pub(crate) fn bring_up_to_date(folder: &Path) {
    let path = folder.join(token_tables::FILE_NAME);
    let json = Folder::new(folder).open("tokenizer.json").and_then(|file| file.map(MAX_FILE_BYTES));
    let made = json.as_ref().ok().and_then(|json| token_tables::compile(json.as_ref()).ok());
    match made {
        Some(made) if fs::read(&path).is_ok_and(|there| there == made) => {}
        Some(made) => log_failure(&path, replace(&path, &made)),
        None => drop(fs::remove_file(&path)),
    }
}

/// Writes a file whole or not at all, on the disk before it has its name: tables are not read to their end before they are used.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let beside = folder.join(format!(".tokenizer-tables-{}-{count}", process::id()));
    files::replace(path, &beside, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Tokenizer;

    /// A token.
    const THIS: &str = "\u{120}this";

    struct Model {
        root: tempfile::TempDir,
        folder: PathBuf,
        json: Vec<u8>,
    }

    impl Model {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("model");
            fs::create_dir(&folder).unwrap();
            let model = Model {
                root,
                folder,
                json: fs::read(knapsack_testkit::tiny_assistant().join("tokenizer.json")).unwrap(),
            };
            fs::write(model.folder.join("tokenizer.json"), &model.json).unwrap();
            model
        }

        fn load(&self, keep: Keep<'_>) -> Tokenizer {
            Tokenizer::from_files(&Folder::new(&self.folder), keep).unwrap()
        }

        fn tables(&self) -> Vec<u8> {
            token_tables::compile(&self.json).unwrap()
        }

        /// Loads once, which makes the tables, and again, which uses them: a spelling that is changed in them is not found.
        fn made_once_and_then_used(&self, keep: Keep<'_>) {
            let path = keep.path(&Source::of(&self.json)).unwrap();
            let first = self.load(keep);
            assert!(first.token_id(THIS).is_some());
            let whole = first.encode("This is it").unwrap();
            assert_eq!(fs::read(&path).unwrap(), self.tables());
            let mut other = self.tables();
            let place = other.windows(THIS.len()).rposition(|text| text == THIS.as_bytes()).unwrap();
            other[place..place + THIS.len()].fill(b'.');
            fs::write(&path, &other).unwrap();
            assert_eq!(self.load(keep).token_id(THIS), None);
            // Those of another version, another file, or that are damaged are replaced.
            for damage in [8, 30, other.len() - 1] {
                let mut damaged = self.tables();
                damaged[damage] ^= 1;
                fs::write(&path, damaged).unwrap();
                assert_eq!(self.load(keep).encode("This is it").unwrap(), whole);
                assert_eq!(fs::read(&path).unwrap(), self.tables());
            }
        }

        fn names(&self) -> Vec<String> {
            let names = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn what_one_load_makes_the_next_one_uses() {
        let model = Model::new();
        model.made_once_and_then_used(Keep::Cache(&model.root.path().join("cache")));
        assert_eq!(model.names(), ["tokenizer.json"]);
        model.made_once_and_then_used(Keep::Beside(&model.folder));
        assert_eq!(model.names(), [token_tables::FILE_NAME, "tokenizer.json"]);
    }

    #[test]
    fn what_cannot_be_kept_is_made_again() {
        let model = Model::new();
        let whole = model.load(Keep::Nowhere).encode("This is it").unwrap();
        let file = model.folder.join("tokenizer.json");
        assert_eq!(model.load(Keep::Cache(&file)).encode("This is it").unwrap(), whole);
        assert_eq!(model.names(), ["tokenizer.json"]);
        // A text that had to be decoded: its tables would not be those of the file.
        fs::write(&file, ["\u{feff}".as_bytes(), &model.json].concat()).unwrap();
        assert_eq!(model.load(Keep::Beside(&model.folder)).encode("This is it").unwrap(), whole);
        assert_eq!(model.names(), ["tokenizer.json"]);
    }

    #[test]
    fn tables_of_a_folder_follow_its_tokenizer() {
        let model = Model::new();
        let path = model.folder.join(token_tables::FILE_NAME);
        for before in [None, Some(&b"damaged"[..]), Some(&model.tables())] {
            if let Some(bytes) = before {
                fs::write(&path, bytes).unwrap();
            }
            bring_up_to_date(&model.folder);
            assert_eq!(fs::read(&path).unwrap(), model.tables());
        }
        fs::write(model.folder.join("tokenizer.json"), "{}").unwrap();
        bring_up_to_date(&model.folder);
        assert_eq!(model.names(), ["tokenizer.json"]);
        fs::remove_file(model.folder.join("tokenizer.json")).unwrap();
        bring_up_to_date(&model.folder);
        assert_eq!(model.names(), [""; 0]);
    }
}
