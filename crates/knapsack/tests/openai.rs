//! The endpoint driven by OpenAI's own client, the `openai` package of Python: `openai_client.py` beside this file.

mod support;

use knapsack_testkit::python;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use support::{BUDGET_FOR_ONE, FOUR, HALF, STORY, Sandbox, THREE, succeed};

#[test]
fn openais_own_client() {
    let Some(python) = python("openai") else { return };
    let sandbox = Sandbox::new();
    let dist = sandbox.three_models();
    let server = sandbox.serve(&dist, |command| {
        command.args(["--budget", BUDGET_FOR_ONE]);
    });
    let mut client = Command::new(python);
    client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openai_client.py"));
    client.arg(format!("http://{}/v1", server.address)).args([FOUR, THREE, HALF]);
    // A proxy cannot reach this machine's loopback.
    client.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let stories: Value = serde_json::from_str(&succeed(&mut client)).unwrap();
    let alone = |model| sandbox.alone(&dist, model, STORY, 24);
    assert_eq!(stories, json!({ FOUR: alone(FOUR), THREE: alone(THREE) }));
    assert!(server.count("Evicted", FOUR) >= 2 && server.count("Evicted", THREE) >= 2, "{}", server.log());
}

#[test]
fn structured_output_and_tools() {
    let Some(python) = python("openai") else { return };
    let sandbox = Sandbox::new();
    let dist = sandbox.model_with_tools();
    let server = sandbox.serve(&dist, |_| ());
    let mut client = Command::new(python);
    client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openai_tools.py"));
    client.arg(format!("http://{}/v1", server.address)).arg(FOUR);
    client.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let told: Value = serde_json::from_str(&succeed(&mut client)).unwrap();
    assert_eq!(told["call"], "get_weather");
}

/// What builds on OpenAI's client: its forms, its streams, its tools.
#[test]
fn pydantic_ai() {
    let Some(python) = python("pydantic_ai") else { return };
    let sandbox = Sandbox::new();
    let dist = sandbox.model_with_tools();
    let server = sandbox.serve(&dist, |_| ());
    let mut client = Command::new(python);
    client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pydantic_ai_client.py"));
    client.arg(format!("http://{}/v1", server.address)).arg(FOUR);
    client.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let told: Value = serde_json::from_str(&succeed(&mut client)).unwrap();
    assert!(told["called"].as_u64().unwrap() > 0, "{told}");
}
