//! Fusing what stands around a convolution.

use super::each;
use super::editor::Editor;
use knapsack_ir::{CausalConv, Op, ValueId};

/// The rows and first column that neighbouring columns come from: those of a slice that nothing else reads.
fn part(editor: &Editor<'_>, value: ValueId, channels: u32) -> Option<(ValueId, u32)> {
    let &Op::Slice { input, columns } = editor.sole(value)? else { return None };
    let range = columns.contiguous()?;
    (range.len() == channels as usize).then_some((input, range.start))
}

/// A convolution that nothing but this operand reads.
fn sole_conv(editor: &Editor<'_>, value: ValueId) -> Option<CausalConv> {
    match editor.sole(value)? {
        Op::CausalConv(conv) => Some(*conv),
        _ => None,
    }
}

/// `f(conv(u))`, `b * x` before it and `c * y` after it, all columns of one projection.
pub(super) fn gates(editor: &mut Editor<'_>) {
    each(editor, |editor, op| match *op {
        Op::CausalConv(conv) if conv.gate_in.is_none() => input(editor, &conv),
        Op::Activation { input, function } => {
            let conv = sole_conv(editor, input)?;
            let bare = conv.activation.is_none() && conv.gate_out.is_none();
            bare.then_some(Op::CausalConv(CausalConv { activation: Some(function), ..conv }))
        }
        Op::Mul { a, b } => output(editor, a, b).or_else(|| output(editor, b, a)),
        _ => None,
    });
}

fn input(editor: &Editor<'_>, conv: &CausalConv) -> Option<Op> {
    let channels = editor.columns(conv.input);
    if let Some((input, start)) = part(editor, conv.input, channels) {
        return Some(Op::CausalConv(CausalConv { input, start, ..*conv }));
    }
    let &Op::Mul { a, b } = editor.sole(conv.input)? else { return None };
    let ((input, gate), (other, start)) = (part(editor, a, channels)?, part(editor, b, channels)?);
    (input == other).then_some(Op::CausalConv(CausalConv { input, start, gate_in: Some(gate), ..*conv }))
}

fn output(editor: &Editor<'_>, gate: ValueId, product: ValueId) -> Option<Op> {
    let conv = sole_conv(editor, product)?;
    let (rows, start) = part(editor, gate, editor.columns(product))?;
    let fits = rows == conv.input && conv.gate_out.is_none();
    fits.then_some(Op::CausalConv(CausalConv { gate_out: Some(start), ..conv }))
}
