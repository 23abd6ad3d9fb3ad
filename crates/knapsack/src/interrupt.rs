//! Ctrl-C.
//!
//! Nothing half-done is ever visible (files are written beside and renamed), so stopping at once is safe and is what
//! happens by default. Work that wants to stop in an orderly way, such as a chat that should end its answer and not the
//! program, holds a [`Graceful`] and asks [`Graceful::requested`]; a second Ctrl-C stops at once even then.

use crate::exit::{INTERRUPTED, Interrupted};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ctrl-C presses not yet dealt with.
static PRESSED: AtomicUsize = AtomicUsize::new(0);
/// Living [`Graceful`]s.
static GRACEFUL: AtomicUsize = AtomicUsize::new(0);

/// Installs the handler. When that is impossible, Ctrl-C keeps the system's meaning.
pub(crate) fn install() {
    let _ = ctrlc::set_handler(|| {
        let earlier = PRESSED.fetch_add(1, Ordering::SeqCst);
        if earlier > 0 || GRACEFUL.load(Ordering::SeqCst) == 0 {
            std::process::exit(i32::from(INTERRUPTED));
        }
    });
}

/// While this lives, the first Ctrl-C only sets a flag.
#[derive(Debug)]
pub struct Graceful(());

impl Graceful {
    /// Takes over the first Ctrl-C.
    #[expect(clippy::new_without_default, reason = "creating one has an effect")]
    pub fn new() -> Self {
        GRACEFUL.fetch_add(1, Ordering::SeqCst);
        Graceful(())
    }

    /// Whether Ctrl-C was pressed.
    pub fn requested(&self) -> bool {
        PRESSED.load(Ordering::SeqCst) > 0
    }

    /// An error once Ctrl-C was pressed, for use with `?` between steps.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.requested() { Err(Interrupted) } else { Ok(()) }
    }

    /// Says that the press was dealt with, so that the next one is a first one again.
    pub fn clear(&self) {
        PRESSED.store(0, Ordering::SeqCst);
    }
}

impl Drop for Graceful {
    fn drop(&mut self) {
        GRACEFUL.fetch_sub(1, Ordering::SeqCst);
    }
}
