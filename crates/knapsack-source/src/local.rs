//! A model in a folder of this machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use knapsack_config::ModelForm;
use knapsack_config::lockfile::ModelCard;

use crate::card;
use crate::error::{Error, Result};
use crate::model::{FileRole, ModelFile};
use crate::select::{Contents, MAX_INDEX, Selection};

/// What a local folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalModel {
    /// Checkpoint, or converted already.
    pub kind: ModelForm,
    /// The files that belong to the model; their content was not read.
    pub files: Vec<ModelFile>,
    /// What its card says.
    pub card: ModelCard,
}

/// Looks at `folder`: which kind of model it is, and which of its files belong to it.
pub fn open_local(folder: &Path) -> Result<LocalModel> {
    let (files, selection) = select_in(folder)?;
    let with_role = |role| {
        let size = |name: &String| files.get(name).copied().unwrap_or(0);
        move |name: String| ModelFile { size: size(&name), path: name, sha256: None, role }
    };
    let metadata = selection.metadata.into_iter().map(with_role(FileRole::Metadata));
    let weights = selection.weights.into_iter().map(with_role(FileRole::Weights));
    let files: Vec<_> = metadata.chain(weights).collect();
    for file in files.iter().filter(|file| file.size < 1024) {
        refuse_lfs_pointer(folder, &file.path)?;
    }
    Ok(LocalModel { kind: selection.format, files, card: card::of_folder(folder) })
}

pub(crate) fn select_in(folder: &Path) -> Result<(BTreeMap<String, u64>, Selection)> {
    let place = folder.display().to_string();
    let meta = fs::metadata(folder).map_err(Error::io("find the model folder", folder))?;
    if !meta.is_dir() {
        return Err(Error::NotAModel { place, reason: "it is not a folder".to_owned() });
    }
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        // Through links: a snapshot of the hub cache consists of them.
        if let (Ok(meta), Ok(name)) = (fs::metadata(entry.path()), entry.file_name().into_string()) {
            if meta.is_file() {
                files.insert(name, meta.len());
            } else if !meta.is_dir() && !name.starts_with('.') {
                // A pipe would keep whoever opens it waiting, a device never ends.
                let reason = "it is neither a file nor a folder".to_owned();
                return Err(Error::DamagedMetadata { place, file: name, reason });
            }
        }
    }
    let mut read = |name: &str| {
        let bytes = read_small(&folder.join(name))?;
        if is_lfs_pointer(&bytes) { Err(lfs_pointer(folder, name)) } else { Ok(bytes) }
    };
    let selection = Contents { place: &place, files: &files, read: &mut read }.select()?;
    Ok((files, selection))
}

pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(Error::io("open", path))?;
    file.take(MAX_INDEX).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// A clone without Git LFS has a few lines of text in place of each large file.
fn refuse_lfs_pointer(folder: &Path, name: &str) -> Result<()> {
    let text = read_small(&folder.join(name))?;
    if is_lfs_pointer(&text) { Err(lfs_pointer(folder, name)) } else { Ok(()) }
}

fn is_lfs_pointer(text: &[u8]) -> bool {
    text.starts_with(b"version https://git-lfs")
}

fn lfs_pointer(folder: &Path, name: &str) -> Error {
    Error::DamagedMetadata {
        place: folder.display().to_string(),
        file: name.to_owned(),
        reason: "it is a Git LFS pointer, not the file; run `git lfs pull` there".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn pipes_are_not_waited_for() {
        let fixtures = [knapsack_testkit::fixture("llama"), knapsack_testkit::mlc_fixture("llama", "q4f16_1")];
        for fixture in fixtures {
            let names: Vec<_> = fs::read_dir(&fixture).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            for name in &names {
                let folder = tempfile::tempdir().unwrap();
                for other in names.iter().filter(|other| *other != name) {
                    std::os::unix::fs::symlink(fixture.join(other), folder.path().join(other)).unwrap();
                }
                let made = std::process::Command::new("mkfifo").arg(folder.path().join(name)).status().unwrap();
                assert!(made.success());
                let error = open_local(folder.path()).unwrap_err().to_string();
                assert!(error.contains("neither a file nor a folder"), "{name:?}: {error}");
            }
        }
    }

    #[test]
    fn fixtures_are_told_apart() {
        let model = open_local(&knapsack_testkit::fixture("llama")).unwrap();
        assert_eq!(model.kind, ModelForm::Checkpoint);
        let weights: Vec<_> = model.files.iter().filter(|file| file.role == FileRole::Weights).collect();
        assert_eq!(
            weights.iter().map(|file| (file.path.as_str(), file.size)).collect::<Vec<_>>(),
            [("model.safetensors", 1_086_208)]
        );
        let model = open_local(&knapsack_testkit::mlc_fixture("llama", "q0f32")).unwrap();
        assert_eq!(model.kind, ModelForm::Mlc);
        let names: Vec<_> = model.files.iter().map(|file| file.path.as_str()).collect();
        let expected = [
            "mlc-chat-config.json",
            "tensor-cache.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "params_shard_0.bin",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn missing_folders_files_and_lfs_pointers_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(open_local(&folder.path().join("absent")), Err(Error::Io { .. })));
        assert!(matches!(open_local(folder.path()), Err(Error::NotAModel { .. })));
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert!(matches!(open_local(&folder.path().join("config.json")), Err(Error::NotAModel { .. })));
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1000\n";
        fs::write(folder.path().join("model.safetensors"), pointer).unwrap();
        let error = open_local(folder.path()).unwrap_err().to_string();
        assert!(error.contains("git lfs pull"), "{error}");
    }
}
