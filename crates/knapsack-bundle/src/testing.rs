//! Small libraries for this crate's tests.

use crate::objects::Library;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{Io, MemoryPlan, ModelInfo, Parameter, Target};
use knapsack_artifact::plan::{Embed, Function, KvLayer, Launch, Op, ParameterId, Rows, Scratch, Weight};
use knapsack_tensor::DType;
use std::sync::Arc;

/// A library that embeds tokens and does nothing else, as decoded.
pub(crate) fn model_library(name: &str, chunk: u32) -> ModelLibrary {
    let (hidden, vocab) = (64u32, 128u32);
    let row = u64::from(hidden) * 4;
    let io = Io {
        tokens: Scratch { offset: 0, bytes_per_token: 4 },
        hidden: Rows { offset: 1024, columns: hidden },
        logits: Rows { offset: 1024 + row * u64::from(chunk), columns: vocab },
    };
    let kv = KvLayer { kv_heads: 1, head_dim: 32, positions: 256, window: None, sinks: 0, dtype: DType::F16 };
    let table = Weight::Dense(ParameterId(0));
    let embed = Op::Embed(Embed { table, vocab, scale: 1.0, output: io.hidden });
    let function = Function { launches: vec![Launch { op: embed, gpu: None }] };
    ModelLibrary {
        name: name.into(),
        compiler: "knapsack 0.1.0".into(),
        target: Target::Host,
        model: ModelInfo {
            family: "llama".into(),
            quantization: "q0f32".into(),
            vocab_size: vocab,
            hidden_size: hidden,
            layers: 1,
            context_window_size: Some(256),
            sliding_window_size: None,
            attention_sink_size: 0,
            prefill_chunk_size: chunk,
        },
        parameters: vec![Parameter {
            name: "embed".into(),
            shape: vec![vocab.into(), hidden.into()],
            dtype: DType::F32,
        }],
        rope_tables: vec![],
        kv_cache: vec![kv],
        io,
        memory: MemoryPlan {
            weights: u64::from(vocab) * u64::from(hidden) * 4,
            kv_cache: kv.bytes(),
            workspace: (io.logits.offset + u64::from(vocab) * 4).next_multiple_of(256),
        },
        prefill: function.clone(),
        decode: function.clone(),
        head: Function::default(),
        kernels: None,
    }
}

/// The same, encoded.
pub(crate) fn library(name: &str, chunk: u32) -> Library {
    Library::new(Arc::new(model_library(name, chunk))).expect("the name is a symbol name")
}
