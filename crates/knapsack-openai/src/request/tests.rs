use super::*;
use knapsack_runtime::text::Role;
use serde_json::{Value, json};

fn body(extra: Value) -> Vec<u8> {
    let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body.to_string().into_bytes()
}

fn request(extra: Value) -> Request {
    Request::parse(&body(extra)).unwrap()
}

fn refused(extra: Value) -> ApiError {
    Request::parse(&body(extra)).unwrap_err()
}

#[test]
fn parts_roles_and_stops() {
    let request = request(json!({
        "messages": [
            { "role": "developer", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
            { "role": "assistant", "content": null, "refusal": null, "annotations": [], "tool_calls": null },
        ],
        "stop": ["x", "y"], "max_tokens": 3, "max_completion_tokens": 5, "seed": -1, "top_p": null,
    }));
    assert_eq!(request.messages(), [Message::new(Role::System, "ab"), Message::new(Role::Assistant, "")]);
    let options = request.options(&SamplingOptions { top_p: 0.9, ..SamplingOptions::default() }).unwrap();
    assert_eq!((options.max_tokens, options.stop.len(), options.sampling.top_p), (Some(5), 2, 0.9));
    assert_eq!(options.sampling.seed, Some(u64::MAX));
    assert_eq!((request.model(), request.answers(), request.stream()), (None, 1, false));
}

#[test]
fn what_changes_how_tokens_are_chosen() {
    let request = request(json!({
        "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "logit_bias": { "50": -100, "7": 2.5 },
        "stop_token_ids": [1, 2], "ignore_eos": true, "n": 3, "logprobs": true, "top_logprobs": 5,
    }));
    let options = request.options(&SamplingOptions::default()).unwrap();
    let sampling = &options.sampling;
    assert_eq!((sampling.top_k, sampling.min_p, sampling.repetition_penalty), (40, 0.05, 1.1));
    assert_eq!(sampling.logit_bias, [(50, -100.0), (7, 2.5)]);
    assert_eq!((options.stop_tokens, options.ignore_stops, options.logprobs), (vec![1, 2], true, Some(5)));
    assert_eq!(request.answers(), 3);
    let defaults = SamplingOptions { top_k: 20, ..SamplingOptions::default() };
    let off = Request::parse(&body(json!({ "top_k": -1 }))).unwrap().options(&defaults).unwrap();
    assert_eq!(off.sampling.top_k, 0);
    let own = Request::parse(&body(json!({}))).unwrap().options(&defaults).unwrap();
    assert_eq!((own.sampling.top_k, own.logprobs), (20, None));
}

#[test]
fn harmless_fields_are_passed_over_and_unknown_ones_named() {
    request(json!({
        "user": "u", "metadata": { "a": "b" }, "store": true, "service_tier": "auto", "audio": null,
        "modalities": ["text"], "response_format": { "type": "text" }, "tools": [], "parallel_tool_calls": true, "tool_choice": "auto",
        "stream_options": { "include_usage": true, "include_obfuscation": false },
    }));
    let error = refused(json!({ "best_of": 3, "temprature": 0.5 }));
    assert_eq!((error.code, error.param.as_deref()), ("unsupported_parameter", Some("best_of")));
    assert_eq!(error.message, "not supported: `best_of`, `temprature`");
    assert_eq!(error.json()["error"]["param"], "best_of");
    let many: serde_json::Map<String, Value> = (0..40).map(|n| (format!("x{n}"), json!(1))).collect();
    assert!(refused(many.into()).message.ends_with("`x9` and 30 more"));
    let long = refused(json!({ "y".repeat(100_000): 1 }));
    assert!(long.message.len() < 1000 && long.param.unwrap().len() < 200);
    for message in [json!({ "role": "user", "content": "x", "mood": 1 }), json!({ "role": "user", "name": "n" })] {
        let error = refused(json!({ "messages": [message] }));
        assert!(error.message.contains("mood") || error.message.contains("`name`"), "{}", error.message);
    }
}

#[test]
fn forms_of_an_answer() {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    let form = |extra: Value| request(extra).options(&SamplingOptions::default()).unwrap().grammar;
    let named = json!({ "name": "x", "strict": true, "schema": schema });
    for extra in [
        json!({ "response_format": { "type": "json_schema", "json_schema": named } }),
        json!({ "response_format": { "type": "json_object", "schema": schema } }),
        json!({ "json_schema": schema }),
    ] {
        assert_eq!(form(extra), Some(Grammar::JsonSchema(schema.clone())));
    }
    assert_eq!(form(json!({ "response_format": { "type": "json_object" } })), Some(Grammar::json_object()));
    assert_eq!(form(json!({ "grammar": "root ::= \"a\"" })), Some(Grammar::Gbnf("root ::= \"a\"".into())));
    assert_eq!(form(json!({ "response_format": { "type": "text" }, "grammar": null })), None);
    for (extra, message) in [
        (
            json!({ "response_format": { "type": "xml" } }),
            "`response_format`: `type` is one of `text`, `json_object` and `json_schema`",
        ),
        (json!({ "response_format": { "type": "json_schema" } }), "`response_format`: `json_schema` is missing"),
        (
            json!({ "response_format": { "type": "json_object", "size": 1 } }),
            "`response_format`: `size` is not supported",
        ),
        (json!({ "response_format": "json" }), "`response_format`: expected an object"),
        (
            json!({ "json_schema": {}, "grammar": "start: \"a\"" }),
            "`json_schema` and `grammar` both say what form the answer has",
        ),
    ] {
        assert_eq!(refused(extra).message, message);
    }
}

#[test]
fn tools_and_what_became_of_them() {
    let tool = json!({ "type": "function", "function": { "name": "now" } });
    let call = json!({ "id": "c1", "type": "function", "function": { "name": "now", "arguments": "{\"a\":1}" } });
    let read = request(json!({
        "messages": [
            { "role": "user", "content": "?" },
            { "role": "assistant", "content": null, "tool_calls": [call], "reasoning_content": "hm" },
            { "role": "tool", "tool_call_id": "c1", "content": "noon", "name": "now" },
        ],
        "tools": [tool], "tool_choice": { "type": "function", "function": { "name": "now" } }, "parallel_tool_calls": false,
        "chat_template_kwargs": { "enable_thinking": false },
    }));
    let [_, assistant, result] = read.messages() else { panic!() };
    assert_eq!(
        (assistant.tool_calls[0].name.as_str(), &assistant.tool_calls[0].arguments),
        ("now", &json!({ "a": 1 }))
    );
    assert_eq!(assistant.reasoning.as_deref(), Some("hm"));
    assert_eq!(
        (result.role, result.tool_call_id.as_deref(), result.name.as_deref()),
        (Role::Tool, Some("c1"), Some("now"))
    );
    let options = read.options(&SamplingOptions::default()).unwrap();
    assert_eq!((options.tool_choice, options.parallel_tool_calls), (ToolChoice::Named("now".into()), false));
    assert_eq!((options.prompt.tools.len(), &options.prompt.variables["enable_thinking"]), (1, &json!(false)));
    // Tools that must not be called are not told of.
    let none = request(json!({ "tools": [tool], "tool_choice": "none" })).options(&SamplingOptions::default()).unwrap();
    assert!(none.prompt.tools.is_empty());
    assert!(refused(json!({ "tool_choice": "often", "tools": [tool] })).message.starts_with("`tool_choice` is `auto`"));
    assert!(refused(json!({ "chat_template_kwargs": [] })).message.contains("no object"));
}

#[test]
fn what_cannot_be_done_is_refused() {
    for (extra, message) in [
        (json!({ "n": 0 }), "`n` is 0, expected 1 to 128"),
        (json!({ "tool_choice": "required" }), "`tool_choice` wants a call, and there are no `tools`"),
        (json!({ "modalities": ["text", "audio"] }), "not supported: `modalities`"),
        (json!({ "temperature": -1.0 }), "temperature is -1, expected 0 to 100"),
        (json!({ "logit_bias": { "3": 101 } }), "logit_bias is 101, expected -100 to 100"),
        (json!({ "top_k": -2 }), "`top_k` is -2, expected -1 or more"),
        (json!({ "max_tokens": 0 }), "`max_tokens` is 0, expected 1 or more"),
        (json!({ "top_logprobs": 21, "logprobs": true }), "`top_logprobs` is 21, expected 0 to 20"),
        (json!({ "top_logprobs": 2 }), "`top_logprobs` needs `logprobs`: true"),
        (json!({ "messages": [] }), "`messages` is empty"),
        (json!({ "messages": null }), "`messages` is missing"),
        (json!({ "messages": [{ "role": "x", "content": "" }] }), "no such role: `x`"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }] }),
            "content of type `image_url` is not supported",
        ),
    ] {
        assert_eq!(refused(extra).message, message);
    }
    for (extra, parts) in [
        (json!({ "temperature": "x" }), ["`temperature`: ", "expected f32"]),
        (json!({ "logit_bias": { "x": 1 } }), ["`logit_bias`: ", "\"x\" is no token id"]),
        (json!({ "stream_options": { "speed": 1 } }), ["`stream_options`: ", "`speed`"]),
        (json!({ "stop": 3 }), ["`stop`: ", "a string or an array"]),
        (json!({ "stop": ["a", "b", "c", "d", "e"] }), ["`stop`: ", "more than 4 items"]),
        (json!({ "stop_token_ids": vec![0; 1025] }), ["`stop_token_ids`: ", "more than 1024 items"]),
    ] {
        let message = refused(extra).message;
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn what_is_cheap_to_send_is_not_expensive_to_read() {
    let messages = "{\"role\":\"user\"},".repeat(20_000);
    let error = Request::parse(format!("{{\"messages\":[{messages}{{}}]}}").as_bytes()).unwrap_err();
    assert!(error.message.contains("more than 16384 items"), "{}", error.message);
    let tools = "[],".repeat(1_000_000);
    let tools = format!("[{tools}0]");
    let _ = &tools;
    let error = Request::parse(format!("{{\"tools\":[{tools}]}}").as_bytes()).unwrap_err();
    assert!(error.message.contains("more than 50000 values"), "{}", error.message);
    // Passed over without being kept, however large.
    Request::parse(&body(json!({ "metadata": "x".repeat(1 << 20) }))).unwrap();
}
