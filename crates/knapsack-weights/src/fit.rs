//! A model's Jinja template as one of MLC's conversation templates, where it has that form: for MLC's apps, which know no Jinja.
//!
//! The template renders a few conversations of markers. What stands around the markers are the parts of a conversation template;
//! whether they say the same is then tried on other conversations, rendered both ways.

use crate::jinja::{Talk, render};
use crate::tokenizer::Tokenizer;
use knapsack_artifact::ConvTemplate;
use knapsack_jinja::Template;
use serde_json::Value;
use std::collections::BTreeMap;

/// The name of a conversation template that was made here.
pub(crate) const NAME: &str = "derived";

/// In which conversations a conversation template gives the prompts of the model's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Equal {
    /// Not even in a single question.
    Nowhere,
    /// Where no system message is given.
    WithoutSystem,
    /// In all that were tried.
    Everywhere,
}

const SYSTEM: &str = "{system_message}";
const ASSISTANT: &str = "{assistant_message}";
const S: &str = "Marker0S";
const U1: &str = "Marker1U";
const A1: &str = "Marker2A";
const U2: &str = "Marker3U";

/// Conversations in which both must be equal: whoever asks, several lines, what looks like markup or a placeholder.
const TALKS: [Talk<'_>; 3] = [
    &[("user", "What is 37 plus 48?")],
    &[("user", "{user_message} &amp; <b>é</b>"), ("assistant", "One.\n\nTwo: 🙂"), ("user", "\"Three\"\n{}")],
    &[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
];
/// White space around messages, which many templates remove and no conversation template can: compared, but no condition.
const SPACED: Talk<'_> = &[("user", " a\n"), ("assistant", "\n b "), ("user", "\tc \n")];
const INSTRUCTIONS: &str = "Be brief.\nAnd {kind}.";
const THOUGHTS: Talk<'_> = &[("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c")];

/// The conversation template that says most of what the model's own says; `stops` end an answer, whatever the template says.
pub(crate) fn fit(tokenizer: &Tokenizer, settings: &Value, stops: &[u32]) -> Option<(ConvTemplate, Equal)> {
    let (source, _) = tokenizer.jinja.as_ref()?;
    let own = Own { template: Template::parse(source).ok()?, settings };
    let mut best: Option<(ConvTemplate, Equal)> = None;
    for mut candidate in Parts::find(&own)?.iter().flat_map(|parts| parts.candidates(&own)) {
        (candidate.stop_token_ids, candidate.stop_str) = stop(&candidate, tokenizer, stops);
        // A token of its own at the very beginning is MLC's `system_prefix_token_ids`.
        if let Some((text, id)) = own.bos(tokenizer)
            && let Some(rest) = candidate.system_template.strip_prefix(text)
        {
            candidate.system_template = rest.to_owned();
            candidate.system_prefix_token_ids = Some(vec![id]);
        }
        let found = own.equal(&mut candidate, tokenizer);
        if found > best.as_ref().map_or(Equal::Nowhere, |(_, best)| *best) {
            best = Some((candidate, found));
        }
    }
    best
}

/// Where a conversation template of MLC says what the model's own says.
pub(crate) fn compare(preset: &ConvTemplate, tokenizer: &Tokenizer, settings: &Value) -> Equal {
    let template = tokenizer.jinja.as_ref().and_then(|(source, _)| Template::parse(source).ok());
    template.map_or(Equal::Nowhere, |template| Own { template, settings }.equal(&mut preset.clone(), tokenizer))
}

/// Whether a conversation template of MLC, equal otherwise, is so for messages with white space around them too.
pub(crate) fn keeps_spaces(template: &ConvTemplate, tokenizer: &Tokenizer, settings: &Value) -> bool {
    let own = tokenizer.jinja.as_ref().and_then(|(source, _)| Template::parse(source).ok());
    own.is_some_and(|own| Own { template: own, settings }.same(template, tokenizer, SPACED))
}

/// The model's own template.
struct Own<'a> {
    template: Template,
    settings: &'a Value,
}

impl Own<'_> {
    /// A conversation; `None` where the template refuses it, or says something else every day.
    fn ask(&self, talk: Talk<'_>, answer: bool) -> Option<String> {
        let on = |date: &str| render(&self.template, talk, self.settings, answer, date).ok();
        on("1 January 2026").filter(|text| on("2 March 2027").as_ref() == Some(text))
    }

    /// What stands before, between and after the messages of a conversation, each of which must be there once.
    fn around(&self, talk: Talk<'_>, answer: bool) -> Option<Vec<String>> {
        let text = self.ask(talk, answer)?;
        let mut rest = text.as_str();
        let mut parts = Vec::with_capacity(talk.len() + 1);
        for (_, message) in talk {
            let (before, after) = rest.split_once(message)?;
            parts.push(before.to_owned());
            rest = after;
        }
        parts.push(rest.to_owned());
        let messages = |part: &String| talk.iter().any(|(_, message)| part.contains(message));
        (!parts.iter().any(messages)).then_some(parts)
    }

    fn bos<'a>(&'a self, tokenizer: &Tokenizer) -> Option<(&'a str, u32)> {
        let token = self.settings.get("bos_token")?;
        let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
        Some((text, u32::try_from(*tokenizer.special.get(text)?).ok()?))
    }

    /// Whether `other` gives the same prompt in a conversation.
    fn same(&self, other: &ConvTemplate, tokenizer: &Tokenizer, talk: Talk<'_>) -> bool {
        let prefix: Option<String> =
            other.system_prefix_token_ids.iter().flatten().map(|id| tokenizer.spelling(*id)).collect();
        let text = prefix.and_then(|prefix| Some(prefix + &prompt(other, talk)?));
        text.is_some() && text == self.ask(talk, true)
    }

    /// Where `other` gives the same prompts; it is told whether thoughts stay in earlier answers.
    fn equal(&self, other: &mut ConvTemplate, tokenizer: &Tokenizer) -> Equal {
        let same = |other: &ConvTemplate, talk: Talk<'_>| self.same(other, tokenizer, talk);
        let thinks = same(other, THOUGHTS) || {
            other.strip_reasoning_in_history ^= true;
            same(other, THOUGHTS)
        };
        if !thinks || !TALKS.iter().all(|talk| same(other, talk)) {
            return Equal::Nowhere;
        }
        let instructed = |talk: &&Talk<'_>| same(other, &[&[("system", INSTRUCTIONS)], **talk].concat());
        if TALKS.iter().all(|talk| instructed(&talk)) { Equal::Everywhere } else { Equal::WithoutSystem }
    }
}

/// What a template writes around messages.
#[derive(Clone)]
struct Parts {
    /// Before the first question.
    start: String,
    /// After a question.
    user_sep: String,
    /// After an answer.
    assistant_sep: String,
    /// Before a further question.
    user: String,
    /// Before an answer, given or asked for.
    assistant: String,
    /// After that, before an answer that is given.
    given: String,
    /// After that, where an answer is asked for.
    asked: String,
}

impl Parts {
    /// The ways to part it between messages: by what it writes where no answer is asked for, and, since some templates always ask,
    /// by what it writes before the first question as well as before further ones.
    fn find(own: &Own<'_>) -> Option<Vec<Self>> {
        let question: Talk<'_> = &[("user", U1)];
        let answered: Talk<'_> = &[("user", U1), ("assistant", A1)];
        let all: Talk<'_> = &[("user", U1), ("assistant", A1), ("user", U2)];
        let parts: [String; 4] = own.around(all, true)?.try_into().ok()?;
        let [start, after_question, after_answer, asked] = &parts;
        // What follows a message when no answer is asked for is all that can belong to it.
        let last = |talk: Talk<'_>, starts: &[&String]| {
            let end = own.around(talk, false).and_then(|mut parts| parts.pop()).unwrap_or_default();
            if starts.iter().all(|text| text.starts_with(&end)) { end } else { String::new() }
        };
        let user_sep = last(question, &[after_question, asked]);
        let assistant_sep = last(answered, &[after_answer]);
        let (given, asked) = (after_question.strip_prefix(&*user_sep)?, asked.strip_prefix(&*user_sep)?);
        let common = given.char_indices().zip(asked.chars()).find(|((_, a), b)| a != b);
        let common = common.map_or(given.len().min(asked.len()), |((at, _), _)| at);
        let parts = Parts {
            start: start.clone(),
            user: after_answer.strip_prefix(&*assistant_sep)?.to_owned(),
            assistant: given[..common].to_owned(),
            given: given[common..].to_owned(),
            asked: asked[common..].to_owned(),
            user_sep,
            assistant_sep,
        };
        let same = start.chars().rev().zip(after_answer.chars().rev()).take_while(|(a, b)| a == b);
        let (sep, user) = after_answer.split_at(after_answer.len() - same.map(|(a, _)| a.len_utf8()).sum::<usize>());
        let other = Parts { user: user.to_owned(), assistant_sep: sep.to_owned(), ..parts.clone() };
        Some(vec![parts, other])
    }

    /// With a place for system messages where the template has one of that form, and without.
    fn candidates(&self, own: &Own<'_>) -> Vec<ConvTemplate> {
        let mut list = Vec::new();
        if let Some([before, after, _]) = own.around(&[("system", S), ("user", U1)], true).as_deref() {
            for (role, between) in [(true, after.strip_suffix(&*self.user)), (false, Some(&**after))] {
                let start = if role { self.start.strip_suffix(&*self.user) } else { Some(&*self.start) };
                let message = start.and_then(|start| start.strip_prefix(&**before)?.strip_suffix(between?));
                if let (Some(between), Some(message)) = (between, message) {
                    list.push(self.template(format!("{before}{SYSTEM}{between}"), message.to_owned(), role));
                }
            }
        }
        if let Some(start) = self.start.strip_suffix(&*self.user) {
            list.push(self.template(format!("{start}{SYSTEM}"), String::new(), true));
        }
        list
    }

    fn template(&self, system_template: String, system_message: String, role_after_system: bool) -> ConvTemplate {
        let map = |pairs: [(&str, String); 3]| {
            pairs.into_iter().map(|(role, text)| (role.to_owned(), text)).collect::<BTreeMap<_, _>>()
        };
        ConvTemplate {
            name: Some(NAME.to_owned()),
            system_template,
            system_message,
            system_prefix_token_ids: None,
            add_role_after_system_message: role_after_system,
            roles: map([
                ("user", self.user.clone()),
                ("assistant", self.assistant.clone()),
                ("tool", self.user.clone()),
            ]),
            role_templates: map([
                ("user", "{user_message}".to_owned()),
                ("assistant", format!("{}{ASSISTANT}", self.given)),
                ("tool", "{tool_message}".to_owned()),
            ]),
            messages: Vec::new(),
            seps: vec![self.user_sep.clone(), self.assistant_sep.clone()],
            role_content_sep: String::new(),
            role_empty_sep: self.asked.clone(),
            stop_str: Vec::new(),
            stop_token_ids: Vec::new(),
            strip_reasoning_in_history: false,
            function_string: String::new(),
            use_function_calling: false,
            other: serde_json::Map::new(),
        }
    }
}

/// What ends an answer: the tokens that the checkpoint names, and the special one that follows an answer.
fn stop(template: &ConvTemplate, tokenizer: &Tokenizer, named: &[u32]) -> (Vec<u32>, Vec<String>) {
    let end = template.seps.last().map_or("", |sep| sep.trim_start());
    let follows = tokenizer.special.iter().filter(|(text, _)| !text.is_empty() && end.starts_with(&***text));
    let follows = follows.max_by_key(|(text, _)| text.len());
    let mut ids = named.to_vec();
    ids.extend(follows.and_then(|(_, id)| u32::try_from(*id).ok()).filter(|id| !named.contains(id)));
    (ids, follows.map(|(text, _)| text.clone()).into_iter().collect())
}

/// A conversation as MLC renders it, without the tokens at its beginning; see [`knapsack_artifact::conv_template`]. `None` for a role
/// that the template does not have.
fn prompt(template: &ConvTemplate, talk: Talk<'_>) -> Option<String> {
    let (system, turns) = match talk {
        [("system", system), turns @ ..] => (*system, turns),
        turns => (template.system_message.as_str(), turns),
    };
    let mut text = template.system_template.replacen(SYSTEM, system, 1);
    let has_system = !text.is_empty();
    let last_user = turns.iter().rposition(|(role, _)| *role == "user")?;
    for (index, (role, content)) in turns.iter().enumerate() {
        if template.add_role_after_system_message || !has_system || index > 0 {
            text.push_str(template.roles.get(*role)?);
            text.push_str(&template.role_content_sep);
        }
        let thought = *role == "assistant" && template.strip_reasoning_in_history && index < last_user;
        let content = match content.rsplit_once("</think>").filter(|_| thought) {
            Some((_, answer)) => answer.trim_start_matches('\n'),
            None => content,
        };
        let place = format!("{{{role}_message}}");
        text.push_str(&template.role_templates.get(*role).unwrap_or(&place).replacen(&place, content, 1));
        text.push_str(if *role == "assistant" { template.seps.last()? } else { template.seps.first()? });
    }
    Some(text + template.roles.get("assistant")? + &template.role_empty_sep)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::HashMap;

    fn tokenizer(source: &str) -> Tokenizer {
        let special = [("<s>", 1), ("</s>", 2), ("<|im_end|>", 7), ("[INST]", 3), ("[/INST]", 4)];
        Tokenizer {
            files: Vec::new(),
            info: Default::default(),
            size: None,
            jinja: Some((source.to_owned(), "chat_template.jinja")),
            special: special.map(|(text, id)| (text.to_owned(), id)).into_iter().collect::<HashMap<_, _>>(),
        }
    }

    fn settings() -> Value {
        json!({ "bos_token": "<s>", "eos_token": { "content": "</s>" } })
    }

    fn fitted(source: &str) -> Option<(ConvTemplate, Equal)> {
        fit(&tokenizer(source), &settings(), &[2])
    }

    const TURNS: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                         {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    #[test]
    fn a_template_with_a_system_message_of_its_own_is_said_as_a_whole() {
        let own = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}";
        let (template, equal) = fitted(&format!("{{{{ bos_token }}}}{own}{TURNS}")).unwrap();
        assert_eq!(equal, Equal::Everywhere);
        assert_eq!(template.system_template, "<|im_start|>system\n{system_message}<|im_end|>\n");
        assert_eq!((template.system_message.as_str(), template.system_prefix_token_ids), ("You help.", Some(vec![1])));
        assert_eq!(template.roles["assistant"], "<|im_start|>assistant\n");
        assert_eq!(template.seps, ["<|im_end|>\n", "<|im_end|>\n"]);
        assert_eq!((template.stop_token_ids, template.stop_str), (vec![2, 7], vec!["<|im_end|>".to_owned()]));
    }

    #[test]
    fn without_one_the_conversations_that_have_none_are_equal() {
        let (template, equal) = fitted(TURNS).unwrap();
        assert_eq!((equal, &*template.system_template), (Equal::WithoutSystem, "{system_message}"));
        assert_eq!(template.roles["user"], "<|im_start|>user\n");
    }

    #[test]
    fn a_template_that_always_asks_for_an_answer_is_parted_all_the_same() {
        let always =
            TURNS.replace("{% if add_generation_prompt %}", "").replace("assistant\n{% endif %}", "assistant\n");
        let (template, equal) = fitted(&format!("{{{{ bos_token }}}}{always}")).unwrap();
        assert_eq!((equal, &*template.roles["user"]), (Equal::WithoutSystem, "<|im_start|>user\n"));
        assert_eq!((&*template.seps[1], template.stop_token_ids), ("<|im_end|>\n", vec![2, 7]));
    }

    #[test]
    fn white_space_around_messages_is_compared() {
        let trimmed = TURNS.replace("m.content", "m.content | trim");
        for (source, keeps) in [(TURNS, true), (&trimmed, false)] {
            let tokenizer = tokenizer(source);
            let (template, equal) = fit(&tokenizer, &settings(), &[2]).unwrap();
            assert_eq!((equal, keeps_spaces(&template, &tokenizer, &settings())), (Equal::WithoutSystem, keeps));
        }
    }

    #[test]
    fn answers_may_be_given_and_asked_for_in_other_words() {
        let source = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]\
                      {% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";
        let (template, equal) = fitted(source).unwrap();
        assert_eq!(equal, Equal::WithoutSystem);
        assert_eq!(template.role_templates["assistant"], " {assistant_message}");
        assert_eq!((&*template.seps[0], &*template.seps[1]), (" [/INST]", "</s>"));
        let thinking = TURNS.replace("<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif");
        assert_eq!(fitted(&thinking).unwrap().0.role_empty_sep, "<think>\n");
    }

    #[test]
    fn thoughts_stay_or_go_as_the_template_says() {
        let goes = TURNS.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1].lstrip('\\n') }}");
        assert!(fitted(&goes).unwrap().0.strip_reasoning_in_history);
        assert!(!fitted(TURNS).unwrap().0.strip_reasoning_in_history);
    }

    #[test]
    fn what_has_another_form_is_not_said_at_all() {
        for source in [
            "Today is {{ strftime_now('%d') }}. {{ messages[-1].content }}",
            "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}",
            "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}",
            "{{ messages[-1].content }}",
            "{% for m in messages %}{{ m.content[:12] }}|{% endfor %}",
        ] {
            assert!(fitted(source).is_none(), "{source}");
        }
    }
}
