use crate::error::{Error, Result};
use std::time::{Duration, Instant};

/// Bounds of one rendering. The defaults are far beyond what real templates need: those take some hundred steps for a message and
/// copy its text about ten times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Evaluated nodes, compared items and 64-byte blocks of copied text.
    pub steps: u64,
    /// Bytes of all strings and containers that are made, whether or not they are still in use; the context's size comes on
    /// top sixteen times.
    pub bytes: usize,
    /// Nesting of expressions, statements, macro calls and walked values.
    pub depth: u32,
    /// Bytes of the result.
    pub output: usize,
    /// Time from start to end.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps: 10_000_000, bytes: 64 << 20, depth: 400, output: 16 << 20, time: Duration::from_secs(10) }
    }
}

/// What is left of the bounds.
pub(crate) struct Budget {
    steps: u64,
    bytes: usize,
    pub(crate) depth: u32,
    next_look: u64,
    end: Instant,
    limits: Limits,
}

/// Steps between two looks at the clock.
const LOOK: u64 = 10_000;

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        let Limits { steps, bytes, depth, time, .. } = limits;
        let next_look = steps.saturating_sub(LOOK);
        Self { steps, bytes, depth, next_look, end: Instant::now() + time, limits }
    }

    pub(crate) fn output(&self) -> usize {
        self.limits.output
    }

    /// Pays for `n` steps.
    pub(crate) fn steps(&mut self, n: usize) -> Result<()> {
        self.steps = self
            .steps
            .checked_sub(n as u64)
            .ok_or_else(|| Error::limit(format!("it takes more than {} steps", self.limits.steps)))?;
        if self.steps < self.next_look {
            self.next_look = self.steps.saturating_sub(LOOK);
            if Instant::now() > self.end {
                return Err(Error::limit(format!("it takes longer than {} s", self.limits.time.as_secs())));
            }
        }
        Ok(())
    }

    /// Pays for `n` bytes that are about to be allocated and written.
    pub(crate) fn bytes(&mut self, n: usize) -> Result<()> {
        self.bytes = self
            .bytes
            .checked_sub(n)
            .ok_or_else(|| Error::limit(format!("it makes more than {} bytes of values", self.limits.bytes)))?;
        self.steps(n / 64)
    }

    /// Grants bytes for the context on top.
    pub(crate) fn grant(&mut self, n: usize) {
        self.bytes = self.bytes.saturating_add(n);
    }

    /// Goes one level down; the caller comes back up with [`Budget::up`].
    pub(crate) fn down(&mut self) -> Result<()> {
        self.steps(1)?;
        self.depth = self.depth.checked_sub(1).ok_or_else(too_deep)?;
        Ok(())
    }

    pub(crate) fn up(&mut self) {
        self.depth += 1;
    }
}

pub(crate) fn too_deep() -> Error {
    Error::limit("it is nested too deeply")
}
