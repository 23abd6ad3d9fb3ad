//! Downloads whose bytes the app's system moves: a background transfer goes on when the app does not run.

use super::error::io;
use super::fetch::{self, hash_file};
use super::{DownloadError, RECORD, Store, address, file_url};
use crate::cancel::CancelFlag;
use knapsack_artifact::app_config::{AppFile, AppModel};
use knapsack_artifact::files::rename;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A file of a model, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedFile {
    /// Where it was downloaded from.
    pub url: String,
    /// Its name in the model, for [`Store::adopt`].
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, in lower-case hexadecimal digits.
    pub sha256: String,
    /// Whether it is here already.
    pub have: bool,
}

impl Store {
    /// The files of a model, for an app whose system downloads them; each that is not here is to be given to [`Store::adopt`].
    ///
    /// # Errors
    /// A model without address or list of files.
    pub fn wanted(&self, model: &AppModel) -> Result<Vec<WantedFile>, DownloadError> {
        let url = address(model)?;
        let complete = self.folder(model).is_some();
        let partial = self.partial(&model.model_id);
        let known = self.old_files(model);
        let here = |file: &AppFile| fs::metadata(partial.join(&file.path)).is_ok_and(|meta| meta.len() == file.size);
        let wanted = |file: &AppFile| WantedFile {
            url: file_url(url, model, file),
            path: file.path.clone(),
            size: file.size,
            sha256: file.sha256.clone(),
            have: complete || known.contains(file) || here(file),
        };
        Ok(model.files.iter().map(wanted).collect())
    }

    /// Takes a file that the app's system downloaded: moves it here, checks it, and makes the model available when it was the
    /// last. The model's folder then, `None` while files are missing.
    ///
    /// # Errors
    /// A file that is none of the model's, or not the one that was packaged (it is removed, and still wanted), or the file
    /// system's.
    pub fn adopt(&self, model: &AppModel, path: &str, downloaded: &Path) -> Result<Option<PathBuf>, DownloadError> {
        address(model)?;
        let no_such = || DownloadError::NoSuchFile { model_id: model.model_id.clone(), path: path.to_owned() };
        let file = model.files.iter().find(|file| file.path == path).ok_or_else(no_such)?;
        let partial = self.partial(&model.model_id);
        fs::create_dir_all(&partial).map_err(io(&partial))?;
        let _lock = self.lock(&model.model_id, &CancelFlag::new())?;
        if let Some(folder) = self.folder(model) {
            let _ = fs::remove_file(downloaded);
            return Ok(Some(folder));
        }
        self.adopt_old_files(model, &partial);
        take(file, downloaded, &partial)?;
        match self.is_complete(model, &partial, file)? {
            true => Ok(Some(self.publish(model, &partial)?)),
            false => Ok(None),
        }
    }

    /// Whether every file is there. Those that were here before, but for the one that was just checked, are hashed: they may be of
    /// another revision. Wrong ones are removed.
    fn is_complete(&self, model: &AppModel, partial: &Path, checked: &AppFile) -> Result<bool, DownloadError> {
        let there = |file: &AppFile| fs::metadata(partial.join(&file.path)).is_ok_and(|meta| meta.len() == file.size);
        if !model.files.iter().all(there) {
            return Ok(false);
        }
        let mut complete = true;
        for file in model.files.iter().filter(|file| *file != checked) {
            let path = partial.join(&file.path);
            if problem(file, &path)?.is_some() {
                fs::remove_file(&path).map_err(io(&path))?;
                complete = false;
            }
        }
        Ok(complete)
    }

    /// The files of what was downloaded for this model before.
    pub(super) fn old_files(&self, model: &AppModel) -> Vec<AppFile> {
        let record = fs::read(self.root.join(&model.model_id).join(RECORD)).unwrap_or_default();
        serde_json::from_slice(&record).unwrap_or_default()
    }
}

/// Moves a file to its place among the partial ones, through the folder of those that are not verified yet: what is checked is what
/// is kept, whatever happens to the original.
fn take(file: &AppFile, downloaded: &Path, partial: &Path) -> Result<(), DownloadError> {
    if !fs::symlink_metadata(downloaded).map_err(io(downloaded))?.is_file() {
        return Err(io(downloaded)(ErrorKind::InvalidInput.into()));
    }
    let (target, part) = (partial.join(&file.path), fetch::part(partial, &file.path));
    for folder in [&target, &part].into_iter().filter_map(|path| path.parent()) {
        fs::create_dir_all(folder).map_err(io(folder))?;
    }
    match rename(downloaded, &part) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            fs::copy(downloaded, &part).map_err(io(&part))?;
            let _ = fs::remove_file(downloaded);
        }
        Err(error) => return Err(io(downloaded)(error)),
    }
    if let Some(problem) = problem(file, &part)? {
        fs::remove_file(&part).map_err(io(&part))?;
        return Err(DownloadError::WrongContent { url: downloaded.display().to_string(), problem });
    }
    rename(&part, &target).map_err(io(&target))
}

/// What is wrong with a file.
fn problem(file: &AppFile, path: &Path) -> Result<Option<String>, DownloadError> {
    let (size, sha256) = hash_file(path).map_err(io(path))?;
    Ok(if size != file.size {
        Some(format!("it has {size} bytes, expected {}", file.size))
    } else if sha256 != file.sha256 {
        Some(format!("its sha256 is {sha256}, expected {}", file.sha256))
    } else {
        None
    })
}
