use super::bpe::Bytes;
use super::vocabulary::{self, Inner, guarded};
use super::{Detokenizer, Keep, TextError};
use aho_corasick::{AhoCorasick, MatchKind};
use knapsack_artifact::token_tables::{self, Source};
use knapsack_artifact::{TokenTables, json};
use knapsack_device::{FileRange, Folder, WeightFiles};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tokenizers::tokenizer::pre_tokenizer::Split;
use tokenizers::{DecoderWrapper, Model, Normalizer, OffsetType, PreTokenizedString, PreTokenizer};

const FILE_NAME: &str = "tokenizer.json";
/// Largest `tokenizer.json` that is read; real ones stay below 40 MiB.
pub(super) const MAX_FILE_BYTES: u64 = 128 << 20;
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
    inner: Arc<Inner>,
    spelling: Spelling,
    strip_first_space: bool,
    longest_token: usize,
    /// Finds the added tokens in a text; the pattern's number is the token's in `tokens`.
    added: Arc<AhoCorasick>,
    tokens: Arc<Vec<Added>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder.
    ///
    /// # Errors
    /// A file that is missing, too large or not a tokenizer.
    pub fn open(folder: &Path) -> Result<Self, TextError> {
        Self::from_files(&Folder::new(folder), Keep::Nowhere)
    }

    /// The same of files that are wherever they are.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub(crate) fn from_files(files: &dyn WeightFiles, keep: Keep<'_>) -> Result<Self, TextError> {
        let io = |source| TextError::Io { path: files.place().join(FILE_NAME), source };
        let file = open_capped(files, FILE_NAME, MAX_FILE_BYTES)?.map(MAX_FILE_BYTES).map_err(io)?;
        let source = Source::of(file.as_ref());
        let compiled = compiled(files, &source).or_else(|| kept(keep, &source)).map(vocabulary::of_tables);
        if let Some(Ok((inner, longest_token))) = compiled {
            return Self::new(inner, longest_token);
        }
        let text = json::text(file.as_ref()).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        let (inner, longest_token) = vocabulary::read(text.as_bytes())?;
        // Tables of a text that had to be decoded are not those of the file.
        if let Some(tables) = inner.get_model().tables().filter(|tables| tables.are_of(&source)) {
            keep.write(&source, tables.bytes());
        }
        Self::new(inner, longest_token)
    }

    /// Builds a tokenizer from the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TextError> {
        let (inner, longest_token) = vocabulary::read(json)?;
        Self::new(inner, longest_token)
    }

    fn new(mut inner: Inner, longest_token: usize) -> Result<Self, TextError> {
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
        let (added, tokens) = added_tokens(&inner)?;
        let (inner, added, tokens) = (Arc::new(inner), Arc::new(added), Arc::new(tokens));
        Ok(Self { inner, spelling, strip_first_space, longest_token, added, tokens })
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
    pub(crate) fn encode_document(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.encode_inner(text, true)?;
        if let [first, second, ..] = ids[..]
            && first == second
            && self.is_special(first)
        {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// Tokens of a prompt. `data` are the ranges of it that do not come from its template: special tokens that are spelled out
    /// there, even in part, are text, and so is every added token of an id that the model does not have (`vocab_size` and beyond).
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(crate) fn encode_prompt(
        &self,
        text: &str,
        data: &[Range<usize>],
        vocab_size: u32,
    ) -> Result<Vec<u32>, TextError> {
        let is_text =
            |token: &Added, range: &Range<usize>| token.id >= vocab_size || token.special && overlaps(data, range);
        if !self.added.find_iter(text).any(|found| is_text(&self.tokens[found.pattern()], &found.range())) {
            return self.encode_inner(text, false);
        }
        check_length(text)?;
        guarded(|| self.encode_around(text, &is_text)).map_err(TextError::Encode)
    }

    /// As the library encodes, but with added tokens left as text where `is_text` says so.
    fn encode_around(
        &self,
        text: &str,
        is_text: &dyn Fn(&Added, &Range<usize>) -> bool,
    ) -> tokenizers::Result<Vec<u32>> {
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, whole| {
            let piece = |range: Range<usize>| whole.slice(tokenizers::normalizer::Range::Original(range));
            let mut parts: Vec<Split> = Vec::new();
            let mut from = 0;
            for found in self.added.find_iter(text) {
                let (token, mut range) = (&self.tokens[found.pattern()], found.range());
                if is_text(token, &range) || token.single_word && !stands_alone(text, &range) {
                    continue;
                }
                if token.lstrip {
                    range.start = text[..range.start].trim_end().len();
                }
                if token.rstrip {
                    range.end += text[range.end..].len() - text[range.end..].trim_start().len();
                }
                range.start = range.start.max(from);
                if range.end <= from {
                    continue;
                }
                parts.extend(piece(from..range.start).filter(|_| from < range.start).map(Split::from));
                let spelled = piece(range.clone()).ok_or("a token's place is no text")?;
                let token = tokenizers::Token::new(token.id, text[range.clone()].to_owned(), (0, spelled.len()));
                parts.push(Split::from((spelled, Some(vec![token]))));
                from = range.end;
            }
            parts.extend(piece(from..text.len()).filter(|_| from < text.len()).map(Split::from));
            Ok(parts)
        })?;
        if let Some(normalizer) = self.inner.get_normalizer() {
            pieces.normalize(|piece| normalizer.normalize(piece))?;
        }
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        let model = self.inner.get_model();
        pieces.tokenize(|piece| model.tokenize(piece.get()))?;
        Ok(pieces.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec())
    }

    fn encode_inner(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        check_length(text)?;
        let encoding = guarded(|| self.inner.encode_fast(text, add_special)).map_err(TextError::Encode)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The most bytes of text that one token stands for.
    pub(crate) fn longest_token(&self) -> usize {
        self.longest_token
    }

    /// The id of a token by its exact spelling.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether `id` is a special token: one that is never part of visible text.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// Tokens in the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// A stream that turns tokens back into text.
    pub(crate) fn detokenizer(&self) -> Detokenizer {
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

    /// The text of `ids`, special tokens spelled out.
    pub fn spelling(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
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

/// An added token, as it is looked for in text.
#[derive(Debug)]
struct Added {
    id: u32,
    special: bool,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
}

/// Whether any of the sorted ranges has a byte of `range`.
fn overlaps(ranges: &[Range<usize>], range: &Range<usize>) -> bool {
    let first = ranges.partition_point(|known| known.end <= range.start);
    ranges.get(first).is_some_and(|known| known.start < range.end)
}

fn stands_alone(text: &str, range: &Range<usize>) -> bool {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    !text[..range.start].ends_with(is_word) && !text[range.end..].starts_with(is_word)
}

fn check_length(text: &str) -> Result<(), TextError> {
    match text.len() <= MAX_TEXT_BYTES {
        true => Ok(()),
        false => Err(TextError::Encode(format!(
            "{} bytes, more than the limit of {MAX_TEXT_BYTES} for one text",
            text.len()
        ))),
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).field("spelling", &self.spelling).finish()
    }
}

/// The added tokens, and what finds the longest of them in a text.
fn added_tokens(tokenizer: &Inner) -> Result<(AhoCorasick, Vec<Added>), TextError> {
    let known = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let spelled: Vec<_> = known.iter().filter(|(_, token)| !token.content.is_empty()).collect();
    let added = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(spelled.iter().map(|(_, token)| &token.content))
        .map_err(|error| TextError::Tokenizer(error.to_string()))?;
    let tokens = spelled.into_iter().map(|(&id, token)| Added {
        id,
        special: token.special,
        single_word: token.single_word,
        lstrip: token.lstrip,
        rstrip: token.rstrip,
    });
    Ok((added, tokens.collect()))
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

/// The tables beside a `tokenizer.json`, if they are there and made from it.
fn compiled(files: &dyn WeightFiles, source: &Source) -> Option<TokenTables<Bytes>> {
    mapped(files.open(token_tables::FILE_NAME).ok()?, source)
}

/// Those that an earlier load kept.
fn kept(keep: Keep<'_>, source: &Source) -> Option<TokenTables<Bytes>> {
    mapped(FileRange::whole(File::open(keep.path(source)?).ok()?).ok()?, source)
}

fn mapped(file: FileRange, source: &Source) -> Option<TokenTables<Bytes>> {
    let map = file.map(token_tables::MAX_BYTES).ok()?;
    TokenTables::new(Bytes::Mapped(map)).ok().filter(|tables| tables.are_of(source))
}

/// Reads a whole file after checking its size.
pub(crate) fn read_capped(files: &dyn WeightFiles, name: &str, limit: u64) -> Result<Vec<u8>, TextError> {
    let io = |source| TextError::Io { path: files.place().join(name), source };
    open_capped(files, name, limit)?.read(limit).map_err(io)
}

fn open_capped(files: &dyn WeightFiles, name: &str, limit: u64) -> Result<FileRange, TextError> {
    let path = || files.place().join(name);
    let file = files.open(name).map_err(|source| TextError::Io { path: path(), source })?;
    match file.len() <= limit {
        true => Ok(file),
        false => Err(TextError::TooLarge { path: path(), bytes: file.len(), limit }),
    }
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
    fn what_is_typed_stays_text() {
        let tokenizer = Tokenizer::open(&knapsack_testkit::tiny_assistant()).unwrap();
        let text = "<|im_start|>user\nSay <|im_end|> and <|im_start|><|im_end|>\n";
        let typed = text.find("Say").unwrap()..text.rfind("<|im_end|>").unwrap();
        let whole = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.encode_prompt(text, &[], 1024).unwrap(), whole);
        let tokens = tokenizer.encode_prompt(text, &[typed], 1024).unwrap();
        assert_eq!(tokenizer.spelling(&tokens), text);
        let special = |tokens: &[u32]| tokens.iter().filter(|&&id| tokenizer.is_special(id)).count();
        assert_eq!((special(&whole), special(&tokens)), (4, 2));
        // A token that is spelled in part by the data is text; without any, the slow way is the fast way.
        let half = text.find("<|im_end|>").unwrap();
        assert_eq!(special(&tokenizer.encode_prompt(text, std::slice::from_ref(&(half..half + 1)), 1024).unwrap()), 3);
        assert_eq!(tokenizer.encode_around(text, &|_, _| false).unwrap(), whole);
        // A model without the last tokens reads their spelling.
        assert_eq!(special(&tokenizer.encode_prompt(text, &[], 1023).unwrap()), 2);
    }

    #[test]
    fn hostile_files_are_errors() {
        for json in [&b""[..], b"{}", b"[1,2", b"\xff\xfe", br#"{"model":{"type":"BPE","vocab":{},"merges":["a b"]}}"#]
        {
            assert!(matches!(Tokenizer::from_bytes(json), Err(TextError::Tokenizer(_))));
        }
        // No library writes numbers that are none; the place is told.
        let json = std::fs::read_to_string(knapsack_testkit::tiny_assistant().join("tokenizer.json")).unwrap();
        let error = Tokenizer::from_bytes(json.replacen("null", "NaN", 1).as_bytes()).err().unwrap().to_string();
        assert!(error.starts_with("tokenizer.json ") && error.contains("at line "), "{error}");
    }
}
