//! Shapes of public configurations: each describes a model, or is refused for a reason that is named.

use knapsack_models::{ModelConfig, adapter, usable};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn configs() -> BTreeMap<String, Value> {
    let lines = include_str!("configs/all.jsonl").lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|mut line| (line["name"].as_str().unwrap().to_owned(), line["config"].take())).collect()
}

/// Those that are refused, and what is said.
const REFUSED: &[(&str, &str)] = &[
    ("attn_logit_softcap", "`attn_logit_softcapping` = 30.0 is not supported for llama"),
    ("both-conflict", "`rope_scaling.rope_type` is \"llama3\" and `rope_parameters.rope_type` is \"default\""),
    ("chunked", "28 times full_attention or sliding_attention"),
    ("llama-no-rope", "`no_rope_layers` of the model configuration has no meaning for llama"),
    ("ntk-type", "rope scaling `ntk` is not known"),
    ("num-layers-null", "lacks `num_hidden_layers` or `n_layer`"),
    ("rope_scaling-type-null", "`rope_scaling.factor` of the model configuration has no meaning for llama"),
    ("strings", "`hidden_size` of the model configuration is \"2048\""),
    (
        "x-awq-qwen2.5",
        "a checkpoint quantized by AWQ, 4 bits, groups of 128 cannot be packaged: use the checkpoint that it was made",
    ),
    ("x-baichuan2-7b", "`BaichuanForCausalLM` is not supported; supported are"),
    ("x-bnb-4bit-llama", "a checkpoint quantized by bitsandbytes cannot be packaged"),
    ("x-deepseek-v2-lite", "`DeepseekV2ForCausalLM` is not supported; supported are"),
    ("x-fp8-qwen3", "a checkpoint quantized by fp8 cannot be packaged"),
    ("x-gptq-llama", "a checkpoint quantized by GPTQ, 4 bits, groups of 128 cannot be packaged"),
    ("x-llama-seqclass", "a sequence classifier cannot be packaged: use the causal language model"),
    ("x-ministral-3-3b", "lacks `hidden_size` or `n_embd`"),
    ("x-mixtral", "`MixtralForCausalLM` is not supported; the nearest is `mistral`"),
    ("x-olmo-1b", "`OlmoForCausalLM` is not supported; supported are"),
    ("x-phi-3-small", "`Phi3SmallForCausalLM` is not supported; the nearest is `phi3`"),
    ("x-phi-3.5-moe", "`PhiMoEForCausalLM` is not supported; the nearest is `phi`"),
    ("x-phi-3.5-vision", "`Phi3VForCausalLM` is not supported; the nearest is `phi3`"),
    ("x-qwen3-30b-a3b", "`Qwen3MoeForCausalLM` is not supported; the nearest is `qwen3`"),
    ("x-qwen3-embedding", "`Qwen3Model` is not supported; the nearest is `qwen3`"),
    ("x-qwen3-next", "`Qwen3NextForCausalLM` is not supported; the nearest is `qwen3`"),
    ("x-qwen3.5-0.8b", "lacks `hidden_size` or `n_embd`"),
];

#[test]
fn each_is_a_model_or_refused_by_name() {
    let refused: BTreeMap<_, _> = REFUSED.iter().copied().collect();
    let configs = configs();
    assert!(refused.keys().all(|name| configs.contains_key(*name)));
    for (name, config) in configs {
        match (ModelConfig::from_hf(&config), refused.get(name.as_str())) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{name}: {error}"),
            (Ok(_), Some(expected)) => panic!("{name}: read, but expected: {expected}"),
            (Err(error), None) => panic!("{name}: {error}"),
        }
    }
}

/// One model in the forms of transformers 4 and 5, or with a value in another of its places.
#[test]
fn every_form_of_a_configuration_is_the_same_model() {
    let configs = configs();
    for (one, other) in [
        ("llama-3.2-1b", "t5-llama-3.2-1b"),
        ("llama-3.2-1b", "head_dim-null"),
        ("llama-3.2-1b", "rope_scaling-with-theta-inside"),
        ("mistral-7b-v0.1", "t5-mistral-7b-v0.1"),
        ("phi-2", "t5-phi-2"),
        ("phi-3-mini-4k", "t5-phi-3-mini-4k"),
        ("phi-3.5-mini", "t5-phi-3.5-mini"),
        ("phi-3.5-mini", "phi-3-mini-128k-su"),
        ("phi-4-mini", "t5-phi-4-mini"),
        ("qwen3-0.6b", "t5-qwen3-0.6b"),
        ("qwen3-0.6b", "in-rope_parameters"),
        ("stablelm-2-1.6b", "t5-stablelm-2"),
        ("gemma-3-1b", "t5-gemma-3-1b"),
        ("gemma-2b", "gemma-2b-null-activation"),
    ] {
        let read = |name: &str| ModelConfig::from_hf(&configs[name]).unwrap();
        assert_eq!(read(one), read(other), "{one} and {other}");
    }
}

/// What a conversion writes of a configuration is read back as the same model, whichever form it had.
#[test]
fn every_form_survives_conversion() {
    for (name, config) in configs() {
        let Ok(model) = ModelConfig::from_hf(&config) else { continue };
        let chat = json!({"model_type": model.family.name, "model_config": model.mlc_model_config(&config)});
        let mut back = ModelConfig::from_mlc(&chat).unwrap_or_else(|error| panic!("{name}: {error}"));
        // MLC's fields for gemma2 and for windows on the whole model keep other positions.
        back.trained_positions = model.trained_positions;
        assert_eq!(back, model, "{name}");
    }
}

/// A share of the head that is rotated counts wherever it stands.
#[test]
fn a_rotated_share_is_found_in_every_place() {
    let mut config = configs()["phi-4-mini"].clone();
    let rotary = |config: &Value| ModelConfig::from_hf(config).map(|model| model.ropes[0].rotary);
    assert_eq!(rotary(&config), Ok(96));
    let share = config.as_object_mut().unwrap().remove("partial_rotary_factor").unwrap();
    assert!(rotary(&config).is_err(), "48 factors do not fit 64 pairs");
    config["rope_scaling"]["partial_rotary_factor"] = share;
    assert_eq!(rotary(&config), Ok(96));
    let dictionary = config["rope_scaling"].take();
    config["rope_parameters"] = dictionary;
    assert_eq!(rotary(&config), Ok(96));
    config["partial_rotary_factor"] = json!(0.5);
    assert!(rotary(&config).unwrap_err().to_string().contains("`partial_rotary_factor` is 0.5, and 0.75"));
}

/// A rope key that nobody reads is an error, at the top, in the dictionary and in that of one kind of layer; one that is off is none.
#[test]
fn rope_keys_without_a_meaning_are_refused() {
    let configs = configs();
    let with = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut config = configs[name].clone();
        change(&mut config);
        ModelConfig::from_hf(&config).map(|_| ()).map_err(|error| error.to_string())
    };
    for (key, value, fine) in [
        ("rope_ratio", json!(2.0), false),
        ("rotary_interleaved", json!(true), false),
        ("rope_local_base_freq", json!(1e4), false),
        ("rope_interleaved", json!(false), true),
        ("rotary_anything", json!(null), true),
    ] {
        let found = with("llama-3.2-1b", &|config| config[key] = value.clone());
        assert_eq!(found.is_ok(), fine, "{found:?}");
        assert!(found.err().is_none_or(|error| error.starts_with(&format!("`{key}`"))));
    }
    for key in ["beta_fast", "mscale", "unheard_of"] {
        let found = with("llama-3.2-1b", &|config| config["rope_scaling"][key] = json!(2.0)).unwrap_err();
        assert!(found.starts_with(&format!("`rope_scaling.{key}`")), "{found}");
    }
    let nested = |config: &mut Value| config["rope_parameters"]["sliding_attention"]["factor"] = json!(8.0);
    let found = with("t5-gemma-3-1b", &nested).unwrap_err();
    assert!(found.starts_with("`rope_parameters.sliding_attention.factor`"), "{found}");
}

/// Every method of quantization is named, wherever it is said.
#[test]
fn quantized_checkpoints_and_adapters_are_named() {
    for (key, value, expected) in [
        ("quantization_config", json!({"quant_method": "hqq"}), "quantized by hqq"),
        ("quantization_config", json!({"load_in_8bit": true}), "quantized by bitsandbytes"),
        ("quantization_config", json!({"bits": 8}), "does not name, 8 bits"),
        ("quantization", json!({"group_size": 64, "bits": 4}), "quantized by MLX, 4 bits, groups of 64"),
        ("text_config", json!({"quantization_config": {"quant_method": "fp8"}}), "quantized by fp8"),
    ] {
        let error = usable(&json!({key: value})).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("use the checkpoint that it was made from"), "{error}");
    }
    for config in [json!({}), json!({"quantization_config": null}), json!({"quantization": "q4f16_1"}), json!([1])] {
        assert_eq!(usable(&config), Ok(()), "{config}");
    }
    let error = adapter(&json!({"peft_type": "LORA", "base_model_name_or_path": "org/base"})).to_string();
    assert!(error.contains("a LORA adapter of org/base cannot be packaged: merge it"), "{error}");
}
