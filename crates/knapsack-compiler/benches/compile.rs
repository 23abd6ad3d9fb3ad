//! Time to compile Llama-3.2-3B q4f16_1 from its configuration, and to choose its sizes for a budget.

use criterion::{Criterion, criterion_group, criterion_main};
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, GivenSizes, Own, choose, compile, plan};
use knapsack_ir::Windows;
use knapsack_models::ModelConfig;

fn benches(criterion: &mut Criterion) {
    let folder = knapsack_testkit::catalogue("Llama-3.2-3B-Instruct-q4f16_1");
    let text = std::fs::read(folder.join("mlc-chat-config.json")).expect("the catalogue is there");
    let read = || ModelConfig::from_mlc(&serde_json::from_slice(&text).expect("JSON")).expect("a configuration");
    let quantization = "q4f16_1".parse().expect("a format");
    let windows = Windows { context: 2048, sliding: None, sinks: 0, chunk: 128 };
    for (name, target) in [("host", Target::Host), ("opencl", Target::OpenCl), ("metal", Target::Metal)] {
        criterion.bench_function(&format!("configuration to library, {name}"), |bencher| {
            bencher.iter(|| {
                let graph = read().graph(&quantization, &windows).expect("a graph");
                compile(&CompileRequest { graph: &graph, windows, target, name: None }).expect("a library").encode()
            });
        });
    }
    let config = read();
    criterion.bench_function("plan", |bencher| {
        let graph = config.graph(&quantization, &windows).expect("a graph");
        bencher.iter(|| plan(&graph, &windows).expect("a plan"));
    });
    criterion.bench_function("choose for 3 GB", |bencher| {
        let own = Own { windows: config.own_windows(), trained: None, beside: 0 };
        let graph = |windows: &Windows| config.graph(&quantization, windows);
        bencher.iter(|| choose(&own, &GivenSizes::default(), Some(3_000_000_000), graph).expect("sizes"));
    });
}

criterion_group!(compile_benches, benches);
criterion_main!(compile_benches);
