//! Passes, memory plan and code generation.
