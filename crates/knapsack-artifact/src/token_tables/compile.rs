//! From `tokenizer.json` to tables.

use super::{
    FALLS_BACK_TO_BYTES, FUSES_UNKNOWN, HEADER_BYTES, Header, MAX_BYTES, MAX_IDS, NO_ID, PREFERS_WHOLE_WORDS, Probe,
    probe,
};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::fmt;

/// Ids without a token that a vocabulary may have for each that it has, so that a small file makes no large tables.
const MAX_SPARSITY: usize = 4;

/// Why a `tokenizer.json` has no tables: it is damaged, contradicts itself, or asks for more than plain byte-pair encoding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no plain byte-pair encoding: {0}")]
pub struct NotTabular(String);

impl NotTabular {
    fn new(problem: impl fmt::Display) -> Self {
        NotTabular(problem.to_string())
    }
}

/// The tables of a `tokenizer.json`. Equal files have equal tables.
///
/// # Errors
/// What is left to a general reader: other models, dropout, prefixes and suffixes, and files that contradict themselves.
pub fn compile(json: &[u8]) -> Result<Vec<u8>, NotTabular> {
    let text = std::str::from_utf8(json).map_err(NotTabular::new)?;
    let mut deserializer = serde_json::Deserializer::from_slice(text.as_bytes());
    let file = deserializer.deserialize_map(FileVisitor).map_err(NotTabular::new)?;
    deserializer.end().map_err(NotTabular::new)?;
    let File { settings, model } = file;
    let Vocabulary { text, starts, slots, tokens, longest } = model.vocabulary;
    let (firsts, merges) = by_left_side(model.merges, starts.len());
    let header = Header {
        flags: model.flags,
        source_bytes: json.len() as u64,
        source: Sha256::digest(json).into(),
        ids: starts.len() as u32 - 1,
        tokens,
        slots: slots.len() as u32,
        merges: merges.len() as u32 / 3,
        text: text.len() as u32,
        longest,
        unknown: model.unknown,
        settings: settings.len() as u32,
    };
    let words = [starts, slots, firsts, merges];
    let size = HEADER_BYTES + 4 * words.iter().map(Vec::len).sum::<usize>() + text.len() + settings.len();
    if size as u64 > MAX_BYTES {
        return Err(NotTabular::new("it is larger than every real one"));
    }
    let mut bytes = Vec::with_capacity(size);
    bytes.extend(header.encode());
    for list in words {
        bytes.extend(list.iter().flat_map(|word| word.to_le_bytes()));
    }
    bytes.extend(text.into_bytes());
    bytes.extend(settings.into_bytes());
    Ok(bytes)
}

/// The merges as they lie in the tables, and where those of each left side begin. The last of several for one pair counts.
fn by_left_side(mut merges: Vec<Merge>, ends: usize) -> (Vec<u32>, Vec<u32>) {
    merges.sort_unstable_by_key(|merge| (merge.left, merge.right, std::cmp::Reverse(merge.rank)));
    merges.dedup_by_key(|merge| (merge.left, merge.right));
    let mut firsts = vec![0u32; ends];
    for merge in &merges {
        firsts[merge.left as usize + 1] += 1;
    }
    let mut all = 0;
    for first in &mut firsts {
        all += *first;
        *first = all;
    }
    (firsts, merges.iter().flat_map(|merge| [merge.right, merge.rank, merge.becomes]).collect())
}

/// Two neighbours that become one token.
struct Merge {
    left: u32,
    right: u32,
    rank: u32,
    becomes: u32,
}

struct File {
    settings: String,
    model: Model,
}

struct FileVisitor;

impl<'de> Visitor<'de> for FileVisitor {
    type Value = File;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tokenizer.json")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<File, A::Error> {
        let mut model: Option<Model> = None;
        let mut parts: Vec<(String, &RawValue)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "model" if model.is_none() => model = Some(map.next_value_seed(ModelSeed)?),
                "version" if map.next_value::<Option<&str>>()?.is_none_or(|version| version == "1.0") => {}
                // For training.
                "truncation" | "padding" => drop(map.next_value::<IgnoredAny>()?),
                "added_tokens" | "normalizer" | "pre_tokenizer" | "post_processor" | "decoder"
                    if parts.iter().all(|(known, _)| *known != key) =>
                {
                    parts.push((key, map.next_value()?));
                }
                _ => return Err(A::Error::custom("something unknown, or something twice")),
            }
        }
        let settings = serde_json::to_string(&Settings(&parts)).map_err(A::Error::custom)?;
        Ok(File { settings, model: model.ok_or_else(|| A::Error::custom("no model"))? })
    }
}

/// Parts of a file as they stand.
struct Settings<'a>(&'a [(String, &'a RawValue)]);

impl serde::Serialize for Settings<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, part)| (key, part)))
    }
}

struct Model {
    flags: u32,
    unknown: u32,
    vocabulary: Vocabulary,
    merges: Vec<Merge>,
}

struct ModelSeed;

impl<'de> DeserializeSeed<'de> for ModelSeed {
    type Value = Model;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Model, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ModelSeed {
    type Value = Model;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte-pair model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Model, A::Error> {
        let (mut is_bpe, mut flags, mut unknown) = (false, 0, None::<String>);
        let (mut vocabulary, mut merges) = (None::<Vocabulary>, None);
        let flag = |set: Option<bool>, flag: u32| if set.unwrap_or(false) { flag } else { 0 };
        while let Some(key) = map.next_key::<String>()? {
            match (key.as_str(), &vocabulary) {
                ("type", _) => is_bpe = map.next_value::<String>()? == "BPE",
                ("unk_token", _) => unknown = map.next_value()?,
                ("fuse_unk", _) => flags |= flag(map.next_value()?, FUSES_UNKNOWN),
                ("byte_fallback", _) => flags |= flag(map.next_value()?, FALLS_BACK_TO_BYTES),
                ("ignore_merges", _) => flags |= flag(map.next_value()?, PREFERS_WHOLE_WORDS),
                ("continuing_subword_prefix" | "end_of_word_suffix", _)
                    if map.next_value::<Option<String>>()?.is_none_or(|text| text.is_empty()) => {}
                ("dropout", _) if map.next_value::<Option<f32>>()?.is_none_or(|dropout| dropout == 0.0) => {}
                ("vocab", None) => vocabulary = Some(map.next_value_seed(Entries)?),
                ("merges", Some(known)) if merges.is_none() => merges = Some(map.next_value_seed(Merges(known))?),
                _ => return Err(A::Error::custom("more than vocabulary and merges, or in another order")),
            }
        }
        let (true, Some(vocabulary), Some(merges)) = (is_bpe, vocabulary, merges) else {
            return Err(A::Error::custom("not all of type, vocab and merges"));
        };
        let unknown = match unknown {
            Some(token) => vocabulary.id(&token).ok_or_else(|| A::Error::custom("an unknown token that is none"))?,
            None => NO_ID,
        };
        Ok(Model { flags, unknown, vocabulary, merges })
    }
}

/// The spellings in order of their ids, and the ids by spelling.
struct Vocabulary {
    text: String,
    starts: Vec<u32>,
    slots: Vec<u32>,
    tokens: u32,
    longest: u32,
}

impl Vocabulary {
    /// From every spelling and `(id, start, end)` of each.
    fn new(spellings: &str, mut entries: Vec<(u32, u32, u32)>) -> Result<Self, &'static str> {
        entries.sort_by_key(|&(id, ..)| id);
        let ids = entries.last().map_or(0, |&(id, ..)| id as usize + 1);
        if ids > MAX_IDS as usize || ids > (entries.len() + 1024) * MAX_SPARSITY {
            return Err("ids beyond every real one");
        }
        let slots = vec![0; (2 * entries.len()).next_power_of_two()];
        let (text, starts) = (String::with_capacity(spellings.len()), Vec::with_capacity(ids + 1));
        let mut all = Vocabulary { text, starts, slots, tokens: entries.len() as u32, longest: 0 };
        for (id, start, end) in entries {
            let spelling = spellings.get(start as usize..end as usize).unwrap_or_default();
            if spelling.is_empty() || all.starts.len() > id as usize {
                return Err("an empty spelling, or an id twice");
            }
            let start = all.text.len() as u32;
            all.starts.resize(id as usize + 1, start);
            all.text.push_str(spelling);
            all.longest = all.longest.max(spelling.len() as u32);
        }
        all.starts.push(all.text.len() as u32);
        all.fill_slots()?;
        Ok(all)
    }

    fn fill_slots(&mut self) -> Result<(), &'static str> {
        for id in 0..self.starts.len() as u32 - 1 {
            let spelling = self.spelling(id);
            if spelling.is_empty() {
                continue;
            }
            match self.probe(spelling) {
                Probe::Free(slot) => self.slots[slot as usize] = id + 1,
                Probe::Found(_) => return Err("a spelling twice"),
                Probe::Crowded => return Err("spellings too much alike"),
            }
        }
        Ok(())
    }

    fn spelling(&self, id: u32) -> &str {
        let [start, end] = [0, 1].map(|next| self.starts[id as usize + next] as usize);
        &self.text[start..end]
    }

    fn probe(&self, spelling: &str) -> Probe {
        let mask = self.slots.len() as u32 - 1;
        probe(spelling, mask, |slot| self.slots[slot as usize], |id| self.spelling(id) == spelling)
    }

    fn id(&self, spelling: &str) -> Option<u32> {
        match self.probe(spelling) {
            Probe::Found(id) => Some(id),
            Probe::Free(_) | Probe::Crowded => None,
        }
    }
}

/// Reads a string without a copy of its own.
struct With<F>(F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for With<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for With<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Ok((self.0)(text))
    }
}

/// `{"spelling": id, …}`.
struct Entries;

impl<'de> DeserializeSeed<'de> for Entries {
    type Value = Vocabulary;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vocabulary, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries {
    type Value = Vocabulary;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
        let (mut text, mut entries) = (String::new(), Vec::new());
        loop {
            let start = text.len();
            if map.next_key_seed(With(|spelling: &str| text.push_str(spelling)))?.is_none() {
                break;
            }
            if text.len() as u64 > MAX_BYTES || entries.len() >= MAX_IDS as usize {
                return Err(A::Error::custom("a vocabulary beyond every real one"));
            }
            entries.push((map.next_value::<u32>()?, start as u32, text.len() as u32));
        }
        Vocabulary::new(&text, entries).map_err(A::Error::custom)
    }
}

/// `["left right", …]` or `[["left", "right"], …]`.
struct Merges<'a>(&'a Vocabulary);

impl<'de> DeserializeSeed<'de> for Merges<'_> {
    type Value = Vec<Merge>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Merge>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Merges<'_> {
    type Value = Vec<Merge>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Merge>, A::Error> {
        let (mut merges, mut pair) = (Vec::new(), Pair::default());
        while list.next_element_seed(&mut pair)?.is_some() {
            let (left, right) = (self.0.id(&pair.left), self.0.id(&pair.right));
            pair.left.push_str(&pair.right);
            let (Some(left), Some(right), Some(becomes)) = (left, right, self.0.id(&pair.left)) else {
                return Err(A::Error::custom("a merge of no tokens"));
            };
            merges.push(Merge { left, right, rank: merges.len() as u32, becomes });
        }
        match pair.in_one && pair.in_two {
            true => Err(A::Error::custom("merges of two forms")),
            false => Ok(merges),
        }
    }
}

/// One merge as it is written, in two strings that are used again and again.
#[derive(Default)]
struct Pair {
    left: String,
    right: String,
    in_one: bool,
    in_two: bool,
}

impl<'de> DeserializeSeed<'de> for &mut Pair {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Pair {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.in_one = true;
        match text.split_once(' ') {
            Some((left, right)) if !right.contains(' ') && !text.starts_with("#version") => {
                self.left.replace_range(.., left);
                self.right.replace_range(.., right);
                Ok(())
            }
            _ => Err(E::custom("a merge of other than two tokens")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.in_two = true;
        let Pair { left, right, .. } = self;
        let two = list.next_element_seed(With(|text: &str| left.replace_range(.., text)))?.is_some()
            && list.next_element_seed(With(|text: &str| right.replace_range(.., text)))?.is_some();
        match two && list.next_element::<IgnoredAny>()?.is_none() {
            true => Ok(()),
            false => Err(A::Error::custom("a merge of other than two tokens")),
        }
    }
}
