//! Which chat template a converted model gets, and which of MLC's conversation templates corresponds to it.

use crate::error::ConvertError;
use crate::tokenizer::Tokenizer;
use knapsack_artifact::ConvTemplate;
use std::path::PathBuf;

/// Which chat template a converted model talks by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TemplateChoice {
    /// The checkpoint's own.
    #[default]
    Model,
    /// A conversation template of MLC, by its name.
    Preset(String),
    /// A Jinja template in a file.
    File(PathBuf),
}

impl TemplateChoice {
    /// `model`, the name of a preset, or a path: what has a separator or ends with `.jinja`.
    pub fn parse(text: &str) -> Self {
        match text {
            "model" => TemplateChoice::Model,
            path if path.contains(['/', '\\']) || path.ends_with(".jinja") => TemplateChoice::File(path.into()),
            name => TemplateChoice::Preset(name.to_owned()),
        }
    }

    /// The preset that is asked for.
    ///
    /// # Errors
    /// A name that no preset has.
    pub fn preset(&self) -> Result<Option<ConvTemplate>, ConvertError> {
        let TemplateChoice::Preset(name) = self else { return Ok(None) };
        ConvTemplate::named(name).map(Some).ok_or_else(|| ConvertError::ConvTemplate {
            name: name.chars().take(80).collect(),
            known: ConvTemplate::names().collect::<Vec<_>>().join(", "),
        })
    }
}

/// A template is chosen when the model's Jinja template contains `marker` and the tokenizer gives `token` the number `id`: a
/// model that merely looks like another one would otherwise stop at the wrong tokens.
struct Rule {
    template: &'static str,
    family: Option<&'static str>,
    marker: &'static str,
    token: &'static str,
    id: u64,
}

const fn rule(
    template: &'static str,
    family: Option<&'static str>,
    marker: &'static str,
    token: &'static str,
    id: u64,
) -> Rule {
    Rule { template, family, marker, token, id }
}

/// In order: the first that fits counts.
const RULES: &[Rule] = &[
    rule("deepseek_r1_llama", None, "<｜Assistant｜>", "<｜end▁of▁sentence｜>", 128001),
    rule("deepseek_r1_qwen", None, "<｜Assistant｜>", "<｜end▁of▁sentence｜>", 151643),
    rule("llama-3_1", Some("llama"), "<|start_header_id|>", "<|eom_id|>", 128008),
    rule("llama-3", Some("llama"), "<|start_header_id|>", "<|eot_id|>", 128009),
    rule("llama-2", Some("llama"), "<<SYS>>", "</s>", 2),
    rule("tinyllama_v1_0", Some("llama"), "<|assistant|>", "</s>", 2),
    rule("qwen3", Some("qwen3"), "<|im_start|>", "<|im_end|>", 151645),
    rule("qwen2", Some("qwen2"), "<|im_start|>", "<|im_end|>", 151645),
    rule("chatml", Some("llama"), "<|im_start|>", "<|im_end|>", 2),
    rule("gemma3_instruction", None, "<start_of_turn>", "<end_of_turn>", 106),
    rule("gemma_instruction", None, "<start_of_turn>", "<end_of_turn>", 107),
    rule("mistral_default", Some("mistral"), "[INST]", "</s>", 2),
    rule("phi-3", Some("phi3"), "<|end|>", "<|end|>", 32007),
    rule("stablelm-2", Some("stablelm"), "<|assistant|>", "<|endoftext|>", 100257),
    rule("stablelm-3b", Some("stablelm"), "<|assistant|>", "<|endoftext|>", 0),
];

/// The template's name; `None` where no template is known to be the model's.
pub(crate) fn detect(family: &str, tokenizer: &Tokenizer) -> Option<&'static str> {
    let (jinja, _) = tokenizer.jinja.as_ref()?;
    let fits = |rule: &&Rule| {
        rule.family.is_none_or(|wanted| wanted == family)
            && jinja.contains(rule.marker)
            && tokenizer.special.get(rule.token) == Some(&rule.id)
    };
    RULES.iter().find(fits).map(|rule| rule.template)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_names_a_known_template() {
        for rule in RULES {
            let template = ConvTemplate::named(rule.template).expect(rule.template);
            assert!(
                template.stop_token_ids.contains(&(rule.id as u32)) || rule.template == "llama-3_1",
                "{}",
                rule.template
            );
        }
    }
}
