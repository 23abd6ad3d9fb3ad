use super::*;
use crate::text::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Instant;

/// A tokenizer as we read it and as the library does.
struct Both {
    ours: Inner,
    theirs: tokenizers::Tokenizer,
}

impl Both {
    /// Ours must be over tables.
    fn new(json: &[u8]) -> Self {
        let (ours, _) = read(json).unwrap();
        assert!(matches!(ours.get_model(), Vocabulary::Pairs(_)));
        Both { ours, theirs: tokenizers::Tokenizer::from_bytes(json).unwrap() }
    }

    fn of_value(json: &Value) -> Self {
        Both::new(&serde_json::to_vec(json).unwrap())
    }

    fn check(&self, text: &str) {
        let [ours, theirs] =
            [self.ours.encode_fast(text, true), self.theirs.encode_fast(text, true)].map(Result::unwrap);
        assert_eq!(ours.get_ids(), theirs.get_ids(), "{text:?}");
    }

    fn check_with_places(&self, text: &str) {
        self.check(text);
        let [ours, theirs] = [self.ours.encode(text, false), self.theirs.encode(text, false)].map(Result::unwrap);
        assert_eq!((ours.get_tokens(), ours.get_offsets()), (theirs.get_tokens(), theirs.get_offsets()), "{text:?}");
    }

    /// Every token: its id, its spelling, and what its spelling and its text encode to.
    fn check_vocabulary(&self) {
        let vocabulary = self.theirs.get_vocab(true);
        assert_eq!(self.ours.get_vocab(true), vocabulary);
        assert_eq!(self.ours.get_vocab_size(true), self.theirs.get_vocab_size(true));
        for (spelling, &id) in &vocabulary {
            assert_eq!(self.ours.token_to_id(spelling), Some(id));
            assert_eq!(self.ours.id_to_token(id), self.theirs.id_to_token(id));
            self.check(spelling);
            if let Ok(text) = self.theirs.decode(&[id], false) {
                self.check(&text);
            }
        }
        let beyond = vocabulary.values().max().unwrap() + 1;
        assert_eq!((self.ours.id_to_token(beyond), self.ours.token_to_id("no such token")), (None, None));
    }
}

fn file(model: &Value) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null, "decoder": null, "pre_tokenizer": null,
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        "added_tokens": [
            { "id": 40, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true },
            { "id": 41, "content": "Ab", "single_word": true, "lstrip": true, "rstrip": false, "normalized": true, "special": false },
        ],
        "model": model,
    })
}

fn model() -> Value {
    json!({
        "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": "", "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": {
            "<unk>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "abc": 5, "bc": 6, "▁": 7, "▁a": 8, "<0xC3>": 9, "<0xA4>": 10, "aa": 11,
            "aaa": 12, "<s>": 40,
        },
        "merges": [["b", "c"], ["a", "b"], ["ab", "c"], ["▁", "a"], ["a", "a"], ["aa", "a"], ["a", "b"], ["a", "bc"]],
    })
}

/// The tokenizers of all fixtures, and models that differ in every switch.
fn fixtures() -> Vec<Both> {
    let mut folders = vec![knapsack_testkit::tiny_assistant()];
    folders.extend(knapsack_testkit::fixtures().iter().map(|model| knapsack_testkit::fixture(model.family)));
    let files = folders.into_iter().map(|folder| folder.join("tokenizer.json")).filter(|path| path.is_file());
    let mut all: Vec<_> = files.map(|path| Both::new(&std::fs::read(path).unwrap())).collect();
    assert!(!all.is_empty());
    for switches in 0..16 {
        let mut model = model();
        for (bit, key) in ["fuse_unk", "byte_fallback", "ignore_merges"].into_iter().enumerate() {
            model[key] = (switches >> bit & 1 == 1).into();
        }
        if switches & 8 != 0 {
            model["unk_token"] = Value::Null;
            let merges = model["merges"].as_array().unwrap().iter();
            let line = |merge: &Value| format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
            model["merges"] = merges.map(line).collect();
        }
        all.push(Both::of_value(&file(&model)));
    }
    all
}

const TEXTS: [&str; 10] = [
    "",
    " ",
    "What is 37 plus 48?",
    "aaaaabcabcabcabcaab  abc<s>  ab Ab  xäyäz",
    "Grüße aus Köln, ß und ẞ; naïve café\u{301}",
    "日本語と한국어 и русский язык עברית العربية",
    "👩‍👩‍👧‍👦 \u{0}\u{7f}\u{fffd} <|im_start|>user\n<|im_end|>",
    "fn main() {\n\tlet x = 0xff_u32;\r\n    println!(\"{x:>08b}\");\n}\n\n\n",
    "don't I'LL we've 1234567 1,234.5e-10 ___---===",
    "\u{10ffff}\u{e000}\u{378}\u{200d}\u{feff}",
];

#[test]
fn tokens_are_the_librarys() {
    for both in fixtures() {
        TEXTS.iter().for_each(|text| both.check_with_places(text));
        both.check_with_places(&TEXTS.concat().repeat(3));
        both.check_vocabulary();
    }
}

/// Real tokenizers, where a folder of them is named.
#[test]
fn tokens_of_real_tokenizers_are_the_librarys() {
    let Some(files) = knapsack_testkit::real_tokenizers() else { return };
    let (mut random, mut seen) = (Random(7), 0);
    let texts: Vec<String> = (0..2000).map(|_| random.text()).collect();
    let documents =
        [include_str!("tests.rs"), include_str!("../../../../../README.md"), include_str!("../../../Cargo.toml")];
    for path in files {
        let json = std::fs::read(&path).unwrap();
        let start = Instant::now();
        let both = match token_tables::compile(&json) {
            Ok(_) => Both::new(&json),
            Err(problem) => {
                eprintln!("{}: {problem}", path.display());
                continue;
            }
        };
        TEXTS.iter().for_each(|text| both.check_with_places(text));
        texts.iter().for_each(|text| both.check(text));
        for document in documents {
            document.lines().for_each(|line| both.check(line));
            both.check_with_places(document);
        }
        // One word of a megabyte.
        both.check(&texts.concat().replace(char::is_whitespace, "").repeat(4));
        both.check_vocabulary();
        eprintln!("{}: the same, in {:?}", path.display(), start.elapsed());
        seen += 1;
    }
    assert!(seen > 0, "there is no tokenizer");
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Characters of every plane, most of them from the first few scripts.
    fn text(&mut self) -> String {
        let length = self.next() % 80;
        let character = |random: &mut Self| {
            let most = [0x80, 0x80, 0x250, 0x3000, 0x1_0000, 0x11_0000][random.next() as usize % 6];
            char::from_u32((random.next() % most) as u32).unwrap_or(' ')
        };
        (0..length).map(|_| character(self)).collect()
    }
}

#[test]
fn other_models_are_the_librarys() {
    let mut dropout = model();
    dropout["dropout"] = json!(1.0);
    let mut prefix = model();
    prefix["continuing_subword_prefix"] = json!("a");
    let mut twice = model();
    twice["vocab"]["c"] = json!(2);
    let mut unknown = model();
    unknown["unk_token"] = json!("none");
    for other in
        [json!({ "type": "WordLevel", "vocab": { "a": 0, "<unk>": 1 }, "unk_token": "<unk>" }), dropout, twice, unknown]
    {
        let json = serde_json::to_vec(&file(&other)).unwrap();
        let (inner, _) = read(&json).unwrap();
        assert!(matches!(inner.get_model(), Vocabulary::Library(_)), "{other}");
        assert_eq!(inner.get_vocab(true), tokenizers::Tokenizer::from_bytes(&json).unwrap().get_vocab(true));
    }
    // Merges that do not fit their vocabulary are an error for both.
    assert!(read(&serde_json::to_vec(&file(&prefix)).unwrap()).is_err());
}

/// Tables are used where they are of the tokenizer beside them, and passed over where they are not.
#[test]
fn tables_of_another_tokenizer_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let [json_path, tables_path] = ["tokenizer.json", token_tables::FILE_NAME].map(|name| folder.path().join(name));
    let json = serde_json::to_vec(&file(&model())).unwrap();
    let tables = token_tables::compile(&json).unwrap();
    // Tables that say something else than the file they claim to be of show whether they are used.
    let mut other = tables.clone();
    let place = other.windows(3).rposition(|text| text == b"aaa").unwrap();
    other[place..place + 3].copy_from_slice(b"xyz");
    std::fs::write(&json_path, &json).unwrap();
    let id = |spelling: &str| Tokenizer::open(folder.path()).unwrap().token_id(spelling);
    let cases: [(&str, &[u8], bool); 5] = [
        ("of it", &other, true),
        ("cut short", &other[..other.len() - 1], false),
        ("another version", &[&other[..8], &[9], &other[9..]].concat(), false),
        ("another source", &[&other[..30], &[!other[30]], &other[31..]].concat(), false),
        ("empty", b"", false),
    ];
    for (what, bytes, used) in cases {
        std::fs::write(&tables_path, bytes).unwrap();
        assert_eq!(id("aaa"), if used { None } else { Some(12) }, "{what}");
    }
    std::fs::write(&tables_path, &tables).unwrap();
    assert_eq!(id("aaa"), Some(12));
    // A newer tokenizer.json beside the tables of the old one.
    let mut newer = model();
    newer["vocab"]["zz"] = json!(13);
    std::fs::write(&json_path, serde_json::to_vec(&file(&newer)).unwrap()).unwrap();
    assert_eq!(id("zz"), Some(13));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn tokens_of_any_text_are_the_librarys(text in "(\\PC|[abcä▁ ]|\n){0,60}") {
        thread_local!(static BOTH: Vec<Both> = fixtures());
        BOTH.with(|all| all.iter().for_each(|both| both.check_with_places(&text)));
    }
}
