//! Models that a package leaves to be downloaded, through the real binary against a hub on loopback: `run`, `chat`, `bench` and
//! `serve` fetch them at their first use.

mod support;

use knapsack_testkit::hub::{Access, Fault, Host, HubRepository, HubServer};
use knapsack_testkit::tiny_assistant;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{SUM, SUM_ANSWER, Sandbox, fail, succeed};

const MODEL: &str = "tiny";
const NAME: &str = "org/tiny";
const SHARD: &str = "params_shard_0.bin";

struct World {
    sandbox: Sandbox,
    hub: HubServer,
    dist: PathBuf,
}

impl World {
    /// A package whose only model is on the hub. Packaging leaves nothing behind that running could use.
    fn new(access: Access) -> Self {
        let (sandbox, hub) = (Sandbox::new(), HubServer::start());
        let converted = sandbox.path("converted");
        let mut convert = sandbox.knapsack();
        convert.arg("convert").arg(tiny_assistant()).args(["--quantization", "q4f16_1", "-q", "-o"]).arg(&converted);
        succeed(&mut convert);
        hub.push(NAME, HubRepository::of_folder(&converted).access(access));
        let manifest = json!({
            "device": "android",
            "model_list": [{ "model": format!("HF://{NAME}"), "model_id": MODEL, "bundle_weight": false }]
        });
        let dist = sandbox.package(&manifest, |command| {
            command.env("HF_ENDPOINT", hub.url()).env("HF_HOME", sandbox.path("hf")).env("HF_TOKEN", "hf_right");
        });
        // Not removed: its files are read-only, which some Windows file systems keep.
        for folder in ["cache", "hf"] {
            knapsack_artifact::files::rename(sandbox.path(folder), sandbox.path(&format!("{folder} of the packager")))
                .unwrap();
        }
        hub.take_log();
        World { sandbox, hub, dist }
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = self.sandbox.knapsack();
        command.env("HF_ENDPOINT", self.hub.url()).arg(verb).arg(&self.dist);
        command
    }

    fn run(&self) -> Command {
        let mut command = self.command("run");
        command.args(["--prompt", SUM]);
        command
    }

    /// Where the default folder has the model.
    fn downloaded(&self) -> PathBuf {
        self.sandbox.path("cache/downloads-v1").join(MODEL)
    }
}

#[test]
fn run_downloads_once_and_then_needs_no_network() {
    let world = World::new(Access::Public);
    let output = world.run().output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{SUM_ANSWER}\n"));
    assert!(told.contains("Downloading tiny, ") && told.contains("Downloaded tiny in "), "{told}");
    let log = world.hub.take_log();
    assert_eq!(log.iter().filter(|request| request.host == Host::Storage).count(), 1, "{log:?}");
    assert!(log.iter().all(|request| request.authorization.is_none()));
    assert!(world.downloaded().join(SHARD).is_file());

    let again = world.run().env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!((again.stdout.as_slice(), again.status.code()), (format!("{SUM_ANSWER}\n").as_bytes(), Some(0)));
    assert!(!String::from_utf8(again.stderr).unwrap().contains("Download"));
    let mut bench = world.command("bench");
    bench.args(["--json", "--prefill-tokens", "16", "--decode-tokens", "4", "--repeat", "1"]);
    let figures: Value = serde_json::from_str(&succeed(&mut bench)).unwrap();
    assert_eq!(figures["model"], MODEL);
    assert_eq!(world.hub.take_log(), []);
}

#[test]
fn chat_and_serve_download_into_the_folder_that_they_are_given() {
    let world = World::new(Access::Public);
    let folder = world.sandbox.path("models of the app");
    let mut chat = world.command("chat");
    chat.args(["-q", "--temperature", "0", "--downloads"]).arg(&folder);
    chat.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = chat.spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{SUM}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{SUM_ANSWER}\n"));
    assert!(folder.join(MODEL).join(SHARD).is_file() && !world.downloaded().exists());
    world.hub.take_log();

    // The same folder: nothing to fetch. Another one: fetched at the first request, once for all that come together.
    for (folder, fetched) in [(folder, 0), (world.sandbox.path("other"), 1)] {
        let server = world.sandbox.serve(&world.dist, |command| {
            command.env("HF_ENDPOINT", world.hub.url()).arg("--downloads").arg(&folder);
        });
        std::thread::scope(|scope| {
            (0..3).for_each(|_| drop(scope.spawn(|| assert_eq!(server.ask(MODEL, SUM, 64), SUM_ANSWER))));
        });
        let log = world.hub.take_log();
        assert_eq!(log.iter().filter(|request| request.host == Host::Storage).count(), fetched, "{log:?}");
        assert_eq!(server.log().contains("Downloading tiny: "), fetched == 1, "{}", server.log());
    }
}

#[test]
fn a_model_that_does_not_fit_is_not_downloaded() {
    let world = World::new(Access::Public);
    let server = world.sandbox.serve(&world.dist, |command| {
        command.env("HF_ENDPOINT", world.hub.url()).args(["--budget", "1000000"]);
    });
    assert_eq!(server.post(&support::question(MODEL, SUM, 5)).refusal(), (400, "over_budget".to_owned()));
    assert_eq!(world.hub.take_log(), []);
}

#[test]
fn interruptions_and_bad_bytes_are_mended_and_limits_waited_for() {
    let world = World::new(Access::Public);
    world.hub.fault("storage", Fault::CutAfter(500_000), 1);
    world.hub.fault("storage", Fault::TooManyRequests(Some("1".to_owned())), 1);
    world.hub.fault("storage", Fault::Status(500), 1);
    world.hub.fault("tokenizer.json", Fault::WrongBytes, 1);
    let start = std::time::Instant::now();
    assert_eq!(succeed(&mut world.run()), format!("{SUM_ANSWER}\n"));
    assert!(start.elapsed().as_secs_f64() >= 1.0, "Retry-After is honoured");
    let log = world.hub.take_log();
    assert!(log.iter().any(|request| request.host == Host::Storage && request.range == Some(500_000)), "{log:?}");
}

#[test]
fn failures_say_what_to_do_and_leave_no_half_model() {
    let world = World::new(Access::Gated("hf_right".to_owned()));
    let refused = |command: &mut Command| {
        let (code, error) = fail(command);
        assert_eq!(code, 1, "{error}");
        assert!(!world.downloaded().exists());
        error
    };
    let offline = refused(world.run().env("HF_HUB_OFFLINE", "1"));
    assert!(offline.contains("tiny is not in the package") && offline.contains("this run is offline"), "{offline}");
    let gated = refused(&mut world.run());
    assert!(gated.contains("it is gated") && gated.contains("HF_TOKEN"), "{gated}");
    let wrong = refused(world.run().env("HF_TOKEN", "hf_wrong"));
    assert!(wrong.contains("ask for access") && !wrong.contains("hf_wrong"), "{wrong}");
    world.hub.fault("storage", Fault::WrongBytes, 99);
    let damaged = refused(world.run().env("HF_TOKEN", "hf_right"));
    assert!(damaged.contains("is not the file that was packaged"), "{damaged}");
    world.hub.clear_faults();
    let unknown = fail(world.run().args(["--model", "absent"]));
    assert!(unknown.0 == 2 && unknown.1.contains("no model `absent`"), "{}", unknown.1);

    world.hub.take_log();
    assert_eq!(succeed(world.run().env("HF_TOKEN", "hf_right")), format!("{SUM_ANSWER}\n"));
    for request in world.hub.take_log() {
        let expected = (request.host == Host::Hub).then_some("Bearer hf_right");
        assert_eq!(request.authorization.as_deref(), expected, "{request:?}");
    }
    assert!(Path::new(&world.downloaded()).join(SHARD).is_file());
}
