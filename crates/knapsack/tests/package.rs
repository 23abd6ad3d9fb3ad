//! `package`, `plan` and `compile` through the real binary: what is written, what is kept, what is refused.

mod support;

use knapsack_artifact::{TokenTables, token_tables};
use knapsack_testkit::{catalogue, fixture, mlc_fixture, tiny_assistant};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use support::Sandbox;

fn write_manifest(sandbox: &Sandbox, manifest: &Value) {
    sandbox.write("mlc-package-config.json", &manifest.to_string());
}

/// Runs `package` and gives its exit code and messages.
fn package(sandbox: &Sandbox, extra: &[&str]) -> (i32, Vec<Value>) {
    let outcome = sandbox.run(&[&["package", "-v", "--message-format", "json"], extra].concat());
    (outcome.code, outcome.json_lines())
}

fn packaged(messages: &[Value]) -> &Value {
    messages.iter().find(|message| message["reason"] == "packaged").unwrap_or_else(|| panic!("{messages:#?}"))
}

/// What was done, for example all `Compiling`.
fn steps<'a>(messages: &'a [Value], action: &str) -> Vec<&'a str> {
    messages.iter().filter(|message| message["action"] == action).filter_map(|m| m["message"].as_str()).collect()
}

fn errors(messages: &[Value]) -> Vec<(&str, &str)> {
    let errors = messages.iter().filter(|message| message["severity"] == "error");
    errors.map(|m| (m["code"].as_str().unwrap(), m["message"].as_str().unwrap())).collect()
}

/// Every file below a folder with its content.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn entry(model: &Path, id: &str) -> Value {
    json!({ "model": model, "model_id": id, "bundle_weight": true })
}

fn six() -> Value {
    let folders = [
        mlc_fixture("llama", "q4f16_1"),
        mlc_fixture("llama", "q4f16_0"),
        mlc_fixture("qwen3", "q4f16_1"),
        mlc_fixture("gemma2", "q4f16_1"),
        mlc_fixture("phi3", "q4f16_0"),
        mlc_fixture("mistral", "q4f16_1"),
    ];
    let entries = folders.iter().enumerate().map(|(index, folder)| entry(folder, &format!("model-{index}")));
    json!({ "device": "android", "model_list": entries.collect::<Vec<_>>() })
}

#[test]
fn an_unchanged_manifest_does_nothing_and_a_changed_override_compiles_one_library() {
    let sandbox = Sandbox::new();
    let mut manifest = six();
    write_manifest(&sandbox, &manifest);
    let (code, messages) = package(&sandbox, &[]);
    assert_eq!(code, 0, "{messages:#?}");
    assert_eq!(steps(&messages, "Compiling").len(), 6);
    let app = fs::read(sandbox.path("dist/bundle/mlc-app-config.json")).unwrap();
    let app: Value = serde_json::from_slice(&app).unwrap();
    let ids: Vec<_> = app["model_list"].as_array().unwrap().iter().map(|model| model["model_id"].clone()).collect();
    assert_eq!(ids, ["model-0", "model-1", "model-2", "model-3", "model-4", "model-5"]);

    // Beside each tokenizer its tables, which the app config counts.
    let bundle = |file: &str| fs::read(sandbox.path("dist/bundle/model-0").join(file)).unwrap();
    let tables = TokenTables::new(bundle(token_tables::FILE_NAME)).unwrap();
    assert!(tables.are_of(&token_tables::Source::of(&bundle("tokenizer.json"))));
    let model = &app["model_list"][0];
    assert_eq!(model["planned_memory"]["tokenizer"], tables.memory());
    assert_eq!(model["planned_memory"]["total"], model["estimated_vram_bytes"]);

    let (code, messages) = package(&sandbox, &[]);
    assert_eq!(code, 0);
    assert_eq!(steps(&messages, "Compiling"), [""; 0]);
    assert_eq!(packaged(&messages)["written"], json!([]));
    assert_eq!(steps(&messages, "Fresh").len(), 6);

    manifest["model_list"][2]["overrides"] = json!({ "prefill_chunk_size": 16 });
    write_manifest(&sandbox, &manifest);
    let (code, messages) = package(&sandbox, &[]);
    assert_eq!(code, 0);
    assert_eq!(steps(&messages, "Compiling").len(), 1);
    assert_eq!(steps(&messages, "Compiled"), ["model-2: prefill_chunk_size changed from 512 to 16"]);
    let written = packaged(&messages)["written"].to_string();
    assert!(written.contains("libmodel_android.so") && written.contains("model-2/mlc-chat-config.json"), "{written}");
    assert!(!written.contains(".bin"), "weights were copied again: {written}");
    let chat = fs::read(sandbox.path("dist/bundle/model-2/mlc-chat-config.json")).unwrap();
    let chat: Value = serde_json::from_slice(&chat).unwrap();
    assert_eq!(chat["prefill_chunk_size"], 16);
}

#[test]
fn packages_are_the_same_wherever_they_are_made() {
    let packages = ["a", "folder with spaces"].map(|name| {
        let sandbox = Sandbox::new();
        let folder = sandbox.path(name);
        fs::create_dir_all(folder.join("model")).unwrap();
        for file in fs::read_dir(tiny_assistant()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), folder.join("model").join(file.file_name())).unwrap();
        }
        let manifest = json!({ "device": "iphone", "model_list": [entry(Path::new("model"), "tiny")] });
        fs::write(folder.join("mlc-package-config.json"), manifest.to_string()).unwrap();
        let config = format!("{name}/mlc-package-config.json");
        let output = sandbox.run(&["package", "-c", &config, "-o", &format!("{name}/dist")]);
        assert!(output.code == 0, "{}", output.stderr);
        contents(&folder.join("dist"))
    });
    assert_eq!(packages[0].keys().collect::<Vec<_>>(), packages[1].keys().collect::<Vec<_>>());
    for (name, content) in &packages[0] {
        assert!(packages[1][name] == *content, "{} differs", name.display());
        assert!(!content.windows(5).any(|text| text == b"/tmp/"), "{} names a path of this machine", name.display());
    }
}

#[test]
fn a_folder_that_must_not_become_a_package_is_refused_before_anything_is_made() {
    let sandbox = Sandbox::new();
    write_manifest(&sandbox, &json!({ "device": "android", "model_list": [entry(&fixture("llama"), "tiny")] }));
    sandbox.write("thesis/chapter.tex", "years");
    sandbox.write("file", "");
    let model = fixture("llama");
    for output in
        [".", "/", "thesis", "file", "file/below", sandbox.path("").to_str().unwrap(), model.to_str().unwrap()]
    {
        let (code, messages) = package(&sandbox, &["-o", output]);
        assert_eq!(code, 2, "{output}: {messages:#?}");
        assert_eq!(steps(&messages, "Compiling").len() + steps(&messages, "Converting").len(), 0, "{output}");
    }
    assert_eq!(sandbox.read("thesis/chapter.tex"), "years");
    assert_eq!(sandbox.names(), ["file", "mlc-package-config.json", "thesis"], "nothing was made, not even a cache");
}

#[test]
fn what_the_manifest_no_longer_names_goes_and_foreign_files_stay() {
    let sandbox = Sandbox::new();
    let models = [entry(&mlc_fixture("llama", "q4f16_1"), "first"), entry(&mlc_fixture("qwen3", "q4f16_1"), "second")];
    write_manifest(&sandbox, &json!({ "device": "iphone", "model_list": models }));
    assert_eq!(package(&sandbox, &[]).0, 0);
    fs::write(sandbox.path("dist/notes.txt"), "mine").unwrap();
    write_manifest(&sandbox, &json!({ "device": "iphone", "model_list": models[..1] }));
    let (code, messages) = package(&sandbox, &[]);
    assert_eq!(code, 0);
    assert!(packaged(&messages)["removed"].to_string().contains("second/params_shard_0.bin"));
    assert!(!sandbox.path("dist/bundle/second").exists());
    assert_eq!(fs::read_to_string(sandbox.path("dist/notes.txt")).unwrap(), "mine");

    fs::create_dir(sandbox.path("photos")).unwrap();
    fs::write(sandbox.path("photos/cat.jpg"), "meow").unwrap();
    let output = sandbox.run(&["package", "-o", "photos"]);
    assert_ne!(output.code, 0);
    assert!(output.stderr.contains("cat.jpg"));
    assert_eq!(contents(&sandbox.path("photos")).len(), 1);
}

#[test]
fn a_budget_that_is_too_small_is_refused_before_anything_is_written() {
    let sandbox = Sandbox::new();
    let mut entry = entry(&fixture("llama"), "llama");
    entry["estimated_vram_bytes"] = json!(100_000);
    entry["overrides"] = json!({ "context_window_size": 512, "prefill_chunk_size": 128 });
    write_manifest(&sandbox, &json!({ "device": "iphone", "model_list": [entry] }));
    let (code, messages) = package(&sandbox, &[]);
    assert_eq!(code, 2);
    let found = errors(&messages);
    assert_eq!(found.len(), 1, "{messages:#?}");
    assert_eq!(found[0].0, "over-budget");
    assert!(found[0].1.contains("more than the budget of 100000"), "{}", found[0].1);
    assert!(!sandbox.path("dist").exists());
    assert!(!sandbox.path("cache/converted-v1").exists(), "converted before the budget was checked");

    let (code, messages) = package(&sandbox, &["--allow-over-budget"]);
    assert_eq!(code, 0, "{messages:#?}");
    assert!(messages.iter().any(|message| message["severity"] == "warning" && message["code"] == "over-budget"));
}

#[test]
fn one_prefix_for_two_libraries_is_refused_with_the_difference() {
    let sandbox = Sandbox::new();
    let mut entries = [entry(&mlc_fixture("llama", "q4f16_1"), "a"), entry(&mlc_fixture("llama", "q4f16_1"), "b")];
    entries.iter_mut().for_each(|entry| entry["model_lib"] = json!("llama"));
    write_manifest(&sandbox, &json!({ "device": "iphone", "model_list": entries }));
    assert_eq!(package(&sandbox, &[]).0, 0, "the same library may be shared");

    entries[1]["overrides"] = json!({ "context_window_size": 256 });
    write_manifest(&sandbox, &json!({ "device": "iphone", "model_list": entries }));
    let output = sandbox.run(&["package"]);
    assert_eq!(output.code, 2);
    let text = output.stderr;
    assert!(text.contains("they differ in context_window_size: 512 and 256"), "{text}");
}

#[test]
fn a_prebuilt_library_is_used_when_it_matches_and_refused_when_not() {
    let sandbox = Sandbox::new();
    let mut model = entry(&mlc_fixture("llama", "q4f16_1"), "llama");
    model["model_lib"] = json!("mine");
    write_manifest(&sandbox, &json!({ "device": "android", "model_list": [model] }));
    assert_eq!(package(&sandbox, &["-o", "before"]).0, 0);
    let made = "before/lib/arm64-v8a/libmodel_android.so";

    let manifest = |device: &str| json!({ "device": device, "model_list": [model], "model_lib_path_for_prepare_libs": { "mine": made } });
    write_manifest(&sandbox, &manifest("android"));
    let (code, messages) = package(&sandbox, &[]);
    assert_eq!(code, 0, "{messages:#?}");
    assert_eq!(steps(&messages, "Prebuilt").len(), 1);
    let again = made.replace("before", "dist");
    assert_eq!(fs::read(sandbox.path(made)).unwrap(), fs::read(sandbox.path(&again)).unwrap());

    write_manifest(&sandbox, &manifest("iphone"));
    let (code, messages) = package(&sandbox, &["-o", "other"]);
    assert_eq!(code, 2);
    assert!(errors(&messages)[0].1.contains("compiled for OpenCl, not Metal"), "{messages:#?}");
}

#[test]
fn a_plan_is_exact_and_writes_nothing() {
    let sandbox = Sandbox::new();
    write_manifest(&sandbox, &json!({ "device": "iphone", "model_list": [entry(&tiny_assistant(), "tiny")] }));
    let output = sandbox.run(&["plan", "--message-format", "json"]);
    assert!(output.code == 0);
    let text = output.stdout;
    let plan: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let bytes = |part: &str| plan["models"][0][part].as_u64().unwrap();
    // 4 layers, keys and values, 2 heads of 64, 512 positions, 2 bytes.
    assert_eq!(bytes("kv_cache"), 4 * 2 * 2 * 64 * 512 * 2);
    let parts = ["weights", "kv_cache", "workspace", "tokenizer"];
    assert_eq!(bytes("total"), parts.map(bytes).iter().sum::<u64>());
    // What the package holds of it, and what is made of its settings.
    let json = std::fs::read(tiny_assistant().join("tokenizer.json")).unwrap();
    let tables = TokenTables::new(token_tables::compile(&json).unwrap()).unwrap();
    assert_eq!(bytes("tokenizer"), tables.memory());
    assert!(!sandbox.path("dist").exists());
}

#[test]
fn compiling_needs_the_configuration_only() {
    let sandbox = Sandbox::new();
    let model = catalogue("Llama-3.2-3B-Instruct-q4f16_1");
    for device in ["iphone", "android", "macabi", "host"] {
        let sizes = "context_window_size=2048,prefill_chunk_size=128";
        let args = ["compile", model.to_str().unwrap(), "--device", device, "--overrides", sizes];
        let output = sandbox.run(&[&args[..], &["-o", device, "--message-format", "json"]].concat());
        assert!(output.code == 0, "{}", output.stderr);
        let text = output.stdout;
        let compiled: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(compiled["memory"]["weights"], 1_807_423_488u64);
        assert_eq!(compiled["memory"]["kv_cache"], 114_688 * 2048);
        assert!(fs::metadata(sandbox.path(device)).unwrap().len() > 10_000);
    }
}

/// A disk that is full, or whatever else ends a write: here a limit of the size of files.
#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_written_is_named_and_nothing_is_left_of_it() {
    let sandbox = Sandbox::new();
    write_manifest(&sandbox, &json!({ "device": "iphone", "model_list": [entry(&tiny_assistant(), "tiny")] }));
    let limited = || {
        let program = sandbox.knapsack();
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; ulimit -f 1500; exec \"$0\" package"]).arg(program.get_program());
        shell.current_dir(sandbox.folder.path()).env_clear();
        shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        support::outcome(&mut shell).expect(1)
    };
    let converting = limited().stderr;
    assert!(converting.contains("converted-v1") && converting.contains(".bin"), "{converting}");
    assert!(!sandbox.names().iter().any(|name| name.contains("dist")), "{:?}", sandbox.names());
    package(&sandbox, &[]);
    fs::remove_dir_all(sandbox.path("dist")).unwrap();
    let copying = limited().stderr;
    assert!(copying.contains("dist") && copying.contains(".bin`"), "{copying}");
    assert!(!sandbox.names().iter().any(|name| name.contains("dist")), "{:?}", sandbox.names());
}
