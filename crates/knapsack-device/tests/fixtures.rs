//! Whole models: every fixture in every quantization against the reference's logits, in one chunk, in small ones, and token by
//! token. Names the devices and instruction sets that it exercised.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::{CpuDevice, Device, Isa, LoadedModel, ReferenceDevice};
use knapsack_ir::Windows;
use knapsack_models::ModelConfig;
use knapsack_testkit::{ReferenceSequence, fixtures, mlc_fixture, reference_logits};
use std::path::Path;
use std::sync::Arc;

/// How a call's tokens are cut.
const CHUNKS: [u32; 4] = [128, 16, 4, 1];

fn library(folder: &Path, chunk: u32) -> Arc<ModelLibrary> {
    let chat = std::fs::read_to_string(folder.join("mlc-chat-config.json")).unwrap();
    let chat: serde_json::Value = serde_json::from_str(&chat).unwrap();
    let config = ModelConfig::from_mlc(&chat).unwrap();
    let quantization = chat["quantization"].as_str().unwrap().parse().unwrap();
    // The reference's mistral has a plain window; the MLC configuration keeps 4 sinks.
    let own = config.own_windows();
    // MLC's gemma2 configuration has the window as its context; the reference's sequences are longer.
    let context = if own.sliding.is_none() { own.context.max(CHUNKS[0]) } else { own.context };
    let windows = Windows { context, chunk: chunk.min(context), sinks: 0, ..own };
    let graph = config.graph(&quantization, &windows).unwrap();
    Arc::new(compile(&CompileRequest { graph: &graph, windows, target: Target::Host, name: None }).unwrap())
}

/// All logits of a sequence, row after row.
fn run(model: &mut dyn LoadedModel, tokens: &[i32], chunk: u32, vocab: usize) -> Vec<f32> {
    let tokens: Vec<u32> = tokens.iter().map(|&token| token as u32).collect();
    let mut logits = Vec::new();
    for (index, part) in tokens.chunks(chunk as usize).enumerate() {
        model.forward(part, index as u32 * chunk).unwrap();
        for row in 0..part.len() {
            let mut one = vec![0.0; vocab];
            model.logits(row as u32, &mut one).unwrap();
            logits.extend(one);
        }
    }
    logits
}

fn root_mean_square(values: impl ExactSizeIterator<Item = f32>) -> f64 {
    let count = values.len() as f64;
    (values.map(|x| f64::from(x) * f64::from(x)).sum::<f64>() / count).sqrt()
}

/// Relative root mean square error, largest absolute error.
fn errors(actual: &[f32], expected: &[f32]) -> (f64, f32) {
    assert_eq!(actual.len(), expected.len());
    let difference = actual.iter().zip(expected).map(|(a, b)| a - b);
    let largest = actual.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    (root_mean_square(difference) / root_mean_square(expected.iter().copied()), largest)
}

fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(index, _)| index)
}

/// The same winner wherever the reference's top two differ by more than six times the error.
fn assert_same_winners(actual: &[f32], expected: &ReferenceSequence, error: f64, what: &str) {
    let mut decided = 0;
    for (a, e) in actual.chunks_exact(expected.vocab).zip(expected.logits.chunks_exact(expected.vocab)) {
        let winner = argmax(e);
        let second = e.iter().enumerate().filter(|(i, _)| *i != winner).map(|(_, &x)| x).fold(f32::MIN, f32::max);
        if f64::from(e[winner] - second) > 6.0 * error {
            assert_eq!(argmax(a), winner, "{what}");
            decided += 1;
        }
    }
    eprintln!("    {what}: {decided} of {} rows have a clear winner", expected.tokens.len());
}

fn every_case(mut check: impl FnMut(&str, &Path, Arc<ModelLibrary>, u32, &[ReferenceSequence])) {
    for fixture in fixtures() {
        for quantization in fixture.quantizations {
            let folder = mlc_fixture(fixture.family, quantization);
            let sequences = reference_logits(fixture.family, Some(quantization));
            for chunk in CHUNKS {
                let name = format!("{} {quantization} chunk {chunk}", fixture.family);
                let library = library(&folder, chunk);
                let chunk = library.model.prefill_chunk_size;
                check(&name, &folder, library, chunk, &sequences);
            }
        }
    }
}

#[test]
fn the_reference_device_agrees_with_the_reference_logits() {
    every_case(|name, folder, library, chunk, sequences| {
        let mut model = ReferenceDevice.load(library, folder).unwrap();
        for sequence in sequences {
            let logits = run(&mut *model, &sequence.tokens, chunk, sequence.vocab);
            let (relative, largest) = errors(&logits, &sequence.logits);
            assert!(largest <= 2e-3, "{name}, {} tokens: {largest} ({relative:.2e})", sequence.tokens.len());
        }
    });
}

#[test]
fn the_cpu_device_agrees_with_the_reference_logits() {
    for isa in Isa::available() {
        let device = CpuDevice::with(isa, 2).unwrap();
        let mut worst = (0.0, String::new());
        every_case(|name, folder, library, chunk, sequences| {
            let plan = library.memory;
            let mut model = device.load(library, folder).unwrap();
            assert_eq!(model.memory(), plan, "{name}");
            // Quantized activations, or only another order of sums and a cache in float16.
            let bound = if name.contains(" q0") { 5e-3 } else { 0.03 };
            let mut rows = (Vec::new(), Vec::new());
            for sequence in sequences {
                let logits = run(&mut *model, &sequence.tokens, chunk, sequence.vocab);
                rows.0.extend_from_slice(&logits);
                rows.1.extend_from_slice(&sequence.logits);
                if chunk > 16 {
                    let (relative, _) = errors(&logits, &sequence.logits);
                    let absolute = relative * root_mean_square(sequence.logits.iter().copied());
                    assert_same_winners(&logits, sequence, absolute, &format!("{isa} {name}"));
                }
            }
            let (relative, _) = errors(&rows.0, &rows.1);
            assert!(relative <= bound, "{isa}, {name}: {relative:.4} of the root mean square");
            if relative > worst.0 {
                worst = (relative, name.to_owned());
            }
        });
        eprintln!("exercised {isa}: worst relative error {:.4} ({})", worst.0, worst.1);
    }
}
