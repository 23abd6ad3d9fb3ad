//! What a shared cache needs of a store.

use std::fmt;
use std::time::SystemTime;

/// Objects by name; names are relative paths with `/`, of letters, digits, `-` and `.`.
pub trait Store: fmt::Debug + Send + Sync {
    /// The object, of which `limit` + 1 bytes tell that it is longer; `None`: there is none.
    ///
    /// # Errors
    /// A store that does not answer.
    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// Bytes of the object; `None`: there is none.
    ///
    /// # Errors
    /// A store that does not answer.
    fn size(&self, name: &str) -> Result<Option<u64>, StoreError>;

    /// Writes an object as a whole. With `only_new` one that is there already stays; says whether this one is there now.
    ///
    /// # Errors
    /// A store that does not answer, or may not be written.
    fn put(&self, name: &str, bytes: &[u8], only_new: bool) -> Result<bool, StoreError>;

    /// Removes an object; there may be none.
    ///
    /// # Errors
    /// A store that does not answer, or may not be written.
    fn delete(&self, name: &str) -> Result<(), StoreError>;

    /// Every object whose name begins with `prefix`.
    ///
    /// # Errors
    /// A store that does not answer, or cannot list.
    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError>;
}

/// An object as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// With the folders that it lies in, `/` between them.
    pub name: String,
    /// How many bytes it has.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: Option<SystemTime>,
}

/// Why a store did not do what it was asked for. Never holds credentials.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{problem}")]
pub struct StoreError {
    /// One sentence, for people.
    pub problem: String,
    /// Whether it is about writing alone: reading may go on.
    pub read_only: bool,
}

impl StoreError {
    /// A store that cannot be used.
    pub fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), read_only: false }
    }
}
