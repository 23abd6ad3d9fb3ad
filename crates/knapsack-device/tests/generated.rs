//! Families, rope scalings and variants without a fixture of the reference tool: converted, compiled and run, and held against
//! the logits that transformers gave for the generated checkpoints.

mod support;

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::{CpuDevice, Device, ReferenceDevice};
use knapsack_ir::Windows;
use knapsack_models::ModelConfig;
use knapsack_testkit::{GENERATED, GeneratedModel};
use knapsack_weights::{Request, convert};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use support::{Calls, all_logits, error};

fn library(folder: &Path, model: &GeneratedModel, chunk: u32) -> Arc<ModelLibrary> {
    let text = std::fs::read_to_string(folder.join("mlc-chat-config.json")).unwrap();
    let chat: serde_json::Value = serde_json::from_str(&text).unwrap();
    let config = ModelConfig::from_mlc(&chat).unwrap();
    let quantization = chat["quantization"].as_str().unwrap().parse().unwrap();
    let own = config.own_windows();
    let context = model.context.unwrap_or(own.context.max(128));
    let windows = Windows { context, chunk: chunk.min(context), ..own };
    let graph = config.graph(&quantization, &windows).unwrap();
    Arc::new(compile(&CompileRequest { graph: &graph, windows, target: Target::Host, name: None }).unwrap())
}

/// Converts every model in every quantization that has logits, and compares each sequence for some chunk sizes.
fn every_case(device: &dyn Device, mut check: impl FnMut(&str, &[f32], &[f32])) {
    for model in GENERATED {
        for quantization in model.quantizations {
            let parent = tempfile::tempdir().unwrap();
            let (checkpoint, output) = (model.checkpoint(), parent.path().join("out"));
            let request = Request {
                checkpoint: &checkpoint,
                output: &output,
                quantization: quantization.parse().unwrap(),
                conv_template: None,
                jobs: None,
            };
            convert(&request, &AtomicBool::new(false), &|_| {}).unwrap();
            for chunk in [128, 16] {
                let library = library(&output, model, chunk);
                let mut loaded = device.load(library, &output).unwrap();
                for sequence in model.reference_logits(quantization) {
                    let tokens: Vec<u32> = sequence.tokens.iter().map(|&token| token as u32).collect();
                    let found = all_logits(&mut *loaded, &tokens, Calls::Chunks);
                    let name = format!("{} {quantization}, chunk {chunk}, {} tokens", model.name, tokens.len());
                    check(&name, &found, &sequence.logits);
                }
            }
        }
    }
}

/// Reports every case that is beyond its bound, not only the first.
fn report(failures: &[String]) {
    assert!(failures.is_empty(), "beyond the bound:\n{}", failures.join("\n"));
}

#[test]
fn the_reference_device_agrees_with_transformers() {
    let mut failures = Vec::new();
    every_case(&ReferenceDevice, |name, found, expected| {
        let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if largest > 2e-3 {
            failures.push(format!("{name}: {largest}, {:.4} of the root mean square", error(found, expected)));
        }
    });
    report(&failures);
}

#[test]
fn the_cpu_device_agrees_with_transformers() {
    let mut failures = Vec::new();
    every_case(&CpuDevice::new(), |name, found, expected| {
        let relative = error(found, expected);
        if relative > 0.03 {
            failures.push(format!("{name}: {relative:.4} of the root mean square"));
        }
    });
    report(&failures);
}
