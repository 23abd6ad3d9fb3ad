//! The hot routines of the CPU device, each as a library with that one operation, on two threads and the best instruction set.
//! Embedding and read-out of one row are part of each figure; they are small.

#[path = "../tests/conformance/build.rs"]
#[allow(dead_code, reason = "the suite uses more of it")]
mod build;

use build::{Builder, Sample, Storage};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use knapsack_artifact::plan::*;
use knapsack_device::{CpuDevice, Device};
use knapsack_tensor::{DType, Layout};
use std::hint::black_box;

fn linear(k: usize, features: usize, storage: Storage, chunk: u32) -> Sample {
    let mut b = Builder::new(chunk, 4096, 1);
    let (input, _) = b.input(k as u32, features as u32);
    let weight = b.matrix(features, k, storage).weight;
    let output = b.rows(features as u32);
    let out_features = features as u32;
    b.push(Op::Linear(Linear { input, weight, out_features, bias: None, epilogue: Epilogue::None, output }));
    b.finish(output)
}

/// 32 heads over 8 of 64, as Llama-3.2-1B.
fn attention(chunk: u32) -> Sample {
    let (heads, kv_heads, head_dim, layer) = (32, 8, 64, 0);
    let mut b = Builder::new(chunk, 4096, 1);
    let (qkv, _) = b.input((heads + 2 * kv_heads) * head_dim, 64);
    b.library.kv_cache.push(KvLayer { kv_heads, head_dim, positions: 4096, window: None, sinks: 0, dtype: DType::F16 });
    let (query, output) = (b.rows(heads * head_dim), b.rows(heads * head_dim));
    b.push(Op::RopeAppend(RopeAppend {
        qkv,
        apart: None,
        order: QkvOrder::Sections,
        heads,
        kv_heads,
        head_dim,
        rotary: 0,
        rope_table: 0,
        query_table: None,
        norm_place: NormPlace::Heads,
        query_norm: None,
        key_norm: None,
        value_norm: None,
        layer,
        query,
    }));
    b.push(Op::Attention(Attention {
        query,
        heads,
        kv_heads,
        head_dim,
        scale: 0.125,
        soft_cap: None,
        layer,
        gate: None,
        output,
    }));
    b.finish(output)
}

fn bench(c: &mut Criterion, name: &str, sample: &Sample, n: u32, position: u32, elements: u64) {
    let mut model = CpuDevice::new().load(sample.library.clone(), sample.folder.path()).expect("load");
    let tokens: Vec<u32> = (0..n).map(|i| i % 64).collect();
    let mut group = c.benchmark_group("cpu");
    group.throughput(Throughput::Bytes(elements)).sample_size(20);
    group.bench_function(name, |b| b.iter(|| model.forward(black_box(&tokens), position).expect("forward")));
    group.finish();
}

fn routines(c: &mut Criterion) {
    let nk = Storage::grouped(4, Layout::Nk, DType::F16);
    let kn = Storage::grouped(4, Layout::Kn, DType::F16);
    let three = Storage::grouped(3, Layout::Nk, DType::F16);
    let half = Storage::Dense(DType::F16);
    for (name, storage) in [("4-bit NK", nk), ("4-bit KN", kn), ("3-bit NK", three), ("float16", half)] {
        let sample = linear(2048, 8192, storage, 128);
        let bytes = sample.library.memory.weights - 4 * 8192 * 2048;
        bench(c, &format!("matvec 8192 x 2048 {name}"), &sample, 1, 0, bytes);
        bench(c, &format!("gemm 128 x 8192 x 2048 {name}"), &sample, 128, 0, bytes);
    }
    bench(c, "quantize 128 x 8192 (and 64 columns)", &linear(8192, 64, nk, 128), 128, 0, 128 * 8192 * 4);
    let sample = attention(128);
    bench(c, "attention 1 token over 2048", &sample, 1, 2047, 2048 * 8 * 64 * 4);
    bench(c, "attention 128 tokens over 2048", &sample, 128, 1920, 2048 * 8 * 64 * 4);
}

criterion_group!(benches, routines);
criterion_main!(benches);
