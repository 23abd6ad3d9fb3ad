//! `knapsack serve` as a process, over real sockets.

mod support;

use serde_json::{Value, json};
use std::io::BufRead;
use std::path::PathBuf;
use support::{BUDGET_FOR_ONE, FOUR, HALF, STORY, SUM, SUM_ANSWER, Sandbox, Server, THREE, question, read_chunk};

fn world(configure: impl FnOnce(&mut std::process::Command)) -> (Sandbox, PathBuf, Server) {
    let sandbox = Sandbox::new();
    let dist = sandbox.three_models();
    let server = sandbox.serve(&dist, configure);
    (sandbox, dist, server)
}

fn tight() -> (Sandbox, PathBuf, Server) {
    world(|command| {
        command.args(["--budget", BUDGET_FOR_ONE]);
    })
}

/// The text of a stream, and its last finish reason.
fn streamed(events: &[&str]) -> (String, Option<String>) {
    let (mut text, mut finish) = (String::new(), None);
    for event in events.iter().filter(|event| **event != "[DONE]") {
        let event: Value = serde_json::from_str(event).unwrap();
        assert_eq!(event["object"], "chat.completion.chunk");
        if let Some(choice) = event["choices"].get(0) {
            text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            finish = choice["finish_reason"].as_str().map(str::to_owned).or(finish);
        }
    }
    (text, finish)
}

#[test]
fn models_and_answers() {
    let (sandbox, dist, server) = world(|_| ());
    assert_eq!(server.get("/health").status, 200);
    let models = server.get("/v1/models").json();
    let ids: Vec<_> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, [FOUR, THREE, HALF]);
    let model = server.get(&format!("/v1/models/{FOUR}")).json();
    assert_eq!((&model["id"], &model["object"]), (&json!(FOUR), &json!("model")));

    let answer = server.post(&question(FOUR, SUM, 64));
    let completion = answer.json();
    assert_eq!(completion["object"], "chat.completion");
    assert_eq!(completion["model"], FOUR);
    let choice = &completion["choices"][0];
    assert_eq!(choice["message"], json!({ "role": "assistant", "content": SUM_ANSWER, "refusal": null }));
    assert_eq!(choice["finish_reason"], "stop");
    let usage = &completion["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap();
    assert!(count("prompt_tokens") > 10 && count("completion_tokens") > 5, "{usage}");
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));

    let cut = server.post(&question(FOUR, STORY, 24)).json();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert_eq!(cut["choices"][0]["message"]["content"], sandbox.alone(&dist, FOUR, STORY, 24));
    let messages = json!([{ "role": "user", "content": [{ "type": "text", "text": SUM }] }]);
    let stopped = server.post(&json!({ "model": FOUR, "temperature": 0, "messages": messages, "stop": " is" })).json();
    assert_eq!(stopped["choices"][0]["message"]["content"], "37 plus 48");
}

#[test]
fn streams() {
    let (sandbox, dist, server) = world(|_| ());
    let mut body = question(FOUR, STORY, 24);
    body["stream"] = json!(true);
    let answer = server.post(&body);
    assert_eq!(answer.status, 200);
    let events = answer.events();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let first: Value = serde_json::from_str(events[0]).unwrap();
    assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
    let expected = sandbox.alone(&dist, FOUR, STORY, 24);
    assert_eq!(streamed(&events), (expected, Some("length".to_owned())));
    assert!(events.len() > 10, "it comes in pieces: {events:?}");

    body["stream_options"] = json!({ "include_usage": true });
    let answer = server.post(&body);
    let events = answer.events();
    let usage: Value = serde_json::from_str(events[events.len() - 2]).unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(24)));
}

#[test]
fn errors_are_what_clients_of_openai_expect() {
    let (_sandbox, _dist, server) = tight();
    let refusal = |body: &Value| server.post(body).refusal();
    assert_eq!(refusal(&question("absent", SUM, 5)), (404, "model_not_found".to_owned()));
    assert_eq!(server.get("/v1/models/absent").refusal(), (404, "model_not_found".to_owned()));
    assert_eq!(server.get("/v1/absent").refusal(), (404, "not_found".to_owned()));
    for bad in ["", "{", "[]", "{\"model\": \"tiny-q4\"}", "{\"model\": 3, \"messages\": []}", "\u{feff}{}"] {
        assert_eq!(server.post_text(bad).refusal(), (400, "invalid_value".to_owned()), "{bad:?}");
    }
    for (key, value) in [("n", json!(2)), ("temperature", json!(-1)), ("messages", json!([])), ("tools", json!([{}]))] {
        let mut body = question(FOUR, SUM, 5);
        body[key] = value;
        assert_eq!(refusal(&body), (400, "invalid_value".to_owned()), "{body}");
        // A stream that cannot begin has a status too.
        body["stream"] = json!(true);
        assert_eq!(refusal(&body), (400, "invalid_value".to_owned()), "{body}");
    }
    let long = "word ".repeat(3000);
    assert_eq!(refusal(&question(FOUR, &long, 5)), (400, "context_length_exceeded".to_owned()));
    let huge = question(FOUR, &"x".repeat(17 << 20), 5);
    assert_eq!(refusal(&huge), (413, "too_large".to_owned()));
    // It can never be loaded: a status that clients do not try again after.
    let over = server.post(&question(HALF, SUM, 5));
    assert_eq!(over.refusal(), (400, "over_budget".to_owned()));
    assert!(over.body.contains("needs") && over.body.contains("budget of 6000000"), "{}", over.body);
    assert_eq!(server.count("Failed", HALF), 0, "{}", server.log());
    // After all that it still serves.
    assert_eq!(server.ask(FOUR, SUM, 64), SUM_ANSWER);
}

#[test]
fn two_models_take_turns_under_a_budget_for_one() {
    let (sandbox, dist, server) = tight();
    let alone = [FOUR, THREE].map(|model| (model, sandbox.alone(&dist, model, STORY, 32)));
    assert_ne!(alone[0].1, alone[1].1);
    for round in 1..=4 {
        for (model, story) in &alone {
            assert_eq!(server.ask(model, STORY, 32), *story, "round {round}");
            assert_eq!(server.count("Loaded", model), round);
        }
    }
    assert_eq!((server.count("Evicted", FOUR), server.count("Evicted", THREE)), (4, 3), "{}", server.log());
    // At the same time they wait for each other.
    std::thread::scope(|scope| {
        for _ in 0..3 {
            for (model, story) in &alone {
                let server = &server;
                scope.spawn(move || assert_eq!(server.ask(model, STORY, 32), *story));
            }
        }
    });
}

#[test]
fn a_client_that_goes_away_hurts_nobody() {
    let (sandbox, dist, server) = tight();
    let story = sandbox.alone(&dist, THREE, STORY, 32);
    let mut body = question(FOUR, STORY, 400);
    body["stream"] = json!(true);
    for _ in 0..5 {
        let mut reader = server.send("POST", "/v1/chat/completions", body.to_string().as_bytes());
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        assert!(read_chunk(&mut reader).is_some());
        drop(reader);
        // Its model is in use until the answer has ended, and there is no room beside it.
        assert_eq!(server.ask(THREE, STORY, 32), story);
        assert_eq!(server.ask(FOUR, SUM, 64), SUM_ANSWER);
    }
}

#[cfg(unix)]
#[test]
fn signals_end_it_cleanly() {
    let sandbox = Sandbox::new();
    let dist = sandbox.three_models();
    for signal in ["-INT", "-TERM"] {
        // The reference device is slow enough that the answer is under way when the signal comes.
        let mut server = sandbox.serve(&dist, |command| {
            command.args(["--device", "cpu-reference"]);
        });
        let mut body = question(FOUR, STORY, 400);
        body["stream"] = json!(true);
        let mut reader = server.send("POST", "/v1/chat/completions", body.to_string().as_bytes());
        let mut status = String::new();
        reader.read_line(&mut status).unwrap();
        assert!(status.contains("200"), "{status}");
        let pid = server.child.id().to_string();
        assert!(
            std::process::Command::new("sh").args(["-c", &format!("kill {signal} {pid}")]).status().unwrap().success()
        );
        let ended = server.child.wait().unwrap();
        assert_eq!(ended.code(), Some(0), "{signal}: {}", server.log());
        assert!(server.log().contains("Stopped"), "{}", server.log());
        // The answer was ended in an orderly way: what was there, and the end that clients look for.
        let mut rest = String::new();
        while reader.read_line(&mut rest).unwrap_or(0) > 0 {}
        assert!(rest.contains("data: [DONE]"), "{signal}: {rest}");
        assert!(std::net::TcpStream::connect(&server.address).is_err());
    }
}

#[test]
fn what_is_no_package_is_refused() {
    let sandbox = Sandbox::new();
    let (code, error) = support::fail(sandbox.knapsack().args(["serve", "."]));
    assert_eq!(code, 2);
    assert!(error.contains("is not a package: run `knapsack package` first"), "{error}");
}

/// A phone's memory as the budget.
#[test]
fn a_phone_gives_the_budget() {
    let sandbox = Sandbox::new();
    let dist = sandbox.three_models();
    let server = sandbox.serve(&dist, |command| {
        command.args(["--phone", "iphone-13"]);
    });
    assert_eq!(server.ask(FOUR, SUM, 64), SUM_ANSWER);
    drop(server);
    let refused = |phone: &str| sandbox.run(&["serve", "dist", "--port", "0", "--phone", phone]).expect(2).stderr;
    assert!(refused("iphone-31").contains("did you mean iphone-13?"));
    assert!(refused("android-8gb").contains("give --budget"));
}
