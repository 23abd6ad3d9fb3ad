//! Fusing into matrix products and embeddings.

use super::each;
use super::editor::Editor;
use knapsack_ir::{Epilogue, Linear, Op, ValueId};
use knapsack_tensor::Activation;

/// `embed(dequantize(W), tokens)` and a following scale.
pub(super) fn embed(editor: &mut Editor<'_>) {
    each(editor, |editor, op| match *op {
        Op::Embed { table, tokens, on_host } => match *editor.defining(table) {
            Op::Dequantize(table) => Some(Op::EmbedRows { table, tokens, scale: 1.0, on_host }),
            _ => None,
        },
        Op::Scale { input, factor } => match *editor.sole(input)? {
            Op::EmbedRows { table, tokens, scale, on_host } => {
                Some(Op::EmbedRows { table, tokens, scale: scale * factor, on_host })
            }
            _ => None,
        },
        _ => None,
    });
}

/// `matmul(x, dequantize(W))` and a following bias.
pub(super) fn dequantize(editor: &mut Editor<'_>) {
    each(editor, |editor, op| match *op {
        Op::Matmul { input, weight } => match *editor.defining(weight) {
            Op::Dequantize(weight) => Some(Op::Linear(Linear { input, weight, bias: None, epilogue: Epilogue::None })),
            _ => None,
        },
        Op::Bias { input, bias } => match *editor.sole(input)? {
            Op::Linear(linear @ Linear { bias: None, epilogue: Epilogue::None, .. }) => {
                Some(Op::Linear(Linear { bias: Some(bias), ..linear }))
            }
            _ => None,
        },
        _ => None,
    });
}

/// A product that nothing follows yet and that only this operand reads.
fn bare(editor: &Editor<'_>, value: ValueId) -> Option<Linear> {
    match editor.sole(value)? {
        Op::Linear(linear) if linear.epilogue == Epilogue::None => Some(*linear),
        _ => None,
    }
}

/// `f(product)`, `f(left half) * right half` of one product, and `f(product)` times columns of something else.
pub(super) fn activation(editor: &mut Editor<'_>) {
    each(editor, |editor, op| match *op {
        Op::Mul { a, b } => {
            let products = [(a, b), (b, a)];
            products.iter().find_map(|&(a, b)| gated(editor, a, b).or_else(|| times(editor, a, b)))
        }
        Op::Activation { input, function } => {
            Some(Op::Linear(Linear { epilogue: Epilogue::Activation(function), ..bare(editor, input)? }))
        }
        _ => None,
    });
}

fn gated(editor: &Editor<'_>, activated: ValueId, up: ValueId) -> Option<Op> {
    let &Op::Activation { input: gate, function } = editor.sole(activated)? else { return None };
    let &Op::Slice { input, columns: left } = editor.sole(gate)? else { return None };
    let &Op::Slice { input: other, columns: right } = editor.sole(up)? else { return None };
    let Op::Linear(linear) = editor.defining(input) else { return None };
    let middle = editor.columns(input) / 2;
    let halves = left.contiguous() == Some(0..middle) && right.contiguous() == Some(middle..2 * middle);
    let alone = input == other && editor.uses(input) == 2 && linear.epilogue == Epilogue::None;
    (alone && halves && editor.columns(input).is_multiple_of(2)).then(|| with_gate(linear, function))
}

fn times(editor: &Editor<'_>, activated: ValueId, other: ValueId) -> Option<Op> {
    let Op::Linear(linear) = editor.sole(activated)? else { return None };
    let Epilogue::Activation(function) = linear.epilogue else { return None };
    let columns = match editor.defining(other) {
        Op::Slice { input, columns } => columns.contiguous().map(|range| (*input, range.start)),
        _ => None,
    };
    let (other, start) = columns.unwrap_or((other, 0));
    Some(Op::Linear(Linear { epilogue: Epilogue::ActivationTimes { function, other, start }, ..*linear }))
}

fn with_gate(linear: &Linear, function: Activation) -> Op {
    Op::Linear(Linear { epilogue: Epilogue::Gated(function), ..*linear })
}

/// `cap * tanh(product / cap)`.
pub(super) fn soft_cap(editor: &mut Editor<'_>) {
    each(editor, |editor, op| match *op {
        Op::SoftCap { input, cap } if cap > 0.0 => {
            Some(Op::Linear(Linear { epilogue: Epilogue::SoftCap(cap), ..bare(editor, input)? }))
        }
        _ => None,
    });
}

/// `factor * product`.
pub(super) fn scale(editor: &mut Editor<'_>) {
    each(editor, |editor, op| match *op {
        Op::Scale { input, factor } => {
            Some(Op::Linear(Linear { epilogue: Epilogue::Scale(factor), ..bare(editor, input)? }))
        }
        _ => None,
    });
}

/// `residual + product`, in either order. Where both summands are products, the second one takes the first one in.
pub(super) fn residual(editor: &mut Editor<'_>) {
    each(editor, |editor, op| match *op {
        Op::Add { a, b } => {
            let (linear, residual) = bare(editor, b).map(|l| (l, a)).or_else(|| bare(editor, a).map(|l| (l, b)))?;
            Some(Op::Linear(Linear { epilogue: Epilogue::Add(residual), ..linear }))
        }
        _ => None,
    });
}
