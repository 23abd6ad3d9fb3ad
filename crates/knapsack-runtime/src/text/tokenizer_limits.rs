//! What a `tokenizer.json` may ask for, checked before the tokenizer is built: valid files can be too expensive.
//!
//! Normalizers and pre-tokenizers are small programs that run over every prompt. Twelve replacements that double the text, a
//! sequence of a million steps or a prefix of ten megabytes are well-formed, and end the process for want of memory, or seem to
//! hang.

use super::TextError;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;

/// Bytes of one of the parts that are programs; a normalizer's table of characters takes half a megabyte.
const MAX_PART_BYTES: usize = 4 << 20;
/// Values in one part: steps, their settings, and the pieces of a template. Real tokenizers have about a hundred.
const MAX_VALUES: usize = 2048;
/// Bytes of a text that a step looks for or writes.
const MAX_CONSTANT_BYTES: usize = 256;
/// Bytes of a pattern; real ones stay below a kilobyte.
const MAX_PATTERN_BYTES: usize = 16 << 10;
/// How many times longer a text may become by all steps together.
const MAX_GROWTH: usize = 256;
/// Added tokens; real tokenizers have some thousands.
const MAX_ADDED: usize = 1 << 17;
/// Tokens of the vocabulary; real ones have up to a quarter of a million.
const MAX_VOCAB: usize = 1 << 21;
/// Bytes of one token.
const MAX_TOKEN_BYTES: usize = 1 << 12;

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow, default)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow, default)]
    decoder: Option<&'a RawValue>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    model: Model,
}

#[derive(Default, Deserialize)]
struct Model {
    #[serde(default)]
    vocab: Spellings,
    #[serde(default)]
    unk_token: Option<Length>,
    #[serde(default)]
    continuing_subword_prefix: Option<Length>,
    #[serde(default)]
    end_of_word_suffix: Option<Length>,
}

#[derive(Deserialize)]
struct AddedToken {
    content: Length,
}

/// The bytes of a string, which is not kept; 0 for what is none.
#[derive(Clone, Copy, Default)]
struct Length(usize);

/// How many tokens a vocabulary has, and the bytes of the longest.
#[derive(Clone, Copy, Default)]
struct Spellings {
    count: usize,
    longest: usize,
}

/// Checks the text of a `tokenizer.json` and returns the bytes of the longest token as it is spelled: no fewer than those of the
/// text that any token stands for.
///
/// # Errors
/// What is not JSON of the right form, or asks for too much.
pub(super) fn check(json: &[u8]) -> Result<usize, TextError> {
    check_file(parse(json)?)
}

/// The same of a file without its model, for a vocabulary of so many tokens, the longest of so many bytes.
///
/// # Errors
/// As [`check`].
pub(super) fn check_settings(json: &[u8], count: usize, longest: usize) -> Result<usize, TextError> {
    let mut file = parse(json)?;
    file.model.vocab = Spellings { count, longest };
    check_file(file)
}

fn parse(json: &[u8]) -> Result<File<'_>, TextError> {
    serde_json::from_slice(json).map_err(|error| TextError::Tokenizer(error.to_string()))
}

fn check_file(file: File<'_>) -> Result<usize, TextError> {
    let wrong = |problem: String| TextError::Tokenizer(problem);
    let mut growth = 1;
    for (name, part) in [
        ("normalizer", file.normalizer),
        ("pre_tokenizer", file.pre_tokenizer),
        ("post_processor", file.post_processor),
        ("decoder", file.decoder),
    ] {
        let Some(part) = part else { continue };
        if part.get().len() > MAX_PART_BYTES {
            return Err(wrong(format!("its {name} has {} bytes, more than {MAX_PART_BYTES}", part.get().len())));
        }
        let value: Value = serde_json::from_slice(part.get().as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let mut part = Part { values: 0, growth: 1 };
        part.walk(None, &value).map_err(|problem| wrong(format!("its {name} {problem}")))?;
        if matches!(name, "normalizer" | "pre_tokenizer") {
            growth = part.growth.saturating_mul(growth);
        }
    }
    let Model { vocab, unk_token, continuing_subword_prefix, end_of_word_suffix } = file.model;
    let constants = [unk_token, continuing_subword_prefix, end_of_word_suffix];
    let longest = file.added_tokens.iter().map(|token| token.content.0).max().unwrap_or(0).max(vocab.longest);
    for (what, found, most) in [
        ("lengthens a text by a factor of", growth, MAX_GROWTH),
        ("has this many added tokens:", file.added_tokens.len(), MAX_ADDED),
        ("has this many tokens:", vocab.count, MAX_VOCAB),
        ("has a token of this many bytes:", longest, MAX_TOKEN_BYTES),
        (
            "has a model with a text of this many bytes:",
            constants.iter().flatten().map(|text| text.0).max().unwrap_or(0),
            MAX_CONSTANT_BYTES,
        ),
    ] {
        if found > most {
            return Err(wrong(format!("it {what} {found}, more than {most}")));
        }
    }
    Ok(longest)
}

/// One of the parts while it is walked through.
struct Part {
    values: usize,
    growth: usize,
}

impl Part {
    fn walk(&mut self, key: Option<&str>, value: &Value) -> Result<(), String> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(format!("has more than {MAX_VALUES} values"));
        }
        match value {
            Value::String(text) => {
                let most = match key {
                    Some("Regex") => MAX_PATTERN_BYTES,
                    Some("precompiled_charsmap") => MAX_PART_BYTES,
                    _ => MAX_CONSTANT_BYTES,
                };
                if text.len() > most {
                    return Err(format!("has a text of {} bytes, more than {most}", text.len()));
                }
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.walk(key, item))?,
            Value::Object(entries) => {
                self.growth = self.growth.saturating_mul(growth(value));
                entries.iter().try_for_each(|(key, value)| self.walk(Some(key), value))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// How many times longer one step makes a text at most.
fn growth(step: &Value) -> usize {
    let text = |key: &str| step.get(key).and_then(Value::as_str).unwrap_or_default().len();
    match step.get("type").and_then(Value::as_str) {
        Some("Replace") => match step.pointer("/pattern/String").and_then(Value::as_str) {
            Some(pattern) if !pattern.is_empty() => text("content").div_ceil(pattern.len()).max(1),
            // A pattern may match nothing, between any two characters.
            _ => text("content") + 1,
        },
        // Once for each piece between added tokens, of which the shortest is one byte.
        Some("Prepend") => text("prepend") + 1,
        Some("ByteLevel") => 2,
        // Unicode's own tables: NFKC and NFKD make at most eleven times as many bytes, and real text no more than three.
        Some("NFD" | "NFKD" | "NFKC" | "Precompiled" | "BertNormalizer" | "Metaspace") => 3,
        _ => 1,
    }
}

struct LengthVisitor;

impl Visitor<'_> for LengthVisitor {
    type Value = Length;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Length, E> {
        Ok(Length(text.len()))
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(LengthVisitor)
    }
}

impl<'de> Deserialize<'de> for Spellings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;

        impl<'de> Visitor<'de> for Tokens {
            type Value = Spellings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Spellings, A::Error> {
                let mut seen = Spellings::default();
                while let Some((Length(length), IgnoredAny)) = map.next_entry()? {
                    seen = Spellings { count: seen.count + 1, longest: seen.longest.max(length) };
                }
                Ok(seen)
            }

            /// Pairs of a token and its score.
            fn visit_seq<A: SeqAccess<'de>>(self, mut pairs: A) -> Result<Spellings, A::Error> {
                let mut seen = Spellings::default();
                while let Some((Length(length), IgnoredAny)) = pairs.next_element()? {
                    seen = Spellings { count: seen.count + 1, longest: seen.longest.max(length) };
                }
                Ok(seen)
            }
        }

        deserializer.deserialize_any(Tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(key: &str, value: Value) -> Vec<u8> {
        let mut file = json!({ "model": { "type": "BPE", "vocab": { "a": 0, "bcd": 1 }, "merges": [] } });
        file[key] = value;
        serde_json::to_vec(&file).unwrap()
    }

    #[test]
    fn bombs_are_refused_before_they_are_built() {
        let double = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
        let lower = json!({ "type": "Lowercase" });
        let sequence = |steps: Vec<Value>| json!({ "type": "Sequence", "normalizers": steps });
        let long = "a".repeat(10 << 20);
        for (what, key, value) in [
            ("a factor of", "normalizer", sequence(vec![double; 12])),
            (
                "a factor of",
                "normalizer",
                sequence(vec![json!({ "type": "Replace", "pattern": { "Regex": "" }, "content": "abcdefgh" }); 3]),
            ),
            ("more than 2048 values", "normalizer", sequence(vec![lower.clone(); 1 << 17])),
            ("more than 4194304", "normalizer", sequence(vec![lower; 1 << 20])),
            ("more than 4194304", "normalizer", json!({ "type": "Prepend", "prepend": long })),
            ("more than 256", "normalizer", json!({ "type": "Prepend", "prepend": "x".repeat(1000) })),
            (
                "values",
                "pre_tokenizer",
                json!({ "type": "Sequence", "pretokenizers": vec![json!({ "type": "Whitespace" }); 5000] }),
            ),
            (
                "values",
                "post_processor",
                json!({ "type": "TemplateProcessing", "single": vec![json!({ "SpecialToken": { "id": "a" } }); 5000] }),
            ),
            ("a token of", "added_tokens", json!([{ "id": 2, "content": "x".repeat(5000) }])),
            ("a model with", "model", json!({ "vocab": {}, "continuing_subword_prefix": "x".repeat(1000) })),
            ("a token of", "model", json!({ "vocab": { "x".repeat(5000): 1 } })),
        ] {
            let error = check(&file(key, value)).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        assert_eq!(check(&file("added_tokens", json!([{ "id": 2, "content": "<|end|>" }]))).unwrap(), 7);
        assert_eq!(check(&file("normalizer", Value::Null)).unwrap(), 3);
        assert_eq!(check(&file("model", json!({ "vocab": [["ab", -1.0]] }))).unwrap(), 2);
    }
}
