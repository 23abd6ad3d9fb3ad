//! `knapsack inspect` and `knapsack cache` through the real binary.

use knapsack_artifact::DeviceKind;
use knapsack_artifact::device::{Abi, AppleSlice};
use knapsack_artifact::library::Target;
use knapsack_bundle::objects::{archive, shared_library};
use knapsack_bundle::{Entry, FileDigests, Library, LinkMode, PackageContents, Tokenizer, WeightSupply, WriteOptions};
use knapsack_compiler::CompileRequest;
use knapsack_ir::Windows;
use knapsack_models::ModelConfig;
use knapsack_testkit::{fixture, mlc_fixture};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

fn knapsack(args: &[&str], cache: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knapsack"));
    command.args(args).env("KNAPSACK_CACHE", cache).env("NO_COLOR", "1").env_remove("RUST_BACKTRACE").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn inspect(args: &[&str]) -> Output {
    let mut all = vec!["inspect"];
    all.extend(args);
    knapsack(&all, Path::new("unused"))
}

fn inspect_json(args: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(args);
    let out = inspect(&all);
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn compiled(target: Target) -> Library {
    let chat = std::fs::read(mlc_fixture("llama", "q4f16_1").join("mlc-chat-config.json")).unwrap();
    let config = ModelConfig::from_mlc(&serde_json::from_slice(&chat).unwrap()).unwrap();
    let windows = Windows { context: 256, sliding: None, sinks: 0, chunk: 16 };
    let graph = config.graph(&"q4f16_1".parse().unwrap(), &windows).unwrap();
    let request = CompileRequest { graph: &graph, windows, target, name: None };
    Library::new(Arc::new(knapsack_compiler::compile(&request).unwrap())).unwrap()
}

#[test]
fn a_library_is_the_same_in_every_container() {
    let folder = tempfile::tempdir().unwrap();
    let library = compiled(Target::Metal);
    let libraries = std::slice::from_ref(&library);
    let files = [
        ("plain.knapsack", library.blob().to_vec(), "knapsack any"),
        ("libmodel_iphone.a", archive(AppleSlice::SIMULATOR, libraries).unwrap(), "mach-o x86_64 ios-simulator"),
        ("libmodel_android.so", shared_library(Abi::ARM64, libraries).unwrap(), "elf arm64"),
    ];
    for (name, bytes, slice) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        let value = inspect_json(&[path]);
        let found = &value["libraries"][0];
        assert_eq!(value["libraries"].as_array().unwrap().len(), 1);
        assert_eq!(found["name"], library.name());
        assert_eq!(found["memory"]["total"], library.library().memory.total());
        assert_eq!(found["decode"]["launches"].as_array().unwrap().len(), library.library().decode.launches.len());
        let places: Vec<_> = found["places"].as_array().unwrap().iter().map(|place| place["slice"].clone()).collect();
        assert!(places.contains(&slice.into()), "{places:?}");
        assert!(found["kernels"].get("source").is_none() && found.get("traffic").is_none());

        let out = inspect(&[path]);
        let shown = text(&out.stdout);
        for expected in
            [library.name(), "llama q4f16_1, 3 layers", "context 256, prefill chunk 16", "launches: embed 1,", slice]
        {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
    }
    // The folder as a whole: one library in four places.
    let whole = inspect_json(&[folder.path().to_str().unwrap()]);
    assert_eq!(whole["libraries"].as_array().unwrap().len(), 1);
    assert_eq!(whole["libraries"][0]["places"].as_array().unwrap().len(), 4);
}

#[test]
fn kernels_come_with_their_traffic_and_source() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.knapsack");
    std::fs::write(&path, compiled(Target::OpenCl).blob()).unwrap();
    let path = path.to_str().unwrap();
    let value = inspect_json(&["--kernels", path]);
    assert!(value["libraries"][0]["kernels"]["source"].as_str().unwrap().contains("kernel"));
    assert!(value["libraries"][0]["traffic"].as_array().is_some_and(|rows| !rows.is_empty()));
    let shown = text(&inspect(&["--kernels", "-v", path]).stdout);
    assert!(shown.contains("moved/must") && shown.contains("model.embed_tokens.q_weight"), "{shown}");
    std::fs::write(path, compiled(Target::Host).blob()).unwrap();
    assert!(text(&inspect(&["--kernels", path]).stdout).contains("no kernels"));
}

#[test]
fn weights_checkpoints_and_packages_are_told_apart() {
    let weights = mlc_fixture("llama", "q4f16_1");
    let value = inspect_json(&[weights.to_str().unwrap()]);
    assert_eq!((&value["kind"], &value["configuration"]["quantization"]), (&"weights".into(), &"q4f16_1".into()));
    assert_eq!(value["bytes"], 305_920);
    assert!(text(&inspect(&["-v", weights.to_str().unwrap()]).stdout).contains("model.norm.weight"));

    let checkpoint = fixture("llama");
    let value = inspect_json(&[checkpoint.to_str().unwrap()]);
    assert_eq!((&value["kind"], &value["configuration"]["layers"]), (&"checkpoint".into(), &3.into()));

    let folder = tempfile::tempdir().unwrap();
    let dist = folder.path().join("dist");
    let entry = Entry {
        model_id: "tiny".into(),
        library: compiled(Target::OpenCl),
        estimated_vram_bytes: 1 << 22,
        revision: None,
        weights: WeightSupply::Bundled { folder: weights },
        tokenizer: Tokenizer::default(),
        app: Default::default(),
        provenance: Default::default(),
    };
    let options = WriteOptions {
        link_mode: LinkMode::Copy,
        protected: &[],
        digests: &FileDigests::in_memory(),
        locks: None,
        sync: false,
        progress: &|_| ControlFlow::Continue(()),
    };
    knapsack_bundle::write(
        &PackageContents {
            device: DeviceKind::ANDROID,
            entries: vec![entry],
            app: Default::default(),
            date: None,
            pack_bytes: u64::MAX,
            archive_bytes: u64::MAX,
            runtime: Default::default(),
        },
        &dist,
        &options,
    )
    .unwrap();
    let value = inspect_json(&[dist.to_str().unwrap()]);
    assert_eq!(value["kind"], "package");
    let model = &value["models"][0];
    assert_eq!(
        (&model["model_id"], &model["library_found"], &model["files_found"]),
        (&"tiny".into(), &true.into(), &true.into())
    );
    assert_eq!(value["libraries"][0]["places"].as_array().unwrap().len(), 2);
    let shown = text(&inspect(&[dist.to_str().unwrap()]).stdout);
    assert!(shown.contains("Package of 1 model and 1 library") && shown.contains("bundled"), "{shown}");
    std::fs::remove_file(dist.join("bundle/tiny/params_shard_0.bin")).unwrap();
    assert_eq!(inspect_json(&[dist.to_str().unwrap()])["models"][0]["files_found"], false);
}

#[test]
fn what_is_not_any_of_these_is_wrong_input() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x"), "text").unwrap();
    for path in [folder.path().to_path_buf(), folder.path().join("x"), folder.path().join("none")] {
        let out = inspect(&[path.to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
        assert!(text(&out.stderr).contains(path.file_name().unwrap().to_str().unwrap()), "{}", text(&out.stderr));
    }
}

#[test]
fn the_cache_is_listed_verified_and_emptied() {
    use knapsack_bundle::cache::{Bucket, Cache, CacheError, Inputs};
    let root = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| knapsack(args, root.path());
    assert!(text(&run(&["cache", "list"]).stdout).contains("0 entries"));
    let make = |folder: &Path| -> Result<(), CacheError> {
        std::fs::write(folder.join("library.knapsack"), "content").unwrap();
        Ok(())
    };
    let inputs = Inputs::new("tiny for Metal").with("chunk", 16);
    let entry = Cache::at(root.path()).get_or_make(Bucket::Libraries, &inputs, make).unwrap().0;
    let file = entry.content().join("library.knapsack");
    drop(entry);
    let list: Value = serde_json::from_slice(&run(&["cache", "list", "--json"]).stdout).unwrap();
    assert_eq!((&list["bytes"], &list["entries"][0]["subject"]), (&7.into(), &"tiny for Metal".into()));
    assert!(text(&run(&["cache", "list"]).stdout).contains("tiny for Metal"));
    assert_eq!(run(&["cache", "verify"]).status.code(), Some(0));
    std::fs::write(&file, "C0ntent").unwrap();
    let out = run(&["cache", "verify"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).contains("another content"), "{}", text(&out.stdout));
    assert!(text(&run(&["cache", "list"]).stdout).contains("0 entries"));
    Cache::at(root.path()).get_or_make(Bucket::Libraries, &inputs, make).unwrap();
    assert!(text(&run(&["cache", "clean"]).stdout).contains("1 entries removed"));
    assert_eq!(run(&["cache", "clean"]).status.code(), Some(0));
}
