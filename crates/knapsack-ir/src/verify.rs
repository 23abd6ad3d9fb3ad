//! The verifier.

use crate::{Graph, Op, RowCount, StateLayer, Type, TypeError, infer};

/// Most columns of a row, and elements of all heads of a layer: far more than any real model has, and few enough for sums of
/// them to fit 32 bits.
pub const MAX_COLUMNS: u32 = 1 << 26;

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
///    No row has more than [`MAX_COLUMNS`] columns.
/// 3. Parameter names are unique and not empty, their sizes representable; no parameter is declared without being used.
/// 4. Cache layers have heads and elements; windows are above 0; each layer is appended to exactly once.
///    States have elements and at most [`MAX_COLUMNS`] of them; each is that of exactly one operation.
/// 5. Rope tables hold finite frequencies and a finite magnitude above 0.
/// 6. What is selected first has `hidden` columns; the output is one row of `vocab` columns. Nothing is appended or remembered of
///    the selected row.
///
/// # Errors
/// The first invariant that does not hold.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    declarations(graph)?;
    let mut types = vec![None; graph.value_bound()];
    let mut appended = vec![0u32; graph.kv_layers.len()];
    let mut remembered = vec![0u32; graph.states.len()];
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
            if matches!(found, Type::Rows { columns, .. } if columns > MAX_COLUMNS) {
                return Err(at(format!("{id} has more than {MAX_COLUMNS} columns")));
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
            Op::CausalConv(op) => remembered[op.state as usize] += 1,
            Op::GatedDelta(op) => remembered[op.state as usize] += 1,
            Op::SelectRow { input } | Op::NormSelected { input, .. } => {
                selections += 1;
                let ty = types[input.0 as usize];
                if selections == 1 && ty != Some(Type::Rows { count: RowCount::Tokens, columns: graph.hidden }) {
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
    if let Some(state) = remembered.iter().position(|&count| count != 1) {
        return fail("state", format!("state {state} is that of {} operations", remembered[state]));
    }
    if let Some(unused) = used.iter().position(|used| !used) {
        return fail("parameters", format!("`{}` is not used", graph.parameters[unused].name));
    }
    let output = types.get(graph.output.0 as usize).copied().flatten();
    if selections == 0 || output != Some(Type::Rows { count: RowCount::One, columns: graph.vocab }) {
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
        if kv.kv_heads.checked_mul(kv.head_dim).is_none_or(|columns| columns > MAX_COLUMNS) {
            return fail(format!("cache layer {index}"), "its heads have too many elements");
        }
        if kv.kv_heads == 0 || kv.head_dim == 0 || kv.window == Some(0) {
            return fail(format!("cache layer {index}"), "heads, head_dim or window is 0");
        }
    }
    for (index, state) in graph.states.iter().enumerate() {
        let elements = match *state {
            StateLayer::Conv { channels, taps } => (taps > 1).then(|| channels.checked_mul(taps)).flatten(),
            StateLayer::Delta { heads, key_dim, value_dim } => {
                heads.checked_mul(key_dim).and_then(|rows| rows.checked_mul(value_dim))
            }
        };
        if elements.is_none_or(|elements| elements == 0 || elements > MAX_COLUMNS) {
            return fail(format!("state {index}"), "it has no elements or too many");
        }
    }
    for (index, table) in graph.rope_tables.iter().enumerate() {
        let finite = table.frequencies.iter().all(|f| f.is_finite());
        let grows =
            table.growth.is_none_or(|growth| growth.beta.is_finite() && growth.beta >= 0.0 && growth.original > 0);
        if !finite || !table.magnitude.is_finite() || table.magnitude <= 0.0 || !grows {
            return fail(format!("rope table {index}"), "its frequencies or its magnitude are not usable");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    const VALID: &str = "graph t q0f32 vocab=3 hidden=2 layers=1
param @0 table bfloat16[3,2]
rope magnitude=1 growth=- 0.5
cache heads=1 head_dim=2 window=2 sinks=1 dtype=float32
%0:tokens = tokens
%1:matrix[3,2] = dequantize dense:@0:3x2
%2:f32[n,2] = embed %1 %0
%4:cache[0] = append %2 %2 layer=0
%5:f32[n,2] = attention %2 %4 scale=1 soft_cap=- gate=-
%6:f32[1,2] = select_row %5
%7:f32[1,3] = matmul %6 %1
return %7";

    /// One broken graph for each invariant, and what is said of it.
    #[test]
    fn each_invariant_is_checked() {
        assert_eq!(verify(&parse(VALID).unwrap()), Ok(()));
        for (from, to, expected) in [
            ("%4:cache[0] =", "%2:cache[0] =", "node 3 (append): %2 is defined twice"),
            ("embed %1 %0", "embed %1 %9", "node 2 (embed): %9 is not defined before its use"),
            ("%2:f32[n,2] = embed", "%2:f32[n,3] = embed", "node 2 (embed): %2 is declared f32[n,3], but is f32[n,2]"),
            ("append %2 %2", "append %2 %1", "node 3 (append): %1 is matrix[3,2], not rows"),
            ("bfloat16[3,2]", "bfloat16[2,3]", "node 1 (dequantize): `table` has shape [2, 3], not [3, 2]"),
            ("bfloat16[3,2]", "uint32[3,2]", "node 1 (dequantize): `table` is not floating point"),
            ("bfloat16[3,2]", "bfloat16[0,2]", "parameter `table`: its size is 0 or not representable"),
            ("@0 table bfloat16[3,2]", "@0 table bfloat16[3,2]\nparam @1 x float16[1]", "parameters: `x` is not used"),
            ("param", "param @0 table bfloat16[3,2]\nparam", "line 3: parameter 1 is expected, not 0"),
            ("window=2", "window=0", "cache layer 0: heads, head_dim or window is 0"),
            ("heads=1", "heads=4294967295", "cache layer 0: its heads have too many elements"),
            ("magnitude=1", "magnitude=0", "rope table 0: its frequencies or its magnitude are not usable"),
            ("growth=-", "growth=0.1:0", "rope table 0: its frequencies or its magnitude are not usable"),
            ("vocab=3", "vocab=4", "output: 1 row selections, %7 is Some(Rows { count: One, columns: 3 })"),
            ("hidden=2", "hidden=3", "node 5 (select_row): selects from"),
            ("scale=1", "scale=inf", "node 4 (attention): scale inf, cap None"),
        ] {
            let found = match parse(&VALID.replacen(from, to, 1)) {
                Ok(graph) => verify(&graph).unwrap_err().to_string(),
                Err(error) => error.to_string(),
            };
            assert!(found.starts_with(expected), "{found}");
        }
    }
}
