//! Models of real shapes with made-up weights.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::weight_index::{Encoding, FILE_NAME, Metadata, Record, Shard, WeightIndex};
use knapsack_tensor::DType;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// The configuration of a model, as a weight folder has it.
pub(crate) fn shape(name: &str) -> Option<Value> {
    let llama = json!({
        "model_type": "llama", "quantization": "q4f16_1", "vocab_size": 128_256, "context_window_size": 2048,
        "model_config": {
            "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 64, "num_hidden_layers": 16, "rms_norm_eps": 1e-5, "vocab_size": 128_256,
            "tie_word_embeddings": true, "position_embedding_base": 500_000.0, "context_window_size": 2048,
            "prefill_chunk_size": 128,
        },
    });
    let qwen = json!({
        "model_type": "qwen3", "quantization": "q4f16_1", "vocab_size": 151_936, "context_window_size": 2048,
        "model_config": {
            "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8,
            "head_dim": 128, "num_hidden_layers": 28, "rms_norm_eps": 1e-6, "vocab_size": 151_936,
            "tie_word_embeddings": true, "rope_theta": 1_000_000.0, "hidden_act": "silu", "attention_bias": false,
            "context_window_size": 2048, "prefill_chunk_size": 128,
        },
    });
    let mut large = llama.clone();
    for (key, value) in
        [("hidden_size", 4096), ("intermediate_size", 14_336), ("head_dim", 128), ("num_hidden_layers", 32)]
    {
        large["model_config"][key] = json!(value);
    }
    large["model_config"]["tie_word_embeddings"] = json!(false);
    match name {
        "llama-1b" => Some(llama),
        "llama-8b" => Some(large),
        "qwen3-0.6b" => Some(qwen),
        "qwen3.5-0.8b" | "lfm3-1.7b" | "gemma-4-e2b" => Some(later(name)),
        _ => None,
    }
}

/// Families whose configuration is the checkpoint's own.
fn later(name: &str) -> Value {
    let (family, vocab, own) = match name {
        "qwen3.5-0.8b" => {
            let own = json!({"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 24, "num_attention_heads": 8,
                "num_key_value_heads": 2, "head_dim": 256, "linear_num_value_heads": 16, "rope_theta": 1e7,
                "partial_rotary_factor": 0.25});
            ("qwen3_5", 248_320, own)
        }
        "lfm3-1.7b" => {
            let own = json!({"hidden_size": 2048, "intermediate_size": 7680, "num_hidden_layers": 24, "num_attention_heads": 16,
                "num_key_value_heads": 4, "head_dim": 128, "conv_L_cache": 7, "sliding_window": 256, "rope_theta": 1e6});
            ("lfm3", 128_000, own)
        }
        _ => {
            let kinds: Vec<&str> =
                (1..=35).map(|layer| if layer % 5 == 0 { "full_attention" } else { "sliding_attention" }).collect();
            let own = json!({"hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 35, "num_attention_heads": 8,
                "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512, "layer_types": kinds,
                "hidden_size_per_layer_input": 256, "num_kv_shared_layers": 20, "use_double_wide_mlp": true,
                "sliding_window": 512, "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh"});
            ("gemma4", 262_144, own)
        }
    };
    let mut model = own;
    for (key, value) in [
        ("vocab_size", json!(vocab)),
        ("rms_norm_eps", json!(1e-6)),
        ("tie_word_embeddings", json!(true)),
        ("max_position_embeddings", json!(32_768)),
        ("context_window_size", json!(2048)),
        ("prefill_chunk_size", json!(128)),
    ] {
        model[key] = value;
    }
    json!({"model_type": family, "quantization": "q4f16_1", "vocab_size": vocab, "context_window_size": 2048, "model_config": model})
}

/// Random codes, scales of 0.01: nothing overflows, and the processor cannot guess anything.
pub(crate) fn write_weights(library: &ModelLibrary, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut file = std::io::BufWriter::new(std::fs::File::create(folder.join("params_shard_0.bin"))?);
    let mut records = Vec::new();
    let (mut offset, mut state) = (0, 1u64);
    for parameter in &library.parameters {
        let bytes = parameter.bytes().expect("validated");
        for _ in 0..bytes / 2 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let half = if parameter.dtype == DType::U32 { (state >> 48) as u16 & 0x7777 } else { 0x211f };
            file.write_all(&half.to_le_bytes())?;
        }
        records.push(Record {
            name: parameter.name.clone(),
            shape: parameter.shape.clone(),
            dtype: parameter.dtype,
            format: Encoding::Raw,
            nbytes: bytes,
            byte_offset: offset,
        });
        offset += bytes;
    }
    file.flush()?;
    let shard = Shard {
        data_path: "params_shard_0.bin".to_owned(),
        format: "raw-shard".to_owned(),
        nbytes: offset,
        records,
        md5sum: None,
    };
    std::fs::write(folder.join(FILE_NAME), WeightIndex { metadata: Metadata::default(), shards: vec![shard] }.to_json())
}
