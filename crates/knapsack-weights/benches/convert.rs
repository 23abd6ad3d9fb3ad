//! The quantizer alone, on one thread: bytes of bfloat16 weights per second for each format.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use knapsack_tensor::{DType, Layout, QUANTIZATIONS};
use knapsack_weights::element::{Bf16, F16, F32};
use knapsack_weights::quantize::{Quantized, Scratch, quantize_rows};
use std::hint::black_box;

fn quantize(c: &mut Criterion) {
    let (rows, k) = (256, 2048);
    // Weights of a plausible size, all different.
    let value = |i: usize| ((i as f32 * 0.618_034).fract() - 0.5) * 0.08;
    let source: Vec<u8> = (0..rows * k).flat_map(|i| half::bf16::from_f32(value(i)).to_le_bytes()).collect();
    let mut group = c.benchmark_group("quantize");
    group.throughput(Throughput::Bytes(source.len() as u64));
    for quantization in QUANTIZATIONS {
        let Some(format) = quantization.linear().filter(|format| format.layout == Layout::Nk) else { continue };
        let mut codes = vec![0; rows * format.words(k as u64) as usize];
        let mut scales = vec![0.0; rows * format.groups(k as u64) as usize];
        let mut scratch = Scratch::default();
        group.bench_function(quantization.name, |bencher| {
            bencher.iter(|| {
                let mut out = Quantized { codes: &mut codes, scales: &mut scales };
                let source = black_box(&source);
                match quantization.model_dtype {
                    DType::F16 => quantize_rows::<Bf16, F16>(&format, k, source, &mut scratch, &mut out),
                    DType::BF16 => quantize_rows::<Bf16, Bf16>(&format, k, source, &mut scratch, &mut out),
                    _ => quantize_rows::<Bf16, F32>(&format, k, source, &mut scratch, &mut out),
                }
                black_box(&codes);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, quantize);
criterion_main!(benches);
