//! Writes packages: object files, weights, app config.
