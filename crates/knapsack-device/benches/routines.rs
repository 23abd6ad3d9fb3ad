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

/// Of a cache.
const POSITIONS: u32 = 8192;

fn linear(k: usize, features: usize, storage: Storage, chunk: u32) -> Sample {
    let mut b = Builder::new(chunk, 4096, 1);
    let (input, _) = b.input(k as u32, features as u32);
    let weight = b.matrix(features, k, storage).weight;
    let output = b.rows(features as u32);
    let out_features = features as u32;
    b.push(Op::Linear(Linear { input, weight, out_features, bias: None, epilogue: Epilogue::None, output }));
    b.finish(output)
}

/// `heads` over 8, as Llama-3.2-1B (32 of 64) and Qwen3-0.6B (16 of 128).
fn attention((heads, head_dim): (u32, u32), chunk: u32) -> Sample {
    let (kv_heads, layer) = (8, 0);
    let mut b = Builder::new(chunk, POSITIONS, 1);
    let (qkv, _) = b.input((heads + 2 * kv_heads) * head_dim, heads * head_dim);
    b.library.kv_cache.push(KvLayer {
        kv_heads,
        head_dim,
        positions: POSITIONS,
        window: None,
        sinks: 0,
        dtype: DType::F16,
    });
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
        scale: (head_dim as f32).powf(-0.5),
        soft_cap: None,
        layer,
        gate: None,
        output,
    }));
    b.finish(output)
}

/// `sample` is made when the benchmark is among those asked for.
fn bench(c: &mut Criterion, name: &str, sample: impl Fn() -> Sample, n: u32, position: u32, bytes: u64) {
    let tokens: Vec<u32> = (0..n).map(|i| i % 64).collect();
    let mut group = c.benchmark_group("cpu");
    group.throughput(Throughput::Bytes(bytes)).sample_size(20);
    let mut model = None;
    group.bench_function(name, |b| {
        let (_, model) = model.get_or_insert_with(|| {
            let sample = sample();
            let model = CpuDevice::new().load(sample.library.clone(), sample.folder.path()).expect("load");
            (sample, model)
        });
        b.iter(|| model.forward(black_box(&tokens), position).expect("forward"));
    });
    group.finish();
}

fn routines(c: &mut Criterion) {
    let weights = 8192 * 2048;
    for (name, storage, bytes) in [
        ("4-bit NK", Storage::grouped(4, Layout::Nk, DType::F16), weights / 16 * 9),
        ("4-bit KN", Storage::grouped(4, Layout::Kn, DType::F16), weights / 16 * 9),
        ("3-bit NK", Storage::grouped(3, Layout::Nk, DType::F16), weights / 20 * 9),
        ("float16", Storage::Dense(DType::F16), weights * 2),
    ] {
        let sample = |chunk| move || linear(2048, 8192, storage, chunk);
        for n in [1, 2, 16, 128] {
            bench(c, &format!("8192 x 2048 {name}, {n} tokens"), sample(128), n, 0, bytes);
        }
    }
    let nk = Storage::grouped(4, Layout::Nk, DType::F16);
    bench(c, "quantize 128 x 8192 (and 64 columns)", || linear(8192, 64, nk, 128), 128, 0, 128 * 8192 * 4);
    for (heads, dim) in [(32, 64), (16, 128)] {
        let bytes = |positions: u64| positions * 8 * u64::from(dim) * 4;
        for (n, position) in [(1, 2047), (1, POSITIONS - 1), (128, 1920)] {
            let name = format!("attention {heads} x {dim}, {n} tokens from {position} on");
            bench(c, &name, || attention((heads, dim), 128), n, position, bytes(u64::from(position + n)));
        }
    }
}

criterion_group!(benches, routines);
criterion_main!(benches);
