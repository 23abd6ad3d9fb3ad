//! One file per family: its row, its table, how its configuration is read and written.

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
mod rows;
pub(crate) mod stablelm;

/// How results were checked, for [`crate::Family::checked`].
pub(crate) const REFERENCE: &str = "mlc_llm (weights, bit for bit) and transformers (logits)";
pub(crate) const GENERATED: &str = "transformers (logits of random checkpoints)";
