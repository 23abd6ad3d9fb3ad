//! What differs from desk to desk, Windows' above all: how long paths may be and what stands in them, line ends, who else has a file
//! open and who else is packaging.

mod support;

use knapsack_testkit::hub::{HubRepository, HubServer};
use knapsack_testkit::tiny_assistant;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::{SUM, SUM_ANSWER, Sandbox, succeed};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Every file below a folder with its content.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
            }
        }
    }
    found
}

fn manifest(sandbox: &Sandbox, context: u32) {
    let entry = json!({
        "model": tiny_assistant(), "model_id": "tiny", "bundle_weight": true, "overrides": { "context_window_size": context }
    });
    sandbox.write("mlc-package-config.json", &json!({ "device": "android", "model_list": [entry] }).to_string());
}

fn answers(sandbox: &Sandbox, dist: &Path) -> bool {
    let mut run = sandbox.knapsack();
    succeed(run.arg("run").arg(dist).args(["--prompt", SUM])) == format!("{SUM_ANSWER}\n")
}

/// 260 characters are where Windows' older interfaces end; the signs are those that shells and addresses treat specially.
#[test]
fn long_and_odd_paths() {
    let sandbox = Sandbox::new();
    let odd = sandbox.path("Bücher & co (100%) #1 'x' {y}; z");
    let deep = |length: usize| odd.join("d".repeat(length)).join("e".repeat(length));
    let mut folder = deep(130);
    fs::create_dir_all(&folder).unwrap();
    if cfg!(windows) && folder.canonicalize().is_err() {
        // Wine resolves no path of more than 260 characters before version 9.
        folder = deep(10);
    }
    copy(&tiny_assistant(), &folder.join("my model"));
    let file = folder.join("mlc-package-config.json");
    let entry = json!({ "model": "./my model", "model_id": "tiny", "bundle_weight": true });
    fs::write(&file, json!({ "device": "iphone", "model_list": [entry] }).to_string()).unwrap();
    let dist = folder.join("dist");
    let mut package = sandbox.knapsack();
    package.arg("package").arg("-c").arg(&file).arg("-o").arg(&dist).env("KNAPSACK_CACHE", folder.join("cache"));
    succeed(&mut package);
    assert!(answers(&sandbox, &dist));
    assert!(succeed(sandbox.knapsack().arg("inspect").arg(&dist)).contains("tiny"));
}

/// Git checks files out with the line ends of the system.
#[test]
fn a_lockfile_with_the_line_ends_of_windows_is_the_same_lockfile() {
    let (sandbox, hub) = (Sandbox::new(), HubServer::start());
    let converted = sandbox.path("converted");
    let mut convert = sandbox.knapsack();
    convert.arg("convert").arg(tiny_assistant()).args(["--quantization", "q4f16_1", "-q", "-o"]).arg(&converted);
    succeed(&mut convert);
    hub.push("org/tiny", HubRepository::of_folder(&converted));
    let entry = json!({ "model": "HF://org/tiny", "model_id": "tiny", "bundle_weight": true });
    let package = |extra: &[&str]| {
        let mut command = sandbox.knapsack();
        command.env("HF_ENDPOINT", hub.url()).env("HF_HOME", sandbox.path("hf")).arg("package").args(extra);
        support::outcome(&mut command)
    };
    let manifest = format!("{:#}\n", json!({ "device": "android", "model_list": [entry] }));
    sandbox.write("mlc-package-config.json", &manifest.replace('\n', "\r\n"));
    package(&[]).expect(0);
    let lock = sandbox.read("knapsack.lock");
    assert!(lock.contains("org/tiny") && !lock.contains('\r'));
    let windows = lock.replace('\n', "\r\n");
    sandbox.write("knapsack.lock", &windows);
    package(&["--frozen"]).expect(0);
    package(&["--locked", "-o", "other"]).expect(0);
    package(&[]).expect(0);
    assert_eq!(sandbox.read("knapsack.lock"), windows, "nothing changed, so nothing is written");
    assert!(answers(&sandbox, &sandbox.path("dist")));
}

/// A package is exchanged as a whole while an app, an editor or a virus scanner has one of its files open. Windows may refuse that:
/// then the old package is what is there, and the next run exchanges it.
#[test]
fn a_package_is_exchanged_while_a_file_of_it_is_open() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, 512);
    succeed(sandbox.knapsack().arg("package"));
    let dist = sandbox.path("dist");
    let before = contents(&dist);
    for file in ["bundle/mlc-app-config.json", "bundle/tiny/params_shard_0.bin"] {
        let mut held = File::open(dist.join(file)).unwrap();
        manifest(&sandbox, 256);
        let changed = sandbox.run(&["package"]);
        if changed.code != 0 {
            assert!(cfg!(windows) && changed.stderr.contains("dist"), "{}", changed.stderr);
            assert!(contents(&dist) == before, "neither the old package nor the new one");
        }
        let mut bytes = Vec::new();
        held.read_to_end(&mut bytes).unwrap();
        assert!(bytes == before[&dist.join(file)], "{file} changed under its reader");
        drop(held);
        succeed(sandbox.knapsack().arg("package"));
        assert!(contents(&dist) != before);
        assert!(answers(&sandbox, &dist));
        manifest(&sandbox, 512);
        succeed(sandbox.knapsack().arg("package"));
        assert!(contents(&dist) == before);
    }
}

/// A virus scanner opens what was just written, and shares it with nobody. Windows refuses then what is fine a moment later.
#[cfg(windows)]
#[test]
fn who_holds_a_file_for_a_moment_is_waited_for() {
    use std::os::windows::fs::OpenOptionsExt;
    use std::time::Duration;
    let sandbox = Sandbox::new();
    let (fresh, place) = (sandbox.path("fresh"), sandbox.path("place"));
    let hold = |path: &Path| File::options().read(true).share_mode(0).open(path).unwrap();
    let write = || [&fresh, &place].map(|path| fs::write(path, path.as_os_str().len().to_string()).unwrap());
    for held in [&fresh, &place] {
        write();
        let file = hold(held);
        #[expect(clippy::disallowed_methods, reason = "to see that it is refused")]
        let refused = fs::rename(&fresh, &place);
        assert!(refused.is_err(), "{held:?} is not held");
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(400));
            drop(file);
        });
        knapsack_artifact::files::rename(&fresh, &place).unwrap();
        holder.join().unwrap();
        assert!(!fresh.exists() && place.exists());
    }
    // Not for ever.
    write();
    let held = hold(&place);
    assert!(knapsack_artifact::files::rename(&fresh, &place).is_err());
    drop(held);
}

/// Four runs of the same, into one folder and with one cache.
#[test]
fn who_packages_at_the_same_time_waits() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, 512);
    let start = |_| {
        let mut command = sandbox.knapsack();
        command.args(["package", "-v"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs: Vec<_> = (0..4).map(start).collect();
    let mut conversions = 0;
    for run in runs {
        let output = run.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        conversions += told.matches("Converting ").count();
    }
    assert_eq!(conversions, 1, "the others waited for it");
    assert!(answers(&sandbox, &sandbox.path("dist")));
    // What was beside the package while it was made is gone.
    assert_eq!(sandbox.names().into_iter().filter(|name| name.contains("dist")).collect::<Vec<_>>(), ["dist"]);
}
