//! Speed of the CPU device on models of real shapes with made-up weights, beside the memory bandwidth measured in the same run.
//!
//! ```text
//! cargo run --release -p knapsack-device --example decode -- SHAPE [FOLDER] [all | workloads THREADS | opencl]
//! ```
//! Shapes: llama-1b, llama-8b, qwen3-0.6b, qwen3.5-0.8b, lfm3-1.7b, gemma-4-e2b. With `opencl` the OpenCL device is measured instead.
//! With `all` every instruction set of this processor is measured, not only the best. `workloads THREADS` in its place measures what
//! `cargo xtask bench --peer` compares, and prints it as JSON.
//!
//! Then how long the logits take, all and of a few scattered tokens, by the calling thread's time on one thread.
//!
//! Writes the weights and the model's configuration into FOLDER (default: a folder of the system's temporary one) and leaves them there for the next run.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_artifact::weight_index::FILE_NAME;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::{Account, CpuDevice, Device, Folder, Isa, LoadedModel, Part, Region, Weights, read_bandwidth};
use knapsack_ir::Windows;
use knapsack_models::ModelConfig;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

mod gpu;
mod shapes;

use shapes::{shape, write_weights};

/// Measurements of the bandwidth, of which the best counts.
const PASSES: usize = 5;

/// Seconds that this thread has been on a processor, where the system says so.
fn on_cpu() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

/// The fastest of several runs, by the clock and by this thread's time on a processor: other work on the machine only ever
/// adds time.
fn fastest(runs: usize, mut run: impl FnMut()) -> [f64; 2] {
    let mut best = [f64::INFINITY; 2];
    for _ in 0..runs {
        let (start, cpu) = (Instant::now(), on_cpu());
        run();
        best[0] = best[0].min(start.elapsed().as_secs_f64());
        if let (Some(before), Some(after)) = (cpu, on_cpu()) {
            best[1] = best[1].min(after - before);
        }
    }
    best
}

/// Tokens per second of prefill and decode, by the clock and by the calling thread's time.
fn measure(model: &mut dyn LoadedModel, vocab: usize) -> [[f64; 2]; 2] {
    let chunk: Vec<u32> = (0..128).map(|i| i * 7 % 1000).collect();
    let mut logits = vec![0.0; vocab];
    let prefill = fastest(4, || model.forward(&chunk, 0).expect("prefill"));
    let mut position = 128;
    let decode = fastest(24, || {
        model.forward(&[position % 1000], position).expect("decode");
        model.logits(0, &mut logits).expect("logits");
        position += 1;
    });
    assert!(logits.iter().all(|x| x.is_finite()));
    [prefill.map(|seconds| 128.0 / seconds), decode.map(|seconds| 1.0 / seconds)]
}

/// Share of each operation of the time that a decoded token takes, its logits included: of the fastest of several runs of each launch.
fn operations(model: &mut dyn LoadedModel, vocab: usize) -> Vec<(&'static str, f64)> {
    let library = model.library().clone();
    let mut best = vec![f64::INFINITY; library.decode.launches.len()];
    let mut logits = vec![0.0; vocab];
    let mut head = f64::INFINITY;
    for position in 200..216 {
        let moments = std::sync::Mutex::new(Vec::with_capacity(best.len() + 1));
        let note = || {
            moments.lock().expect("one thread").push(Instant::now());
            true
        };
        model.forward_while(&[position % 1000], position, &note).expect("decode");
        note();
        let moments = moments.into_inner().expect("one thread");
        for (best, pair) in best.iter_mut().zip(moments.windows(2)) {
            *best = best.min((pair[1] - pair[0]).as_secs_f64());
        }
        let start = Instant::now();
        model.logits(0, &mut logits).expect("logits");
        head = head.min(start.elapsed().as_secs_f64());
    }
    let mut sums = std::collections::BTreeMap::from([("head", head)]);
    for (launch, seconds) in library.decode.launches.iter().zip(&best) {
        *sums.entry(launch.op.name()).or_default() += seconds;
    }
    let total: f64 = sums.values().sum();
    sums.into_iter().map(|(name, seconds)| (name, seconds / total)).collect()
}

const CALLS: u32 = 50;

/// Milliseconds of the head for all tokens, and for each of these shares of them. Many calls are one measurement: the system
/// counts a thread's time in ticks of some milliseconds.
fn few(model: &mut dyn LoadedModel, vocab: usize) -> (f64, Vec<(usize, f64)>) {
    let mut logits = vec![0.0; vocab];
    model.forward(&[1], 0).expect("decode");
    let mut head = |tokens: Option<&[u32]>| {
        let calls = || {
            for _ in 0..CALLS {
                match tokens {
                    None => model.logits(0, &mut logits),
                    Some(tokens) => model.logits_of(0, tokens, &mut logits),
                }
                .expect("logits");
            }
        };
        fastest(6, calls)[1] * 1e3 / f64::from(CALLS)
    };
    let all = head(None);
    let shares = [16, 32, 64, 256, 4096, 65_536].map(|share| {
        let tokens: Vec<u32> = (0..vocab as u32).step_by(share).collect();
        (tokens.len(), head(Some(&tokens)))
    });
    (all, shares.to_vec())
}

/// Seconds of prompts of several lengths, and of a token after 128 and after 2,048 others: medians, as the peer's side measures them.
fn workloads(device: &CpuDevice, library: &Arc<ModelLibrary>, folder: &Path) -> Value {
    let start = Instant::now();
    let mut model = device.load(library.clone(), folder).expect("load");
    let mut times = json!({"load": start.elapsed().as_secs_f64()});
    let mut logits = vec![0.0; library.model.vocab_size as usize];
    let tokens: Vec<u32> = (0..2048).map(|i| i * 7 % 1000 + 1).collect();
    let chunk = library.model.prefill_chunk_size as usize;
    let mut prompt = |tokens: &[u32], mut position: u32| {
        let start = Instant::now();
        for part in tokens.chunks(chunk) {
            model.forward(part, position).expect("prefill");
            position += part.len() as u32;
        }
        model.logits((tokens.len() - 1) as u32 % chunk as u32, &mut logits).expect("logits");
        start.elapsed().as_secs_f64()
    };
    let median = |mut list: Vec<f64>| {
        list.sort_by(f64::total_cmp);
        list[list.len() / 2]
    };
    prompt(&tokens[..16], 0);
    for (n, runs) in [(2, 7), (4, 7), (8, 7), (16, 7), (128, 3), (2048, 1)] {
        times[format!("prompt {n}")] = median((0..runs).map(|_| prompt(&tokens[..n], 0)).collect()).into();
        if n == 128 {
            times["token"] = median((0..31).map(|i| prompt(&[1], 128 + i)).collect()).into();
        }
    }
    times["token after 2048"] = median((0..21).map(|i| prompt(&[1], 2048 + i)).collect()).into();
    times
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "llama-1b".to_owned());
    let chat = shape(&name).unwrap_or_else(|| panic!("`{name}`: none of the shapes"));
    let folder = arguments.next().map_or_else(|| std::env::temp_dir().join(format!("knapsack-{name}")), PathBuf::from);
    let config = ModelConfig::from_mlc(&chat).expect("configuration");
    let quantization = "q4f16_1".parse().expect("format");
    let compared = (arguments.next(), arguments.next());
    let compared = match (compared.0.as_deref(), compared.1) {
        (Some("opencl"), _) => return gpu::measure(&name, &config, &folder, &chat),
        (Some("workloads"), threads) => {
            Ok(threads.and_then(|threads| threads.parse().ok()).expect("a number of threads"))
        }
        (other, _) => Err(other == Some("all")),
    };
    let (context, chunk) = if compared.is_ok() { (4096, 512) } else { (2048, 128) };
    let windows = Windows { context, sliding: None, sinks: 0, chunk };
    let graph = config.graph(&quantization, &windows).expect("graph");
    let library = compile(&CompileRequest { graph: &graph, windows, target: Target::Host, name: None });
    let library = Arc::new(library.expect("library"));
    if !folder.join(FILE_NAME).exists() {
        write_weights(&library, &folder).expect("weights");
    }
    std::fs::write(folder.join("mlc-chat-config.json"), chat.to_string()).expect("a configuration");
    let all = match compared {
        Ok(threads) => {
            let device = CpuDevice::with(Isa::best(), threads).expect("available");
            println!("{}", workloads(&device, &library, &folder));
            return;
        }
        Err(all) => all,
    };
    // Of the two copies of a state that are planned one is used; a token reads it and writes it.
    let (weights, state) = (library.memory.weights, library.memory.state);
    let bytes = weights + state;
    println!("{name}: {:.1} MB of weights, {:.1} of state read and written", weights as f64 / 1e6, state as f64 / 1e6);

    let account = Account::default();
    let weights = Weights::open(&library, &Folder::new(&folder), &account, &()).expect("weights");
    weights.prefetch(&()).expect("not interrupted");
    let mapped: Vec<&[u8]> =
        (0..library.parameters.len()).map(|id| weights.get(knapsack_artifact::plan::ParameterId(id as u32))).collect();
    let mut anonymous = Region::new(&account, Part::Workspace, 512 << 20).expect("memory");
    anonymous.bytes_mut().fill(1);
    for threads in [1, 2] {
        println!(
            "read bandwidth, {threads} threads: {:.1} GB/s mapped weights, {:.1} GB/s huge pages",
            read_bandwidth(&mapped, threads, PASSES) / 1e9,
            read_bandwidth(&[anonymous.bytes()], threads, PASSES) / 1e9
        );
    }
    let limit = read_bandwidth(&mapped, 2, PASSES).max(read_bandwidth(&[anonymous.bytes()], 2, PASSES)) / 1e9;
    drop(anonymous);

    let sets = if all { Isa::available() } else { vec![Isa::best()] };
    for isa in sets {
        for threads in [1, 2] {
            let device = CpuDevice::with(isa, threads).expect("available");
            let start = Instant::now();
            let mut model = device.load(library.clone(), &folder).expect("load");
            let load = start.elapsed().as_secs_f64();
            let [[prefill, prefill_cpu], [decode, decode_cpu]] =
                measure(&mut *model, library.model.vocab_size as usize);
            println!(
                "{isa:12} {threads} threads: load {load:.3} s, prefill {prefill:6.1} tokens/s ({prefill_cpu:.1} of the main thread's time), decode {decode:5.1} ({decode_cpu:.1}) tokens/s = {:4.1} GB/s = {:2.0} % of {limit:.1}",
                decode * bytes as f64 / 1e9,
                decode * bytes as f64 / 1e9 / limit * 100.0
            );
        }
        let mut model = CpuDevice::with(isa, 1).and_then(|device| device.load(library.clone(), &folder)).expect("load");
        let shares = operations(&mut *model, library.model.vocab_size as usize);
        let shares: Vec<String> = shares.iter().map(|(name, share)| format!("{name} {:.1} %", 100.0 * share)).collect();
        println!("{isa:12} of a token's time: {}", shares.join(", "));
        let (all, shares) = few(&mut *model, library.model.vocab_size as usize);
        let shares: Vec<String> = shares.iter().map(|(tokens, time)| format!("{tokens}: {time:.2} ms")).collect();
        println!("{isa:12} logits of all {all:.2} ms, of {}", shares.join(", "));
    }
}
