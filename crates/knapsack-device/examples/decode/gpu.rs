//! The OpenCL device on the same models.

use crate::shapes::write_weights;
use knapsack_artifact::library::Target;
use knapsack_artifact::weight_index::FILE_NAME;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::opencl::{OpenClDevice, OpenClOptions};
use knapsack_device::{Device, LoadedModel};
use knapsack_ir::Windows;
use knapsack_models::ModelConfig;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const CONTEXT: u32 = 4096;
const CHUNK: u32 = 512;
/// Tokens of one measurement, and measurements, of which the median counts.
const TOKENS: u32 = 64;
const RUNS: usize = 5;

/// Prints how fast prompts are read and tokens written, beside how fast the device reads its memory.
pub(crate) fn measure(name: &str, config: &ModelConfig, folder: &Path, chat: &Value) {
    let format = "q4f16_1".parse().expect("format");
    let windows = Windows { context: CONTEXT, sliding: None, sinks: 0, chunk: CHUNK };
    let graph = config.graph(&format, &windows).expect("graph");
    let library = compile(&CompileRequest { graph: &graph, windows, target: Target::OpenCl, name: None });
    let library = Arc::new(library.expect("library"));
    if !folder.join(FILE_NAME).exists() {
        write_weights(&library, folder).expect("weights");
    }
    std::fs::write(folder.join("mlc-chat-config.json"), chat.to_string()).expect("a configuration");
    let device = OpenClDevice::open(OpenClOptions::default()).expect("an OpenCL device");
    let start = Instant::now();
    let mut model = device.load(library.clone(), folder).expect("load");
    let (load, weights) = (start.elapsed().as_secs_f64(), library.memory.weights as f64);
    let read = model.read_bandwidth().expect("bandwidth").expect("of a GPU");
    println!("{}", device.description());
    println!("{name}: {:.1} MB of weights, load {load:.2} s, reads {:.1} GB/s", weights / 1e6, read / 1e9);
    for tokens in [128, 512, 2048] {
        println!("prompt of {tokens}: {:.0} tokens/s", f64::from(tokens) / median(|| prompt(&mut *model, tokens)));
    }
    for position in [0, 2048, 4000] {
        let seconds = median(|| write(&mut *model, position)) / f64::from(TOKENS);
        let cache: f64 = library.kv_cache.iter().map(|layer| f64::from(4 * layer.kv_heads * layer.head_dim)).sum();
        let bytes = weights + cache * f64::from(position + TOKENS / 2);
        let (rate, share) = (1.0 / seconds, 100.0 * bytes / seconds / read);
        println!("token after {position}: {:.3} ms, {rate:.1} tokens/s = {share:.1} % of what is read", 1e3 * seconds);
    }
}

/// Seconds of a prompt with the token that follows it.
fn prompt(model: &mut dyn LoadedModel, tokens: u32) -> f64 {
    let tokens: Vec<u32> = (0..tokens).map(|i| i * 7 % 1000 + 1).collect();
    let start = Instant::now();
    let (mut position, mut last) = (0, 0);
    for part in tokens.chunks(CHUNK as usize) {
        model.forward(part, position).expect("prefill");
        (position, last) = (position + part.len() as u32, part.len() as u32 - 1);
    }
    model.top(last, 1).expect("a token");
    start.elapsed().as_secs_f64()
}

/// Seconds of tokens from a position on, each of which is the most likely one.
fn write(model: &mut dyn LoadedModel, position: u32) -> f64 {
    let start = Instant::now();
    let mut token = 1;
    for position in position..position + TOKENS {
        model.forward(&[token], position).expect("decode");
        token = model.top(0, 1).expect("a token").first().map_or(1, |found| found.0);
    }
    start.elapsed().as_secs_f64()
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    run();
    let mut times: Vec<f64> = (0..RUNS).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}
