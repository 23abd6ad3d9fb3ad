//! A cache that several machines share, through the real program: what one made the others take, whatever the store does.

mod support;

use knapsack_testkit::hub::{Fault, HubServer};
use knapsack_testkit::{fixture, mlc_fixture};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use support::{Outcome, Sandbox, outcome};

/// A machine of its own: another folder, another cache.
struct Machine {
    sandbox: Sandbox,
    environment: Vec<(&'static str, String)>,
}

impl Machine {
    fn new(environment: &[(&'static str, &str)]) -> Self {
        let sandbox = Sandbox::new();
        let models = json!([
            { "model": fixture("llama"), "model_id": "converted", "bundle_weight": true },
            { "model": mlc_fixture("qwen3", "q4f16_1"), "model_id": "as-is", "bundle_weight": true },
        ]);
        sandbox.write("mlc-package-config.json", &json!({ "device": "android", "model_list": models }).to_string());
        let environment = environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { sandbox, environment }
    }

    fn run(&self, args: &[&str]) -> Outcome {
        outcome(self.sandbox.knapsack().args(args).envs(self.environment.iter().map(|(name, value)| (name, value))))
    }

    /// What was made here: the actions `Compiling` and `Converting`. And the warnings.
    fn package(&self) -> (usize, Vec<String>) {
        let outcome = self.run(&["package", "-v", "--no-sync", "--message-format", "json"]).expect(0);
        let messages = outcome.json_lines();
        let made = messages.iter().filter(|m| m["action"] == "Compiling" || m["action"] == "Converting").count();
        let text = |message: &Value| message["message"].as_str().unwrap_or_default().to_owned();
        let warnings = messages.iter().filter(|m| m["severity"] == "warning" || m["reason"] == "warning").map(text);
        (made, warnings.filter(|text| text.contains("shared cache")).collect())
    }

    fn package_files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (root, mut files, mut folders) = (self.sandbox.path("dist"), Vec::new(), vec![self.sandbox.path("dist")]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push((path.strip_prefix(&root).unwrap().to_owned(), std::fs::read(&path).unwrap())),
                }
            }
        }
        files.sort();
        files
    }
}

#[test]
fn what_one_machine_made_others_take() {
    let hub = HubServer::start();
    let url = hub.store_url();
    let writer = Machine::new(&[("KNAPSACK_CACHE_URL", &url)]);
    assert_eq!(writer.package(), (3, vec![]));
    let taker = Machine::new(&[("KNAPSACK_CACHE_URL", &url), ("KNAPSACK_CACHE_MODE", "read")]);
    assert_eq!(taker.package(), (0, vec![]));
    assert!(taker.package_files() == writer.package_files());
    // What is here is asked of nobody, nor is anybody without the network.
    hub.take_log();
    assert_eq!(taker.package(), (0, vec![]));
    Machine::new(&[("KNAPSACK_CACHE_URL", &url)]).run(&["package", "--offline"]).expect(0);
    assert_eq!(hub.take_log(), []);

    hub.fault("store", Fault::Status(403), 1000);
    let (made, warnings) =
        Machine::new(&[("KNAPSACK_CACHE_URL", &url), ("KNAPSACK_CACHE_TOKEN", "hidden-token")]).package();
    assert!(made == 3 && warnings.len() == 1 && !warnings[0].contains("hidden-token"), "{made} {warnings:?}");
    for wrong in ["nonsense", "https://user:secret@host/"] {
        let outcome = Machine::new(&[("KNAPSACK_CACHE_URL", wrong)]).run(&["package"]).expect(0);
        assert!(outcome.stderr.contains("goes on without the shared cache") && !outcome.stderr.contains("secret"));
        Machine::new(&[("KNAPSACK_CACHE_URL", wrong)]).run(&["cache", "push"]).expect(2);
    }
    Machine::new(&[]).run(&["cache", "list", "--shared"]).expect(2);
}

#[test]
fn entries_are_listed_checked_given_taken_and_removed() {
    let Some(python) = knapsack_testkit::python("moto.server") else { return };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(python);
    command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
    let mut server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let endpoint = format!("http://127.0.0.1:{port}");
    let shared = [
        ("KNAPSACK_CACHE_URL", "s3://team/cache"),
        ("AWS_ENDPOINT_URL", &*endpoint),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-secret"),
    ];
    let result = std::panic::catch_unwind(|| {
        make_bucket(port);
        let alone = Machine::new(&[]);
        assert_eq!(alone.package(), (3, vec![]));
        let giver = Machine { environment: shared.map(|(name, value)| (name, value.to_owned())).into(), ..alone };
        let json =
            |machine: &Machine, args: &[&str]| machine.run(&[&["cache"], args, &["--json"]].concat()).expect(0).json();
        assert_eq!(json(&giver, &["push"]), json!({ "pushed": 3, "already_there": 0 }));
        assert_eq!(json(&giver, &["push"])["already_there"], 3);
        assert_eq!(json(&giver, &["verify", "--shared"]), json!({ "checked": 3, "damaged": [] }));
        let listed = json(&giver, &["list", "--shared"]);
        let key = listed["entries"][0]["key"].as_str().unwrap().to_owned();
        let taker = Machine::new(&shared);
        assert_eq!(json(&taker, &["pull", &key[..10]])["pulled"], 1);
        assert_eq!(json(&taker, &["pull", &key])["already_here"], 1);
        assert_eq!(json(&taker, &["pull"]), json!({ "pulled": 2, "already_here": 1 }));
        assert_eq!(taker.package(), (0, vec![]));
        assert_eq!(json(&taker, &["gc", "--older-than", "1", "--dry-run"])["removed"], 0);
        taker.run(&["cache", "gc"]).expect(2);
    });
    let _ = server.kill();
    let _ = server.wait();
    result.unwrap();
}

/// Asks until the server is there.
fn make_bucket(port: u16) {
    use std::io::{Read, Write};
    let start = std::time::Instant::now();
    loop {
        let mut answer = String::new();
        let request = "PUT /team HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port))
            && stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer)).is_ok()
            && answer.starts_with("HTTP/1.1 200")
        {
            return;
        }
        assert!(start.elapsed().as_secs() < 120, "moto does not start: {answer}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
