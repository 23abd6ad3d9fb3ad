//! One file per family: its row, its table, how its configuration is read and written.

pub(crate) mod ernie4_5;
pub(crate) mod exaone4;
pub(crate) mod gemma;
pub(crate) mod gemma2;
pub(crate) mod gemma3;
pub(crate) mod gemma4;
pub(crate) mod gpt_neox;
pub(crate) mod granite;
pub(crate) mod hunyuan;
pub(crate) mod lfm;
pub(crate) mod llama;
pub(crate) mod ministral3;
pub(crate) mod mistral;
pub(crate) mod olmo;
pub(crate) mod phi;
pub(crate) mod phi3;
pub(crate) mod qwen2;
pub(crate) mod qwen3;
pub(crate) mod qwen3_5;
mod rows;
pub(crate) mod smollm3;
pub(crate) mod stablelm;

/// How results were checked, for [`crate::Family::checked`].
pub(crate) const REFERENCE: &str = "mlc_llm (weights, bit for bit) and transformers (logits)";
pub(crate) const GENERATED: &str = "transformers (logits of random checkpoints)";
/// Of a checkpoint that was made elsewhere, by another implementation as well.
pub(crate) const TRANSFORMERS: &str = "transformers (logits of a random checkpoint)";

/// What stands beside the language model in a checkpoint of a model that sees.
pub(crate) const VISION: &[(&str, &str)] = &[
    ("vision_tower.", "vision"),
    ("multi_modal_projector.", "vision"),
    ("model.vision_tower.", "vision"),
    ("model.multi_modal_projector.", "vision"),
];
