//! Prompts against transformers: a set of conversations through every real tokenizer at hand, packaged as a checkpoint would be.

mod support;

use knapsack_runtime::ChatModel;
use knapsack_runtime::text::{Message, PromptOptions, Role, Tokenizer};
use knapsack_weights::{ConvertRequest, TemplateChoice, convert};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use support::Sandbox;

/// What `scripts/prompt_references.py` writes for the tokenizers in the folder that `KNAPSACK_TEST_TOKENIZERS` names. `None`, said
/// aloud, where there is no such folder or no transformers.
fn references() -> Option<Vec<Value>> {
    let python = knapsack_testkit::python("transformers")?;
    let Some(folder) = std::env::var_os("KNAPSACK_TEST_TOKENIZERS") else {
        let required = std::env::var_os("KNAPSACK_REQUIRE_PYTHON").is_some_and(|value| value == "1");
        assert!(!required, "KNAPSACK_REQUIRE_PYTHON=1, but KNAPSACK_TEST_TOKENIZERS names no folder of tokenizers");
        eprintln!("SKIPPED: KNAPSACK_TEST_TOKENIZERS names no folder of tokenizers");
        return None;
    };
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("references.json");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/prompt_references.py");
    let mut command = Command::new(python);
    command.arg(script).arg(folder).arg(&output).arg(templates());
    assert!(command.status().unwrap().success());
    Some(serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap())
}

/// Templates with the constructs that public ones use.
fn templates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates")
}

/// A checkpoint of a tiny llama with this tokenizer.
fn checkpoint(tokenizer: &Path, vocab: u32, folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer.join(name), folder.join(name)).unwrap();
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab, "hidden_size": 32,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![vocab as usize, 32])];
    for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        tensors.push((layer(&format!("self_attn.{name}")), vec![32, 32]));
    }
    for name in ["gate_proj", "up_proj", "down_proj"] {
        tensors.push((layer(&format!("mlp.{name}")), vec![32, 32]));
    }
    tensors.extend(["input_layernorm", "post_attention_layernorm"].map(|name| (layer(name), vec![32])));
    tensors.push(("model.norm.weight".to_owned(), vec![32]));
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name, json!({ "dtype": "BF16", "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &vec![0; at]].concat();
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

fn packaged(tokenizer: &Path, vocab: u32, place: &Path) -> PathBuf {
    let (from, to) = (place.join("checkpoint"), place.join("packaged"));
    checkpoint(tokenizer, vocab, &from);
    let request = ConvertRequest {
        checkpoint: &from,
        output: &to,
        quantization: "q0f16".parse().unwrap(),
        chat_template: &TemplateChoice::Model,
        jobs: None,
    };
    convert(&request, &AtomicBool::new(false), &|_| {}).unwrap();
    to
}

fn options(case: &Value) -> PromptOptions {
    let tools = case.get("tools").and_then(Value::as_array).cloned().unwrap_or_default();
    let variables = case.get("variables").and_then(Value::as_object).cloned().unwrap_or_default();
    PromptOptions { tools, variables, ..PromptOptions::default() }
}

/// What differs, and how many tokens are equal.
fn compare(chat: &ChatModel, cases: &[Value]) -> (usize, Vec<String>) {
    let (mut equal, mut wrong) = (0, Vec::new());
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let prompt = chat.render(&messages, &options(case));
        let (prompt, text) = match (prompt, case["text"].as_str()) {
            (Err(_), None) => {
                equal += 1;
                continue;
            }
            (Ok(prompt), Some(text)) => (prompt, text),
            (prompt, text) => {
                wrong.push(format!("{name}: {prompt:?}, expected {text:?} {}", case["error"]));
                continue;
            }
        };
        let tokens = chat.tokens(&prompt).unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        if prompt.text != text {
            wrong.push(format!("{name}: {:?}\n expected {text:?}", prompt.text));
        } else if case["spelled"] == true {
            // The same text, without a control token that the template did not write; and with them when asked for.
            let options = PromptOptions { special_tokens_in_text: true, ..options(case) };
            let asked = chat.render(&messages, &options).unwrap();
            let same = |tokens: &[u32]| chat.tokenizer.spelling(tokens) == text;
            match tokens != expected && same(&tokens) {
                true if name == "image token" || chat.prompt(&messages, &options).unwrap() == expected => equal += 1,
                _ => wrong.push(format!("{name}: {tokens:?}\n expected {expected:?} only when asked for\n{asked:?}")),
            }
        } else if tokens != expected {
            wrong.push(format!("{name}: {tokens:?}\n expected {expected:?}"));
        } else {
            equal += 1;
        }
    }
    (equal, wrong)
}

#[test]
fn packaged_prompts_are_those_of_transformers() {
    let Some(references) = references() else { return };
    let mut wrong = Vec::new();
    let mut tokenizers = 0;
    for model in references.iter().filter(|model| model["folder"].is_string()) {
        let folder = Path::new(model["folder"].as_str().unwrap());
        let tokenizer = Tokenizer::open(folder).unwrap();
        // Text models of Gemma 3 end before the token of images.
        let vocab = tokenizer.token_id("<image_soft_token>").unwrap_or(tokenizer.vocab_size() as u32);
        let place = tempfile::tempdir().unwrap();
        let packaged = packaged(folder, vocab, place.path());
        let chat = ChatModel::open(&packaged, vocab).unwrap();
        let cases = model["conversations"].as_array().unwrap();
        let plain: Vec<Vec<Message>> = cases
            .iter()
            .filter(|case| is_plain(case))
            .map(|case| serde_json::from_value(case["messages"].clone()).unwrap())
            .collect();
        assert!(plain.len() > 3);
        if let Some(differ) = differing(&packaged, vocab, &plain) {
            eprintln!("{}: the derived conversation template says {} conversations", folder.display(), plain.len());
            wrong.extend(differ.into_iter().map(|problem| format!("{}: derived: {problem}", folder.display())));
        }
        let (equal, differ) = compare(&chat, cases);
        eprintln!("{}: {equal} of {}", folder.display(), cases.len());
        wrong.extend(differ.into_iter().map(|problem| format!("{}: {problem}", folder.display())));
        tokenizers += 1;
    }
    assert!(tokenizers > 0, "no tokenizer with a chat template was found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One marks constants as safe for HTML, so that Python escapes what it joins to them; one prints a generator as JSON, which Python
/// refuses.
const UNLIKE_PYTHON: [&str; 2] = ["/meetkai-functionary-medium-v3.1.jinja", "/llama-cpp-deepseek-r1.jinja"];

/// Other templates, their text only: where transformers renders one, so does this program, and the same.
#[test]
fn templates_are_rendered_as_by_transformers() {
    let Some(references) = references() else { return };
    let mut wrong = Vec::new();
    for model in references.iter().filter(|model| model["template"].is_string()) {
        let name = model["template"].as_str().unwrap();
        if UNLIKE_PYTHON.iter().any(|unlike| name.ends_with(unlike)) {
            continue;
        }
        let place = tempfile::tempdir().unwrap();
        let tokens = json!({ "bos_token": "<s>", "eos_token": "</s>" });
        let tiny = knapsack_testkit::tiny_assistant();
        std::fs::copy(tiny.join("tokenizer.json"), place.path().join("tokenizer.json")).unwrap();
        std::fs::write(place.path().join("tokenizer_config.json"), tokens.to_string()).unwrap();
        std::fs::write(place.path().join("chat_template.jinja"), model["source"].as_str().unwrap()).unwrap();
        let chat = ChatModel::open(place.path(), u32::MAX).unwrap();
        for case in model["conversations"].as_array().unwrap() {
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let rendered = chat.render(&messages, &options(case));
            let same = match (&rendered, case["text"].as_str()) {
                (Ok(prompt), Some(text)) => prompt.text == text,
                (rendered, text) => rendered.is_err() == text.is_none(),
            };
            if !same {
                let got = rendered.map(|prompt| prompt.text).map_err(|error| error.to_string());
                wrong.push(format!("{name}: {}: {got:?}\n expected {} {}", case["name"], case["text"], case["error"]));
            }
        }
    }
    // Besides those that others list.
    let own = references
        .iter()
        .filter(|model| model["template"].as_str().is_some_and(|name| Path::new(name).starts_with(templates())))
        .count();
    assert_eq!(own, std::fs::read_dir(templates()).unwrap().count() - 1, "all but the README");
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

/// Conversations that a conversation template can say: question and answer in turns, without white space around them.
fn is_plain(case: &Value) -> bool {
    let messages = case["messages"].as_array().unwrap();
    let plain = |(index, message): (usize, &Value)| {
        let role = if index % 2 == 0 { "user" } else { "assistant" };
        let content = message["content"].as_str().unwrap_or(" ");
        message["role"] == role
            && content.trim() == content
            && !content.is_empty()
            && message.as_object().unwrap().len() == 2
    };
    let bare = ["tools", "variables"].iter().all(|key| case.get(*key).is_none_or(Value::is_null));
    bare && case["spelled"] != true && messages.len() % 2 == 1 && messages.iter().enumerate().all(plain)
}

/// The conversations whose prompts differ between the model's own template and the conversation template that was made of it for
/// MLC's apps; `None` where none was made.
fn differing(folder: &Path, vocab: u32, conversations: &[Vec<Message>]) -> Option<Vec<String>> {
    let file = folder.join("mlc-chat-config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    if config["conv_template"]["name"] != "derived" {
        return None;
    }
    let own = ChatModel::open(folder, vocab).unwrap();
    config.as_object_mut().unwrap().remove("chat_template");
    std::fs::write(&file, config.to_string()).unwrap();
    let derived = ChatModel::open(folder, vocab).unwrap();
    let options = PromptOptions::default();
    let mut wrong = Vec::new();
    for messages in conversations {
        let prompts = [&own, &derived].map(|chat| chat.prompt(messages, &options).map_err(|error| error.to_string()));
        if prompts[0] != prompts[1] {
            let texts = [&own, &derived].map(|chat| chat.render(messages, &options).map(|prompt| prompt.text));
            wrong.push(format!("{texts:?}"));
        }
    }
    Some(wrong)
}

#[test]
fn a_derived_conversation_template_gives_the_prompts_of_the_models_own() {
    let say = |texts: &[&str]| {
        let turns = texts
            .iter()
            .enumerate()
            .map(|(index, text)| Message::new(if index % 2 == 0 { Role::User } else { Role::Assistant }, *text));
        turns.collect::<Vec<_>>()
    };
    let conversations = [
        say(&["What is 37 plus 48?"]),
        say(&["{user_message}", "Two\n\nlines", "é & <b>"]),
        say(&["a", "b", "c", "d", "e"]),
    ];
    let mut other = Vec::new();
    for file in std::fs::read_dir(templates()).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "jinja") {
            continue;
        }
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let place = tempfile::tempdir().unwrap();
        let tokenizer = place.path().join("tokenizer");
        std::fs::create_dir(&tokenizer).unwrap();
        let tiny = knapsack_testkit::tiny_assistant();
        std::fs::copy(tiny.join("tokenizer.json"), tokenizer.join("tokenizer.json")).unwrap();
        let settings = std::fs::read(tiny.join("tokenizer_config.json")).unwrap();
        let mut settings: Value = serde_json::from_slice(&settings).unwrap();
        settings["chat_template"] = std::fs::read_to_string(&file).unwrap().into();
        std::fs::write(tokenizer.join("tokenizer_config.json"), settings.to_string()).unwrap();
        // One asks for what transformers' sandbox does not allow.
        if name == "list-append-do" {
            continue;
        }
        match differing(&packaged(&tokenizer, 1024, place.path()), 1024, &conversations) {
            Some(wrong) => assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n")),
            None => other.push(name),
        }
    }
    assert_eq!(other, [""; 0], "no conversation template was made");
}

#[test]
fn the_command_prints_text_and_tokens() {
    let place = Sandbox::new();
    let tiny = knapsack_testkit::tiny_assistant();
    let tiny = tiny.to_str().unwrap();
    let shown = place.run(&["prompt", tiny, "--prompt", "What do you get when you add 13 and 88?", "--json"]).expect(0);
    let value = shown.json();
    assert_eq!(
        value,
        json!({
            "text": "<|begin_of_text|><|im_start|>user\nWhat do you get when you add 13 and 88?<|im_end|>\n<|im_start|>assistant\n",
            // The ids that transformers gives for this prompt, from the model's eval.json.
            "tokens": [
                1020, 1022, 268, 198, 318, 329, 310, 621, 692, 310, 474, 220, 16, 18, 291, 220, 23, 23, 30, 1023, 198, 1022, 269, 198
            ]
        })
    );
    place.write("talk.json", r#"[{"role": "user", "content": "<|im_end|>"}]"#);
    let typed = place.run(&["prompt", tiny, "--messages", "talk.json", "--json"]).expect(0);
    let asked = place.run(&["prompt", tiny, "--messages", "talk.json", "--json", "--special-tokens-in-text"]).expect(0);
    let count = |shown: &str| shown.matches("1023").count();
    assert_eq!((count(&typed.stdout), count(&asked.stdout)), (1, 2));
    place.run(&["prompt", tiny]).expect(2);
    place.run(&["prompt", tiny, "--messages", "nowhere.json"]).expect(2);
    place.run(&["prompt", "nowhere", "--prompt", "x"]).expect(2);
}
