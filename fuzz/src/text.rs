//! Targets that read text.

use crate::changes::changed;
use crate::seeds::{chat_configs, tokenizers};
use knapsack_artifact::token_tables::{self, TokenTables};
use knapsack_artifact::{AppConfig, ChatConfig};
use knapsack_config::{Environment, Lockfile, load_text};
use knapsack_jinja::{Context, Limits, Template};
use knapsack_runtime::ChatModel;
use knapsack_runtime::text::{Message, PromptOptions, Role, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Once;
use std::sync::OnceLock;
use std::time::Duration;

/// `mlc-package-config.json`: read, checked, and its findings shown.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("/nowhere/mlc-package-config.json");
    match load_text(path, text, &Environment::default()) {
        Ok(loaded) => drop(loaded.report.render(true)),
        Err(report) => {
            assert!(report.has_errors());
            let shown = report.render(false);
            assert!(!shown.contains('\u{1b}'), "an escape reaches the terminal");
        }
    }
}

/// `knapsack.lock`.
pub fn lock(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(lock) = Lockfile::parse(text) {
        assert!(lock.models.iter().all(|model| lock.model(&model.model_id).is_some()));
    }
}

/// `mlc-app-config.json`: what was read is written so that it reads the same.
pub fn app_config(data: &[u8]) {
    if let Ok(config) = AppConfig::decode(data) {
        let again = AppConfig::decode(&config.encode()).expect("what was valid");
        assert!(again.encode() == config.encode());
    }
}

fn conversation() -> Vec<Message> {
    vec![
        Message::new(Role::System, "Be brief.\u{1b}[2J"),
        Message::new(Role::User, "What is <|im_start|> 2 + 2? \u{1f9ee}"),
        Message::new(Role::Assistant, "<think>\nwell\n</think>\n\n4"),
        Message::new(Role::User, "And </s> 3 + 3?"),
    ]
}

/// `mlc-chat-config.json` and the `conv_template` in it, up to the tokens of a prompt.
pub fn chat_config(data: &[u8]) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("tokenizer.json"), TINY_TOKENIZER).expect("a file");
            folder
        })
        .path();
    let changed = changed(chat_configs(), data).map(|value| value.to_string().into_bytes());
    let bytes = changed.as_deref().unwrap_or(data);
    if let Ok(config) = ChatConfig::parse(bytes) {
        let _ = (config.to_json(), config.template());
    }
    std::fs::write(folder.join("mlc-chat-config.json"), bytes).expect("a file");
    if let Ok(chat) = ChatModel::open(folder, 300) {
        let _ = chat.prompt(&conversation(), &PromptOptions::default());
    }
}

/// A tokenizer that costs nothing to build.
pub(crate) const TINY_TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":6,"content":"</s>",
"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":null,
"post_processor":null,"decoder":null,"model":{"type":"BPE","dropout":null,"unk_token":"?","continuing_subword_prefix":null,
"end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":false,"vocab":{"?":0,"a":1,"b":2,"ab":3,"e":4," ":5},"merges":["a b"]}}"#;

/// A chat template, within bounds that are reached soon.
pub fn template(data: &[u8]) {
    static VARIABLES: OnceLock<Vec<(String, Value)>> = OnceLock::new();
    let variables = VARIABLES.get_or_init(|| {
        let mut context: Value = serde_json::from_str(include_str!("../../crates/knapsack-jinja/tests/context.json"))
            .expect("the context of the tests");
        context["add_generation_prompt"] = json!(true);
        context["bos_token"] = json!("<s>");
        context.as_object().expect("an object").clone().into_iter().collect()
    });
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = Template::parse(source) else { return };
    let variables: Vec<(&str, Context)> =
        variables.iter().map(|(name, value)| (name.as_str(), Context::Data(value.clone()))).collect();
    let limits =
        Limits { steps: 100_000, bytes: 8 << 20, output: 1 << 20, time: Duration::from_secs(2), ..Limits::default() };
    if let Ok(text) = template.render(&variables, &|_| "now".to_owned(), limits) {
        assert!(text.len() <= 1 << 20);
        let (text, data) = text.into_parts();
        assert!(data.iter().all(|range| text.get(range.clone()).is_some()), "ranges cut characters");
    }
}

/// `tokenizer.json`, built and used, and the tables that are made from it.
pub fn tokenizer(data: &[u8]) {
    // The library that tokenizers are built with panics on some; that is caught where it is called, so only what gets out counts.
    static CAUGHT: Once = Once::new();
    if cfg!(not(test)) {
        CAUGHT.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    }
    let _ = TokenTables::new(data);
    let changed = changed(tokenizers(), data).map(|value| value.to_string().into_bytes());
    let bytes = changed.as_deref().unwrap_or(data);
    if let Ok(tokenizer) = Tokenizer::from_bytes(bytes) {
        let ids = tokenizer.encode("Hello  </s> w\u{f6}rld\n\t\u{65e5}\u{672c} 12345 <|im_start|>").unwrap_or_default();
        let _ = (tokenizer.decode(&ids), tokenizer.spelling(&ids), tokenizer.token_bytes(3));
    }
    if let Ok(tables) = token_tables::compile(bytes) {
        let tables = TokenTables::new(tables).expect("what was just made");
        assert!(tables.are_of(&token_tables::Source::of(bytes)));
        for id in (0..300).chain([u32::MAX]) {
            if let Some(spelling) = tables.spelling(id).filter(|spelling| !spelling.is_empty()) {
                let _ = (tables.id(spelling), tables.merge(id, id / 2));
            }
        }
    }
}
