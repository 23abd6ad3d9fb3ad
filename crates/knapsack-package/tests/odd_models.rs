//! Checkpoints and MLC folders as people have them in public: each kind is planned and packaged like the plain one, or refused when
//! planning. Facts of the kinds; the folders are the test kit's, changed.

use knapsack_bundle::Cache;
use knapsack_config::{Environment, Severity, codes};
use knapsack_package::{Observer, Packager, Silent};
use knapsack_source::{LockPolicy, Settings};
use knapsack_testkit::{fixture, mlc_fixture};
use safetensors::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A folder that can be changed, and its manifest.
struct Odd(tempfile::TempDir);

/// What planning says, and the bytes of the packaged shards where it succeeds.
struct Said {
    errors: Vec<(&'static str, String)>,
    warnings: Vec<&'static str>,
    shards: Vec<Vec<u8>>,
}

impl Odd {
    fn new(from: &Path) -> Self {
        let odd = Odd(tempfile::tempdir().unwrap());
        fs::create_dir(odd.folder()).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), odd.path(&file.file_name().into_string().unwrap())).unwrap();
        }
        odd
    }

    fn checkpoint() -> Self {
        let odd = Odd::new(&fixture("llama"));
        fs::remove_file(odd.path(INDEX)).unwrap();
        odd
    }

    fn mlc() -> Self {
        Odd::new(&mlc_fixture("llama", "q4f16_1"))
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("model")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        change(&mut value);
        fs::write(self.path(name), value.to_string()).unwrap();
    }

    /// The same JSON in other words.
    fn rewrite(&self, name: &str, change: impl FnOnce(String) -> Vec<u8>) {
        fs::write(self.path(name), change(fs::read_to_string(self.path(name)).unwrap())).unwrap();
    }

    fn cut(&self, name: &str, bytes: u64) {
        let file = fs::File::options().write(true).open(self.path(name)).unwrap();
        file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn tensors(&self) -> Tensors {
        Tensors::read(&self.path(WEIGHTS))
    }

    fn say(&self) -> Said {
        let manifest = self.0.path().join("mlc-package-config.json");
        let entry = json!({ "model": "model", "model_id": "m", "bundle_weight": true });
        fs::write(&manifest, json!({ "device": "android", "model_list": [entry] }).to_string()).unwrap();
        let cache = self.0.path().join("cache");
        let settings = Settings::new("http://127.0.0.1:9", self.0.path().join("hub"), &cache);
        let observer: &dyn Observer = &Silent;
        let packager = Packager::new(Cache::at(&cache), settings, None, observer);
        let mut said = Said { errors: Vec::new(), warnings: Vec::new(), shards: Vec::new() };
        let findings = match knapsack_config::load(&manifest, &Environment::default()) {
            Err(report) => report.diagnostics,
            Ok(loaded) => {
                let found = packager.find(&loaded.manifest, &LockPolicy::default()).unwrap();
                let (mut findings, mut planned) = (found.findings, None);
                if let Some(found) = found.product {
                    let outcome = packager.plan(&loaded.manifest, found.models, false);
                    findings.extend(outcome.findings);
                    planned = outcome.product;
                }
                if let Some(planned) = planned {
                    let built = packager.build(&loaded.manifest, planned).unwrap().product.expect("a library");
                    let ready = packager.make_ready(built).unwrap();
                    assert!(ready.findings.is_empty(), "found only now: {:#?}", ready.findings);
                    said.shards = shards(&self.0.path().join("cache"), &self.folder());
                }
                findings
            }
        };
        for finding in findings {
            assert!(finding.span.is_some(), "{finding:#?}");
            match finding.severity {
                Severity::Error => {
                    let help = finding.help.join("\n");
                    said.errors.push((finding.code, format!("{}\n{help}", finding.message)));
                }
                Severity::Warning => said.warnings.push(finding.code),
                Severity::Notice => {}
            }
        }
        assert_eq!(said.errors.is_empty(), !said.shards.is_empty(), "{:?}", said.errors);
        said
    }
}

/// The shards of a conversion in the cache, or else of the folder itself.
fn shards(cache: &Path, folder: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut pending = vec![cache.join("converted-v1"), folder.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "bin") {
                found.push(path);
            }
        }
    }
    found.sort();
    found.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Tensors by name.
#[derive(Clone, Default)]
struct Tensors(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
            (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        Tensors(file.tensors().into_iter().map(tensor).collect())
    }

    fn write(&self, path: &Path) {
        let views = self.0.iter().map(|(name, (dtype, shape, data))| {
            (name.clone(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        let views: Vec<_> = views.collect();
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    fn with(mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        self.0.insert(name.to_owned(), (dtype, shape.to_vec(), vec![0; bytes]));
        self
    }

    fn renamed(self, name: impl Fn(&str) -> String) -> Self {
        Tensors(self.0.into_iter().map(|(old, tensor)| (name(&old), tensor)).collect())
    }

    /// As two files and an index.
    fn split(&self, odd: &Odd) {
        let mut map = serde_json::Map::new();
        let (mut first, half) = (self.0.clone(), self.0.keys().nth(self.0.len() / 2).unwrap());
        let second = first.split_off(half);
        for (name, part) in [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)]
        {
            map.extend(part.keys().map(|tensor| (tensor.clone(), json!(name))));
            Tensors(part).write(&odd.path(name));
        }
        odd.remove(WEIGHTS);
        fs::write(odd.path(INDEX), json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
    }
}

type Change = fn(&Odd);

#[test]
fn odd_checkpoints_that_are_packaged_like_the_plain_one() {
    let plain = Odd::checkpoint().say();
    let cases: &[(&str, Change)] = &[
        ("in two files", |odd| odd.tensors().split(odd)),
        ("with frequencies that transformers 4 wrote", |odd| {
            let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
            odd.tensors().with(name, Dtype::F32, &[16]).write(&odd.path(WEIGHTS));
        }),
        ("with a tied head of its own", |odd| {
            let mut tensors = odd.tensors();
            let embedding = tensors.0["model.embed_tokens.weight"].clone();
            tensors.0.insert("lm_head.weight".into(), embedding);
            tensors.write(&odd.path(WEIGHTS));
        }),
        ("inside a model of text and images", |odd| {
            odd.tensors().renamed(|name| format!("language_model.{name}")).write(&odd.path(WEIGHTS));
        }),
        ("without a dtype", |odd| {
            odd.edit("config.json", |config| drop(config.as_object_mut().unwrap().remove("torch_dtype")))
        }),
        ("with transformers 5's dtype", |odd| {
            odd.edit("config.json", |config| {
                config.as_object_mut().unwrap().remove("torch_dtype");
                config["dtype"] = json!("bfloat16");
            });
        }),
        ("with a byte-order mark", |odd| odd.rewrite("config.json", |text| format!("\u{feff}{text}").into())),
        ("with lines of Windows", |odd| odd.rewrite("config.json", |text| text.replace('\n', "\r\n").into())),
        ("with NaN", |odd| {
            odd.rewrite("config.json", |text| text.replacen('{', "{\"initializer_range\": NaN,", 1).into())
        }),
        ("with a larger integer than there are", |odd| {
            odd.rewrite("tokenizer_config.json", |text| {
                text.replacen('{', "{\"model_max_length\": 1000000000000000019884624838656,", 1).into()
            });
        }),
        ("with tokens as objects", |odd| {
            odd.edit("tokenizer_config.json", |config| {
                config["eos_token"] = json!({ "__type": "AddedToken", "content": "<|im_end|>", "lstrip": false });
            });
        }),
        ("with settings that are null", |odd| {
            odd.edit("generation_config.json", |config| {
                for key in ["temperature", "top_p", "pad_token_id", "bos_token_id"] {
                    config[key] = Value::Null;
                }
            });
        }),
        ("without a generation_config.json", |odd| odd.remove("generation_config.json")),
        ("with a file of another framework", |odd| fs::write(odd.path("pytorch_model.bin"), "PK\x03\x04").unwrap()),
    ];
    for (what, change) in cases {
        let odd = Odd::checkpoint();
        change(&odd);
        let said = odd.say();
        assert!(said.errors.is_empty() && said.shards.len() >= plain.shards.len(), "{what}: {:?}", said.errors);
        assert_eq!(said.warnings, plain.warnings, "{what}");
        assert!(plain.shards.iter().all(|shard| said.shards.contains(shard)), "{what}: other weights");
    }
}

#[test]
fn odd_checkpoints_that_are_refused_when_planning() {
    let cases: &[(&str, Change, &str, &str)] = &[
        (
            "GPTQ",
            |odd| {
                odd.edit("config.json", |config| {
                    config["quantization_config"] = json!({ "quant_method": "gptq", "bits": 4, "group_size": 128 })
                })
            },
            codes::UNSUPPORTED_MODEL,
            "GPTQ, 4 bits",
        ),
        (
            "AWQ",
            |odd| {
                odd.edit("config.json", |config| {
                    config["quantization_config"] = json!({ "quant_method": "awq", "bits": 4, "group_size": 128 })
                })
            },
            codes::UNSUPPORTED_MODEL,
            "AWQ",
        ),
        (
            "bitsandbytes",
            |odd| {
                odd.edit("config.json", |config| {
                    config["quantization_config"] = json!({ "quant_method": "bitsandbytes", "load_in_4bit": true })
                })
            },
            codes::UNSUPPORTED_MODEL,
            "bitsandbytes",
        ),
        (
            "fp8",
            |odd| {
                odd.edit("config.json", |config| {
                    config["quantization_config"] = json!({ "quant_method": "fp8", "fmt": "e4m3" })
                })
            },
            codes::UNSUPPORTED_MODEL,
            "fp8",
        ),
        (
            "MLX",
            |odd| odd.edit("config.json", |config| config["quantization"] = json!({ "group_size": 64, "bits": 4 })),
            codes::UNSUPPORTED_MODEL,
            "MLX",
        ),
        (
            "a classifier",
            |odd| odd.edit("config.json", |config| config["architectures"] = json!(["LlamaForSequenceClassification"])),
            codes::UNSUPPORTED_MODEL,
            "a sequence classifier",
        ),
        (
            "an adapter",
            |odd| {
                odd.remove(WEIGHTS);
                odd.remove("config.json");
                fs::write(
                    odd.path("adapter_config.json"),
                    r#"{"peft_type": "LORA", "base_model_name_or_path": "org/base"}"#,
                )
                .unwrap();
                fs::write(odd.path("adapter_model.safetensors"), "").unwrap();
            },
            codes::NOT_A_MODEL,
            "adapter",
        ),
        (
            "not merged",
            |odd| odd.tensors().renamed(|name| format!("base_model.model.{name}")).write(&odd.path(WEIGHTS)),
            codes::WEIGHTS_MISMATCH,
            "merge",
        ),
        (
            "bare",
            |odd| odd.tensors().renamed(|name| name.trim_start_matches("model.").to_owned()).write(&odd.path(WEIGHTS)),
            codes::WEIGHTS_MISMATCH,
            "a bare model",
        ),
        (
            "a head for values",
            |odd| odd.tensors().with("v_head.summary.weight", Dtype::BF16, &[1, 128]).write(&odd.path(WEIGHTS)),
            codes::WEIGHTS_MISMATCH,
            "v_head.summary.weight",
        ),
        (
            "tensors that nobody knows",
            |odd| {
                odd.tensors()
                    .with("model.layers.0.self_attn.q_norm.weight", Dtype::BF16, &[32])
                    .write(&odd.path(WEIGHTS))
            },
            codes::WEIGHTS_MISMATCH,
            "q_norm",
        ),
        (
            "no head where none is tied",
            |odd| odd.edit("config.json", |config| config["tie_word_embeddings"] = json!(false)),
            codes::WEIGHTS_MISMATCH,
            "lm_head.weight",
        ),
        (
            "a pickle",
            |odd| {
                odd.remove(WEIGHTS);
                fs::write(odd.path("pytorch_model.bin"), "PK\x03\x04").unwrap();
            },
            codes::NOT_A_MODEL,
            "safetensors",
        ),
        (
            "a GGUF",
            |odd| {
                odd.remove(WEIGHTS);
                fs::write(odd.path("tiny-q4_k_m.gguf"), "GGUF").unwrap();
            },
            codes::NOT_A_MODEL,
            "GGUF",
        ),
        (
            "a pointer of Git LFS",
            |odd| {
                fs::write(odd.path(WEIGHTS), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
                    .unwrap()
            },
            codes::BAD_MODEL_SOURCE,
            "git lfs pull",
        ),
        ("cut short", |odd| odd.cut(WEIGHTS, 1000), codes::WEIGHTS_MISMATCH, "is the file complete?"),
        (
            "two files without an index",
            |odd| {
                odd.tensors().split(odd);
                odd.remove(INDEX);
            },
            codes::NOT_A_MODEL,
            INDEX,
        ),
        (
            "a file that is missing",
            |odd| {
                odd.tensors().split(odd);
                odd.remove("model-00002-of-00002.safetensors");
            },
            codes::BAD_MODEL_SOURCE,
            "model-00002-of-00002.safetensors",
        ),
        (
            "an index of other files",
            |odd| {
                odd.tensors().split(odd);
                odd.edit(INDEX, |index| {
                    let map = index["weight_map"].as_object_mut().unwrap();
                    let first = map.values().next().unwrap().clone();
                    let other = map.values().find(|file| **file != first).unwrap().clone();
                    *map.values_mut().next().unwrap() = other;
                });
            },
            codes::WEIGHTS_MISMATCH,
            "but it is not",
        ),
        (
            "an index of a pickle",
            |odd| {
                fs::write(
                    odd.path(INDEX),
                    json!({ "weight_map": { "model.norm.weight": "pytorch_model.bin" } }).to_string(),
                )
                .unwrap()
            },
            codes::BAD_MODEL_SOURCE,
            "pytorch_model.bin",
        ),
        (
            "a comma too many",
            |odd| {
                odd.rewrite("config.json", |text| {
                    format!("{},}}", text.trim_end().trim_end_matches('}').trim_end()).into()
                })
            },
            codes::UNSUPPORTED_MODEL,
            "config.json is not valid JSON: trailing comma",
        ),
        (
            "an empty file",
            |odd| fs::write(odd.path("generation_config.json"), "").unwrap(),
            codes::BAD_MODEL_SOURCE,
            "generation_config.json",
        ),
    ];
    for (what, change, code, words) in cases {
        let odd = Odd::checkpoint();
        change(&odd);
        let said = odd.say();
        let [(found, text)] = &said.errors[..] else { panic!("{what}: {:?}", said.errors) };
        assert!(found == code && text.contains(words), "{what}: {found}: {text}");
        // Names of tensors are ten and a count.
        assert!(text.lines().count() < 30, "{what}: {text}");
    }
}

#[test]
fn odd_mlc_folders() {
    type Config = fn(&mut Value);
    let chat = "mlc-chat-config.json";
    let plain = Odd::mlc().say();
    let accepted: &[(&str, Change)] = &[
        ("an index of 2023", |odd| {
            knapsack_artifact::files::rename(odd.path("tensor-cache.json"), odd.path("ndarray-cache.json")).unwrap()
        }),
        ("beside the checkpoint that it was made of", |odd| {
            for name in ["config.json", WEIGHTS] {
                fs::copy(fixture("llama").join(name), odd.path(name)).unwrap();
            }
        }),
    ];
    for (what, change) in accepted {
        let odd = Odd::mlc();
        change(&odd);
        let said = odd.say();
        assert!(said.errors.is_empty() && said.shards == plain.shards, "{what}: {:?}", said.errors);
        assert_eq!(said.warnings, plain.warnings, "{what}");
    }
    let kept: &[(&str, Config)] = &[
        ("of early 2024", |config| {
            for key in ["tokenizer_info", "active_vocab_size", "pipeline_parallel_stages"] {
                config.as_object_mut().unwrap().remove(key);
            }
            config["conv_template"] = json!("llama-2");
            config["mean_gen_len"] = json!(128);
            config["shift_fill_factor"] = json!(0.3);
        }),
        ("that names its library", |config| config["model_lib"] = json!("llama_q4f16_1")),
        ("with settings that are null", |config| {
            for key in ["temperature", "top_p", "repetition_penalty"] {
                config[key] = Value::Null;
            }
        }),
        ("for two devices", |config| config["tensor_parallel_shards"] = json!(2)),
    ];
    for (what, change) in kept {
        let odd = Odd::mlc();
        odd.edit(chat, change);
        let said = odd.say();
        assert!(
            said.errors.is_empty() && said.warnings == plain.warnings,
            "{what}: {:?} {:?}",
            said.errors,
            said.warnings
        );
    }
    let refused: &[(&str, Config, &str, &str)] = &[
        (
            "without a family",
            |config| drop(config.as_object_mut().unwrap().remove("model_type")),
            codes::UNSUPPORTED_MODEL,
            "lacks `model_type`",
        ),
        (
            "without a format",
            |config| drop(config.as_object_mut().unwrap().remove("quantization")),
            codes::UNSUPPORTED_MODEL,
            "lacks `quantization`",
        ),
        (
            "of another format",
            |config| config["quantization"] = json!("q4f16_autoawq"),
            codes::UNSUPPORTED_MODEL,
            "`q4f16_autoawq`",
        ),
        (
            "of a format that it is not in",
            |config| config["quantization"] = json!("q0f32"),
            codes::WEIGHTS_MISMATCH,
            "do not fit",
        ),
        ("of another family", |config| config["model_type"] = json!("qwen2"), codes::WEIGHTS_MISMATCH, "do not fit"),
        (
            "made by hand",
            |config| config["model_config"] = json!({ "hidden_size": 4096 }),
            codes::UNSUPPORTED_MODEL,
            "lacks",
        ),
    ];
    for (what, change, code, words) in refused {
        let odd = Odd::mlc();
        odd.edit(chat, change);
        let said = odd.say();
        let [(found, text)] = &said.errors[..] else { panic!("{what}: {:?}", said.errors) };
        assert!(found == code && text.contains(words), "{what}: {found}: {text}");
    }
    for name in ["tensor-cache.json", chat] {
        let odd = Odd::mlc();
        odd.remove(name);
        let said = odd.say();
        assert!(said.errors[0].0 == codes::NOT_A_MODEL && said.errors[0].1.contains(name), "{:?}", said.errors);
    }
}
