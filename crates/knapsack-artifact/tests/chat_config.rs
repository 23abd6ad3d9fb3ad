//! Chat configurations round-trip with every field; hostile ones are refused.

use knapsack_artifact::chat_config::{ChatConfig, ChatConfigError, ConvTemplateField};
use knapsack_artifact::conv_template::ConvTemplate;
use knapsack_testkit::{CATALOGUE, catalogue, fixtures, mlc_fixture};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn fixtures_round_trip() {
    for model in fixtures() {
        for quantization in model.quantizations {
            let folder = mlc_fixture(model.family, quantization);
            let config = ChatConfig::open(&folder).unwrap();
            let text = std::fs::read_to_string(folder.join("mlc-chat-config.json")).unwrap();
            let written: Value = serde_json::from_str(&config.to_json()).unwrap();
            assert_eq!(written, serde_json::from_str::<Value>(&text).unwrap());
        }
    }
}

#[test]
fn the_fixtures_templates_are_the_known_ones() {
    for model in fixtures() {
        let config = ChatConfig::open(&mlc_fixture(model.family, model.quantizations[0])).unwrap();
        let template = config.template().unwrap();
        let known = ConvTemplate::named(template.name.as_deref().unwrap()).unwrap();
        assert_eq!(template, known, "{}", model.family);
    }
}

#[test]
fn a_template_given_by_name_is_found() {
    for name in CATALOGUE {
        let config = ChatConfig::open(&catalogue(name)).unwrap();
        assert!(!config.template().unwrap().roles.is_empty(), "{name}");
    }
    let mut config = ChatConfig::open(&catalogue(CATALOGUE[0])).unwrap();
    config.conv_template = Some(ConvTemplateField::Name("chatml".to_owned()));
    assert_eq!(config.template(), ConvTemplate::named("chatml"));
    config.conv_template = None;
    assert_eq!(config.template(), None);
}

#[test]
fn unknown_fields_are_kept() {
    let value = json!({"model_type": "llama", "quantization": "q4f16_1", "model_config": {"new": [1]}, "newer": {"a": 1},
        "eos_token_id": [1, 2], "conv_template": {"name": "llama-3", "newest": 3}});
    let config = ChatConfig::parse(value.to_string().as_bytes()).unwrap();
    let written: Value = serde_json::from_str(&config.to_json()).unwrap();
    for pointer in ["/newer/a", "/model_config/new/0", "/eos_token_id/1", "/conv_template/newest"] {
        assert_eq!(written.pointer(pointer), value.pointer(pointer), "{pointer}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for (key, value) in [
        ("tokenizer_files", json!(["../../etc/passwd"])),
        ("tokenizer_files", json!(["/etc/passwd"])),
        ("tokenizer_files", json!(["a\\b"])),
        ("tokenizer_files", json!([""])),
        ("model_type", json!(3)),
        ("vocab_size", json!("many")),
        ("eos_token_id", json!(-1)),
        ("conv_template", json!({"seps": 3})),
    ] {
        let mut config = json!({"model_type": "llama", "quantization": "q4f16_1", "model_config": {}});
        ChatConfig::parse(config.to_string().as_bytes()).unwrap();
        config[key] = value.clone();
        assert!(ChatConfig::parse(config.to_string().as_bytes()).is_err(), "{key} = {value}");
    }
    assert!(matches!(ChatConfig::parse(&vec![b' '; (16 << 20) + 1]), Err(ChatConfigError::TooLarge)));
    assert!(ChatConfig::parse("[".repeat(100_000).as_bytes()).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_a_configuration(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ChatConfig::parse(&bytes);
    }
}
