//! `knapsack cache list|verify --shared` and `gc`.

use super::{PullError, RECORD, Shared, StoreError, record_name};
use crate::cache::{Bucket, Cleaned, Key};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// An entry of the shared cache as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedEntry {
    /// In which bucket.
    pub bucket: Bucket,
    /// The hash of what it was made from.
    pub key: Key,
    /// Bytes of its objects.
    pub bytes: u64,
    /// When the youngest of them was written.
    pub modified: Option<SystemTime>,
    /// Whether it has a record; without one it is being given, or was never given whole.
    pub whole: bool,
    objects: Vec<String>,
}

impl Shared {
    /// Every entry that is whole, by bucket and key.
    ///
    /// # Errors
    /// A store that does not answer, or cannot list.
    pub fn entries(&self) -> Result<Vec<SharedEntry>, StoreError> {
        Ok(self.all()?.into_iter().filter(|entry| entry.whole).collect())
    }

    fn all(&self) -> Result<Vec<SharedEntry>, StoreError> {
        let mut found: BTreeMap<(Bucket, Key), SharedEntry> = BTreeMap::new();
        for bucket in Bucket::ALL {
            for object in self.store().list(&format!("{}/", bucket.folder()))? {
                let mut parts = object.name.split('/').skip(1);
                let (Some(key), Some(name), None) = (parts.next().and_then(Key::parse), parts.next(), parts.next())
                else {
                    continue;
                };
                let entry = found.entry((bucket, key.clone())).or_insert_with(|| SharedEntry {
                    bucket,
                    key,
                    bytes: 0,
                    modified: None,
                    whole: false,
                    objects: Vec::new(),
                });
                entry.bytes += object.size;
                entry.modified = entry.modified.max(object.modified);
                entry.whole |= name == RECORD;
                entry.objects.push(object.name);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Reads everything of an entry and compares its hashes; what is wrong with it, if anything.
    ///
    /// # Errors
    /// A store that does not answer.
    pub fn verify(&self, entry: &SharedEntry) -> Result<Option<String>, StoreError> {
        match self.check(entry) {
            Ok(()) => Ok(None),
            Err(PullError::Damaged(problem)) => Ok(Some(problem)),
            Err(PullError::Store(error)) => Err(error),
        }
    }

    fn check(&self, entry: &SharedEntry) -> Result<(), PullError> {
        let (bucket, key) = (entry.bucket, &entry.key);
        let record = self.record(bucket, key)?;
        let record = record.ok_or_else(|| PullError::Damaged(format!("{RECORD} is not there")))?;
        for file in record.files.values() {
            for (index, part) in file.parts.iter().enumerate() {
                self.pull_part(&format!("{}/{key}/{part}", bucket.folder()), part, file.part_size(index))?;
            }
        }
        Ok(())
    }

    /// Removes what was last written to so long ago, whole or not. Its record goes first, so that nobody takes half of it; who is
    /// taking it at that moment makes it instead.
    ///
    /// # Errors
    /// A store that does not answer, cannot list or may not be written.
    pub fn gc(&self, older_than: Duration, dry_run: bool) -> Result<Cleaned, StoreError> {
        let mut gone = Cleaned::default();
        let is_old = |entry: &SharedEntry| {
            entry.modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age >= older_than)
        };
        for entry in self.all()?.iter().filter(|entry| is_old(entry)) {
            if !dry_run {
                self.store().delete(&record_name(entry.bucket, &entry.key))?;
                for object in entry.objects.iter().filter(|name| !name.ends_with(RECORD)) {
                    self.store().delete(object)?;
                }
            }
            gone.entries += 1;
            gone.bytes += entry.bytes;
        }
        Ok(gone)
    }
}
