//! Small file operations that the standard library leaves to its users.

pub(crate) use knapsack_artifact::files::{sync_file, sync_folder};

use knapsack_artifact::files::{patiently, rename};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};

/// How bundled files get into the package.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkMode {
    /// Share blocks where the file system can, else copy.
    #[default]
    Reflink,
    /// Blocks of their own, on every file system.
    Copy,
    /// Hard links: no space, but a later change of the source shows in the package. Copies across file systems.
    Hardlink,
}

impl LinkMode {
    /// Every mode with its name and what it does, for command lines.
    pub const ALL: [(&'static str, LinkMode, &'static str); 3] = [
        ("reflink", LinkMode::Reflink, "Share blocks where the file system can, else copy"),
        ("copy", LinkMode::Copy, "Copy"),
        ("hardlink", LinkMode::Hardlink, "Hard links: no space, but a later change shows in both"),
    ];
}

/// Puts the content of `source` at `target`, which must not exist. Never makes a symbolic link.
pub(crate) fn place(source: &Path, target: &Path, mode: LinkMode) -> io::Result<()> {
    // A hard link to a symbolic link would be a symbolic link.
    let source = &fs::canonicalize(source)?;
    if mode == LinkMode::Hardlink && fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    if mode == LinkMode::Copy || reflink_copy::reflink(source, target).is_err() {
        // A failed clone may leave an empty file.
        let _ = fs::remove_file(target);
        fs::copy(source, target)?;
    }
    make_ordinary(target)
}

/// Copies carry the source's permissions, and a package must not be read-only because a cache is.
#[cfg(unix)]
fn make_ordinary(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_ordinary(path: &Path) -> io::Result<()> {
    let mut permissions = fs::metadata(path)?.permissions();
    permissions.set_readonly(false);
    fs::set_permissions(path, permissions)
}

/// What is mapped must not be shortened by an editor's slip.
pub(crate) fn make_read_only(path: &Path) -> io::Result<()> {
    let mut permissions = fs::metadata(path)?.permissions();
    permissions.set_readonly(true);
    fs::set_permissions(path, permissions)
}

/// Removes a folder with all that is in it. On Windows a file that is read-only, as those of the cache are, may have to be made writable
/// first; that depends on its file system.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if cfg!(windows) && error.kind() != io::ErrorKind::NotFound => {
            make_all_ordinary(path)?;
            patiently(|| fs::remove_dir_all(path))
        }
        result => result,
    }
}

fn make_all_ordinary(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => make_all_ordinary(&entry.path())?,
            kind if kind.is_file() => make_ordinary(&entry.path())?,
            _ => {}
        }
    }
    Ok(())
}

/// Gives the content of `file` another place on the same file system: its own blocks where they can be shared, else another name of
/// the same file, else a copy.
pub(crate) fn share(file: &Path, target: &Path) -> io::Result<()> {
    if reflink_copy::reflink(file, target).is_ok() {
        return make_ordinary(target);
    }
    // A failed clone may leave an empty file.
    let _ = fs::remove_file(target);
    if fs::hard_link(file, target).is_ok() {
        return Ok(());
    }
    place(file, target, LinkMode::Copy)
}

/// Whether the file has other names (hard links) than its own and, perhaps, `another`; false where that cannot be told.
pub(crate) fn is_linked(metadata: &fs::Metadata, another: Option<&Path>) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let same = |other: fs::Metadata| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino());
        let known = another.is_some_and(|path| fs::symlink_metadata(path).is_ok_and(same));
        metadata.nlink() > 1 + u64::from(known)
    }
    #[cfg(not(unix))]
    {
        let _ = (metadata, another);
        false
    }
}

/// Whether `source` lies where a hard link to it could replace the file of `metadata`.
pub(crate) fn is_same_device(source: &Path, metadata: &fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(source).is_ok_and(|source| source.dev() == metadata.dev())
    }
    #[cfg(not(unix))]
    {
        let _ = (source, metadata);
        false
    }
}

/// Files that wait for the disk at the same time: a file system takes several into one transaction.
const SYNCERS: usize = 4;

/// Does what writes files and tells of each that is written; they go to the disk meanwhile, and are there when it is over.
pub(crate) fn syncing<T, E: Send>(
    failed: &(dyn Fn(&Path, io::Error) -> E + Sync),
    work: impl FnOnce(&(dyn Fn(PathBuf) + Sync)) -> Result<T, E>,
) -> Result<T, E> {
    let (sender, receiver) = mpsc::channel::<PathBuf>();
    let receiver = Mutex::new(receiver);
    let next = || receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    let sync = || -> Result<(), E> {
        while let Some(path) = next() {
            sync_file(&path).map_err(|error| failed(&path, error))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SYNCERS).map(|_| scope.spawn(sync)).collect();
        let done = work(&|path| drop(sender.send(path)));
        drop(sender);
        let synced: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        let value = done?;
        synced.into_iter().try_for_each(|outcome| outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))?;
        Ok(value)
    })
}

/// Writes beside and renames, so that readers see the old file or the new one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("no parent folder"))?;
    let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    persist(file, path)
}

/// Gives a temporary file its name, in place of whatever has it.
///
/// # Errors
/// The system refuses.
pub fn persist(file: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
    let mut held = Some(file);
    patiently(|| {
        let file = held.take().ok_or(io::ErrorKind::NotFound)?;
        let persisted = file.persist(path).map_err(|error| {
            held = Some(error.file);
            error.error
        });
        persisted.map(drop)
    })
}

/// What a swap did with the folder that was there.
pub(crate) enum Swapped {
    /// It is now at the first path.
    Exchanged,
    /// There was none.
    Moved,
}

/// Makes `new` the folder at `place` and leaves the one that was there, if any, at `new`. In one step where the system can
/// exchange names; elsewhere through `aside`, and `recover` undoes a half-done one.
pub(crate) fn swap(new: &Path, place: &Path, aside: &Path) -> io::Result<Swapped> {
    if place.symlink_metadata().is_err() {
        rename(new, place)?;
        return Ok(Swapped::Moved);
    }
    if !in_turn::forced() && exchange(new, place) {
        return Ok(Swapped::Exchanged);
    }
    rename(place, aside)?;
    in_turn::renamed(1);
    if let Err(error) = rename(new, place) {
        rename(aside, place)?;
        return Err(error);
    }
    in_turn::renamed(2);
    rename(aside, new)?;
    in_turn::renamed(3);
    Ok(Swapped::Exchanged)
}

/// Nothing but in tests, which can have names exchanged in turn, and be killed after each renaming.
#[cfg(not(test))]
mod in_turn {
    pub(super) const fn forced() -> bool {
        false
    }

    pub(super) const fn renamed(_: usize) {}
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchange(a: &Path, b: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}

#[cfg(test)]
pub(crate) mod in_turn {
    use std::cell::Cell;

    thread_local! {
        /// After how many renamings this thread is killed.
        pub(crate) static KILL_AFTER: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(super) fn forced() -> bool {
        KILL_AFTER.get().is_some()
    }

    pub(super) fn renamed(count: usize) {
        if KILL_AFTER.get() == Some(count) {
            std::panic::resume_unwind(Box::new("killed"));
        }
    }
}
