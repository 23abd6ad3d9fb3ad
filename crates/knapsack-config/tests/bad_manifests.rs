//! A table of wrong manifests: each row of the manifest's reference, with the error as it is shown.

mod common;

use common::Folder;

/// A wrong manifest.
struct Case {
    /// Name of the snapshot.
    name: &'static str,
    /// `mlc-package-config.json`.
    manifest: String,
    /// Files beside it.
    files: Vec<(&'static str, String)>,
    /// Whether the JSON Schema can see what is wrong; comparing keys and looking at files is beyond it.
    schema: bool,
}

fn case(name: &'static str, manifest: impl Into<String>) -> Case {
    Case { name, manifest: manifest.into(), files: Vec::new(), schema: true }
}

impl Case {
    /// Wrong in a way that a schema can not express.
    fn beyond_schema(self) -> Case {
        Case { schema: false, ..self }
    }

    fn with(mut self, name: &'static str, text: impl Into<String>) -> Case {
        self.files.push((name, text.into()));
        self
    }
}

/// A manifest with one model, whose entry has the given keys besides `model` and `model_id`.
fn entry(keys: &str) -> String {
    let comma = if keys.is_empty() { "" } else { ", " };
    format!(
        "{{\n  \"device\": \"iphone\",\n  \"model_list\": [\n    {{ \"model\": \"HF://a/b\", \"model_id\": \"b\"{comma}{keys} }}\n  ]\n}}\n"
    )
}

/// A manifest with one model of the given source and id.
fn model(model: &str, id: &str) -> String {
    format!(
        "{{\n  \"device\": \"iphone\",\n  \"model_list\": [\n    {{ \"model\": \"{model}\", \"model_id\": \"{id}\", \"bundle_weight\": true }}\n  ]\n}}\n"
    )
}

/// A manifest with one right model and the given top-level keys.
fn top(keys: &str) -> String {
    format!("{{\n  {keys},\n  \"model_list\": [{{ \"model\": \"HF://a/b\", \"model_id\": \"b\" }}]\n}}\n")
}

/// A manifest with one model with the given overrides.
fn overrides(keys: &str) -> String {
    entry(&format!("\"overrides\": {{ {keys} }}"))
}

fn text_cases() -> Vec<Case> {
    vec![
        case("empty_file", ""),
        case("only_a_comment", "// nothing yet\n"),
        case("not_an_object", "[]\n"),
        case("unterminated_object", "{\n  \"device\": \"iphone\",\n  \"model_list\": [\n"),
        case("missing_value", "{\n  \"device\": ,\n  \"model_list\": []\n}\n"),
        case("two_values", "{}\n{}\n"),
        case(
            "every_slip_and_every_mistake",
            "{\n  device: 'iphone'\n  \"model_list\": [\n    { \"model\": \"HF://a/b\" \"model_id\": \"b\", \"estimated_vram_bytes\": 0x10 },\n    { \"model\": \"HF://a\", \"model_id\": \"../c\" }\n  ]\n}\n",
        ),
        case("nested_too_deep", format!("{{ \"device\": {}1{} }}\n", "[".repeat(80), "]".repeat(80))),
        case("bad_escape", "{ \"device\": \"iph\\qone\", \"model_list\": [] }\n"),
        case("duplicate_key", top("\"device\": \"iphone\",\n  \"device\": \"android\"")).beyond_schema(),
        case("control_characters_are_escaped", top("\"device\": \"\\u001b[31miphone\\u202e\"")),
    ]
}

fn top_cases() -> Vec<Case> {
    vec![
        case("device_missing", "{\n  \"model_list\": [{ \"model\": \"HF://a/b\", \"model_id\": \"b\" }]\n}\n"),
        case("device_unknown", top("\"device\": \"ios\"")),
        case("device_misspelt", top("\"device\": \"andriod\"")),
        case("device_not_a_string", top("\"device\": 1")),
        case("model_list_missing", "{ \"device\": \"iphone\" }\n"),
        case("model_list_empty", "{ \"device\": \"iphone\", \"model_list\": [] }\n"),
        case("model_list_not_a_list", "{ \"device\": \"iphone\", \"model_list\": { \"model\": \"HF://a/b\" } }\n"),
        case("model_not_an_object", "{ \"device\": \"iphone\", \"model_list\": [\"HF://a/b\"] }\n"),
        case("unknown_key", top("\"device\": \"iphone\",\n  \"modle_list\": []")),
        case("misspelt_and_not_missing", "{ \"devcie\": \"iphone\", \"model_list\": [{ \"mdoel\": \"HF://a/b\", \"model_id\": \"b\" }] }\n"),
        case("unknown_key_of_older_manifests", top("\"device\": \"iphone\",\n  \"model_lib_path\": \"libs/llama.a\"")),
        case("app_not_an_object", top("\"device\": \"iphone\",\n  \"app\": [\"blue\"]")),
        case("only_rejected_elements", "{ \"device\": \"iphone\", \"model_list\": [\"HF://a/b\", 3], \"model_lib_path_for_prepare_libs\": { \"llama\": \"libs/llama.a\" } }\n"),
        case(
            "prebuilt_of_a_rejected_entry",
            "{\n  \"device\": \"iphone\",\n  \"model_list\": [{ \"model\": \"HF://a/b\", \"model_id\": \"b\", \"model_lib\": \"l.1\" }],\n  \"model_lib_path_for_prepare_libs\": { \"llama\": \"libs/llama.a\" }\n}\n",
        ),
        case(
            "prebuilt_twice",
            "{\n  \"device\": \"iphone\",\n  \"model_list\": [{ \"model\": \"HF://a/b\", \"model_id\": \"b\", \"model_lib\": \"l-1\" }],\n  \"model_lib_path_for_prepare_libs\": { \"l-1\": \"libs/llama.a\", \"l_1\": \"libs/llama.a\" }\n}\n",
        )
        .beyond_schema(),
        case(
            "too_many_phones",
            top(&format!("\"device\": \"iphone\",\n  \"target_devices\": [{}]", vec!["\"x\""; 60_000].join(","))),
        ),
        case("model_key_at_top", top("\"device\": \"iphone\",\n  \"bundle_weight\": true")),
        case("null_without_base", top("\"device\": null")),
        case("target_device_unknown", top("\"device\": \"iphone\",\n  \"target_devices\": [\"iphone-15pro\", \"nokia-3310\"]"))
            .beyond_schema(),
        case("target_device_of_another_platform", top("\"device\": \"iphone\",\n  \"target_devices\": [\"android-8gb\"]"))
            .beyond_schema(),
        case("target_devices_not_a_list", top("\"device\": \"iphone\",\n  \"target_devices\": \"iphone-13\"")),
        case("reserve_less_than_nothing", top("\"device\": \"iphone\",\n  \"app_reserve_bytes\": -5")),
        case("app_memory_of_other_types", top("\"device\": \"iphone\",\n  \"increased_memory_limit\": 1,\n  \"app_reserve_bytes\": \"200 MB\"")),
        case("prebuilt_unused_and_missing", top("\"device\": \"iphone\",\n  \"model_lib_path_for_prepare_libs\": { \"llama\": \"libs/none.a\" }"))
            .beyond_schema(),
        case("prebuilt_not_an_object", top("\"device\": \"iphone\",\n  \"model_lib_path_for_prepare_libs\": [\"libs/llama.a\"]")),
        case(
            "prebuilt_misspelt",
            "{\n  \"device\": \"iphone\",\n  \"model_list\": [{ \"model\": \"HF://a/b\", \"model_id\": \"b\", \"model_lib\": \"llama_q4f16_1\" }],\n  \"model_lib_path_for_prepare_libs\": { \"llama_q4f16\": \"libs/llama.a\" }\n}\n",
        )
        .beyond_schema(),
    ]
}

fn model_cases() -> Vec<Case> {
    let two = |first: &str, second: &str| {
        format!(
            "{{\n  \"device\": \"iphone\",\n  \"model_list\": [\n    {{ \"model\": \"HF://a/b\", \"model_id\": \"{first}\" }},\n    {{ \"model\": \"HF://a/c\", \"model_id\": \"{second}\" }}\n  ]\n}}\n"
        )
    };
    vec![
        case("model_and_id_missing", "{ \"device\": \"iphone\", \"model_list\": [{ \"bundle_weight\": true }] }\n"),
        case("source_empty", model("", "b")),
        case("source_without_owner", model("HF://b", "b")).beyond_schema(),
        case("source_bad_revision", model("HF://a/b@../c", "b")).beyond_schema(),
        case("source_other_host", model("https://example.org/a/b", "b")).beyond_schema(),
        case("source_file_page", model("https://huggingface.co/a/b/blob/main/config.json", "b")).beyond_schema(),
        case("source_unknown_scheme", model("s3://bucket/b", "b")).beyond_schema(),
        case("source_scheme_twice", model("HF://HF:org/name", "b")).beyond_schema(),
        case("source_for_git", model("HF://git@hf.co:org/name", "b")).beyond_schema(),
        case("source_without_slashes", model("HF:org/name", "b")).beyond_schema(),
        case("path_with_escapes", model("models/\\u001b[31mx\\u202e", "b")).beyond_schema(),
        case("path_of_100000_letters", model(&"x".repeat(100_000), "b")).beyond_schema(),
        case("path_missing", model("models/chekpoint", "b")).beyond_schema(),
        case("path_like_a_repository", model("mlc-ai/Llama-3.2-1B", "b")).beyond_schema(),
        case("path_is_a_file", model("libs/llama.a", "b")).beyond_schema(),
        case("path_neither", model("models/half", "b")).beyond_schema(),
        case("path_gguf", model("models/gguf", "b")).beyond_schema(),
        case("path_pickled", model("models/pickled", "b")).beyond_schema(),
        case("id_with_separator", model("HF://a/b", "x/y")),
        case("id_parent", model("HF://a/b", "..")),
        case("id_hidden", model("HF://a/b", ".b")),
        case("id_with_space", model("HF://a/b", "my model")),
        case("id_reserved", model("HF://a/b", "Aux")).beyond_schema(),
        case("id_empty", model("HF://a/b", "")),
        case("id_twice", two("b", "b")).beyond_schema(),
        case("id_twice_in_another_case", two("Llama", "llama")).beyond_schema(),
        case("delivery_unknown", entry("\"asset_delivery\": \"play-ondemand\"")),
        case("delivery_of_another_store", entry("\"asset_delivery\": \"play-on-demand\"")).beyond_schema(),
        case(
            "delivery_contradicts_bundle_weight",
            entry("\"bundle_weight\": true, \"asset_delivery\": \"apple-on-demand\""),
        )
        .beyond_schema(),
        case(
            "delivery_download_of_local_model",
            "{ \"device\": \"iphone\", \"model_list\": [{ \"model\": \"models/mlc\", \"model_id\": \"b\", \"asset_delivery\": \"download\" }] }\n",
        )
        .beyond_schema(),
        case(
            "delivery_packs_meet",
            "{\n  \"device\": \"android\",\n  \"model_list\": [\n    { \"model\": \"HF://a/b\", \"model_id\": \"b.1\", \"asset_delivery\": \"play-on-demand\" },\n    { \"model\": \"HF://a/c\", \"model_id\": \"B-1\", \"asset_delivery\": \"play-fast-follow\" }\n  ]\n}\n",
        )
        .beyond_schema(),
        case("bundle_weight_not_a_boolean", entry("\"bundle_weight\": \"yes\"")),
        case(
            "local_not_bundled",
            "{ \"device\": \"iphone\", \"model_list\": [{ \"model\": \"models/mlc\", \"model_id\": \"b\", \"bundle_weight\": false }] }\n",
        )
        .beyond_schema(),
        case("local_bundling_not_said", "{ \"device\": \"iphone\", \"model_list\": [{ \"model\": \"models/mlc\", \"model_id\": \"b\" }] }\n")
            .beyond_schema(),
        case("model_lib_no_symbol", entry("\"model_lib\": \"llama-q4f16.1\"")),
        case("keys_of_an_app_config", "{ \"device\": \"iphone\", \"model_list\": [{ \"model_url\": \"HF://a/b\", \"local_id\": \"b\", \"vram_required_MB\": 3 }] }\n"),
        case("quantization_unknown", entry("\"quantization\": \"q4f16\"")),
        case("chat_template_unknown", entry("\"chat_template\": \"lama-3\"")).beyond_schema(),
        case("chat_template_file_missing", entry("\"chat_template\": \"templates/mine.jinja\"")).beyond_schema(),
        case(
            "chat_template_of_mlc_model",
            "{ \"device\": \"iphone\", \"model_list\": [\n  { \"model\": \"models/mlc\", \"model_id\": \"b\", \"bundle_weight\": true, \"chat_template\": \"chatml\" }\n] }\n",
        )
        .beyond_schema(),
        case(
            "quantization_of_mlc_model",
            "{ \"device\": \"iphone\", \"model_list\": [\n  { \"model\": \"models/mlc\", \"model_id\": \"b\", \"bundle_weight\": true, \"quantization\": \"q4f16_1\" }\n] }\n",
        )
        .beyond_schema(),
        case("model_key_unknown", entry("\"estimated_vram\": 3000000000")),
        case("override_outside_overrides", entry("\"context_window_size\": 2048")),
        case("vram_as_text", entry("\"estimated_vram_bytes\": \"3GB\"")),
        case("vram_negative", entry("\"estimated_vram_bytes\": -1")),
        case("vram_zero", entry("\"estimated_vram_bytes\": 0")),
        case("vram_fraction", entry("\"estimated_vram_bytes\": 2999999999.5")),
        case("vram_exponent", entry("\"estimated_vram_bytes\": 3e9")).beyond_schema(),
        case("vram_beyond_64_bits", entry("\"estimated_vram_bytes\": 100000000000000000000")),
        case("vram_list", entry("\"estimated_vram_bytes\": [1]")),
    ]
}

fn override_cases() -> Vec<Case> {
    vec![
        case("override_unknown", overrides("\"context_windw_size\": 2048")),
        case("override_model_key", overrides("\"bundle_weight\": true")),
        case(
            "override_zero",
            overrides("\"context_window_size\": 0, \"prefill_chunk_size\": 0, \"attention_sink_size\": 0"),
        ),
        case("override_below_minus_one", overrides("\"prefill_chunk_size\": -2")),
        case("override_fraction", overrides("\"context_window_size\": 2048.5")),
        case("override_text", overrides("\"context_window_size\": \"2k\"")),
        case("override_too_large", overrides("\"context_window_size\": 2147483648")),
        case("override_chunk_beyond_context", overrides("\"context_window_size\": 512, \"prefill_chunk_size\": 1024"))
            .beyond_schema(),
        case(
            "override_chunk_beyond_sliding_window",
            overrides("\"sliding_window_size\": 512, \"prefill_chunk_size\": 1024"),
        )
        .beyond_schema(),
        case(
            "override_window_beyond_context",
            overrides("\"context_window_size\": 1024, \"sliding_window_size\": 4096"),
        )
        .beyond_schema(),
        case("override_sinks_fill_window", overrides("\"sliding_window_size\": 4, \"attention_sink_size\": 4"))
            .beyond_schema(),
        case("override_several_devices", overrides("\"tensor_parallel_shards\": 2, \"pipeline_parallel_stages\": -1")),
        case("override_disaggregation", overrides("\"disaggregation\": true")),
        case("override_opt", overrides("\"opt\": \"fast\"")).beyond_schema(),
        case("overrides_not_an_object", entry("\"overrides\": \"context_window_size=2048\"")),
    ]
}

fn extends_cases() -> Vec<Case> {
    let child = "{\n  \"extends\": \"base.json\",\n  \"device\": \"iphone\"\n}\n";
    let chain: Vec<(String, String)> =
        (0..20).map(|n| (format!("{n}.json"), format!("{{ \"extends\": \"{}.json\" }}", n + 1))).collect();
    let mut deep = case("extends_too_deep", "{ \"extends\": \"0.json\" }\n").beyond_schema();
    deep.files = chain.into_iter().map(|(name, text)| (&*Box::leak(name.into_boxed_str()), text)).collect();
    vec![
        case("extends_missing", child).beyond_schema(),
        case("extends_itself", "{ \"extends\": \"./mlc-package-config.json\" }\n").beyond_schema(),
        case("extends_circle", child).beyond_schema().with("base.json", "{ \"extends\": [\"lib/more.json\"] }\n").with(
            "lib/more.json",
            "{\n  \"extends\": \"../mlc-package-config.json\"\n}\n",
        ),
        deep,
        case("extends_not_a_path", "{ \"extends\": 1 }\n"),
        case("error_in_the_base", child).beyond_schema().with(
            "base.json",
            "{\n  \"model_list\": [\n    { \"model\": \"HF://a/b\", \"model_id\": \"b\", \"overides\": {} }\n  ]\n}\n",
        ),
        case("path_of_the_base_is_relative_to_it", child).beyond_schema().with(
            "base.json",
            "{ \"extends\": \"lib/more.json\" }\n",
        ).with(
            "lib/more.json",
            "{ \"model_list\": [{ \"model\": \"models/mlc\", \"model_id\": \"b\", \"bundle_weight\": true }] }\n",
        ),
        case(
            "id_of_the_base_in_another_case",
            "{\n  \"extends\": \"base.json\",\n  \"device\": \"iphone\",\n  \"model_list\": [{ \"model\": \"HF://a/c\", \"model_id\": \"B\" }]\n}\n",
        )
        .beyond_schema()
        .with("base.json", "{ \"model_list\": [{ \"model\": \"HF://a/b\", \"model_id\": \"b\" }] }\n"),
        case(
            "conflict_across_files",
            "{\n  \"extends\": \"base.json\",\n  \"device\": \"iphone\",\n  \"model_list\": [{ \"model_id\": \"b\", \"overrides\": { \"context_window_size\": 256 } }]\n}\n",
        )
        .beyond_schema()
        .with(
            "base.json",
            "{\n  \"model_list\": [\n    { \"model\": \"HF://a/b\", \"model_id\": \"b\", \"overrides\": { \"prefill_chunk_size\": 512 } }\n  ]\n}\n",
        ),
        case(
            "null_removes_what_is_needed",
            "{\n  \"extends\": \"base.json\",\n  \"device\": null\n}\n",
        )
        .beyond_schema()
        .with("base.json", "{ \"device\": \"iphone\", \"model_list\": [{ \"model\": \"HF://a/b\", \"model_id\": \"b\" }] }\n"),
    ]
}

fn cases() -> Vec<Case> {
    [text_cases(), top_cases(), model_cases(), override_cases(), extends_cases()].into_iter().flatten().collect()
}

#[test]
fn every_bad_manifest_is_refused_as_shown() {
    let mut unused: Vec<&str> = knapsack_config::codes::ALL.iter().map(|(code, _)| *code).collect();
    for case in cases() {
        let folder = Folder::new();
        folder.write("mlc-package-config.json", case.manifest.as_bytes());
        for (name, text) in &case.files {
            folder.write(name, text.as_bytes());
        }
        let report = folder.load().expect_err(case.name);
        assert!(report.has_errors(), "{}", case.name);
        for found in &report.diagnostics {
            assert!(
                knapsack_config::codes::ALL.iter().any(|(code, _)| *code == found.code),
                "{}: {}",
                case.name,
                found.code
            );
            unused.retain(|code| *code != found.code);
        }
        insta::with_settings!({ description => case.manifest.chars().take(400).collect::<String>(), omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(case.name, folder.rendered(&report));
        });
    }
    // What only the caller, or a very large or unreadable file, can cause.
    let elsewhere = [
        "unreadable",
        "encoding",
        "chosen",
        "override-without-effect",
        "over-budget",
        "buffer-too-large",
        "budget-too-large",
        "large-kv-cache",
        "bad-model-source",
        "source-failed",
        "bad-chat-template",
        "beyond-trained-positions",
        "chunk-beyond-window",
        "different-libraries",
        "prebuilt-mismatch",
        "unsupported-model",
        "weights-mismatch",
        "no-tokenizer",
        "no-chat-template",
        "no-conv-template",
        "lock-out-of-date",
        "store-limit",
        "bundle-apart",
        "more",
    ];
    unused.retain(|code| !elsewhere.contains(code));
    assert_eq!(unused, [""; 0], "codes without a bad manifest");
}

#[test]
fn the_schema_refuses_what_it_can_see() {
    let schema = serde_json::from_str(&knapsack_config::json_schema()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for case in cases() {
        // What is no JSON at all is not the schema's matter.
        let Ok(value) = serde_json::from_str::<serde_json::Value>(&case.manifest) else { continue };
        assert_eq!(!validator.is_valid(&value), case.schema, "{}", case.name);
    }
}
