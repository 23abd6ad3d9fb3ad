//! Conversion against what the reference tool wrote, and what happens when things go wrong.

use knapsack_artifact::{ChatConfig, WeightIndex};
use knapsack_testkit::{GENERATED, fixture, fixtures, mlc_fixture, tiny_assistant};
use knapsack_weights::{
    Conversion, ConvertError, ConvertProgress, ConvertRequest, TemplateChoice, check_chat, convert,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn run(
    checkpoint: &Path,
    output: &Path,
    quantization: &str,
    template: Option<&str>,
    jobs: usize,
) -> Result<Conversion, ConvertError> {
    let quantization = quantization.parse().unwrap();
    let chat_template = &template.map_or(TemplateChoice::Model, |name| TemplateChoice::Preset(name.to_owned()));
    let request = ConvertRequest { checkpoint, output, quantization, chat_template, jobs: NonZero::new(jobs) };
    convert(&request, &AtomicBool::new(false), &|_: ConvertProgress| {})
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Every file of a folder with its content.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn copy_checkpoint(from: &Path, to: &Path) {
    for (name, content) in contents(from) {
        std::fs::write(to.join(name), content).unwrap();
    }
}

#[test]
fn every_fixture_comes_out_bit_for_bit() {
    for model in fixtures() {
        for quantization in model.quantizations {
            let expected = mlc_fixture(model.family, quantization);
            let chat = json_file(&expected.join("mlc-chat-config.json"));
            let template = chat["conv_template"]["name"].as_str();
            let parent = tempfile::tempdir().unwrap();
            let output = parent.path().join("out");
            let report = run(&fixture(model.family), &output, quantization, template, 2).unwrap();
            assert_eq!(report.conv_template.as_deref(), template);
            let (found, expected) = (contents(&output), contents(&expected));
            let names = |list: &[(String, Vec<u8>)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&found), names(&expected), "{} {quantization}", model.family);
            for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                if name.ends_with(".json") {
                    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
                    assert_eq!(parse(found), parse(expected), "{} {quantization} {name}", model.family);
                } else {
                    assert!(found == expected, "{} {quantization} {name} differs", model.family);
                }
            }
        }
    }
}

/// Families that MLC has and that no fixture was converted by it for: each tensor as MLC's loader and converter make it.
#[test]
fn tensors_are_those_of_the_reference_by_their_sums() {
    for model in GENERATED {
        let sums = model.checkpoint().join("../q4f16_1.mlc_tensors.json");
        if !sums.is_file() {
            continue;
        }
        let parent = tempfile::tempdir().unwrap();
        let output = parent.path().join("out");
        run(&model.checkpoint(), &output, "q4f16_1", None, 2).unwrap();
        let mut found = BTreeMap::new();
        for shard in json_file(&output.join("tensor-cache.json"))["records"].as_array().unwrap() {
            let bytes = std::fs::read(output.join(shard["dataPath"].as_str().unwrap())).unwrap();
            for record in shard["records"].as_array().unwrap() {
                let number = |key: &str| record[key].as_u64().unwrap() as usize;
                let data = &bytes[number("byteOffset")..][..number("nbytes")];
                let sum = hex::encode(Sha256::digest(data));
                let what = json!([record["shape"], record["dtype"], record["nbytes"], sum]);
                found.insert(record["name"].as_str().unwrap().to_owned(), what);
            }
        }
        let expected = json_file(&sums);
        let expected: BTreeMap<_, _> = expected
            .as_array()
            .unwrap()
            .iter()
            .map(|t| (t["name"].as_str().unwrap().to_owned(), json!([t["shape"], t["dtype"], t["bytes"], t["sha256"]])))
            .collect();
        assert_eq!(found, expected, "{}", model.name);
    }
}

/// What stands beside the language model in a checkpoint is left out and named.
#[test]
fn parts_beside_the_language_model_are_named() {
    let model = GENERATED.iter().find(|model| model.name == "ministral3").unwrap();
    let parent = tempfile::tempdir().unwrap();
    let report = run(&model.checkpoint(), &parent.path().join("out"), "q4f16_1", None, 2).unwrap();
    assert!(
        report.notices.iter().any(|notice| notice == "left out: vision, 384 bytes in 4 tensors"),
        "{:?}",
        report.notices
    );
}

#[test]
fn every_format_is_written_and_the_same_with_any_number_of_threads() {
    for quantization in knapsack_tensor::QUANTIZATIONS {
        let parent = tempfile::tempdir().unwrap();
        let outputs = [1, 2, 7].map(|jobs| {
            let output = parent.path().join(jobs.to_string());
            run(&fixture("mistral"), &output, quantization.name, None, jobs).unwrap();
            let index = WeightIndex::open(&output).unwrap();
            index.check_files(&output).unwrap();
            contents(&output)
        });
        assert!(outputs[0] == outputs[1] && outputs[0] == outputs[2], "{quantization}");
    }
}

/// Not a number, and numbers that float16 does not hold: the bits are the reference's, and the user is told where and how many.
#[test]
fn values_that_nobody_can_mean_are_told() {
    let parent = tempfile::tempdir().unwrap();
    let (checkpoint, output) = (parent.path().join("in"), parent.path().join("out"));
    std::fs::create_dir(&checkpoint).unwrap();
    copy_checkpoint(&fixture("llama"), &checkpoint);
    let file = checkpoint.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "model.layers.1.mlp.down_proj.weight";
    assert_eq!(tensors[name]["dtype"], "BF16");
    let start = 8 + header + tensors[name]["data_offsets"][0].as_u64().unwrap() as usize;
    // NaN, then 1.7e38 and -65536 (which float16 rounds to infinity), then 65280 (which it holds).
    for (i, bits) in [0x7fc0u16, 0x7f00, 0xc780, 0x477f].into_iter().enumerate() {
        bytes[start + 2 * i..start + 2 * i + 2].copy_from_slice(&bits.to_le_bytes());
    }
    std::fs::write(&file, bytes).unwrap();
    let report = run(&checkpoint, &output, "q4f16_1", None, 2).unwrap();
    let told: Vec<_> = report.warnings.iter().filter(|warning| warning.contains(name)).collect();
    let expected = format!(
        "`{name}` has 1 value not a number (NaN) and 2 values beyond what float16 can hold, infinite from now on"
    );
    assert_eq!(told, [&expected]);
    std::fs::remove_dir_all(&output).unwrap();
    let report = run(&fixture("llama"), &output, "q4f16_1", None, 2).unwrap();
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
}

#[test]
fn progress_covers_the_checkpoint() {
    let parent = tempfile::tempdir().unwrap();
    let (fixture, output) = (fixture("llama"), parent.path().join("out"));
    let quantization = "q4f16_1".parse().unwrap();
    let request = ConvertRequest {
        checkpoint: &fixture,
        output: &output,
        quantization,
        chat_template: &TemplateChoice::Model,
        jobs: None,
    };
    let most = AtomicU64::new(0);
    let report = convert(&request, &AtomicBool::new(false), &|progress: ConvertProgress| {
        assert!(progress.done <= progress.total);
        most.fetch_max(progress.done, Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!(most.into_inner(), report.source_bytes);
    assert_eq!(report.bytes, 305_920);
}

#[test]
fn a_cancelled_conversion_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let (fixture, output) = (fixture("llama"), parent.path().join("out"));
    let quantization = "q4f16_1".parse().unwrap();
    let request = ConvertRequest {
        checkpoint: &fixture,
        output: &output,
        quantization,
        chat_template: &TemplateChoice::Model,
        jobs: None,
    };
    let cancel = AtomicBool::new(false);
    let error = convert(&request, &cancel, &|_| cancel.store(true, Ordering::Relaxed)).unwrap_err();
    assert!(matches!(error, ConvertError::Cancelled), "{error}");
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn a_converted_folder_is_refused() {
    let folder = mlc_fixture("llama", "q4f16_1");
    let parent = tempfile::tempdir().unwrap();
    let output = parent.path().join("out");
    let error = run(&folder, &output, "q4f16_1", None, 1).unwrap_err();
    assert!(matches!(error, ConvertError::AlreadyConverted { .. }), "{error}");
    let error = run(&folder, &output, "q3f16_1", None, 1).unwrap_err();
    assert!(matches!(&error, ConvertError::OtherQuantization { found, .. } if found == "q4f16_1"), "{error}");
}

#[test]
fn an_output_that_is_there_is_refused_before_anything_is_written() {
    let parent = tempfile::tempdir().unwrap();
    std::fs::write(parent.path().join("mine"), "x").unwrap();
    let error = run(&fixture("llama"), parent.path(), "q4f16_1", None, 1).unwrap_err();
    assert!(matches!(error, ConvertError::OutputExists(_)), "{error}");
    assert_eq!(contents(parent.path()).len(), 1);
}

#[test]
fn all_tensors_that_do_not_fit_are_listed_at_once() {
    let parent = tempfile::tempdir().unwrap();
    copy_checkpoint(&fixture("llama"), parent.path());
    let path = parent.path().join("config.json");
    let mut config = json_file(&path);
    config["num_hidden_layers"] = json!(4);
    config["intermediate_size"] = json!(128);
    config["tie_word_embeddings"] = json!(false);
    std::fs::write(&path, config.to_string()).unwrap();
    let error = run(parent.path(), &parent.path().join("out"), "q4f16_1", None, 1).unwrap_err();
    let ConvertError::Tensors(error) = error else { panic!("{error}") };
    assert_eq!(error.missing.len(), 1 + 9);
    assert_eq!(error.misshapen.len(), 3 * 3);
    config["num_hidden_layers"] = json!(2);
    std::fs::write(&path, config.to_string()).unwrap();
    let error = run(parent.path(), &parent.path().join("out"), "q4f16_1", None, 1).unwrap_err().to_string();
    assert!(error.contains("missing (1):") && error.contains("left over (9):"), "{error}");
    assert!(
        error.contains("model.layers.2.mlp.up_proj.weight") && error.contains("[256, 128], expected [128, 128]"),
        "{error}"
    );
}

#[test]
fn a_checkpoint_without_an_index_and_one_in_shards_give_the_same_weights() {
    let parent = tempfile::tempdir().unwrap();
    let (single, sharded) = (parent.path().join("single"), parent.path().join("sharded"));
    for folder in [&single, &sharded] {
        std::fs::create_dir(folder).unwrap();
        copy_checkpoint(&fixture("llama"), folder);
    }
    std::fs::remove_file(single.join("model.safetensors.index.json")).unwrap();
    split(&sharded);
    for folder in [&single, &sharded] {
        let output = folder.join("out");
        run(folder, &output, "q4f16_1", None, 2).unwrap();
        let expected = std::fs::read(mlc_fixture("llama", "q4f16_1").join("params_shard_0.bin")).unwrap();
        assert!(std::fs::read(output.join("params_shard_0.bin")).unwrap() == expected, "{}", folder.display());
    }
}

/// Cuts `model.safetensors` in two, in the middle of a layer's q, k and v.
fn split(folder: &Path) {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let index = json_file(&folder.join("model.safetensors.index.json"));
    let names: Vec<_> = index["weight_map"].as_object().unwrap().keys().cloned().collect();
    let cut = names.iter().position(|name| name.ends_with("layers.1.self_attn.k_proj.weight")).unwrap() + 1;
    let mut map = serde_json::Map::new();
    for (file, part) in [("model-00001.safetensors", &names[..cut]), ("model-00002.safetensors", &names[cut..])] {
        let views: Vec<_> = part.iter().map(|name| (name.clone(), tensors.tensor(name).unwrap())).collect();
        std::fs::write(folder.join(file), safetensors::serialize(views, None).unwrap()).unwrap();
        map.extend(part.iter().map(|name| (name.clone(), json!(file))));
    }
    std::fs::write(folder.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
}

#[test]
fn a_bad_index_is_refused() {
    for (map, problem) in [
        (json!({"model.norm.weight": "../model.safetensors"}), "is not in a file of the folder"),
        (json!({"model.norm.weight": "other.safetensors"}), "is not there"),
        (json!({"model.gone.weight": "model.safetensors"}), "but it is not"),
        (json!({"model.norm.weight": 3}), "is not in a file of the folder"),
        (json!({}), "0 files"),
        (json!([]), "no `weight_map`"),
    ] {
        let parent = tempfile::tempdir().unwrap();
        copy_checkpoint(&fixture("llama"), parent.path());
        let path = parent.path().join("model.safetensors.index.json");
        std::fs::write(path, json!({"weight_map": map}).to_string()).unwrap();
        let error = run(parent.path(), &parent.path().join("out"), "q4f16_1", None, 1).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn a_second_copy_of_tied_embeddings_is_ignored() {
    let parent = tempfile::tempdir().unwrap();
    copy_checkpoint(&fixture("mistral"), parent.path());
    let path = parent.path().join("config.json");
    let mut config = json_file(&path);
    config["tie_word_embeddings"] = json!(true);
    std::fs::write(&path, config.to_string()).unwrap();
    let output = parent.path().join("out");
    run(parent.path(), &output, "q4f16_1", None, 1).unwrap();
    let index = WeightIndex::open(&output).unwrap();
    assert!(index.records().all(|(_, record)| !record.name.starts_with("lm_head")));
}

#[test]
fn the_example_keeps_its_own_chat_template() {
    let parent = tempfile::tempdir().unwrap();
    let output = parent.path().join("out");
    let report = run(&tiny_assistant(), &output, "q4f16_1", None, 2).unwrap();
    assert_eq!(report.conv_template.as_deref(), Some("derived"));
    let chat = ChatConfig::open(&output).unwrap();
    assert_eq!(chat.chat_template.as_deref(), Some("tokenizer_config.json"));
    // For MLC's apps, which know no Jinja.
    let derived = chat.template().unwrap();
    assert_eq!(derived.system_prefix_token_ids, Some(vec![1020]));
    assert_eq!((&*derived.roles["user"], &*derived.seps[0]), ("<|im_start|>user\n", "<|im_end|>\n"));
    assert_eq!((derived.stop_str, derived.stop_token_ids), (vec!["<|im_end|>".to_owned()], vec![1023, 1021]));
    let warnings = check_chat(&tiny_assistant(), &"q4f16_1".parse().unwrap(), &TemplateChoice::Model).unwrap();
    assert_eq!((warnings, report.chat_warnings), (vec![], vec![]));
    assert!(json_file(&output.join("tokenizer_config.json"))["chat_template"].is_string());
    let error = run(&tiny_assistant(), &parent.path().join("b"), "q4f16_1", Some("lama"), 1).unwrap_err().to_string();
    assert!(error.contains("unknown chat template `lama`") && error.contains("one of llama-3,"), "{error}");
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let output = parent.path().join("out");
    let refuse = |problem: &str| {
        let error = run(parent.path(), &output, "q4f16_1", None, 1).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    };
    refuse("no config.json");
    std::fs::write(parent.path().join("config.json"), "{").unwrap();
    refuse("is not valid JSON");
    std::fs::copy(fixture("llama").join("config.json"), parent.path().join("config.json")).unwrap();
    refuse("neither model.safetensors nor");
    std::fs::write(parent.path().join("pytorch_model.bin"), "x").unwrap();
    refuse("PyTorch and GGUF files are not read");
    std::fs::write(parent.path().join("model.safetensors"), [9; 100]).unwrap();
    refuse("is the file complete?");
}
