//! Packages in temporary folders: what is written, kept, removed, refused, and what a killed run leaves.

use super::*;
use crate::testing::{library, weight_folder};
use knapsack_artifact::AppConfig;
use knapsack_artifact::app_config::WeightsLocation;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Bench {
    root: tempfile::TempDir,
    package: PackageContents,
}

impl Bench {
    /// Two bundled models and one to download, two of which share a library.
    fn new(device: DeviceKind) -> Self {
        let root = tempfile::Builder::new().prefix("a folder with spaces ").tempdir().unwrap();
        for (name, seed) in [("one", 1), ("two", 2)] {
            weight_folder(&root.path().join("models").join(name), seed);
        }
        let bundled = |name: &str| WeightSupply::Bundled { folder: root.path().join("models").join(name) };
        let entry = |model_id: &str, library, weights| Entry {
            model_id: model_id.into(),
            library,
            estimated_vram_bytes: 1 << 20,
            revision: None,
            weights,
            tokenizer: Tokenizer { bytes: 5, tables: Some((&b"tables"[..]).into()) },
            app: Map::from_iter([("group".to_owned(), "small".into())]),
            provenance: Provenance::default(),
        };
        let far = WeightSupply::Download { url: "https://huggingface.co/org/far/resolve/abc".into(), files: vec![] };
        let entries = vec![
            entry("one", library("llama_q0f32", 8), bundled("one")),
            entry("two", library("llama_q0f32", 8), bundled("two")),
            entry("far", library("other_q0f32", 16), far),
        ];
        Self {
            root,
            package: PackageContents {
                device,
                entries,
                app: Map::new(),
                date: None,
                pack_bytes: 1 << 20,
                archive_bytes: 1 << 30,
                runtime: Runtime::Version,
            },
        }
    }

    fn dist(&self) -> PathBuf {
        self.root.path().join("dist")
    }

    fn write(&self) -> Result<PackageChanges, BundleError> {
        self.write_with(LinkMode::default(), &|_| ControlFlow::Continue(()))
    }

    fn write_with(
        &self,
        link_mode: LinkMode,
        progress: &(dyn Fn(BundleStep<'_>) -> ControlFlow<()> + Sync),
    ) -> Result<PackageChanges, BundleError> {
        let digests = FileDigests::at(self.root.path().join("memory"));
        let protected = [self.root.path().to_path_buf()];
        let locks = self.root.path().join("locks");
        write(
            &self.package,
            &self.dist(),
            &WriteOptions {
                link_mode,
                protected: &protected,
                digests: &digests,
                locks: Some(&locks),
                sync: false,
                progress,
            },
        )
    }

    /// Nothing but the package, the sources and what the test made.
    fn siblings(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.root.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            assert!(!path.is_symlink());
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// A file of the package's Maven repository.
fn maven(name: &str, extension: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("maven/ai/knapsack/{name}/{version}/{name}-{version}.{extension}")
}

/// The members of the package's library for Gradle.
fn aar(bench: &Bench) -> BTreeMap<String, Vec<u8>> {
    let mut archive = zip::ZipArchive::new(fs::File::open(bench.dist().join(maven("models", "aar"))).unwrap()).unwrap();
    let mut files = BTreeMap::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        files.insert(file.name().unwrap().into_owned(), bytes);
    }
    files
}

fn paths(files: &[FileReport]) -> Vec<&str> {
    files.iter().map(|file| &*file.path).collect()
}

#[test]
fn a_package_holds_what_the_app_needs() {
    for device in DeviceKind::packaged() {
        let bench = Bench::new(device);
        let report = bench.write().unwrap();
        let files = contents(&bench.dist());
        let names: Vec<_> = files.keys().map(|path| path.to_str().unwrap().replace('\\', "/")).collect();
        let expected: &[&str] = match device {
            DeviceKind::IPHONE => &[
                "lib/libmodel_iphone.a",
                "lib/KnapsackModels.xcframework/ios-arm64_x86_64-maccatalyst/libKnapsackModels.a",
            ],
            DeviceKind::MACABI => &["lib/libmodel_iphone.a", "lib/KnapsackModels.xcframework/Info.plist"],
            _ => &["lib/arm64-v8a/libmodel_android.so", "lib/x86_64/libmodel_android.so"],
        };
        let bundle = ["mlc-app-config.json", "one/params_shard_0.bin", "one/tokenizer.json", "two/tensor-cache.json"];
        for name in expected.iter().map(ToString::to_string).chain(bundle.iter().map(|name| format!("bundle/{name}"))) {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert_eq!(report.written.len() + 1, files.len(), "all but the record");
        assert_eq!(bench.siblings(), ["dist", "locks", "memory", "models"]);

        let config = AppConfig::read(&bench.dist().join("bundle/mlc-app-config.json")).unwrap();
        assert_eq!(config.model_list.iter().map(|m| &*m.model_id).collect::<Vec<_>>(), ["one", "two", "far"]);
        let one = config.model("one").unwrap();
        assert_eq!(one.weights, WeightsLocation::Bundled("one".into()));
        assert_eq!(one.prefill_chunk_size, Some(8));
        for file in &one.files {
            let bytes = &files[&PathBuf::from("bundle/one").join(&file.path)];
            assert_eq!((file.size, &*file.sha256), (bytes.len() as u64, &*crate::digest::sha256(bytes)));
        }
        assert_eq!(one.files.len(), 5);
        assert_eq!(files[Path::new("bundle/one/tokenizer-tables.bin")], b"tables");
        assert_eq!(one.planned_memory.unwrap().tokenizer, 5);
        let text = String::from_utf8_lossy(&files[Path::new("bundle/mlc-app-config.json")]).into_owned();
        assert!(!text.contains(bench.root.path().to_str().unwrap()), "a host path: {text}");
    }
}

#[test]
fn a_bill_of_materials_names_what_a_model_was_made_from() {
    let mut bench = Bench::new(DeviceKind::ANDROID);
    let file = |path: &str, hash| SourceFile { path: path.into(), hash };
    let (sha256, blake3) = (ContentHash::Sha256("0a".repeat(32)), ContentHash::Blake3("0b".repeat(32)));
    bench.package.entries[0].revision = Some("1f".repeat(20));
    bench.package.entries[0].provenance = Provenance {
        repository: Some(Repository { name: "org/one".into(), url: "https://huggingface.co/org/one".into() }),
        license: Some("MIT".into()),
        base_models: vec!["org/base".into(), "../x y".into(), String::new()],
        files: vec![file("model.safetensors", sha256), file("config.json", blake3)],
        converted: true,
    };
    bench.package.entries[1].provenance =
        Provenance { license: Some("\u{0}<&\"> OR \u{202e}".into()), ..Provenance::default() };
    bench.write().unwrap();
    let text = fs::read(bench.dist().join("bundle").join(bom::FILE_NAME)).unwrap();
    let bill: Value = serde_json::from_slice(&text).unwrap();
    let names: Vec<_> =
        bill["components"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two", "far", "llama_q0f32", "other_q0f32"]);
    let one = &bill["components"][0];
    assert_eq!(one["properties"][2]["value"], "converted and bundled");
    let bases = one["pedigree"]["ancestors"][0]["pedigree"]["ancestors"].as_array().unwrap();
    let purls: Vec<_> = bases.iter().map(|base| base.get("purl").and_then(Value::as_str)).collect();
    assert_eq!(purls, [Some("pkg:huggingface/org/base"), None]);
    let files = one["pedigree"]["ancestors"][0]["components"].as_array().unwrap();
    let kinds: Vec<_> = files.iter().map(|file| file["hashes"][0]["alg"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["SHA-256", "BLAKE3"]);
    assert_eq!(one["licenses"][0]["license"]["id"], "MIT");
    assert!(!String::from_utf8_lossy(&text).contains(bench.root.path().to_str().unwrap()));

    // Another machine says the same, number and all; another content has another number.
    fs::remove_dir_all(bench.dist()).unwrap();
    bench.write().unwrap();
    assert!(fs::read(bench.dist().join("bundle").join(bom::FILE_NAME)).unwrap() == text);
    bench.package.entries[0].provenance.license = None;
    bench.write().unwrap();
    let other = fs::read(bench.dist().join("bundle").join(bom::FILE_NAME)).unwrap();
    let other: Value = serde_json::from_slice(&other).unwrap();
    assert_ne!(other["serialNumber"], bill["serialNumber"]);
}

#[test]
fn a_second_run_copies_nothing_and_a_change_only_what_it_touches() {
    let mut bench = Bench::new(DeviceKind::ANDROID);
    bench.write().unwrap();
    let before = contents(&bench.dist());
    let modified =
        |bench: &Bench| fs::metadata(bench.dist().join("bundle/one/params_shard_0.bin")).unwrap().modified().unwrap();
    let stamp = modified(&bench);
    // Sources that were written a moment ago may be hashed again, but nothing is written.
    let no_writing = |progress: BundleStep<'_>| match progress {
        BundleStep::Verifying { .. } => ControlFlow::Continue(()),
        BundleStep::Writing { path, .. } => panic!("{path} is written"),
    };
    let again = bench.write_with(LinkMode::default(), &no_writing).unwrap();
    assert!(again.is_fresh() && again.kept.len() == before.len() - 1, "{again:?}");

    bench.package.entries[2].library = library("other_q0f32", 32);
    let report = bench.write().unwrap();
    assert_eq!(
        paths(&report.written),
        [
            "bundle/mlc-app-config.json",
            "bundle/models.cdx.json",
            "lib/arm64-v8a/libmodel_android.so",
            "lib/x86_64/libmodel_android.so",
            &maven("models", "aar"),
        ]
    );
    assert!(report.written.iter().all(|file| file.reason == Some(WriteReason::InputsChanged)));
    assert_eq!(modified(&bench), stamp, "a file that was kept has been copied");
    assert_eq!(bench.siblings(), ["dist", "locks", "memory", "models"]);

    bench.package.entries[2].library = library("other_q0f32", 16);
    bench.write().unwrap();
    assert_eq!(contents(&bench.dist()), before);
}

#[test]
fn what_is_no_longer_named_goes_and_what_is_foreign_stays() {
    let mut bench = Bench::new(DeviceKind::ANDROID);
    bench.write().unwrap();
    fs::write(bench.dist().join("bundle/two/notes.txt"), "mine").unwrap();
    fs::create_dir_all(bench.dist().join("mine/deep")).unwrap();
    fs::write(bench.dist().join("mine/deep/file"), "mine too").unwrap();
    bench.package.entries.remove(1);
    bench.package.device = DeviceKind::MACABI;
    let report = bench.write().unwrap();
    assert!(paths(&report.removed).contains(&"bundle/two/params_shard_0.bin"));
    assert!(paths(&report.removed).contains(&"lib/x86_64/libmodel_android.so"));
    assert_eq!(report.foreign, ["bundle/two/notes.txt", "mine/deep/file"]);
    let files = contents(&bench.dist());
    assert_eq!(files[Path::new("bundle/two/notes.txt")], b"mine");
    assert_eq!(files[Path::new("mine/deep/file")], b"mine too");
    assert!(!files.contains_key(Path::new("bundle/two/params_shard_0.bin")));
    assert!(!bench.dist().join("lib/x86_64").exists());
    assert_eq!(bench.siblings(), ["dist", "locks", "memory", "models"]);
}

#[test]
fn damage_in_the_package_is_repaired() {
    let bench = Bench::new(DeviceKind::ANDROID);
    bench.write().unwrap();
    let before = contents(&bench.dist());
    let shard = bench.dist().join("bundle/one/params_shard_0.bin");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[77] ^= 1;
    fs::write(&shard, bytes).unwrap();
    fs::remove_file(bench.dist().join("bundle/two/tokenizer.json")).unwrap();
    let report = bench.write().unwrap();
    assert_eq!(paths(&report.written), ["bundle/one/params_shard_0.bin", "bundle/two/tokenizer.json"]);
    assert!(report.written.iter().all(|file| file.reason == Some(WriteReason::Modified)));
    assert_eq!(contents(&bench.dist()), before);
}

#[test]
fn folders_that_are_not_ours_are_refused_untouched() {
    let bench = Bench::new(DeviceKind::ANDROID);
    fs::create_dir(bench.dist()).unwrap();
    fs::write(bench.dist().join("thesis.tex"), "years").unwrap();
    assert!(matches!(bench.write(), Err(BundleError::ForeignOutput { example, .. }) if example == "thesis.tex"));
    assert_eq!(contents(&bench.dist()).len(), 1);
    fs::remove_file(bench.dist().join("thesis.tex")).unwrap();
    fs::create_dir(bench.dist().join("empty")).unwrap();
    assert!(matches!(bench.write(), Err(BundleError::ForeignOutput { example, .. }) if example == "empty"));
    fs::remove_dir(bench.dist().join("empty")).unwrap();
    bench.write().unwrap();
    // Where an output must go, a foreign file is not replaced either.
    let mut bench = bench;
    bench.package.device = DeviceKind::IPHONE;
    fs::write(bench.dist().join("lib/libmodel_iphone.a"), "by hand").unwrap();
    let before = contents(&bench.dist());
    assert!(matches!(bench.write(), Err(BundleError::InTheWay { .. })));
    assert_eq!(contents(&bench.dist()), before);
    fs::write(bench.dist().join(".knapsack/package.json"), "{\"format\": \"knapsack-package\", \"version\": 9}")
        .unwrap();
    let error = bench.write().unwrap_err().to_string();
    assert!(error.contains("version 9"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_foreign_name_that_is_not_unicode_is_not_lost() {
    use std::os::unix::ffi::OsStrExt;
    let mut bench = Bench::new(DeviceKind::ANDROID);
    bench.write().unwrap();
    let foreign = bench.dist().join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    fs::write(&foreign, "mine").unwrap();
    bench.package.device = DeviceKind::IPHONE;
    assert!(matches!(bench.write(), Err(BundleError::Io { .. })));
    assert_eq!(fs::read(&foreign).unwrap(), b"mine");
}

#[test]
fn dangerous_folders_are_refused() {
    let bench = Bench::new(DeviceKind::ANDROID);
    let digests = FileDigests::in_memory();
    let protected = [bench.root.path().join("models")];
    let options = WriteOptions {
        link_mode: LinkMode::Copy,
        protected: &protected,
        digests: &digests,
        locks: None,
        sync: true,
        progress: &|_| ControlFlow::Continue(()),
    };
    let root = bench.root.path();
    let home = std::env::home_dir().unwrap();
    for bad in
        [Path::new("/"), root, &root.join("models"), &root.join("models/one/"), &home, &root.join("none/../dist")]
    {
        let result = write(&bench.package, bad, &options);
        assert!(matches!(result, Err(BundleError::DangerousOutput { .. })), "{}: {result:?}", bad.display());
    }
    fs::write(root.join("file"), "").unwrap();
    assert!(matches!(write(&bench.package, &root.join("file/x"), &options), Err(BundleError::DangerousOutput { .. })));
    assert!(write(&bench.package, &root.join("new/deep/dist"), &options).is_ok());
}

/// A panic in the progress function stands for a kill: nothing is cleaned up. The old package is untouched at every step, and
/// the next run clears what was left.
#[test]
fn a_run_that_is_killed_at_any_step_leaves_the_old_package() {
    let mut bench = Bench::new(DeviceKind::IPHONE);
    bench.write().unwrap();
    let before = contents(&bench.dist());
    for entry in &mut bench.package.entries {
        entry.library = library(entry.library.name(), 64);
    }
    let steps = AtomicUsize::new(0);
    for kill_at in 0.. {
        steps.store(0, Ordering::Relaxed);
        let killed = std::panic::catch_unwind(|| {
            bench.write_with(LinkMode::default(), &|_| {
                if steps.fetch_add(1, Ordering::Relaxed) == kill_at {
                    std::panic::resume_unwind(Box::new("killed"));
                }
                ControlFlow::Continue(())
            })
        });
        if let Ok(done) = killed {
            assert!(kill_at >= 8, "only {kill_at} steps");
            done.unwrap();
            break;
        }
        assert_eq!(contents(&bench.dist()), before, "step {kill_at}");
    }
    assert_ne!(contents(&bench.dist()), before);
    assert_eq!(bench.siblings(), ["dist", "locks", "memory", "models"]);
    assert!(bench.write().unwrap().is_fresh());
}

#[test]
fn an_interruption_cleans_up_after_itself() {
    let bench = Bench::new(DeviceKind::ANDROID);
    let stop = bench.write_with(LinkMode::default(), &|progress| match progress {
        BundleStep::Writing { path, .. } if path.starts_with("bundle/two") => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stop, Err(BundleError::Interrupted)));
    assert_eq!(bench.siblings(), ["locks", "memory", "models"]);
}

/// Where names cannot be exchanged, a kill between the two renames leaves no package but the one set aside.
#[test]
fn a_half_done_swap_is_undone() {
    let bench = Bench::new(DeviceKind::ANDROID);
    bench.write().unwrap();
    let before = contents(&bench.dist());
    knapsack_artifact::files::rename(bench.dist(), bench.root.path().join(".dist.old")).unwrap();
    fs::create_dir_all(bench.root.path().join(".dist.tmp-1/.knapsack")).unwrap();
    fs::write(bench.root.path().join(".dist.tmp-1/.knapsack/package.json"), "{\"form").unwrap();
    // Not ours: a folder of a name that only looks so.
    fs::create_dir(bench.root.path().join(".dist.tmp-x")).unwrap();
    assert!(bench.write().unwrap().is_fresh());
    assert_eq!(contents(&bench.dist()), before);
    assert_eq!(bench.siblings(), [".dist.tmp-x", "dist", "locks", "memory", "models"]);
}

#[test]
fn where_names_are_exchanged_in_turn_a_kill_leaves_the_old_package_or_the_new_one() {
    let mut seen = Vec::new();
    for kill_after in 1..=4 {
        let mut bench = Bench::new(DeviceKind::ANDROID);
        bench.write().unwrap();
        fs::write(bench.dist().join("mine.txt"), "mine").unwrap();
        let old = contents(&bench.dist());
        bench.package.entries[2].library = library("other_q0f32", 32);
        crate::files::in_turn::KILL_AFTER.set(Some(kill_after));
        let killed = std::panic::catch_unwind(|| bench.write());
        crate::files::in_turn::KILL_AFTER.set(None);
        assert_eq!(killed.is_err(), kill_after < 4);
        // The next run's first step, which changes nothing in a package.
        let digests = FileDigests::in_memory();
        let options = WriteOptions {
            link_mode: LinkMode::default(),
            protected: &[],
            digests: &digests,
            locks: None,
            sync: false,
            progress: &|_| ControlFlow::Continue(()),
        };
        drop(guard::prepare(&bench.package, &bench.dist(), &options).unwrap());
        assert_eq!(bench.siblings(), ["dist", "locks", "memory", "models"], "{kill_after}");
        let found = contents(&bench.dist());
        seen.push(found == old);
        bench.write().unwrap();
        let new = contents(&bench.dist());
        assert!(found == old || found == new, "killed after {kill_after} renamings");
        assert!(new != old && new[Path::new("mine.txt")] == b"mine");
    }
    assert_eq!(seen, [true, false, false, false], "after the second renaming it is the new one");
}

#[test]
fn what_the_cache_holds_is_read_only_and_what_a_package_holds_is_not() {
    let root = tempfile::tempdir().unwrap();
    let cache = crate::Cache::at(root.path().join("cache"));
    let inputs = crate::cache::Inputs::new("tiny");
    let make = |folder: &Path| -> Result<(), crate::CacheError> {
        fs::write(folder.join("weights.bin"), "weights").unwrap();
        Ok(())
    };
    let (entry, _) = cache.get_or_make(crate::cache::Bucket::Converted, &inputs, make).unwrap();
    let weights = entry.content().join("weights.bin");
    assert!(fs::metadata(&weights).unwrap().permissions().readonly());
    for (mode, name) in [(LinkMode::Reflink, "a"), (LinkMode::Copy, "b")] {
        let copy = root.path().join(name);
        crate::files::place(&weights, &copy, mode).unwrap();
        assert!(!fs::metadata(&copy).unwrap().permissions().readonly());
    }
    drop(entry);
    assert_eq!(cache.clean().unwrap().entries, 1, "it goes all the same");
}

#[test]
fn weights_that_are_not_what_their_index_says_are_refused() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("MD5", |folder| {
            let path = folder.join("params_shard_0.bin");
            let mut bytes = fs::read(&path).unwrap();
            bytes[5] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("bytes, but the index says", |folder| {
            fs::write(folder.join("params_shard_0.bin"), [0; 7]).unwrap();
        }),
        ("cannot read", |folder| fs::remove_file(folder.join("params_shard_0.bin")).unwrap()),
        ("tokenizer.json", |folder| fs::remove_file(folder.join("tokenizer.json")).unwrap()),
        ("needs float32 [128, 64]", |folder| {
            let path = folder.join("tensor-cache.json");
            let text = fs::read_to_string(&path).unwrap().replace("[128,64]", "[64,128]");
            fs::write(path, text).unwrap();
        }),
        ("`embed`", |folder| {
            let path = folder.join("tensor-cache.json");
            let text = fs::read_to_string(&path).unwrap().replace("embed", "other");
            fs::write(path, text).unwrap();
        }),
    ];
    for (expected, damage) in damages {
        let bench = Bench::new(DeviceKind::ANDROID);
        damage(&bench.root.path().join("models/two"));
        let error = bench.write().unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!bench.dist().exists());
    }
}

#[test]
fn entries_that_contradict_each_other_are_refused() {
    let mut bench = Bench::new(DeviceKind::ANDROID);
    bench.package.entries[1].library = library("llama_q0f32", 9);
    let error = bench.write().unwrap_err();
    assert!(matches!(&error, BundleError::LibraryClash { first, second, .. } if first == "one" && second == "two"));
    for bad in ["ONE", "..", "a/b", "con"] {
        let mut bench = Bench::new(DeviceKind::ANDROID);
        bench.package.entries[1].model_id = bad.into();
        assert!(matches!(bench.write(), Err(BundleError::SamePath { .. } | BundleError::Name { .. })), "{bad}");
    }
}

#[cfg(unix)]
#[test]
fn links_are_what_the_mode_says() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new(DeviceKind::ANDROID);
    let go_on = &|_: BundleStep<'_>| ControlFlow::Continue(());
    let shard = bench.dist().join("bundle/one/params_shard_0.bin");
    let links = || fs::symlink_metadata(&shard).unwrap().nlink();
    // Sources as in the Hugging Face cache: symbolic links to read-only files.
    let source = bench.root.path().join("models/one/params_shard_0.bin");
    let real = bench.root.path().join("models/blob");
    knapsack_artifact::files::rename(&source, &real).unwrap();
    fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    std::os::unix::fs::symlink(&real, &source).unwrap();

    bench.write_with(LinkMode::Hardlink, go_on).unwrap();
    assert_eq!(links(), 2);
    let with_links = contents(&bench.dist());
    assert!(bench.write_with(LinkMode::Hardlink, go_on).unwrap().is_fresh());
    let report = bench.write_with(LinkMode::Copy, go_on).unwrap();
    assert_eq!(report.written[0].reason, Some(WriteReason::LinkMode));
    assert_eq!(links(), 1);
    assert_eq!(fs::metadata(&shard).unwrap().mode() & 0o777, 0o644);
    assert_eq!(contents(&bench.dist()), with_links);
    assert!(bench.write_with(LinkMode::Reflink, go_on).unwrap().is_fresh());
    assert!(!bench.write_with(LinkMode::Hardlink, go_on).unwrap().is_fresh());
    assert_eq!(links(), 2);
}

#[cfg(unix)]
#[test]
fn a_bundle_and_the_swift_package_share_their_room() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new(DeviceKind::IPHONE);
    let go_on = &|_: BundleStep<'_>| ControlFlow::Continue(());
    let file = |path: &str| fs::symlink_metadata(bench.dist().join(path)).unwrap();
    let (first, second) =
        ("bundle/one/params_shard_0.bin", "KnapsackModels/Sources/KnapsackModels/bundle/one/params_shard_0.bin");
    let room = || {
        let files = [file(first), file(second)];
        let shared = files[0].ino() == files[1].ino();
        assert_eq!(files.map(|file| file.nlink()), [1 + u64::from(shared); 2]);
        shared
    };
    let reflinks = {
        let (a, b) = (bench.root.path().join("a"), bench.root.path().join("b"));
        fs::write(&a, "blocks").unwrap();
        let shares = reflink_copy::reflink(&a, &b).is_ok();
        for path in [a, b] {
            let _ = fs::remove_file(path);
        }
        shares
    };

    let report = bench.write().unwrap();
    assert_eq!(room(), !reflinks);
    let sum = |shared| report.written.iter().filter(|file| file.shared == shared).map(|file| file.bytes).sum::<u64>();
    assert!(sum(true) > 0);
    assert_eq!(report.total_bytes(), sum(false));
    assert!(bench.write().unwrap().is_fresh());

    // A change shows under both names, and both are mended.
    let with_both = contents(&bench.dist());
    fs::write(bench.dist().join(second), "by hand").unwrap();
    let report = bench.write().unwrap();
    assert!(report.written.iter().all(|file| file.reason == Some(WriteReason::Modified)), "{report:?}");
    assert_eq!((room(), contents(&bench.dist())), (!reflinks, with_both));

    // Half of a pair is enough to make the other.
    fs::remove_file(bench.dist().join(second)).unwrap();
    assert_eq!(bench.write().unwrap().written.len(), 1);
    assert_eq!(room(), !reflinks);

    let report = bench.write_with(LinkMode::Copy, go_on).unwrap();
    assert_eq!((room(), report.total_bytes()), (false, sum(false) + sum(true)));
    assert!(bench.write().unwrap().is_fresh());
}

#[test]
fn packages_from_different_folders_are_identical() {
    let (a, b) = (Bench::new(DeviceKind::IPHONE), Bench::new(DeviceKind::IPHONE));
    a.write().unwrap();
    b.write_with(LinkMode::Copy, &|_| ControlFlow::Continue(())).unwrap();
    assert_eq!(contents(&a.dist()), contents(&b.dist()));
}

#[test]
fn gradle_finds_libraries_and_assets_in_one_archive() {
    let bench = Bench::new(DeviceKind::ANDROID);
    bench.write().unwrap();
    let (files, dist) = (aar(&bench), contents(&bench.dist()));
    for (name, bytes) in &files {
        let inside = |from: &str, to: &str| name.strip_prefix(to).map(|rest| format!("{from}{rest}"));
        if let Some(path) = inside("lib/", "jni/").or_else(|| inside("bundle/", "assets/knapsack/")) {
            assert_eq!(bytes, &dist[Path::new(&path)], "{name}");
        }
    }
    let inside = dist.keys().filter(|path| path.starts_with("lib") || path.starts_with("bundle")).count();
    let own = [
        "AndroidManifest.xml",
        "META-INF/com/android/build/gradle/aar-metadata.properties",
        "R.txt",
        "classes.jar",
        "proguard.txt",
    ];
    assert_eq!(files.len(), inside + own.len());
    assert!(own.iter().all(|name| files.contains_key(*name)));
    let manifest = String::from_utf8_lossy(&files["AndroidManifest.xml"]).into_owned();
    for driver in ["libOpenCL.so", "libOpenCL-pixel.so", "libOpenCL-car.so"] {
        assert!(
            manifest.contains(&format!("<uses-native-library android:name=\"{driver}\" android:required=\"false\" />"))
        );
    }
    assert!(String::from_utf8_lossy(&files["proguard.txt"]).contains("-keep"));
    let pom = String::from_utf8_lossy(&dist[Path::new(&maven("models", "pom"))]).into_owned();
    assert!(pom.contains("<packaging>aar</packaging>") && pom.contains("<artifactId>runtime</artifactId>"), "{pom}");
}

/// An app opens the folder where it was pushed to, as MLC's apps do.
#[test]
fn a_bundle_that_no_archive_holds_stays_beside_the_library() {
    let mut bench = Bench::new(DeviceKind::ANDROID);
    assert!(!bench.write().unwrap().bundle_apart);
    let whole = aar(&bench);
    bench.package.archive_bytes = fs::metadata(bench.dist().join(maven("models", "aar"))).unwrap().len() - 1;
    let written = bench.write().unwrap();
    assert!(written.bundle_apart);
    assert_eq!(paths(&written.written), [maven("models", "aar")]);
    let alone = aar(&bench);
    let of_bundle = |name: &&String| name.starts_with("assets/");
    assert_eq!(alone.keys().filter(of_bundle).count(), 0);
    assert_eq!(alone.len(), whole.len() - whole.keys().filter(of_bundle).count());
    let again = bench.write().unwrap();
    assert!(again.bundle_apart && again.is_fresh());
}

/// The archive of an unchanged package is not even read from its members again; a damaged one is made anew.
#[test]
fn an_archive_is_made_again_only_where_its_members_change() {
    let mut bench = Bench::new(DeviceKind::ANDROID);
    bench.write().unwrap();
    let path = bench.dist().join(maven("models", "aar"));
    let before = fs::read(&path).unwrap();
    // It was hashed while it was written.
    let recorded = || record::Record::read(&bench.dist()).unwrap().unwrap().files;
    let first = recorded();
    for (path, file) in &first {
        assert_eq!(file.sha256, crate::digest::sha256(&fs::read(bench.dist().join(path)).unwrap()), "{path}");
    }
    assert!(bench.write().unwrap().is_fresh());
    fs::write(&path, "damaged").unwrap();
    assert_eq!(paths(&bench.write().unwrap().written), [maven("models", "aar")]);
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(recorded() == first && bench.write().unwrap().is_fresh());
    bench.package.app.insert("theme".into(), "dark".into());
    let written = bench.write().unwrap();
    assert_eq!(paths(&written.written), ["bundle/mlc-app-config.json".to_owned(), maven("models", "aar")]);
    assert_ne!(fs::read(&path).unwrap(), before);
}

#[test]
fn the_runtime_of_a_repository_comes_along() {
    let mut bench = Bench::new(DeviceKind::ANDROID);
    let repository = bench.root.path().join("memory/sdk");
    bench.package.runtime = Runtime::Maven(repository.clone());
    let missing = bench.write().unwrap_err();
    assert!(matches!(&missing, BundleError::Io { path, .. } if path.starts_with(&repository)), "{missing}");
    let folder = repository.join(RUNTIME.folder());
    fs::create_dir_all(&folder).unwrap();
    for extension in ["aar", "pom"] {
        fs::write(folder.join(RUNTIME.file(extension)), extension).unwrap();
    }
    bench.write().unwrap();
    assert_eq!(fs::read(bench.dist().join(maven("runtime", "aar"))).unwrap(), b"aar");
    assert_eq!(fs::read(bench.dist().join(maven("runtime", "pom"))).unwrap(), b"pom");
}

#[test]
fn xcode_finds_a_swift_package() {
    let bench = Bench::new(DeviceKind::IPHONE);
    bench.write().unwrap();
    let dist = contents(&bench.dist());
    let names = |folder: &str| {
        let under = dist.iter().filter_map(|(path, bytes)| Some((path.strip_prefix(folder).ok()?.to_owned(), bytes)));
        under.collect::<BTreeMap<_, _>>()
    };
    // The same files in both places, and four that are its own.
    let framework = names("lib/KnapsackModels.xcframework");
    assert_eq!(names("KnapsackModels/KnapsackModels.xcframework"), framework);
    assert_eq!(names("KnapsackModels/Sources/KnapsackModels/bundle"), names("bundle"));
    let own: Vec<_> = names("KnapsackModels")
        .into_keys()
        .filter(|path| {
            !path.starts_with("KnapsackModels.xcframework") && !path.starts_with("Sources/KnapsackModels/bundle")
        })
        .collect();
    let expected = [
        "Package.swift",
        "Sources/CKnapsackModels/include/CKnapsackModels.h",
        "Sources/CKnapsackModels/table.c",
        "Sources/KnapsackModels/KnapsackModels.swift",
    ];
    assert_eq!(own, expected.map(PathBuf::from));
    let info = plist::Value::from_reader_xml(&**framework[Path::new("Info.plist")]).unwrap();
    for library in info.as_dictionary().unwrap()["AvailableLibraries"].as_array().unwrap() {
        let text = |key: &str| library.as_dictionary().unwrap()[key].as_string().unwrap().to_owned();
        assert!(framework.contains_key(&Path::new(&text("LibraryIdentifier")).join(text("LibraryPath"))));
    }
}

#[test]
fn packs_lie_beside_the_app() {
    for (device, delivery) in
        [(DeviceKind::ANDROID, Delivery::PlayFastFollow), (DeviceKind::IPHONE, Delivery::AppleOnDemand)]
    {
        let mut bench = Bench::new(device);
        let folder = bench.root.path().join("models/one");
        bench.package.entries[0].weights = WeightSupply::Packed { folder, delivery };
        bench.package.pack_bytes = 60_000;
        bench.write().unwrap();
        let dist = contents(&bench.dist());
        let config = AppConfig::read(&bench.dist().join("bundle/mlc-app-config.json")).unwrap();
        let one = config.model("one").unwrap();
        let WeightsLocation::Packs(packs) = &one.weights else { panic!("{:?}", one.weights) };
        assert_eq!((packs.delivery, packs.folder.as_str()), (delivery, "knapsack/one"));
        assert!(!dist.keys().any(|path| path.starts_with("bundle/one")));
        let inside = match device {
            DeviceKind::ANDROID => "src/main/assets/knapsack/one",
            _ => "knapsack/one",
        };
        let store = bench.dist().join("asset-packs").join(delivery.store().unwrap().folder());
        for file in &one.files {
            let places: Vec<_> =
                packs.names.iter().map(|pack| store.join(pack).join(inside).join(&file.path)).collect();
            let found: Vec<_> = places.iter().filter(|path| path.is_file()).collect();
            assert_eq!(found.len(), 1, "{}", file.path);
            assert_eq!(crate::digest::sha256(&fs::read(found[0]).unwrap()), file.sha256);
        }
        let first = store.join(&packs.names[0]);
        if device == DeviceKind::ANDROID {
            let gradle = fs::read_to_string(first.join("build.gradle.kts")).unwrap();
            assert!(gradle.contains("deliveryType.set(\"fast-follow\")") && gradle.contains("packName.set(\"one\")"));
            let settings = fs::read_to_string(store.join("packs.settings.gradle.kts")).unwrap();
            assert!(settings.contains("include(\":one\")") && settings.contains("assetPacks += listOf(\":one\""));
            assert!(!aar(&bench).keys().any(|name| name.contains("/one/")));
        } else {
            let manifest: serde_json::Value =
                serde_json::from_slice(&fs::read(first.join("Manifest.json")).unwrap()).unwrap();
            assert_eq!(manifest["assetPackID"], "one");
            assert_eq!(manifest["downloadPolicy"], serde_json::json!({ "onDemand": {} }));
        }
    }
}
