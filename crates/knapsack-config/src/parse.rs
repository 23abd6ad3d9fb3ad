//! One file of JSON with comments into values with spans.

/// Longest manifest that is read.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
