//! Manifests that are right, what they mean, and what is only warned about.

mod common;

use common::Folder;
use knapsack_artifact::DeviceKind;
use knapsack_config::{AppMemory, Manifest, ModelForm, ModelSource, OverrideKey, Severity};

fn read(manifest: &str, files: &[(&str, &str)]) -> (Folder, Manifest, String) {
    let folder = Folder::new();
    folder.write("mlc-package-config.json", manifest.as_bytes());
    for (name, text) in files {
        folder.write(name, text.as_bytes());
    }
    match folder.load() {
        Ok(loaded) => {
            assert!(!loaded.report.has_errors());
            let rendered = folder.rendered(&loaded.report);
            (folder, loaded.manifest, rendered)
        }
        Err(report) => panic!("{}", folder.rendered(&report)),
    }
}

/// MLCChat's manifest for Android, in MLC's own form.
const MLC_CHAT_ANDROID: &str = r#"{
    "device": "android",
    "model_list": [
        { "model": "HF://mlc-ai/Phi-3.5-mini-instruct-q4f16_0-MLC", "estimated_vram_bytes": 4250586449,
          "model_id": "Phi-3.5-mini-instruct-q4f16_0-MLC", "overrides": { "prefill_chunk_size": 128 } },
        { "model": "HF://mlc-ai/Qwen3-0.6B-q0f16-MLC", "estimated_vram_bytes": 3000000000, "model_id": "Qwen3-0.6B-q0f16-MLC",
          "overrides": { "prefill_chunk_size": 128, "context_window_size": 2048 } },
        { "model": "HF://mlc-ai/gemma-2-2b-it-q4f16_1-MLC", "estimated_vram_bytes": 3000000000, "model_id": "gemma-2-2b-it-q4f16_1-MLC" },
        { "model": "HF://mlc-ai/Mistral-7B-Instruct-v0.3-q4f16_1-MLC", "estimated_vram_bytes": 4115131883,
          "model_id": "Mistral-7B-Instruct-v0.3-q4f16_1-MLC",
          "overrides": { "sliding_window_size": 768, "prefill_chunk_size": 256 } }
    ]
}"#;

/// Every key, comments and trailing commas.
const FULL: &str = r#"// everything
{
    "$schema": "https://example.org/schema.json",
    "device": "iphone", // or android
    "model_list": [
        {
            "model": "HF://mlc-ai/Llama-3.2-3B-Instruct-q4f16_1-MLC@main",
            "model_id": "Llama",
            "estimated_vram_bytes": 3000000000,
            "bundle_weight": true,
            "overrides": {
                "prefill_chunk_size": 128, "context_window_size": 2048, "sliding_window_size": -1, "attention_sink_size": 0,
                "max_batch_size": 1, "tensor_parallel_shards": 1, "pipeline_parallel_stages": 1, "opt": "O2",
                "disaggregation": false,
            },
            "model_lib": "llama_q4f16_1",
            "quantization": "q4f16_1",
            "app": { "group": "Llama", "bytes": 1e9 },
        },
        { "model": "models/checkpoint", "model_id": "local", "bundle_weight": true },
        { "model": "./models/older-mlc", "model_id": "older", "bundle_weight": true },
    ],
    "model_lib_path_for_prepare_libs": { "llama_q4f16_1": "libs/llama.a" },
    "target_devices": ["iphone-15-pro", "iphone-13"],
    "increased_memory_limit": true,
    "app_reserve_bytes": 0,
    "app": { "theme": { "dark": true } },
}
"#;

#[test]
fn mlc_manifests_work_unchanged() {
    let (_, manifest, warnings) = read(MLC_CHAT_ANDROID, &[]);
    assert_eq!(manifest.device.value, DeviceKind::ANDROID);
    assert_eq!(manifest.models.len(), 4);
    assert_eq!(manifest.models[3].overrides.sliding_window_size, Some(768));
    assert_eq!(manifest.models[0].source.value.to_string(), "HF://mlc-ai/Phi-3.5-mini-instruct-q4f16_0-MLC");
    assert_eq!(manifest.models[0].delivery.value, knapsack_artifact::Delivery::Download);
    assert_eq!(warnings, "");
}

#[test]
fn every_key_means_what_it_says() {
    let (folder, manifest, warnings) = read(FULL, &[]);
    let [llama, local, older] = &manifest.models[..] else { panic!("{:?}", manifest.models) };
    assert_eq!(llama.source.value.to_string(), "HF://mlc-ai/Llama-3.2-3B-Instruct-q4f16_1-MLC@main");
    assert_eq!(llama.estimated_vram_bytes.unwrap().value, 3_000_000_000);
    assert_eq!(
        llama.overrides.to_string(),
        "context_window_size=2048,sliding_window_size=-1,prefill_chunk_size=128,attention_sink_size=0"
    );
    assert_eq!(llama.override_spans.len(), 9);
    assert_eq!(llama.quantization.unwrap().value.name, "q4f16_1");
    assert_eq!(manifest.prebuilt[0].path.value, folder.path("libs/llama.a"));
    assert_eq!(serde_json::to_string(&llama.app).unwrap(), r#"{"group":"Llama","bytes":1000000000.0}"#);
    assert_eq!(serde_json::to_string(&manifest.app).unwrap(), r#"{"theme":{"dark":true}}"#);
    let kinds = [local, older].map(|model| match &model.source.value {
        ModelSource::Local(local) => local.kind,
        hub => panic!("{hub}"),
    });
    assert_eq!(kinds, [ModelForm::Checkpoint, ModelForm::Mlc]);
    assert_eq!(local.quantization.unwrap().value.name, "q4f16_1");
    assert_eq!(older.quantization, None);
    insta::assert_snapshot!(warnings, @r#"
notice[chosen]: the checkpoint is converted to q4f16_1
  --> mlc-package-config.json:20:20
   |
20 |         { "model": "models/checkpoint", "model_id": "local", "bundle_weight": true },
   |                    ^^^^^^^^^^^^^^^^^^^
   |
   = help: "quantization" in the model's entry chooses another format
"#);
}

#[test]
fn spans_point_at_the_text() {
    let folder = Folder::new();
    folder.write("mlc-package-config.json", FULL.as_bytes());
    let loaded = folder.load().unwrap();
    let llama = &loaded.manifest.models[0];
    let text = |span| loaded.report.sources.text(span);
    assert_eq!(text(llama.span_of(OverrideKey::ContextWindowSize)), "2048");
    assert_eq!(text(llama.span_of_budget()), "3000000000");
    assert_eq!(text(loaded.manifest.models[1].span_of(OverrideKey::ContextWindowSize)), "\"local\"");
    assert_eq!(loaded.report.sources.position(llama.span_of_budget()).to_string(), "9:37");
}

#[test]
fn a_file_with_a_mark_and_windows_line_ends() {
    let (_, manifest, _) = read(&format!("\u{feff}{}", FULL.replace('\n', "\r\n")), &[]);
    assert_eq!(manifest.models.len(), 3);
}

#[test]
fn extending_merges() {
    let base = r#"{
        "device": "iphone",
        "model_list": [
            { "model": "models/mlc", "model_id": "a", "bundle_weight": true, "overrides": { "context_window_size": 4096, "prefill_chunk_size": 64 } },
            { "model": "HF://x/b", "model_id": "b", "model_lib": "one" },
            { "model": "HF://x/c", "model_id": "c" }
        ],
        "model_lib_path_for_prepare_libs": { "one": "../libs/llama.a" },
        "target_devices": ["iphone-13"],
        "increased_memory_limit": true,
        "app_reserve_bytes": 1000
    }"#;
    let child = r#"{
        "extends": "shared/base.json",
        "model_list": [
            { "model": "HF://x/d", "model_id": "d" },
            { "model_id": "a", "overrides": { "context_window_size": 2048, "prefill_chunk_size": null } },
            { "model_id": "b", "model_lib": null, "estimated_vram_bytes": 5 },
            { "model_id": "c", "model": null }
        ],
        "model_lib_path_for_prepare_libs": { "one": null },
        "target_devices": null,
        "app_reserve_bytes": null
    }"#;
    let folder = Folder::new();
    folder.write("mlc-package-config.json", child.as_bytes());
    folder.write("shared/base.json", base.as_bytes());
    folder.write("shared/models/mlc/mlc-chat-config.json", b"");
    folder.write("shared/models/mlc/tensor-cache.json", b"");
    let loaded = folder.load().unwrap_or_else(|report| panic!("{}", folder.rendered(&report)));
    let manifest = &loaded.manifest;
    let ids: Vec<&str> = manifest.models.iter().map(|model| model.model_id.value.as_str()).collect();
    assert_eq!(ids, ["a", "b", "d"]);
    assert_eq!(manifest.models[0].overrides.to_string(), "context_window_size=2048");
    let ModelSource::Local(local) = &manifest.models[0].source.value else { panic!() };
    assert_eq!(local.path, folder.path("shared/models/mlc"));
    assert_eq!(manifest.models[1].model_lib, None);
    assert_eq!(manifest.models[1].estimated_vram_bytes.unwrap().value, 5);
    assert!(manifest.prebuilt.is_empty() && manifest.target_devices.is_empty());
    assert!(manifest.app_memory.increased_memory_limit);
    assert_eq!(manifest.app_memory.reserve_bytes, AppMemory::default().reserve_bytes);
    assert_eq!(loaded.report.sources.position(manifest.device.span).to_string(), "2:19");
}

#[test]
fn several_bases_the_last_wins_and_a_diamond_is_no_circle() {
    let one = r#"{ "extends": "root.json", "device": "iphone" }"#;
    let two = r#"{ "extends": "root.json", "device": "android" }"#;
    let root = r#"{ "model_list": [{ "model": "HF://x/a", "model_id": "a" }] }"#;
    let child = r#"{ "extends": ["one.json", "two.json"] }"#;
    let (_, manifest, _) = read(child, &[("one.json", one), ("two.json", two), ("root.json", root)]);
    assert_eq!((manifest.device.value, manifest.models.len()), (DeviceKind::ANDROID, 1));
}

#[test]
fn warnings_do_not_stop() {
    let manifest = r#"{
  "device": "iphone",
  "model_list": [
    { "model": "HF://a/b", "model_id": "b",
      "overrides": { "context_window_size": 4096, "sliding_window_size": 1024, "max_batch_size": 4 } }
  ],
  "target_devices": ["iphone-13", "iphone-13"]
}"#;
    let (_, _, warnings) = read(manifest, &[]);
    insta::assert_snapshot!(warnings, @r#"
warning[override-without-effect]: context_window_size 4096 has no effect: the window slides over 1024 positions
 --> mlc-package-config.json:5:45
  |
5 |       "overrides": { "context_window_size": 4096, "sliding_window_size": 1024, "max_batch_size": 4 } }
  |                                             ^^^^                         ----
  |
  = help: leave one of the two out

warning[override-without-effect]: max_batch_size has no effect: a phone serves one conversation at a time
 --> mlc-package-config.json:5:98
  |
5 |       "overrides": { "context_window_size": 4096, "sliding_window_size": 1024, "max_batch_size": 4 } }
  |                                                                                                  ^

warning[duplicate-key]: `iphone-13` is named twice
 --> mlc-package-config.json:7:35
  |
7 |   "target_devices": ["iphone-13", "iphone-13"]
  |                      -----------  ^^^^^^^^^^^
  |                      |
  |                      first here
"#);
}

/// What mlc_llm accepts, or does not look at.
#[test]
fn what_mlc_takes_is_taken() {
    let manifest = r#"{
  "device": "android",
  "model_list": [
    { "group": "Llama 3.2", "bytes": 690000000, "model": "HF://a/b", "model_id": "b", "estimated_vram_bytes": null,
      "model_lib": "llama-q4f16_1",
      "overrides": { "context_window_size": 2048, "sliding_window_size": null, "temperature": 0.5 },
      "app": { "bytes": 5 } }
  ],
  "model_lib_path_for_prepare_libs": { "llama-q4f16_1": "libs/llama.a" },
  "comment": "ours"
}"#;
    let (_, manifest, warnings) = read(manifest, &[]);
    let model = &manifest.models[0];
    assert_eq!(serde_json::to_string(&model.app).unwrap(), r#"{"group":"Llama 3.2","bytes":5}"#);
    assert_eq!(manifest.app["comment"], "ours");
    assert_eq!(model.overrides.to_string(), "context_window_size=2048");
    assert_eq!(model.estimated_vram_bytes, None);
    assert_eq!(model.model_lib.as_ref().unwrap().value, "llama_q4f16_1");
    assert_eq!(manifest.prebuilt[0].prefix, "llama_q4f16_1");
    insta::assert_snapshot!(warnings, @r#"
warning[unknown-key]: unknown key `group` in an entry of `model_list`
 --> mlc-package-config.json:4:7
  |
4 |     { "group": "Llama 3.2", "bytes": 690000000, "model": "HF://a/b", "model_id": "b", "estimated_vram_bytes": null,
  |       ^^^^^^^ goes into the app config as the app's own
  |
  = help: put the app's own keys below "app", and nothing is said about them

warning[unknown-key]: unknown key `bytes` in an entry of `model_list`
 --> mlc-package-config.json:4:29
  |
4 |     { "group": "Llama 3.2", "bytes": 690000000, "model": "HF://a/b", "model_id": "b", "estimated_vram_bytes": null,
  |                             ^^^^^^^ goes into the app config as the app's own
  |
  = help: put the app's own keys below "app", and nothing is said about them

warning[unknown-key]: unknown key `temperature` in `overrides`
 --> mlc-package-config.json:6:80
  |
6 |       "overrides": { "context_window_size": 2048, "sliding_window_size": null, "temperature": 0.5 },
  |                                                                                ^^^^^^^^^^^^^ without effect
  |
  = help: with effect, or accepted for MLC's sake, are context_window_size, sliding_window_size, prefill_chunk_size, attention_sink_size, max_batch_size, tensor_parallel_shards, pipeline_parallel_stages, opt, disaggregation

warning[unknown-key]: unknown key `comment` in a manifest
  --> mlc-package-config.json:10:3
   |
10 |   "comment": "ours"
   |   ^^^^^^^^^ goes into the app config as the app's own
   |
   = help: put the app's own keys below "app", and nothing is said about them
"#);
}

#[test]
fn the_app_s_keys_merge() {
    let base = r#"{ "device": "iphone", "model_list": [{ "model": "HF://x/a", "model_id": "a", "app": { "one": 1, "two": 2 } }] }"#;
    let child = r#"{ "extends": "base.json", "model_list": [{ "model_id": "a", "app": { "two": [3] } }], "app": { "x": null } }"#;
    let (_, manifest, _) = read(child, &[("base.json", base)]);
    assert_eq!(serde_json::to_string(&manifest.models[0].app).unwrap(), r#"{"one":1,"two":[3]}"#);
    assert_eq!(serde_json::to_string(&manifest.app).unwrap(), r#"{"x":null}"#);
}

/// A file of another encoding is read; one that is no text says what it is.
#[test]
fn encodings() {
    let folder = Folder::new();
    let utf16: Vec<u8> = FULL.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [[b"\xff\xfe", &utf16[..]].concat(), utf16.clone()] {
        folder.write("mlc-package-config.json", &bytes);
        assert_eq!(folder.load().unwrap().manifest.models.len(), 3);
    }
    let shown = |bytes: &[u8]| {
        folder.write("mlc-package-config.json", bytes);
        folder.rendered(&folder.load().unwrap_err())
    };
    insta::assert_snapshot!(shown(b"{ \"model_id\": \"mod\xe9l\" }"), @r#"
error[encoding]: the file is not UTF-8
 --> mlc-package-config.json:1:19
  |
1 | { "model_id": "mod�l" }
  |                   ^ the first wrong byte, 0xe9: `é` in Latin-1
  |
  = help: save the file as UTF-8
"#);
    let first = |bytes: &[u8]| shown(bytes).lines().next().unwrap().to_owned();
    assert_eq!(first(b"\x1f\x8b\x08\0\0"), "error[encoding]: the file is compressed (gzip)");
    let cut = [b"\xff\xfe", &utf16[..utf16.len() - 1]].concat();
    assert_eq!(first(&cut), "error[encoding]: the file seems to be UTF-16, and is damaged");
}

/// What names 60,000 things, or one of 100,000 letters, costs no more than reading it.
#[test]
fn hostile_manifests_are_cheap() {
    let folder = Folder::new();
    let entry = r#""model_list": [{ "model": "HF://a/b", "model_id": "b" }]"#;
    let many = |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(",");
    let manifests = [
        format!(r#"{{"device":"iphone",{entry},"target_devices":[{}]}}"#, many(60_000, &|n| format!("\"phone-{n}\""))),
        format!(
            r#"{{"device":"iphone",{entry},"model_lib_path_for_prepare_libs":{{{}}}}}"#,
            many(50_000, &|n| format!("\"lib{n}\":\"x\""))
        ),
        format!(r#"{{"device":"iphone",{entry},{}}}"#, many(70_000, &|n| format!("\"modelist{n}\":1"))),
        format!(r#"{{"device":"iphone",{entry},{}}}"#, many(70_000, &|n| format!("\"x{n}\":1"))),
        format!(
            r#"{{"device":"iphone","model_list":[{}]}}"#,
            many(900, &|n| format!("{{\"model\":\"m{n}\",\"model_id\":\"{n}\"}}"))
        ),
        format!(r#"{{"device":"{}",{entry}}}"#, "x".repeat(1_000_000)),
        format!(r#"{{"device":"iphone",{entry},"extends":"{}"}}"#, "x".repeat(100_000)),
    ];
    for manifest in manifests {
        folder.write("mlc-package-config.json", manifest.as_bytes());
        let start = std::time::Instant::now();
        let shown = match folder.load() {
            Ok(loaded) => folder.rendered(&loaded.report),
            Err(report) => folder.rendered(&report),
        };
        let (time, begin) = (start.elapsed(), manifest.chars().take(80).collect::<String>());
        assert!(time.as_secs() < 60, "{time:?}: {begin}");
        assert!(shown.len() < 400_000, "{} bytes: {begin}", shown.len());
    }
}

#[test]
fn unreadable_files_are_told_without_a_place() {
    let folder = Folder::new();
    let shown = |folder: &Folder| folder.rendered(&folder.load().unwrap_err());
    insta::assert_snapshot!(shown(&folder), @r#"
error[unreadable]: can not read mlc-package-config.json: there is no such file
 |
 = help: `knapsack init` writes a manifest, `-c FILE` names another
"#);
    folder.write("mlc-package-config.json", b"{ \"device\": \"\xff\" }");
    insta::assert_snapshot!(shown(&folder), @r#"
error[encoding]: the file is not UTF-8
 --> mlc-package-config.json:1:14
  |
1 | { "device": "�" }
  |              ^ the first wrong byte, 0xff
  |
  = help: save the file as UTF-8
"#);
    folder.write("mlc-package-config.json", &vec![b' '; (1 << 20) + 1]);
    insta::assert_snapshot!(shown(&folder), @r#"
error[unreadable]: can not read mlc-package-config.json: it is larger than 1048576 bytes
 |
 = help: `knapsack init` writes a manifest, `-c FILE` names another
"#);
}

#[test]
fn endless_findings_are_cut() {
    // A letter more than `device`, each time another.
    let keys = ('\u{4e00}'..).take(500).map(|letter| format!("\"device{letter}\": 1")).collect::<Vec<_>>();
    let folder = Folder::new();
    folder.write("mlc-package-config.json", format!("{{ {} }}", keys.join(", ")).as_bytes());
    let report = folder.load().unwrap_err();
    assert_eq!(report.diagnostics.len(), 201);
    assert_eq!(report.count(Severity::Error), 201);
    assert_eq!(report.diagnostics[200].message, "301 more findings are not shown");
}

#[test]
fn the_schema_accepts_what_is_right() {
    let schema = serde_json::from_str(&knapsack_config::json_schema()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let plain: String = FULL
        .lines()
        .map(|line| line.split("//").next().filter(|_| !line.contains("://")).unwrap_or(line))
        .collect::<Vec<_>>()
        .join(" ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace(", }", " }")
        .replace(", ]", " ]");
    for manifest in [
        MLC_CHAT_ANDROID,
        &plain,
        r#"{ "extends": "base.json", "device": null, "model_list": [{ "model_id": "a", "model": null }] }"#,
    ] {
        let value = serde_json::from_str(manifest).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}
