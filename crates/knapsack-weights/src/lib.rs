//! Checkpoint conversion to MLC weight folders.
