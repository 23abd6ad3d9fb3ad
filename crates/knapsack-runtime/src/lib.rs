//! Loads packages and generates text.
