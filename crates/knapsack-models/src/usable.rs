//! Kinds of checkpoints that cannot be converted, told from their small files alone.

use crate::error::ConfigError;
use serde_json::Value;

/// What to use in the place of weights that somebody quantized already.
const UNQUANTIZED: &str =
    "use the checkpoint that it was made from, in bfloat16, float16 or float32, or weights that MLC converted";

/// Refuses what a `config.json` says cannot be converted: quantized weights, whatever their method, and models without a language
/// model's head.
///
/// # Errors
/// [`ConfigError::Unusable`], which names the method or the head and what to use instead.
pub fn usable(config: &Value) -> Result<(), ConfigError> {
    let places = [Some(config), config.get("text_config")];
    for place in places.into_iter().flatten() {
        if let Some(method) = quantization(place) {
            return Err(ConfigError::Unusable {
                found: format!("a checkpoint quantized by {method}"),
                instead: UNQUANTIZED,
            });
        }
    }
    let architecture = config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    match architecture.and_then(head) {
        Some((what, instead)) => Err(ConfigError::Unusable { found: what.to_owned(), instead }),
        None => Ok(()),
    }
}

/// The error for a folder with an `adapter_config.json` and no model beside it.
pub fn adapter(adapter_config: &Value) -> ConfigError {
    let text = |key: &str| adapter_config.get(key).and_then(Value::as_str).map(|text| text.chars().take(120).collect());
    let kind: String = text("peft_type").unwrap_or_else(|| "PEFT".to_owned());
    let base: Option<String> = text("base_model_name_or_path");
    let of = base.map(|base| format!(" of {base}")).unwrap_or_default();
    ConfigError::Unusable {
        found: format!("a {kind} adapter{of}"),
        instead: "merge it into its base model (merge_and_unload in PEFT), save that, and package the result",
    }
}

/// The method of a quantized checkpoint. transformers writes `quantization_config`, MLX `quantization`.
fn quantization(config: &Value) -> Option<String> {
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64);
    let details = |value: &Value| {
        let bits = number(value, "bits").map(|bits| format!(", {bits} bits"));
        let group = number(value, "group_size").map(|group| format!(", groups of {group}"));
        [bits, group].into_iter().flatten().collect::<String>()
    };
    let transformers = config.get("quantization_config").filter(|value| value.is_object());
    if let Some(value) = transformers.filter(|value| value.get("quant_method").is_some_and(|method| !method.is_null()))
    {
        let method = value["quant_method"].as_str().unwrap_or("an unknown method");
        let name = match method {
            "gptq" => "GPTQ".to_owned(),
            "awq" => "AWQ".to_owned(),
            "bitsandbytes" => "bitsandbytes".to_owned(),
            other => other.chars().take(40).collect(),
        };
        return Some(name + &details(value));
    }
    if let Some(value) = transformers {
        let named =
            ["load_in_4bit", "load_in_8bit"].iter().any(|key| value.get(*key).and_then(Value::as_bool) == Some(true));
        let name = if named { "bitsandbytes" } else { "a method that its quantization_config does not name" };
        return Some(name.to_owned() + &details(value));
    }
    let mlx = config.get("quantization").filter(|value| value.is_object())?;
    Some("MLX".to_owned() + &details(mlx))
}

/// What a model is that has another head than a language model's, and what to use instead.
fn head(architecture: &str) -> Option<(&'static str, &'static str)> {
    const CHAT: &str = "use the causal language model that it was trained from";
    let heads = [
        ("ForSequenceClassification", "a sequence classifier"),
        ("ForTokenClassification", "a token classifier"),
        ("ForQuestionAnswering", "a question-answering model"),
        ("ForMaskedLM", "a masked language model"),
        ("RewardModel", "a reward model"),
    ];
    heads.iter().find(|(end, _)| architecture.ends_with(end)).map(|(_, what)| (*what, CHAT))
}
