//! Graphs executed by the reference interpreter: families against the reference's logits, fused graphs against unfused ones.

mod fixture;

use fixture::{Fixture, logits};
use knapsack_compiler::passes;
use knapsack_ir::verify;

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_family_gives_the_reference_s_logits() {
    for model in knapsack_testkit::fixtures() {
        for quantization in model.quantizations {
            let fixture = Fixture::read(model.family, quantization);
            let graph = fixture.graph();
            let tensors = fixture.tensors(&graph);
            for sequence in knapsack_testkit::reference_logits(model.family, Some(quantization)) {
                let tokens: Vec<u32> = sequence.tokens.iter().map(|&token| token as u32).collect();
                let found = logits(&graph, &tensors, &tokens, 16);
                let difference = largest_difference(&found, &sequence.logits);
                assert!(difference <= 2e-3, "{} {quantization}, {} tokens: {difference}", model.family, tokens.len());
            }
        }
    }
}

#[test]
fn each_pass_keeps_the_logits() {
    for (family, quantization) in
        [("llama", "q4f16_0"), ("qwen3", "q4f16_1"), ("gemma2", "q4f16_1"), ("phi3", "q4f16_1")]
    {
        let fixture = Fixture::read(family, quantization);
        let mut graph = fixture.graph();
        let tensors = fixture.tensors(&graph);
        let tokens = [5, 700, 31, 2, 2, 90];
        let expected = logits(&graph, &tensors, &tokens, 4);
        for pass in &passes::PASSES {
            pass.run(&mut graph);
            assert_eq!(verify(&graph), Ok(()), "{family} after {}", pass.name);
            let difference = largest_difference(&logits(&graph, &tensors, &tokens, 4), &expected);
            assert!(difference <= 1e-4, "{family} after {}: {difference}", pass.name);
        }
    }
}
