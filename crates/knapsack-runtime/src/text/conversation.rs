//! MLC's `conv_template`: a prompt as the concatenation of literal pieces. The rules are those of mlc_llm's
//! `Conversation.as_prompt` and of its engine, which replaces the template's system message by the conversation's.

use super::TextError;
use super::prompt::{MAX_PROMPT_BYTES, Prompt, PromptOptions};
use super::{Message, Role};
use knapsack_jinja::Text;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

const SYSTEM: &str = "{system_message}";
const FUNCTION: &str = "{function_string}";

/// The template of `mlc-chat-config.json`, complete.
#[derive(Clone, Debug)]
pub struct MlcTemplate {
    raw: Box<Raw>,
}

/// What a `conv_template` lacks to be usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("conv_template is incomplete: {0}")]
pub(crate) struct IncompleteTemplate(String);

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

/// The known template of a value that only gives a name: a string, or an object without roles.
fn by_name(value: &Value) -> Option<Value> {
    let name = match value {
        Value::String(name) => name,
        Value::Object(keys)
            if keys.get("roles").is_none_or(|roles| roles.as_object().is_some_and(|all| all.is_empty())) =>
        {
            keys.get("name")?.as_str()?
        }
        _ => return None,
    };
    serde_json::to_value(knapsack_artifact::ConvTemplate::named(name)?).ok()
}

impl MlcTemplate {
    /// Reads the value of the key `conv_template`; a name alone, as older configurations have it, is the template that MLC has under it.
    ///
    /// # Errors
    /// When a key that has no default is absent or of the wrong type: `roles` with `user` and `assistant`, and one or two
    /// `seps`; a name that is not known.
    pub(crate) fn from_json(value: &Value) -> Result<Self, IncompleteTemplate> {
        let known = by_name(value);
        let raw = Raw::deserialize(known.as_ref().unwrap_or(value));
        let raw = raw.map_err(|error| IncompleteTemplate(error.to_string()))?;
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
    pub(crate) fn stop_strings(&self) -> &[String] {
        &self.raw.stop_str
    }

    /// Tokens that end an answer, as written: they may be outside the vocabulary.
    pub fn stop_token_ids(&self) -> &[u32] {
        &self.raw.stop_token_ids
    }

    /// The prompt that asks for the assistant's answer to `messages`. Several system messages are joined by empty lines; the
    /// functions of the template are those of the options' tools, or its own.
    ///
    /// # Errors
    /// A role that the template does not define, or a prompt beyond 16 MiB.
    pub fn render(&self, messages: &[Message], options: &PromptOptions) -> Result<Prompt, TextError> {
        self.rendered(messages, options, true)
    }

    /// The same without what asks for the answer.
    ///
    /// # Errors
    /// As [`ConvTemplate::render`].
    pub(crate) fn render_said(&self, messages: &[Message], options: &PromptOptions) -> Result<Prompt, TextError> {
        self.rendered(messages, options, false)
    }

    fn rendered(&self, messages: &[Message], options: &PromptOptions, ask: bool) -> Result<Prompt, TextError> {
        let raw = &*self.raw;
        let system: Vec<&str> =
            messages.iter().filter(|message| message.role == Role::System).map(|message| &*message.content).collect();
        let mut out = Pieces::default();
        let functions = self.functions(&options.tools);
        let own_system = match system[..] {
            [] => Some(self.own_system()?),
            _ => None,
        };
        let system_template = own_system.as_deref().unwrap_or(&raw.system_template);
        let places = self.function_places(system_template, messages);
        let mut place = 0;
        let mut fill = |out: &mut Pieces, template: &str, key: &str, content: &str, own: bool| {
            out.fill(template, key, content, own, |out| {
                place += 1;
                if place == places { out.data(&functions) } else { Ok(()) }
            })
        };
        fill(&mut out, system_template, SYSTEM, &system.join("\n\n"), false)?;
        let has_system = !out.text.is_empty();
        let last_user = messages.iter().rposition(|message| message.role == Role::User).unwrap_or(0);
        for (index, turn) in self.turns(messages).enumerate() {
            if raw.add_role_after_system_message || !has_system || index > 0 {
                out.own(self.role(turn.role)?)?;
                out.own(&raw.role_content_sep)?;
            }
            // What was thought before the last question is of no use to the answer; later thoughts are.
            let forgets = raw.strip_reasoning_in_history && turn.at.is_none_or(|at| at < last_user);
            let content = match turn.role {
                "assistant" if forgets => without_reasoning(turn.content),
                _ => turn.content,
            };
            if let Some(reasoning) = turn.reasoning.filter(|_| !forgets) {
                out.own("<think>\n")?;
                out.data(reasoning)?;
                out.own("\n</think>\n\n")?;
            }
            let key = format!("{{{}_message}}", turn.role);
            let template = raw.role_templates.as_ref().and_then(|templates| templates.get(turn.role));
            fill(&mut out, template.map_or(&*key, String::as_str), &key, content, turn.at.is_none())?;
            out.own(if turn.role == "assistant" { &raw.seps[raw.seps.len() - 1] } else { &raw.seps[0] })?;
        }
        if ask {
            out.own(self.role("assistant")?)?;
            out.own(&raw.role_empty_sep)?;
        }
        let (text, data) = out.text.into_parts();
        let data = if options.special_tokens_in_text { Vec::new() } else { data };
        Ok(Prompt { prefix: raw.system_prefix_token_ids.clone().unwrap_or_default(), text, data })
    }

    /// The system prompt with the template's own message: all of it is the template's.
    fn own_system(&self) -> Result<String, TextError> {
        let (template, message) = (&self.raw.system_template, &self.raw.system_message);
        let places = template.matches(SYSTEM).count();
        match template.len().saturating_add(places.saturating_mul(message.len())) <= MAX_PROMPT_BYTES {
            true => Ok(template.replace(SYSTEM, message)),
            false => Err(TextError::PromptTooLong(MAX_PROMPT_BYTES)),
        }
    }

    /// The template's own messages, then the conversation's.
    fn turns<'a>(&'a self, messages: &'a [Message]) -> impl Iterator<Item = Turn<'a>> {
        let own = self.raw.messages.iter().filter_map(|(role, content)| {
            Some(Turn { role: role.as_str(), content: content.as_deref()?, reasoning: None, at: None })
        });
        own.chain(messages.iter().enumerate().filter(|(_, message)| message.role != Role::System).map(
            |(at, message)| Turn {
                role: message.role.as_str(),
                content: &message.content,
                reasoning: message.reasoning.as_deref(),
                at: Some(at),
            },
        ))
    }

    /// The functions that the model may call, as text.
    fn functions(&self, tools: &[Value]) -> String {
        if tools.is_empty() {
            return self.raw.function_string.clone();
        }
        let functions: Vec<&Value> = tools.iter().map(|tool| tool.get("function").unwrap_or(tool)).collect();
        serde_json::to_string(&functions).unwrap_or_default()
    }

    /// How many placeholders for functions the templates hold in this conversation: the last one takes them, the others vanish.
    fn function_places(&self, system_template: &str, messages: &[Message]) -> usize {
        let count = |template: &str| template.matches(FUNCTION).count();
        let templates = self.raw.role_templates.as_ref();
        let by_role = |turn: Turn<'_>| templates.and_then(|all| all.get(turn.role)).map_or(0, |text| count(text));
        count(system_template) + self.turns(messages).map(by_role).sum::<usize>()
    }

    fn role(&self, role: &str) -> Result<&str, TextError> {
        self.raw.roles.get(role).map(String::as_str).ok_or_else(|| TextError::UnknownRole {
            template: self.name().to_owned(),
            role: Role::parse(role).map_or("other", Role::as_str),
        })
    }
}

/// One message as the template sees it; `at` is its place in the conversation.
struct Turn<'a> {
    role: &'a str,
    content: &'a str,
    /// What was thought before it, told apart from it.
    reasoning: Option<&'a str>,
    at: Option<usize>,
}

/// A prompt that grows up to its limit.
#[derive(Default)]
struct Pieces {
    text: Text,
}

impl Pieces {
    fn room(&self, more: usize) -> Result<(), TextError> {
        match self.text.len().saturating_add(more) <= MAX_PROMPT_BYTES {
            true => Ok(()),
            false => Err(TextError::PromptTooLong(MAX_PROMPT_BYTES)),
        }
    }

    fn own(&mut self, text: &str) -> Result<(), TextError> {
        self.room(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    fn data(&mut self, text: &str) -> Result<(), TextError> {
        self.room(text.len())?;
        self.text.push_data(text);
        Ok(())
    }

    /// `template` with `content` for every `key`, and what `function` writes for every place of the functions. Placeholders are
    /// looked for in the template only, never in what was put in.
    fn fill(
        &mut self,
        template: &str,
        key: &str,
        content: &str,
        own: bool,
        mut function: impl FnMut(&mut Self) -> Result<(), TextError>,
    ) -> Result<(), TextError> {
        let mut rest = template;
        loop {
            let (at, length) = match (rest.find(key), rest.find(FUNCTION)) {
                (Some(at), function) if function.is_none_or(|function| at < function) => (at, key.len()),
                (_, Some(at)) => (at, FUNCTION.len()),
                (_, None) => return self.own(rest),
            };
            self.own(&rest[..at])?;
            if rest[at..].starts_with(key) {
                if own { self.own(content)? } else { self.data(content)? }
            } else {
                function(self)?;
            }
            rest = &rest[at + length..];
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
        Message::new(role, content)
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
        let template = MlcTemplate::from_json(&qwen3()).unwrap();
        let prompt = template.render(&[message(Role::User, "Hi {user_message}")], &PromptOptions::default()).unwrap();
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
            template.render(&turns, &PromptOptions::default()).unwrap().text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n\
             <|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn llama2_joins_the_first_user_message_to_the_system_message() {
        let template = MlcTemplate::from_json(&json!({
            "name": "llama-2", "system_template": "[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n ",
            "system_message": "S", "system_prefix_token_ids": [1], "add_role_after_system_message": false,
            "roles": {"user": "<s>[INST]", "assistant": "[/INST]", "tool": "[INST]"},
            "seps": [" ", " </s>"], "role_content_sep": " ", "role_empty_sep": " "
        }))
        .unwrap();
        let turns = [message(Role::User, "a"), message(Role::Assistant, "b"), message(Role::User, "c")];
        let prompt = template.render(&turns, &PromptOptions::default()).unwrap();
        assert_eq!(prompt.prefix, [1]);
        assert_eq!(prompt.text, "[INST] <<SYS>>\nS\n<</SYS>>\n\n a [/INST] b </s><s>[INST] c [/INST] ");
    }

    #[test]
    fn function_placeholders_take_the_last_place_only() {
        let mut json = qwen3();
        json["role_templates"]["user"] = "{function_string}|{user_message}".into();
        json["function_string"] = "F".into();
        json["system_message"] = "{function_string}".into();
        let text = MlcTemplate::from_json(&json)
            .unwrap()
            .render(&[message(Role::User, "x")], &PromptOptions::default())
            .unwrap()
            .text;
        assert_eq!(text, "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nF|x<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn nothing_that_is_said_is_lost_or_becomes_a_placeholder() {
        let template = MlcTemplate::from_json(&qwen3()).unwrap();
        let render = |messages: &[Message], options: &PromptOptions| template.render(messages, options).unwrap();
        let none = PromptOptions::default();
        let said = [
            message(Role::System, "One."),
            message(Role::User, "What is {function_string}?"),
            message(Role::Assistant, "<think>\nold\n</think>\n\nA placeholder."),
            message(Role::System, "Two."),
            message(Role::User, "{user_message}"),
            message(Role::Assistant, "<think>\nnow\n</think>\n\nYes"),
        ];
        let prompt = render(&said, &none);
        assert!(prompt.text.starts_with("<|im_start|>system\nOne.\n\nTwo.<|im_end|>\n"), "{}", prompt.text);
        for kept in [
            "What is {function_string}?",
            "user\n{user_message}<",
            "assistant\nA placeholder.<",
            "<think>\nnow\n</think>\n\nYes",
        ] {
            assert!(prompt.text.contains(kept), "{kept} in {}", prompt.text);
        }
        let data: Vec<&str> = prompt.data.iter().map(|range| &prompt.text[range.clone()]).collect();
        assert_eq!(data[..2], ["One.\n\nTwo.", "What is {function_string}?"]);
        let options = PromptOptions { special_tokens_in_text: true, ..none };
        assert!(render(&said, &options).data.is_empty());
        let mut json = qwen3();
        json["role_templates"]["user"] = "{function_string}|{user_message}".into();
        let tools = vec![json!({"type": "function", "function": {"name": "f"}})];
        let options = PromptOptions { tools, ..PromptOptions::default() };
        let prompt = MlcTemplate::from_json(&json).unwrap().render(&said[1..2], &options).unwrap();
        assert!(prompt.text.contains("user\n[{\"name\":\"f\"}]|What is {function_string}?"), "{}", prompt.text);
    }

    #[test]
    fn thoughts_told_apart_go_back_where_they_were() {
        let answer = |text: &str| Message { reasoning: Some("hm".into()), ..message(Role::Assistant, text) };
        let said = [message(Role::User, "a"), answer("b"), message(Role::User, "c"), answer("d")];
        let render = |strip: bool| {
            let mut json = qwen3();
            json["strip_reasoning_in_history"] = strip.into();
            MlcTemplate::from_json(&json).unwrap().render(&said, &PromptOptions::default()).unwrap()
        };
        let kept = render(false);
        assert_eq!(kept.text.matches("assistant\n<think>\nhm\n</think>\n\n").count(), 2, "{}", kept.text);
        let data: Vec<&str> = kept.data.iter().map(|range| &kept.text[range.clone()]).collect();
        assert_eq!(data, ["a", "hm", "b", "c", "hm", "d"], "the marks are tokens of the template");
        let stripped = render(true).text;
        assert!(stripped.contains("assistant\nb<") && stripped.contains("<think>\nhm\n</think>\n\nd<"), "{stripped}");
    }

    #[test]
    fn placeholders_do_not_multiply_beyond_the_limit() {
        let mut json = qwen3();
        json["system_template"] = "{system_message}".repeat(100_000).into();
        let long = [message(Role::System, &"x".repeat(100_000)), message(Role::User, "y")];
        let error = MlcTemplate::from_json(&json).unwrap().render(&long, &PromptOptions::default()).unwrap_err();
        assert!(matches!(error, TextError::PromptTooLong(_)));
    }

    #[test]
    fn built_in_messages_come_first() {
        let mut json = qwen3();
        json["messages"] = json!([["user", "u0"], ["assistant", "a0"]]);
        let text = MlcTemplate::from_json(&json)
            .unwrap()
            .render(&[message(Role::User, "u1")], &PromptOptions::default())
            .unwrap()
            .text;
        assert!(text.contains("user\nu0<|im_end|>\n<|im_start|>assistant\na0<|im_end|>\n<|im_start|>user\nu1"));
    }

    #[test]
    fn a_name_alone_is_the_known_template() {
        for value in [json!("llama-3"), json!({"name": "llama-3"}), json!({"name": "llama-3", "roles": {}})] {
            let template = MlcTemplate::from_json(&value).unwrap();
            let prompt = template.render(&[message(Role::User, "hi")], &PromptOptions::default()).unwrap();
            assert!(prompt.text.contains("<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"), "{value}");
        }
    }

    #[test]
    fn unknown_names_and_parts_are_incomplete() {
        for (value, problem) in [
            (json!({"name": "llama-30"}), "roles"),
            (json!("llama-30"), "llama-30"),
            (json!({"roles": {"user": "u"}, "seps": ["\n"]}), "assistant"),
            (json!({"roles": {"user": "u", "assistant": "a"}, "seps": []}), "seps has 0"),
        ] {
            let error = MlcTemplate::from_json(&value).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
    }

    #[test]
    fn an_undefined_role_is_an_error() {
        let template = MlcTemplate::from_json(&qwen3()).unwrap();
        let error = template.render(&[message(Role::Tool, "x")], &PromptOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "the conversation template \"qwen3\" has no role \"tool\"");
    }
}
