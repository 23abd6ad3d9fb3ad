//! A folder, a cache and an environment of its own for the real program.

#![allow(dead_code, reason = "each test program uses a part of it")]

use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub(crate) struct Sandbox(tempfile::TempDir);

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The only JSON line.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Sandbox(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A model of the catalogue as a folder `models/<name>`: its configuration, and a weight that nobody reads.
    pub(crate) fn catalogue(&self, name: &str) {
        let chat = fs::read_to_string(knapsack_testkit::catalogue(name).join("mlc-chat-config.json")).unwrap();
        self.write(&format!("models/{name}/mlc-chat-config.json"), &chat);
        self.write(&format!("models/{name}/params_shard_0.bin"), "1234");
        self.write(&format!("models/{name}/tokenizer.json"), "{}");
        let record =
            json!({ "name": "a", "shape": [1], "dtype": "float32", "format": "raw", "nbytes": 4, "byteOffset": 0 });
        let shard =
            json!({ "dataPath": "params_shard_0.bin", "format": "raw-shard", "nbytes": 4, "records": [record] });
        self.write(
            &format!("models/{name}/tensor-cache.json"),
            &json!({ "metadata": {}, "records": [shard] }).to_string(),
        );
    }

    /// The program, with nothing of the caller's environment but what it needs to start.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knapsack"));
        command.args(args).current_dir(self.0.path()).env_clear().stdin(Stdio::null());
        for kept in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SystemRoot", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.env("HOME", self.0.path()).env("KNAPSACK_CACHE", self.path("cache"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        let output = self.command(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Outcome { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Names in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

/// Every line of a program's JSON messages.
pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}
