//! What a model's card says of its licence and of what it was made from: in the hub's answer, or in the head of `README.md`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use knapsack_config::lockfile::ModelCard;
use saphyr_parser::{Event, Parser};
use serde_json::Value;

const FILE: &str = "README.md";
/// Longest head of a card that is read. Evaluation results can make it long.
const MAX_HEAD: u64 = 1 << 20;
/// Most events of its YAML.
const MAX_EVENTS: usize = 100_000;

/// The hub reads the head and hands it on as JSON.
pub(crate) fn of_hub(card: &Value) -> ModelCard {
    let texts = |key: &str| match card.get(key) {
        Some(Value::String(text)) => vec![text.as_str()],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    of_fields(texts)
}

/// A folder may have a card. One that cannot be read says nothing.
pub(crate) fn of_folder(folder: &Path) -> ModelCard {
    let path = folder.join(FILE);
    let is_file = std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file());
    let mut bytes = Vec::new();
    if !is_file || File::open(&path).and_then(|file| file.take(MAX_HEAD).read_to_end(&mut bytes)).is_err() {
        return ModelCard::default();
    }
    of_text(&String::from_utf8_lossy(&bytes))
}

fn of_text(text: &str) -> ModelCard {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let head = text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n"));
    let Some((head, _)) = head.and_then(|head| head.split_once("\n---")) else { return ModelCard::default() };
    let fields = top_level(head);
    of_fields(|key| fields.get(key).into_iter().flatten().map(String::as_str).collect())
}

fn of_fields<'a>(texts: impl Fn(&str) -> Vec<&'a str>) -> ModelCard {
    let first = |key: &str| texts(key).first().copied();
    ModelCard::new(first("license"), first("license_name"), &texts("base_model"))
}

/// Scalars, and sequences of scalars, of the outermost mapping. Read from the parser's events: nothing is built of what is not
/// wanted, and an alias stands for nothing. What follows an error is left out.
fn top_level(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut depth, mut key) = (0usize, None);
    for event in Parser::new_from_str(text).take(MAX_EVENTS) {
        match event {
            Ok((Event::Scalar(text, ..), _)) => match (depth, key.take()) {
                (1, None) => key = Some(text.into_owned()),
                (1, Some(name)) => fields.entry(name).or_default().push(text.into_owned()),
                (_, Some(name)) => {
                    if depth == 2 {
                        fields.entry(name.clone()).or_default().push(text.into_owned());
                    }
                    key = Some(name);
                }
                (_, None) => {}
            },
            Ok((Event::Alias(_), _)) if depth == 1 => key = None,
            Ok((Event::SequenceStart(..), _)) if depth == 0 => break,
            Ok((Event::SequenceStart(..), _)) => depth += 1,
            // A mapping inside is nothing that is looked for, however deep its texts are.
            Ok((Event::MappingStart(..), _)) => depth += if depth == 0 { 1 } else { 2 },
            Ok((Event::SequenceEnd, _)) => {
                depth = depth.saturating_sub(1);
                key = key.filter(|_| depth > 1);
            }
            Ok((Event::MappingEnd, _)) => {
                depth = depth.saturating_sub(if depth == 1 { 1 } else { 2 });
                key = key.filter(|_| depth > 1);
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn card(license: &str, base_models: &[&str]) -> ModelCard {
        ModelCard::new(Some(license), None, base_models)
    }

    #[test]
    fn the_head_of_a_card_is_read() {
        let text = "---\nlanguage:\n- en\nmetrics:\n- {name: x, license: no}\nmodel-index:\n- name: a\n  results:\n  - \
                    task: {base_model: no}\nlicense: apache-2.0 # a comment\nbase_model: \"org/base\"\n---\n# license: no";
        assert_eq!(of_text(text), card("apache-2.0", &["org/base"]));
        let text =
            "\u{feff}---\r\nlicense: other\r\nlicense_name: llama3.2\r\nbase_model:\r\n  - a/b\r\n  - c/d\r\n---\r\n";
        assert_eq!(of_text(text), card("llama3.2", &["a/b", "c/d"]));
        assert_eq!(of_text("---\nbase_model: [a/b]\nlicense: [mit, x]\n---"), card("mit", &["a/b"]));
    }

    #[test]
    fn what_is_no_card_says_nothing() {
        for text in
            ["", "# license: mit", "---\nlicense: mit\n", "---\n- license\n- mit\n---", "---\nlicense: {a: mit}\n---"]
        {
            assert_eq!(of_text(text), ModelCard::default(), "{text}");
        }
        // An error ends it; aliases stand for nothing; depth costs nothing.
        assert_eq!(of_text("---\nlicense: mit\nbase_model: [a\n---").license.as_deref(), Some("mit"));
        assert_eq!(
            of_text("---\na: &x [mit]\nlicense: *x\nbase_model: a/b\n---"),
            ModelCard::new(None, None, &["a/b"])
        );
        of_text(&format!("---\na: {}\n---", "[".repeat(100_000)));
        of_text(&format!("---\na: {}\n---", "{b: ".repeat(100_000)));
        assert_eq!(of_folder(Path::new("/nowhere")), ModelCard::default());
    }

    #[test]
    fn the_hubs_answer_may_be_anything() {
        assert_eq!(of_hub(&json!({"license": "mit", "base_model": "a/b"})), card("mit", &["a/b"]));
        let other = json!({"license": ["other"], "license_name": "gemma", "base_model": ["a/b", 7, "c/d"]});
        assert_eq!(of_hub(&other), card("gemma", &["a/b", "c/d"]));
        for nothing in [json!(null), json!([]), json!({"license": {"a": 1}, "base_model": 7}), json!("mit")] {
            assert_eq!(of_hub(&nothing), ModelCard::default());
        }
    }
}
