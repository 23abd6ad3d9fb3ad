//! JSON as model folders have it: in any encoding of Unicode, with the bare `NaN` and `Infinity` that Python writes. Whoever reads
//! a file of a model reads it here, so that what was planned can be packaged, and what was packaged can run.

use crate::encoding::{Decoded, Wrong, decode};
use serde::de::DeserializeOwned;
use serde_json::{Error, Value};
use std::borrow::Cow;

/// Why bytes are no JSON that can be read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Not text in an encoding that is read.
    #[error("{wrong}, at byte {at} of its text")]
    Encoding {
        /// Bytes of the text before that place, in UTF-8.
        at: usize,
        /// What is there.
        wrong: Wrong,
    },
    /// Not JSON, or not of the right form.
    #[error(transparent)]
    Syntax(#[from] Error),
}

/// Parses JSON. `NaN`, `Infinity` and `-Infinity` become strings of these names: whoever wants a number there says what was found.
///
/// # Errors
/// [`JsonError`].
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    read(bytes, |name| format!("\"{name}\""))
}

/// The same with null for the numbers that JSON does not have: so the file is written again for readers that take JSON only.
///
/// # Errors
/// [`JsonError`].
pub fn parse_portable(bytes: &[u8]) -> Result<Value, JsonError> {
    read(bytes, |_| "null".to_owned())
}

fn read<T: DeserializeOwned>(bytes: &[u8], number: fn(&str) -> String) -> Result<T, JsonError> {
    let text = text(bytes)?;
    // From bytes, as everywhere in the runtime: for each kind of source serde_json has code of its own for each type.
    match serde_json::from_slice(text.as_bytes()) {
        Ok(value) => Ok(value),
        Err(error) => match replaced(&text, number) {
            Some(changed) => serde_json::from_slice(changed.as_bytes()).map_err(|second: Error| {
                // The place of a mistake is that in the file, but what is wrong with a value is told of what it became.
                JsonError::Syntax(if second.is_data() { second } else { error })
            }),
            None => Err(error.into()),
        },
    }
}

/// The text of a file, without its byte-order mark.
///
/// # Errors
/// [`JsonError::Encoding`].
pub fn text(bytes: &[u8]) -> Result<Cow<'_, str>, JsonError> {
    match decode(bytes) {
        Decoded { text, wrong: None } => Ok(text),
        Decoded { wrong: Some((at, wrong)), .. } => Err(JsonError::Encoding { at, wrong }),
    }
}

/// The text with something else for Python's three numbers that JSON lacks, wherever they stand outside a string; `None` where there
/// are none.
fn replaced(text: &str, number: fn(&str) -> String) -> Option<String> {
    const NAMES: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let mut result = String::with_capacity(text.len() + 16);
    let (mut rest, mut found) = (text, false);
    while let Some(first) = rest.chars().next() {
        let (piece, is_number) = if first == '"' {
            (string_length(rest), false)
        } else if let Some(name) = NAMES.iter().find(|name| rest.starts_with(**name)) {
            (name.len(), true)
        } else {
            (first.len_utf8(), false)
        };
        found |= is_number;
        let (piece, after) = rest.split_at(piece);
        if is_number {
            result.push_str(&number(piece));
        } else {
            result.push_str(piece);
        }
        rest = after;
    }
    found.then_some(result)
}

/// Bytes of the string literal that `text` begins with, its quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = r#"{"a": 1, "b": "NaN \" Infinity", "ä": [null]}"#;

    #[test]
    fn every_encoding_reads_the_same() {
        let expected = json!({"a": 1, "b": "NaN \" Infinity", "ä": [null]});
        let little: Vec<u8> = TEXT.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [TEXT.as_bytes().to_vec(), [b"\xef\xbb\xbf", TEXT.as_bytes()].concat(), little] {
            assert_eq!(parse::<Value>(&bytes).unwrap(), expected);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (bytes, expected) in [
            (&b"{\"a\": \"\xe4\"}"[..], "in no encoding of Unicode (byte 0xe4), at byte 7"),
            (&[0xff, 0xfe, b'{'][..], "UTF-16, and is damaged"),
            (b"\x1f\x8b\x08", "compressed (gzip)"),
        ] {
            let error = parse::<Value>(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_python_writes_is_read() {
        let python = br#"{"limit": [0.0, Infinity], "low": -Infinity, "x": NaN, "text": "a \\\" NaN"}"#;
        let found: Value = parse(python).unwrap();
        assert_eq!(found, json!({"limit": [0.0, "Infinity"], "low": "-Infinity", "x": "NaN", "text": "a \\\" NaN"}));
        let found = parse_portable(python).unwrap();
        assert_eq!(found, json!({"limit": [0.0, null], "low": null, "x": null, "text": "a \\\" NaN"}));
        // The place of an error is that in the file.
        assert!(parse::<Value>(b"{\"x\": NaN,\n oops}").unwrap_err().to_string().contains("line"));
        assert!(parse::<Value>(b"\"unclosed NaN").is_err());
    }
}
