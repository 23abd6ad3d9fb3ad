//! Manifests with `HF://` models through the real program: against a hub on loopback, then offline, then on another checkout
//! that has nothing but the lockfile and the cache.

mod support;

use knapsack_testkit::hub::{Host, HubRepository, HubServer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use support::{Outcome, Sandbox, outcome};

const QWEN: &str = "mlc-ai/Qwen3-0.6B-q4f16_1-MLC";
const LLAMA: &str = "mlc-ai/Llama-3.2-1B-Instruct-q4f16_1-MLC";
const MANIFEST: &str = "mlc-package-config.json";

/// A hub with tiny models under the names of the example's, and checkouts of the example.
struct World {
    sandbox: Sandbox,
    hub: HubServer,
}

impl World {
    /// The example is in the checkout `one`.
    fn new() -> Self {
        let (sandbox, hub) = (Sandbox::new(), HubServer::start());
        hub.push(QWEN, HubRepository::of_folder(&knapsack_testkit::mlc_fixture("qwen3", "q4f16_1")));
        hub.push(LLAMA, llama());
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/from-hub").join(MANIFEST);
        fs::create_dir(sandbox.path("one")).unwrap();
        fs::copy(example, sandbox.path("one").join(MANIFEST)).unwrap();
        World { sandbox, hub }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sandbox.path(name)
    }

    fn run(&self, checkout: &str, args: &[&str]) -> Outcome {
        let mut command = self.sandbox.knapsack();
        command.args(args).current_dir(self.path(checkout)).env("HF_ENDPOINT", self.hub.url());
        outcome(command.env("HF_HOME", self.path("huggingface")).env("KNAPSACK_CACHE", self.path("knapsack")))
    }

    fn lock(&self, checkout: &str) -> String {
        fs::read_to_string(self.path(checkout).join("knapsack.lock")).unwrap()
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(path)).unwrap()).unwrap()
    }
}

fn llama() -> HubRepository {
    HubRepository::of_folder(&knapsack_testkit::mlc_fixture("llama", "q4f16_1"))
}

/// Every file below a folder, by its path in it.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(files.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap())),
            }
        }
    }
    files
}

/// Python's library of the CycloneDX project holds it against the standard's own schema.
const VALIDATE: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
problem = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())
sys.exit(str(problem) if problem else 0)
";

#[test]
fn a_bill_of_materials_names_source_licence_and_base() {
    let world = World::new();
    let qwen = HubRepository::of_folder(&knapsack_testkit::mlc_fixture("qwen3", "q4f16_1"));
    world.hub.push(QWEN, qwen.card(json!({"license": "apache-2.0", "base_model": "Qwen/Qwen3-0.6B"})));
    world.hub.push(LLAMA, llama().card(json!({"license": "other", "license_name": "llama3.2", "base_model": ["a/b"]})));
    world.run("one", &["package"]).expect(0);
    let bill = world.json("one/dist/bundle/models.cdx.json");
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
    assert!(bill["metadata"].get("timestamp").is_none(), "{bill}");

    let lock = knapsack_config::Lockfile::parse(&world.lock("one")).unwrap();
    let model = &bill["components"][0];
    let locked = lock.model(model["name"].as_str().unwrap()).unwrap();
    assert_eq!(model["licenses"], json!([{"license": {"id": "Apache-2.0"}}]));
    let source = &model["pedigree"]["ancestors"][0];
    assert_eq!(source["purl"], format!("pkg:huggingface/{QWEN}@{}", locked.commit));
    assert_eq!(source["externalReferences"][0]["url"], format!("https://huggingface.co/{QWEN}/tree/{}", locked.commit));
    assert_eq!(source["pedigree"]["ancestors"][0]["purl"], "pkg:huggingface/Qwen/Qwen3-0.6B");
    let named: BTreeMap<_, _> = source["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| (file["name"].as_str().unwrap(), &file["hashes"][0]["content"]))
        .collect();
    assert!(
        locked.files.iter().all(|file| *named[&*file.path] == file.sha256) && named.len() == locked.files.len(),
        "{named:?}"
    );
    let other = &bill["components"][1];
    assert_eq!(other["licenses"], json!([{"license": {"name": "llama3.2"}}]));

    // What the package holds has the hashes that the bill says.
    for file in model["components"].as_array().unwrap() {
        let path = world.path("one/dist").join(file["name"].as_str().unwrap());
        assert_eq!(file["hashes"][0]["content"], knapsack_source::sha256_file(&path).unwrap());
    }

    // The lockfile carries it: nobody is asked again. A date is told where one is given, and wrong ones are refused.
    world.hub.take_log();
    let path = world.path("one/dist/bundle/models.cdx.json");
    let first = fs::read(&path).unwrap();
    fs::remove_dir_all(world.path("one/dist")).unwrap();
    world.run("one", &["package", "--frozen"]).expect(0);
    assert!(fs::read(&path).unwrap() == first && world.hub.take_log().is_empty());
    let dated = |date: &str| {
        let mut command = world.sandbox.knapsack();
        command.args(["package", "--offline"]).current_dir(world.path("one")).env("SOURCE_DATE_EPOCH", date);
        command.env("HF_ENDPOINT", world.hub.url()).env("HF_HOME", world.path("huggingface"));
        outcome(command.env("KNAPSACK_CACHE", world.path("knapsack")))
    };
    dated("yesterday").expect(2);
    dated("-1").expect(2);
    dated("1767225600").expect(0);
    let bill = world.json("one/dist/bundle/models.cdx.json");
    assert_eq!(bill["metadata"]["timestamp"], "2026-01-01T00:00:00Z");

    let Some(python) = knapsack_testkit::python("cyclonedx.validation.json") else { return };
    let outcome = std::process::Command::new(python).args(["-c", VALIDATE]).arg(&path).output().unwrap();
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
}

#[test]
fn a_package_is_the_same_from_the_hub_offline_and_elsewhere() {
    let world = World::new();
    world.run("one", &["package"]).expect(0);
    let log = world.hub.take_log();
    assert_eq!(
        log.iter().filter(|request| request.host == Host::Storage).count(),
        1,
        "only the bundled shard: {log:?}"
    );
    let (package, lock) = (tree(&world.path("one/dist")), world.lock("one"));
    let fixture = knapsack_testkit::mlc_fixture("qwen3", "q4f16_1").join("params_shard_0.bin");
    let shard = Path::new("bundle/Qwen3-0.6B-q4f16_1-MLC/params_shard_0.bin");
    assert!(package[shard] == fs::read(fixture).unwrap());

    let config = world.json("one/dist/bundle/mlc-app-config.json");
    let model = &config["model_list"][1];
    assert_eq!(model["model_url"], format!("https://huggingface.co/{LLAMA}"));
    let locked = knapsack_config::Lockfile::parse(&lock).unwrap();
    let locked = locked.model("Llama-3.2-1B-Instruct-q4f16_1-MLC").unwrap();
    assert_eq!(model["revision"], locked.commit);
    let listed = model["files"].as_array().unwrap().iter().find(|file| file["path"] == "params_shard_0.bin").unwrap();
    let locked = locked.files.iter().find(|file| file.path == "params_shard_0.bin").unwrap();
    assert_eq!(listed["sha256"], locked.sha256);
    assert_eq!(listed["size"], locked.size);

    world.run("one", &["package", "--offline"]).expect(0);
    assert!(tree(&world.path("one/dist")) == package);

    fs::create_dir(world.path("two")).unwrap();
    for name in [MANIFEST, "knapsack.lock"] {
        fs::copy(world.path("one").join(name), world.path("two").join(name)).unwrap();
    }
    world.run("two", &["package", "--frozen"]).expect(0);
    assert!(tree(&world.path("two/dist")) == package);
    assert_eq!(world.lock("two"), lock);
    assert_eq!(world.hub.take_log(), [], "offline is offline");
}

#[test]
fn the_lockfile_holds_until_it_is_updated() {
    let world = World::new();
    let refused = world.run("one", &["package", "--frozen"]).expect(2).stderr;
    assert!(refused.contains("knapsack.lock is not up to date"), "{refused}");
    assert!(!world.path("one/knapsack.lock").exists() && !world.path("one/dist").exists());
    world.run("one", &["plan"]).expect(0);
    let first = world.lock("one");

    world.hub.push(LLAMA, llama().file("tokenizer_config.json", "{}"));
    world.run("one", &["plan", "--locked"]).expect(0);
    assert_eq!(world.lock("one"), first);
    let near = world.run("one", &["update", "Llama-3.2-1B-Instruct-q4f16_1-MLX"]).expect(2).stderr;
    assert!(near.contains("did you mean Llama-3.2-1B-Instruct-q4f16_1-MLC?"), "{near}");
    world.run("one", &["update", "Qwen3-0.6B-q4f16_1-MLC"]).expect(0);
    assert_eq!(world.lock("one"), first);
    let moved = world.run("one", &["update"]).expect(0).stderr;
    assert!(moved.contains("Moved Llama-3.2-1B-Instruct-q4f16_1-MLC: "), "{moved}");
    let second = world.lock("one");
    let changed = first.lines().zip(second.lines()).filter(|(before, after)| before != after).count();
    assert_eq!((changed, first.lines().count()), (2, second.lines().count()), "the commit and one file:\n{second}");

    let manifest = world.path("one").join(MANIFEST);
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace(&format!("HF://{LLAMA}"), &format!("HF://{LLAMA}@v2"))).unwrap();
    let stale = world.run("one", &["plan", "--locked"]).expect(2).stderr;
    assert!(stale.contains("@v2"), "{stale}");
    assert_eq!(world.lock("one"), second);
}

#[test]
fn the_cache_verbs_cover_downloads() {
    let world = World::new();
    world.run("one", &["package"]).expect(0);
    let listed = world.run("one", &["cache", "list", "--json"]).expect(0).stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let repositories = listed["downloads"]["repositories"].as_array().unwrap();
    assert_eq!(repositories.len(), 2);
    let lockfile = world.path("one/knapsack.lock").canonicalize().unwrap();
    assert!(repositories.iter().all(|found| found["used_by"][0] == *lockfile.to_str().unwrap()), "{listed}");
    assert!(world.run("one", &["cache", "list"]).expect(0).stdout.contains(QWEN));

    world.run("one", &["cache", "verify"]).expect(0);
    let repository = world.path("huggingface/hub").join(format!("models--{}", QWEN.replace('/', "--")));
    let commit = fs::read_dir(repository.join("snapshots")).unwrap().next().unwrap().unwrap().path();
    let blob = commit.join("params_shard_0.bin").canonicalize().unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let damaged = world.run("one", &["cache", "verify"]).expect(1);
    assert!(damaged.stdout.contains(blob.to_str().unwrap()), "{}", damaged.stdout);
    world.hub.take_log();
    world.run("one", &["package"]).expect(0);
    let log = world.hub.take_log();
    assert_eq!(log.iter().filter(|request| request.host == Host::Storage).count(), 1);

    world.run("one", &["cache", "clean", "--downloads"]).expect(0);
    assert!(blob.exists(), "a lockfile names it");
    fs::remove_file(lockfile).unwrap();
    world.run("one", &["cache", "clean", "--downloads"]).expect(0);
    assert!(!blob.exists());
}
