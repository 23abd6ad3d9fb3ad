//! File tests: a graph on top, what the compiler makes of it below.
//!
//! Each `tests/files/*.test` starts with `// pass NAME`, or `// plan context=C chunk=N` with, for a sliding window,
//! `sliding=W sinks=S`. Below the line `----` stands the graph after that pass alone, or the memory plan and the launches after
//! all passes. `KNAPSACK_BLESS=1 cargo test -p knapsack-compiler --test files` writes what stands below anew.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_artifact::plan::{Function, Operand};
use knapsack_compiler::{CompileRequest, compile, passes};
use knapsack_ir::text::{parse, print};
use knapsack_ir::{Graph, Windows, verify};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const SEPARATOR: &str = "----\n";

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "test"));
    files.sort();
    files
}

#[test]
fn files_say_what_the_compiler_does() {
    let bless = std::env::var_os("KNAPSACK_BLESS").is_some();
    let mut wrong = vec![];
    for path in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let (input, expected) = text.split_once(SEPARATOR).unwrap_or((&text, ""));
        let found = run(&path, input);
        if bless {
            std::fs::write(&path, format!("{}\n{SEPARATOR}{found}", input.trim_end())).unwrap();
        } else if found != expected {
            wrong.push(format!("{}: found\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_pass_has_a_file() {
    let names: Vec<String> =
        files().iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    for pass in &passes::PASSES {
        assert!(names.iter().any(|name| name == pass.name), "tests/files/{}.test is missing", pass.name);
    }
}

fn run(path: &Path, input: &str) -> String {
    let fail = |problem: &dyn std::fmt::Display| -> ! { panic!("{}: {problem}", path.display()) };
    let mut graph = parse(input).unwrap_or_else(|error| fail(&error));
    verify(&graph).unwrap_or_else(|error| fail(&error));
    let command = input.lines().next().and_then(|line| line.strip_prefix("// ")).unwrap_or_else(|| fail(&"no command"));
    match command.split_once(' ') {
        Some(("pass", name)) => {
            let pass = passes::PASSES.iter().find(|pass| pass.name == name).unwrap_or_else(|| fail(&"no such pass"));
            pass.run(&mut graph);
            verify(&graph).unwrap_or_else(|error| fail(&error));
            nodes(&graph)
        }
        Some(("plan", sizes)) => {
            let windows = windows(sizes).unwrap_or_else(|| fail(&"sizes"));
            let request = CompileRequest { graph: &graph, windows, target: Target::Host, name: Some("example") };
            plan(&compile(&request).unwrap_or_else(|error| fail(&error)))
        }
        _ => fail(&"no such command"),
    }
}

/// The nodes alone: passes leave declarations as they are.
fn nodes(graph: &Graph) -> String {
    let text = print(graph);
    let lines = text.lines().filter(|line| line.starts_with(['%', 'r']) && !line.starts_with("rope "));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

fn windows(sizes: &str) -> Option<Windows> {
    let mut windows = Windows { context: 0, sliding: None, sinks: 0, chunk: 0 };
    for size in sizes.split(' ') {
        let (name, value) = size.split_once('=')?;
        let value = value.parse().ok()?;
        match name {
            "context" => windows.context = value,
            "sliding" => windows.sliding = Some(value),
            "sinks" => windows.sinks = value,
            "chunk" => windows.chunk = value,
            _ => return None,
        }
    }
    Some(windows)
}

fn plan(library: &ModelLibrary) -> String {
    let mut text = String::new();
    let memory = &library.memory;
    writeln!(text, "weights {} cache {} workspace {}", memory.weights, memory.kv_cache, memory.workspace).unwrap();
    for (index, kv) in library.kv_cache.iter().enumerate() {
        writeln!(text, "cache {index}: {} positions, window {:?}, {} sinks", kv.positions, kv.window, kv.sinks)
            .unwrap();
    }
    let io = &library.io;
    writeln!(text, "tokens at {}, hidden at {}, logits at {}", io.tokens.offset, io.hidden.offset, io.logits.offset)
        .unwrap();
    for table in &library.rope_tables {
        writeln!(text, "rope table at {}", table.rows.offset).unwrap();
    }
    for (name, function) in [("prefill", &library.prefill), ("decode", &library.decode), ("head", &library.head)] {
        writeln!(text, "{name}:").unwrap();
        launches(&mut text, library, function);
    }
    text
}

fn launches(text: &mut String, library: &ModelLibrary, function: &Function) {
    for launch in &function.launches {
        let operand = |operand: Operand| match operand {
            Operand::Tokens => "tokens".to_owned(),
            Operand::RopeTable(index) => format!("rope {index}"),
            Operand::Parameter(id) => library.parameters[id.0 as usize].name.clone(),
            Operand::Input(rows) => format!("in {}x{}", rows.offset, rows.columns),
            Operand::Output(rows) => format!("out {}x{}", rows.offset, rows.columns),
            Operand::Keys(layer) => format!("keys {layer}"),
            Operand::Values(layer) => format!("values {layer}"),
            Operand::State(state) => format!("state {state}"),
        };
        let scratch = launch.scratch.map(|scratch| format!("scratch {}x{}", scratch.offset, scratch.bytes_per_token));
        let operands: Vec<String> = launch.op.operands().into_iter().map(operand).chain(scratch).collect();
        writeln!(text, "  {}: {}", launch.op.name(), operands.join(", ")).unwrap();
    }
}
