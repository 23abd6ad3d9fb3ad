//! A part of stage 3: a model's tokenizer in the form that a device maps, and what it takes there.

use crate::find::Found;
use crate::weights::TOKENIZER;
use knapsack_artifact::{TokenTables, token_tables};
use knapsack_bundle::Tokenizer;
use std::io::Read;

/// Largest `tokenizer.json` that is looked at: what a runtime reads.
const MAX_BYTES: u64 = 128 << 20;

/// What turns a model's text into tokens; nothing where there is no tokenizer, or none that a runtime reads.
pub fn tokenizer(found: &Found) -> Tokenizer {
    let mut json = Vec::new();
    let read = std::fs::File::open(found.folder.path.join(TOKENIZER))
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut json));
    if read.is_err() || json.len() as u64 > MAX_BYTES {
        return Tokenizer::default();
    }
    let tables = token_tables::compile(&json).ok().and_then(|bytes| TokenTables::new(bytes).ok());
    match tables {
        Some(tables) => Tokenizer { bytes: tables.memory(), tables: Some(tables.bytes().into()) },
        None => Tokenizer { bytes: token_tables::memory_without(&json), tables: None },
    }
}
