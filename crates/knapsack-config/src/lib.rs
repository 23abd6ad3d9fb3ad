//! The manifest: parsing with spans, validation, JSON Schema, lockfile.
