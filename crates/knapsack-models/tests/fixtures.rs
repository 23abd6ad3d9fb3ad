//! Configurations and parameters against what the reference tool wrote for the fixtures and reported for the catalogue.

use knapsack_ir::Windows;
use knapsack_models::{ConfigError, FAMILIES, Mixer, ModelConfig, TensorUse};
use knapsack_tensor::{DType, Quantization};
use knapsack_testkit::{CATALOGUE, catalogue, fixture, fixtures, mlc_fixture};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn windows(config: &ModelConfig) -> Vec<Option<u32>> {
    config.attentions().map(|attention| attention.window).collect()
}

fn quantization(name: &str) -> Quantization {
    name.parse().unwrap()
}

#[test]
fn parameters_are_those_of_the_fixtures() {
    for model in fixtures() {
        for name in model.quantizations {
            let folder = mlc_fixture(model.family, name);
            let config = ModelConfig::from_mlc(&read(&folder.join("mlc-chat-config.json"))).unwrap();
            let mut found = BTreeMap::new();
            for shard in read(&folder.join("tensor-cache.json"))["records"].as_array().unwrap() {
                for record in shard["records"].as_array().unwrap() {
                    let bytes = record["nbytes"].as_u64().unwrap();
                    let key = (record["name"].as_str().unwrap().to_owned(), record["shape"].to_string());
                    found.insert(key, (record["dtype"].as_str().unwrap().to_owned(), bytes));
                }
            }
            let expected: BTreeMap<_, _> = config
                .stored_tensors(&quantization(name))
                .iter()
                .map(|t| {
                    ((t.name.clone(), json!(t.shape).to_string()), (t.index_dtype.to_string(), t.bytes().unwrap()))
                })
                .collect();
            assert_eq!(found, expected, "{} {name}", model.family);
        }
    }
}

#[test]
fn parameters_of_full_size_models_are_the_reference_s_to_the_byte() {
    for name in CATALOGUE.iter().filter(|name| !name.starts_with("Phi")) {
        let chat = read(&catalogue(name).join("mlc-chat-config.json"));
        let reference = read(&catalogue(name).join("params.json"));
        let config = ModelConfig::from_mlc(&chat).unwrap();
        let stored = config.stored_tensors(&quantization(chat["quantization"].as_str().unwrap()));
        let bytes: u64 = stored.iter().map(|tensor| tensor.bytes().unwrap()).sum();
        assert_eq!(bytes as f64, reference["_param_bytes"].as_f64().unwrap(), "{name}");
        let expected: BTreeMap<_, _> = reference["params"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                let dim = |dim: &Value| dim.as_u64().unwrap_or(u64::from(config.vocab));
                let shape: Vec<u64> = entry[1].as_array().unwrap().iter().map(dim).collect();
                (entry[0].as_str().unwrap().to_owned(), (shape, entry[2].as_str().unwrap().to_owned()))
            })
            .collect();
        let found: BTreeMap<_, _> =
            stored.into_iter().map(|t| (t.name, (t.shape, t.index_dtype.to_string()))).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn the_model_config_that_is_written_is_the_reference_s() {
    for model in fixtures() {
        let hf = read(&fixture(model.family).join("config.json"));
        let config = ModelConfig::from_hf(&hf).unwrap();
        let chat = read(&mlc_fixture(model.family, model.quantizations[0]).join("mlc-chat-config.json"));
        assert_eq!(Value::Object(config.mlc_model_config(&hf)), chat["model_config"], "{}", model.family);
    }
}

#[test]
fn a_checkpoint_and_its_conversion_describe_the_same_model() {
    for model in fixtures() {
        let from_hf = ModelConfig::from_hf(&read(&fixture(model.family).join("config.json"))).unwrap();
        let chat = read(&mlc_fixture(model.family, model.quantizations[0]).join("mlc-chat-config.json"));
        let mut from_mlc = ModelConfig::from_mlc(&chat).unwrap();
        // MLC keeps neither the trained positions of windowed models nor gemma2's own context.
        from_mlc.trained_positions = from_hf.trained_positions;
        if model.family == "gemma2" {
            assert_eq!((from_mlc.context_window, from_mlc.prefill_chunk), (Some(32), 32));
            from_mlc.context_window = from_hf.context_window;
            from_mlc.prefill_chunk = from_hf.prefill_chunk;
        }
        assert_eq!(from_hf, from_mlc, "{}", model.family);
    }
}

#[test]
fn windows_and_caps_of_gemma2_are_the_model_s() {
    let config = ModelConfig::from_hf(&read(&fixture("gemma2").join("config.json"))).unwrap();
    assert_eq!(windows(&config), [Some(32), None, Some(32), None]);
    assert_eq!(config.attention_scale, 0.125);
    assert_eq!((config.attention_soft_cap, config.final_soft_cap), (Some(50.0), Some(30.0)));
    assert_eq!(config.embedding_scale, 128f32.sqrt());
}

#[test]
fn a_window_at_the_top_level_wins() {
    let mut chat = read(&catalogue("Mistral-7B-Instruct-v0.3-q4f16_1").join("mlc-chat-config.json"));
    let config = ModelConfig::from_mlc(&chat).unwrap();
    assert_eq!((config.context_window, config.sliding_window), (Some(32768), None));
    chat["sliding_window_size"] = json!(768);
    chat["context_window_size"] = json!(-1);
    let config = ModelConfig::from_mlc(&chat).unwrap();
    assert_eq!((config.context_window, config.sliding_window, config.attention_sinks), (None, Some(768), 4));
    assert_eq!(config.prefill_chunk, 768);
}

#[test]
fn an_unknown_family_names_the_nearest_if_one_is_near() {
    for (architecture, model_type, nearest) in [
        ("Qwen2MoeForCausalLM", "qwen2_moe", Some("qwen2")),
        ("Qwen3NextForCausalLM", "qwen3_next", Some("qwen3")),
        ("Gemma2Model", "gemma2", Some("gemma2")),
        ("Phi3VForCausalLM", "phi3_v", Some("phi3")),
        ("OlmoForCausalLM", "olmo", None),
        ("BaichuanForCausalLM", "baichuan", None),
        ("DeepseekV2ForCausalLM", "deepseek_v2", None),
    ] {
        let config = json!({"architectures": [architecture], "model_type": model_type});
        let error = ModelConfig::from_hf(&config).unwrap_err();
        let ConfigError::Unsupported(error) = error else { panic!("{error}") };
        assert_eq!((error.found.as_str(), error.nearest), (architecture, nearest));
        assert!(error.to_string().contains("supported are llama, mistral"), "{error}");
        assert_eq!(error.to_string().contains("the nearest is"), nearest.is_some());
    }
    let mut spelled = minimal("llama");
    spelled["architectures"] = json!(["LLaMAForCausalLM"]);
    assert_eq!(ModelConfig::from_hf(&spelled).unwrap().family.name, "llama");
    assert!(ModelConfig::from_mlc(&json!({"model_type": "rwkv5"})).is_err());
    assert!(ModelConfig::from_hf(&json!([])).is_err());
    assert!(ModelConfig::from_hf(&json!({})).is_err());
}

/// Every value of a configuration replaced by every kind of nonsense: an error or a usable configuration, never a panic.
#[test]
fn hostile_values_never_panic() {
    let nonsense = [
        json!(null),
        json!(-1),
        json!(0),
        json!(1),
        json!(3),
        json!(1e300),
        json!(u64::MAX),
        json!(4294967296u64),
        json!(1048576),
        json!("x"),
        json!([]),
        json!({}),
        json!(true),
        json!(1e-320),
    ];
    for model in fixtures() {
        let hf = read(&fixture(model.family).join("config.json"));
        for key in hf.as_object().unwrap().keys() {
            for value in &nonsense {
                let mut changed = hf.clone();
                changed[key] = value.clone();
                let Ok(config) = ModelConfig::from_hf(&changed) else { continue };
                for tensor in config.stored_tensors(&quantization("q4f16_1")) {
                    assert!(tensor.bytes().is_some(), "{key} = {value}");
                }
                config.mlc_model_config(&changed);
                config.ropes[0].frequencies(1 << 20);
            }
        }
    }
}

#[test]
fn every_family_round_trips_through_its_mlc_configuration() {
    for family in FAMILIES.iter().copied() {
        let hf = minimal(family.name);
        let config = ModelConfig::from_hf(&hf).unwrap();
        assert_eq!(config.family, family);
        let chat = json!({"model_type": family.name, "model_config": config.mlc_model_config(&hf)});
        let mut back = ModelConfig::from_mlc(&chat).unwrap();
        if family.name == "gemma2" {
            (back.context_window, back.prefill_chunk) = (config.context_window, config.prefill_chunk);
            back.trained_positions = config.trained_positions;
        }
        assert_eq!(config, back, "{family}");
        let names: Vec<_> = config.parameters().into_iter().map(|p| p.name).collect();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), unique.len(), "{family}");
        for parameter in config.parameters() {
            let rows: u64 = parameter.sources.iter().map(|source| source.rows).sum();
            assert_eq!(rows, parameter.shape[0], "{}", parameter.name);
        }
    }
}

fn minimal(family: &str) -> Value {
    let mut config = json!({
        "model_type": family, "hidden_size": 64, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 96, "vocab_size": 300,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "layer_norm_eps": 1e-5,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0}
    });
    match family {
        "phi-msft" => {
            config = json!({
                "architectures": ["PhiForCausalLM"], "model_type": "phi-msft", "n_embd": 64, "n_layer": 2, "n_head": 4,
                "n_inner": null, "n_positions": 128, "rotary_dim": 8, "vocab_size": 300, "layer_norm_epsilon": 1e-5
            })
        }
        "gemma3_text" => {
            config["head_dim"] = json!(16);
            config["sliding_window"] = json!(16);
            config["rope_theta"] = json!(1_000_000.0);
            config["rope_local_base_freq"] = json!(10_000.0);
        }
        "gemma2" => config["sliding_window"] = json!(16),
        "qwen2" => {
            config["use_sliding_window"] = json!(true);
            config["sliding_window"] = json!(16);
            config["max_window_layers"] = json!(3);
        }
        "smollm3" => {
            config["use_sliding_window"] = json!(true);
            config["sliding_window"] = json!(16);
        }
        "exaone4" => {
            config["sliding_window"] = json!(16);
            config["sliding_window_pattern"] = json!("LLG");
        }
        "olmo3" => config["sliding_window"] = json!(16),
        "granite" | "granitemoehybrid" => {
            config["embedding_multiplier"] = json!(12);
            config["residual_multiplier"] = json!(0.22);
            config["attention_multiplier"] = json!(0.0625);
            config["logits_scaling"] = json!(8);
        }
        "ministral3" => {
            config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 16.0, "llama_4_scaling_beta": 0.1,
                "original_max_position_embeddings": 64});
        }
        "ernie4_5" => config["use_bias"] = json!(true),
        "gemma4" => {
            config["head_dim"] = json!(16);
            config["global_head_dim"] = json!(32);
            config["num_kv_shared_layers"] = json!(2);
            config["layer_types"] = json!([
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "sliding_attention"
            ]);
            config.as_object_mut().unwrap().remove("rope_scaling");
            config["rope_parameters"] = json!({"sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}});
        }
        "lfm2" => config["full_attn_idxs"] = json!([2, 5]),
        "qwen3_5" => config["rope_scaling"] = json!({"rope_type": "default", "mrope_section": [1, 1, 1]}),
        "stablelm" => {
            config["use_qkv_bias"] = json!(true);
            config["qk_layernorm"] = json!(true);
            config["use_parallel_residual"] = json!(true);
        }
        _ => {}
    }
    config
}

#[test]
fn gemma3_has_its_pattern_and_two_bases() {
    let config = ModelConfig::from_hf(&minimal("gemma3_text")).unwrap();
    assert_eq!(windows(&config), [Some(16), Some(16), Some(16), Some(16), Some(16), None]);
    assert_eq!((config.ropes[0].base, config.ropes[1].base), (1e6, 1e4));
    let names: Vec<_> = config.parameters().into_iter().map(|p| p.name).collect();
    assert!(names.contains(&"language_model.model.layers.5.self_attn.k_norm.weight".to_owned()));
}

/// Layers that rotate, by family's rule.
#[test]
fn layers_without_rotation_are_the_model_s() {
    let rotates = |config: &Value| {
        let config = ModelConfig::from_hf(config).unwrap();
        config.attentions().map(|attention| attention.rope.is_some()).collect::<Vec<_>>()
    };
    let mut smollm3 = minimal("smollm3");
    assert_eq!(rotates(&smollm3), [true, true, true, false, true, true]);
    assert_eq!(windows(&ModelConfig::from_hf(&smollm3).unwrap())[3], Some(16), "the others have no window");
    smollm3["no_rope_layers"] = json!([1, 0, 1, 0, 1, 1]);
    assert_eq!(rotates(&smollm3), [true, false, true, false, true, true]);
    smollm3["no_rope_layers"] = json!([1, 0]);
    assert!(ModelConfig::from_hf(&smollm3).is_err());
    let mut exaone = minimal("exaone4");
    assert_eq!(rotates(&exaone), [true, true, false, true, true, false]);
    exaone["sliding_window"] = json!(null);
    assert_eq!(rotates(&exaone), [true; 6]);
    assert_eq!(rotates(&minimal("granitemoehybrid")), [false; 6]);
}

/// Queries have a table of their own only where the context reaches beyond the positions trained with first.
#[test]
fn growth_is_compiled_away_for_short_contexts() {
    let config = ModelConfig::from_hf(&minimal("ministral3")).unwrap();
    let tables = |context: u32| {
        let windows = Windows { context, ..config.own_windows() };
        config.graph(&quantization("q4f16_1"), &windows).unwrap().rope_tables.len()
    };
    assert_eq!((tables(64), tables(65)), (1, 2));
}

/// A model that sees as well: its language model, under a prefix, with what is left out.
#[test]
fn a_wrapped_language_model_is_read_and_the_rest_is_named() {
    let text = minimal("ministral3");
    let outer = json!({"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": text,
        "tie_word_embeddings": true, "vision_config": {"hidden_size": 16}});
    let config = ModelConfig::from_hf(&outer).unwrap();
    assert!(config.tied_embeddings, "the outer value wins");
    let own = "model.layers.0.mlp.up_proj.weight";
    for name in
        [own, "model.language_model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"]
    {
        assert_eq!(config.tensor_use(name), TensorUse::Source(own.into()), "{name}");
    }
    assert_eq!(config.tensor_use("vision_tower.patch_conv.weight"), TensorUse::Part("vision"));
    assert_eq!(config.tensor_use("language_model.lm_head.weight"), TensorUse::Ignored);
}

/// The configuration of a Gemma 3 that sees gives a few sizes; the others are transformers' own.
#[test]
fn gemma3_of_four_billion_is_read() {
    let config = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "eos_token_id": [1, 106], "vision_config": {"hidden_size": 1152},
        "text_config": {"hidden_size": 2560, "intermediate_size": 10_240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}});
    let read = ModelConfig::from_hf(&config).unwrap();
    let attention = read.attention();
    assert_eq!((attention.heads, attention.kv_heads, attention.head_dim), (8, 4, 256));
    assert_eq!((read.layers.len(), read.vocab, read.context_window), (34, 262_208, Some(131_072)));
    assert_eq!((windows(&read)[4], windows(&read)[5]), (Some(1024), None));
    assert_eq!(read.ropes[0].scaling, knapsack_models::RopeScaling::Linear { factor: 8.0 });
    assert_eq!((read.ropes[0].base, read.ropes[1].base), (1e6, 1e4));
    assert_eq!(read.tensor_use("vision_tower.x"), TensorUse::Part("vision"));
    let chat = json!({"model_type": "gemma3_text", "model_config": read.mlc_model_config(&config)});
    assert_eq!(ModelConfig::from_mlc(&chat).unwrap(), read);
}

/// What mixes the tokens of each layer, by family's rule.
#[test]
fn layers_that_remember_are_the_model_s() {
    let mixers = |config: &Value| {
        let config = ModelConfig::from_hf(config).unwrap();
        let letter = |mixer: &Mixer| match mixer {
            Mixer::Attention(attention) => {
                if attention.window.is_some() {
                    'w'
                } else {
                    'f'
                }
            }
            Mixer::Conv { .. } => 'c',
            Mixer::Delta(_) => 'd',
        };
        config.layers.iter().map(|layer| letter(&layer.mixer)).collect::<String>()
    };
    assert_eq!(mixers(&minimal("lfm2")), "ccfccf");
    assert_eq!(mixers(&minimal("lfm3")), "ccfcwc");
    assert_eq!(mixers(&minimal("qwen3_5")), "dddfdd");
    let mut listed = minimal("qwen3_5");
    listed["layer_types"] = json!([
        "full_attention",
        "linear_attention",
        "linear_attention",
        "full_attention",
        "linear_attention",
        "linear_attention"
    ]);
    assert_eq!(mixers(&listed), "fddfdd");
    let all = |kind: &str, count| Value::from(vec![kind; count]);
    for wrong in [all("linear_attention", 6), all("conv", 6), all("full_attention", 5), json!("conv")] {
        listed["layer_types"] = wrong.clone();
        assert!(ModelConfig::from_hf(&listed).is_err(), "{wrong}");
    }
}

/// The last layers of gemma4 read what the last earlier one of their kind caches; a checkpoint's own projections are left out.
#[test]
fn shared_layers_have_no_keys_and_values() {
    let mut minimal = minimal("gemma4");
    minimal["use_double_wide_mlp"] = json!(true);
    let config = ModelConfig::from_hf(&minimal).unwrap();
    let shares: Vec<_> = config.attentions().map(|attention| attention.shares).collect();
    assert_eq!(shares, [None, None, None, None, Some(2), Some(3)]);
    let dims: Vec<_> = config.attentions().map(|attention| attention.head_dim).collect();
    assert_eq!(dims, [16, 32, 16, 32, 16, 32], "the last layer sees everything");
    assert_eq!(config.layers.iter().map(|layer| layer.intermediate).collect::<Vec<_>>(), [96, 96, 96, 96, 192, 192]);
    for name in ["k_proj.weight", "v_proj.weight", "k_norm.weight"] {
        let of = |layer: u32| format!("model.language_model.layers.{layer}.self_attn.{name}");
        assert_eq!(config.tensor_use(&of(4)), TensorUse::Ignored);
        assert!(matches!(config.tensor_use(&of(3)), TensorUse::Source(_)));
    }
    assert_eq!(config.tensor_use("model.audio_tower.x.weight"), TensorUse::Part("audio"));
    for (key, wrong) in [
        ("attention_k_eq_v", json!(true)),
        ("enable_moe_block", json!(true)),
        ("num_kv_shared_layers", json!(6)),
        ("use_bidirectional_attention", json!("all")),
    ] {
        let mut config = minimal.clone();
        config[key] = wrong;
        assert!(ModelConfig::from_hf(&config).is_err(), "{key}");
    }
}

/// What lfm3's configurations call a rotation of half of each head is one of half of the pairs of the whole head.
#[test]
fn lfm3_rotates_half_of_the_pairs() {
    for kind in ["default", "proportional"] {
        let mut config = minimal("lfm3");
        config.as_object_mut().unwrap().remove("rope_scaling");
        config["rope_parameters"] = json!({"sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": kind, "rope_theta": 1e6, "partial_rotary_factor": 0.5}});
        let config = ModelConfig::from_hf(&config).unwrap();
        let [full, windowed] = &config.ropes[..] else { panic!("two embeddings") };
        assert_eq!((full.rotary, windowed.rotary), (128, 128));
        assert_eq!(full.scaling, knapsack_models::RopeScaling::Proportional { pairs: 32, factor: 1.0 }, "{kind}");
        let frequencies = full.frequencies(100).frequencies;
        assert!(frequencies[..32].iter().all(|&f| f > 0.0) && frequencies[32..].iter().all(|&f| f == 0.0));
    }
}

#[test]
fn gpt_neox_keeps_two_biases_in_float32() {
    let config = ModelConfig::from_hf(&minimal("gpt_neox")).unwrap();
    let stored = config.stored_tensors(&quantization("q4f16_1"));
    let bias = stored.iter().find(|t| t.name == "gpt_neox.layers.0.mlp.dense_4h_to_h.bias").unwrap();
    assert_eq!((bias.dtype, bias.index_dtype), (DType::BF16, DType::F32));
}
