//! Libraries made by hand around single operations.
#![allow(dead_code, reason = "each test binary uses a part")]

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{Io, MemoryPlan, ModelInfo, Parameter, Target};
use knapsack_artifact::plan::*;
use knapsack_tensor::{Activation, DType, GroupFormat, Grouping, Layout, NormKind};

/// A library under construction: operands are placed one after the other.
pub(crate) struct Builder {
    pub(crate) library: ModelLibrary,
}

impl Builder {
    pub(crate) fn new(chunk: u32) -> Self {
        let rows = Rows { offset: 0, columns: 1 };
        let library = ModelLibrary {
            name: "sample".to_owned(),
            compiler: "knapsack test".to_owned(),
            target: Target::Host,
            model: ModelInfo {
                family: "llama".to_owned(),
                quantization: "q4f16_1".to_owned(),
                vocab_size: 1,
                hidden_size: 1,
                layers: 1,
                context_window_size: Some(512),
                sliding_window_size: None,
                attention_sink_size: 0,
                prefill_chunk_size: chunk,
            },
            parameters: Vec::new(),
            rope_tables: Vec::new(),
            kv_cache: Vec::new(),
            states: Vec::new(),
            lookups: Vec::new(),
            io: Io {
                tokens: Scratch { offset: 0, bytes_per_token: 4 },
                call: 0,
                hidden: rows,
                carried: Vec::new(),
                logits: rows,
            },
            memory: MemoryPlan::default(),
            prefill: Function::default(),
            decode: Function::default(),
            head: Function::default(),
            kernels: None,
        };
        let mut new = Builder { library };
        new.scratch(4);
        new
    }

    pub(crate) fn parameter(&mut self, dtype: DType, shape: &[u64]) -> ParameterId {
        let id = ParameterId(self.library.parameters.len() as u32);
        self.library.parameters.push(Parameter { name: format!("p{}", id.0), shape: shape.to_vec(), dtype });
        id
    }

    fn scratch(&mut self, bytes_per_token: u64) -> Scratch {
        let offset = self.library.memory.workspace;
        let bytes = u64::from(self.library.model.prefill_chunk_size) * bytes_per_token;
        self.library.memory.workspace += bytes.next_multiple_of(ALIGNMENT);
        Scratch { offset, bytes_per_token }
    }

    pub(crate) fn rows(&mut self, columns: u32) -> Rows {
        Rows { offset: self.scratch(4 * u64::from(columns)).offset, columns }
    }

    pub(crate) fn weight(&mut self, n: u64, k: u64, kind: Kind) -> Weight {
        match kind {
            Kind::Dense(dtype) => Weight::Dense(self.parameter(dtype, &[n, k])),
            Kind::Grouped(format) => Weight::Grouped {
                codes: self.parameter(DType::U32, &format.code_shape(n, k)),
                scales: self.parameter(format.scale, &format.scale_shape(n, k)),
                format,
            },
        }
    }

    pub(crate) fn norm(&mut self, columns: u64) -> NormWeights {
        let weight = Some(self.parameter(DType::F16, &[columns]));
        NormWeights { kind: NormKind::Rms, epsilon: 1e-5, weight, bias: None }
    }

    pub(crate) fn linear(&mut self, k: u32, out_features: u32, kind: Kind, epilogue: Epilogue, bias: bool) -> Op {
        let gated = matches!(epilogue, Epilogue::Gated(_));
        let input = self.rows(k);
        let output = self.rows(if gated { out_features / 2 } else { out_features });
        let weight = self.weight(u64::from(out_features), u64::from(k), kind);
        let bias = bias.then(|| self.parameter(DType::F16, &[u64::from(out_features)]));
        let epilogue = if matches!(epilogue, Epilogue::Add(_)) { Epilogue::Add(output) } else { epilogue };
        Op::Linear(Linear { input, weight, out_features, bias, epilogue, output })
    }

    pub(crate) fn cache(&mut self, kv_heads: u32, head_dim: u32, positions: u32, window: Option<(u32, u32)>) -> u32 {
        let (window, sinks) = window.map_or((None, 0), |(w, s)| (Some(w), s));
        self.library.kv_cache.push(KvLayer { kv_heads, head_dim, positions, window, sinks, dtype: DType::F16 });
        self.library.kv_cache.len() as u32 - 1
    }

    /// Puts an operation into `prefill` and `decode`.
    pub(crate) fn push(&mut self, op: Op) {
        let scratch = op.scratch_bytes().map(|bytes| self.scratch(bytes));
        let parts = match &op {
            Op::Attention(op) => Attention::parts_bytes(op.heads, &self.library.kv_cache[op.layer as usize]),
            _ => None,
        };
        let of_one = parts.map(|bytes| self.scratch(bytes)).or(scratch);
        self.library.prefill.launches.push(Launch { op: op.clone(), scratch, gpu: None });
        self.library.decode.launches.push(Launch { op, scratch: of_one, gpu: None });
    }
}

/// How a weight is stored.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Dense(DType),
    Grouped(GroupFormat),
}

pub(crate) const fn grouped(bits: u32, layout: Layout) -> Kind {
    Kind::Grouped(GroupFormat { bits, group: Grouping::of(bits).group, layout, scale: DType::F16 })
}

/// The launches of one layer and the head of a llama of these sizes, as the compiler fuses them.
pub(crate) fn llama(chunk: u32) -> ModelLibrary {
    let (hidden, heads, kv_heads, head_dim, ffn, vocab) = (3072, 24, 8, 128, 8192, 128_256);
    let q4 = grouped(4, Layout::Nk);
    let mut b = Builder::new(chunk);
    let row = u64::from(hidden);
    let stream = b.rows(hidden);
    let table = b.weight(u64::from(vocab), row, q4);
    b.push(Op::Embed(Embed { table, vocab, scale: 1.0, output: stream }));
    let normed = b.rows(hidden);
    let norm = b.norm(row);
    b.push(Op::Norm(Norm { input: stream, rows: RowSelect::All, norm, output: normed }));
    let qkv = b.linear(hidden, (heads + 2 * kv_heads) * head_dim, q4, Epilogue::None, false);
    b.push(qkv);
    let columns = (heads + 2 * kv_heads) * head_dim;
    let (qkv, query, attended) = (b.rows(columns), b.rows(heads * head_dim), b.rows(heads * head_dim));
    let layer = b.cache(kv_heads, head_dim, 512, None);
    let rope_rows = b.rows(head_dim);
    b.library.rope_tables.push(RopeTable { frequencies: vec![1.0; 64], magnitude: 1.0, growth: None, rows: rope_rows });
    b.push(Op::RopeAppend(RopeAppend {
        apart: None,
        qkv,
        order: QkvOrder::Sections,
        heads,
        kv_heads,
        head_dim,
        rotary: head_dim,
        rope_table: 0,
        query_table: None,
        norm_place: NormPlace::Heads,
        query_norm: None,
        key_norm: None,
        value_norm: None,
        layer,
        query,
    }));
    let scale = (head_dim as f32).sqrt().recip();
    b.push(Op::Attention(Attention {
        query,
        heads,
        kv_heads,
        head_dim,
        scale,
        soft_cap: None,
        layer,
        gate: None,
        output: attended,
    }));
    let out = b.linear(heads * head_dim, hidden, q4, Epilogue::None, false);
    b.push(out);
    let norm = b.norm(row);
    let (delta, post) = (b.rows(hidden), b.rows(hidden));
    b.push(Op::AddNorm(AddNorm {
        residual: stream,
        delta,
        pre: None,
        groups: 1,
        scale: None,
        sum: stream,
        post: Some((norm, post)),
    }));
    let gate_up = b.linear(hidden, 2 * ffn, q4, Epilogue::Gated(Activation::Silu), false);
    b.push(gate_up);
    let down = b.linear(ffn, hidden, q4, Epilogue::Add(stream), false);
    b.push(down);
    let norm = b.norm(row);
    let last = Op::Norm(Norm { input: stream, rows: RowSelect::One, norm, output: normed });
    let logits = b.linear(hidden, vocab, q4, Epilogue::None, false);
    b.library.head.launches = [last, logits].map(|op| Launch { op, scratch: None, gpu: None }).into();
    b.library
}
