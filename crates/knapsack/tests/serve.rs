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
    for (key, value) in [("n", json!(0)), ("temperature", json!(-1)), ("messages", json!([])), ("top_k", json!("x"))] {
        let mut body = question(FOUR, SUM, 5);
        body[key] = value;
        assert_eq!(refusal(&body), (400, "invalid_value".to_owned()), "{body}");
        // A stream that cannot begin has a status too.
        body["stream"] = json!(true);
        assert_eq!(refusal(&body), (400, "invalid_value".to_owned()), "{body}");
    }
    for (key, value) in [("best_of", json!(2)), ("audio", json!({})), ("temprature", json!(1))] {
        let mut body = question(FOUR, SUM, 5);
        body[key] = value;
        let answer = server.post(&body);
        assert_eq!(answer.refusal(), (400, "unsupported_parameter".to_owned()), "{body}");
        assert_eq!(answer.json()["error"]["param"], key);
    }
    let mut nameless = question(FOUR, SUM, 5);
    nameless.as_object_mut().unwrap().remove("model");
    let answer = server.post(&nameless);
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("model")));
    assert!(answer.body.contains(FOUR) && answer.body.contains(HALF), "{}", answer.body);
    let long = "word ".repeat(3000);
    assert_eq!(refusal(&question(FOUR, &long, 5)), (400, "context_length_exceeded".to_owned()));
    let huge = question(FOUR, &"x".repeat(17 << 20), 5);
    assert_eq!(refusal(&huge), (413, "too_large".to_owned()));
    // It can never be loaded: a status that clients do not try again after.
    let over = server.post(&question(HALF, SUM, 5));
    assert_eq!(over.refusal(), (400, "over_budget".to_owned()));
    assert!(over.body.contains("needs") && over.body.contains(&format!("budget of {BUDGET_FOR_ONE}")), "{}", over.body);
    assert_eq!(server.count("Failed", HALF), 0, "{}", server.log());
    // After all that it still serves.
    assert_eq!(server.ask(FOUR, SUM, 64), SUM_ANSWER);
}

/// The token that an answer of the model begins with.
fn first_token(text: &str) -> u32 {
    let chat = knapsack_runtime::ChatModel::open(&knapsack_testkit::tiny_assistant(), 1024).unwrap();
    chat.tokenizer.encode(text).unwrap()[0]
}

#[test]
fn fields_that_choose_tokens_are_honoured() {
    let (sandbox, dist, server) = world(|_| ());
    let ask = |extra: Value| {
        let mut body = question(FOUR, STORY, 24);
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = server.post(&body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    let text = |answer: &Value| answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let story = sandbox.alone(&dist, FOUR, STORY, 24);
    // A draw of the likeliest one is no draw.
    for greedy in [json!({ "top_k": 1 }), json!({ "min_p": 1.0 })] {
        let mut extra = greedy.clone();
        extra["temperature"] = json!(5);
        assert_eq!(text(&ask(extra)), story, "{greedy}");
    }
    let first = first_token(&story);
    let other = text(&ask(json!({ "logit_bias": { first.to_string(): -100 } })));
    assert_ne!(first_token(&other), first);
    let by_command = sandbox.run(&[
        "run",
        "dist",
        "--model",
        FOUR,
        "--prompt",
        STORY,
        "--max-tokens",
        "24",
        "--logit-bias",
        &format!("{first}=-100"),
    ]);
    assert_eq!(by_command.expect(0).stdout.trim_end_matches('\n'), other);
    assert_ne!(text(&ask(json!({ "repetition_penalty": 3.0 }))), story);
    let stopped = ask(json!({ "stop_token_ids": [first] }));
    assert_eq!((text(&stopped).as_str(), &stopped["choices"][0]["finish_reason"]), ("", &json!("stop")));
    let mut body = question(FOUR, SUM, 64);
    body["ignore_eos"] = json!(true);
    let endless = server.post(&body).json();
    assert_eq!(
        (&endless["choices"][0]["finish_reason"], &endless["usage"]["completion_tokens"]),
        (&json!("length"), &json!(64))
    );
}

#[test]
fn several_answers_and_their_probabilities() {
    let (_sandbox, _dist, server) = world(|_| ());
    let mut body = question(FOUR, STORY, 12);
    let more = json!({ "n": 3, "temperature": 1.5, "seed": 5, "logprobs": true, "top_logprobs": 2 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = server.post(&body).json();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| &choice["index"]).collect::<Vec<_>>(), [&json!(0), &json!(1), &json!(2)]);
    assert_eq!(answer["usage"]["completion_tokens"], 36);
    let text = |choice: &Value| choice["message"]["content"].as_str().unwrap().to_owned();
    assert!(text(&choices[0]) != text(&choices[1]) && text(&choices[1]) != text(&choices[2]));
    for choice in choices {
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!(tokens.len(), 12);
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token["bytes"].as_array().unwrap())
            .map(|byte| byte.as_u64().unwrap() as u8)
            .collect();
        assert_eq!(String::from_utf8_lossy(&bytes), text(choice));
        for token in tokens {
            let top = token["top_logprobs"].as_array().unwrap();
            let logprob = |token: &Value| token["logprob"].as_f64().unwrap();
            assert!(
                top.len() == 2 && logprob(&top[0]) >= logprob(&top[1]) && logprob(token) <= logprob(&top[0]) + 1e-6
            );
            assert!(logprob(&top[0]).exp() + logprob(&top[1]).exp() <= 1.0 + 1e-5);
        }
    }
    // The second answer is the one of the next seed, and a stream tells the same.
    let alone = server
        .post(&{
            let mut body = body.clone();
            body["n"] = json!(1);
            body["seed"] = json!(6);
            body
        })
        .json();
    assert_eq!(text(&alone["choices"][0]), text(&choices[1]));
    body["stream"] = json!(true);
    let streamed = server.post(&body);
    let (mut texts, mut tokens, mut ends) = (vec![String::new(); 3], vec![Vec::new(); 3], Vec::new());
    for event in streamed.events().iter().filter(|event| **event != "[DONE]") {
        let event: Value = serde_json::from_str(event).unwrap();
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        texts[index].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        tokens[index].extend(choice["logprobs"]["content"].as_array().cloned().unwrap_or_default());
        ends.extend(choice["finish_reason"].as_str().map(str::to_owned));
    }
    assert_eq!(ends, ["length"; 3]);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(texts[index], text(choice));
        let whole = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!(whole.len(), tokens[index].len());
        for (whole, streamed) in whole.iter().zip(&tokens[index]) {
            // What the cache held of the prompt may show in the last bits.
            let difference = whole["logprob"].as_f64().unwrap() - streamed["logprob"].as_f64().unwrap();
            assert!(whole["bytes"] == streamed["bytes"] && difference.abs() < 1e-3, "{whole} {streamed}");
        }
    }
}

#[test]
fn a_package_of_one_model_needs_no_name() {
    let sandbox = Sandbox::new();
    let entry = json!({ "model": knapsack_testkit::tiny_assistant(), "model_id": FOUR, "quantization": "q4f16_1", "bundle_weight": true });
    let dist = sandbox.package(&json!({ "device": "iphone", "model_list": [entry] }), |_| ());
    let server = sandbox.serve(&dist, |_| ());
    let mut body = question(FOUR, SUM, 64);
    body.as_object_mut().unwrap().remove("model");
    let answer = server.post(&body).json();
    assert_eq!((&answer["model"], &answer["choices"][0]["message"]["content"]), (&json!(FOUR), &json!(SUM_ANSWER)));
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
