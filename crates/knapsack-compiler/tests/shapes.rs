//! The models of the mobile catalogue at full size: each compiles for both kinds of phone, and `docs/memory.md` says what it
//! needs. `KNAPSACK_BLESS=1 cargo test -p knapsack-compiler --test shapes` writes that file anew.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{MemoryPlan, Target, Tiles};
use knapsack_artifact::plan::{Function, Op};
use knapsack_compiler::codegen::{KernelTraffic, ThreadCount, count_threads, kernel_traffic};
use knapsack_compiler::{Chosen, CompileRequest, GivenSizes, Own, choose, compile};
use knapsack_models::{FAMILIES, ModelConfig};
use knapsack_tensor::{Layout, QUANTIZATIONS, Quantization};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// A model with the overrides of its manifest entry.
struct Entry {
    name: &'static str,
    config: ModelConfig,
    quantization: Quantization,
    overrides: GivenSizes,
}

fn entry(name: &'static str, config: ModelConfig, quantization: &str, overrides: GivenSizes) -> Entry {
    Entry { name, config, quantization: quantization.parse().unwrap(), overrides }
}

/// Dimensions as the `config.json` of each model gives them.
fn dims(
    model_type: &str,
    [hidden, intermediate, layers, heads, kv_heads, vocab]: [u32; 6],
    more: Value,
) -> ModelConfig {
    let mut config = json!({
        "model_type": model_type, "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ModelConfig::from_hf(&config).unwrap()
}

fn chunk(tokens: u32) -> GivenSizes {
    GivenSizes { prefill_chunk_size: Some(tokens), ..GivenSizes::default() }
}

fn context(positions: u32, tokens: u32) -> GivenSizes {
    GivenSizes { context_window_size: Some(positions), ..chunk(tokens) }
}

fn llama3(factor: f64) -> Value {
    json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192})
}

fn llama_likes() -> Vec<Entry> {
    let moderate = context(2048, 128);
    let config = |dims_: [u32; 6], positions: u32, tied: bool| {
        let more = json!({"max_position_embeddings": positions, "tie_word_embeddings": tied, "rope_theta": 1e5});
        dims("llama", dims_, more)
    };
    let llama_31 = |dims_: [u32; 6], factor: f64, tied: bool| {
        let more = json!({"max_position_embeddings": 131_072, "tie_word_embeddings": tied, "rope_theta": 5e5,
            "rope_scaling": llama3(factor)});
        dims("llama", dims_, more)
    };
    vec![
        entry("Llama-3.2-1B-Instruct", llama_31([2048, 8192, 16, 32, 8, 128_256], 32.0, true), "q4f16_1", moderate),
        entry("Llama-3.2-3B-Instruct", llama_31([3072, 8192, 28, 24, 8, 128_256], 32.0, true), "q4f16_1", moderate),
        entry("Llama-3.2-3B-Instruct", llama_31([3072, 8192, 28, 24, 8, 128_256], 32.0, true), "q4f16_0", moderate),
        entry(
            "DeepSeek-R1-Distill-Llama-8B",
            llama_31([4096, 14_336, 32, 32, 8, 128_256], 8.0, false),
            "q4f16_1",
            moderate,
        ),
        entry("TinyLlama-1.1B-Chat-v1.0", config([2048, 5632, 22, 32, 4, 32_000], 2048, false), "q4f16_1", moderate),
        entry("SmolLM2-135M-Instruct", config([576, 1536, 30, 9, 3, 49_152], 8192, true), "q0f16", moderate),
        entry("SmolLM2-1.7B-Instruct", config([2048, 8192, 24, 32, 32, 49_152], 8192, true), "q4f16_1", moderate),
    ]
}

fn others() -> Vec<Entry> {
    let moderate = context(2048, 128);
    let qwen = |kind: &str, dims_: [u32; 6], more: Value| {
        let mut config = json!({"max_position_embeddings": 40_960, "tie_word_embeddings": true, "rope_theta": 1e6});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        dims(kind, dims_, config)
    };
    let qwen3 = json!({"head_dim": 128});
    let gemma = |kind: &str, dims_: [u32; 6], more: Value| {
        let mut config =
            json!({"max_position_embeddings": 8192, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        dims(kind, dims_, config)
    };
    let gemma2 = json!({"sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 256});
    let gemma3 = json!({"max_position_embeddings": 32_768, "sliding_window": 512, "sliding_window_pattern": 6,
        "rope_theta": 1e6, "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 256});
    let mistral = dims(
        "mistral",
        [4096, 14_336, 32, 32, 8, 32_768],
        json!({"max_position_embeddings": 32_768, "rope_theta": 1e6}),
    );
    let sliding = GivenSizes { sliding_window_size: Some(768), ..chunk(256) };
    vec![
        entry("Mistral-7B-Instruct-v0.3", mistral, "q4f16_1", sliding),
        entry("Qwen2.5-0.5B-Instruct", qwen("qwen2", [896, 4864, 24, 14, 2, 151_936], json!({})), "q4f16_1", moderate),
        entry("Qwen2.5-1.5B-Instruct", qwen("qwen2", [1536, 8960, 28, 12, 2, 151_936], json!({})), "q4f16_1", moderate),
        entry("Qwen3-0.6B", qwen("qwen3", [1024, 3072, 28, 16, 8, 151_936], qwen3.clone()), "q0f16", moderate),
        entry("Qwen3-1.7B", qwen("qwen3", [2048, 6144, 28, 16, 8, 151_936], qwen3), "q4f16_1", moderate),
        entry("gemma-2b-it", gemma("gemma", [2048, 16_384, 18, 8, 1, 256_000], json!({})), "q4f16_1", moderate),
        entry("gemma-2-2b-it", gemma("gemma2", [2304, 9216, 26, 8, 4, 256_000], gemma2), "q4f16_1", context(4096, 128)),
        entry(
            "gemma-3-1b-it",
            gemma("gemma3_text", [1152, 6912, 26, 4, 1, 262_144], gemma3),
            "q4f16_1",
            context(4096, 128),
        ),
    ]
}

fn with_biases() -> Vec<Entry> {
    let moderate = context(2048, 128);
    // Phi-3.5's lists of 48 factors do not change sizes.
    let longrope = json!({"type": "longrope", "short_factor": vec![1.0; 48], "long_factor": vec![2.0; 48]});
    let phi3 = json!({"max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "rope_scaling": longrope,
        "sliding_window": 262_144});
    let phi = |dims_: [u32; 6], share: f64| {
        dims(
            "phi",
            dims_,
            json!({"max_position_embeddings": 2048, "partial_rotary_factor": share, "hidden_act": "gelu_new"}),
        )
    };
    let stablelm = json!({"max_position_embeddings": 4096, "use_qkv_bias": true, "partial_rotary_factor": 0.25,
        "hidden_act": "silu"});
    let neox = json!({"max_position_embeddings": 2048, "rotary_pct": 1.0, "use_parallel_residual": false, "hidden_act": "gelu"});
    vec![
        entry(
            "Phi-3.5-mini-instruct",
            dims("phi3", [3072, 8192, 32, 32, 32, 32_064], phi3.clone()),
            "q4f16_0",
            context(4096, 128),
        ),
        entry(
            "Phi-3.5-mini-instruct",
            dims("phi3", [3072, 8192, 32, 32, 32, 32_064], phi3),
            "q4f16_1",
            context(4096, 128),
        ),
        entry("phi-1_5", phi([2048, 8192, 24, 32, 32, 51_200], 0.5), "q4f16_1", moderate),
        entry("phi-2", phi([2560, 10_240, 32, 32, 32, 51_200], 0.4), "q4f16_1", moderate),
        entry(
            "stablelm-2-zephyr-1_6b",
            dims("stablelm", [2048, 5632, 24, 32, 32, 100_352], stablelm),
            "q4f16_1",
            moderate,
        ),
        entry(
            "RedPajama-INCITE-Chat-3B-v1",
            dims("gpt_neox", [2560, 10_240, 32, 32, 32, 50_432], neox),
            "q4f16_1",
            moderate,
        ),
    ]
}

/// Families of 2025 and 2026, with the sizes of public configurations.
fn later() -> Vec<Entry> {
    let usual = |name, config| entry(name, config, "q4f16_1", context(4096, 128));
    let with = |positions: u32, tied: bool, base: f64, more: Value| {
        let mut config = json!({"max_position_embeddings": positions, "tie_word_embeddings": tied, "rope_theta": base});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let granite = |heads: f64, embedding: f64, residual: f64, logits: f64| {
        let more = json!({"attention_multiplier": heads, "embedding_multiplier": embedding,
            "residual_multiplier": residual, "logits_scaling": logits, "shared_intermediate_size": 8192, "position_embedding_type": "rope"});
        with(131_072, true, 1e7, more)
    };
    let yarn = json!({"head_dim": 128, "rope_scaling": {"rope_type": "yarn", "factor": 16.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 16_384, "llama_4_scaling_beta": 0.1}});
    let olmo3 = json!({"sliding_window": 4096, "rope_scaling": {"rope_type": "yarn", "factor": 8.0,
        "original_max_position_embeddings": 8192, "attention_factor": 1.2}});
    let longrope = json!({"type": "longrope", "short_factor": vec![1.0; 48], "long_factor": vec![2.0; 48]});
    let phi4 = json!({"original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75, "rope_scaling": longrope,
        "sliding_window": 262_144});
    let lfm2 = |dims_| {
        let more = json!({"full_attn_idxs": [2, 5, 8, 10, 12, 14], "conv_L_cache": 3});
        dims("lfm2", dims_, with(128_000, true, 1e6, more))
    };
    let gemma4 = |dims_: [u32; 6], full: u32, shared: u32, double: bool| {
        let kind = |layer| if (layer + 1) % full == 0 { "full_attention" } else { "sliding_attention" };
        let kinds: Vec<&str> = (0..dims_[2]).map(kind).collect();
        let ropes = json!({"sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}});
        let more = json!({"max_position_embeddings": 131_072, "head_dim": 256, "global_head_dim": 512, "layer_types": kinds,
            "hidden_size_per_layer_input": 256, "num_kv_shared_layers": shared, "use_double_wide_mlp": double,
            "sliding_window": 512, "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh",
            "rope_parameters": ropes});
        dims("gemma4", dims_, more)
    };
    let lfm3 = json!({"head_dim": 128, "conv_L_cache": 7, "sliding_window": 256});
    let qwen3_5 = |dims_, values: u32| {
        let more = json!({"head_dim": 256, "partial_rotary_factor": 0.25, "linear_num_value_heads": values});
        dims("qwen3_5", dims_, with(262_144, true, 1e7, more))
    };
    vec![
        usual("SmolLM3-3B", dims("smollm3", [2048, 11_008, 36, 16, 4, 128_256], with(65_536, true, 5e6, json!({})))),
        usual("Ministral-3-3B", dims("ministral3", [3072, 9216, 26, 32, 8, 131_072], with(262_144, true, 1e6, yarn))),
        usual(
            "granite-3.1-2b-instruct",
            dims("granite", [2048, 8192, 40, 32, 8, 49_155], granite(0.015_625, 12.0, 0.22, 8.0)),
        ),
        usual(
            "granite-4.0-micro",
            dims("granitemoehybrid", [2560, 8192, 40, 40, 8, 100_352], granite(0.015_625, 12.0, 0.22, 10.0)),
        ),
        usual("OLMo-2-0425-1B", dims("olmo2", [2048, 8192, 16, 16, 16, 100_352], with(4096, false, 5e5, json!({})))),
        usual("Olmo-3-7B", dims("olmo3", [4096, 11_008, 32, 32, 32, 100_278], with(65_536, false, 5e5, olmo3))),
        usual(
            "EXAONE-4.0-1.2B",
            dims(
                "exaone4",
                [2048, 4096, 30, 32, 8, 102_400],
                with(65_536, true, 1e6, json!({"head_dim": 64, "rope_scaling": llama3(16.0)})),
            ),
        ),
        usual(
            "Hunyuan-1.8B-Instruct",
            dims(
                "hunyuan_v1_dense",
                [2048, 6144, 32, 16, 4, 120_832],
                with(
                    262_144,
                    true,
                    1e4,
                    json!({"head_dim": 128,
                "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}}),
                ),
            ),
        ),
        usual(
            "ERNIE-4.5-0.3B",
            dims("ernie4_5", [1024, 3072, 18, 16, 2, 103_424], with(131_072, true, 5e5, json!({"head_dim": 128}))),
        ),
        usual("Phi-4-mini-instruct", dims("phi3", [3072, 8192, 32, 24, 8, 200_064], with(131_072, true, 1e4, phi4))),
        usual("gemma-4-E2B-it", gemma4([1536, 6144, 35, 8, 1, 262_144], 5, 20, true)),
        usual("gemma-4-E4B-it", gemma4([2560, 10_240, 42, 8, 2, 262_144], 6, 18, false)),
        usual("LFM2.5-350M", lfm2([1024, 6656, 16, 16, 8, 65_536])),
        usual("LFM2.5-1.2B", lfm2([2048, 12_288, 16, 32, 8, 65_536])),
        usual("LFM3-1.7B", dims("lfm3", [2048, 7680, 24, 16, 4, 128_000], with(131_072, true, 1e6, lfm3))),
        usual("Qwen3.5-0.8B", qwen3_5([1024, 3584, 24, 8, 2, 248_320], 16)),
        usual("Qwen3.5-2B", qwen3_5([2048, 6144, 24, 8, 2, 248_320], 16)),
        usual("Qwen3.5-4B", qwen3_5([2560, 9216, 32, 16, 4, 248_320], 32)),
        usual(
            "MiniCPM5-2B",
            dims("llama", [2048, 6144, 42, 16, 2, 130_560], with(131_072, false, 1e7, json!({"head_dim": 128}))),
        ),
    ]
}

fn entries() -> impl Iterator<Item = Entry> {
    llama_likes().into_iter().chain(others()).chain(with_biases()).chain(later())
}

fn chosen(entry: &Entry, quantization: &Quantization) -> Chosen {
    let config = &entry.config;
    let own = Own { windows: config.own_windows(), trained: None, beside: 0 };
    choose(&own, &entry.overrides, None, |windows| config.graph(quantization, windows)).unwrap()
}

fn compile_for(entry: &Entry, quantization: &Quantization, chosen: &Chosen, target: Target) -> ModelLibrary {
    let graph = entry.config.graph(quantization, &chosen.windows).unwrap();
    let request = CompileRequest { graph: &graph, windows: chosen.windows, target, name: None };
    compile(&request).unwrap_or_else(|error| panic!("{} for {target:?}: {error}", entry.name))
}

/// What is chosen for an entry in one format, its library for both kinds of phone, and how long making the slower one took.
fn compiled(entry: &Entry, quantization: &Quantization) -> (Chosen, [ModelLibrary; 2], Duration) {
    let chosen = chosen(entry, quantization);
    let mut slowest = Duration::ZERO;
    let libraries = [Target::Metal, Target::OpenCl].map(|target| {
        let start = Instant::now();
        let library = compile_for(entry, quantization, &chosen, target);
        slowest = slowest.max(start.elapsed());
        library
    });
    (chosen, libraries, slowest)
}

fn memory(entry: &Entry) -> (String, MemoryPlan) {
    let (chosen, libraries, took) = compiled(entry, &entry.quantization);
    eprintln!("{}: {:.0} ms", entry.name, took.as_secs_f64() * 1e3);
    for library in libraries {
        assert_eq!(library.memory, chosen.memory);
        for function in [&library.prefill, &library.decode, &library.head] {
            let executed: usize = function.calls().map(|(_, launches)| launches.len()).sum();
            assert_eq!(executed, function.launches.len(), "{}: every launch has a kernel", entry.name);
        }
    }
    let sizes = match chosen.windows.sliding {
        Some(window) => format!("window {window} + {} sinks, chunk {}", chosen.windows.sinks, chosen.windows.chunk),
        None => format!("context {}, chunk {}", chosen.windows.context, chosen.windows.chunk),
    };
    (sizes, chosen.memory)
}

#[test]
fn every_model_compiles_and_the_table_is_up_to_date() {
    let mut table = String::from(
        "# Memory of the catalogue's models\n\nBytes on the device, as the compiler plans them. Written by \
         `KNAPSACK_BLESS=1 cargo test -p knapsack-compiler --test shapes`.\n\n\
         | model | family | format | sizes | weights | KV cache | state | workspace | total | in the file |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for entry in entries() {
        let (sizes, memory) = memory(&entry);
        let MemoryPlan { weights, file, kv_cache, state, workspace } = memory;
        let (name, family, format) = (entry.name, entry.config.family, entry.quantization);
        let total = memory.total();
        let parts = format!("{weights} | {kv_cache} | {state} | {workspace} | {total} | {file}");
        writeln!(table, "| {name} | {family} | {format} | {sizes} | {parts} |").unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/memory.md");
    if std::env::var_os("KNAPSACK_BLESS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), table, "{} is out of date", path.display());
}

/// The part of a library's source that belongs to one kernel.
fn section<'a>(library: &'a ModelLibrary, kernel: &str) -> &'a str {
    let source = &library.kernels.as_ref().unwrap().source;
    let entry = source.find(&format!("void {kernel}(")).unwrap_or_else(|| panic!("{kernel} is in the source"));
    let start = source[..entry].rfind("\n// ---- ").unwrap();
    let end = source[entry..].find("\n// ---- ").map_or(source.len(), |end| entry + end);
    &source[start..end]
}

/// Weight matrices and caches are loaded 16 bytes at once.
fn check_loads(library: &ModelLibrary, row: &KernelTraffic, what: &str) {
    if !row.summary.starts_with("linear") && !row.summary.starts_with("attention") {
        return;
    }
    // A thread that has rows of a matrix in registers reads four words next to each other one by one.
    let text =
        section(library, &row.kernel).lines().filter(|line| !line.starts_with("#define WORDS4(step, word, column)"));
    let text = &text.collect::<Vec<_>>().join("\n");
    let wide = [
        "((GLOBAL const uint4*)codes)[",
        "WORDS_OF(codes",
        "define WEIGHT8(p, i, end) LOAD8_",
        "LOAD8(p, (start) + 8 * (part8))",
    ];
    assert!(wide.iter().any(|load| text.contains(load)), "{what}, {}: no load of 16 bytes\n{text}", row.summary);
    for narrow in ["uint2*)codes", "UINT4(codes[", "codes[(row)"] {
        assert!(!text.contains(narrow), "{what}, {}: {narrow}", row.summary);
    }
}

/// In every format of every family: a decoded token reads each weight once and takes few launches, a chunk reads each weight
/// once for 64 tokens, and all of it 16 bytes at once.
#[test]
fn memory_is_read_once_in_wide_loads_by_few_launches() {
    let mut families = HashSet::new();
    for entry in entries() {
        for quantization in &QUANTIZATIONS {
            // Columns of a transposed matrix lie at multiples of 16 bytes only in fours.
            let transposed = quantization.linear().is_some_and(|format| format.layout == Layout::Kn);
            if transposed && !entry.config.vocab.is_multiple_of(4) {
                continue;
            }
            let (chosen, libraries, _) = compiled(&entry, quantization);
            for library in libraries {
                let what = format!("{} {quantization} for {:?}", entry.name, library.target);
                let kernels = |function: &Function| -> usize {
                    function.calls().map(|(call, _)| 1 + usize::from(call.then.is_some())).sum()
                };
                let launches = kernels(&library.decode) + kernels(&library.head);
                // One of attention's two merges what its work groups gave. Gemma 4's layers have two more products, and what
                // follows them.
                let each = if entry.config.per_layer_input.is_some() { 13 } else { 9 };
                let most = each * library.model.layers as usize + 8;
                assert!(launches <= most, "{what}: {launches} launches for a token, at most {most}");
                let table = kernel_traffic(&library);
                let counted: u32 = table.iter().map(|row| row.launches).sum();
                assert_eq!(counted as usize, launches + kernels(&library.prefill), "{what}: all are in the table");
                // Not the cache: where kv heads are few, several work groups read the same one, to keep the GPU busy.
                let token = || table.iter().filter(|row| row.function != "prefill");
                let moved: u64 = token().map(|row| row.moves.weights).sum();
                let must: u64 = token().map(|row| row.must.weights).sum();
                assert!(moved >= must && moved as f64 <= 1.02 * must as f64, "{what}: a token reads {moved} of {must}");
                for row in &table {
                    check_loads(&library, row, &what);
                    let linear = row.summary.starts_with("linear") && row.must.weights > 1 << 20;
                    let reads = if row.function == "prefill" { chosen.windows.chunk.div_ceil(64) } else { 1 };
                    let most = f64::from(reads) * row.must.weights as f64 * 1.02;
                    assert!(!linear || row.moves.weights as f64 <= most, "{what}: {row:?}");
                }
            }
        }
        families.insert(entry.config.family.name);
    }
    // `phi-msft` is `phi` under Microsoft's parameter names.
    assert!(FAMILIES.iter().all(|family| families.contains(family.name) || family.name == "phi-msft"), "{families:?}");
}

/// Most operations for a weight that a token meets, counted in the emitted kernels: with half precision products, which phones
/// have, and without.
fn most_operations(quantization: &Quantization) -> Option<[f64; 2]> {
    match quantization.linear()?.bits {
        3 => Some([4.5, 4.5]),
        4 => Some([3.2, 3.2]),
        _ => Some([4.5, 4.5]),
    }
}

/// What the threads of kernels do, each kernel counted once: many models and formats share one.
#[derive(Default)]
struct Counted(HashMap<(String, bool), ThreadCount>);

impl Counted {
    /// Operations of all launches of `rows`.
    fn operations(&mut self, library: &ModelLibrary, rows: &[KernelTraffic], fp16: bool) -> u64 {
        let key = |row: &KernelTraffic| {
            (format!("{} {}", row.threads, section(library, &row.kernel).replace(&row.kernel, "kernel")), fp16)
        };
        let keys: Vec<_> = rows.iter().map(key).collect();
        let missing: Vec<_> =
            rows.iter().zip(&keys).filter(|(_, key)| !self.0.contains_key(key)).map(|(row, _)| row.clone()).collect();
        if !missing.is_empty() {
            let threads =
                count_threads(library, &missing, fp16, Tiles::Local).unwrap_or_else(|error| panic!("{error}"));
            self.0.extend(missing.iter().map(key).zip(threads));
        }
        rows.iter().zip(&keys).map(|(row, key)| row.operations(&self.0[key])).sum()
    }
}

/// In every format of every family: what a token takes of the arithmetic units and of the caches.
#[test]
fn a_token_takes_few_operations_and_reads_its_input_seldom() {
    let mut counted = Counted::default();
    let started = Instant::now();
    for (index, entry) in entries().enumerate() {
        let mut kinds = HashSet::new();
        for quantization in &QUANTIZATIONS {
            let Some(most) = most_operations(quantization) else { continue };
            // Formats of one width and layout differ in the type of their scales alone, which one model shows.
            let kind = quantization.linear().map(|format| (format.bits, format.layout == Layout::Kn));
            if !kinds.insert(kind) && index > 0 {
                continue;
            }
            let library = compile_for(&entry, quantization, &chosen(&entry, quantization), Target::OpenCl);
            let is_packed = |row: &KernelTraffic| row.weights > 0 && row.summary.contains("BIT");
            let mut rows = kernel_traffic(&library);
            rows.retain(|row| row.function != "prefill" && is_packed(row));
            let weights: u64 = rows.iter().map(|row| row.weights).sum();
            for (fp16, most) in [true, false].into_iter().zip(most) {
                let each = counted.operations(&library, &rows, fp16) as f64 / weights as f64;
                if std::env::var_os("KNAPSACK_SHOW").is_some() {
                    let seconds = started.elapsed().as_secs_f64();
                    eprintln!(
                        "{seconds:.1} s: {} {quantization}, fp16 {fp16}: {each:.3} operations a weight",
                        entry.name
                    );
                }
                assert!(each <= most, "{} {quantization}, fp16 {fp16}: {each:.3} operations a weight", entry.name);
            }
            let inputs: u64 = rows.iter().map(|row| row.moves.activations).sum();
            let weights: u64 = rows.iter().map(|row| row.must.weights).sum();
            let share = inputs as f64 / weights as f64;
            assert!(share <= 0.15, "{} {quantization}: inputs are {share:.3} of the weights", entry.name);
        }
    }
}

/// The inner loop of a product of many tokens has at least 32 multiplications for 16 bytes that it reads, however it is tiled, and no
/// thread idles while a tile is filled.
#[test]
fn products_of_a_chunk_read_little_for_what_they_do() {
    let mut known = HashSet::new();
    for entry in entries() {
        for quantization in &QUANTIZATIONS {
            let library = compile_for(&entry, quantization, &chosen(&entry, quantization), Target::OpenCl);
            let products = kernel_traffic(&library).into_iter().filter(|row| {
                let inner = of_inner_loop(section(&library, &row.kernel));
                row.function == "prefill" && row.summary.starts_with("linear") && known.insert(inner)
            });
            for row in products.collect::<Vec<_>>() {
                assert_eq!(row.threads, 64, "a row of a tile for each thread");
                let packed = row.summary.contains("-BIT");
                for tiles in [Tiles::Local, Tiles::Registers, Tiles::Matrices] {
                    let counts = count_threads(&library, std::slice::from_ref(&row), true, tiles).unwrap();
                    let each = 16.0 * counts[0].inner_products as f64 / counts[0].inner_bytes as f64;
                    if std::env::var_os("KNAPSACK_SHOW").is_some() {
                        eprintln!("{} {quantization} {tiles:?}, {}: {each:.1}", entry.name, row.summary);
                    }
                    assert!(each >= 32.0, "{} {quantization} {tiles:?}, {}: {each:.1}", entry.name, row.summary);
                    // Dense weights have no other way than local memory.
                    let local = counts[0].local_bytes > 0;
                    assert_eq!(local, tiles != Tiles::Registers || !packed, "{tiles:?}, {}", row.summary);
                }
            }
        }
    }
    assert!(known.len() >= 8, "{}", known.len());
}

/// What of a kernel's text its inner loop depends on.
fn of_inner_loop(text: &str) -> String {
    let names = ["DEPTH ", "BITS ", "GATED ", "WEIGHTS_BY_", "INPUT", "WORDS4(", "SCALES4(", "WEIGHT8(", "LOAD_"];
    let defines = text.lines().filter_map(|line| line.strip_prefix("#define "));
    defines.filter(|rest| names.iter().any(|name| rest.starts_with(name))).collect::<Vec<_>>().join("\n")
}

/// A chunk's attention reads keys and values once for several query heads, where these share them and are of usual size.
#[test]
fn attention_of_a_chunk_shares_keys_and_values() {
    let mut shared = 0;
    for entry in entries() {
        let library = compile_for(&entry, &entry.quantization, &chosen(&entry, &entry.quantization), Target::OpenCl);
        for (call, launches) in library.prefill.calls() {
            let Op::Attention(op) = &launches[0].op else { continue };
            let (sharing, each) = (op.heads / op.kv_heads, op.heads / call.groups[0].count);
            assert!(sharing.is_multiple_of(each), "{}: {each} of {sharing} heads", entry.name);
            // Registers of queries and sums, four for each of theirs.
            let kernel = &library.kernels.as_ref().unwrap().kernels[call.kernel as usize].name;
            let chunks = section(&library, kernel).split_once("#define CHUNKS ").unwrap().1;
            let chunks: u32 = chunks.split_once('u').unwrap().0.parse().unwrap();
            assert!(each * chunks * 8 <= 64, "{}: {each} heads of {}: {chunks} fours", entry.name, op.head_dim);
            if sharing.is_multiple_of(2) && op.head_dim <= 128 {
                assert!(each >= 2, "{}: {sharing} heads of {} share keys, {each} at once", entry.name, op.head_dim);
                shared += 1;
            }
        }
    }
    assert!(shared > 0);
}

/// However few kv heads a model has, attention of one token over 4096 positions occupies 64 work groups.
#[test]
fn attention_of_a_token_fills_a_gpu() {
    for mut entry in entries() {
        if entry.overrides.sliding_window_size.is_none() && entry.config.own_windows().sliding.is_none() {
            entry.overrides = context(4096, 128);
        }
        let (_, libraries, _) = compiled(&entry, &entry.quantization);
        for library in libraries {
            for (call, launches) in library.decode.calls() {
                let Op::Attention(op) = &launches[0].op else { continue };
                let kv = &library.kv_cache[op.layer as usize];
                let groups: u32 = call.groups.iter().map(|axis| axis.at(1)).product();
                let most = kv.kv_heads * kv.positions.div_ceil(64);
                assert!(groups >= most.min(64), "{}: {groups} groups for {} positions", entry.name, kv.positions);
                assert_eq!(call.then.is_some(), call.groups[1].at(1) > 1, "{}: parts are merged", entry.name);
            }
        }
    }
}
