//! Two real models, a manager whose budget holds one: requests in turn load and evict each time, the answers stay right, and
//! what is evicted is gone from the process at once, by the system's own figures.
//!
//! A binary with one test: other tests in the process would disturb the figures.

mod support;

use knapsack_device::CpuDevice;
use knapsack_runtime::manager::{Acquire, Event, EvictionReason, Manager};
use knapsack_runtime::text::{Message, Role};
use knapsack_runtime::{CancelFlag, GenerateOptions, Package, PackageLoader, SamplingOptions};
use knapsack_testkit::tiny_assistant;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use support::Sandbox;

const HIDDEN: usize = 512;
const INTERMEDIATE: usize = 2048;
const LAYERS: usize = 8;
const VOCABULARY: usize = 1024;
const MIB: u64 = 1 << 20;

/// A checkpoint with random weights, 62 MB in float16, the tokenizer of the trained example.
fn checkpoint(folder: &Path, seed: u64) {
    fs::create_dir(folder).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::copy(tiny_assistant().join(name), folder.join(name)).unwrap();
    }
    let config = fs::read(tiny_assistant().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["hidden_size"] = json!(HIDDEN);
    config["intermediate_size"] = json!(INTERMEDIATE);
    config["num_hidden_layers"] = json!(LAYERS);
    config["num_attention_heads"] = json!(HIDDEN / 64);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();

    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[HIDDEN]);
        add("post_attention_layernorm", &[HIDDEN]);
        for (name, rows) in [("q_proj", HIDDEN), ("k_proj", 128), ("v_proj", 128), ("o_proj", HIDDEN)] {
            add(&format!("self_attn.{name}"), &[rows, HIDDEN]);
        }
        add("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]);
        add("mlp.up_proj", &[INTERMEDIATE, HIDDEN]);
        add("mlp.down_proj", &[HIDDEN, INTERMEDIATE]);
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    write_safetensors(&folder.join("model.safetensors"), &tensors, seed);
}

/// Small random numbers in float16.
fn write_safetensors(path: &Path, tensors: &[(String, Vec<usize>)], seed: u64) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] }));
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut file = std::io::BufWriter::new(fs::File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let mut state = seed | 1;
    for _ in 0..end / 2 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Sign and mantissa at random, exponents of 2^-6 to 2^-3.
        let bits = (state >> 40) as u16;
        let value = (bits & 0x83ff) | (9 + ((bits >> 10) & 3)) << 10;
        file.write_all(&value.to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}

/// Resident bytes of files and of anonymous memory. `None`, said aloud, where the system does not tell.
fn resident() -> Option<(u64, u64)> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let figure = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    Some((figure("RssFile:")?, figure("RssAnon:")?))
}

#[test]
fn models_in_turn_are_right_and_evicted_ones_are_gone() {
    let sandbox = Sandbox::new();
    let ids = ["one", "two"];
    for (seed, id) in ids.iter().enumerate() {
        checkpoint(&sandbox.path(id), seed as u64 + 7);
    }
    let entry = |id: &&str| json!({ "model": id, "model_id": id, "quantization": "q0f16", "bundle_weight": true });
    let models: Vec<Value> = ids.iter().map(entry).collect();
    let dist = sandbox.package(&json!({ "device": "iphone", "model_list": models }), |_| ());
    let alone = ids.map(|id| sandbox.alone(&dist, id, "Hello", 12));
    assert_ne!(alone[0], alone[1]);

    let package = Package::open(&dist).unwrap();
    let plan = package.model(Some("one")).unwrap().planned_memory.unwrap();
    assert!(plan.weights > 50 * MIB, "{plan:?}");
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = events.clone();
    let before_listening = resident();
    let listener = Box::new(move |event: &Event<'_>| {
        // Looked at the moment that the eviction is told, before the other model is loaded.
        if let Event::Evicted { model_id, bytes, reason } = event {
            heard.lock().unwrap().push(((*model_id).to_owned(), *bytes, *reason, resident()));
        }
    });
    let loader = PackageLoader::new(package, Box::new(CpuDevice::new()), None);
    let manager = Manager::new(loader, plan.total + plan.total / 2, Some(listener));
    let options = GenerateOptions { max_tokens: Some(12), ..GenerateOptions::new(SamplingOptions::GREEDY) };
    let mut loaded = Vec::new();
    for round in 0..4 {
        for (id, expected) in ids.iter().zip(&alone) {
            let handle = manager.acquire(id, &Acquire::default()).unwrap();
            let messages = [Message::new(Role::User, "Hello")];
            let answer = handle.lock().answer(&messages, &options, &CancelFlag::new(), &mut |_| ()).unwrap();
            assert_eq!(answer.text.trim_end_matches('\n'), expected, "round {round}");
            assert_eq!(manager.used(), plan.total);
            loaded.push(resident());
        }
    }
    assert!(manager.unload("two").unwrap());
    let events = std::mem::take(&mut *events.lock().unwrap());
    assert_eq!(events.len(), 8);
    for (index, (id, bytes, reason, _)) in events.iter().enumerate() {
        let expected = if index == 7 { EvictionReason::Unloaded } else { EvictionReason::Room };
        assert_eq!((id.as_str(), *bytes, *reason), (ids[index % 2], plan.total, expected));
    }

    let (Some((files, anonymous)), Some(_)) = (before_listening, loaded[0]) else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: this system does not tell what is resident of files");
        return;
    };
    for ((loaded, (.., evicted)), index) in loaded.iter().zip(&events).zip(0..) {
        let ((loaded_files, loaded_anonymous), (left_files, left_anonymous)) = (loaded.unwrap(), evicted.unwrap());
        // Every weight was read, from where it is mapped: the model's bytes are there, in files and not in memory of our own.
        assert!(
            loaded_files.saturating_sub(files) > plan.weights / 4 * 3,
            "load {index}: {loaded_files}, {files} before"
        );
        assert!(loaded_anonymous.saturating_sub(anonymous) < plan.weights / 2, "load {index}: {loaded_anonymous}");
        // And gone with the eviction. What may stay is code that was touched meanwhile, and the allocator's small change.
        assert!(left_files.saturating_sub(files) < plan.weights / 4, "eviction {index}: {left_files}, {files} before");
        assert!(left_anonymous.saturating_sub(anonymous) < plan.weights / 4, "eviction {index}: {left_anonymous}");
    }
}
