//! Kernels of [`CausalConv`] and [`GatedDelta`].

use super::linear::activation_function;
use super::module::{Specialization, Template, fixed};
use super::parameter;
use super::rows::check_indexable;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::plan::{CausalConv, GatedDelta};

/// Threads of a convolution's work group, one for each channel.
const CONV_THREADS: u32 = 64;
/// Most threads of a head's work group.
const MAX_DELTA_THREADS: u32 = 256;

pub(super) fn causal_conv(library: &ModelLibrary, op: &CausalConv) -> Result<Specialization, String> {
    let (channels, taps) = (op.output.columns, op.taps);
    check_indexable("the input", u64::from(library.model.prefill_chunk_size) * u64::from(op.input.columns))?;
    let summary = format!("convolution, {channels} channels, {taps} taps");
    let groups = [fixed(channels.div_ceil(CONV_THREADS)), fixed(1), fixed(1)];
    let mut kernel = Specialization::new(Template::CausalConv, summary, CONV_THREADS, groups);
    kernel.define("CHANNELS", format!("{channels}u"));
    kernel.define("TAPS", format!("{taps}u"));
    kernel.define("COLUMNS", format!("{}u", op.input.columns));
    kernel.define("START", format!("{}u", op.start));
    let gated = |start: Option<u32>| match start {
        Some(start) => format!("((v) * LOAD_F32(input, (at) + {start}u))"),
        None => "(v)".to_owned(),
    };
    kernel.define("GATED_IN(v, at)", gated(op.gate_in));
    kernel.define("GATED_OUT_OF(v, at)", gated(op.gate_out));
    kernel.define(
        "ACTIVATION(v)",
        op.activation.map_or("(v)".to_owned(), |function| format!("{}(v)", activation_function(function))),
    );
    kernel.input("input", "float");
    kernel.parameter(library, op.weight, "weights", "LOAD_WEIGHT")?;
    let row = u64::from(taps) * parameter(library, op.weight)?.dtype.size();
    kernel.reads.weights = u64::from(CONV_THREADS) * row;
    match op.bias {
        Some(bias) => {
            kernel.parameter(library, bias, "bias", "LOAD_BIAS")?;
            kernel.define("BIAS(i)", "LOAD_BIAS(bias, i)");
            kernel.reads.weights += u64::from(CONV_THREADS) * parameter(library, bias)?.dtype.size();
        }
        None => kernel.define("BIAS(i)", "0.0f"),
    }
    kernel.output("state", "float");
    kernel.output("output", "float");
    Ok(kernel)
}

pub(super) fn gated_delta(library: &ModelLibrary, op: &GatedDelta) -> Result<Specialization, String> {
    let GatedDelta { key_heads, heads, key_dim, value_dim, .. } = *op;
    let columns = value_dim.next_power_of_two();
    if columns > MAX_DELTA_THREADS || key_heads == 0 {
        return Err(format!("{heads} / {key_heads} heads of {key_dim} x {value_dim}"));
    }
    check_indexable("the input", u64::from(library.model.prefill_chunk_size) * u64::from(op.qkv.columns))?;
    let threads = (columns * key_dim.next_power_of_two()).clamp(32, MAX_DELTA_THREADS);
    let slices = threads / columns;
    let summary = format!("delta rule, {heads} / {key_heads} heads of {key_dim} x {value_dim}");
    let groups = [fixed(heads), fixed(1), fixed(1)];
    let mut kernel = Specialization::new(Template::GatedDelta, summary, threads, groups);
    kernel.define("HEADS", format!("{heads}u"));
    kernel.define("KEY_HEADS", format!("{key_heads}u"));
    kernel.define("KEY_DIM", format!("{key_dim}u"));
    kernel.define("VALUE_DIM", format!("{value_dim}u"));
    kernel.define("QKV_COLUMNS", format!("{}u", op.qkv.columns));
    kernel.define("COLUMNS", format!("{columns}u"));
    kernel.define("SLICES", format!("{slices}u"));
    kernel.define("ROWS", format!("{}u", key_dim.div_ceil(slices)));
    kernel.define_float("QUERY_SCALE", f64::from(key_dim).powf(-0.5) as f32);
    kernel.define_float("EPSILON", op.norm.epsilon);
    for name in ["qkv", "decay", "write_rows", "gate"] {
        kernel.input(name, "float");
    }
    kernel.parameter(library, op.decay_log, "decay_log", "LOAD_LOG")?;
    kernel.parameter(library, op.decay_bias, "decay_bias", "LOAD_DECAY_BIAS")?;
    for id in [op.decay_log, op.decay_bias] {
        kernel.reads.weights += parameter(library, id)?.dtype.size();
    }
    match op.norm.weight {
        Some(weight) => {
            kernel.parameter(library, weight, "norm_weight", "LOAD_NORM_WEIGHT")?;
            kernel.define("WEIGHT(i)", "LOAD_NORM_WEIGHT(norm_weight, i)");
            kernel.reads.weights += parameter(library, weight)?.bytes().unwrap_or(0);
        }
        None => kernel.define("WEIGHT(i)", "1.0f"),
    }
    kernel.output("state", "float");
    kernel.output("output", "float");
    Ok(kernel)
}
