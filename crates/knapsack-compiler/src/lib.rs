//! Passes, memory plan and code generation.

pub mod codegen;
