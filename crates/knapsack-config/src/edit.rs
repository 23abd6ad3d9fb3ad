//! Changing a manifest without disturbing its comments and its layout.

use crate::overrides::{OverrideKey, Overrides};
use crate::parse::{MAX_FILE_BYTES, STRICT};
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};

/// Why a manifest can not be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text is no manifest.
    #[error("the manifest can not be understood: {0}")]
    Syntax(String),
    /// The text is too long.
    #[error("the manifest is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// There is no such model in this file; it may stand in a file that this one extends.
    #[error("no model `{0}` in `model_list` of this file")]
    NoSuchModel(String),
    /// Two models with this id.
    #[error("several models `{0}` in `model_list` of this file")]
    Ambiguous(String),
    /// `overrides` is there but no object.
    #[error("`overrides` of the model `{0}` is not an object")]
    NotAnObject(String),
}

/// The text of a manifest with the given overrides set for one model. Overrides that are `None` stay as they are, and so
/// does everything else: comments, order, indentation, line ends.
pub fn set_overrides(text: &str, model_id: &str, overrides: &Overrides) -> Result<String, EditError> {
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(EditError::TooLarge);
    }
    let (mark, body) = match text.strip_prefix('\u{feff}') {
        Some(body) => ("\u{feff}", body),
        None => ("", text),
    };
    let root = CstRootNode::parse(body, &STRICT).map_err(|error| EditError::Syntax(error.to_string()))?;
    let entry = find_model(&root, model_id)?;
    let given: Vec<(OverrideKey, u64)> =
        OverrideKey::ALL.into_iter().filter_map(|key| overrides.get(key).map(|value| (key, value))).collect();
    if !given.is_empty() {
        let not_an_object = || EditError::NotAnObject(model_id.to_owned());
        let object = entry.object_value_or_create("overrides").ok_or_else(not_an_object)?;
        for (key, value) in given {
            let number = CstInputValue::Number(value.to_string());
            match object.get(key.as_str()) {
                Some(property) => property.set_value(number),
                None => drop(object.append(key.as_str(), number)),
            }
        }
    }
    Ok(format!("{mark}{root}"))
}

fn find_model(root: &CstRootNode, model_id: &str) -> Result<CstObject, EditError> {
    let list = root.object_value().and_then(|manifest| manifest.array_value("model_list"));
    let entries = list.map(|list| list.elements()).unwrap_or_default();
    let mut found = entries.into_iter().filter_map(|entry| entry.as_object()).filter(|entry| {
        let id = entry.get("model_id").and_then(|id| id.value()).and_then(|id| id.as_string_lit());
        id.and_then(|id| id.decoded_value().ok()).is_some_and(|id| id == model_id)
    });
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry),
        (None, _) => Err(EditError::NoSuchModel(model_id.to_owned())),
        (Some(_), Some(_)) => Err(EditError::Ambiguous(model_id.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(text: &str) -> Overrides {
        text.parse().unwrap()
    }

    const COMMENTED: &str = r#"// phones
{
    "device": "iphone", // the only one
    "model_list": [
        {
            "model": "HF://a/b", /* pinned later */
            "model_id": "b",
            // sizes
            "overrides": {
                "context_window_size": 8192, // too much?
            },
        },
        { "model": "HF://a/c", "model_id": "c" }
    ]
}
"#;

    #[test]
    fn keeps_comments_and_layout() {
        let changed =
            set_overrides(COMMENTED, "b", &overrides("context_window_size=2048,prefill_chunk_size=128")).unwrap();
        insta::assert_snapshot!(changed, @r#"
// phones
{
    "device": "iphone", // the only one
    "model_list": [
        {
            "model": "HF://a/b", /* pinned later */
            "model_id": "b",
            // sizes
            "overrides": {
                "context_window_size": 2048, // too much?
                "prefill_chunk_size": 128,
            },
        },
        { "model": "HF://a/c", "model_id": "c" }
    ]
}
"#);
        let again =
            set_overrides(&changed, "b", &overrides("context_window_size=2048,prefill_chunk_size=128")).unwrap();
        assert_eq!(again, changed);
    }

    #[test]
    fn adds_what_is_not_there() {
        let changed = set_overrides(COMMENTED, "c", &overrides("context_window_size=512")).unwrap();
        insta::assert_snapshot!(changed, @r#"
// phones
{
    "device": "iphone", // the only one
    "model_list": [
        {
            "model": "HF://a/b", /* pinned later */
            "model_id": "b",
            // sizes
            "overrides": {
                "context_window_size": 8192, // too much?
            },
        },
        {
            "model": "HF://a/c",
            "model_id": "c",
            "overrides": {
                "context_window_size": 512
            }
        }
    ]
}
"#);
    }

    #[test]
    fn line_ends_and_mark_stay() {
        let windows = format!("\u{feff}{}", COMMENTED.replace('\n', "\r\n"));
        let changed = set_overrides(&windows, "c", &overrides("context_window_size=512")).unwrap();
        assert!(changed.starts_with('\u{feff}'));
        assert_eq!(changed.matches('\n').count(), changed.matches("\r\n").count());
    }

    #[test]
    fn nothing_to_set_changes_nothing() {
        assert_eq!(set_overrides(COMMENTED, "c", &Overrides::default()).unwrap(), COMMENTED);
    }

    #[test]
    fn refuses_what_it_does_not_find() {
        let set = |text: &str| set_overrides(text, "x", &overrides("context_window_size=512")).unwrap_err().to_string();
        assert_eq!(set(COMMENTED), "no model `x` in `model_list` of this file");
        assert_eq!(set("[]"), "no model `x` in `model_list` of this file");
        let twice = r#"{"model_list":[{"model_id":"x"},{"model_id":"x"}]}"#;
        assert_eq!(set(twice), "several models `x` in `model_list` of this file");
        let wrong = r#"{"model_list":[{"model_id":"x","overrides":3}]}"#;
        assert_eq!(set(wrong), "`overrides` of the model `x` is not an object");
        assert!(set("{").starts_with("the manifest can not be understood"));
    }
}
