//! Putting files in their place as every crate does that writes some: on the disk first, then renamed.
//!
//! Windows refuses to rename, replace or remove what somebody has open who does not share it, and somebody often has: virus scanners and
//! indexers open every file that was just written, for some milliseconds. So it is tried again for a while, as rustup and npm do.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// How often: the pauses between, from 10 ms on and each twice the last, make 2.5 s together.
const ATTEMPTS: u32 = 9;

/// [`std::fs::rename`], patiently.
///
/// # Errors
/// Those of the last try.
#[expect(clippy::disallowed_methods, reason = "all others use this one instead")]
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    patiently(|| std::fs::rename(&from, &to))
}

/// Waits until a file is on the disk, not only on its way there: what is renamed into place must not turn out empty after a loss
/// of power.
///
/// # Errors
/// The system's.
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::options().read(true).write(cfg!(windows)).open(path)?.sync_all()
}

/// The same for the names in a folder. Only Unix can wait for that; elsewhere the file system's journal has to do.
///
/// # Errors
/// The system's.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { sync_file(path) } else { Ok(()) }
}

/// The same for all files and folders below `path`, and for itself; links are left alone.
///
/// # Errors
/// The system's.
pub fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => sync_tree(&entry.path())?,
            kind if kind.is_file() => sync_file(&entry.path())?,
            _ => {}
        }
    }
    // A name is worth something when what it names is there.
    sync_folder(path)
}

/// Makes `bytes` the content of `path`: written to `beside`, a name that nobody else uses, and renamed.
///
/// # Errors
/// The system's; then what was at `path` is there, and nothing beside it.
pub fn replace(path: &Path, beside: &Path, bytes: &[u8]) -> io::Result<()> {
    let write = || {
        let mut file = File::create(beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        rename(beside, path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(beside)))
}

/// Does something again that Windows refuses while another program has the file open.
///
/// # Errors
/// Those of the last try, and at once whatever does not pass by itself.
pub fn patiently<T>(operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    attempt(operation, is_held, std::thread::sleep)
}

fn attempt<T>(
    mut operation: impl FnMut() -> io::Result<T>,
    passes: impl Fn(&io::Error) -> bool,
    pause: impl Fn(Duration),
) -> io::Result<T> {
    for number in 0..ATTEMPTS - 1 {
        match operation() {
            Err(error) if passes(&error) => pause(Duration::from_millis(10 << number)),
            outcome => return outcome,
        }
    }
    operation()
}

/// ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION, ERROR_DELETE_PENDING of Windows.
fn is_held(error: &io::Error) -> bool {
    cfg!(windows) && matches!(error.raw_os_error(), Some(5 | 32 | 33 | 303))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::io::ErrorKind;

    /// Fails so often, then succeeds: the outcome, how often it was tried, how long was waited.
    fn failing(times: u32, kind: ErrorKind) -> (io::Result<u32>, u32, Duration) {
        let (tries, waited) = (Cell::new(0), RefCell::new(Duration::ZERO));
        let operation = || {
            tries.set(tries.get() + 1);
            if tries.get() > times { Ok(7) } else { Err(kind.into()) }
        };
        let outcome = attempt(operation, |e| e.kind() == ErrorKind::ResourceBusy, |time| *waited.borrow_mut() += time);
        (outcome, tries.get(), waited.into_inner())
    }

    #[test]
    fn what_passes_is_waited_for_and_nothing_else() {
        let (outcome, tries, waited) = failing(3, ErrorKind::ResourceBusy);
        assert_eq!((outcome.unwrap(), tries, waited), (7, 4, Duration::from_millis(70)));
        let (outcome, tries, waited) = failing(u32::MAX, ErrorKind::ResourceBusy);
        assert!(outcome.is_err() && tries == ATTEMPTS && waited < Duration::from_secs(3), "{tries} {waited:?}");
        let (outcome, tries, _) = failing(1, ErrorKind::NotFound);
        assert!(outcome.is_err() && tries == 1);
        assert!(cfg!(windows) || !is_held(&io::Error::from_raw_os_error(5)));
    }
}
