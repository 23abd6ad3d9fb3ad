//! Whole fixture models on a device, held against the reference's logits.
#![allow(dead_code)] // Each test binary uses a part.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::{Device, DeviceError, LoadedModel};
use knapsack_ir::Windows;
use knapsack_models::ModelConfig;
use knapsack_tensor::Quantization;
use std::sync::Arc;

/// A fixture model, compiled.
pub(crate) fn library(
    family: &str,
    quantization: &str,
    target: Target,
    change: impl FnOnce(&mut Windows),
) -> Arc<ModelLibrary> {
    let folder = knapsack_testkit::mlc_fixture(family, quantization);
    let text = std::fs::read_to_string(folder.join("mlc-chat-config.json")).unwrap();
    let config = ModelConfig::from_mlc(&serde_json::from_str(&text).unwrap()).unwrap();
    let quantization: Quantization = quantization.parse().unwrap();
    let mut windows = config.own_windows();
    if windows.sliding.is_none() {
        // MLC writes gemma2's window as its context; the reference's sequences are longer.
        windows.context = windows.context.max(128);
    }
    // The reference has no attention sinks.
    windows.sinks = 0;
    change(&mut windows);
    let graph = config.graph(&quantization, &windows).unwrap();
    Arc::new(compile(&CompileRequest { graph: &graph, windows, target, name: None }).unwrap())
}

/// How many tokens each call of a run takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Calls {
    /// As many as the chunk.
    Chunks,
    /// One.
    Single,
    /// 1, 2, 3, … up to the chunk, and again.
    Rising,
}

/// Logits of every position of `tokens`.
pub(crate) fn all_logits(model: &mut dyn LoadedModel, tokens: &[u32], calls: Calls) -> Vec<f32> {
    try_all_logits(model, tokens, calls).unwrap()
}

/// Logits of every position of `tokens`, or the first failure.
pub(crate) fn try_all_logits(
    model: &mut dyn LoadedModel,
    tokens: &[u32],
    calls: Calls,
) -> Result<Vec<f32>, DeviceError> {
    let chunk = model.library().model.prefill_chunk_size as usize;
    let vocab = model.library().model.vocab_size as usize;
    let mut logits = vec![0.0; tokens.len() * vocab];
    let (mut position, mut call) = (0, 0);
    while position < tokens.len() {
        let n = match calls {
            Calls::Chunks => chunk,
            Calls::Single => 1,
            Calls::Rising => call % chunk + 1,
        }
        .min(tokens.len() - position);
        model.forward(&tokens[position..position + n], position as u32)?;
        for row in 0..n {
            let at = (position + row) * vocab;
            model.logits(row as u32, &mut logits[at..at + vocab])?;
        }
        (position, call) = (position + n, call + 1);
    }
    Ok(logits)
}

/// Root mean square of the difference over that of the reference.
pub(crate) fn error(logits: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(logits.len(), reference.len());
    let square = |x: f64| x * x;
    let off: f64 = logits.iter().zip(reference).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let size: f64 = reference.iter().map(|&b| square(f64::from(b))).sum();
    (off / size).sqrt()
}

/// Runs a long sequence on `device` and on the reference device and returns the error.
pub(crate) fn error_to_reference_device(
    device: &dyn Device,
    libraries: [&Arc<ModelLibrary>; 2],
    folder: &std::path::Path,
    tokens: &[u32],
    calls: Calls,
) -> f64 {
    let [library, host] = libraries;
    let mut model = device.load(library.clone(), folder).unwrap();
    let mut reference = knapsack_device::ReferenceDevice.load(host.clone(), folder).unwrap();
    error(&all_logits(&mut *model, tokens, calls), &all_logits(&mut *reference, tokens, calls))
}

/// Runs every reference sequence of a fixture and returns the worst error.
pub(crate) fn fixture_error(
    device: &dyn Device,
    library: &Arc<ModelLibrary>,
    family: &str,
    quantization: &str,
    calls: Calls,
) -> f64 {
    let folder = knapsack_testkit::mlc_fixture(family, quantization);
    let mut model = device.load(library.clone(), &folder).unwrap();
    assert_eq!(model.memory(), library.memory, "{family} {quantization}: allocated and planned");
    let mut worst = 0.0f64;
    for sequence in knapsack_testkit::reference_logits(family, Some(quantization)) {
        let tokens: Vec<u32> = sequence.tokens.iter().map(|&token| token as u32).collect();
        worst = worst.max(error(&all_logits(&mut *model, &tokens, calls), &sequence.logits));
    }
    worst
}
