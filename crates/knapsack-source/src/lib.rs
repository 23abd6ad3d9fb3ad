//! Resolves and fetches model sources.
