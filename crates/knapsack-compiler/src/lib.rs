//! Compiles a model's graph for one device.
//!
//! In: a [`Graph`] of fine-grained operations from `knapsack-models`, and the window sizes to compile for.
//! Out: a [`ModelLibrary`], which `knapsack-bundle` packages and `knapsack-device` executes. In between, in order:
//! [`passes`] fuse operations until each is one launch, `lower` writes the launches, [`memory`] places their buffers, `codegen`
//! gives GPU targets their kernels. Weights are not needed, only their names and shapes.

mod choose;
pub mod codegen;
mod error;
mod lower;
pub mod memory;
mod name;
pub mod passes;
mod windows;

pub use choose::{
    CHUNK_STEP, CONTEXT_STEP, ChooseError, Chosen, DEFAULT_CHUNK, DEFAULT_CONTEXT, Fixed, GivenSizes, MIN_CHUNK,
    MIN_CONTEXT, Notice, OverBudget, Own, OwnSizes, Reason, Size, choose, fit,
};
pub use error::{CompileError, WindowProblem, WindowProblems};

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{MemoryPlan, ModelInfo, Target};
use knapsack_ir::{Graph, Windows, verify};
use lower::Lowered;

/// `knapsack` and its version, as libraries name it.
pub(crate) const COMPILER: &str = concat!("knapsack ", env!("CARGO_PKG_VERSION"));

/// What to compile, and for what.
#[derive(Clone, Debug)]
pub struct CompileRequest<'a> {
    /// The model, as its family writes it, for the same `windows`.
    pub graph: &'a Graph,
    /// Window sizes.
    pub windows: Windows,
    /// Whose kernels are generated.
    pub target: Target,
    /// The library's name; `None`: one made from the family, the quantization and the library's content.
    pub name: Option<&'a str>,
}

/// Compiles a model.
///
/// # Errors
/// When windows contradict each other, the graph is invalid or not executable, or a size is not representable.
pub fn compile(request: &CompileRequest<'_>) -> Result<ModelLibrary, CompileError> {
    if let Some(name) = request.name {
        name::check(name)?;
    }
    let Lowered { parameters, rope_tables, kv_cache, states, lookups, io, memory, prefill, decode, head } =
        lowered(request.graph, &request.windows)?;
    let (graph, windows) = (request.graph, &request.windows);
    let mut library = ModelLibrary {
        name: String::new(),
        compiler: COMPILER.to_owned(),
        target: request.target,
        model: ModelInfo {
            family: graph.family.clone(),
            quantization: graph.quantization.clone(),
            vocab_size: graph.vocab,
            hidden_size: graph.hidden,
            layers: graph.layers,
            context_window_size: windows.sliding.is_none().then_some(windows.context),
            sliding_window_size: windows.sliding,
            attention_sink_size: if windows.sliding.is_some() { windows.sinks } else { 0 },
            prefill_chunk_size: windows.chunk,
        },
        parameters,
        rope_tables,
        kv_cache,
        states,
        lookups,
        io,
        memory,
        prefill,
        decode,
        head,
        kernels: None,
    };
    codegen::emit(&mut library, request.target)?;
    library.name = match request.name {
        Some(name) => name.to_owned(),
        None => name::of_content(&library),
    };
    library.validate()?;
    Ok(library)
}

/// The device memory of a model, exactly as [`compile`] would plan it, without generating code.
///
/// # Errors
/// As [`compile`].
pub fn plan(graph: &Graph, windows: &Windows) -> Result<MemoryPlan, CompileError> {
    lowered(graph, windows).map(|lowered| lowered.memory)
}

/// Bytes of the largest buffer that a GPU device allocates for a model: a parameter, the keys or the values of a layer, a state,
/// or the workspace.
///
/// # Errors
/// As [`compile`].
pub fn largest_buffer(graph: &Graph, windows: &Windows) -> Result<u64, CompileError> {
    let Lowered { parameters, kv_cache, states, lookups, memory, .. } = lowered(graph, windows)?;
    let in_file: Vec<_> = lookups.iter().flat_map(|lookup| lookup.parameters()).map(|id| id.0 as usize).collect();
    let on_device = parameters.iter().enumerate().filter(|(index, _)| !in_file.contains(index));
    let parameters = on_device.filter_map(|(_, parameter)| parameter.bytes());
    let caches = kv_cache.iter().map(|layer| layer.bytes() / 2);
    let states = states.iter().map(|state| state.bytes());
    Ok(parameters.chain(caches).chain(states).fold(memory.workspace, u64::max))
}

fn lowered(graph: &Graph, windows: &Windows) -> Result<Lowered, CompileError> {
    windows::check_windows(windows)?;
    verify(graph)?;
    let mut graph = graph.clone();
    passes::run_all(&mut graph);
    debug_assert_eq!(verify(&graph), Ok(()), "passes keep the graph valid");
    lower::lower(&graph, windows)
}
