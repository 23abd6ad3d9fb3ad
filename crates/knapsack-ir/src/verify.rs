//! The verifier.

use crate::{Graph, Op, RowCount, Type, TypeError, infer};

/// The first broken invariant.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {problem}")]
pub struct VerifyError {
    /// Which node, by its text, or which declaration.
    pub place: String,
    /// What does not hold.
    pub problem: String,
}

/// Checks that a graph means something. The invariants:
///
/// 1. Each value is defined once, and before every use (single assignment, executable order).
/// 2. Each node's result types are what its operation gives for its operands ([`infer`]): shapes agree, parameters exist and
///    have the shape and dtype that the operation needs, attributes are in range.
/// 3. Parameter names are unique and not empty, their sizes representable; no parameter is declared without being used.
/// 4. Cache layers have heads and elements; windows are above 0; each layer is appended to exactly once.
/// 5. Rope tables hold finite frequencies and a finite magnitude above 0.
/// 6. At most one row selection; the output is one row of `vocab` columns; what the selection reads has `hidden` columns.
///
/// # Errors
/// The first invariant that does not hold.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    declarations(graph)?;
    let mut types = vec![None; graph.value_bound()];
    let mut appended = vec![0u32; graph.kv_layers.len()];
    let mut used = vec![false; graph.parameters.len()];
    let mut selections = 0;
    for (index, node) in graph.nodes.iter().enumerate() {
        let at = |problem: String| VerifyError { place: format!("node {index} ({})", node.op.name()), problem };
        let inferred = infer(graph, &types, &node.op).map_err(|TypeError(problem)| at(problem))?;
        if inferred.len() != node.results.len() {
            return Err(at(format!("{} results declared, {} defined", node.results.len(), inferred.len())));
        }
        for (&(id, declared), found) in node.results.iter().zip(inferred) {
            if declared != found {
                return Err(at(format!("{id} is declared {declared}, but is {found}")));
            }
            if types[id.0 as usize].replace(found).is_some() {
                return Err(at(format!("{id} is defined twice")));
            }
        }
        for id in node.op.parameters() {
            used[id.0 as usize] = true;
        }
        match node.op {
            Op::Append { layer, .. } => appended[layer as usize] += 1,
            Op::RopeAppend(op) => appended[op.layer as usize] += 1,
            Op::SelectRow { input } | Op::NormSelected { input, .. } => {
                selections += 1;
                let ty = types[input.0 as usize];
                if ty != Some(Type::Rows { count: RowCount::Tokens, columns: graph.hidden }) {
                    return Err(at(format!("selects from {ty:?}, not from the residual stream of {}", graph.hidden)));
                }
            }
            _ => {}
        }
    }
    let fail = |place: &str, problem: String| Err(VerifyError { place: place.to_owned(), problem });
    if let Some(layer) = appended.iter().position(|&count| count != 1) {
        return fail("cache", format!("layer {layer} is appended to {} times", appended[layer]));
    }
    if let Some(unused) = used.iter().position(|used| !used) {
        return fail("parameters", format!("`{}` is not used", graph.parameters[unused].name));
    }
    let output = types.get(graph.output.0 as usize).copied().flatten();
    if selections != 1 || output != Some(Type::Rows { count: RowCount::One, columns: graph.vocab }) {
        return fail("output", format!("{selections} row selections, {} is {output:?}", graph.output));
    }
    Ok(())
}

fn declarations(graph: &Graph) -> Result<(), VerifyError> {
    let fail = |place: String, problem: &str| Err(VerifyError { place, problem: problem.to_owned() });
    let mut names = std::collections::HashSet::new();
    for parameter in &graph.parameters {
        if parameter.name.is_empty() || !names.insert(&parameter.name) {
            return fail(format!("parameter `{}`", parameter.name), "its name is empty or not unique");
        }
        if parameter.dtype.bytes(&parameter.shape).is_none_or(|bytes| bytes == 0) {
            return fail(format!("parameter `{}`", parameter.name), "its size is 0 or not representable");
        }
    }
    for (index, kv) in graph.kv_layers.iter().enumerate() {
        if kv.kv_heads == 0 || kv.head_dim == 0 || kv.window == Some(0) {
            return fail(format!("cache layer {index}"), "heads, head_dim or window is 0");
        }
    }
    for (index, table) in graph.rope_tables.iter().enumerate() {
        let finite = table.frequencies.iter().all(|f| f.is_finite());
        if !finite || !table.magnitude.is_finite() || table.magnitude <= 0.0 {
            return fail(format!("rope table {index}"), "its frequencies or its magnitude are not usable");
        }
    }
    Ok(())
}
