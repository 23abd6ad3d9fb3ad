//! Random tiny models of every family: fused and unfused graphs give the same logits, and no launch of a plan reads bytes that
//! another one has written over.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_artifact::plan::{Function, Op, Operand, RowSelect, Rows};
use knapsack_compiler::{CompileRequest, compile, passes};
use knapsack_ir::interpret::{Interpreter, TensorData};
use knapsack_ir::text::{parse, print};
use knapsack_ir::{Graph, Windows, verify};
use knapsack_models::{FAMILIES, Family, ModelConfig};
use knapsack_tensor::{DType, QUANTIZATIONS, Quantization};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Sizes and switches of a random model.
#[derive(Clone, Debug)]
struct Shape {
    family: &'static Family,
    quantization: Quantization,
    layers: u32,
    kv_heads: u32,
    group: u32,
    head_dim: u32,
    hidden: u32,
    intermediate: u32,
    flags: [bool; 3],
    windows: Windows,
    seed: u64,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (1u32..4, 1u32..3, 1u32..4, 2u32..6, 3u32..12, 5u32..50);
    let windows = (prop::option::of(2u32..9), 0u32..2, 1u32..9).prop_map(|(sliding, sinks, chunk)| Windows {
        context: 32,
        sliding,
        sinks,
        chunk: chunk.min(sliding.unwrap_or(32)),
    });
    let choices = (prop::sample::select(FAMILIES), prop::sample::select(&QUANTIZATIONS[..]), any::<[bool; 3]>());
    (choices, sizes, windows, any::<u64>()).prop_map(
        |((family, quantization, flags), (layers, kv_heads, group, head_dim, hidden, intermediate), windows, seed)| {
            Shape {
                family,
                quantization,
                layers,
                kv_heads,
                group,
                // A partial rotation of a quarter must leave an even number.
                head_dim: 8 * head_dim,
                hidden: 4 * hidden,
                intermediate,
                flags,
                windows,
                seed,
            }
        },
    )
}

fn config(shape: &Shape) -> ModelConfig {
    let [tied, parallel, normed] = shape.flags;
    // GPT-NeoX and Phi have as many kv heads as heads, and head_dim follows from hidden.
    let plain = matches!(shape.family.name, "gpt_neox" | "phi" | "phi-msft" | "stablelm" | "phi3");
    let heads = shape.kv_heads * if plain { 1 } else { shape.group };
    let hidden = if plain { heads * shape.head_dim } else { shape.hidden };
    let mut model = json!({
        "model_type": shape.family.name,
        "hidden_size": hidden, "num_hidden_layers": shape.layers, "num_attention_heads": heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "intermediate_size": shape.intermediate,
        "vocab_size": 23, "max_position_embeddings": 32, "rope_theta": 10000.0, "sliding_window_pattern": 2,
        "hidden_act": if matches!(shape.family.name, "gemma" | "gemma2" | "gemma3_text" | "gemma4") { "gelu_pytorch_tanh" } else { "gelu_new" },
        "use_parallel_residual": parallel, "qk_layernorm": normed && shape.family.name == "stablelm", "use_qkv_bias": normed,
    });
    let object = model.as_object_mut().unwrap();
    if !matches!(shape.family.name, "phi" | "phi-msft") {
        object.insert("tie_word_embeddings".to_owned(), Value::from(tied));
    }
    if matches!(shape.family.name, "gemma2" | "gemma3_text" | "phi3") {
        object.insert("sliding_window".to_owned(), Value::from(5));
    }
    if matches!(shape.family.name, "olmo3" | "exaone4" | "smollm3") {
        object.insert("sliding_window".to_owned(), Value::from(5));
        object.insert("use_sliding_window".to_owned(), Value::from(normed));
    }
    if matches!(shape.family.name, "granite" | "granitemoehybrid") {
        object.insert("position_embedding_type".to_owned(), Value::from(if parallel { "rope" } else { "nope" }));
        for (key, value) in [
            ("embedding_multiplier", 2.0),
            ("residual_multiplier", 0.5),
            ("attention_multiplier", 0.2),
            ("logits_scaling", 4.0),
        ] {
            object.insert(key.to_owned(), Value::from(value));
        }
    }
    if shape.family.name == "lfm3" {
        object.insert("sliding_window".to_owned(), Value::from(5));
    }
    if matches!(shape.family.name, "lfm2" | "lfm3" | "qwen3_5") {
        // At least one layer has attention.
        let other = if shape.family.name == "qwen3_5" { "linear_attention" } else { "conv" };
        let windowed = if shape.family.name == "lfm3" { "sliding_attention" } else { "full_attention" };
        let kinds = (0..shape.layers).map(|layer| match (layer, parallel) {
            (0, true) => windowed,
            (layer, _) if layer + 1 == shape.layers => "full_attention",
            _ => other,
        });
        object.insert("layer_types".to_owned(), kinds.collect());
        object.insert("conv_bias".to_owned(), Value::from(normed));
        object.insert("block_multiple_of".to_owned(), Value::from(4));
        for (key, value) in [
            ("linear_num_key_heads", shape.kv_heads),
            ("linear_num_value_heads", shape.kv_heads * shape.group),
            ("linear_key_head_dim", 5),
            ("linear_value_head_dim", 6),
        ] {
            object.insert(key.to_owned(), Value::from(value));
        }
    }
    if shape.family.name == "gemma4" {
        let shared = if shape.layers > 2 { u32::from(normed) } else { 0 };
        let kinds = (0..shape.layers).map(|layer| {
            let full = layer + 1 == shape.layers || (shared > 0 && layer == 0);
            if full { "full_attention" } else { "sliding_attention" }
        });
        object.insert("layer_types".to_owned(), kinds.collect());
        for (key, value) in [
            ("num_kv_shared_layers", shared),
            ("sliding_window", 5),
            ("global_head_dim", 2 * shape.head_dim),
            ("hidden_size_per_layer_input", if parallel { 8 } else { 0 }),
        ] {
            object.insert(key.to_owned(), Value::from(value));
        }
        object.insert("final_logit_softcapping".to_owned(), Value::from(3.0));
    }
    if shape.family.name == "ministral3" {
        let dictionary =
            json!({"rope_type": "default", "llama_4_scaling_beta": 0.3, "original_max_position_embeddings": 8});
        object.insert("rope_parameters".to_owned(), dictionary);
    }
    if shape.family.name == "gemma2" {
        object.insert("attn_logit_softcapping".to_owned(), Value::from(2.0));
        object.insert("final_logit_softcapping".to_owned(), Value::from(3.0));
    }
    ModelConfig::from_hf(&model).unwrap_or_else(|error| panic!("{}: {error}", shape.family))
}

/// A small deterministic generator (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

fn tensors(graph: &Graph, seed: u64) -> Vec<TensorData> {
    let mut random = Random(seed);
    let mut tensor = |parameter: &knapsack_ir::Parameter| {
        let elements = parameter.shape.iter().product::<u64>() as usize;
        match parameter.dtype {
            DType::U32 => TensorData::Codes((0..elements).map(|_| random.next() as u32 & 0x6666_6666).collect()),
            _ if parameter.name.ends_with("q_scale") => {
                TensorData::Float((0..elements).map(|_| 0.1 * random.float()).collect())
            }
            _ => TensorData::Float((0..elements).map(|_| 0.5 * random.float()).collect()),
        }
    };
    graph.parameters.iter().map(&mut tensor).collect()
}

fn logits(graph: &Graph, tensors: &[TensorData], tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut interpreter = Interpreter::new(graph, tensors).unwrap();
    tokens.chunks(chunk).flat_map(|tokens| interpreter.run(tokens).unwrap()).collect()
}

/// Checks that whatever a function reads is there: rows are read only where the last write of every byte was of the same rows.
/// `present` holds what is written before the function starts.
fn check_no_clobbering(function: &Function, n: u64, present: &[Rows], pinned: &[(u64, u64)]) {
    let bytes = |rows: Rows, n: u64| (rows.offset, rows.offset + 4 * u64::from(rows.columns) * n);
    let mut live: Vec<(Rows, u64, u64)> = present.iter().map(|&rows| (rows, rows.offset, rows.offset + 1)).collect();
    for (index, launch) in function.launches.iter().enumerate() {
        let selects =
            matches!(&launch.op, Op::Select(_)) || matches!(&launch.op, Op::Norm(norm) if norm.rows == RowSelect::One);
        for operand in launch.op.operands() {
            if let Operand::Input(rows) = operand {
                let found = live.iter().any(|(other, ..)| *other == rows);
                assert!(found || selects, "launch {index} ({}) reads {rows:?}, which is not there", launch.op.name());
            }
        }
        let outputs = launch.op.outputs().map(|rows| (bytes(rows, n).0, bytes(rows, n).1, Some(rows)));
        let scratch = launch.scratch.map(|s| (s.offset, s.offset + s.bytes_per_token * n, None));
        for (start, end, written) in outputs.chain(scratch) {
            for &(from, to) in pinned {
                assert!(end <= from || to <= start, "launch {index} writes over what outlives the function");
            }
            live.retain(|&(_, from, to)| end <= from || to <= start);
            live.extend(written.map(|rows| (rows, start, end)));
        }
    }
}

fn check_plan(library: &ModelLibrary) {
    let chunk = u64::from(library.model.prefill_chunk_size);
    let rows = |rows: Rows| (rows.offset, rows.offset + 4 * u64::from(rows.columns) * chunk);
    let mut pinned: Vec<_> = library.rope_tables.iter().map(|table| rows(table.rows)).collect();
    pinned.push((library.io.tokens.offset, library.io.tokens.offset + 4 * chunk));
    let inputs = library.call_inputs().unwrap();
    pinned.push((inputs.top, inputs.end));
    let looked_up: Vec<Rows> = library.lookups.iter().map(|lookup| lookup.rows).collect();
    pinned.extend(looked_up.iter().map(|&looked_up| rows(looked_up)));
    check_no_clobbering(&library.prefill, chunk, &looked_up, &pinned);
    check_no_clobbering(&library.decode, 1, &looked_up, &pinned);
    let kept: Vec<Rows> = std::iter::once(library.io.hidden).chain(library.io.carried.iter().copied()).collect();
    pinned.extend(kept.iter().map(|&kept| rows(kept)));
    check_no_clobbering(&library.head, 1, &kept, &pinned);
    let reads = library.prefill.launches.len();
    assert_eq!(reads, library.decode.launches.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn fused_and_planned_graphs_are_right(shape in shapes(), tokens in proptest::collection::vec(0u32..23, 1..20)) {
        let config = config(&shape);
        let graph = config.graph(&shape.quantization, &shape.windows).unwrap();
        prop_assert_eq!(verify(&graph), Ok(()));
        prop_assert_eq!(&parse(&print(&graph)).unwrap(), &graph);
        let mut fused = graph.clone();
        passes::run_all(&mut fused);
        prop_assert_eq!(verify(&fused), Ok(()));
        let tensors = tensors(&graph, shape.seed);
        let expected = logits(&graph, &tensors, &tokens, shape.windows.chunk as usize);
        let found = logits(&fused, &tensors, &tokens, tokens.len());
        for (a, b) in expected.iter().zip(&found) {
            prop_assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{a} {b}");
        }
        let request = CompileRequest { graph: &graph, windows: shape.windows, target: Target::Host, name: None };
        let library = compile(&request).unwrap();
        check_plan(&library);
        prop_assert_eq!(compile(&request).unwrap().encode(), library.encode());
    }
}

#[test]
fn plans_of_the_catalogue_read_what_is_there() {
    for name in knapsack_testkit::CATALOGUE {
        let path = knapsack_testkit::catalogue(name).join("mlc-chat-config.json");
        let chat: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let config = ModelConfig::from_mlc(&chat).unwrap();
        let quantization = chat["quantization"].as_str().unwrap().parse().unwrap();
        let windows = Windows { chunk: 128, ..config.own_windows() };
        let graph = config.graph(&quantization, &windows).unwrap();
        check_plan(&compile(&CompileRequest { graph: &graph, windows, target: Target::Host, name: None }).unwrap());
    }
}
