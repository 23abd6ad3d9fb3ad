use super::*;
use crate::ChatModel;
use crate::text::{Message, PromptOptions, Role, ToolCall};
use knapsack_testkit::tiny_assistant;
use serde_json::json;

const FORMATS: [ToolFormat; 9] = [
    ToolFormat::Hermes,
    ToolFormat::Llama,
    ToolFormat::Mistral,
    ToolFormat::MistralArgs,
    ToolFormat::Phi,
    ToolFormat::Lfm2,
    ToolFormat::Gemma,
    ToolFormat::Gemma4,
    ToolFormat::Qwen3_5,
];

fn tools() -> Vec<Value> {
    vec![
        json!({ "type": "function", "function": {
            "name": "get_weather", "description": "The weather at a place.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": { "type": "string" }, "days": { "type": "integer", "minimum": 1 }, "wind": { "type": "boolean" },
                },
                "required": ["city"], "additionalProperties": false,
            },
        } }),
        json!({ "type": "function", "function": { "name": "now" } }),
    ]
}

/// What each format writes for the weather in Oslo on two days with wind, and the time.
fn both(format: ToolFormat) -> String {
    match format {
        ToolFormat::Hermes => concat!(
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 2, \"wind\": true}}\n</tool_call>\n",
            "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"
        ),
        ToolFormat::Llama => "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\", \"days\": 2, \"wind\": true}}",
        ToolFormat::Mistral => concat!(
            "[TOOL_CALLS] [{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 2, \"wind\": true}}, ",
            "{\"name\": \"now\", \"arguments\": {}}]"
        ),
        ToolFormat::MistralArgs => concat!(
            "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Oslo\", \"days\": 2, \"wind\": true}",
            "[TOOL_CALLS]now[ARGS]{}"
        ),
        ToolFormat::Phi => concat!(
            "<|tool_call|>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 2, \"wind\": true}}, ",
            "{\"name\": \"now\", \"arguments\": {}}]<|/tool_call|>"
        ),
        ToolFormat::Lfm2 => {
            "<|tool_call_start|>[get_weather(city=\"Oslo\", days=2, wind=True), now()]<|tool_call_end|>"
        }
        ToolFormat::Gemma => concat!(
            "<start_function_call>call:get_weather{city:<escape>Oslo<escape>,days:2,wind:true}<end_function_call>",
            "<start_function_call>call:now{}<end_function_call>"
        ),
        ToolFormat::Gemma4 => concat!(
            "<|tool_call>call:get_weather{city:<|\"|>Oslo<|\"|>,days:2,wind:true}<tool_call|>",
            "<|tool_call>call:now{}<tool_call|>"
        ),
        ToolFormat::Qwen3_5 => concat!(
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n",
            "<parameter=wind>\nTrue\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>"
        ),
    }
    .to_owned()
}

fn expected(format: ToolFormat) -> Vec<(String, Value)> {
    let weather = ("get_weather".to_owned(), json!({ "city": "Oslo", "days": 2, "wind": true }));
    let now = ("now".to_owned(), json!({}));
    if format == ToolFormat::Llama { vec![weather] } else { vec![weather, now] }
}

fn parse(format: ToolFormat, parts: &[&str]) -> (String, Vec<(String, Value)>) {
    let mut parser = ToolParser::new(format, read(&tools(), &ToolChoice::Auto).unwrap());
    let mut found: Vec<Parsed> = parts.iter().flat_map(|part| parser.push(part)).collect();
    found.extend(parser.finish());
    let (mut text, mut calls, mut begun) = (String::new(), Vec::new(), Vec::<(String, String, String)>::new());
    for part in found {
        match part {
            Parsed::Text(more) => text.push_str(&more),
            Parsed::Begin { id, name } => {
                assert!(begun.iter().all(|(known, ..)| *known != id), "{id} twice");
                begun.push((id, name, String::new()));
            }
            Parsed::Arguments(more) => {
                assert!(!more.is_empty());
                begun.last_mut().unwrap().2.push_str(&more);
            }
            Parsed::Call(ToolCall { id, name, arguments }) => {
                let (told, its_name, text) = &begun[calls.len()];
                assert_eq!((told, its_name), (&id, &name));
                assert_eq!(ToolCall::parse_arguments(text.as_str().into()), arguments);
                calls.push((name, arguments));
            }
        }
    }
    assert_eq!(begun.len(), calls.len());
    (text, calls)
}

/// Formats whose arguments are no JSON.
fn at_once(format: ToolFormat) -> bool {
    matches!(format, ToolFormat::Lfm2 | ToolFormat::Gemma | ToolFormat::Gemma4 | ToolFormat::Qwen3_5)
}

/// Arguments in JSON come as they are written, call after call.
#[test]
fn arguments_come_in_pieces() {
    for format in FORMATS {
        let mut parser = ToolParser::new(format, read(&tools(), &ToolChoice::Auto).unwrap());
        let (mut pieces, mut complete) = (Vec::new(), 0);
        for character in both(format).chars() {
            for part in parser.push(character.encode_utf8(&mut [0; 4])) {
                match part {
                    Parsed::Arguments(text) => pieces.push(text),
                    Parsed::Call(_) => complete += 1,
                    Parsed::Begin { .. } | Parsed::Text(_) => {}
                }
            }
        }
        assert_eq!(complete, expected(format).len(), "{format:?}");
        let whole = at_once(format);
        assert_eq!(pieces.len() > 20, !whole, "{format:?}: {pieces:?}");
    }
    let text = "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": \"}]\\\"{\"}}, {\"name\": \"g\", \"arguments\": {\"b\": [1";
    let calls = parse(ToolFormat::Mistral, &[text]).1;
    assert_eq!(calls, [("f".to_owned(), json!({ "a": "}]\"{" })), ("g".to_owned(), json!("{\"b\": [1"))]);
}

#[test]
fn calls_of_every_format_however_they_are_cut() {
    for format in FORMATS {
        let text = both(format);
        for cut in [1, 2, 3, 7, 1000] {
            let characters: Vec<char> = text.chars().collect();
            let parts: Vec<String> = characters.chunks(cut).map(|part| part.iter().collect()).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            assert_eq!(parse(format, &parts), (String::new(), expected(format)), "{format:?}, cut by {cut}");
        }
        if format != ToolFormat::Llama {
            let (said, calls) = parse(format, &["Let me look. ", &text]);
            assert_eq!((said.as_str(), calls), ("Let me look. ", expected(format)), "{format:?}");
        }
        for plain in ["Just text, with < and [ and {braces}.", "", "[TOOL", "a <tool_c"] {
            assert_eq!(parse(format, &[plain]), (plain.to_owned(), Vec::new()), "{format:?}");
        }
        // Cut off before its arguments, or in a notation of its own, a call is the text that it is.
        let early = &text[..text.find("weather").unwrap()];
        assert_eq!(parse(format, &[early]), (early.to_owned(), Vec::new()), "{format:?}");
        let half = &text[..text.find("Oslo").unwrap()];
        let cut = match format {
            _ if at_once(format) => (half.to_owned(), Vec::new()),
            _ => (String::new(), vec![("get_weather".to_owned(), json!("{\"city\": \""))]),
        };
        assert_eq!(parse(format, &[half]), cut, "{format:?}");
    }
}

/// Between tags nothing but the schema tells a text that looks like a number from a number.
#[test]
fn what_is_between_tags_means_what_the_schema_says() {
    let call = |name: &str, values: &[(&str, &str)]| {
        let value = |(key, value): &(&str, &str)| format!("<parameter={key}>\n{value}\n</parameter>\n");
        let values: String = values.iter().map(value).collect();
        parse(ToolFormat::Qwen3_5, &[&format!("<tool_call>\n<function={name}>\n{values}</function>\n</tool_call>")]).1
    };
    let weather = |arguments: Value| [("get_weather".to_owned(), arguments)];
    let lines = "2\n\n <a> & {\"b\": 1}\n";
    assert_eq!(call("get_weather", &[("city", "12"), ("days", "12")]), weather(json!({ "city": "12", "days": 12 })));
    assert_eq!(
        call("get_weather", &[("city", lines), ("wind", "false")]),
        weather(json!({ "city": lines, "wind": false }))
    );
    // Of what no schema tells, JSON is a value and all else a text.
    let unknown = call("f", &[("a", "[1, {\"b\": null}]"), ("c", "None"), ("d", "some text"), ("e", "\"quoted\"")]);
    let expected = json!({ "a": [1, { "b": null }], "c": null, "d": "some text", "e": "\"quoted\"" });
    assert_eq!(unknown, [("f".to_owned(), expected)]);
    // What is held to JSON by a schema that is no plain text comes in its quotes, and from a model that leaves them out as it is.
    for property in
        [json!({ "anyOf": [{ "type": "string" }, { "type": "null" }] }), json!({ "enum": ["Oslo", "Rome"] })]
    {
        for (text, value) in [("\"Oslo\"", json!("Oslo")), ("Oslo", json!("Oslo"))] {
            assert_eq!(parser::written(text, Some(&property)), value, "{property}");
        }
        let tool = json!({ "name": "f", "parameters": { "type": "object", "properties": { "a": property }, "required": ["a"] } });
        let chat = ChatModel::open(&tiny_assistant(), 1024).unwrap();
        let tools = read(&[tool], &ToolChoice::Required).unwrap();
        let required = grammar(ToolFormat::Qwen3_5, &tools, &ToolChoice::Required, false, None, &|_| None).unwrap();
        let call = "<tool_call>\n<function=f>\n<parameter=a>\n\"Oslo\"\n</parameter>\n</function>\n</tool_call>";
        assert!(accepts(&chat, &required, call), "{property}");
    }
    let inline = "<tool_call><function=get_weather><parameter=city>Oslo</parameter></function></tool_call>";
    assert_eq!(parse(ToolFormat::Qwen3_5, &[inline]).1, weather(json!({ "city": "Oslo" })));
    let deep = format!(
        "<tool_call>\n<function=f>\n<parameter=a>\n{}\n</parameter>\n</function>\n</tool_call>",
        "[".repeat(100_000)
    );
    assert_eq!(parse(ToolFormat::Qwen3_5, &[&deep]).1, [("f".to_owned(), json!({ "a": "[".repeat(100_000) }))]);
}

#[test]
fn what_no_call_is_stays_text() {
    for text in ["<tool_call>\nnot json\n</tool_call>", "<tool_call>{\"name\": 3}</tool_call>"] {
        assert_eq!(parse(ToolFormat::Hermes, &[text]), (text.to_owned(), Vec::new()));
    }
    assert_eq!(parse(ToolFormat::Llama, &["{\"a\": 1}"]), ("{\"a\": 1}".to_owned(), Vec::new()));
    let deep = format!("<|tool_call_start|>[f(a={}", "[".repeat(100_000));
    assert_eq!(parse(ToolFormat::Lfm2, &[&deep]).1, []);
    let (_, calls) =
        parse(ToolFormat::Lfm2, &["<|tool_call_start|>[f(a='it\\'s', b=[1, None], c={'k': -2.5})]<|tool_call_end|>"]);
    assert_eq!(calls, [("f".to_owned(), json!({ "a": "it's", "b": [1, null], "c": { "k": -2.5 } }))]);
    let (_, calls) =
        parse(ToolFormat::Hermes, &["<tool_call>{\"name\": \"f\", \"parameters\": \"{\\\"a\\\": 1}\"}</tool_call>"]);
    assert_eq!(calls, [("f".to_owned(), json!({ "a": 1 }))]);
}

#[test]
fn formats_are_told_by_what_templates_write() {
    for (template, format) in [
        ("{{ '<tool_call>\\n' }}", Some(ToolFormat::Hermes)),
        ("[TOOL_CALLS] [", Some(ToolFormat::Mistral)),
        ("[TOOL_CALLS]' + name + '[ARGS]", Some(ToolFormat::MistralArgs)),
        ("<|tool|>' + message['tools'] + '<|/tool|>", Some(ToolFormat::Phi)),
        ("Respond in the format {\"name\": function name, \"parameters\": dictionary}", Some(ToolFormat::Llama)),
        ("<|tool_list_start|>", Some(ToolFormat::Lfm2)),
        ("<start_function_call>", Some(ToolFormat::Gemma)),
        ("'<|tool_call>call:' + function['name']", Some(ToolFormat::Gemma4)),
        ("'<tool_call>\\n<function=' + tool_call.name", Some(ToolFormat::Qwen3_5)),
        ("{{ message.content }}", None),
    ] {
        assert_eq!(ToolFormat::detect(template), format, "{template}");
    }
}

/// Whether the masks of an answer allow the text, and then its end.
fn accepts(chat: &ChatModel, grammar: &Grammar, text: &str) -> bool {
    crate::grammar::accepts(chat, grammar, text).unwrap()
}

#[test]
fn grammars_of_every_format() {
    let chat = ChatModel::open(&tiny_assistant(), 1024).unwrap();
    let special = |_: &str| None;
    for format in FORMATS {
        let text = both(format);
        let wrong_name = text.replace("get_weather", "get_whether");
        let wrong_type = text.replace("2", "\"2\"");
        let write = |choice: ToolChoice, parallel| {
            let tools = read(&tools(), &choice).unwrap();
            grammar(format, &tools, &choice, parallel, None, &special).unwrap()
        };
        let required = write(ToolChoice::Required, true);
        assert!(accepts(&chat, &required, &text), "{format:?}: {required:?}");
        for wrong in ["Just text.", &wrong_name, &wrong_type, &format!("{text} and more")] {
            assert!(!accepts(&chat, &required, wrong), "{format:?}: {wrong}");
        }
        let auto = write(ToolChoice::Auto, true);
        for right in ["Just text.\nOf two lines.", "", &text] {
            assert!(accepts(&chat, &auto, right), "{format:?}: {right:?} by {auto:?}");
        }
        assert!(!accepts(&chat, &auto, &wrong_name), "{format:?}: {wrong_name}");
        if format != ToolFormat::Llama {
            assert!(accepts(&chat, &auto, &format!("Let me look. {text}")), "{format:?}");
            assert!(!accepts(&chat, &write(ToolChoice::Required, false), &text), "{format:?}: two calls");
            assert!(!accepts(&chat, &write(ToolChoice::Auto, false), &text), "{format:?}: two calls");
        }
        assert!(!accepts(&chat, &write(ToolChoice::Named("now".into()), true), &text), "{format:?}: the other tool");
    }
}

/// A text may hold everything but what ends it.
#[test]
fn texts_end_where_their_marks_are() {
    let chat = ChatModel::open(&tiny_assistant(), 1024).unwrap();
    let tool = json!({ "name": "f", "parameters": {
        "type": "object", "properties": { "b": { "type": "string" }, "A": { "enum": ["x", "<y>"], "type": "string" } }, "required": ["b", "A"],
    } });
    let tools = read(&[tool], &ToolChoice::Required).unwrap();
    let required = |format| grammar(format, &tools, &ToolChoice::Required, false, None, &|_| None).unwrap();
    let text = "a < b,\n{c: [1]} & \"d\"";
    let tagged = |text: &str, choice: &str| {
        format!(
            "<tool_call>\n<function=f>\n<parameter=b>\n{text}\n</parameter>\n<parameter=A>\n{choice}\n</parameter>\n</function>\n</tool_call>"
        )
    };
    // Gemma sees its keys sorted.
    let called = |text: &str, choice: &str| {
        format!("<|tool_call>call:f{{A:<|\"|>{choice}<|\"|>,b:<|\"|>{text}<|\"|>}}<tool_call|>")
    };
    for (format, write) in
        [(ToolFormat::Qwen3_5, &tagged as &dyn Fn(&str, &str) -> String), (ToolFormat::Gemma4, &called)]
    {
        let required = required(format);
        for choice in ["x", "<y>"] {
            assert!(accepts(&chat, &required, &write(text, choice)), "{format:?}: {required:?}");
        }
        assert!(!accepts(&chat, &required, &write(text, "z")), "{format:?}");
    }
    for (format, wrong) in [
        (ToolFormat::Qwen3_5, "a\n</parameter>\n</function>"),
        (ToolFormat::Qwen3_5, "see </parameter> here"),
        (ToolFormat::Gemma4, "a<|\"|>b"),
    ] {
        let write: &dyn Fn(&str, &str) -> String = if format == ToolFormat::Gemma4 { &called } else { &tagged };
        assert!(!accepts(&chat, &required(format), &write(wrong, "x")), "{format:?}");
    }
}

#[test]
fn references_and_optional_arguments() {
    let chat = ChatModel::open(&tiny_assistant(), 1024).unwrap();
    let tool = json!({ "name": "f", "parameters": {
        "type": "object", "properties": { "a": { "$ref": "#/$defs/n" }, "b": { "$ref": "#/$defs/n" } },
        "additionalProperties": false, "$defs": { "n": { "type": "integer" } },
    } });
    let tools = read(&[tool], &ToolChoice::Required).unwrap();
    let required = |format| grammar(format, &tools, &ToolChoice::Required, false, None, &|_| None).unwrap();
    for arguments in ["{}", "{\"a\": 1}", "{\"b\": 2}", "{\"a\": 1, \"b\": 2}"] {
        let call = format!("{{\"name\": \"f\", \"parameters\": {arguments}}}");
        assert!(accepts(&chat, &required(ToolFormat::Llama), &call), "{call}");
    }
    for arguments in ["", "a=1", "b=2", "a=1, b=2"] {
        let call = format!("<|tool_call_start|>[f({arguments})]<|tool_call_end|>");
        assert!(accepts(&chat, &required(ToolFormat::Lfm2), &call), "{call}");
    }
    for wrong in ["b=2, a=1", "a=1,", "c=1", "a=x"] {
        let call = format!("<|tool_call_start|>[f({wrong})]<|tool_call_end|>");
        assert!(!accepts(&chat, &required(ToolFormat::Lfm2), &call), "{call}");
    }
}

#[test]
fn tools_that_are_none_are_refused() {
    let refused = |tools: &[Value], choice: ToolChoice| read(tools, &choice).unwrap_err().to_string();
    let auto = || ToolChoice::Auto;
    assert!(refused(&[json!({})], auto()).contains("tool 0 has no name"));
    assert!(refused(&[json!({ "name": "a b" })], auto()).contains("letters"));
    assert!(refused(&[json!({ "type": "web_search", "name": "a" })], auto()).contains("another type"));
    assert!(refused(&[json!({ "name": "a" }), json!({ "name": "a" })], auto()).contains("two of the name `a`"));
    assert!(refused(&[json!({ "name": "a", "parameters": [] })], auto()).contains("no JSON Schema"));
    assert!(refused(&tools(), ToolChoice::Named("b".into())).contains("none of the name `b`"));
    assert!(refused(&vec![json!({ "name": "a" }); 129], auto()).contains("at most 128"));
}

/// A model with this chat template.
fn with_template(source: &str) -> ChatModel {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(tiny_assistant().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
    ChatModel::open(folder.path(), 1024).unwrap()
}

/// Whole templates by the rules of families that think and call: the marks are known, thoughts of earlier answers are left out,
/// what a template writes of a call is read as that call, and thinking is switched.
#[test]
fn templates_of_thinking_families() {
    let weather = json!({ "city": "Oslo", "days": 2, "wind": true });
    let call = ToolCall { id: "1".into(), name: "get_weather".into(), arguments: weather };
    for (source, format, [start, end], [on, off]) in [
        (
            include_str!("../../../knapsack/tests/templates/thinking-tagged-tools.jinja"),
            ToolFormat::Qwen3_5,
            ["<think>", "</think>"],
            ["<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"],
        ),
        (
            include_str!("../../../knapsack/tests/templates/channels-marked-text.jinja"),
            ToolFormat::Gemma4,
            ["<|channel>thought", "<channel|>"],
            ["<|turn>model\n", "<|turn>model\n"],
        ),
        (
            include_str!("../../../knapsack/tests/templates/thinking-python-calls.jinja"),
            ToolFormat::Lfm2,
            ["<think>", "</think>"],
            ["<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"],
        ),
    ] {
        let chat = with_template(source);
        assert_eq!(chat.tool_format(), Some(format));
        assert_eq!(chat.thinking_marks().map(|marks| [marks.start, marks.end]), Some([start, end]), "{format:?}");
        let options = |thinking| PromptOptions { tools: tools(), thinking, ..PromptOptions::default() };
        let thought = Message::new(Role::Assistant, format!("{start}\nHm.\n{end}\n\nCold."));
        let mut called = Message::new(Role::Assistant, "");
        called.tool_calls = vec![call.clone()];
        let messages = [Message::new(Role::User, "Hi"), thought, Message::new(Role::User, "Rain?"), called];
        let text = chat.render(&messages, &options(Some(true))).unwrap().text;
        assert!(text.contains("Cold.") && !text.contains("Hm."), "{text}");
        let said = &text[text.find("Rain?").unwrap()..];
        let shape = format.shape();
        let written = &said[said.find(shape.open).unwrap()..said.find(shape.close).unwrap() + shape.close.len()];
        assert_eq!(parse(format, &[written]).1, [(call.name.clone(), call.arguments.clone())], "{written}");
        for (thinking, ending) in [(true, on), (false, off)] {
            let prompt = chat.render(&messages[..1], &options(Some(thinking))).unwrap();
            assert!(prompt.text.ends_with(ending), "{format:?}, {thinking}: {:?}", prompt.text);
            let began = chat.begins_thinking(&chat.tokens(&prompt).unwrap());
            assert_eq!(began, ending.trim_end().ends_with(start), "{format:?}, {thinking}");
        }
    }
}
