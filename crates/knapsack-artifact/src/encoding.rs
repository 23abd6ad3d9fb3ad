//! The bytes of a file as text, in whichever of Unicode's encodings it was saved.

use std::borrow::Cow;
use std::fmt;

/// A text without a byte-order mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// What could not be decoded is a replacement character.
    pub text: Cow<'a, str>,
    /// The first place in it that could not be decoded, and why.
    pub wrong: Option<(usize, Wrong)>,
}

impl Decoded<'_> {
    /// The same, independent of the file's bytes.
    pub fn into_owned(self) -> Decoded<'static> {
        Decoded { text: Cow::Owned(self.text.into_owned()), wrong: self.wrong }
    }
}

/// Why a file is no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A byte that UTF-8 does not have there.
    Utf8(u8),
    /// Something that another encoding of Unicode does not have there.
    Unicode(&'static str),
    /// A file of another kind.
    Compressed(&'static str),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Utf8(byte) => write!(f, "it is text in no encoding of Unicode (byte 0x{byte:02x})"),
            Wrong::Unicode(name) => write!(f, "it seems to be {name}, and is damaged"),
            Wrong::Compressed(name) => write!(f, "it is compressed ({name})"),
        }
    }
}

/// A function that decodes, and says where it could not.
type Decode = fn(&[u8]) -> (String, Option<usize>);

/// Decodes by the byte-order mark; without one by where the zero bytes of the first characters are, which in JSON are ASCII
/// (RFC 4627, section 3).
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    for (magic, format) in [(&b"\x1f\x8b"[..], "gzip"), (b"PK\x03\x04", "zip"), (b"\x28\xb5\x2f\xfd", "zstd")] {
        if bytes.starts_with(magic) {
            return Decoded { text: Cow::Borrowed(""), wrong: Some((0, Wrong::Compressed(format))) };
        }
    }
    let (name, decode, skip): (&str, Decode, usize) = match *bytes {
        [0xff, 0xfe, 0, 0, ..] => ("UTF-32", utf32::<false>, 4),
        [0, 0, 0xfe, 0xff, ..] => ("UTF-32", utf32::<true>, 4),
        [0xff, 0xfe, ..] => ("UTF-16", utf16::<false>, 2),
        [0xfe, 0xff, ..] => ("UTF-16", utf16::<true>, 2),
        [0, 0, 0, 1..=255, ..] => ("UTF-32", utf32::<true>, 0),
        [1..=255, 0, 0, 0, ..] => ("UTF-32", utf32::<false>, 0),
        [0, 1..=255, 0, ..] => ("UTF-16", utf16::<true>, 0),
        [1..=255, 0, 1..=255, 0, ..] => ("UTF-16", utf16::<false>, 0),
        _ => return utf8(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)),
    };
    let (text, wrong) = decode(&bytes[skip..]);
    Decoded { text: Cow::Owned(text), wrong: wrong.map(|at| (at, Wrong::Unicode(name))) }
}

fn utf8(bytes: &[u8]) -> Decoded<'_> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Decoded { text: Cow::Borrowed(text), wrong: None },
        Err(error) => {
            let at = error.valid_up_to();
            Decoded { text: String::from_utf8_lossy(bytes), wrong: Some((at, Wrong::Utf8(bytes[at]))) }
        }
    }
}

fn utf16<const BIG: bool>(bytes: &[u8]) -> (String, Option<usize>) {
    let units = bytes.chunks_exact(2).map(|pair| {
        let pair = [pair[0], pair[1]];
        if BIG { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
    });
    collect(char::decode_utf16(units).map(Result::ok), !bytes.len().is_multiple_of(2))
}

fn utf32<const BIG: bool>(bytes: &[u8]) -> (String, Option<usize>) {
    let units = bytes.chunks_exact(4).map(|four| {
        let four = [four[0], four[1], four[2], four[3]];
        char::from_u32(if BIG { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) })
    });
    collect(units, !bytes.len().is_multiple_of(4))
}

fn collect(characters: impl Iterator<Item = Option<char>>, rest: bool) -> (String, Option<usize>) {
    let (mut text, mut wrong) = (String::new(), None);
    for character in characters.chain(rest.then_some(None)) {
        if character.is_none() {
            wrong = wrong.or(Some(text.len()));
        }
        text.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    (text, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Decoded<'_> {
        decode(bytes)
    }

    #[test]
    fn every_encoding_of_unicode_is_read_with_and_without_a_mark() {
        let text = "{ \"model_id\": \"模型 🦀\" }";
        let utf16 = |big: bool| {
            text.encode_utf16().flat_map(move |unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
        };
        let utf32 = |big: bool| {
            text.chars().flat_map(move |c| if big { u32::from(c).to_be_bytes() } else { u32::from(c).to_le_bytes() })
        };
        let with = |mark: &[u8], bytes: Vec<u8>| [mark.to_vec(), bytes].concat();
        for mark in [true, false] {
            let marked = |mark_bytes: &'static [u8]| if mark { mark_bytes } else { b"" };
            for bytes in [
                with(marked(b"\xef\xbb\xbf"), text.as_bytes().to_vec()),
                with(marked(b"\xff\xfe"), utf16(false).collect()),
                with(marked(b"\xfe\xff"), utf16(true).collect()),
                with(marked(b"\xff\xfe\0\0"), utf32(false).collect()),
                with(marked(b"\0\0\xfe\xff"), utf32(true).collect()),
            ] {
                assert_eq!(read(&bytes), Decoded { text: Cow::Borrowed(text), wrong: None });
            }
        }
    }

    #[test]
    fn what_can_not_be_read_is_told_where() {
        assert_eq!(read(b"ab\xe9").wrong, Some((2, Wrong::Utf8(0xe9))));
        assert_eq!(read(b"\xff\xfea\0\0\xd8b\0").wrong, Some((1, Wrong::Unicode("UTF-16"))));
        assert_eq!(read(b"\xff\xfea\0b").wrong, Some((1, Wrong::Unicode("UTF-16"))));
        assert_eq!(read(b"\xff\xfe\0\0\0\0\x11\0").wrong, Some((0, Wrong::Unicode("UTF-32"))));
        assert_eq!(read(b"\x1f\x8b\x08").wrong, Some((0, Wrong::Compressed("gzip"))));
        assert_eq!(read(b""), Decoded { text: Cow::Borrowed(""), wrong: None });
    }
}
