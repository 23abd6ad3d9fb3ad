//! Whether a checkpoint's Jinja template can be used: it is parsed and renders conversations where the model is packaged, so that no
//! phone is the first to try.

use crate::error::ConvertError;
use crate::io::read_json;
use crate::template::TemplateChoice;
use crate::tokenizer::{JINJA_FILE, JINJA_JSON};
use knapsack_jinja::{Context, ErrorKind, Limits, Template};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest template file.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;
/// The configuration that templates of most checkpoints are in.
const SETTINGS: &str = "tokenizer_config.json";

/// Parses the template that the model in `folder` will talk by, and renders conversations with it. A template may refuse
/// some of them by its own words, but not a lone question.
///
/// # Errors
/// A file that cannot be read, a template that does not parse, or one that fails.
pub fn check_chat_template(folder: &Path, choice: &TemplateChoice) -> Result<(), ConvertError> {
    choice.preset()?;
    let settings = read_json(&folder.join(SETTINGS))?.unwrap_or(Value::Null);
    let sources = match choice {
        TemplateChoice::Preset(_) => Vec::new(),
        TemplateChoice::File(path) => vec![(path.clone(), read_text(path)?)],
        TemplateChoice::Model => own(folder, &settings)?,
    };
    for (path, source) in sources {
        try_out(&source, &settings)
            .map_err(|problem| ConvertError::ChatTemplate { path, problem: problem.to_string() })?;
    }
    Ok(())
}

pub(crate) fn read_text(path: &Path) -> Result<String, ConvertError> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(ConvertError::io("read", path))?;
    file.take(MAX_TEMPLATE_BYTES).read_to_string(&mut text).map_err(ConvertError::io("read", path))?;
    Ok(text)
}

/// The checkpoint's own templates: all that may be used, by the place where the first kind of them is found.
fn own(folder: &Path, settings: &Value) -> Result<Vec<(PathBuf, String)>, ConvertError> {
    let file = folder.join(JINJA_FILE);
    if file.is_file() {
        return Ok(vec![(file.clone(), read_text(&file)?)]);
    }
    let at = |name: &str, source: &str| (folder.join(name), source.to_owned());
    match settings.get("chat_template") {
        Some(Value::String(source)) => Ok(vec![at(SETTINGS, source)]),
        Some(Value::Array(named)) => {
            let used = named.iter().filter(|entry| {
                entry.get("name").and_then(Value::as_str).is_some_and(|name| matches!(name, "default" | "tool_use"))
            });
            Ok(used.filter_map(|entry| Some(at(SETTINGS, entry.get("template")?.as_str()?))).collect())
        }
        _ => {
            let processor = read_json(&folder.join(JINJA_JSON))?.unwrap_or(Value::Null);
            let source = processor.get("chat_template").and_then(Value::as_str);
            Ok(source.map(|source| at(JINJA_JSON, source)).into_iter().collect())
        }
    }
}

fn try_out(source: &str, settings: &Value) -> Result<(), knapsack_jinja::Error> {
    const TALKS: [Talk<'_>; 3] = [
        &[("user", "Hello")],
        &[("system", "Be brief."), ("user", "Hello")],
        &[("user", "Hello"), ("assistant", "Hi!"), ("user", "How are you?")],
    ];
    let template = Template::parse(source)?;
    for (number, talk) in TALKS.iter().enumerate() {
        match render(&template, talk, settings, true, "1 January 2026") {
            Err(error) if number == 0 || error.kind != ErrorKind::Raised => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Messages of a conversation: role and content.
pub(crate) type Talk<'a> = &'a [(&'a str, &'a str)];

/// The text of a conversation on the day that `date` says; `answer`: with what asks for an answer.
pub(crate) fn render(
    template: &Template,
    talk: Talk<'_>,
    settings: &Value,
    answer: bool,
    date: &str,
) -> Result<String, knapsack_jinja::Error> {
    let text = template.render(&context(talk, settings, answer), &|_| date.to_owned(), Limits::default())?;
    Ok(text.as_str().to_owned())
}

fn context<'a>(talk: Talk<'_>, settings: &Value, answer: bool) -> Vec<(&'a str, Context)> {
    let trusted = |text: &str| Context::Trusted(text.to_owned());
    let message = |&(role, content): &(&str, &str)| {
        Context::Map(vec![("role".to_owned(), trusted(role)), ("content".to_owned(), Context::Data(content.into()))])
    };
    let mut context = vec![
        ("messages", Context::List(talk.iter().map(message).collect())),
        ("tools", Context::Data(Value::Null)),
        ("documents", Context::Data(Value::Null)),
        ("add_generation_prompt", Context::Data(Value::Bool(answer))),
    ];
    for name in ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"] {
        let token = settings.get(name);
        let token = token.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        context.extend(token.map(|token| (name, trusted(token))));
    }
    context
}
