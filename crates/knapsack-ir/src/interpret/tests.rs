use super::*;
use crate::text::parse;

const SMALL: &str = "graph t q0f32 vocab=3 hidden=2 layers=1
param @0 table bfloat16[3,2]
rope magnitude=1 growth=- 0.5
cache heads=1 head_dim=2 window=2 sinks=1 dtype=float32
%0:tokens = tokens
%1:matrix[3,2] = dequantize dense:@0:3x2
%2:f32[n,2] = embed %1 %0
%3:f32[n,2] = rope %2 table=0 head_dim=2 rotary=2
%4:cache[0] = append %3 %2 layer=0
%5:f32[n,2] = attention %3 %4 scale=1 soft_cap=- gate=-
%6:f32[1,2] = select_row %5
%7:f32[1,3] = matmul %6 %1
return %7";

fn table() -> Vec<TensorData> {
    vec![TensorData::Float(vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0])]
}

/// Worked by hand: position 0 sees only itself, so the value is the row of its token.
#[test]
fn one_token_sees_itself() {
    let graph = parse(SMALL).unwrap();
    let tables = table();
    let mut interpreter = Interpreter::new(&graph, &tables).unwrap();
    assert_eq!(interpreter.run(&[2]).unwrap(), [1.0, 1.0, 2.0]);
}

#[test]
fn two_tokens_by_hand() {
    let graph = parse(SMALL).unwrap();
    let tables = table();
    let mut interpreter = Interpreter::new(&graph, &tables).unwrap();
    let logits = interpreter.run(&[0, 1]).unwrap();
    // Position 1: q = k1 = rotate((0, 1), 0.5) = (-sin, cos); k0 = (1, 0). Scores: q.k0 = -sin 0.5, q.k1 = 1.
    let (low, high) = ((-0.5f32.sin()).exp(), 1f32.exp());
    let (a, b) = (low / (low + high), high / (low + high));
    for (found, expected) in logits[3..].iter().zip([a, b, a + b]) {
        assert!((found - expected).abs() < 1e-6, "{logits:?}");
    }
}

#[test]
fn chunks_change_nothing_and_windows_and_sinks_do() {
    let tables = table();
    let run = |text: &str, chunks: &[&[u32]]| {
        let graph = parse(text).unwrap();
        let mut interpreter = Interpreter::new(&graph, &tables).unwrap();
        chunks.iter().flat_map(|chunk| interpreter.run(chunk).unwrap()).collect::<Vec<_>>()
    };
    let tokens = [0, 1, 2, 2, 1];
    let whole = run(SMALL, &[&tokens]);
    assert_eq!(whole, run(SMALL, &[&tokens[..2], &tokens[2..3], &tokens[3..]]));
    let no_sinks = run(&SMALL.replace("sinks=1", "sinks=0"), &[&tokens]);
    let no_window = run(&SMALL.replace("window=2", "window=-"), &[&tokens]);
    let rows = |logits: &[f32], row: usize| logits[row * 3..][..3].to_vec();
    // Position 2 is the first whose window of 2 leaves position 0 out.
    assert_eq!(rows(&whole, 1), rows(&no_sinks, 1));
    assert_ne!(rows(&whole, 2), rows(&no_sinks, 2));
    assert_eq!(rows(&whole, 2), rows(&no_window, 2));
    assert_ne!(rows(&whole, 3), rows(&no_window, 3));
}

#[test]
fn wrong_tensors_and_tokens_are_refused() {
    let graph = parse(SMALL).unwrap();
    assert_eq!(Interpreter::new(&graph, &[]).err(), Some(InterpretError::Tensors { found: 0, expected: 1 }));
    let short = [TensorData::Float(vec![0.0; 5])];
    assert!(matches!(
        Interpreter::new(&graph, &short).err(),
        Some(InterpretError::Tensor { found: 5, expected: 6, .. })
    ));
    let tables = table();
    let mut interpreter = Interpreter::new(&graph, &tables).unwrap();
    assert_eq!(interpreter.run(&[3]), Err(InterpretError::Token { token: 3, vocab: 3 }));
}
