//! Whole models in many chunk sizes on the devices that work on the host's memory: every model against the reference's logits
//! (transformers'), in one chunk, in small ones, and token by token. Names the instruction sets that it exercised.

mod support;

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_device::{CpuDevice, Device, Isa, LoadedModel, ReferenceDevice};
use knapsack_testkit::ReferenceSequence;
use std::sync::Arc;
use support::{Calls, Model, all_logits, error, every_model, tokens};

/// How a call's tokens are cut.
const CHUNKS: [u32; 4] = [128, 80, 8, 1];

fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(index, _)| index)
}

/// The same winner wherever the reference's top two differ by more than six times the error.
fn assert_same_winners(actual: &[f32], expected: &ReferenceSequence, relative: f64, what: &str) {
    let square: f64 = expected.logits.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let error = relative * (square / expected.logits.len() as f64).sqrt();
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

fn every_case(mut check: impl FnMut(&str, &Model, Arc<ModelLibrary>)) {
    every_model(|model| {
        for chunk in CHUNKS {
            let library = model.library(Target::Host, |windows| windows.chunk = chunk.min(windows.context));
            check(&format!("{} chunk {chunk}", model.name), model, library);
        }
    });
}

fn run(model: &mut dyn LoadedModel, sequence: &ReferenceSequence) -> Vec<f32> {
    all_logits(model, &tokens(sequence), Calls::Chunks)
}

/// Largest difference of a logit that another order of sums explains, for logits of this root mean square.
fn tolerance(model: &Model, size: f64) -> f64 {
    // Checkpoints whose references were confirmed in float64, and a bound for the others that any mistake exceeds.
    if model.name.starts_with("qwen3_5") {
        // The recurrence amplifies what is rounded.
        return 5e-4;
    }
    let apart = ["lfm", "gemma4", "phi4", "smollm3", "ministral3", "granite", "olmo", "exaone4", "hunyuan", "ernie4_5"];
    if apart.iter().any(|name| model.name.starts_with(name)) { 3e-5 * size.max(1.0) } else { 2e-3 }
}

#[test]
fn the_reference_device_agrees_with_the_reference_logits() {
    every_case(|name, model, library| {
        let mut loaded = ReferenceDevice.load(library, &model.folder).unwrap();
        for sequence in &model.sequences {
            let logits = run(&mut *loaded, sequence);
            let largest = logits.iter().zip(&sequence.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let relative = error(&logits, &sequence.logits);
            let square: f64 = sequence.logits.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let most = tolerance(model, (square / sequence.logits.len() as f64).sqrt());
            let what =
                format!("{name}, {} tokens: {largest:.2e} of {most:.2e} ({relative:.2e})", sequence.tokens.len());
            eprintln!("    {what}");
            assert!(f64::from(largest) <= most, "{what}");
        }
    });
}

#[test]
fn the_cpu_device_agrees_with_the_reference_logits() {
    for isa in Isa::available() {
        let device = CpuDevice::with(isa, 2).unwrap();
        let mut worst = (0.0, String::new());
        every_case(|name, model, library| {
            let chunk = library.model.prefill_chunk_size;
            let mut loaded = device.load(library, &model.folder).unwrap();
            // Quantized activations, or only another order of sums and a cache in float16.
            let bound = if name.contains(" q0") { 5e-3 } else { 0.03 };
            let mut rows = (Vec::new(), Vec::new());
            for sequence in &model.sequences {
                let logits = run(&mut *loaded, sequence);
                if chunk > 16 {
                    assert_same_winners(&logits, sequence, error(&logits, &sequence.logits), &format!("{isa} {name}"));
                }
                rows.0.extend(logits);
                rows.1.extend_from_slice(&sequence.logits);
            }
            let relative = error(&rows.0, &rows.1);
            assert!(relative <= bound, "{isa}, {name}: {relative:.4} of the root mean square");
            if relative > worst.0 {
                worst = (relative, name.to_owned());
            }
        });
        eprintln!("exercised {isa}: worst relative error {:.4} ({})", worst.0, worst.1);
    }
}
