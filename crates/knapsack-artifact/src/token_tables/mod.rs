//! `tokenizer-tables.bin`: a byte-pair tokenizer as it is used, so that a device maps it instead of building it from
//! `tokenizer.json` at every load. It is made from that file when packaging ([`compile`]), names it by its hash, and is passed
//! over where the hash is another: a folder without it, or with an old one, works as before.
//!
//! Everything is little endian. A header of [`HEADER_BYTES`]: magic `KNAPTOKS` (8), format version `u32`, flags `u32`; length
//! (`u64`) and SHA-256 (32) of the `tokenizer.json`; then `u32`s: ids (the largest plus 1), tokens, slots, merges, bytes of all
//! spellings, bytes of the longest, the id of the unknown token ([`NO_ID`]: none), bytes of the settings. Then, one after the
//! other:
//!
//! * `ids + 1` `u32`: where the spelling of each id starts; an empty one stands for an id without a token.
//! * `slots` `u32`, a power of two: ids by the hash of their spelling, each at the first free slot from there on, plus 1; 0 is free.
//! * `ids + 1` `u32`: which merge is the first whose left side is that id.
//! * `merges` times `u32` right side, `u32` rank, `u32` result, in order of left and right side.
//! * the spellings, in order of their ids; the settings: the `tokenizer.json` as JSON without vocabulary and merges.
//!
//! A reader takes none of it for granted: every access is checked, and damage reads as a token that is not there.

mod compile;
#[cfg(test)]
mod tests;

pub use compile::{NotTabular, compile};

use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// File name in a weight folder.
pub const FILE_NAME: &str = "tokenizer-tables.bin";
/// First bytes.
pub const MAGIC: &[u8; 8] = b"KNAPTOKS";
/// Breaking version of the format.
pub const VERSION: u32 = 1;
/// Bytes before the tables.
pub const HEADER_BYTES: usize = 88;
/// Largest file that is read; the tables of the largest real vocabularies take some 15 MB.
pub const MAX_BYTES: u64 = 128 << 20;
/// Largest id plus 1; the largest real vocabularies have some 260,000 tokens.
pub const MAX_IDS: u32 = 1 << 22;
/// Stands for no token.
pub const NO_ID: u32 = u32::MAX;

/// Slots that are looked at for one spelling. Half of all slots are free, so real vocabularies stay far below.
const MAX_PROBES: u32 = 256;
const MERGE_BYTES: usize = 12;
const FUSES_UNKNOWN: u32 = 1;
const FALLS_BACK_TO_BYTES: u32 = 2;
const PREFERS_WHOLE_WORDS: u32 = 4;

/// A `tokenizer.json`, as tables name the one that they were made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    bytes: u64,
    sha256: [u8; 32],
}

impl Source {
    /// That of a file.
    pub fn of(json: &[u8]) -> Self {
        Source { bytes: json.len() as u64, sha256: Sha256::digest(json).into() }
    }

    /// The name of its tables in a folder that keeps those of several, with the version of the format.
    pub fn file_name(&self) -> String {
        format!("{}.v{VERSION}.bin", hex::encode(self.sha256))
    }
}

/// Tables over bytes that are in memory or mapped.
#[derive(Clone, Debug)]
pub struct TokenTables<B> {
    bytes: B,
    header: Header,
    starts: usize,
    slots: usize,
    firsts: usize,
    merges: usize,
    text: Range<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Header {
    flags: u32,
    source_bytes: u64,
    source: [u8; 32],
    ids: u32,
    tokens: u32,
    slots: u32,
    merges: u32,
    text: u32,
    longest: u32,
    unknown: u32,
    settings: u32,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([VERSION, self.flags].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(self.source_bytes.to_le_bytes());
        bytes.extend(self.source);
        let Header { ids, tokens, slots, merges, text, longest, unknown, settings, .. } = *self;
        let words = [ids, tokens, slots, merges, text, longest, unknown, settings];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, TokenTablesError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>().filter(|header| header.starts_with(MAGIC)) else {
            return Err(TokenTablesError::Magic);
        };
        let word =
            |at: usize| header.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes);
        if word(8) != VERSION {
            return Err(TokenTablesError::Version(word(8)));
        }
        let mut source = [0; 32];
        source.copy_from_slice(&header[24..56]);
        Ok(Header {
            flags: word(12),
            source_bytes: u64::from(word(16)) | u64::from(word(20)) << 32,
            source,
            ids: word(56),
            tokens: word(60),
            slots: word(64),
            merges: word(68),
            text: word(72),
            longest: word(76),
            unknown: word(80),
            settings: word(84),
        })
    }
}

/// Why bytes are no usable tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenTablesError {
    /// Not tables.
    #[error("no token tables: they do not start with `KNAPTOKS`")]
    Magic,
    /// Written by another format version.
    #[error("token tables of format {0}, but this build reads {VERSION}")]
    Version(u32),
    /// Sizes that contradict each other or the length.
    #[error("the token tables are damaged")]
    Damaged,
}

/// Memory for regular expressions and their like, whatever they are.
const SETTINGS_BYTES: u64 = 2 << 20;
/// Memory for the settings by their bytes; nearly all of them are added tokens.
const SETTINGS_FACTOR: u64 = 4;
/// Memory for a tokenizer without tables by the bytes of its `tokenizer.json`.
const JSON_FACTOR: u64 = 10;

/// What a runtime holds for a `tokenizer.json` without tables, in bytes: an upper bound; 0 for what is no tokenizer.
pub fn memory_without(json: &[u8]) -> u64 {
    #[derive(serde::Deserialize)]
    struct Tokenizer {
        #[serde(rename = "model")]
        _model: IgnoredAny,
    }
    match serde_json::from_slice::<Tokenizer>(json) {
        Ok(_) => SETTINGS_BYTES + JSON_FACTOR * json.len() as u64,
        Err(_) => 0,
    }
}

impl<B: AsRef<[u8]>> TokenTables<B> {
    /// Takes bytes that [`compile`] made.
    ///
    /// # Errors
    /// Other bytes, another version, another length than the header says.
    pub fn new(bytes: B) -> Result<Self, TokenTablesError> {
        let header = Header::decode(bytes.as_ref())?;
        if header.ids > MAX_IDS || !header.slots.is_power_of_two() {
            return Err(TokenTablesError::Damaged);
        }
        let mut end = HEADER_BYTES as u64;
        let mut section = |bytes: u64| {
            let start = end;
            end += bytes;
            start
        };
        let by_id = 4 * (u64::from(header.ids) + 1);
        let starts = section(by_id);
        let slots = section(4 * u64::from(header.slots));
        let firsts = section(by_id);
        let merges = section(MERGE_BYTES as u64 * u64::from(header.merges));
        let text = section(u64::from(header.text));
        section(u64::from(header.settings));
        if end != bytes.as_ref().len() as u64 {
            return Err(TokenTablesError::Damaged);
        }
        let [starts, slots, firsts, merges, text] = [starts, slots, firsts, merges, text].map(|at| at as usize);
        let text = text..text + header.text as usize;
        Ok(TokenTables { bytes, header, starts, slots, firsts, merges, text })
    }

    /// What a runtime holds for it, in bytes: the tables, and what the library makes of the settings.
    pub fn memory(&self) -> u64 {
        self.bytes().len() as u64 + SETTINGS_BYTES + SETTINGS_FACTOR * self.settings().len() as u64
    }

    /// Whether they were made from this `tokenizer.json`.
    pub fn are_of(&self, source: &Source) -> bool {
        self.header.source_bytes == source.bytes && self.header.source == source.sha256
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The `tokenizer.json` without vocabulary and merges.
    pub fn settings(&self) -> &[u8] {
        self.bytes().get(self.text.end..).unwrap_or_default()
    }

    /// How many tokens have an id.
    pub const fn tokens(&self) -> usize {
        self.header.tokens as usize
    }

    /// The largest id plus 1.
    pub const fn ids(&self) -> u32 {
        self.header.ids
    }

    /// Bytes of the longest spelling.
    pub const fn longest(&self) -> usize {
        self.header.longest as usize
    }

    /// The token that stands for what no token spells.
    pub fn unknown(&self) -> Option<u32> {
        Some(self.header.unknown).filter(|&id| id != NO_ID)
    }

    /// Whether several unknown characters in a row are one unknown token.
    pub const fn fuses_unknown(&self) -> bool {
        self.header.flags & FUSES_UNKNOWN != 0
    }

    /// Whether a character that no token spells becomes the tokens of its bytes, `<0x00>` to `<0xFF>`.
    pub const fn falls_back_to_bytes(&self) -> bool {
        self.header.flags & FALLS_BACK_TO_BYTES != 0
    }

    /// Whether a word that is a token is that token, whatever its merges would give.
    pub const fn prefers_whole_words(&self) -> bool {
        self.header.flags & PREFERS_WHOLE_WORDS != 0
    }

    /// How the vocabulary spells a token.
    pub fn spelling(&self, id: u32) -> Option<&str> {
        if id >= self.header.ids {
            return None;
        }
        let [start, end] = [0, 1].map(|next| self.word(self.starts, id as usize + next).map(|at| at as usize));
        let text = self.bytes().get(self.text.clone())?.get(start?..end?)?;
        std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    }

    /// The token of that spelling.
    pub fn id(&self, spelling: &str) -> Option<u32> {
        let slot = |slot: u32| self.word(self.slots, slot as usize).unwrap_or(0);
        match probe(spelling, self.header.slots - 1, slot, |id| self.spelling(id) == Some(spelling)) {
            Probe::Found(id) => Some(id),
            Probe::Free(_) | Probe::Crowded => None,
        }
    }

    /// Rank and result of two tokens side by side; the least rank is merged first.
    pub fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        if left >= self.header.ids {
            return None;
        }
        let [first, end] = [0, 1].map(|next| self.word(self.firsts, left as usize + next));
        let (mut low, mut high) = (first?, end?.min(self.header.merges));
        while low < high {
            let middle = low + (high - low) / 2;
            let at = 3 * middle as usize;
            match self.word(self.merges, at)?.cmp(&right) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    return Some((self.word(self.merges, at + 1)?, self.word(self.merges, at + 2)?));
                }
            }
        }
        None
    }

    fn word(&self, section: usize, index: usize) -> Option<u32> {
        let at = section + 4 * index;
        self.bytes.as_ref().get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
    }
}

/// What is at the slots of a spelling.
enum Probe {
    /// The spelling's own id.
    Found(u32),
    /// A free slot, where it would be.
    Free(u32),
    /// Others, at every slot that is looked at.
    Crowded,
}

/// Looks for a spelling from the slot of its hash on.
fn probe(spelling: &str, mask: u32, slot: impl Fn(u32) -> u32, is: impl Fn(u32) -> bool) -> Probe {
    let first = hash(spelling.as_bytes());
    for at in (0..MAX_PROBES).map(|step| first.wrapping_add(step) & mask) {
        match slot(at).checked_sub(1) {
            None => return Probe::Free(at),
            Some(id) if is(id) => return Probe::Found(id),
            Some(_) => {}
        }
    }
    Probe::Crowded
}

/// Multiplies eight bytes at a time into 64 bits.
fn hash(bytes: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
        hash ^= hash >> 32;
    }
    hash.wrapping_mul(FACTOR).rotate_left(32) as u32
}
