//! Fusing normalizations.

use super::each;
use super::editor::Editor;
use knapsack_ir::{Norm, Op, ValueId};
use std::collections::HashMap;

/// The normalization that defines a value, when it is over whole rows and nothing else reads the value.
fn whole_norm(editor: &Editor<'_>, value: ValueId) -> Option<(ValueId, Norm)> {
    match *editor.sole(value)? {
        Op::Norm { input, norm } if norm.width == editor.columns(input) => Some((input, norm)),
        _ => None,
    }
}

/// `add(residual, norm(delta))`, and the first norm of the sum.
pub(super) fn add_norm(editor: &mut Editor<'_>) {
    let mut norms_of = HashMap::new();
    for index in 0..editor.len() {
        if let Some(Op::Norm { input, norm }) = editor.op(index)
            && norm.width == editor.columns(*input)
        {
            norms_of.entry(*input).or_insert(index);
        }
    }
    for index in 0..editor.len() {
        let Some(Op::Add { a, b }) = editor.op(index).cloned() else { continue };
        // A norm of the residual stream is a summand only in families without one that runs through; `b` is the delta.
        let (residual, delta, pre) = match (whole_norm(editor, b), whole_norm(editor, a)) {
            (Some((delta, norm)), _) => (a, delta, Some(norm)),
            (None, Some((delta, norm))) => (b, delta, Some(norm)),
            (None, None) => (a, b, None),
        };
        let sum = editor.node(index).map(|node| node.results[0].0);
        let follower = sum.and_then(|sum| norms_of.get(&sum)).copied();
        let post = follower.and_then(|at| match editor.op(at) {
            Some(Op::Norm { norm, .. }) => Some((at, *norm)),
            _ => None,
        });
        let op = Op::AddNorm { residual, delta, pre, post: post.map(|(_, norm)| norm) };
        editor.replace(index, op, post.map(|(at, _)| at).as_slice());
    }
}

/// `norm(select_row(x))`.
pub(super) fn selected(editor: &mut Editor<'_>) {
    each(editor, |editor, op| match *op {
        Op::Norm { input, norm } if norm.width == editor.columns(input) => match *editor.sole(input)? {
            Op::SelectRow { input } => Some(Op::NormSelected { input, norm }),
            _ => None,
        },
        _ => None,
    });
}
