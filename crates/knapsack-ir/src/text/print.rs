//! Writing.

use super::node::{Optional, Text};
use crate::{Graph, StateLayer};
use std::fmt::{self, Write};

/// The text form of a graph. [`super::parse`] gives the same graph back.
pub fn print(graph: &Graph) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_graph(&mut text, graph);
    text
}

fn write_graph(out: &mut String, graph: &Graph) -> fmt::Result {
    let Graph { family, quantization, vocab, hidden, layers, .. } = graph;
    writeln!(out, "graph {family} {quantization} vocab={vocab} hidden={hidden} layers={layers}")?;
    for (index, parameter) in graph.parameters.iter().enumerate() {
        let dims: Vec<String> = parameter.shape.iter().map(u64::to_string).collect();
        writeln!(out, "param @{index} {} {}[{}]", parameter.name, parameter.dtype, dims.join(","))?;
    }
    for table in &graph.rope_tables {
        let growth = Optional(table.growth.map(|growth| format!("{}:{}", growth.beta, growth.original)));
        write!(out, "rope magnitude={} growth={growth}", table.magnitude)?;
        for frequency in &table.frequencies {
            write!(out, " {frequency}")?;
        }
        writeln!(out)?;
    }
    for kv in &graph.kv_layers {
        let window = Optional(kv.window);
        writeln!(
            out,
            "cache heads={} head_dim={} window={window} sinks={} dtype={}",
            kv.kv_heads, kv.head_dim, kv.sinks, kv.dtype
        )?;
    }
    for state in &graph.states {
        match state {
            StateLayer::Conv { channels, taps } => writeln!(out, "state conv channels={channels} taps={taps}")?,
            StateLayer::Delta { heads, key_dim, value_dim } => {
                writeln!(out, "state delta heads={heads} key_dim={key_dim} value_dim={value_dim}")?;
            }
        }
    }
    for node in &graph.nodes {
        let results: Vec<String> = node.results.iter().map(|(id, ty)| format!("{id}:{ty}")).collect();
        writeln!(out, "{} = {}", results.join(" "), Text(&node.op))?;
    }
    writeln!(out, "return {}", graph.output)
}
