use super::{Detokenizer, TextError};
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use tokenizers::DecoderWrapper;

/// Largest `tokenizer.json` that is read; real ones stay below 40 MiB.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Longest text that is tokenized in one call.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// How a token's spelling in the vocabulary becomes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Each character stands for one byte (GPT-2's table).
    ByteLevel,
    /// `▁` stands for a space and `<0x0A>` for a byte.
    ByteFallback,
}

/// A model's tokenizer, read from `tokenizer.json`. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    spelling: Spelling,
    strip_first_space: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder.
    ///
    /// # Errors
    /// A file that is missing, too large or not a tokenizer.
    pub fn open(folder: &Path) -> Result<Self, TextError> {
        Self::from_bytes(&read_capped(&folder.join("tokenizer.json"), MAX_FILE_BYTES)?)
    }

    /// Builds a tokenizer from the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TextError> {
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(TextError::Tokenizer)?;
        // Padding and truncation belong to training pipelines; a hostile file could ask for gigabytes of padding.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        let mut decoders = Vec::new();
        if let Some(decoder) = inner.get_decoder() {
            flatten(decoder, &mut decoders);
        }
        let byte_level = decoders.iter().any(|decoder| matches!(decoder, DecoderWrapper::ByteLevel(_)));
        let strip_first_space = decoders.iter().any(|decoder| match decoder {
            DecoderWrapper::Strip(strip) => strip.content == ' ' && strip.start > 0,
            DecoderWrapper::Metaspace(metaspace) => {
                metaspace.prepend_scheme != tokenizers::pre_tokenizers::metaspace::PrependScheme::Never
            }
            _ => false,
        });
        let spelling = if byte_level { Spelling::ByteLevel } else { Spelling::ByteFallback };
        Ok(Self { inner: Arc::new(inner), spelling, strip_first_space })
    }

    /// Tokens of `text`; special tokens spelled out in it are recognised, none is added.
    ///
    /// # Errors
    /// A text beyond 64 MiB, or one that the tokenizer cannot represent.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode_inner(text, false)
    }

    /// Tokens of `text` as its own document: with the special tokens that the tokenizer's post-processor adds (such as a
    /// leading BOS), but never a second BOS where the text already starts with one.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.encode_inner(text, true)?;
        if let [first, second, ..] = ids[..]
            && first == second
            && self.is_special(first)
        {
            ids.remove(0);
        }
        Ok(ids)
    }

    fn encode_inner(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TextError::Encode(format!(
                "{} bytes, more than the limit of {MAX_TEXT_BYTES} for one text",
                text.len()
            )));
        }
        let encoding = guarded(|| self.inner.encode_fast(text, add_special)).map_err(TextError::Encode)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The id of a token by its exact spelling.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether `id` is a special token: one that is never part of visible text.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// Tokens in the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// A stream that turns tokens back into text.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(self.clone(), self.strip_first_space)
    }

    /// The text of `ids`, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.detokenizer();
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(id));
        }
        text.push_str(&stream.finish());
        text
    }

    /// The bytes that `id` stands for; the spelling of special tokens, nothing for tokens that do not exist.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.is_special(id) {
            true => bytes.extend(self.inner.id_to_token(id).unwrap_or_default().into_bytes()),
            false => self.append_bytes(id, &mut bytes),
        }
        bytes
    }

    /// Appends the bytes that `id` stands for; nothing for special and unknown tokens.
    pub(crate) fn append_bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        if self.is_special(id) {
            return;
        }
        let Some(token) = self.inner.id_to_token(id) else { return };
        match self.spelling {
            Spelling::ByteLevel => append_byte_level(&token, bytes),
            Spelling::ByteFallback => append_byte_fallback(&token, bytes),
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).field("spelling", &self.spelling).finish()
    }
}

fn flatten<'a>(decoder: &'a DecoderWrapper, into: &mut Vec<&'a DecoderWrapper>) {
    match decoder {
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().for_each(|part| flatten(part, into)),
        other => into.push(other),
    }
}

/// GPT-2's table: printable Latin-1 characters stand for themselves, the 68 other bytes for U+0100 and up. A token with a
/// character outside the table (an added token with a space, for instance) stands for its own UTF-8.
fn append_byte_level(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The bytes that do not stand for themselves, in order: the k-th is written as U+0100 + k.
const SHIFTED: [u8; 68] = {
    let mut table = [0; 68];
    let mut next = 0;
    let mut byte = 0u16;
    while byte < 256 {
        if !stands_for_itself(byte as u8) {
            table[next] = byte as u8;
            next += 1;
        }
        byte += 1;
    }
    table
};

fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) => stands_for_itself(byte).then_some(byte),
        Err(_) => SHIFTED.get(code.checked_sub(0x100)? as usize).copied(),
    }
}

fn append_byte_fallback(token: &str, bytes: &mut Vec<u8>) {
    if let Some(hex) = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'))
        && hex.len() == 2
        && let Ok(byte) = u8::from_str_radix(hex, 16)
    {
        bytes.push(byte);
        return;
    }
    bytes.extend_from_slice(token.replace('▁', " ").as_bytes());
}

/// Calls into the tokenizer library; a panic in it (it indexes by numbers from the file) becomes an error.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the tokenizer contradicts itself".to_owned()),
    }
}

/// Reads a whole file after checking its size.
pub(crate) fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, TextError> {
    let io = |source| TextError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > limit {
        return Err(TextError::TooLarge { path: path.to_owned(), bytes, limit });
    }
    let mut content = Vec::with_capacity(bytes as usize);
    // The cap holds even when the file grows while it is read, or reports no length (a pipe).
    file.take(limit).read_to_end(&mut content).map_err(io)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_table_is_a_bijection() {
        let mut seen = [false; 256];
        for code in 0..0x200 {
            if let Some(byte) = char::from_u32(code).and_then(byte_of) {
                assert!(!std::mem::replace(&mut seen[usize::from(byte)], true), "byte {byte} twice");
            }
        }
        assert!(seen.iter().all(|&byte| byte));
        // Facts of GPT-2's table.
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('ł'), Some(0xa0));
    }

    #[test]
    fn hostile_files_are_errors() {
        for json in [&b""[..], b"{}", b"[1,2", b"\xff\xfe", br#"{"model":{"type":"BPE","vocab":{},"merges":["a b"]}}"#]
        {
            assert!(matches!(Tokenizer::from_bytes(json), Err(TextError::Tokenizer(_))));
        }
    }
}
