//! Full-size and fixture configurations through the compiler: parameters as the reference reports them, memory to the byte.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile, plan};
use knapsack_ir::{Windows, verify};
use knapsack_models::ModelConfig;
use knapsack_tensor::Quantization;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn read(folder: &Path) -> (ModelConfig, Quantization) {
    let chat = json(&folder.join("mlc-chat-config.json"));
    let quantization = chat["quantization"].as_str().unwrap().parse().unwrap();
    (ModelConfig::from_mlc(&chat).unwrap(), quantization)
}

fn library(config: &ModelConfig, quantization: &Quantization, windows: Windows, target: Target) -> ModelLibrary {
    let graph = config.graph(quantization, &windows).unwrap();
    verify(&graph).unwrap();
    compile(&CompileRequest { graph: &graph, windows, target, name: None }).unwrap()
}

#[test]
fn every_fixture_compiles_for_every_target() {
    for model in knapsack_testkit::fixtures() {
        for quantization in model.quantizations {
            let (config, quantization) = read(&knapsack_testkit::mlc_fixture(model.family, quantization));
            for target in [Target::Host, Target::Metal, Target::OpenCl] {
                let library = library(&config, &quantization, config.own_windows(), target);
                assert_eq!(library.kernels.is_some(), target != Target::Host);
                assert_eq!(ModelLibrary::decode(&library.encode()).unwrap(), library);
                assert!(library.name.starts_with(&format!("{}_{}_", model.family, quantization.name)));
            }
        }
    }
}

/// Names, shapes and dtypes that `mlc_llm compile` reported, `vocab_size` put in.
fn reported(params: &Value, vocab: u64) -> BTreeMap<String, (Vec<u64>, String)> {
    let shape = |dims: &Value| dims.as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap_or(vocab)).collect();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list = params["params"].as_array().unwrap().iter();
    list.map(|entry| (text(&entry[0]), (shape(&entry[1]), text(&entry[2])))).collect()
}

#[test]
fn parameters_are_the_reference_s() {
    for (name, bytes) in [
        ("Llama-3.2-3B-Instruct-q4f16_1", 1_807_423_488),
        ("Qwen3-0.6B-q0f16", 1_192_099_840),
        ("Qwen3-1.7B-q4f16_1", 968_001_536),
        ("gemma-2-2b-it-q4f16_1", 1_470_915_072),
        ("Mistral-7B-Instruct-v0.3-q4f16_1", 4_077_395_968u64),
    ] {
        let folder = knapsack_testkit::catalogue(name);
        let (config, quantization) = read(&folder);
        let params = json(&folder.join("params.json"));
        let size = |key: &str| params[key].as_i64().and_then(|size| u32::try_from(size).ok());
        let windows = Windows {
            context: size("context_window_size").unwrap(),
            sliding: size("sliding_window_size"),
            sinks: size("attention_sink_size").unwrap_or(4),
            chunk: size("prefill_chunk_size").unwrap(),
        };
        let library = library(&config, &quantization, windows, Target::Host);
        let found: BTreeMap<_, _> =
            library.parameters.iter().map(|p| (p.name.clone(), (p.shape.clone(), p.dtype.name().to_owned()))).collect();
        assert_eq!(found, reported(&params, config.vocab.into()), "{name}");
        assert_eq!(library.memory.weights, bytes, "{name}");
        assert_eq!(plan(&config.graph(&quantization, &windows).unwrap(), &windows), Ok(library.memory), "{name}");
        println!(
            "{name}: workspace {} bytes (the reference: {} temporary bytes), KV cache {} bytes",
            library.memory.workspace, params["_temp_bytes"], library.memory.kv_cache
        );
    }
}
