//! One operation, written and read. The two halves stand side by side so that they stay inverse.

use super::words::Words;
use crate::{
    AttentionGate, CausalConv, Columns, Epilogue, GatedDelta, Linear, Norm, NormPlace, Op, QkvOrder, RopeAppend,
    Storage, Weight,
};
use knapsack_tensor::{Activation, GroupFormat, Layout, NormKind};
use std::fmt;

/// An operation's text.
pub(super) struct Text<'a>(pub(super) &'a Op);

/// `-` where there is nothing.
pub(super) struct Optional<T>(pub(super) Option<T>);

impl<T: fmt::Display> fmt::Display for Optional<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

struct ShowWeight<'a>(&'a Weight);
struct ShowNorm<'a>(&'a Norm);
struct ShowGate(AttentionGate);

impl fmt::Display for ShowGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttentionGate { rows, columns: Columns { start, width, count, stride } } = self.0;
        write!(f, "{rows}:{start}:{width}:{count}:{stride}")
    }
}

impl fmt::Display for ShowWeight<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Weight { storage, rows, columns } = self.0;
        match storage {
            Storage::Dense(id) => write!(f, "dense:{id}")?,
            Storage::Grouped { codes, scales, format: GroupFormat { bits, group, layout, scale } } => {
                let layout = if *layout == Layout::Nk { "NK" } else { "KN" };
                write!(f, "{bits}:{group}:{layout}:{scale}:{codes}:{scales}")?;
            }
        }
        write!(f, ":{rows}x{columns}")
    }
}

impl fmt::Display for ShowNorm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Norm { kind, epsilon, width, weight, bias } = self.0;
        let kind = if *kind == NormKind::Rms { "rms" } else { "layer" };
        write!(f, "{kind}:{epsilon}:{width}:{}:{}", Optional(*weight), Optional(*bias))
    }
}

fn norm(norm: &Option<Norm>) -> Optional<ShowNorm<'_>> {
    Optional(norm.as_ref().map(ShowNorm))
}

pub(super) const ACTIVATIONS: [(&str, Activation); 4] = [
    ("silu", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_tanh", Activation::GeluTanh),
    ("relu", Activation::Relu),
];

fn activation(function: Activation) -> &'static str {
    ACTIVATIONS.iter().find(|(_, other)| *other == function).map_or("-", |(name, _)| name)
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.name())?;
        match self.0 {
            Op::Tokens => Ok(()),
            Op::Dequantize(weight) => write!(f, " {}", ShowWeight(weight)),
            Op::Embed { table: a, tokens: b, .. }
            | Op::Matmul { input: a, weight: b }
            | Op::Add { a, b }
            | Op::Mul { a, b } => write!(f, " {a} {b}"),
            Op::Bias { input, bias } => write!(f, " {input} {bias}"),
            Op::ScaleBy { input, factor } => write!(f, " {input} {factor}"),
            Op::RopeQuery { input, head_dim, rotary, table, norm: how } => {
                write!(f, " {input} table={table} head_dim={head_dim} rotary={rotary} norm={}", norm(how))
            }
            Op::Scale { input, factor: number } | Op::SoftCap { input, cap: number } => write!(f, " {input} {number}"),
            Op::Activation { input, function } => write!(f, " {input} {}", activation(*function)),
            Op::Slice { input, columns: Columns { start, width, count, stride } } => {
                write!(f, " {input} {start}:{width}:{count}:{stride}")
            }
            Op::Norm { input, norm } | Op::NormSelected { input, norm } => write!(f, " {input} {}", ShowNorm(norm)),
            Op::Rope { input, table, head_dim, rotary } => {
                write!(f, " {input} table={table} head_dim={head_dim} rotary={rotary}")
            }
            Op::Append { key, value, layer } => write!(f, " {key} {value} layer={layer}"),
            Op::Attention { query, cache, scale, soft_cap, gate } => {
                let gate = Optional(gate.map(ShowGate));
                write!(f, " {query} {cache} scale={scale} soft_cap={} gate={gate}", Optional(*soft_cap))
            }
            Op::Gate { input, gate } => write!(f, " {input} {gate}"),
            Op::CausalConv(op) => write_causal_conv(f, op),
            Op::GatedDelta(op) => {
                let GatedDelta { qkv, decay, write, gate, decay_log, decay_bias, norm, key_heads, state } = op;
                write!(f, " {qkv} {decay} {write} {gate} {decay_log} {decay_bias} norm={}", ShowNorm(norm))?;
                write!(f, " key_heads={key_heads} state={state}")
            }
            Op::SelectRow { input } => write!(f, " {input}"),
            Op::EmbedRows { table, tokens, scale, .. } => write!(f, " {} {tokens} scale={scale}", ShowWeight(table)),
            Op::Linear(linear) => write_linear(f, linear),
            Op::AddNorm { residual, delta, pre, scale, post } => {
                let scale = Optional(*scale);
                write!(f, " {residual} {delta} pre={} scale={scale} post={}", norm(pre), norm(post))
            }
            Op::RopeAppend(op) => write_rope_append(f, op),
        }
    }
}

fn write_linear(f: &mut fmt::Formatter<'_>, linear: &Linear) -> fmt::Result {
    let Linear { input, weight, bias, epilogue } = linear;
    write!(f, " {input} {} bias={} then=", ShowWeight(weight), Optional(*bias))?;
    match epilogue {
        Epilogue::None => write!(f, "-"),
        Epilogue::Activation(function) => write!(f, "{}", activation(*function)),
        Epilogue::Gated(function) => write!(f, "gated:{}", activation(*function)),
        Epilogue::ActivationTimes { function, other, start } => {
            write!(f, "times:{}:{other}:{start}", activation(*function))
        }
        Epilogue::Add(residual) => write!(f, "add:{residual}"),
        Epilogue::SoftCap(cap) => write!(f, "soft_cap:{cap}"),
        Epilogue::Scale(factor) => write!(f, "scale:{factor}"),
    }
}

fn write_causal_conv(f: &mut fmt::Formatter<'_>, op: &CausalConv) -> fmt::Result {
    let CausalConv { input, start, gate_in, gate_out, weight, bias, activation: then, state } = op;
    write!(f, " {input} {weight} bias={} start={start} in={}", Optional(*bias), Optional(*gate_in))?;
    write!(f, " out={} then={} state={state}", Optional(*gate_out), Optional(then.map(activation)))
}

const ORDERS: [(QkvOrder, &str); 3] =
    [(QkvOrder::Sections, "sections"), (QkvOrder::PerHead, "per_head"), (QkvOrder::Gated, "gated")];

const PLACES: [(NormPlace, &str); 3] =
    [(NormPlace::Heads, "heads"), (NormPlace::Row, "row"), (NormPlace::Rotated, "rotated")];

fn write_rope_append(f: &mut fmt::Formatter<'_>, op: &RopeAppend) -> fmt::Result {
    let apart = Optional(op.apart.map(|[keys, values]| format!("{keys}:{values}")));
    let order = ORDERS.iter().find(|(order, _)| *order == op.order).map_or("", |(_, name)| name);
    write!(f, " {} apart={apart} order={order} heads={} rotary={} table={}", op.qkv, op.heads, op.rotary, op.table)?;
    let place = PLACES.iter().find(|(place, _)| *place == op.place).map_or("", |(_, name)| name);
    write!(f, " q_table={} norms={place}", op.query_table)?;
    write!(f, " q_norm={} k_norm={}", norm(&op.query_norm), norm(&op.key_norm))?;
    write!(f, " v_norm={} layer={}", norm(&op.value_norm), op.layer)
}

/// Reads an operation of which the name is read already.
pub(super) fn read(name: &str, words: &mut Words<'_>) -> Result<Op, String> {
    Ok(match name {
        "tokens" => Op::Tokens,
        "dequantize" => Op::Dequantize(read_weight(words)?),
        "embed" | "embed_on_host" => {
            Op::Embed { table: words.value()?, tokens: words.value()?, on_host: name == "embed_on_host" }
        }
        "scale_by" => Op::ScaleBy { input: words.value()?, factor: words.parameter()? },
        "rope_query" => Op::RopeQuery {
            input: words.value()?,
            table: words.keyed("table")?,
            head_dim: words.keyed("head_dim")?,
            rotary: words.keyed("rotary")?,
            norm: words.optional("norm", read_norm)?,
        },
        "matmul" => Op::Matmul { input: words.value()?, weight: words.value()? },
        "bias" => Op::Bias { input: words.value()?, bias: words.parameter()? },
        "add" => Op::Add { a: words.value()?, b: words.value()? },
        "mul" => Op::Mul { a: words.value()?, b: words.value()? },
        "scale" => Op::Scale { input: words.value()?, factor: words.number()? },
        "soft_cap" => Op::SoftCap { input: words.value()?, cap: words.number()? },
        "activation" => Op::Activation { input: words.value()?, function: read_activation(words.next()?)? },
        "slice" => {
            let input = words.value()?;
            Op::Slice { input, columns: read_columns(&mut words.parts()?)? }
        }
        "norm" => Op::Norm { input: words.value()?, norm: read_norm(words.next()?)? },
        "norm_selected" => Op::NormSelected { input: words.value()?, norm: read_norm(words.next()?)? },
        "rope" => Op::Rope {
            input: words.value()?,
            table: words.keyed("table")?,
            head_dim: words.keyed("head_dim")?,
            rotary: words.keyed("rotary")?,
        },
        "append" => Op::Append { key: words.value()?, value: words.value()?, layer: words.keyed("layer")? },
        "attention" => Op::Attention {
            query: words.value()?,
            cache: words.value()?,
            scale: words.keyed("scale")?,
            soft_cap: words.optional("soft_cap", Words::plain)?,
            gate: words.optional("gate", |text| {
                let mut parts = Words::split(text, ':');
                let (rows, columns) = (parts.value()?, read_columns(&mut parts)?);
                Ok(AttentionGate { rows, columns })
            })?,
        },
        "gate" => Op::Gate { input: words.value()?, gate: words.value()? },
        "causal_conv" => Op::CausalConv(CausalConv {
            input: words.value()?,
            weight: words.parameter()?,
            bias: words.optional("bias", Words::plain_parameter)?,
            start: words.keyed("start")?,
            gate_in: words.optional("in", Words::plain)?,
            gate_out: words.optional("out", Words::plain)?,
            activation: words.optional("then", read_activation)?,
            state: words.keyed("state")?,
        }),
        "gated_delta" => Op::GatedDelta(GatedDelta {
            qkv: words.value()?,
            decay: words.value()?,
            write: words.value()?,
            gate: words.value()?,
            decay_log: words.parameter()?,
            decay_bias: words.parameter()?,
            norm: read_norm(words.key("norm")?)?,
            key_heads: words.keyed("key_heads")?,
            state: words.keyed("state")?,
        }),
        "select_row" => Op::SelectRow { input: words.value()? },
        "embed_rows" | "embed_rows_on_host" => Op::EmbedRows {
            table: read_weight(words)?,
            tokens: words.value()?,
            scale: words.keyed("scale")?,
            on_host: name == "embed_rows_on_host",
        },
        "linear" => Op::Linear(Linear {
            input: words.value()?,
            weight: read_weight(words)?,
            bias: words.optional("bias", Words::plain_parameter)?,
            epilogue: read_epilogue(words.key("then")?)?,
        }),
        "add_norm" => Op::AddNorm {
            residual: words.value()?,
            delta: words.value()?,
            pre: words.optional("pre", read_norm)?,
            scale: words.optional("scale", Words::plain_parameter)?,
            post: words.optional("post", read_norm)?,
        },
        "rope_append" => Op::RopeAppend(read_rope_append(words)?),
        other => return Err(format!("no operation `{other}`")),
    })
}

fn read_columns(parts: &mut Words<'_>) -> Result<Columns, String> {
    let (start, width) = (parts.number()?, parts.number()?);
    let columns = Columns { start, width, count: parts.number()?, stride: parts.number()? };
    parts.end().map(|()| columns)
}

fn read_rope_append(words: &mut Words<'_>) -> Result<RopeAppend, String> {
    Ok(RopeAppend {
        qkv: words.value()?,
        apart: words.optional("apart", |text| {
            let mut parts = Words::split(text, ':');
            let pair = [parts.value()?, parts.value()?];
            parts.end().map(|()| pair)
        })?,
        order: {
            let name = words.key("order")?;
            let found = ORDERS.iter().find(|(_, known)| *known == name);
            found.map(|(order, _)| *order).ok_or_else(|| format!("no order `{name}`"))?
        },
        heads: words.keyed("heads")?,
        rotary: words.keyed("rotary")?,
        table: words.keyed("table")?,
        query_table: words.keyed("q_table")?,
        place: {
            let name = words.key("norms")?;
            let found = PLACES.iter().find(|(_, known)| *known == name);
            found.map(|(place, _)| *place).ok_or_else(|| format!("no place of norms `{name}`"))?
        },
        query_norm: words.optional("q_norm", read_norm)?,
        key_norm: words.optional("k_norm", read_norm)?,
        value_norm: words.optional("v_norm", read_norm)?,
        layer: words.keyed("layer")?,
    })
}

fn read_activation(name: &str) -> Result<Activation, String> {
    let found = ACTIVATIONS.iter().find(|(other, _)| *other == name);
    found.map(|(_, function)| *function).ok_or_else(|| format!("no activation `{name}`"))
}

fn read_epilogue(text: &str) -> Result<Epilogue, String> {
    Ok(match text.split_once(':') {
        None if text == "-" => Epilogue::None,
        None => Epilogue::Activation(read_activation(text)?),
        Some(("gated", function)) => Epilogue::Gated(read_activation(function)?),
        Some(("times", rest)) => {
            let mut parts = Words::split(rest, ':');
            let function = read_activation(parts.next()?)?;
            let (other, start) = (parts.value()?, parts.number()?);
            parts.end()?;
            Epilogue::ActivationTimes { function, other, start }
        }
        Some(("add", residual)) => Epilogue::Add(Words::plain_value(residual)?),
        Some(("soft_cap", cap)) => Epilogue::SoftCap(Words::plain(cap)?),
        Some(("scale", factor)) => Epilogue::Scale(Words::plain(factor)?),
        Some((other, _)) => return Err(format!("no epilogue `{other}`")),
    })
}

fn read_norm(text: &str) -> Result<Norm, String> {
    let mut parts = Words::split(text, ':');
    let kind = match parts.next()? {
        "rms" => NormKind::Rms,
        "layer" => NormKind::Layer,
        other => return Err(format!("no norm `{other}`")),
    };
    let (epsilon, width) = (parts.number()?, parts.number()?);
    let (weight, bias) = (parts.optional_parameter()?, parts.optional_parameter()?);
    parts.end()?;
    Ok(Norm { kind, epsilon, width, weight, bias })
}

fn read_weight(words: &mut Words<'_>) -> Result<Weight, String> {
    let mut parts = words.parts()?;
    let storage = match parts.next()? {
        "dense" => Storage::Dense(parts.parameter()?),
        bits => {
            let bits = Words::plain(bits)?;
            let group = parts.number()?;
            let layout = match parts.next()? {
                "NK" => Layout::Nk,
                "KN" => Layout::Kn,
                other => return Err(format!("no layout `{other}`")),
            };
            let format = GroupFormat { bits, group, layout, scale: parts.number()? };
            Storage::Grouped { codes: parts.parameter()?, scales: parts.parameter()?, format }
        }
    };
    let (rows, columns) = parts.next()?.split_once('x').ok_or("a matrix without a shape")?;
    parts.end()?;
    Ok(Weight { storage, rows: Words::plain(rows)?, columns: Words::plain(columns)? })
}
