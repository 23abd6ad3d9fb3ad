//! What `cargo xtask fuzz` gives every reader, without a fuzzer: seeds with changes that are the same in every run.
//! `KNAPSACK_FUZZ_INPUTS=N` tries more of them.
#![allow(unreachable_pub, dead_code, reason = "it is the fuzzer's library")]

#[path = "../../../fuzz/src/changes.rs"]
mod changes;
#[path = "../../../fuzz/src/model.rs"]
mod model;
#[path = "../../../fuzz/src/seeds.rs"]
mod seeds;
#[path = "../../../fuzz/src/text.rs"]
mod text;

// Only the shared modules name it.
use knapsack_jinja as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Inputs of each target where nobody says how many.
const INPUTS: u64 = 300;
/// What none may take.
const SECONDS: u64 = 30;
/// Pieces that text of the formats is made of.
const WORDS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "\\u0000",
    "-1",
    "1e999",
    "18446744073709551616",
    "null",
    "{{",
    "}}",
    "{%",
    "%}",
    "for x in ",
    "\u{1b}[2J",
    "\u{202e}",
    "..",
    "/",
    "\r\n",
    "\u{feff}",
    "999999999",
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// A seed with some changes; now and then changes to a valid value, as `changes` reads them.
    fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if self.below(3) == 0 {
            let changes = 8 * (1 + self.below(3));
            return [vec![self.below(usize::from(b'{')) as u8], self.bytes(changes)].concat();
        }
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(input.len() + 1);
            let end = (at + self.below(16)).min(input.len());
            match self.below(6) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 => drop(input.drain(at..end)),
                2 => drop(input.splice(at..end, WORDS[self.below(WORDS.len())].bytes())),
                3 => {
                    let piece = input[at..end].repeat(self.below(40));
                    drop(input.splice(at..at, piece));
                }
                4 => {
                    let other = &seeds[self.below(seeds.len())];
                    let (from, to) = (self.below(other.len() + 1), self.below(other.len() + 1));
                    drop(input.splice(at..end, other[from.min(to)..from.max(to)].iter().copied()));
                }
                _ => {
                    let count = self.below(9);
                    drop(input.splice(at..end, self.bytes(count)));
                }
            }
        }
        input.truncate(64 << 10);
        input
    }
}

fn give(target: &str, read: fn(&[u8])) {
    let seeds: Vec<Vec<u8>> = seeds::seeds(target).into_values().collect();
    assert!(!seeds.is_empty());
    let inputs = std::env::var("KNAPSACK_FUZZ_INPUTS").ok().and_then(|count| count.parse().ok()).unwrap_or(INPUTS);
    for number in 0..inputs {
        let input = Random(number).input(&seeds);
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| read(&input)));
        let took = begin.elapsed();
        if outcome.is_err() || took > Duration::from_secs(SECONDS) {
            let file = tempfile::Builder::new().prefix(&format!("{target}-{number}-")).tempfile().unwrap();
            std::fs::write(file.path(), &input).unwrap();
            let (_, path) = file.keep().unwrap();
            panic!("{target}: input {number} ({}) took {took:?}, or panicked", path.display());
        }
    }
}

#[test]
fn manifests() {
    give("manifest", text::manifest);
}

#[test]
fn locks() {
    give("lock", text::lock);
}

#[test]
fn app_configs() {
    give("app_config", text::app_config);
}

#[test]
fn weight_indexes() {
    give("weight_index", model::weight_index);
}

#[test]
fn chat_configs() {
    give("chat_config", text::chat_config);
}

#[test]
fn templates() {
    give("template", text::template);
}

#[test]
fn tokenizers() {
    give("tokenizer", text::tokenizer);
}

#[test]
fn safetensors() {
    give("safetensors", model::safetensors);
}

#[test]
fn configs_up_to_tokens() {
    give("config", model::config);
}

#[test]
fn libraries_up_to_tokens() {
    give("library", model::library);
}
