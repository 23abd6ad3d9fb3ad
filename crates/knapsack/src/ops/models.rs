//! `knapsack models`: the families and formats that are supported, and what each was checked against.

use crate::cli::JsonArg;
use crate::report::Reporter;
use crate::table::{Align, Table};
use anyhow::Result;
use knapsack_models::{FAMILIES, Family};
use knapsack_tensor::QUANTIZATIONS;
use serde_json::json;

/// What is known of a family besides what its code says.
struct Facts {
    /// Models that belong to it.
    models: &'static str,
    /// What its results are tested against.
    checked: &'static str,
}

const REFERENCE: &str = "mlc_llm (weights, bit for bit) and transformers (logits)";
const GENERATED: &str = "transformers (logits of random checkpoints)";

fn facts(family: Family) -> Facts {
    let (models, checked) = match family {
        Family::Llama => ("Llama 2, 3.x, TinyLlama, SmolLM2, DeepSeek-R1-Distill-Llama", REFERENCE),
        Family::Mistral => ("Mistral 7B", REFERENCE),
        Family::Qwen2 => ("Qwen 2, 2.5", GENERATED),
        Family::Qwen3 => ("Qwen 3", REFERENCE),
        Family::Gemma => ("Gemma 1", GENERATED),
        Family::Gemma2 => ("Gemma 2", REFERENCE),
        Family::Gemma3Text => ("Gemma 3, text", GENERATED),
        Family::Phi3 => ("Phi 3, 3.5 mini", REFERENCE),
        Family::Phi => ("Phi 1.5, 2", GENERATED),
        Family::PhiMsft => ("Phi 1.5, 2 in Microsoft's layout", "no outside reference; the graph is that of phi"),
        Family::StableLm => ("StableLM 3B, StableLM 2", GENERATED),
        Family::GptNeox => ("Pythia, RedPajama", GENERATED),
    };
    Facts { models, checked }
}

/// Lists families and formats.
pub fn run(args: &JsonArg, reporter: &Reporter) -> Result<()> {
    if args.json || reporter.is_json() {
        let families = FAMILIES.map(|family| {
            let Facts { models, checked } = facts(family);
            let architectures = family.architectures();
            json!({ "family": family.name(), "architectures": architectures, "models": models, "checked_against": checked })
        });
        let formats = QUANTIZATIONS.map(|format| {
            let grouped = format.linear();
            json!({
                "quantization": format.name,
                "bits": grouped.map(|group| group.bits),
                "group": grouped.map(|group| group.group),
                "model_dtype": format.model_dtype.name(),
            })
        });
        return reporter.result("models", &json!({ "families": families, "formats": formats }));
    }
    let mut table = Table::new(&[("family", Align::Left), ("models", Align::Left), ("checked against", Align::Left)]);
    for family in FAMILIES {
        let Facts { models, checked } = facts(family);
        table.row([family.name(), models, checked].map(str::to_owned));
    }
    let formats: Vec<&str> = QUANTIZATIONS.iter().map(|format| format.name).collect();
    reporter.stdout(|out| write!(out, "{table}\n  formats: {}\n", formats.join(", ")))
}
