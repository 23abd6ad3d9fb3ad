//! Answers of a given form, by the trained example: in the runtime, on the command line and through the endpoint.

mod support;

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::MemoryPlan;
use knapsack_device::{CacheHalf, CpuDevice, Device, DeviceError, LoadedModel, StateCopy, Watch};
use knapsack_runtime::{
    CancelFlag, ChatModel, Engine, FinishReason, GenerateOptions, Generation, Grammar, SamplingOptions, Session,
};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{FOUR, STORY, SUM, SUM_ANSWER, Sandbox, fail, question};

/// A model that counts what is asked of it, and tells of a few logits or not.
struct Counted {
    model: Box<dyn LoadedModel>,
    few: bool,
    asked: Arc<[AtomicUsize; 2]>,
}

impl LoadedModel for Counted {
    fn library(&self) -> &Arc<ModelLibrary> {
        self.model.library()
    }

    fn memory(&self) -> MemoryPlan {
        self.model.memory()
    }

    fn forward_while(&mut self, tokens: &[u32], position: u32, watch: &dyn Watch) -> Result<(), DeviceError> {
        self.model.forward_while(tokens, position, watch)
    }

    fn logits(&mut self, row: u32, output: &mut [f32]) -> Result<(), DeviceError> {
        self.asked[0].fetch_add(1, Ordering::Relaxed);
        self.model.logits(row, output)
    }

    fn few_logits(&self) -> usize {
        if self.few { self.model.few_logits() } else { 0 }
    }

    fn logits_of(&mut self, row: u32, tokens: &[u32], output: &mut [f32]) -> Result<(), DeviceError> {
        self.asked[1].fetch_add(1, Ordering::Relaxed);
        self.model.logits_of(row, tokens, output)
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        self.model.wait()
    }

    fn weights_digest(&self) -> [u8; 32] {
        self.model.weights_digest()
    }

    fn read_cache(&mut self, layer: usize, half: CacheHalf, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.model.read_cache(layer, half, bytes)
    }

    fn write_cache(&mut self, layer: usize, half: CacheHalf, bytes: &[u8]) -> Result<(), DeviceError> {
        self.model.write_cache(layer, half, bytes)
    }

    fn read_state(&mut self, state: usize, copy: StateCopy, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.model.read_state(state, copy, bytes)
    }

    fn write_state(&mut self, state: usize, copy: StateCopy, bytes: &[u8]) -> Result<(), DeviceError> {
        self.model.write_state(state, copy, bytes)
    }

    fn read_kept(&mut self, layer: usize, half: CacheHalf, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.model.read_kept(layer, half, bytes)
    }

    fn write_kept(&mut self, layer: usize, half: CacheHalf, bytes: &[u8]) -> Result<(), DeviceError> {
        self.model.write_kept(layer, half, bytes)
    }
}

/// The trained example on the CPU.
fn engine(sandbox: &Sandbox) -> Engine {
    counted(sandbox, true).0
}

/// The same, and how often it was asked for all logits and for a few.
fn counted(sandbox: &Sandbox, few: bool) -> (Engine, Arc<[AtomicUsize; 2]>) {
    let dist = sandbox.three_models();
    let package = knapsack_runtime::Package::open(&dist).unwrap();
    let model = package.model(Some(FOUR)).unwrap();
    let weights = package.bundled_weights(model).unwrap();
    let library = package.library(model).unwrap();
    let chat = ChatModel::open(&weights, library.model.vocab_size).unwrap();
    let (model, asked) = (CpuDevice::new().load(library, &weights).unwrap(), Arc::<[AtomicUsize; 2]>::default());
    let model = Counted { model, few, asked: asked.clone() };
    (Engine::new(Session::new(Box::new(model)), Arc::new(chat)), asked)
}

fn answer(engine: &mut Engine, prompt: &str, options: &GenerateOptions) -> Generation {
    let tokens = engine.chat().raw_prompt(prompt).unwrap();
    engine.generate(&tokens, options, &CancelFlag::new(), &mut |_| ()).unwrap()
}

/// A generator of numbers that is the same everywhere.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn word(&mut self) -> String {
        let length = 1 + self.below(8);
        (0..length).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
    }
}

/// A schema whose values have an end: a small model that is drawn from at random would go on with anything that has none.
fn schema(draw: &mut Draw, depth: u64) -> Value {
    match draw.below(if depth == 0 { 6 } else { 9 }) {
        0 => json!({ "type": "boolean" }),
        1 => {
            let low = draw.below(200) as i64 - 100;
            json!({ "type": "integer", "minimum": low, "maximum": low + draw.below(5000) as i64 })
        }
        2 => {
            let low = draw.below(4);
            json!({ "type": "string", "minLength": low, "maxLength": low + draw.below(8) })
        }
        3 => {
            let mut choices: Vec<Value> = (0..draw.below(4)).map(|_| json!(draw.word())).collect();
            choices.extend([json!(draw.below(1000)), json!(null)]);
            choices.dedup();
            json!({ "enum": choices })
        }
        4 => {
            let pattern = ["^[A-Z]{2}-\\d{1,3}$", "^(on|off)$", "^(a{1,4}b{2,4}|x)$"][draw.below(3) as usize];
            json!({ "type": "string", "pattern": pattern })
        }
        5 => {
            let format = ["date", "uuid", "ipv4", "date"][draw.below(4) as usize];
            json!({ "type": "string", "format": format })
        }
        6 => {
            json!({ "type": "array", "items": schema(draw, depth - 1), "minItems": draw.below(2), "maxItems": 2 + draw.below(2) })
        }
        7 => json!({ "anyOf": [schema(draw, depth - 1), { "type": "null" }] }),
        _ => {
            let properties: Map<String, Value> =
                (0..=draw.below(3)).map(|_| (draw.word(), schema(draw, depth - 1))).collect();
            let required: Vec<&String> = properties.keys().filter(|key| key.len() % 2 == 0).collect();
            json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
        }
    }
}

#[test]
fn a_thousand_random_schemas() {
    let sandbox = Sandbox::new();
    let mut engine = engine(&sandbox);
    let mut draw = Draw(1);
    let mut longest = 0;
    for seed in 0..1000 {
        let schema = schema(&mut draw, 2);
        let sampling = SamplingOptions {
            temperature: [0.0, 1.0, 3.0][seed as usize % 3],
            seed: Some(seed),
            ..SamplingOptions::GREEDY
        };
        let options = GenerateOptions {
            grammar: Some(Grammar::JsonSchema(schema.clone())),
            max_tokens: Some(400),
            ..GenerateOptions::new(sampling)
        };
        let answer = answer(&mut engine, "Some JSON: ", &options);
        longest = longest.max(answer.tokens.len());
        assert_eq!(answer.finish, FinishReason::Stop, "{schema}: {}", answer.text);
        let value: Value =
            serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {schema}: {}", answer.text));
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        assert!(validator.is_valid(&value), "{schema}: {value}");
    }
    assert!(longest > 30);
}

#[test]
fn a_form_that_allows_everything_changes_nothing() {
    let sandbox = Sandbox::new();
    let mut engine = engine(&sandbox);
    for prompt in ["Once upon a time", "What is 37 plus 48?", "x"] {
        let free = GenerateOptions { max_tokens: Some(64), ..GenerateOptions::new(SamplingOptions::GREEDY) };
        let held = GenerateOptions { grammar: Some(Grammar::Regex("(?s:.*)".into())), ..free.clone() };
        let (free, held) = (answer(&mut engine, prompt, &free), answer(&mut engine, prompt, &held));
        assert_eq!((free.tokens, free.finish), (held.tokens, held.finish), "{prompt}");
    }
}

/// Where a mask leaves few tokens only their logits are computed, and the answer is what it is with all.
#[test]
fn a_projection_of_a_few_tokens_changes_nothing() {
    let sandbox = Sandbox::new();
    let (mut whole, _) = counted(&sandbox, false);
    let (mut part, asked) = counted(&sandbox, true);
    let mut draw = Draw(7);
    for seed in 0..60 {
        let sampling = SamplingOptions {
            temperature: [0.0, 1.2][seed as usize % 2],
            repetition_penalty: 1.1,
            logit_bias: vec![(40, 3.0), (41, -2.0)],
            seed: Some(seed),
            ..SamplingOptions::GREEDY
        };
        let grammar = Some(Grammar::JsonSchema(schema(&mut draw, 2)));
        let options = GenerateOptions { grammar, max_tokens: Some(200), ..GenerateOptions::new(sampling) };
        let [whole, part] = [&mut whole, &mut part].map(|engine| answer(engine, "Some JSON: ", &options));
        assert_eq!((whole.tokens, whole.finish), (part.tokens, part.finish), "{seed}");
    }
    let [all, few] = [0, 1].map(|index| asked[index].load(Ordering::Relaxed));
    assert!(few > all && all > 0, "{few} of a few, {all} of all");
    // Log probabilities are those of all tokens.
    let options = GenerateOptions {
        grammar: Some(Grammar::Regex("[0-9]{4}".into())),
        logprobs: Some(3),
        ..GenerateOptions::new(SamplingOptions::GREEDY)
    };
    let [whole, part] = [&mut whole, &mut part].map(|engine| answer(engine, "A year: ", &options));
    assert_eq!((whole.tokens, whole.logprobs), (part.tokens, part.logprobs));
}

#[test]
fn what_must_follow_is_computed_at_once_and_counts() {
    let sandbox = Sandbox::new();
    let (mut engine, asked) = counted(&sandbox, true);
    let text = "{\"status\": \"everything is as it should be\"}";
    let only = Grammar::Regex(text.replace('{', "\\{").replace('}', "\\}"));
    let options = GenerateOptions { grammar: Some(only), ..GenerateOptions::new(SamplingOptions::GREEDY) };
    let forced = answer(&mut engine, "Status: ", &options);
    assert_eq!((forced.text.as_str(), forced.finish), (text, FinishReason::Stop));
    // All but what the last token could still become was part of the prompt's computation.
    assert!(forced.stats.decode_steps <= 3 && forced.stats.generated_tokens > 10, "{:?}", forced.stats);
    let reads: usize = asked.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    assert!(reads <= 3, "logits were read {reads} times");
    // With log probabilities each token is drawn, and the answer is the same.
    let drawn = answer(&mut engine, "Status: ", &GenerateOptions { logprobs: Some(1), ..options.clone() });
    assert_eq!((&drawn.text, drawn.logprobs.len()), (&forced.text, drawn.tokens.len()));
    // The limit counts forced tokens too.
    let cut = answer(&mut engine, "Status: ", &GenerateOptions { max_tokens: Some(4), ..options });
    assert_eq!((cut.tokens.len(), cut.finish), (4, FinishReason::Length));
    assert!(text.starts_with(&cut.text));
}

#[test]
fn on_the_command_line() {
    let sandbox = Sandbox::new();
    let dist = sandbox.three_models();
    std::fs::write(
        sandbox.path("sum.json"),
        r#"{"type": "object", "properties": {"sum": {"type": "integer"}, "sure": {"type": "boolean"}}, "required": ["sum", "sure"], "additionalProperties": false}"#,
    )
    .unwrap();
    std::fs::write(sandbox.path("yes.gbnf"), "root ::= (\"yes\" | \"no\") \"!\"{1,3}\n").unwrap();
    let run = |arguments: &[&str]| {
        let mut command = sandbox.knapsack();
        command.arg("run").arg(&dist).args(["--model", FOUR, "--prompt", SUM, "--max-tokens", "100"]).args(arguments);
        command
    };
    let text = |arguments: &[&str]| support::succeed(&mut run(arguments)).trim_end_matches('\n').to_owned();
    let sum: Value = serde_json::from_str(&text(&["--json-schema", "sum.json"])).unwrap();
    assert!(sum["sum"].is_i64() && sum["sure"].is_boolean(), "{sum}");
    assert!(["yes!", "yes!!", "yes!!!", "no!", "no!!", "no!!!"].contains(&text(&["--grammar", "yes.gbnf"]).as_str()));
    assert_eq!(text(&["--regex", "37 plus 48 is [0-9]{2}\\."]), SUM_ANSWER);
    let refused = |arguments: &[&str]| fail(&mut run(arguments));
    std::fs::write(sandbox.path("hard.json"), r#"{"type": "array", "uniqueItems": true}"#).unwrap();
    let (code, message) = refused(&["--json-schema", "hard.json"]);
    assert!(code == 2 && message.contains("uniqueItems"), "{message}");
    std::fs::write(sandbox.path("broken.json"), "{").unwrap();
    for (arguments, part) in [
        (&["--json-schema", "absent.json"][..], "absent.json"),
        (&["--json-schema", "broken.json"], "broken.json"),
        (&["--regex", "("], "regular expression"),
        (&["--regex", "a", "--grammar", "yes.gbnf"], "cannot be used with"),
    ] {
        let (code, message) = refused(arguments);
        assert!(code == 2 && message.contains(part), "{message}");
    }
}

#[test]
fn through_the_endpoint() {
    let sandbox = Sandbox::new();
    let dist = sandbox.three_models();
    let server = sandbox.serve(&dist, |_| ());
    let schema = json!({
        "type": "object", "properties": { "title": { "type": "string", "maxLength": 20 }, "pages": { "type": "integer", "minimum": 1, "maximum": 99 } },
        "required": ["title", "pages"], "additionalProperties": false,
    });
    let ask = |extra: Value| {
        let mut body = question(FOUR, STORY, 200);
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post(&body)
    };
    let format = json!({ "type": "json_schema", "json_schema": { "name": "book", "strict": true, "schema": schema } });
    let mut texts = Vec::new();
    for extra in [
        json!({ "response_format": format }),
        json!({ "json_schema": schema }),
        json!({ "response_format": format, "stream": true }),
    ] {
        let answer = ask(extra);
        let text = match answer.body.starts_with("data: ") {
            true => answer
                .events()
                .iter()
                .filter(|event| **event != "[DONE]")
                .map(|event| {
                    let event: Value = serde_json::from_str(event).unwrap();
                    event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
                })
                .collect(),
            false => answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned(),
        };
        let book: Value = serde_json::from_str(&text).unwrap();
        assert!(jsonschema::is_valid(&schema, &book), "{book}");
        texts.push(text);
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    let yes = ask(json!({ "grammar": "start: \"yes\" | \"no\"" })).json();
    assert!(["yes", "no"].contains(&yes["choices"][0]["message"]["content"].as_str().unwrap()), "{yes}");
    let refused = ask(json!({ "json_schema": { "not": {} } }));
    assert_eq!(refused.refusal(), (400, "invalid_value".to_owned()));
    assert_eq!(refused.json()["error"]["param"], "json_schema");
    assert!(refused.body.contains("not"), "{}", refused.body);
}
