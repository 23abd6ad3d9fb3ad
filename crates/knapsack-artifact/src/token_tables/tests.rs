use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn file(vocab: &Value, merges: &Value) -> Vec<u8> {
    let model = json!({ "type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": true, "unk_token": "a" });
    serde_json::to_vec(&json!({ "added_tokens": [], "normalizer": null, "model": model })).unwrap()
}

fn small() -> Vec<u8> {
    let vocab = json!({ "ab": 7, "a": 0, "b": 1, "c": 2, "bc": 4, "äb": 5, "ä": 3 });
    file(&vocab, &json!([["a", "b"], ["b", "c"], ["ä", "b"], ["a", "b"]]))
}

#[test]
fn tables_say_what_the_file_says() {
    let json = small();
    let tables = TokenTables::new(compile(&json).unwrap()).unwrap();
    let are_of = |json: &[u8]| tables.are_of(&Source::of(json));
    assert!(are_of(&json) && !are_of(&json[1..]) && !are_of(&vec![b' '; json.len()]));
    assert_eq!((tables.tokens(), tables.ids(), tables.longest(), tables.unknown()), (7, 8, 3, Some(0)));
    assert!(tables.prefers_whole_words() && !tables.fuses_unknown() && !tables.falls_back_to_bytes());
    for (spelling, id) in [("ab", 7), ("a", 0), ("b", 1), ("c", 2), ("bc", 4), ("äb", 5), ("ä", 3)] {
        assert_eq!((tables.id(spelling), tables.spelling(id)), (Some(id), Some(spelling)));
    }
    assert_eq!((tables.id(""), tables.id("abc"), tables.spelling(6), tables.spelling(8)), (None, None, None, None));
    // The last of two merges of one pair counts.
    assert_eq!(
        (tables.merge(0, 1), tables.merge(1, 2), tables.merge(3, 1)),
        (Some((3, 7)), Some((1, 4)), Some((2, 5)))
    );
    assert_eq!((tables.merge(1, 0), tables.merge(8, 0), tables.merge(NO_ID, NO_ID)), (None, None, None));
    let settings: Value = serde_json::from_slice(tables.settings()).unwrap();
    assert_eq!(settings, json!({ "added_tokens": [], "normalizer": null }));
    assert_eq!(compile(&json), compile(&json));
}

#[test]
fn what_has_no_tables_is_counted_too() {
    let unigram = br#"{"model": {"type": "Unigram", "vocab": [["a", 1.0]]}}"#;
    assert!(memory_without(unigram) > 10 * unigram.len() as u64);
    assert_eq!((memory_without(b"{}"), memory_without(b""), memory_without(b"[1")), (0, 0, 0));
}

#[test]
#[cfg_attr(miri, ignore = "makes tables of thousands of tokens")]
fn what_is_no_plain_byte_pair_encoding_is_left_alone() {
    let model = |model: Value| serde_json::to_vec(&json!({ "model": model })).unwrap();
    let many: serde_json::Map<_, _> = (0..3000).map(|id| (id.to_string(), json!(id))).collect();
    for json in [
        b"".to_vec(),
        b"{}".to_vec(),
        b"\xff".to_vec(),
        [&small()[..], b"x"].concat(),
        model(json!({ "type": "Unigram", "vocab": [["a", 1.0]] })),
        model(json!({ "type": "BPE", "merges": [], "vocab": {} })),
        model(json!({ "type": "BPE", "vocab": {} })),
        model(json!({ "type": "BPE", "vocab": {}, "merges": [], "dropout": 0.5 })),
        model(json!({ "type": "BPE", "vocab": { "##a": 0 }, "merges": [], "continuing_subword_prefix": "##" })),
        model(json!({ "type": "BPE", "vocab": {}, "merges": [], "unk_token": "x" })),
        model(json!({ "type": "BPE", "vocab": {}, "merges": [], "other": 1 })),
        file(&json!({ "a": 0, "b": 0 }), &json!([])),
        file(&json!({ "a": 0, "": 1 }), &json!([])),
        file(&json!({ "a": 100_000 }), &json!([])),
        file(&json!({ "a": u32::MAX }), &json!([])),
        file(&json!({ "a": -1 }), &json!([])),
        file(&json!({ "a": 0, "b": 1 }), &json!([["a", "b"]])),
        file(&json!({ "a": 0, "aa": 1 }), &json!([["a", "a"], "a a"])),
        file(&json!({ "a": 0, "aa": 1 }), &json!([["a", "a", "a"]])),
        file(&json!({ "a": 0, "aa": 1 }), &json!(["a  a"])),
        br#"{"model":{"type":"BPE","vocab":{"a":0,"a":1},"merges":[]}}"#.to_vec(),
        br#"{"version":"2.0","model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#.to_vec(),
        br#"{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"model":{"type":"BPE","vocab":{},"merges":[]}}"#
            .to_vec(),
    ] {
        assert!(compile(&json).is_err(), "{}", String::from_utf8_lossy(&json));
    }
    assert!(compile(&file(&json!({ "a": 4000 }), &json!([]))).is_ok());
    assert!(
        compile(&file(
            &{
                let mut many = many;
                many.insert("a".into(), json!(9000));
                many.into()
            },
            &json!([])
        ))
        .is_ok()
    );
}

/// Spellings of one hash, as a hostile file would have them, are refused instead of searched for ever.
#[test]
#[cfg_attr(miri, ignore = "looks through some hundred thousand spellings")]
fn spellings_that_are_too_much_alike_are_left_alone() {
    let mut alike: Vec<String> = Vec::new();
    for number in 0u32.. {
        let spelling = format!("{number:x}");
        if hash(spelling.as_bytes()) & 0x3ff == 7 {
            alike.push(spelling);
        }
        if alike.len() > MAX_PROBES as usize {
            break;
        }
    }
    alike.push("a".to_owned());
    let vocab = |many: &[String]| -> Value {
        many.iter().rev().zip(0u32..).map(|(text, id)| (text.clone(), json!(id))).collect()
    };
    assert!(alike.len() * 2 <= 1024);
    assert!(compile(&file(&vocab(&alike), &json!([]))).is_err());
    assert!(compile(&file(&vocab(&alike[200..]), &json!([]))).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed in tables, reading them ends, and without a panic.
    #[test]
    fn damage_is_no_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = compile(&small()).unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(tables) = TokenTables::new(bytes) {
            for id in (0..tables.ids().min(99)).chain([NO_ID]) {
                let spelling = tables.spelling(id).unwrap_or_default();
                tables.id(spelling);
                (0..9).for_each(|right| {
                    tables.merge(id, right);
                });
            }
        }
    }

    #[test]
    fn bytes_of_any_kind_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = compile(&bytes);
        let _ = TokenTables::new([&MAGIC[..], &VERSION.to_le_bytes(), &bytes].concat());
    }
}
