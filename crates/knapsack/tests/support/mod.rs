//! The real program in a folder, with a cache and an environment of its own.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses a part of it")]

mod serving;

pub use serving::{
    Answer, BUDGET_FOR_ONE, FOUR, HALF, STORY, SUM, SUM_ANSWER, Server, THREE, question, read_answer, read_chunk,
};

use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A folder with a cache of its own, and everything in it.
pub struct Sandbox {
    pub folder: tempfile::TempDir,
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The same, after a look at the exit code.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The only JSON line.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// Every line of the program's JSON messages.
    pub fn json_lines(&self) -> Vec<Value> {
        let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(line).collect()
    }
}

impl Sandbox {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A model of the catalogue as a folder `models/<name>`: its configuration, and the index of weights that nobody reads: a
    /// file of holes.
    pub fn catalogue(&self, name: &str) {
        self.catalogue_in(name, "q4f16_1");
    }

    /// The same, with the weights of a model of q4f16_1 in another format.
    pub fn catalogue_in(&self, name: &str, format: &str) {
        let chat = fs::read_to_string(knapsack_testkit::catalogue(name).join("mlc-chat-config.json")).unwrap();
        let chat = chat.replace("q4f16_1", format);
        self.write(&format!("models/{name}/mlc-chat-config.json"), &chat);
        self.write(&format!("models/{name}/tokenizer.json"), "{}");
        let chat: Value = serde_json::from_str(&chat).unwrap();
        let config = knapsack_models::ModelConfig::from_mlc(&chat).unwrap();
        let quantization = chat["quantization"].as_str().unwrap().parse().unwrap();
        let (mut records, mut end) = (Vec::new(), 0);
        for tensor in config.stored_tensors(&quantization) {
            let nbytes = tensor.bytes().unwrap();
            records.push(json!({
                "name": tensor.name, "shape": tensor.shape, "dtype": tensor.index_dtype, "format": "f32-to-bf16",
                "nbytes": nbytes, "byteOffset": end,
            }));
            end += nbytes;
        }
        let shard = fs::File::create(self.path(&format!("models/{name}/params_shard_0.bin"))).unwrap();
        shard.set_len(end).unwrap();
        let shard =
            json!({ "dataPath": "params_shard_0.bin", "format": "raw-shard", "nbytes": end, "records": records });
        self.write(
            &format!("models/{name}/tensor-cache.json"),
            &json!({ "metadata": {}, "records": [shard] }).to_string(),
        );
    }

    /// The binary without anything of the caller's environment that changes what it does.
    pub fn knapsack(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knapsack"));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).env_clear();
        command.env("HOME", self.folder.path()).env("USERPROFILE", self.folder.path());
        command.env("KNAPSACK_CACHE", self.path("cache"));
        for kept in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SystemRoot", "LLVM_PROFILE_FILE", "TMPDIR", "TEMP", "TMP"]
        {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Outcome {
        outcome(self.knapsack().args(args))
    }

    /// Names in the folder.
    pub fn names(&self) -> Vec<String> {
        let names =
            fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

/// Runs a command to its end.
pub fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Stdout of a command that must succeed.
pub fn succeed(command: &mut Command) -> String {
    outcome(command).expect(0).stdout
}

/// Exit code and stderr of a command that must fail.
pub fn fail(command: &mut Command) -> (i32, String) {
    let Outcome { code, stderr, .. } = outcome(command);
    assert_ne!(code, 0, "{command:?}");
    (code, stderr)
}
