//! Reading.

use super::node;
use super::words::Words;
use crate::{Graph, Growth, KvLayer, Node, Parameter, RopeTable, RowCount, StateLayer, Type, ValueId};

/// Most lines of a graph.
const MAX_LINES: usize = 1 << 20;

/// A line that is not part of a graph.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {problem}")]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub struct ParseError {
    /// Counted from 1; one past the last when something is missing.
    pub line: usize,
    pub problem: String,
}

/// Reads a graph. It is well-formed, but not verified.
///
/// # Errors
/// The first line that is not what stands there in the text form.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut graph: Option<Graph> = None;
    let mut output = None;
    let mut last = 0;
    for (index, line) in text.lines().enumerate() {
        last = index + 1;
        let at = |problem: String| ParseError { line: index + 1, problem };
        let line = line.split_once("//").map_or(line, |(code, _)| code).trim();
        if index >= MAX_LINES {
            return Err(at("too many lines".to_owned()));
        }
        match (&mut graph, line.is_empty()) {
            (_, true) => {}
            (_, false) if output.is_some() => return Err(at("the graph has returned already".to_owned())),
            (None, false) => graph = Some(header(line).map_err(at)?),
            (Some(graph), false) => output = declaration_or_node(graph, line).map_err(at)?,
        }
    }
    let missing = |problem: &str| ParseError { line: last + 1, problem: problem.to_owned() };
    let mut graph = graph.ok_or_else(|| missing("no graph"))?;
    graph.output = output.ok_or_else(|| missing("no return"))?;
    Ok(graph)
}

fn header(line: &str) -> Result<Graph, String> {
    let mut words = Words::of(line);
    if words.next()? != "graph" {
        return Err("`graph` is expected first".to_owned());
    }
    let graph = Graph {
        family: words.next()?.to_owned(),
        quantization: words.next()?.to_owned(),
        vocab: words.keyed("vocab")?,
        hidden: words.keyed("hidden")?,
        layers: words.keyed("layers")?,
        parameters: vec![],
        rope_tables: vec![],
        kv_layers: vec![],
        states: vec![],
        nodes: vec![],
        output: ValueId(0),
    };
    words.end().map(|()| graph)
}

/// Reads one line; `Some` for the return.
fn declaration_or_node(graph: &mut Graph, line: &str) -> Result<Option<ValueId>, String> {
    let mut words = Words::of(line);
    match words.next()? {
        "return" => {
            let value = words.value()?;
            return words.end().map(|()| Some(value));
        }
        "param" => {
            let number = words.parameter()?.0 as usize;
            if number != graph.parameters.len() {
                return Err(format!("parameter {} is expected, not {number}", graph.parameters.len()));
            }
            graph.parameters.push(parameter(&mut words)?);
        }
        "rope" => {
            let magnitude = words.keyed("magnitude")?;
            let growth = words.optional("growth", |text| {
                let mut parts = Words::split(text, ':');
                let growth = Growth { beta: parts.number()?, original: parts.number()? };
                parts.end().map(|()| growth)
            })?;
            let mut frequencies = vec![];
            while let Ok(word) = words.next() {
                frequencies.push(Words::plain(word)?);
            }
            graph.rope_tables.push(RopeTable { frequencies, magnitude, growth });
        }
        "cache" => graph.kv_layers.push(KvLayer {
            kv_heads: words.keyed("heads")?,
            head_dim: words.keyed("head_dim")?,
            window: words.optional("window", Words::plain)?,
            sinks: words.keyed("sinks")?,
            dtype: words.keyed("dtype")?,
        }),
        "state" => graph.states.push(match words.next()? {
            "conv" => StateLayer::Conv { channels: words.keyed("channels")?, taps: words.keyed("taps")? },
            "delta" => StateLayer::Delta {
                heads: words.keyed("heads")?,
                key_dim: words.keyed("key_dim")?,
                value_dim: words.keyed("value_dim")?,
            },
            other => return Err(format!("no state `{other}`")),
        }),
        first => {
            let mut results = vec![];
            let mut word = first;
            while word != "=" {
                results.push(result(word)?);
                word = words.next()?;
            }
            let name = words.next()?;
            graph.nodes.push(Node { op: node::read(name, &mut words)?, results });
        }
    }
    words.end().map(|()| None)
}

fn parameter(words: &mut Words<'_>) -> Result<Parameter, String> {
    let name = words.next()?.to_owned();
    let (dtype, dims) = brackets(words.next()?)?;
    let shape = dims.split(',').map(Words::plain).collect::<Result<_, _>>()?;
    Ok(Parameter { name, shape, dtype: Words::plain(dtype)? })
}

fn brackets(word: &str) -> Result<(&str, &str), String> {
    let parts = word.strip_suffix(']').and_then(|word| word.split_once('['));
    parts.ok_or_else(|| format!("`{word}` has no brackets"))
}

fn result(word: &str) -> Result<(ValueId, Type), String> {
    let (id, ty) = word.split_once(':').ok_or_else(|| format!("`{word}` has no type"))?;
    let id = Words::plain_value(id)?;
    if ty == "tokens" {
        return Ok((id, Type::Tokens));
    }
    let (kind, inside) = brackets(ty)?;
    let pair = || inside.split_once(',').ok_or_else(|| format!("`{ty}` has one axis"));
    let ty = match kind {
        "cache" => Type::Cache(Words::plain(inside)?),
        "matrix" => {
            let (rows, columns) = pair()?;
            Type::Matrix { rows: Words::plain(rows)?, columns: Words::plain(columns)? }
        }
        "f32" => {
            let (count, columns) = pair()?;
            let count = match count {
                "n" => RowCount::Tokens,
                "1" => RowCount::One,
                other => return Err(format!("`{other}` rows")),
            };
            Type::Rows { count, columns: Words::plain(columns)? }
        }
        other => return Err(format!("no type `{other}`")),
    };
    Ok((id, ty))
}
