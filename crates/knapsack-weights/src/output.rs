//! The folder that a conversion writes: made beside its place, moved there when it is complete.

use crate::error::ConvertError;
use knapsack_artifact::files::{rename, sync_folder};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Marks a folder that is being written. It is locked for as long as its writer lives.
const LOCK_NAME: &str = ".lock";

/// A folder under construction; it is removed when it is dropped before [`Output::commit`].
#[derive(Debug)]
pub(crate) struct Output {
    target: PathBuf,
    folder: PathBuf,
    /// Held until the folder is complete.
    lock: Option<File>,
}

impl Output {
    /// Makes the folder under construction, and removes those that killed runs left.
    pub(crate) fn create(target: &Path) -> Result<Self, ConvertError> {
        if !is_free(target) {
            return Err(ConvertError::OutputExists(target.to_owned()));
        }
        let absolute = std::path::absolute(target).map_err(ConvertError::io("write", target))?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(ConvertError::OutputExists(target.to_owned()));
        };
        std::fs::create_dir_all(parent).map_err(ConvertError::io("create", parent))?;
        let prefix = format!(".{}.partial-", name.to_string_lossy());
        remove_abandoned(parent, &prefix);
        let folder = (0..1000)
            .map(|attempt| parent.join(format!("{prefix}{}-{attempt}", std::process::id())))
            .find(|folder| !folder.exists())
            .ok_or_else(|| ConvertError::OutputExists(parent.join(&prefix)))?;
        std::fs::create_dir(&folder).map_err(ConvertError::io("create", &folder))?;
        // From here on, dropping removes the folder.
        let mut output = Output { target: absolute, folder, lock: None };
        let path = output.folder.join(LOCK_NAME);
        let lock = File::create(&path).map_err(ConvertError::io("create", &path))?;
        // Where files cannot be locked, only the protection against a run that cleans up at the same time is missing.
        let _ = lock.try_lock();
        output.lock = Some(lock);
        Ok(output)
    }

    /// Where files are written until [`Output::commit`].
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), ConvertError> {
        let path = self.folder.join(name);
        let written = File::create(&path).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
        written.map_err(ConvertError::io("write", path))
    }

    /// Puts the folder in its place.
    pub(crate) fn commit(mut self) -> Result<(), ConvertError> {
        let lock = self.folder.join(LOCK_NAME);
        std::fs::remove_file(&lock).map_err(ConvertError::io("remove", lock))?;
        if !is_free(&self.target) {
            return Err(ConvertError::OutputExists(self.target.clone()));
        }
        // An empty folder in the place is replaced.
        let _ = std::fs::remove_dir(&self.target);
        // Its files are on the disk.
        let parent = self.target.parent().unwrap_or(&self.target);
        sync_folder(&self.folder)
            .and_then(|()| rename(&self.folder, &self.target))
            .and_then(|()| sync_folder(parent))
            .map_err(ConvertError::io("create", &self.target))?;
        self.folder = PathBuf::new();
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.lock = None;
        if !self.folder.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Whether nothing, or an empty folder, is there.
fn is_free(path: &Path) -> bool {
    match std::fs::symlink_metadata(path) {
        Err(_) => true,
        Ok(metadata) => metadata.is_dir() && std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()),
    }
}

/// Removes folders under construction whose writer is gone.
fn remove_abandoned(parent: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix));
        if ours
            && let Ok(lock) = File::open(entry.path().join(LOCK_NAME))
            && lock.try_lock().is_ok()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_left_of_what_was_not_finished() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("out");
        let output = Output::create(&target).unwrap();
        output.write("a", b"1").unwrap();
        assert!(!target.exists());
        drop(output);
        assert!(names(parent.path()).is_empty());
        let output = Output::create(&target).unwrap();
        output.write("a", b"1").unwrap();
        output.commit().unwrap();
        assert_eq!(names(parent.path()), ["out"]);
        assert_eq!(names(&target), ["a"]);
        assert!(matches!(Output::create(&target), Err(ConvertError::OutputExists(_))));
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_runs_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let abandoned = parent.path().join(".out.partial-1-0");
        std::fs::create_dir(&abandoned).unwrap();
        std::fs::write(abandoned.join(LOCK_NAME), "").unwrap();
        let running = Output::create(&parent.path().join("out")).unwrap();
        assert!(!abandoned.exists());
        let second = Output::create(&parent.path().join("out")).unwrap();
        assert!(running.folder().exists());
        assert_ne!(running.folder(), second.folder());
    }
}
