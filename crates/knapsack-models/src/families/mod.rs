//! One file per family, and [`shared`] for what they have in common.

pub(crate) mod gemma;
pub(crate) mod gemma2;
pub(crate) mod gemma3;
pub(crate) mod gpt_neox;
pub(crate) mod llama;
pub(crate) mod mistral;
pub(crate) mod phi;
pub(crate) mod phi3;
pub(crate) mod qwen2;
pub(crate) mod qwen3;
pub(crate) mod shared;
pub(crate) mod stablelm;
