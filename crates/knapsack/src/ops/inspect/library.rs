//! A model library: metadata, memory, plan, kernels.

use super::Show;
use crate::report::Reporter;
use crate::table::{Align, Table, bytes};
use anyhow::Result;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{Target, Tiles};
use knapsack_artifact::plan::{Function, KvLayer, Op, StateLayer};
use knapsack_compiler::codegen::{KernelTraffic, Roof, ThreadCount, TokenCost, Traffic, count_threads, kernel_traffic};
use knapsack_config::Gpu;
use serde_json::{Value, json};
use std::fmt::Write;

/// A library and where it was found.
pub(in crate::ops) struct FoundLibrary {
    pub(in crate::ops) library: ModelLibrary,
    pub(in crate::ops) blob: Vec<u8>,
    pub(in crate::ops) places: Vec<Place>,
}

/// A slice of a file.
#[derive(serde::Serialize)]
pub(in crate::ops) struct Place {
    pub(super) file: String,
    pub(super) slice: String,
}

/// Shows libraries.
pub(super) fn show(libraries: &[FoundLibrary], show: Show, reporter: &Reporter) -> Result<()> {
    if show.json {
        let list: Vec<_> = libraries.iter().map(|found| value(found, show)).collect();
        return reporter.line(json!({ "kind": "library", "libraries": list }));
    }
    for (index, found) in libraries.iter().enumerate() {
        let text = describe(found, show);
        reporter.stdout(|out| write!(out, "{}{text}", if index == 0 { "" } else { "\n" }))?;
    }
    Ok(())
}

/// The library as JSON: everything but the kernels' source, which comes with `--kernels`.
pub(super) fn value(found: &FoundLibrary, show: Show) -> Value {
    let library = &found.library;
    let mut value = serde_json::to_value(library).unwrap_or_default();
    if let Some(kernels) = value.get_mut("kernels").and_then(Value::as_object_mut)
        && !show.kernels
    {
        let bytes = library.kernels.as_ref().map_or(0, |module| module.source.len());
        kernels.insert("source_bytes".into(), bytes.into());
        kernels.remove("source");
    }
    if let Some(memory) = value.get_mut("memory").and_then(Value::as_object_mut) {
        memory.insert("total".into(), library.memory.total().into());
    }
    if let Some(fields) = value.as_object_mut() {
        fields.insert("bytes".into(), found.blob.len().into());
        fields.insert("places".into(), json!(found.places));
        if show.kernels {
            let (table, threads) = counted(library);
            let rows = table.iter().enumerate().map(|(index, row)| traffic_value(row, threads.get(index)));
            fields.insert("traffic".into(), rows.collect());
            if let Some(cost) = TokenCost::sum(&table, &threads) {
                let value = json!({
                    "bytes": cost.bytes,
                    "operations": cost.operations,
                    "roofs": roofs(library, &cost).map(|(gpu, roof)| json!({
                        "gpu": gpu.name,
                        "by_bandwidth": roof.by_bandwidth,
                        "by_arithmetic": roof.by_arithmetic,
                        "binds": roof.binds(),
                    })).collect::<Vec<_>>(),
                });
                fields.insert("token".into(), value);
            }
        }
    }
    value
}

/// What kernels move, and what a thread of each does; nothing of the latter where the source is not this compiler's.
fn counted(library: &ModelLibrary) -> (Vec<KernelTraffic>, Vec<ThreadCount>) {
    let table = kernel_traffic(library);
    let threads = count_threads(library, &table, true, Tiles::default()).unwrap_or_default();
    (table, threads)
}

/// The roofs of a token on the GPUs that run such a library.
fn roofs(library: &ModelLibrary, cost: &TokenCost) -> impl Iterator<Item = (&'static Gpu, Roof)> {
    let apple = library.target == Target::Metal;
    let gpus = Gpu::all().iter().filter(move |gpu| gpu.name.starts_with("apple-") == apple);
    let cost = *cost;
    gpus.map(move |gpu| (gpu, cost.roof(gpu.bytes_per_second(), gpu.operations_per_second())))
}

fn traffic_value(row: &KernelTraffic, thread: Option<&ThreadCount>) -> Value {
    let traffic = |t: &Traffic| json!({ "weights": t.weights, "cache": t.cache, "activations": t.activations });
    json!({
        "function": row.function,
        "kernel": row.kernel,
        "summary": row.summary,
        "launches": row.launches,
        "groups": row.groups,
        "threads": row.threads,
        "must": traffic(&row.must),
        "moves": traffic(&row.moves),
        "ratio": row.ratio(),
        "filled": row.filled(),
        "operations": thread.map(|thread| row.operations(thread)),
        "operations_per_weight": thread.and_then(|thread| row.operations_per_weight(thread)),
    })
}

fn describe(found: &FoundLibrary, show: Show) -> String {
    let library = &found.library;
    let model = &library.model;
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "  {label:<11}{value}");
    };
    let target = format!("{:?}", library.target).to_lowercase();
    line("for", format!("{target}, by {}, {}", library.compiler, bytes(found.blob.len() as u64)));
    line(
        "model",
        format!(
            "{} {}, {} layers of {}, vocabulary {}",
            model.family, model.quantization, model.layers, model.hidden_size, model.vocab_size
        ),
    );
    line("windows", windows(library));
    line("memory", memory(library));
    line("KV cache", kv_cache(&library.kv_cache));
    if !library.states.is_empty() {
        line("state", states(&library.states));
    }
    line("weights", format!("{} tensors", library.parameters.len()));
    for (name, function) in [("prefill", &library.prefill), ("decode", &library.decode), ("head", &library.head)] {
        line(name, format!("{} launches: {}", function.launches.len(), operations(function)));
    }
    if let Some(module) = &library.kernels {
        line(
            "kernels",
            format!("{} entry points, {} of source", module.kernels.len(), bytes(module.source.len() as u64)),
        );
    }
    for (index, place) in found.places.iter().enumerate() {
        line(if index == 0 { "found in" } else { "" }, format!("{} ({})", place.file, place.slice));
    }
    let mut full = format!("Library {}\n{text}", library.name);
    if show.verbose {
        full.push_str(&plan(library));
    }
    if show.kernels {
        full.push_str(&kernels(library));
    }
    full
}

/// The window sizes, as people say them.
pub(in crate::ops) fn windows(library: &ModelLibrary) -> String {
    let model = &library.model;
    let window = match (model.context_window_size, model.sliding_window_size) {
        (_, Some(window)) => format!("sliding window {window}, {} attention sinks", model.attention_sink_size),
        (Some(context), None) => format!("context {context}"),
        (None, None) => "no context limit".to_string(),
    };
    format!("{window}, prefill chunk {}", model.prefill_chunk_size)
}

/// The memory plan, with exact bytes.
pub(super) fn memory(library: &ModelLibrary) -> String {
    let memory = &library.memory;
    let parts: Vec<_> = memory.parts().map(|(name, count)| format!("{name} {}", bytes(count))).collect();
    let file = if memory.file > 0 { format!("; {} stay in the file", bytes(memory.file)) } else { String::new() };
    format!("{} ({}; {} bytes{file})", bytes(memory.total()), parts.join(", "), memory.total())
}

fn kv_cache(layers: &[KvLayer]) -> String {
    let mut groups: Vec<(KvLayer, usize)> = Vec::new();
    for layer in layers {
        match groups.iter_mut().find(|(known, _)| known == layer) {
            Some((_, count)) => *count += 1,
            None => groups.push((*layer, 1)),
        }
    }
    let group = |(layer, count): &(KvLayer, usize)| {
        let window = layer.window.map(|window| format!(", window {window}")).unwrap_or_default();
        let (heads, dim, positions) = (layer.kv_heads, layer.head_dim, layer.positions);
        format!("{count} x {heads} heads of {dim}, {positions} positions{window}, {}", layer.dtype)
    };
    groups.iter().map(group).collect::<Vec<_>>().join("; ")
}

/// What recurrent layers remember.
fn states(states: &[StateLayer]) -> String {
    let mut groups: Vec<(StateLayer, usize)> = Vec::new();
    for state in states {
        match groups.iter_mut().find(|(known, _)| known == state) {
            Some((_, count)) => *count += 1,
            None => groups.push((*state, 1)),
        }
    }
    let group = |(state, count): &(StateLayer, usize)| match state {
        StateLayer::Conv { channels, taps } => format!("{count} x {channels} channels, {taps} taps"),
        StateLayer::Delta { heads, key_dim, value_dim } => {
            format!("{count} x {heads} heads of {key_dim} x {value_dim}")
        }
    };
    groups.iter().map(group).collect::<Vec<_>>().join("; ")
}

/// `embed 1, linear 64, …` in order of first use.
fn operations(function: &Function) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for launch in &function.launches {
        let name = launch.op.name();
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn plan(library: &ModelLibrary) -> String {
    let mut text = String::new();
    for (name, function) in [("prefill", &library.prefill), ("decode", &library.decode), ("head", &library.head)] {
        let mut table = Table::new(&[
            ("#", Align::Right),
            ("operation", Align::Left),
            ("shape", Align::Left),
            ("kernel", Align::Left),
            ("weights", Align::Left),
        ]);
        for (index, launch) in function.launches.iter().enumerate() {
            let kernel = launch.gpu.as_ref().zip(library.kernels.as_ref());
            let kernel = kernel.and_then(|(call, module)| module.kernels.get(call.kernel as usize));
            let kernel = kernel.map_or_else(String::new, |kernel| kernel.name.clone());
            table.row([
                index.to_string(),
                launch.op.name().into(),
                shape(&launch.op),
                kernel,
                weights(library, &launch.op),
            ]);
        }
        let _ = write!(text, "\n{name}\n{table}");
    }
    text
}

fn shape(op: &Op) -> String {
    match op {
        Op::Embed(op) => format!("{} x {}", op.vocab, op.output.columns),
        Op::Norm(op) => op.output.columns.to_string(),
        Op::AddNorm(op) => op.sum.columns.to_string(),
        Op::Linear(op) => format!("{} -> {}", op.input.columns, op.out_features),
        Op::RopeAppend(op) => format!("{} + 2 x {} heads of {}", op.heads, op.kv_heads, op.head_dim),
        Op::Attention(op) => format!("{} / {} heads of {}", op.heads, op.kv_heads, op.head_dim),
        Op::RopeQuery(op) => format!("{} heads of {}", op.heads, op.head_dim),
        Op::Select(op) => op.output.columns.to_string(),
        Op::CausalConv(op) => format!("{} channels, {} taps", op.output.columns, op.taps),
        Op::GatedDelta(op) => format!("{} / {} heads of {} x {}", op.heads, op.key_heads, op.key_dim, op.value_dim),
    }
}

/// Names of the parameters that a launch reads.
fn weights(library: &ModelLibrary, op: &Op) -> String {
    let names = op.operands().into_iter().filter_map(|operand| match operand {
        knapsack_artifact::plan::Operand::Parameter(id) => library.parameters.get(id.0 as usize).map(|p| &*p.name),
        _ => None,
    });
    names.collect::<Vec<_>>().join(" ")
}

fn kernels(library: &ModelLibrary) -> String {
    let Some(module) = &library.kernels else { return "\nno kernels: the host's device has its own routines\n".into() };
    let mut table = Table::new(&[
        ("function", Align::Left),
        ("kernel", Align::Left),
        ("launches", Align::Right),
        ("groups", Align::Right),
        ("threads", Align::Right),
        ("weights", Align::Right),
        ("cache", Align::Right),
        ("activations", Align::Right),
        ("moved/must", Align::Right),
        ("filled", Align::Right),
        ("operations", Align::Right),
        ("a weight", Align::Right),
    ]);
    let (rows, threads) = counted(library);
    for (index, row) in rows.iter().enumerate() {
        let thread = threads.get(index);
        let unknown = || "-".to_owned();
        table.row([
            row.function.into(),
            row.kernel.clone(),
            row.launches.to_string(),
            row.groups.to_string(),
            row.threads.to_string(),
            bytes(row.moves.weights),
            bytes(row.moves.cache),
            bytes(row.moves.activations),
            format!("{:.2}", row.ratio()),
            format!("{:.0} %", 100.0 * row.filled()),
            thread.map_or_else(unknown, |thread| row.operations(thread).to_string()),
            thread
                .and_then(|thread| row.operations_per_weight(thread))
                .map_or_else(unknown, |each| format!("{each:.2}")),
        ]);
    }
    let roofs = TokenCost::sum(&rows, &threads).map(|cost| roof_table(library, &cost)).unwrap_or_default();
    let source = module.source.trim_end();
    format!(
        "\nkernels, with the bytes that all their launches move and the operations of their threads\n{table}{roofs}\n{source}\n"
    )
}

/// Tokens a second at most, GPU by GPU.
fn roof_table(library: &ModelLibrary, cost: &TokenCost) -> String {
    let mut table = Table::new(&[
        ("GPU", Align::Left),
        ("by bandwidth", Align::Right),
        ("by arithmetic", Align::Right),
        ("binds", Align::Left),
    ]);
    for (gpu, roof) in roofs(library, cost) {
        let [bandwidth, arithmetic] = [roof.by_bandwidth, roof.by_arithmetic].map(|rate| format!("{rate:.1}"));
        table.row([gpu.title.clone(), bandwidth, arithmetic, roof.binds().to_owned()]);
    }
    let (moved, operations) = (bytes(cost.bytes), cost.operations);
    format!(
        "\na token with the cache full moves {moved} and takes {operations} operations (counted): tokens/s at most\n{table}"
    )
}
