//! Kernels over rows: embedding and normalization.

use super::module::{Specialization, Template, element, fixed, per_tokens};
use super::parameter;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::plan::{AddNorm, Embed, Norm, NormWeights, RowSelect, Select, Weight};
use knapsack_tensor::NormKind;

/// Most threads of a work group that is a row.
const MAX_ROW_THREADS: u32 = 256;
/// Indices of elements are 32-bit in kernels.
pub(super) fn check_indexable(what: &str, elements: u64) -> Result<(), String> {
    if elements > u64::from(u32::MAX) {
        return Err(format!("{what} has {elements} elements, more than 32-bit indices reach"));
    }
    Ok(())
}

pub(super) fn embed(library: &ModelLibrary, op: &Embed) -> Result<Specialization, String> {
    let columns = op.output.columns;
    check_indexable("the embedding table", u64::from(op.vocab) * u64::from(columns))?;
    check_indexable("the output", u64::from(library.model.prefill_chunk_size) * u64::from(columns))?;
    let summary = format!("embedding, {} rows of {columns}", op.vocab);
    let mut kernel = Specialization::new(Template::Embed, summary, 64, [per_tokens(1), fixed(1), fixed(1)]);
    kernel.define("COLUMNS", format!("{columns}u"));
    kernel.define_float("SCALE", op.scale);
    kernel.input("tokens", "uint");
    kernel.reads.inputs = 4;
    match op.table {
        Weight::Dense(id) => {
            kernel.flag("GROUPED", false);
            kernel.parameter(library, id, "table", "LOAD")?;
            kernel.reads.weights = u64::from(columns) * parameter(library, id)?.dtype.size();
        }
        Weight::Grouped { scales, format, .. } => {
            let k = u64::from(columns);
            kernel.flag("GROUPED", true);
            kernel.define("BITS", format!("{}u", format.bits));
            kernel.define("MAX_INT", format.max_int());
            kernel.define("PER_WORD", format!("{}u", format.codes_per_word()));
            kernel.define("WORDS", format!("{}u", format.words(k)));
            kernel.define("WORDS_PER_GROUP", format!("{}u", format.words_per_group()));
            kernel.define("GROUPS", format!("{}u", format.groups(k)));
            kernel.input("codes", "uint");
            kernel.parameter(library, scales, "scales", "LOAD_SCALE")?;
            kernel.reads.weights = 4 * format.words(k) + format.groups(k) * parameter(library, scales)?.dtype.size();
        }
    }
    kernel.output("output", "float");
    Ok(kernel)
}

/// A kernel whose work group is a row of `columns` elements in registers.
fn row_kernel(template: Template, summary: String, columns: u32, one_row: bool) -> Specialization {
    let width = if columns.is_multiple_of(4) { 4 } else { 1 };
    let vectors = columns / width;
    let threads = vectors.next_power_of_two().clamp(32, MAX_ROW_THREADS);
    let grid = if one_row { fixed(1) } else { per_tokens(1) };
    let mut kernel = Specialization::new(template, summary, threads, [grid, fixed(1), fixed(1)]);
    kernel.define("COLUMNS", format!("{columns}u"));
    kernel.define("WIDTH", format!("{width}u"));
    kernel.define("PER_THREAD", format!("{}u", vectors.div_ceil(threads)));
    kernel.define("VECTOR", if width == 4 { "float4" } else { "float" });
    kernel.define("HSUM(v)", if width == 4 { "HSUM_4(v)" } else { "HSUM_1(v)" });
    kernel.define("LOAD_F32_V(p, i)", if width == 4 { "LOAD4_F32(p, i)" } else { "LOAD_F32(p, i)" });
    kernel.define("STORE_F32_V(p, i, v)", if width == 4 { "STORE4_F32(p, i, v)" } else { "STORE_F32(p, i, v)" });
    kernel
}

/// Names of a normalization's macros and arguments in a template.
struct NormNames {
    /// `""`, `"PRE_"`, `"POST_"`.
    prefix: &'static str,
    weight: &'static str,
    bias: &'static str,
}

fn add_norm_weights(
    kernel: &mut Specialization,
    library: &ModelLibrary,
    norm: &NormWeights,
    names: &NormNames,
    width: u32,
) -> Result<(), String> {
    let prefix = names.prefix;
    kernel.define(
        format!("{prefix}NORMALIZE(v, epsilon)"),
        match norm.kind {
            NormKind::Rms => "NORMALIZE_RMS(v, epsilon)",
            NormKind::Layer => "NORMALIZE_LAYER(v, epsilon)",
        },
    );
    kernel.define_float(&format!("{prefix}EPSILON"), norm.epsilon);
    for (what, name, id) in [("WEIGHT", names.weight, norm.weight), ("BIAS", names.bias, norm.bias)] {
        kernel.flag(&format!("{prefix}HAS_{what}"), id.is_some());
        if let Some(id) = id {
            let parameter = parameter(library, id)?;
            let (element, suffix) = element(parameter.dtype)?;
            kernel.reads.weights += parameter.bytes().unwrap_or(0);
            kernel.input(name, element);
            let load = if width == 4 { "LOAD4" } else { "LOAD" };
            kernel.define(format!("LOAD_{prefix}{what}(p, i)"), format!("{load}_{suffix}(p, i)"));
        }
    }
    Ok(())
}

const fn width(columns: u32) -> u32 {
    if columns.is_multiple_of(4) { 4 } else { 1 }
}

pub(super) fn norm(library: &ModelLibrary, op: &Norm) -> Result<Specialization, String> {
    let columns = op.input.columns;
    check_indexable("the input", u64::from(library.model.prefill_chunk_size) * u64::from(columns))?;
    let one = op.rows == RowSelect::One;
    let which = if one { "the selected row" } else { "every row" };
    let summary = format!("normalization of {which}, {columns} columns");
    let mut kernel = row_kernel(Template::Norm, summary, columns, one);
    kernel.flag("SELECT_ROW", one);
    kernel.input("input", "float");
    kernel.reads.inputs = 4 * u64::from(columns);
    let names = NormNames { prefix: "", weight: "norm_weight", bias: "norm_bias" };
    add_norm_weights(&mut kernel, library, &op.norm, &names, width(columns))?;
    kernel.output("output", "float");
    Ok(kernel)
}

pub(super) fn select(library: &ModelLibrary, op: &Select) -> Result<Specialization, String> {
    let columns = op.input.columns;
    check_indexable("the input", u64::from(library.model.prefill_chunk_size) * u64::from(columns))?;
    let summary = format!("the selected row, {columns} columns");
    let mut kernel = Specialization::new(Template::Select, summary, MAX_ROW_THREADS, [fixed(1), fixed(1), fixed(1)]);
    kernel.define("COLUMNS", format!("{columns}u"));
    kernel.input("input", "float");
    kernel.reads.inputs = 4 * u64::from(columns);
    kernel.output("output", "float");
    Ok(kernel)
}

pub(super) fn add_norm(library: &ModelLibrary, op: &AddNorm) -> Result<Specialization, String> {
    check_indexable("the input", u64::from(library.model.prefill_chunk_size) * u64::from(op.residual.columns))?;
    let columns = op.residual.columns / op.groups.max(1);
    let groups = if op.groups > 1 { format!("{} x ", op.groups) } else { String::new() };
    let summary = format!("residual addition with normalization, {groups}{columns} columns");
    let mut kernel = row_kernel(Template::AddNorm, summary, columns, false);
    kernel.groups[1] = fixed(op.groups);
    kernel.define("GROUPS", format!("{}u", op.groups));
    kernel.input("residual", "float");
    kernel.input("delta", "float");
    kernel.reads.inputs = 8 * u64::from(columns);
    kernel.flag("HAS_PRE", op.pre.is_some());
    if let Some(pre) = &op.pre {
        let names = NormNames { prefix: "PRE_", weight: "pre_weight", bias: "pre_bias" };
        add_norm_weights(&mut kernel, library, pre, &names, width(columns))?;
    }
    kernel.flag("HAS_SCALE", op.scale.is_some());
    if let Some(scale) = op.scale {
        kernel.parameter(library, scale, "scale", "LOAD_SCALE")?;
        kernel.reads.weights += parameter(library, scale)?.dtype.size();
    }
    kernel.output("sum_rows", "float");
    kernel.flag("HAS_POST", op.post.is_some());
    if let Some((post, _)) = &op.post {
        let names = NormNames { prefix: "POST_", weight: "post_weight", bias: "post_bias" };
        add_norm_weights(&mut kernel, library, post, &names, width(columns))?;
        kernel.output("output", "float");
    }
    Ok(kernel)
}
