//! One entry: found, or made once.

use super::inputs::{InputChange, Inputs, Key};
use super::record::{CONTENT, EntryRecord};
use super::shared::{Obtained, Shared};
use super::{Bucket, Cache, CacheError};
use crate::files;
use knapsack_artifact::files::rename;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A result in the cache. While it lives, no other process removes it.
#[derive(Debug)]
pub struct CacheEntry {
    content: PathBuf,
    key: Key,
    _lock: File,
}

impl CacheEntry {
    /// The folder with its files; they are not to be changed.
    pub fn content(&self) -> &Path {
        &self.content
    }

    /// The hash of all inputs that it was made from.
    pub const fn key(&self) -> &Key {
        &self.key
    }
}

/// What the shared cache had.
enum Taken<'a> {
    /// The entry is in its place.
    Entry,
    /// It is to be made here.
    Nothing(Option<super::shared::Claim<'a>>),
}

/// Why a step ran, or did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It did not run: the result of the same inputs was there.
    Cached,
    /// It did not run: another machine's result was taken.
    Shared,
    /// There was no earlier result for this subject.
    First,
    /// The nearest earlier result was made from other inputs.
    InputsChanged(Vec<InputChange>),
    /// The result was there, but not whole.
    Damaged(String),
}

impl Reason {
    /// Whether the step ran.
    pub const fn ran(&self) -> bool {
        !matches!(self, Self::Cached | Self::Shared)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cached => f.write_str("inputs unchanged"),
            Self::Shared => f.write_str("taken from the shared cache"),
            Self::First => f.write_str("no earlier result"),
            Self::InputsChanged(changes) => {
                for (index, change) in changes.iter().take(3).enumerate() {
                    write!(f, "{}{change}", if index == 0 { "" } else { ", " })?;
                }
                if changes.len() > 3 { write!(f, " and {} more", changes.len() - 3) } else { Ok(()) }
            }
            Self::Damaged(problem) => write!(f, "cached result is damaged ({problem})"),
        }
    }
}

impl Cache {
    /// The result of `inputs`, if it is there and looks whole.
    ///
    /// # Errors
    /// When locks cannot be had.
    pub fn find(&self, bucket: Bucket, inputs: &Inputs) -> Result<Option<CacheEntry>, CacheError> {
        let key = inputs.key();
        if !self.bucket(bucket).join(&key.0).is_dir() {
            return Ok(None);
        }
        let lock = self.lock_file(bucket, &key)?;
        lock.lock_shared().map_err(CacheError::io("lock", &self.locks()))?;
        Ok(self.open(bucket, &key, lock).ok())
    }

    /// The result of `inputs`: from the cache, or made by `make` in the folder that it is given. Only one process makes it;
    /// others wait. What a failing or killed `make` leaves is discarded.
    ///
    /// # Errors
    /// Of the cache, or of `make`.
    pub fn get_or_make<E: From<CacheError>>(
        &self,
        bucket: Bucket,
        inputs: &Inputs,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(CacheEntry, Reason), E> {
        if let Some(entry) = self.find(bucket, inputs)? {
            return Ok((entry, Reason::Cached));
        }
        self.create()?;
        let key = inputs.key();
        let lock = self.lock_file(bucket, &key)?;
        lock.lock().map_err(CacheError::io("lock", &self.locks()))?;
        let place = self.bucket(bucket).join(&key.0);
        let reason = if place.is_dir() {
            // Another process may have made it while this one waited.
            let whole = EntryRecord::read(&place).and_then(|record| record.check_sizes(&place));
            match whole {
                Ok(()) => return Ok((self.opened(bucket, &key, lock), Reason::Cached)),
                Err(problem) => Reason::Damaged(problem),
            }
        } else {
            self.explain(bucket, inputs)
        };
        let mut claim = None;
        if let Some(shared) = &self.shared {
            match self.take(shared, bucket, &key)? {
                Taken::Entry => return Ok((self.opened(bucket, &key, lock), Reason::Shared)),
                Taken::Nothing(own) => claim = own,
            }
        }
        let staging = self.bucket(bucket).join(format!(".tmp-{key}"));
        remove_folder(&staging)?;
        let content = staging.join(CONTENT);
        fs::create_dir_all(&content).map_err(CacheError::io("create", &content))?;
        let made = make(&content).and_then(|()| Ok(self.install(bucket, inputs, &staging)?));
        if let Err(error) = made {
            let _ = files::remove_folder(&staging);
            return Err(error);
        }
        if let (Some(shared), Some(_)) = (&self.shared, &claim) {
            shared.offer(bucket, &place);
        }
        Ok((self.opened(bucket, &key, lock), reason))
    }

    /// Takes an entry of the shared cache, whether it is here or not; false: it has none.
    ///
    /// # Errors
    /// A store that does not answer or holds something else, a file system that refuses something.
    pub fn pull(&self, bucket: Bucket, key: &Key) -> Result<bool, CacheError> {
        let Some(shared) = &self.shared else { return Ok(false) };
        self.create()?;
        let lock = self.lock_file(bucket, key)?;
        lock.lock().map_err(CacheError::io("lock", &self.locks()))?;
        let staging = self.pulled(bucket, key);
        match shared.pull(bucket, key, &staging.join(CONTENT))? {
            Some(inputs) => self.install(bucket, &inputs, &staging).map(|()| true),
            None => Ok(false),
        }
    }

    fn pulled(&self, bucket: Bucket, key: &Key) -> PathBuf {
        self.bucket(bucket).join(format!(".pull-{key}"))
    }

    fn take<'a>(&self, shared: &'a Shared, bucket: Bucket, key: &Key) -> Result<Taken<'a>, CacheError> {
        let staging = self.pulled(bucket, key);
        match shared.obtain(bucket, key, &staging.join(CONTENT)) {
            Obtained::Pulled(inputs) => self.install(bucket, &inputs, &staging).map(|()| Taken::Entry),
            Obtained::Absent(claim) => Ok(Taken::Nothing(claim)),
        }
    }

    /// Makes what was made, or came, the entry.
    fn install(&self, bucket: Bucket, inputs: &Inputs, staging: &Path) -> Result<(), CacheError> {
        let digests = EntryRecord::seal(inputs, staging)?;
        let place = self.bucket(bucket).join(&inputs.key().0);
        remove_folder(&place)?;
        rename(staging, &place).map_err(CacheError::io("rename", staging))?;
        for (name, digests) in digests {
            self.digests().remember(&place.join(CONTENT).join(name), digests);
        }
        Ok(())
    }

    fn create(&self) -> Result<(), CacheError> {
        for folder in Bucket::ALL.map(|bucket| self.bucket(bucket)).iter().chain([&self.locks()]) {
            fs::create_dir_all(folder).map_err(CacheError::io("create", folder))?;
        }
        let tag = self.root.join("CACHEDIR.TAG");
        if !tag.exists() {
            let text =
                "Signature: 8a477f597d28d172789f06886806bc55\n# Knapsack's cache; `knapsack cache clean` empties it.\n";
            files::write_atomically(&tag, text.as_bytes()).map_err(CacheError::io("write", &tag))?;
        }
        Ok(())
    }

    pub(super) fn lock_file(&self, bucket: Bucket, key: &Key) -> Result<File, CacheError> {
        let locks = self.locks();
        fs::create_dir_all(&locks).map_err(CacheError::io("create", &locks))?;
        let path = locks.join(format!("{}-{key}.lock", bucket.folder()));
        File::options().create(true).append(true).open(&path).map_err(CacheError::io("create", &path))
    }

    fn open(&self, bucket: Bucket, key: &Key, lock: File) -> Result<CacheEntry, String> {
        let place = self.bucket(bucket).join(&key.0);
        EntryRecord::read(&place)?.check_sizes(&place)?;
        Ok(CacheEntry { content: place.join(CONTENT), key: key.clone(), _lock: lock })
    }

    /// Keeps the exclusive lock as a shared one, so that others may read too.
    fn opened(&self, bucket: Bucket, key: &Key, lock: File) -> CacheEntry {
        // Where a lock cannot be converted the exclusive one stays, which only makes others wait.
        let _ = lock.lock_shared();
        CacheEntry { content: self.bucket(bucket).join(&key.0).join(CONTENT), key: key.clone(), _lock: lock }
    }

    /// Compares with the entry of the same subject that differs least.
    fn explain(&self, bucket: Bucket, inputs: &Inputs) -> Reason {
        let mut best: Option<Vec<InputChange>> = None;
        for (_, path) in self.entries(bucket) {
            let Ok(record) = EntryRecord::read(&path) else { continue };
            if record.inputs.subject == inputs.subject {
                let changes = inputs.changes(&record.inputs);
                if best.as_ref().is_none_or(|best| changes.len() < best.len()) {
                    best = Some(changes);
                }
            }
        }
        best.map_or(Reason::First, Reason::InputsChanged)
    }

    /// Keys and folders of a bucket, in order.
    pub(super) fn entries(&self, bucket: Bucket) -> Vec<(Key, PathBuf)> {
        let mut found: Vec<_> = fs::read_dir(self.bucket(bucket))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            .filter(|(name, _)| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .map(|(name, path)| (Key(name), path))
            .collect();
        found.sort();
        found
    }
}

fn remove_folder(path: &Path) -> Result<(), CacheError> {
    match files::remove_folder(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CacheError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
