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

/// The normalization that defines a value, of groups of its columns.
fn grouped_norm(editor: &Editor<'_>, value: ValueId) -> Option<(ValueId, Norm)> {
    match *editor.sole(value)? {
        Op::Norm { input, norm } if editor.columns(input).is_multiple_of(norm.width) => Some((input, norm)),
        _ => None,
    }
}

/// `add(residual, norm(delta))`, a scale of the sum, and the first norm of it.
pub(super) fn add_norm(editor: &mut Editor<'_>) {
    let (mut norms_of, mut scales_of) = (HashMap::new(), HashMap::new());
    for index in 0..editor.len() {
        if let Some(Op::ScaleBy { input, .. }) = editor.op(index) {
            scales_of.insert(*input, index);
        }
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
        if pre.is_none()
            && let Some((delta, norm)) = grouped_norm(editor, b)
        {
            let op = Op::AddNorm { residual: a, delta, pre: Some(norm), scale: None, post: None };
            editor.replace(index, op, &[]);
            continue;
        }
        let mut sum = editor.node(index).map(|node| node.results[0].0);
        // A scale of the sum that nothing reads unscaled.
        let scaled = sum.and_then(|sum| scales_of.get(&sum).copied().filter(|_| editor.uses(sum) == 1));
        let (mut index, mut scale) = (index, None);
        if let Some(at) = scaled
            && let Some(&Op::ScaleBy { factor, .. }) = editor.op(at)
        {
            (index, scale) = (at, Some(factor));
            sum = editor.node(at).map(|node| node.results[0].0);
        }
        let follower = sum.and_then(|sum| norms_of.get(&sum)).copied();
        let post = follower.and_then(|at| match editor.op(at) {
            Some(Op::Norm { norm, .. }) => Some((at, *norm)),
            _ => None,
        });
        let op = Op::AddNorm { residual, delta, pre, scale, post: post.map(|(_, norm)| norm) };
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
