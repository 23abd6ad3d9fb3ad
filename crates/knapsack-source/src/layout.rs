//! The hub cache on the disk, as `huggingface_hub` lays it out, so that what either downloaded, the other finds.
//!
//! ```text
//! <cache>/.locks/models--org--name/<id>.lock         held while a blob is being written
//! <cache>/models--org--name/refs/<revision>          the commit that a branch or tag last stood for
//! <cache>/models--org--name/blobs/<id>               content; id: sha256 of LFS files, Git object id of others
//! <cache>/models--org--name/blobs/<id>.incomplete    the first part of it
//! <cache>/models--org--name/snapshots/<commit>/path  a link to ../../blobs/<id>
//! ```
//!
//! Where links are not possible (FAT, Windows without the privilege), the snapshot holds the file itself and there is no blob.

use knapsack_artifact::files::{self, rename, sync_file};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use knapsack_config::lockfile::{check_relative_path, is_digest};

use crate::error::{Error, Result};
use crate::location::RepoId;

/// A hub cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubCache {
    pub(crate) root: PathBuf,
    /// Whether snapshots link to blobs; the alternative is for file systems without links.
    pub(crate) links: bool,
}

/// Held while one blob is written; other processes wait. The operating system releases it when the process ends, however.
#[derive(Debug)]
pub(crate) struct BlobLock {
    _file: File,
}

impl HubCache {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), links: true }
    }

    pub(crate) fn repository(&self, repository: &RepoId) -> PathBuf {
        self.root.join(repository.folder())
    }

    pub(crate) fn snapshot(&self, repository: &RepoId, commit: &str) -> PathBuf {
        self.repository(repository).join("snapshots").join(commit)
    }

    pub(crate) fn blob(&self, repository: &RepoId, id: &str) -> PathBuf {
        self.repository(repository).join("blobs").join(id)
    }

    pub(crate) fn partial(&self, repository: &RepoId, id: &str) -> PathBuf {
        self.repository(repository).join("blobs").join(format!("{id}.incomplete"))
    }

    /// The commit that `revision` stood for when it was last asked.
    pub(crate) fn read_ref(&self, repository: &RepoId, revision: &str) -> Option<String> {
        if is_digest(revision, 40) {
            return Some(revision.to_owned());
        }
        check_relative_path(revision).ok()?;
        let text = fs::read_to_string(self.repository(repository).join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_digest(commit, 40))
    }

    /// Notes the commit of a branch or tag, as Python does, for its and our offline runs.
    pub(crate) fn write_ref(&self, repository: &RepoId, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || check_relative_path(revision).is_err() {
            return Ok(());
        }
        if self.read_ref(repository, revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.repository(repository).join("refs").join(revision);
        create_parent(&path)?;
        let beside = beside(&self.repository(repository).join("ref"));
        files::replace(&path, &beside, commit.as_bytes()).map_err(Error::io("write", &path))
    }

    /// Waits until no other process writes the blob. `waiting` is called about ten times a second meanwhile and may give up.
    pub(crate) fn lock(
        &self,
        repository: &RepoId,
        id: &str,
        waiting: &mut dyn FnMut() -> Result<()>,
    ) -> Result<BlobLock> {
        let path = self.root.join(".locks").join(repository.folder()).join(format!("{id}.lock"));
        create_parent(&path)?;
        let mut open = File::options();
        let file =
            open.create(true).truncate(false).write(true).open(&path).map_err(Error::io("open the lock", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(BlobLock { _file: file }),
                Err(TryLockError::WouldBlock) => {
                    waiting()?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(TryLockError::Error(source)) => return Err(Error::Io { action: "take the lock", path, source }),
            }
        }
    }

    /// Makes `path` of a snapshot stand for the blob. `fresh`: the blob was just written and nothing else refers to it.
    pub(crate) fn link(&self, repository: &RepoId, commit: &str, path: &str, id: &str, fresh: bool) -> Result<PathBuf> {
        let pointer = self.snapshot(repository, commit).join(path);
        let blob = self.blob(repository, id);
        create_parent(&pointer)?;
        let depth = 2 + path.matches('/').count();
        // Part by part: links of Windows take only its own separator.
        let target: PathBuf = std::iter::repeat_n("..", depth).chain(["blobs", id]).collect();
        if self.links {
            let beside = beside(&pointer);
            match symlink(&target, &beside).and_then(|()| rename(&beside, &pointer)) {
                Ok(()) => return Ok(pointer),
                Err(error) if links_are_refused(&error) => {}
                Err(error) => return Err(Error::io("link", &pointer)(error)),
            }
        }
        let beside = beside(&blob);
        let moved = match fresh {
            true => rename(&blob, &pointer),
            false => fs::copy(&blob, &beside).and_then(|_| sync_file(&beside)).and_then(|()| rename(&beside, &pointer)),
        };
        moved.map(|()| pointer.clone()).map_err(Error::io("write", &pointer))
    }
}

/// A name beside `path` that no other thread or process uses: what is written there is then renamed to `path`.
pub(crate) fn beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{number}.tmp", std::process::id()))
}

pub(crate) fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(Error::io("create the folder", parent))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// EPERM of file systems without links, ERROR_PRIVILEGE_NOT_HELD and ERROR_INVALID_FUNCTION of Windows; wine says that it made a link
/// and did not, so that there is nothing to rename.
fn links_are_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
        || cfg!(windows) && matches!(error.raw_os_error(), Some(1 | 2 | 50 | 1314))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f";

    fn cache() -> (tempfile::TempDir, HubCache, RepoId) {
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache::new(folder.path());
        let repository = RepoId::parse("org/name").unwrap();
        create_parent(&cache.blob(&repository, "id")).unwrap();
        fs::write(cache.blob(&repository, "id"), "content").unwrap();
        (folder, cache, repository)
    }

    #[test]
    #[cfg(unix)]
    fn snapshots_link_to_blobs_relatively() {
        let (folder, cache, repository) = cache();
        for (path, target) in [("a.json", "../../blobs/id"), ("sub/b.bin", "../../../blobs/id")] {
            for _ in 0..2 {
                let pointer = cache.link(&repository, COMMIT, path, "id", true).unwrap();
                assert_eq!(pointer, folder.path().join("models--org--name/snapshots").join(COMMIT).join(path));
                assert_eq!(fs::read_link(&pointer).unwrap(), Path::new(target));
                assert_eq!(fs::read_to_string(&pointer).unwrap(), "content");
            }
        }
    }

    #[test]
    fn without_links_the_snapshot_holds_the_file() {
        let (_folder, mut cache, repository) = cache();
        cache.links = false;
        let copy = cache.link(&repository, COMMIT, "a.json", "id", false).unwrap();
        assert!(copy.symlink_metadata().unwrap().is_file() && cache.blob(&repository, "id").exists());
        let moved = cache.link(&repository, COMMIT, "b.json", "id", true).unwrap();
        assert_eq!(fs::read_to_string(moved).unwrap(), "content");
        assert!(!cache.blob(&repository, "id").exists());
    }

    #[test]
    fn refs_hold_commits_and_nothing_else() {
        let (folder, cache, repository) = cache();
        assert_eq!(cache.read_ref(&repository, "main"), None);
        cache.write_ref(&repository, "main", COMMIT).unwrap();
        cache.write_ref(&repository, "refs/pr/1", COMMIT).unwrap();
        assert_eq!(cache.read_ref(&repository, "main").as_deref(), Some(COMMIT));
        assert_eq!(cache.read_ref(&repository, "refs/pr/1").as_deref(), Some(COMMIT));
        assert_eq!(cache.read_ref(&repository, COMMIT).as_deref(), Some(COMMIT));
        assert_eq!(cache.read_ref(&repository, "../../main"), None);
        fs::write(folder.path().join("models--org--name/refs/odd"), "../../x").unwrap();
        assert_eq!(cache.read_ref(&repository, "odd"), None);
    }

    #[test]
    fn a_lock_is_waited_for_and_the_wait_can_be_given_up() {
        let (_folder, cache, repository) = cache();
        let held = cache.lock(&repository, "id", &mut || panic!("it is free")).unwrap();
        let mut waits = 0;
        let stopped = cache.lock(&repository, "id", &mut || {
            waits += 1;
            if waits < 2 { Ok(()) } else { Err(Error::Stopped) }
        });
        assert!(matches!(stopped, Err(Error::Stopped)));
        drop(held);
        // A program that another test starts at this moment holds it, too, until it is one.
        let mut waits = 0;
        let mut waiting = || {
            waits += 1;
            assert!(waits < 100, "it is free again");
            Ok(())
        };
        cache.lock(&repository, "id", &mut waiting).unwrap();
    }
}
