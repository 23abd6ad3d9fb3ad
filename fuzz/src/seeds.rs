//! Where fuzzing begins: the files that the tests have.

use crate::changes::Base;
use crate::text::TINY_TOKENIZER;
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_ir::Windows;
use knapsack_models::ModelConfig;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The folder that gets a target's seeds before it runs.
const FOLDER: &str = "KNAPSACK_FUZZ_SEEDS";
/// Largest file that is a seed: what is larger is only slower.
const MAX_SEED: u64 = 48 << 10;

/// These sources are also a test of the workspace.
fn project() -> &'static Path {
    let inside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    inside.into_iter().find(|folder| folder.join("ARCHITECTURE.md").is_file()).expect("a folder of the project")
}

fn crates(path: &str) -> PathBuf {
    project().join("crates").join(path)
}

/// Every file below `folder` of which the name is accepted, in order.
fn files(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if wanted(&entry.file_name().to_string_lossy()) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn named(folder: &Path, names: &[&str]) -> Vec<PathBuf> {
    files(folder, &|name| names.contains(&name))
}

fn bases(paths: Vec<PathBuf>) -> Vec<Base> {
    let values = paths.iter().filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok());
    // Fewer than `{`, which begins an input that is JSON itself.
    values.take(usize::from(b'{')).map(Base::new).collect()
}

/// Configurations of every family, of checkpoints and of MLC models.
pub(crate) fn configs() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let mut paths = named(&crates("knapsack-testkit/fixtures"), &["config.json"]);
        paths.extend(named(&crates("knapsack-testkit/catalogue"), &["mlc-chat-config.json"]));
        bases(paths)
    })
}

pub(crate) fn chat_configs() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let mut paths = named(&crates("knapsack-testkit/fixtures"), &["mlc-chat-config.json"]);
        paths.extend(named(&crates("knapsack-testkit/catalogue"), &["mlc-chat-config.json"]));
        bases(paths)
    })
}

pub(crate) fn tokenizers() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let mut list = vec![Base::new(serde_json::from_str(TINY_TOKENIZER).expect("JSON"))];
        let paths = named(&crates("knapsack-testkit/fixtures"), &["tokenizer.json"]);
        list.extend(bases(paths.into_iter().take(2).collect()));
        list
    })
}

/// The folder of a checkpoint, but for its weights.
pub(crate) fn headers() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| crates("knapsack-testkit/fixtures/llama/hf"))
}

/// Libraries of models with every kind of operation, with kernels and without.
pub(crate) fn libraries() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let fixtures = crates("knapsack-testkit/fixtures");
        let folders = [
            "llama/hf",
            "gemma2/hf",
            "mistral/hf",
            "generated/phi/hf",
            "generated/lfm2/hf",
            "generated/qwen3_5/hf",
            "generated/gemma4/hf",
        ];
        let mut list = Vec::new();
        for folder in folders {
            let text = fs::read(fixtures.join(folder).join("config.json")).expect("a fixture");
            let config = ModelConfig::from_hf(&serde_json::from_slice(&text).expect("JSON")).expect("a fixture");
            let sliding = config.own_windows().sliding.map(|_| 48);
            let windows = Windows { context: 64, sliding, sinks: if sliding.is_some() { 4 } else { 0 }, chunk: 16 };
            let graph = config.graph(&"q4f16_1".parse().expect("a format"), &windows).expect("a fixture");
            for target in [Target::Host, Target::OpenCl] {
                let library =
                    compile(&CompileRequest { graph: &graph, windows, target, name: None }).expect("a fixture");
                list.push(Base::new(serde_json::to_value(library).expect("JSON")));
            }
        }
        list
    })
}

/// Fills the folder that `KNAPSACK_FUZZ_SEEDS` names with the target's seeds, before libFuzzer reads it.
pub fn begin(target: &str) {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    fs::create_dir_all(&folder).expect("a folder for seeds");
    for (name, content) in seeds(target) {
        fs::write(folder.join(name), content).expect("a seed");
    }
}

/// What a target begins with, by name.
pub(crate) fn seeds(target: &str) -> BTreeMap<String, Vec<u8>> {
    let fixtures = crates("knapsack-testkit/fixtures");
    let paths = match target {
        "manifest" => {
            let mut paths = named(&project().join("examples"), &["mlc-package-config.json"]);
            paths.extend(files(&project().join("schemas"), &|name| name.ends_with(".json")));
            paths
        }
        "weight_index" => named(&fixtures, &["tensor-cache.json", "tensor-cache-b16.json"]),
        "chat_config" => named(&fixtures, &["mlc-chat-config.json"]),
        "tokenizer" => named(&fixtures, &["tokenizer.json"]),
        "config" => named(&fixtures, &["config.json"]),
        "template" => {
            let mut paths = files(&crates("knapsack/tests/templates"), &|name| name.ends_with(".jinja"));
            paths.extend(files(&crates("knapsack-weights"), &|name| name.ends_with(".jinja")));
            paths
        }
        _ => Vec::new(),
    };
    let mut seeds = BTreeMap::new();
    for path in paths {
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= MAX_SEED) {
            seeds.insert(format!("seed-{:03}", seeds.len()), fs::read(&path).expect("a fixture"));
        }
    }
    let made = made(target, &fixtures);
    seeds.extend(made.into_iter().enumerate().map(|(index, content)| (format!("made-{index:03}"), content)));
    seeds
}

/// Seeds that are not files of the tests.
fn made(target: &str, fixtures: &Path) -> Vec<Vec<u8>> {
    let changes = |bases: &[Base]| {
        (0..bases.len().min(usize::from(b'{')) as u8).map(|base| vec![base, 1, 0, 0, 0, 0, 0, 0, 0]).collect()
    };
    match target {
        "manifest" => MANIFESTS.iter().map(|text| text.as_bytes().to_vec()).collect(),
        "lock" => vec![LOCK.as_bytes().to_vec()],
        "app_config" => vec![APP_CONFIG.as_bytes().to_vec()],
        "template" => {
            let cases: Vec<Value> = serde_json::from_str(include_str!("../../crates/knapsack-jinja/tests/python.json"))
                .expect("the tests' cases");
            cases.iter().filter_map(|case| Some(case["template"].as_str()?.as_bytes().to_vec())).collect()
        }
        "safetensors" => {
            let starts = named(fixtures, &["model.safetensors"]).into_iter().filter_map(|path| {
                let content = fs::read(path).ok()?;
                let header = u64::from_le_bytes(*content.first_chunk()?) as usize + 8;
                Some([&(content.len() as u64).to_le_bytes(), content.get(..header)?].concat())
            });
            starts.collect()
        }
        "chat_config" => changes(chat_configs()),
        "tokenizer" => changes(tokenizers()),
        "config" => changes(configs()),
        "library" => changes(libraries()),
        _ => Vec::new(),
    }
}

const MANIFESTS: [&str; 3] = [
    r#"{"device": "iphone", "model_list": [{"model": "HF://mlc-ai/gemma-2-2b-it-q4f16_1-MLC", "model_id": "gemma",
"estimated_vram_bytes": 3000000000, "overrides": {"prefill_chunk_size": 128, "context_window_size": 4096}}]}"#,
    r#"{
    // Comments and what follows a last item are accepted.
    "device": "android", "target_devices": ["pixel-8"], "app": {"theme": "dark"},
    "model_list": [
        {"model": "HF://org/name@0123456789abcdef0123456789abcdef01234567", "model_id": "a", "quantization": "q4f16_1",
         "bundle_weight": true, "delivery": "play-on-demand", "chat_template": "./template.jinja", "app": {"x": [1, 2]}},
        {"model": "dist/model", "model_id": "b", "estimated_vram_bytes": 1, "model_lib": "b_lib",
         "overrides": {"sliding_window_size": 512, "attention_sink_size": 4}},
    ],
    "model_lib_path_for_prepare_libs": {"b_lib": "lib.a"}
}"#,
    r#"{"extends": "base.json", "device": ["iphone", "android"], "model_list": []}"#,
];

const LOCK: &str = r#"{"version": 1, "models": [{"model_id": "zebra", "model": "HF://org/name@main",
"commit": "1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f", "format": "mlc", "license": "mit", "base_models": ["org/base"], "files": [
{"path": "mlc-chat-config.json", "size": 2409, "sha256": "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"}]}]}"#;

const APP_CONFIG: &str = r#"{"theme": 3, "model_list": [{"model_path": "tiny", "model_id": "tiny", "model_lib": "llama_q4f16_1",
"estimated_vram_bytes": 3000000000, "sliding_window_size": 512, "prefill_chunk_size": 128, "context_window_size": -1,
"planned_memory": {"weights": 1, "kv_cache": 2, "workspace": 3}, "files": [{"path": "tokenizer.json", "size": 4,
"sha256": "0000000000000000000000000000000000000000000000000000000000000000"}]},
{"model_id": "a", "model_lib": "b", "model_url": "https://huggingface.co/org/a", "estimated_vram_bytes": 5},
{"model_id": "c", "model_lib": "d", "estimated_vram_bytes": 5,
"asset_packs": {"delivery": "play-on-demand", "names": ["tiny", "tiny_2"], "folder": "knapsack/tiny"}}]}"#;
