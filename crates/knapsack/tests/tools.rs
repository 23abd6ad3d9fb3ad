//! Tools through the endpoint: a model whose template takes them, as a client sends and gets them.

mod support;

use serde_json::{Value, json};
use std::path::PathBuf;
use support::{FOUR, SUM, SUM_ANSWER, Sandbox, Server, question};

fn world() -> (Sandbox, PathBuf, Server) {
    let sandbox = Sandbox::new();
    let dist = sandbox.model_with_tools();
    let server = sandbox.serve(&dist, |_| ());
    (sandbox, dist, server)
}

fn tools() -> Value {
    let parameters = json!({
        "type": "object", "additionalProperties": false, "required": ["city", "days"],
        "properties": { "city": { "enum": ["Oslo", "Rome"] }, "days": { "type": "integer", "minimum": 1, "maximum": 9 } },
    });
    json!([
        { "type": "function", "function": { "name": "get_weather", "description": "The weather.", "parameters": parameters } },
        { "type": "function", "function": { "name": "now", "parameters": { "type": "object", "properties": {}, "additionalProperties": false } } },
    ])
}

fn ask(server: &Server, extra: Value) -> Value {
    let mut body = question(FOUR, "What is the weather?", 160);
    body["tools"] = tools();
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let answer = server.post(&body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn calls(choice: &Value) -> Vec<(String, Value)> {
    let calls = choice["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
    let call = |call: &Value| {
        assert!(call["id"].as_str().is_some_and(|id| !id.is_empty()) && call["type"] == "function", "{call}");
        let arguments = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        (call["function"]["name"].as_str().unwrap().to_owned(), arguments)
    };
    calls.iter().map(call).collect()
}

#[test]
fn calls_have_names_and_arguments_that_are_right() {
    let (_sandbox, _dist, server) = world();
    for seed in 0..20 {
        let random = json!({ "tool_choice": "required", "temperature": 1.5, "seed": seed, "parallel_tool_calls": seed % 2 == 0 });
        let answer = ask(&server, random);
        let choice = &answer["choices"][0];
        if choice["finish_reason"] == "length" {
            // Of a call that was cut off there is what came.
            continue;
        }
        let calls = calls(choice);
        assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
        assert!(!calls.is_empty() && (calls.len() == 1 || seed % 2 == 0), "{answer}");
        for (name, arguments) in calls {
            match name.as_str() {
                "get_weather" => {
                    let days = arguments["days"].as_i64().unwrap();
                    assert!((1..=9).contains(&days) && ["Oslo", "Rome"].contains(&arguments["city"].as_str().unwrap()));
                }
                "now" => assert_eq!(arguments, json!({})),
                _ => panic!("{answer}"),
            }
        }
    }
    let named = ask(&server, json!({ "tool_choice": { "type": "function", "function": { "name": "now" } } }));
    assert_eq!(calls(&named["choices"][0]), [("now".to_owned(), json!({}))]);
    // Without being told of tools it speaks as ever.
    let without = server.ask(FOUR, "What is the weather?", 160);
    assert_eq!(ask(&server, json!({ "tool_choice": "none" }))["choices"][0]["message"]["content"], without);
}

#[test]
fn a_model_that_takes_no_tools_says_so() {
    let sandbox = Sandbox::new();
    let dist = sandbox.three_models();
    let server = sandbox.serve(&dist, |_| ());
    let mut body = question(FOUR, "What is the weather?", 16);
    body["tools"] = tools();
    let refused = server.post(&body);
    assert_eq!(refused.refusal(), (400, "invalid_value".to_owned()));
    assert!(
        refused.json()["error"]["param"] == "tools" && refused.body.contains("template takes none"),
        "{}",
        refused.body
    );
}

#[test]
fn what_a_model_thinks_comes_apart() {
    let (_sandbox, _dist, server) = world();
    let ask = |extra: Value| {
        let mut body = question(FOUR, SUM, 60);
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post(&body)
    };
    let thinking = json!({ "chat_template_kwargs": { "enable_thinking": true }, "max_thinking_tokens": 5 });
    let whole = ask(thinking.clone()).json();
    let message = &whole["choices"][0]["message"];
    let [thoughts, text] = ["reasoning_content", "content"].map(|key| message[key].as_str().unwrap().to_owned());
    assert!(!thoughts.is_empty() && !text.is_empty() && !text.contains("think>"), "{message}");
    // The same in pieces, thoughts first.
    let mut streamed = thinking.clone();
    streamed["stream"] = true.into();
    let mut said = [String::new(), String::new()];
    for event in ask(streamed).events().iter().filter(|event| **event != "[DONE]") {
        let delta = serde_json::from_str::<Value>(event).unwrap()["choices"][0]["delta"].clone();
        said[0].push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        said[1].push_str(delta["content"].as_str().unwrap_or_default());
        assert!(said[1].is_empty() || delta["reasoning_content"].is_null(), "{delta}");
    }
    assert_eq!(said, [thoughts.clone(), text.clone()]);
    // Off, it answers at once; a form holds the answer only.
    let off = ask(json!({ "chat_template_kwargs": { "enable_thinking": false } })).json();
    assert_eq!(off["choices"][0]["message"]["content"], SUM_ANSWER);
    assert!(off["choices"][0]["message"]["reasoning_content"].is_null());
    let mut formed = thinking;
    formed["regex"] = "[0-9]{4}".into();
    let message = ask(formed).json()["choices"][0]["message"].clone();
    assert!(message["reasoning_content"].is_string() && message["content"].as_str().unwrap().len() == 4, "{message}");
    // Thoughts of earlier answers may be sent back.
    let mut body = question(FOUR, SUM, 8);
    body["messages"] = json!([
        { "role": "user", "content": SUM },
        { "role": "assistant", "content": text, "reasoning_content": thoughts },
        { "role": "user", "content": SUM },
    ]);
    assert_eq!(server.post(&body).status, 200);
}

#[test]
fn a_model_that_does_not_think_says_so() {
    let sandbox = Sandbox::new();
    let dist = sandbox.three_models();
    let server = sandbox.serve(&dist, |_| ());
    let ask = |thinking: bool| {
        let mut body = question(FOUR, SUM, 60);
        body["chat_template_kwargs"] = json!({ "enable_thinking": thinking });
        server.post(&body)
    };
    assert_eq!(ask(false).json()["choices"][0]["message"]["content"], SUM_ANSWER);
    let refused = ask(true);
    assert_eq!(refused.refusal(), (400, "invalid_value".to_owned()));
    assert_eq!(refused.json()["error"]["param"], "chat_template_kwargs");
}
