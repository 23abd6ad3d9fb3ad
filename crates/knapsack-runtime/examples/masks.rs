//! What a form of the answer costs on a model of a real shape: the same greedy answer free and held to forms, in turns.
//!
//! ```text
//! cargo run --release -p knapsack-device --example decode -- llama-1b FOLDER
//! cp tokenizer.json FOLDER              # one of as many tokens as the model has, such as Llama 3's
//! cargo run --release -p knapsack-runtime --example masks -- FOLDER [TOKENS]
//! ```
//! Times are those of decoding, for each token that was computed, by the clock and by all threads of this process; the least of
//! several rounds, because other work on the machine only ever adds time.

use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::{CpuDevice, Device};
use knapsack_models::ModelConfig;
use knapsack_runtime::{CancelFlag, ChatModel, Engine, GenerateOptions, Grammar, SamplingOptions, Session};
use std::path::PathBuf;
use std::sync::Arc;

const ROUNDS: usize = 4;

/// Seconds that all threads of this process have been on a processor, where the system says so.
fn on_cpu() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let seconds = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    seconds.sum::<f64>() / 1e9
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("a folder with weights and a tokenizer"));
    let tokens: u32 = arguments.next().map_or(64, |count| count.parse().expect("a number of tokens"));
    let chat = std::fs::read(folder.join("mlc-chat-config.json")).expect("mlc-chat-config.json");
    let chat = serde_json::from_slice(&chat).expect("JSON");
    let config = ModelConfig::from_mlc(&chat).expect("a configuration");
    let windows = config.own_windows();
    let graph = config.graph(&"q4f16_1".parse().expect("a format"), &windows).expect("a graph");
    let library = compile(&CompileRequest { graph: &graph, windows, target: Target::Host, name: None });
    let library = Arc::new(library.expect("a library"));
    let text = ChatModel::open(&folder, library.model.vocab_size).expect("a tokenizer");
    let model = CpuDevice::new().load(library, &folder).expect("weights");
    let mut engine = Engine::new(Session::new(model), Arc::new(text));

    let object =
        serde_json::json!({ "type": "object", "additionalProperties": { "type": "string" }, "minProperties": 1 });
    let forms = [
        ("free", None),
        ("anything", Some(Grammar::Regex("(?s:.*)".into()))),
        ("text in JSON", Some(Grammar::JsonSchema(serde_json::json!({ "type": "string" })))),
        ("an object", Some(Grammar::JsonSchema(object))),
        ("numbers", Some(Grammar::Regex("([0-9]{2} )+".into()))),
    ];
    let mut best = [[f64::INFINITY; 2]; 5];
    for round in 0..=ROUNDS {
        for ((_, grammar), best) in forms.iter().zip(&mut best) {
            let options = GenerateOptions {
                grammar: grammar.clone(),
                max_tokens: Some(tokens),
                ignore_stops: true,
                ..GenerateOptions::new(SamplingOptions::GREEDY)
            };
            engine.reset();
            let before = on_cpu();
            let answer = engine.generate(&[1, 2, 3, 4], &options, &CancelFlag::new(), &mut |_| ()).expect("an answer");
            let (clock, steps) = (answer.stats.decode_time.as_secs_f64(), answer.stats.decode_steps.max(1) as f64);
            // The first round orders the vocabulary and warms the caches.
            if round > 0 {
                *best = [best[0].min(clock / steps), best[1].min((on_cpu() - before) / steps)];
            }
        }
    }
    for ((name, _), [clock, cpu]) in forms.iter().zip(best) {
        println!(
            "{name:13} {:7.2} ms a token ({:+5.1} %), {:7.2} ms of processors ({:+5.1} %)",
            clock * 1e3,
            (clock / best[0][0] - 1.0) * 100.0,
            cpu * 1e3,
            (cpu / best[0][1] - 1.0) * 100.0
        );
    }
}
