//! Small libraries for this crate's tests.

use crate::objects::Library;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{Io, MemoryPlan, ModelInfo, Parameter, TOP_BYTES, Target};
use knapsack_artifact::plan::{
    Embed, Epilogue, Function, KvLayer, Launch, Linear, Op, ParameterId, Rows, Scratch, Weight,
};
use knapsack_tensor::DType;
use md5::Digest;
use std::path::Path;
use std::sync::Arc;

/// A library that embeds tokens and multiplies them with the same table.
pub(crate) fn model_library(name: &str, chunk: u32) -> ModelLibrary {
    let (hidden, vocab) = (64u32, 128u32);
    let row = u64::from(hidden) * 4;
    let io = Io {
        tokens: Scratch { offset: 0, bytes_per_token: 4 },
        call: (1024 + row * u64::from(chunk) + u64::from(vocab) * 4).next_multiple_of(256),
        hidden: Rows { offset: 1024, columns: hidden },
        carried: Vec::new(),
        logits: Rows { offset: 1024 + row * u64::from(chunk), columns: vocab },
    };
    let kv = KvLayer { kv_heads: 1, head_dim: 32, positions: 256, window: None, sinks: 0, dtype: DType::F16 };
    let table = Weight::Dense(ParameterId(0));
    let embed = Op::Embed(Embed { table, vocab, scale: 1.0, output: io.hidden });
    let head = Op::Linear(Linear {
        input: io.hidden,
        weight: table,
        out_features: vocab,
        bias: None,
        epilogue: Epilogue::None,
        output: io.logits,
    });
    let function = Function { launches: vec![Launch { op: embed, scratch: None, gpu: None }] };
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
        states: Vec::new(),
        lookups: Vec::new(),
        io: io.clone(),
        memory: MemoryPlan {
            weights: u64::from(vocab) * u64::from(hidden) * 4,
            kv_cache: kv.bytes(),
            file: 0,
            state: 0,
            workspace: io.call + TOP_BYTES + 3 * 256,
        },
        prefill: function.clone(),
        decode: function.clone(),
        head: Function { launches: vec![Launch { op: head, scratch: None, gpu: None }] },
        kernels: None,
    }
}

/// The same, encoded.
pub(crate) fn library(name: &str, chunk: u32) -> Library {
    Library::new(Arc::new(model_library(name, chunk))).expect("the name is a symbol name")
}

/// An MLC weight folder for [`library`], with weights that depend on `seed`.
pub(crate) fn weight_folder(folder: &Path, seed: u8) {
    std::fs::create_dir_all(folder).unwrap();
    let weights: Vec<u8> = (0..128u32 * 64 * 4).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
    std::fs::write(folder.join("params_shard_0.bin"), &weights).unwrap();
    let md5 = hex::encode(md5::Md5::digest(&weights));
    let index = serde_json::json!({
        "metadata": {"ParamSize": 1, "ParamBytes": weights.len() as f64, "BitsPerParam": 32.0},
        "records": [{
            "dataPath": "params_shard_0.bin", "format": "raw-shard", "nbytes": weights.len(), "md5sum": md5,
            "records": [{"name": "embed", "shape": [128, 64], "dtype": "float32", "format": "raw", "nbytes": weights.len(),
                "byteOffset": 0}],
        }],
    });
    std::fs::write(folder.join("tensor-cache.json"), index.to_string()).unwrap();
    let chat = serde_json::json!({
        "version": "0.1.0", "model_type": "llama", "quantization": "q0f32", "model_config": {"context_window_size": 4096},
        "context_window_size": 4096, "sliding_window_size": -1, "prefill_chunk_size": 4096,
        "tokenizer_files": ["tokenizer.json"],
    });
    std::fs::write(folder.join("mlc-chat-config.json"), chat.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), "{}").unwrap();
}
