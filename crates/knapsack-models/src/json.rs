//! JSON as model folders have it: with a byte order mark, in UTF-16, with the bare `NaN` and `Infinity` that Python writes.

use serde_json::Value;
use std::borrow::Cow;

/// Why bytes are no JSON that can be read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Not text in an encoding that is read.
    #[error("it is not text in UTF-8 or UTF-16{0}")]
    Encoding(&'static str),
    /// Not JSON.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
}

/// Parses JSON in UTF-8 or UTF-16, with or without a byte order mark. `NaN`, `Infinity` and `-Infinity` become strings of these
/// names: whoever wants a number there says what was found.
///
/// # Errors
/// [`JsonError`].
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let text = text(bytes)?;
    match serde_json::from_str(&text) {
        Ok(value) => Ok(value),
        Err(error) => match quoted(&text) {
            Some(changed) => Ok(serde_json::from_str(&changed).map_err(|_| error)?),
            None => Err(error.into()),
        },
    }
}

/// The text of a file, without its byte order mark.
///
/// # Errors
/// [`JsonError::Encoding`].
pub fn text(bytes: &[u8]) -> Result<Cow<'_, str>, JsonError> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes.as_chunks::<2>();
        let text = String::from_utf16(&units.iter().map(|&pair| unit(pair)).collect::<Vec<_>>());
        text.ok().filter(|_| rest.is_empty()).map(Cow::Owned).ok_or(JsonError::Encoding(": its UTF-16 is broken"))
    };
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err(JsonError::Encoding(": it is UTF-32")),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        // JSON begins with an ASCII character, so a zero byte beside it is half of a UTF-16 unit.
        [first, 0, ..] if *first != 0 => utf16(bytes, u16::from_le_bytes),
        [0, second, ..] if *second != 0 => utf16(bytes, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        _ => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, JsonError> {
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| JsonError::Encoding(""))
}

/// The text with Python's three non-numbers in quotes, wherever they stand outside a string; `None` where there are none.
fn quoted(text: &str) -> Option<String> {
    const NAMES: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let mut result = String::with_capacity(text.len() + 16);
    let (mut rest, mut found) = (text, false);
    while let Some(first) = rest.chars().next() {
        let (piece, in_quotes) = if first == '"' {
            (string_length(rest), false)
        } else if let Some(name) = NAMES.iter().find(|name| rest.starts_with(**name)) {
            (name.len(), true)
        } else {
            (first.len_utf8(), false)
        };
        found |= in_quotes;
        let (piece, after) = rest.split_at(piece);
        if in_quotes {
            result.extend(["\"", piece, "\""]);
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
        let wide = |unit: fn(u16) -> [u8; 2]| TEXT.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        let (little, big) = (wide(u16::to_le_bytes), wide(u16::to_be_bytes));
        let with = |mark: &[u8], text: &[u8]| [mark, text].concat();
        for bytes in [
            TEXT.as_bytes().to_vec(),
            with(&[0xef, 0xbb, 0xbf], TEXT.as_bytes()),
            with(&[0xff, 0xfe], &little),
            with(&[0xfe, 0xff], &big),
            little,
            big,
        ] {
            assert_eq!(parse(&bytes).unwrap(), expected);
        }
    }

    #[test]
    fn other_encodings_are_named() {
        for (bytes, expected) in [
            (&b"{\"a\": \"\xe4\"}"[..], "not text in UTF-8 or UTF-16"),
            (&[0xff, 0xfe, 0, 0, b'{'][..], "UTF-32"),
            (&[0xff, 0xfe, b'{'][..], "broken"),
        ] {
            let error = parse(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_python_writes_is_read() {
        let found = parse(br#"{"limit": [0.0, Infinity], "low": -Infinity, "x": NaN, "text": "a \\\" NaN"}"#).unwrap();
        assert_eq!(found, json!({"limit": [0.0, "Infinity"], "low": "-Infinity", "x": "NaN", "text": "a \\\" NaN"}));
        // The place of an error is that in the file.
        assert!(parse(b"{\"x\": NaN,\n oops}").unwrap_err().to_string().contains("line"));
        assert!(parse(b"\"unclosed NaN").is_err());
    }
}
