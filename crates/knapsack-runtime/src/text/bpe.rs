//! Byte-pair encoding over tables, id for id as `tokenizers::models::bpe::BPE` does it with maps of its own.

use knapsack_artifact::TokenTables;
use knapsack_device::MappedFile;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Token};

/// Tables from a file, or made just now.
pub(super) enum Bytes {
    Mapped(MappedFile),
    Made(Vec<u8>),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(file) => file.as_ref(),
            Bytes::Made(bytes) => bytes,
        }
    }
}

/// A vocabulary with its merges.
pub(super) struct Bpe {
    tables: TokenTables<Bytes>,
    /// What a byte becomes that is part of no token.
    bytes: Option<Box<[Option<u32>; 256]>>,
}

impl Bpe {
    pub(super) fn new(tables: TokenTables<Bytes>) -> Self {
        let byte = |byte| tables.id(&format!("<{byte:#04X}>"));
        let bytes = tables.falls_back_to_bytes().then(|| Box::new(std::array::from_fn(byte)));
        Bpe { tables, bytes }
    }

    /// What it is over.
    pub(super) const fn tables(&self) -> &TokenTables<Bytes> {
        &self.tables
    }

    /// The symbols of a word before any merge.
    fn symbols(&self, word: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(word.len());
        let mut unknown: Option<usize> = None;
        for (start, character) in word.char_indices() {
            let length = character.len_utf8();
            let spelled = &word[start..start + length];
            if let Some(id) = self.tables.id(spelled) {
                symbols.extend(unknown.take().zip(self.tables.unknown()).map(|(length, id)| Symbol::new(id, length)));
                symbols.push(Symbol::new(id, length));
                continue;
            }
            if let Some(bytes) = &self.bytes
                && spelled.bytes().all(|byte| bytes[usize::from(byte)].is_some())
            {
                let known = spelled.bytes().filter_map(|byte| bytes[usize::from(byte)]);
                symbols.extend(known.map(|id| Symbol::new(id, 1)));
                continue;
            }
            if let Some(id) = self.tables.unknown() {
                unknown = match unknown {
                    Some(before) if self.tables.fuses_unknown() => Some(before + length),
                    Some(before) => {
                        symbols.push(Symbol::new(id, before));
                        Some(length)
                    }
                    None => Some(length),
                };
            }
        }
        symbols.extend(unknown.zip(self.tables.unknown()).map(|(length, id)| Symbol::new(id, length)));
        symbols
    }

    /// Merges neighbours, the least rank first and the leftmost of equals, until no pair has a rank.
    fn merge_all(&self, symbols: &mut Vec<Symbol>) {
        let last = symbols.len().saturating_sub(1);
        for (at, symbol) in symbols.iter_mut().enumerate() {
            (symbol.before, symbol.after) = (at.checked_sub(1), (at < last).then_some(at + 1));
        }
        let candidate = |symbols: &[Symbol], at: usize| {
            let after = symbols[at].after?;
            let (rank, becomes) = self.tables.merge(symbols[at].id, symbols[after].id)?;
            Some(Reverse((rank, at, becomes)))
        };
        let mut queue: BinaryHeap<_> = (0..symbols.len()).filter_map(|at| candidate(symbols, at)).collect();
        while let Some(Reverse((_, at, becomes))) = queue.pop() {
            let Some(after) = symbols[at].after.filter(|_| symbols[at].length > 0) else { continue };
            // The pair may have changed since it was queued.
            if self.tables.merge(symbols[at].id, symbols[after].id).is_none_or(|(_, result)| result != becomes) {
                continue;
            }
            let gone = std::mem::replace(&mut symbols[after], Symbol::new(0, 0));
            let merged = &mut symbols[at];
            (merged.id, merged.length, merged.after) = (becomes, merged.length + gone.length, gone.after);
            let before = merged.before;
            if let Some(next) = gone.after {
                symbols[next].before = Some(at);
            }
            queue.extend(before.and_then(|before| candidate(symbols, before)));
            queue.extend(candidate(symbols, at));
        }
        symbols.retain(|symbol| symbol.length > 0);
    }
}

/// A part of a word.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    /// Bytes; 0 when it was merged into the one before.
    length: usize,
    before: Option<usize>,
    after: Option<usize>,
}

impl Symbol {
    const fn new(id: u32, length: usize) -> Self {
        Symbol { id, length, before: None, after: None }
    }
}

impl Model for Bpe {
    type Trainer = BpeTrainer;

    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        if self.tables.prefers_whole_words()
            && let Some(id) = self.tables.id(word)
        {
            return Ok(vec![Token::new(id, word.to_owned(), (0, word.len()))]);
        }
        let mut symbols = self.symbols(word);
        self.merge_all(&mut symbols);
        let mut end = 0;
        let token = |symbol: Symbol| {
            let start = end;
            end += symbol.length;
            let spelling = self.tables.spelling(symbol.id).unwrap_or_default();
            Token::new(symbol.id, spelling.to_owned(), (start, end))
        };
        Ok(symbols.into_iter().map(token).collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tables.id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.tables.spelling(id).map(str::to_owned)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        let spelled = |id| Some((self.tables.spelling(id)?.to_owned(), id));
        (0..self.tables.ids()).filter_map(spelled).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.tables.tokens()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("these tables are for reading".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
