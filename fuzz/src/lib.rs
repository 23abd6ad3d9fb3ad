//! Everything that Knapsack reads, given whatever a fuzzer makes: each function is a target of `fuzz_targets`, run by
//! `cargo xtask fuzz` or by `cargo fuzz`. What is read may be refused; nothing may panic, hang or take memory out of proportion.
//!
//! Readers of text take the input as it is. Where most changed bytes would only be refused by a JSON parser or a checksum, an
//! input may also be a list of changes to a valid value ([`changes`]).

mod changes;
mod model;
mod seeds;
mod text;

pub use model::{config, library, safetensors, weight_index};
pub use seeds::begin;
pub use text::{app_config, chat_config, lock, manifest, template, tokenizer};
