//! The tokenizer files of a checkpoint, and what MLC finds out from them.

use crate::error::ConvertError;
use knapsack_artifact::chat_config::{TokenPostproc, TokenizerInfo};
use knapsack_artifact::json;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// Tokenizer files that are copied, in MLC's order.
const FILES: [&str; 8] = [
    "tokenizer.model",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer_config.json",
    JINJA_FILE,
    JINJA_JSON,
];
/// Where newer checkpoints keep their Jinja template.
pub(crate) const JINJA_FILE: &str = "chat_template.jinja";
/// Where processors of several kinds of input keep it.
pub(crate) const JINJA_JSON: &str = "chat_template.json";
/// Largest tokenizer file.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A file that goes into the weight folder.
#[derive(Debug)]
pub(crate) struct OutputFile {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

/// What a checkpoint folder has for turning text into tokens.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    /// The files, in MLC's order.
    pub(crate) files: Vec<OutputFile>,
    pub(crate) info: TokenizerInfo,
    /// Distinct tokens; `None` without a `tokenizer.json`.
    pub(crate) size: Option<u64>,
    /// The Jinja template, and the file that it is in.
    pub(crate) jinja: Option<(String, &'static str)>,
    /// Ids of special tokens by their text.
    pub(crate) special: HashMap<String, u64>,
}

impl Tokenizer {
    /// The text of a special token.
    pub(crate) fn spelling(&self, id: u32) -> Option<&str> {
        self.special.iter().find(|(_, known)| **known == u64::from(id)).map(|(text, _)| text.as_str())
    }

    /// Gives the model another Jinja template than its own.
    pub(crate) fn replace_template(&mut self, template: String) {
        self.files.retain(|file| file.name != JINJA_FILE);
        self.files.push(OutputFile { name: JINJA_FILE.to_owned(), content: template.clone().into_bytes() });
        self.jinja = Some((template, JINJA_FILE));
    }

    pub(crate) fn read(folder: &Path) -> Result<Self, ConvertError> {
        let mut files = Vec::new();
        for name in FILES {
            let path = folder.join(name);
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_FILE_BYTES => {
                    let mut content = std::fs::read(&path).map_err(ConvertError::io("read", &path))?;
                    if name.ends_with(".json") {
                        let json = |source| ConvertError::Json { path: path.clone(), source };
                        content = json::text(&content).map_err(json)?.into_owned().into_bytes();
                    }
                    files.push(OutputFile { name: name.to_owned(), content });
                }
                Ok(metadata) => {
                    let problem = format!("not a file of at most {MAX_FILE_BYTES} bytes ({})", metadata.len());
                    return Err(ConvertError::Checkpoint { path, problem });
                }
                Err(_) => {}
            }
        }
        // The runtime's reader of this one takes nothing but JSON.
        let tokenizer = files.iter().find(|file| file.name == "tokenizer.json");
        let tokenizer: Option<Value> = tokenizer
            .map(|file| serde_json::from_slice(&file.content))
            .transpose()
            .map_err(|source| ConvertError::Json { path: folder.join("tokenizer.json"), source: source.into() })?;
        let text = |name: &str| {
            let file = files.iter().find(|file| file.name == name)?;
            Some(String::from_utf8_lossy(&file.content).into_owned())
        };
        let settings = |name: &str| -> Option<Value> { json::parse(text(name)?.as_bytes()).ok() };
        let jinja = text(JINJA_FILE)
            .map(|template| (template, JINJA_FILE))
            .or_else(|| Some((jinja_template(&settings("tokenizer_config.json")?)?, "tokenizer_config.json")))
            .or_else(|| Some((jinja_template(&settings(JINJA_JSON)?)?, JINJA_JSON)));
        Ok(Tokenizer {
            files,
            info: tokenizer.as_ref().map(detect_info).unwrap_or_default(),
            size: tokenizer.as_ref().map(size),
            jinja,
            special: tokenizer.as_ref().map(special_tokens).unwrap_or_default(),
        })
    }
}

/// The template of `tokenizer_config.json`: a string, or the one called `default` of a list.
fn jinja_template(settings: &Value) -> Option<String> {
    match settings.get("chat_template")? {
        Value::String(template) => Some(template.clone()),
        Value::Array(list) => {
            let default = list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))?;
            default.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// The object itself, or those in its list when its type is `Sequence`.
fn parts<'a>(value: Option<&'a Value>, list: &str) -> Vec<&'a Value> {
    match value {
        Some(object) if object.get("type").and_then(Value::as_str) == Some("Sequence") => {
            object.get(list).and_then(Value::as_array).map(|list| list.iter().collect()).unwrap_or_default()
        }
        Some(object @ Value::Object(_)) => vec![object],
        _ => Vec::new(),
    }
}

/// MLC's rules: the last of a ByteLevel or ByteFallback decoder decides, a normalizer that prepends `▁` and a decoder that strips
/// one space at the start are noted.
fn detect_info(tokenizer: &Value) -> TokenizerInfo {
    let kind = |part: &Value, kind: &str| part.get("type").and_then(Value::as_str) == Some(kind);
    let decoders = parts(tokenizer.get("decoder"), "decoders");
    let normalizers = parts(tokenizer.get("normalizer"), "normalizers");
    let method = decoders.iter().rev().find(|part| kind(part, "ByteLevel") || kind(part, "ByteFallback"));
    let strips = |part: &&&Value| {
        kind(part, "Strip")
            && part.get("content").and_then(Value::as_str) == Some(" ")
            && part.get("start").and_then(Value::as_i64) == Some(1)
            && part.get("stop").and_then(Value::as_i64) == Some(0)
    };
    let prepends =
        |part: &&&Value| kind(part, "Prepend") && part.get("prepend").and_then(Value::as_str) == Some("\u{2581}");
    TokenizerInfo {
        token_postproc_method: match method {
            Some(part) if kind(part, "ByteLevel") => TokenPostproc::ByteLevel,
            _ => TokenPostproc::ByteFallback,
        },
        prepend_space_in_encode: normalizers.iter().find(prepends).is_some(),
        strip_space_in_decode: decoders.iter().find(strips).is_some(),
    }
}

fn added_tokens(tokenizer: &Value) -> impl Iterator<Item = (&str, u64)> {
    let list = tokenizer.get("added_tokens").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|token| Some((token.get("content")?.as_str()?, token.get("id")?.as_u64()?)))
}

/// Distinct tokens: those of the vocabulary and the added ones that are not in it.
fn size(tokenizer: &Value) -> u64 {
    let vocabulary = tokenizer.pointer("/model/vocab");
    type Known<'a> = Box<dyn Fn(&str) -> bool + 'a>;
    let (count, known): (usize, Known<'_>) = match vocabulary {
        Some(Value::Object(map)) => (map.len(), Box::new(|token| map.contains_key(token))),
        Some(Value::Array(list)) => {
            let names: std::collections::HashSet<_> =
                list.iter().filter_map(|pair| pair.get(0)?.as_str().map(str::to_owned)).collect();
            (list.len(), Box::new(move |token| names.contains(token)))
        }
        _ => (0, Box::new(|_| false)),
    };
    let mut added: Vec<_> = added_tokens(tokenizer).map(|(token, _)| token).filter(|token| !known(token)).collect();
    added.sort_unstable();
    added.dedup();
    (count + added.len()) as u64
}

fn special_tokens(tokenizer: &Value) -> HashMap<String, u64> {
    let mut special: HashMap<_, _> = added_tokens(tokenizer).map(|(token, id)| (token.to_owned(), id)).collect();
    // SentencePiece models have their control tokens in the vocabulary.
    for token in ["</s>", "<s>"] {
        if let Some(id) = tokenizer.pointer("/model/vocab").and_then(|vocab| vocab.get(token)).and_then(Value::as_u64) {
            special.entry(token.to_owned()).or_insert(id);
        }
    }
    special
}
