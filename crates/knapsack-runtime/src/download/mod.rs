//! First launch: weights that are not part of the package come from where the app config says, checked by its `files[]`.
//!
//! A model's folder is there whole or not at all: files are fetched beside it, each resumed where it was cut off and verified
//! by its SHA-256, and the folder is renamed into place when the last one is right.
//!
//! The bytes are moved by a [`Transport`], or by the app's system, which goes on when the app does not run: then
//! [`Store::wanted`] says which files, and [`Store::adopt`] takes them.
//!
//! ```text
//! <root>/<model_id>/                 complete and verified; the tokenizer's tables, made here
//! <root>/.partial/<model_id>/        being fetched; survives the app's end
//! <root>/.partial/<model_id>.lock    held while somebody fetches
//! ```

mod adopt;
mod error;
mod fetch;
#[cfg(any(test, feature = "http"))]
mod http;
mod transport;

pub use adopt::WantedFile;
pub use error::DownloadError;
#[cfg(any(test, feature = "http"))]
pub use http::HttpTransport;
pub use transport::{Body, Transport, TransportError};

use crate::cancel::CancelFlag;
use crate::text::bring_up_to_date;
use error::io;
use fetch::{Fetch, hash_file};
use knapsack_artifact::app_config::{AppFile, AppModel, WeightsLocation};
use knapsack_artifact::files::{rename, sync_folder, sync_tree};
use knapsack_artifact::token_tables;
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const PARTIAL: &str = ".partial";
/// The list of files that a complete folder was made by.
const RECORD: &str = ".knapsack-files.json";
/// Files of one model that are fetched at the same time.
const WORKERS: usize = 3;
/// Left free beyond what a download needs, and for the tokenizer's tables: some 15 MB for the largest vocabularies.
const SPARE_BYTES: u64 = 64 << 20;

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DownloadProgress {
    /// Bytes that are here, earlier runs included.
    pub done: u64,
    /// Bytes of the model.
    pub total: u64,
}

impl DownloadProgress {
    /// The share that is done, 0 to 1.
    pub fn fraction(self) -> f32 {
        if self.total == 0 { 1.0 } else { (self.done as f64 / self.total as f64) as f32 }
    }
}

/// Tells how many bytes are free for files in a folder.
type FreeSpace = Box<dyn Fn(&Path) -> Option<u64> + Send + Sync>;

/// The folder with the downloaded models of an app.
pub struct Store {
    root: PathBuf,
    transport: Arc<dyn Transport>,
    free_space: FreeSpace,
    pace: Pace,
}

/// The least that a server must send, so that one that drips does not keep an app waiting for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Bytes in each window of a request.
    pub bytes: u64,
    /// How long the rate is looked at.
    pub window: Duration,
}

impl Default for Pace {
    /// 4 KiB a second, over 30 seconds.
    fn default() -> Self {
        Self { bytes: 120 << 10, window: Duration::from_secs(30) }
    }
}

impl Store {
    /// The store in `root`, which is created when it is needed.
    pub fn new(root: impl Into<PathBuf>, transport: Arc<dyn Transport>) -> Self {
        Self {
            root: root.into(),
            transport,
            free_space: Box::new(|folder| fs4::available_space(folder).ok()),
            pace: Pace::default(),
        }
    }

    /// The same store with another least pace.
    #[must_use]
    #[cfg(test)]
    pub(crate) const fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// The same store with another measure of free space: on a phone the system's own (which counts what it would purge).
    #[must_use]
    #[cfg(test)]
    pub(crate) fn with_free_space(mut self, free: impl Fn(&Path) -> Option<u64> + Send + Sync + 'static) -> Self {
        self.free_space = Box::new(free);
        self
    }

    /// The weight folder of a model, when it is complete and of the revision that the app config names.
    pub fn folder(&self, model: &AppModel) -> Option<PathBuf> {
        let folder = self.root.join(&model.model_id);
        let record = fs::read(folder.join(RECORD)).ok()?;
        (record == encode(&model.files)).then_some(folder)
    }

    /// Bytes that [`Store::ensure`] would still fetch; 0 when the model is there.
    pub fn missing_bytes(&self, model: &AppModel) -> u64 {
        if self.folder(model).is_some() {
            return 0;
        }
        let partial = self.partial(&model.model_id);
        let have = |file: &AppFile| {
            let length = |path: PathBuf| fs::metadata(path).map(|meta| meta.len()).ok();
            length(partial.join(&file.path)).or_else(|| length(fetch::part(&partial, &file.path))).unwrap_or(0)
        };
        model.files.iter().map(|file| file.size.saturating_sub(have(file))).sum()
    }

    /// The weight folder of a model, downloaded first if it is not there. Several models may be downloaded at once; a second
    /// call for the same model waits for the first. `progress` is called from several threads.
    ///
    /// # Errors
    /// A model without address or list of files, too little space, a server that keeps failing, files that keep being
    /// wrong, the cancel flag. What was fetched stays for the next call.
    pub fn ensure(
        &self,
        model: &AppModel,
        progress: &(dyn Fn(DownloadProgress) + Sync),
        cancel: &CancelFlag,
    ) -> Result<PathBuf, DownloadError> {
        let url = address(model)?;
        // Without touching the disk: this is asked before every use.
        if let Some(folder) = self.folder(model) {
            return Ok(folder);
        }
        let partial = self.partial(&model.model_id);
        fs::create_dir_all(&partial).map_err(io(&partial))?;
        let _lock = self.lock(&model.model_id, cancel)?;
        if let Some(folder) = self.folder(model) {
            let _ = fs::remove_dir_all(&partial);
            return Ok(folder);
        }
        self.check_space(model)?;
        self.adopt_old_files(model, &partial);
        self.fetch_all(model, url, &partial, progress, cancel)?;
        self.publish(model, &partial)
    }

    /// Checks every byte of a model that is there; returns the files that are missing or wrong. A model with wrong files is
    /// taken out of use, its good files are kept for the next [`Store::ensure`]. The tokenizer's tables, which were not
    /// downloaded, are made anew where they are not what they should be.
    ///
    /// # Errors
    /// A model that is not there, or the file system.
    pub fn verify(&self, model: &AppModel) -> Result<Vec<String>, DownloadError> {
        let folder = self.folder(model).ok_or_else(|| DownloadError::NotThere(model.model_id.clone()))?;
        let bad: Vec<&AppFile> = model
            .files
            .iter()
            .filter(|file| !matches!(hash_file(&folder.join(&file.path)), Ok((size, sha256)) if size == file.size && sha256 == file.sha256))
            .collect();
        if !bad.is_empty() {
            let partial = self.partial(&model.model_id);
            let _ = fs::remove_dir_all(&partial);
            fs::create_dir_all(self.root.join(PARTIAL)).map_err(io(&partial))?;
            let _lock = self.lock(&model.model_id, &CancelFlag::new())?;
            rename(&folder, &partial).map_err(io(&folder))?;
            for file in &bad {
                let _ = fs::remove_file(partial.join(&file.path));
            }
        } else {
            make_tables(model, &folder);
        }
        Ok(bad.iter().map(|file| file.path.clone()).collect())
    }

    /// Removes a model, complete or not; false when nothing was there.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, model_id: &str) -> Result<bool, DownloadError> {
        let mut found = false;
        for folder in [self.root.join(model_id), self.partial(model_id)] {
            match fs::remove_dir_all(&folder) {
                Ok(()) => found = true,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(io(&folder)(error)),
            }
        }
        Ok(found)
    }

    fn partial(&self, model_id: &str) -> PathBuf {
        self.root.join(PARTIAL).join(model_id)
    }

    /// One at a time for each model, over all processes.
    fn lock(&self, model_id: &str, cancel: &CancelFlag) -> Result<File, DownloadError> {
        let path = self.root.join(PARTIAL).join(format!("{model_id}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io(&path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if cancel.is_cancelled() => return Err(DownloadError::Cancelled),
                Err(TryLockError::WouldBlock) => thread::sleep(fetch::STEP),
                Err(TryLockError::Error(error)) => return Err(io(&path)(error)),
            }
        }
    }

    fn check_space(&self, model: &AppModel) -> Result<(), DownloadError> {
        let needed = self.missing_bytes(model);
        match (self.free_space)(&self.root) {
            Some(available) if needed > 0 && needed.saturating_add(SPARE_BYTES) > available => {
                Err(DownloadError::NoSpace { model_id: model.model_id.clone(), needed, available })
            }
            _ => Ok(()),
        }
    }

    /// After an update of the app most files of a model are often the same: they are linked, and verified like the others.
    fn adopt_old_files(&self, model: &AppModel, partial: &Path) {
        let old = self.root.join(&model.model_id);
        let known = self.old_files(model);
        for file in model.files.iter().filter(|file| known.contains(file)) {
            let target = partial.join(&file.path);
            if let Some(folder) = target.parent()
                && fs::create_dir_all(folder).is_ok()
                && !target.exists()
            {
                // Where this fails the file is fetched again.
                let _ = fs::hard_link(old.join(&file.path), &target);
            }
        }
    }

    fn fetch_all(
        &self,
        model: &AppModel,
        url: &str,
        partial: &Path,
        progress: &(dyn Fn(DownloadProgress) + Sync),
        cancel: &CancelFlag,
    ) -> Result<(), DownloadError> {
        let total = model.files.iter().map(|file| file.size).sum();
        let done = AtomicU64::new(0);
        let count = |bytes: i64| {
            // Wrapping addition of a negative number subtracts: bytes of a bad file count as missing again.
            let done = done.fetch_add(bytes as u64, Ordering::Relaxed).wrapping_add(bytes as u64);
            progress(DownloadProgress { done, total });
        };
        count(0);
        let fetch = Fetch { transport: self.transport.clone(), partial, cancel, count: &count, pace: self.pace };
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<DownloadError>> = Mutex::new(None);
        let stop = || failure.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let work = || {
            while let Some(file) = model.files.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !stop()) {
                let url = file_url(url, model, file);
                if let Err(error) = fetch.file(&url, file) {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..WORKERS.min(model.files.len()) {
                scope.spawn(work);
            }
            work();
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// The fetched folder becomes the model's.
    fn publish(&self, model: &AppModel, partial: &Path) -> Result<PathBuf, DownloadError> {
        let _ = fs::remove_dir_all(partial.join(fetch::PARTS));
        remove_strangers(partial, &model.files)?;
        let record = partial.join(RECORD);
        fs::write(&record, encode(&model.files)).map_err(io(&record))?;
        make_tables(model, partial);
        // Most of it is: files are synced as they were fetched.
        sync_tree(partial).map_err(io(partial))?;
        let folder = self.root.join(&model.model_id);
        let old = self.root.join(PARTIAL).join(format!("{}.old", model.model_id));
        let _ = fs::remove_dir_all(&old);
        if folder.exists() {
            rename(&folder, &old).map_err(io(&folder))?;
        }
        rename(partial, &folder).and_then(|()| sync_folder(&self.root)).map_err(io(partial))?;
        let _ = fs::remove_dir_all(&old);
        Ok(folder)
    }
}

/// The tokenizer's tables beside the files that were downloaded, where they are not among those: mapped by every load.
fn make_tables(model: &AppModel, folder: &Path) {
    if model.files.iter().all(|file| file.path != token_tables::FILE_NAME) {
        bring_up_to_date(folder);
    }
}

/// Files of an earlier revision, or what a killed run left, have no place in a complete folder.
fn remove_strangers(folder: &Path, files: &[AppFile]) -> Result<(), DownloadError> {
    let known: BTreeSet<PathBuf> = files.iter().map(|file| folder.join(&file.path)).collect();
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).map_err(io(&folder))? {
            let path = entry.map_err(io(&folder))?.path();
            if path.is_dir() {
                pending.push(path);
            } else if !known.contains(&path) {
                fs::remove_file(&path).map_err(io(&path))?;
            }
        }
    }
    Ok(())
}

fn encode(files: &[AppFile]) -> Vec<u8> {
    serde_json::to_vec(files).expect("a list of files has only serializable fields")
}

/// Where a model that is downloaded comes from.
fn address(model: &AppModel) -> Result<&str, DownloadError> {
    match &model.weights {
        WeightsLocation::Bundled(_) | WeightsLocation::Packs(_) => Err(DownloadError::Bundled(model.model_id.clone())),
        WeightsLocation::Download(_) if model.files.is_empty() => {
            Err(DownloadError::NoFileList(model.model_id.clone()))
        }
        WeightsLocation::Download(url) => Ok(url),
    }
}

/// The address of one of its files.
fn file_url(url: &str, model: &AppModel, file: &AppFile) -> String {
    let revision = model.revision.as_deref().unwrap_or("main");
    format!("{}/resolve/{}/{}", url.trim_end_matches('/'), escape(revision), escape(&file.path))
}

/// Percent-encodes what is not plain in a path; slashes stay.
fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests;
