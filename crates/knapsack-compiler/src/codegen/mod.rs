//! Code generation: gives every launch of a plan a GPU kernel.
//!
//! In comes a library as [`crate`] plans it, out comes the same library with a [`KernelCall`] on every launch and one
//! `KernelModule` that holds each distinct kernel once. Kernels are written once, in the common subset of OpenCL C and the
//! Metal Shading Language (`kernels/*.kernel`); `kernels/*.prelude` maps that subset to each language. A kernel is specialised
//! for a launch's shapes by macros that stand before it and are undefined after it.
//!
//! What differs between GPUs of one language stays a switch in the source, for the device to set when it builds it
//! ([`FP16_SWITCH`], [`SUBGROUPS_SWITCH`], [`TILES_SWITCH`]): half or single precision products, reductions through subgroups or
//! local memory, tiles in local memory, in registers or as matrices of simdgroups.

mod attention;
mod count;
mod grouped;
mod linear;
pub mod metallib;
mod module;
mod recurrent;
mod roof;
mod rows;
mod top;
mod traffic;

pub use count::ThreadCount;
pub use roof::{Roof, TokenCost};
pub use traffic::{KernelTraffic, Traffic, count_threads, kernel_traffic};

use knapsack_artifact::library::{KernelModule, Target, Top};
use knapsack_artifact::plan::{Function, KernelCall, Launch, Op};
use knapsack_artifact::{ModelLibrary, plan};
use module::{ModuleBuilder, Specialization};

/// Macro that selects half precision products in linear layers when it is 1; needs `cl_khr_fp16` in OpenCL.
pub const FP16_SWITCH: &str = "KNAPSACK_FP16";
/// Macro that selects reductions through subgroups (simdgroups) when it is 1.
pub const SUBGROUPS_SWITCH: &str = "KNAPSACK_SUBGROUPS";
/// Macro that selects how products of many tokens are tiled: [`knapsack_artifact::library::Tiles`].
pub const TILES_SWITCH: &str = "KNAPSACK_TILES";

/// A launch that no kernel can execute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no kernel for {function} launch {index} ({op}): {problem}")]
pub struct CodegenError {
    /// `prefill`, `decode` or `head`.
    pub function: &'static str,
    /// Position of the launch in it.
    pub index: usize,
    /// The operation's name.
    pub op: &'static str,
    /// What stands against it, with the values.
    pub problem: String,
}

/// How many tokens a function processes, which decides between kernels for one row and for tiles of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tokens {
    /// Exactly one.
    One,
    /// Any number up to the chunk.
    Many,
}

/// Gives every launch of `library` a kernel for `target` and sets the library's target. For [`Target::Host`] it removes them.
///
/// # Errors
/// The first launch that no kernel can execute; the library is unchanged then.
pub fn emit(library: &mut ModelLibrary, target: Target) -> Result<(), CodegenError> {
    if target == Target::Host {
        for function in [&mut library.prefill, &mut library.decode, &mut library.head] {
            function.launches.iter_mut().for_each(|launch| launch.gpu = None);
        }
        (library.target, library.kernels) = (target, None);
        return Ok(());
    }
    let mut builder = ModuleBuilder::new(target);
    let mut calls = Vec::with_capacity(3);
    for (name, function, tokens) in functions(library) {
        calls.push(emit_function(library, name, function, tokens, &mut builder)?);
    }
    for (function, calls) in [&mut library.prefill, &mut library.decode, &mut library.head].into_iter().zip(calls) {
        for (launch, call) in function.launches.iter_mut().zip(calls) {
            launch.gpu = call;
        }
    }
    let top: Vec<Top> = top::COUNTS.map(|count| Top { count, gpu: builder.call(top::top(library, count), 1) }).into();
    let module = builder.finish();
    (library.target, library.kernels) = (target, Some(KernelModule { top, ..module }));
    Ok(())
}

fn functions(library: &ModelLibrary) -> [(&'static str, &Function, Tokens); 3] {
    [
        ("prefill", &library.prefill, Tokens::Many),
        ("decode", &library.decode, Tokens::One),
        ("head", &library.head, Tokens::One),
    ]
}

fn emit_function(
    library: &ModelLibrary,
    name: &'static str,
    function: &Function,
    tokens: Tokens,
    builder: &mut ModuleBuilder,
) -> Result<Vec<Option<KernelCall>>, CodegenError> {
    let launches = &function.launches;
    let mut calls = Vec::with_capacity(launches.len());
    while calls.len() < launches.len() {
        let index = calls.len();
        let (specialization, count) = specialize(library, &launches[index..], tokens)
            .map_err(|problem| CodegenError { function: name, index, op: launches[index].op.name(), problem })?;
        calls.push(Some(builder.call(specialization, count)));
        calls.resize(index + count, None);
    }
    Ok(calls)
}

/// The kernel of the first of these launches, with its grid, and how many of them it executes. Linear layers of the same rows
/// that differ only in their weights go together: each of them alone leaves much of a GPU idle.
fn specialize(library: &ModelLibrary, launches: &[Launch], tokens: Tokens) -> Result<(Specialization, usize), String> {
    let mut kernels = vec![specialize_one(library, &launches[0], tokens)?];
    for launch in launches.iter().take(module::MOST_TOGETHER).skip(1) {
        let (Op::Linear(first), Op::Linear(next)) = (&launches[0].op, &launch.op) else { break };
        if first.input != next.input || first.output == next.output {
            break;
        }
        let next = linear::linear(library, next, tokens)?;
        if !kernels[0].goes_with(&next) {
            break;
        }
        kernels.push(next);
    }
    let count = kernels.len();
    Ok((Specialization::together(kernels), count))
}

/// The kernel of one launch, with its grid.
fn specialize_one(library: &ModelLibrary, launch: &Launch, tokens: Tokens) -> Result<Specialization, String> {
    match &launch.op {
        Op::Embed(op) => rows::embed(library, op),
        Op::Norm(op) => rows::norm(library, op),
        Op::AddNorm(op) => rows::add_norm(library, op),
        Op::Linear(op) => linear::linear(library, op, tokens),
        Op::RopeAppend(op) => attention::rope_append(library, op),
        Op::Attention(op) => attention::attention(library, op, launch.scratch, tokens),
        Op::CausalConv(op) => recurrent::causal_conv(library, op),
        Op::GatedDelta(op) => recurrent::gated_delta(library, op),
        Op::RopeQuery(op) => attention::rope_query(library, op),
        Op::Select(op) => rows::select(library, op),
    }
}

/// Looks a parameter up.
fn parameter(library: &ModelLibrary, id: plan::ParameterId) -> Result<&knapsack_artifact::library::Parameter, String> {
    library.parameters.get(id.0 as usize).ok_or_else(|| format!("there is no parameter {}", id.0))
}
