//! The decoder that all families are instances of.

use super::{Builder, GraphError};
use knapsack_ir::{Graph, Op, ValueId};

/// Which modules give q, k and v.
pub(crate) enum Projections {
    /// One, whose columns are all q heads, all k heads, all v heads.
    Fused(&'static str),
    /// Three.
    Apart([&'static str; 3]),
}

/// The feed-forward network.
pub(crate) enum Mlp {
    /// `down(f(gate(x)) * up(x))`, gate and up in one module.
    Gated { gate_up: &'static str, down: &'static str },
    /// `down(f(up(x)))`.
    Plain { up: &'static str, down: &'static str },
}

/// Where a family keeps what, in MLC's names without `.weight`; those of a layer without their prefix. What is absent here the
/// family does not have.
pub(crate) struct Names {
    pub(crate) embedding: &'static str,
    /// Before the layer's number.
    pub(crate) layers: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) projections: Projections,
    /// Norms of the q and of the k heads.
    pub(crate) head_norms: Option<[&'static str; 2]>,
    pub(crate) output: &'static str,
    /// Norm of what attention adds.
    pub(crate) post_attention_norm: Option<&'static str>,
    /// `None`: the feed-forward network reads what attention reads.
    pub(crate) mlp_norm: Option<&'static str>,
    pub(crate) mlp: Mlp,
    /// Norm of what the feed-forward network adds.
    pub(crate) post_mlp_norm: Option<&'static str>,
    pub(crate) final_norm: &'static str,
    /// Not looked at with tied embeddings.
    pub(crate) head: &'static str,
}

/// Llama's, and those of most others.
pub(crate) const LLAMA: Names = Names {
    embedding: "model.embed_tokens",
    layers: "model.layers",
    attention_norm: "input_layernorm",
    projections: Projections::Fused("self_attn.qkv_proj"),
    head_norms: None,
    output: "self_attn.o_proj",
    post_attention_norm: None,
    mlp_norm: Some("post_attention_layernorm"),
    mlp: Mlp::Gated { gate_up: "mlp.gate_up_proj", down: "mlp.down_proj" },
    post_mlp_norm: None,
    final_norm: "model.norm",
    head: "lm_head",
};

/// Writes the whole model.
pub(crate) fn decoder(mut b: Builder<'_>, names: &Names) -> Result<Graph, GraphError> {
    let config = b.config;
    let tokens = b.push(Op::Tokens)?;
    let table = b.matrix(names.embedding)?;
    let mut stream = b.push(Op::Embed { table, tokens })?;
    if config.embedding_scale != 1.0 {
        stream = b.push(Op::Scale { input: stream, factor: config.embedding_scale })?;
    }
    for layer in 0..config.layers {
        stream = Layer { b: &mut b, names, layer }.write(stream)?;
    }
    let row = b.push(Op::SelectRow { input: stream })?;
    let row = b.norm(row, names.final_norm, config.hidden)?;
    let logits = match config.tied_embeddings {
        true => b.push(Op::Matmul { input: row, weight: table })?,
        false => b.linear(row, names.head)?,
    };
    let logits = match config.final_soft_cap {
        Some(cap) => b.push(Op::SoftCap { input: logits, cap })?,
        None => logits,
    };
    Ok(b.finish(logits))
}

/// One layer under construction.
struct Layer<'b, 'a> {
    b: &'b mut Builder<'a>,
    names: &'b Names,
    layer: u32,
}

type Built = Result<ValueId, GraphError>;

impl Layer<'_, '_> {
    fn module(&self, name: &str) -> String {
        format!("{}.{}.{name}", self.names.layers, self.layer)
    }

    /// A norm over whole rows.
    fn norm(&mut self, input: ValueId, name: &str) -> Built {
        self.b.norm(input, &self.module(name), self.b.config.hidden)
    }

    fn optional_norm(&mut self, input: ValueId, name: Option<&str>) -> Built {
        name.map_or(Ok(input), |name| self.norm(input, name))
    }

    fn linear(&mut self, input: ValueId, name: &str) -> Built {
        self.b.linear(input, &self.module(name))
    }

    fn write(&mut self, stream: ValueId) -> Built {
        let names = self.names;
        let normed = self.norm(stream, names.attention_norm)?;
        // With a parallel residual the stream is read before anything is added, so that the sum can take its place.
        let beside = match (self.b.config.parallel_residual, names.mlp_norm) {
            (false, _) => None,
            (true, Some(name)) => Some(self.norm(stream, name)?),
            (true, None) => Some(normed),
        };
        let attended = self.attention(normed)?;
        let attended = self.optional_norm(attended, names.post_attention_norm)?;
        let sum = self.b.push(Op::Add { a: stream, b: attended })?;
        let input = match beside {
            Some(input) => input,
            None => self.optional_norm(sum, names.mlp_norm)?,
        };
        let fed = self.mlp(input)?;
        let fed = self.optional_norm(fed, names.post_mlp_norm)?;
        self.b.push(Op::Add { a: sum, b: fed })
    }

    fn attention(&mut self, input: ValueId) -> Built {
        let config = self.b.config;
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let [q, k, v] = match self.names.projections {
            Projections::Fused(name) => {
                let qkv = self.linear(input, name)?;
                let mut slice = |start, width| self.b.slice(qkv, start, width);
                [slice(0, queries)?, slice(queries, keys)?, slice(queries + keys, keys)?]
            }
            Projections::Apart([q, k, v]) => [self.linear(input, q)?, self.linear(input, k)?, self.linear(input, v)?],
        };
        let query = self.positioned(q, 0)?;
        let key = self.positioned(k, 1)?;
        let cache = self.b.push(Op::Append { key, value: v, layer: self.layer })?;
        let (scale, soft_cap) = (config.attention_scale, config.attention_soft_cap);
        let attended = self.b.push(Op::Attention { query, cache, scale, soft_cap })?;
        self.linear(attended, self.names.output)
    }

    /// Normalizes q (side 0) or k (side 1) heads, where the model does, and rotates them. Layers with a window of their own
    /// have the local rotary table, where there is one.
    fn positioned(&mut self, mut heads: ValueId, side: usize) -> Built {
        let config = self.b.config;
        if let Some(names) = self.names.head_norms {
            heads = self.b.norm(heads, &self.module(names[side]), config.head_dim)?;
        }
        let windowed = config.layer_windows.get(self.layer as usize).copied().flatten().is_some();
        let (table, rope) = match &config.local_rope {
            Some(local) if windowed => (1, local),
            _ => (0, &config.rope),
        };
        match rope.rotary {
            0 => Ok(heads),
            rotary => self.b.push(Op::Rope { input: heads, table, head_dim: config.head_dim, rotary }),
        }
    }

    fn mlp(&mut self, input: ValueId) -> Built {
        let function = self.b.config.activation;
        match self.names.mlp {
            Mlp::Gated { gate_up, down } => {
                let columns = self.b.config.intermediate;
                let both = self.linear(input, gate_up)?;
                let gate = self.b.slice(both, 0, columns)?;
                let up = self.b.slice(both, columns, columns)?;
                let gate = self.b.push(Op::Activation { input: gate, function })?;
                let product = self.b.push(Op::Mul { a: gate, b: up })?;
                self.linear(product, down)
            }
            Mlp::Plain { up, down } => {
                let up = self.linear(input, up)?;
                let activated = self.b.push(Op::Activation { input: up, function })?;
                self.linear(activated, down)
            }
        }
    }
}
