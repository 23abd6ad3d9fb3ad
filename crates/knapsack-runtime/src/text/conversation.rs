//! MLC's `conv_template`: a prompt as the concatenation of literal pieces. The rules are those of mlc_llm's
//! `Conversation.as_prompt` and of its engine, which replaces the template's system message by the conversation's.

use super::TextError;
use super::template::{Message, Prompt, Role};
use serde::Deserialize;
use std::collections::BTreeMap;

const SYSTEM: &str = "{system_message}";
const FUNCTION: &str = "{function_string}";
/// Longest prompt that is rendered.
pub(super) const MAX_PROMPT_BYTES: usize = 16 << 20;

/// The template of `mlc-chat-config.json`, complete.
#[derive(Clone, Debug)]
pub struct ConvTemplate {
    raw: Box<Raw>,
}

/// What a `conv_template` lacks to be usable; older and hand-written configurations only give a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("conv_template is incomplete: {0}")]
pub struct IncompleteTemplate(String);

#[derive(Clone, Debug, Deserialize)]
struct Raw {
    #[serde(default)]
    name: Option<String>,
    #[serde(default = "system_placeholder")]
    system_template: String,
    #[serde(default)]
    system_message: String,
    #[serde(default)]
    system_prefix_token_ids: Option<Vec<u32>>,
    #[serde(default = "yes")]
    add_role_after_system_message: bool,
    roles: BTreeMap<String, String>,
    #[serde(default)]
    role_templates: Option<BTreeMap<String, String>>,
    #[serde(default)]
    messages: Vec<(String, Option<String>)>,
    seps: Vec<String>,
    #[serde(default)]
    role_content_sep: String,
    #[serde(default)]
    role_empty_sep: String,
    #[serde(default)]
    stop_str: Vec<String>,
    #[serde(default)]
    stop_token_ids: Vec<u32>,
    #[serde(default)]
    strip_reasoning_in_history: bool,
    #[serde(default)]
    function_string: String,
}

fn system_placeholder() -> String {
    SYSTEM.to_owned()
}

const fn yes() -> bool {
    true
}

impl ConvTemplate {
    /// Reads the value of the key `conv_template`.
    ///
    /// # Errors
    /// When a key that has no default is absent or of the wrong type: `roles` with `user` and `assistant`, and one or two
    /// `seps`.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, IncompleteTemplate> {
        let raw = Raw::deserialize(value).map_err(|error| IncompleteTemplate(error.to_string()))?;
        for role in ["user", "assistant"] {
            if !raw.roles.contains_key(role) {
                return Err(IncompleteTemplate(format!("roles has no {role:?}")));
            }
        }
        if !matches!(raw.seps.len(), 1 | 2) {
            return Err(IncompleteTemplate(format!("seps has {} entries, 1 or 2 expected", raw.seps.len())));
        }
        Ok(Self { raw: Box::new(raw) })
    }

    /// The template's name; empty when it has none.
    pub fn name(&self) -> &str {
        self.raw.name.as_deref().unwrap_or_default()
    }

    /// Strings that end an answer.
    pub fn stop_strings(&self) -> &[String] {
        &self.raw.stop_str
    }

    /// Tokens that end an answer, as written: they may be outside the vocabulary.
    pub fn stop_token_ids(&self) -> &[u32] {
        &self.raw.stop_token_ids
    }

    /// The prompt that asks for the assistant's answer to `messages`.
    ///
    /// # Errors
    /// A role that the template does not define, or a prompt beyond 16 MiB.
    pub fn render(&self, messages: &[Message]) -> Result<Prompt, TextError> {
        let raw = &*self.raw;
        let system = messages.iter().rev().find(|message| message.role == Role::System);
        let system =
            raw.system_template.replace(SYSTEM, system.map_or(&raw.system_message, |message| &message.content));
        let turns: Vec<(&str, &str)> = raw
            .messages
            .iter()
            .filter_map(|(role, content)| Some((role.as_str(), content.as_deref()?)))
            .chain(
                messages
                    .iter()
                    .filter(|message| message.role != Role::System)
                    .map(|message| (message.role.as_str(), message.content.as_str())),
            )
            .collect();
        let mut text = system;
        let has_system = !text.is_empty();
        for (index, &(role, content)) in turns.iter().enumerate() {
            if raw.add_role_after_system_message || !has_system || index > 0 {
                text.push_str(self.role(role)?);
                text.push_str(&raw.role_content_sep);
            }
            let content = match role {
                "assistant" if raw.strip_reasoning_in_history => without_reasoning(content),
                _ => content,
            };
            text.push_str(&self.fill(role, content));
            text.push_str(if role == "assistant" { &raw.seps[raw.seps.len() - 1] } else { &raw.seps[0] });
            if text.len() > MAX_PROMPT_BYTES {
                return Err(TextError::PromptTooLong(MAX_PROMPT_BYTES));
            }
        }
        text.push_str(self.role("assistant")?);
        text.push_str(&raw.role_empty_sep);
        // The last placeholder takes the functions, the others vanish.
        if let Some((before, after)) = text.rsplit_once(FUNCTION) {
            text = format!("{}{}{after}", before.replace(FUNCTION, ""), raw.function_string);
        }
        Ok(Prompt { prefix: raw.system_prefix_token_ids.clone().unwrap_or_default(), text })
    }

    fn role(&self, role: &str) -> Result<&str, TextError> {
        self.raw.roles.get(role).map(String::as_str).ok_or_else(|| TextError::UnknownRole {
            template: self.name().to_owned(),
            role: Role::parse(role).map_or("other", Role::as_str),
        })
    }

    fn fill(&self, role: &str, content: &str) -> String {
        match self.raw.role_templates.as_ref().and_then(|templates| templates.get(role)) {
            Some(template) => template.replace(&format!("{{{role}_message}}"), content),
            None => content.to_owned(),
        }
    }
}

/// An earlier answer without what the model thought before it.
fn without_reasoning(content: &str) -> &str {
    content.rsplit_once("</think>").map_or(content, |(_, answer)| answer.trim_start_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    fn qwen3() -> serde_json::Value {
        json!({
            "name": "qwen3", "system_template": "<|im_start|>system\n{system_message}<|im_end|>\n",
            "system_message": "You are a helpful assistant.", "system_prefix_token_ids": null,
            "roles": {"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"},
            "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}"},
            "seps": ["<|im_end|>\n"], "role_content_sep": "\n", "role_empty_sep": "\n",
            "stop_str": ["<|im_end|>"], "stop_token_ids": [151643], "strip_reasoning_in_history": true
        })
    }

    #[test]
    fn chatml_with_the_default_and_a_given_system_message() {
        let template = ConvTemplate::from_json(&qwen3()).unwrap();
        let prompt = template.render(&[message(Role::User, "Hi {user_message}")]).unwrap();
        assert_eq!(
            prompt.text,
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi {user_message}<|im_end|>\n\
             <|im_start|>assistant\n"
        );
        assert!(prompt.prefix.is_empty());
        let turns = [
            message(Role::System, "Be brief."),
            message(Role::User, "2+2?"),
            message(Role::Assistant, "<think>\nhm\n</think>\n\n4"),
            message(Role::User, "3+3?"),
        ];
        assert_eq!(
            template.render(&turns).unwrap().text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n\
             <|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn llama2_joins_the_first_user_message_to_the_system_message() {
        let template = ConvTemplate::from_json(&json!({
            "name": "llama-2", "system_template": "[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n ",
            "system_message": "S", "system_prefix_token_ids": [1], "add_role_after_system_message": false,
            "roles": {"user": "<s>[INST]", "assistant": "[/INST]", "tool": "[INST]"},
            "seps": [" ", " </s>"], "role_content_sep": " ", "role_empty_sep": " "
        }))
        .unwrap();
        let turns = [message(Role::User, "a"), message(Role::Assistant, "b"), message(Role::User, "c")];
        let prompt = template.render(&turns).unwrap();
        assert_eq!(prompt.prefix, [1]);
        assert_eq!(prompt.text, "[INST] <<SYS>>\nS\n<</SYS>>\n\n a [/INST] b </s><s>[INST] c [/INST] ");
    }

    #[test]
    fn function_placeholders_take_the_last_place_only() {
        let mut json = qwen3();
        json["role_templates"]["user"] = "{function_string}|{user_message}".into();
        json["function_string"] = "F".into();
        json["system_message"] = "{function_string}".into();
        let text = ConvTemplate::from_json(&json).unwrap().render(&[message(Role::User, "x")]).unwrap().text;
        assert_eq!(text, "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nF|x<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn built_in_messages_come_first() {
        let mut json = qwen3();
        json["messages"] = json!([["user", "u0"], ["assistant", "a0"]]);
        let text = ConvTemplate::from_json(&json).unwrap().render(&[message(Role::User, "u1")]).unwrap().text;
        assert!(text.contains("user\nu0<|im_end|>\n<|im_start|>assistant\na0<|im_end|>\n<|im_start|>user\nu1"));
    }

    #[test]
    fn names_alone_are_incomplete() {
        for (value, problem) in [
            (json!({"name": "llama-3"}), "roles"),
            (json!("llama-3"), "llama-3"),
            (json!({"roles": {"user": "u"}, "seps": ["\n"]}), "assistant"),
            (json!({"roles": {"user": "u", "assistant": "a"}, "seps": []}), "seps has 0"),
        ] {
            let error = ConvTemplate::from_json(&value).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
    }

    #[test]
    fn an_undefined_role_is_an_error() {
        let template = ConvTemplate::from_json(&qwen3()).unwrap();
        let error = template.render(&[message(Role::Tool, "x")]).unwrap_err();
        assert_eq!(error.to_string(), "the conversation template \"qwen3\" has no role \"tool\"");
    }
}
