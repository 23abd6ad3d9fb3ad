//! Packages of the trained example, and `knapsack serve` as a process with a plain HTTP client.

use super::{Sandbox, succeed};
use knapsack_testkit::tiny_assistant;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Two models that are right about sums and tell different stories. The device memory of each is planned as below 6 MB, so
/// that [`BUDGET_FOR_ONE`] holds one and not both.
pub const FOUR: &str = "tiny-q4";
pub const THREE: &str = "tiny-q3";
/// Needs more than [`BUDGET_FOR_ONE`].
pub const HALF: &str = "tiny-q0";
pub const BUDGET_FOR_ONE: &str = "9000000";

pub const SUM: &str = "What is 37 plus 48?";
pub const SUM_ANSWER: &str = "37 plus 48 is 85.";
pub const STORY: &str = "Tell me a story.";

impl Sandbox {
    /// Packages a manifest into `dist`.
    pub fn package(&self, manifest: &Value, configure: impl FnOnce(&mut Command)) -> PathBuf {
        fs::write(self.path("mlc-package-config.json"), manifest.to_string()).unwrap();
        let mut command = self.knapsack();
        configure(command.args(["package", "-q"]));
        succeed(&mut command);
        self.path("dist")
    }

    /// The trained example in three formats.
    pub fn three_models(&self) -> PathBuf {
        let entry = |id: &str, quantization: &str| json!({ "model": tiny_assistant(), "model_id": id, "quantization": quantization, "bundle_weight": true });
        let models = [entry(FOUR, "q4f16_1"), entry(THREE, "q3f16_1"), entry(HALF, "q0f16")];
        self.package(&json!({ "device": "iphone", "model_list": models }), |_| ())
    }

    /// The trained example with a template that takes tools, in the manner of Hermes and Qwen.
    pub fn model_with_tools(&self) -> PathBuf {
        const TEMPLATE: &str = concat!(
            "{{ bos_token }}{% if tools %}{{ '<|im_start|>system\\n# Tools\\n' }}{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}",
            "{{ 'Call one as <tool_call>\\n{\"name\": ..., \"arguments\": ...}\\n</tool_call><|im_end|>\\n' }}{% endif %}",
            "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + (message.content or '') }}",
            "{% for call in message.tool_calls or [] %}{{ '<tool_call>\\n{\"name\": ' + call.function.name | tojson + ', \"arguments\": ' + call.function.arguments | tojson + '}\\n</tool_call>' }}{% endfor %}",
            "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}",
            "{% if enable_thinking is defined and enable_thinking %}{{ '<think>\\n' }}{% endif %}{% endif %}{# </think> #}"
        );
        let model = self.path("model-with-tools");
        fs::create_dir(&model).unwrap();
        for entry in fs::read_dir(tiny_assistant()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
        }
        let config = model.join("tokenizer_config.json");
        let mut tokens: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        tokens["chat_template"] = TEMPLATE.into();
        fs::write(&config, tokens.to_string()).unwrap();
        let entry = json!({ "model": model, "model_id": FOUR, "quantization": "q4f16_1", "bundle_weight": true, "overrides": { "context_window_size": 2048 } });
        self.package(&json!({ "device": "iphone", "model_list": [entry] }), |_| ())
    }

    /// What a model of a package answers when it is alone.
    pub fn alone(&self, dist: &Path, model: &str, prompt: &str, max_tokens: u32) -> String {
        let mut command = self.knapsack();
        command.arg("run").arg(dist).args(["-q", "--model", model, "--prompt", prompt]);
        command.args(["--max-tokens", &max_tokens.to_string()]);
        succeed(&mut command).trim_end_matches('\n').to_owned()
    }

    /// `knapsack serve` on a free port.
    pub fn serve(&self, dist: &Path, configure: impl FnOnce(&mut Command)) -> Server {
        let log = self.path("serve.log");
        let mut command = self.knapsack();
        command.arg("serve").arg(dist).args(["--port", "0", "-v"]);
        configure(&mut command);
        command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on http://").and_then(|rest| rest.split_once("/v1"));
        let Some((address, _)) = address else {
            let _ = child.wait();
            panic!("{line:?}, {}", fs::read_to_string(&log).unwrap());
        };
        Server { address: address.to_owned(), child, log }
    }
}

/// A running server; killed when dropped.
pub struct Server {
    pub address: String,
    pub child: Child,
    pub log: PathBuf,
}

/// Status and body of an answer.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The payloads of server-sent events.
    pub fn events(&self) -> Vec<&str> {
        let events = self.body.split("\n\n").filter(|event| !event.is_empty());
        events.map(|event| event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?}"))).collect()
    }

    /// Status and `error.code` of a refusal.
    pub fn refusal(&self) -> (u16, String) {
        let error = &self.json()["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{}", self.body);
        (self.status, error["code"].as_str().unwrap().to_owned())
    }
}

impl Server {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a request; the answer is still to be read.
    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses a large body closes the connection before it has read it.
        let _ = stream.write_all(body);
        BufReader::new(stream)
    }

    pub fn get(&self, path: &str) -> Answer {
        read_answer(self.send("GET", path, b""))
    }

    pub fn post(&self, body: &Value) -> Answer {
        self.post_text(&body.to_string())
    }

    pub fn post_text(&self, body: &str) -> Answer {
        read_answer(self.send("POST", "/v1/chat/completions", body.as_bytes()))
    }

    /// The text that a model answers.
    pub fn ask(&self, model: &str, prompt: &str, max_tokens: u32) -> String {
        let answer = self.post(&question(model, prompt, max_tokens));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    /// How often the log tells of an event of a model.
    pub fn count(&self, event: &str, model: &str) -> usize {
        let line = format!("{event} {model}");
        self.log().lines().filter(|text| text.trim_start().starts_with(&line)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request for a greedy answer.
pub fn question(model: &str, prompt: &str, max_tokens: u32) -> Value {
    json!({
        "model": model, "messages": [{ "role": "user", "content": prompt }], "temperature": 0, "max_tokens": max_tokens
    })
}

/// Reads an answer to its end, chunked or not.
pub fn read_answer(mut reader: BufReader<TcpStream>) -> Answer {
    let mut status = String::new();
    reader.read_line(&mut status).unwrap();
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status line"));
    let mut chunked = false;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
        if line.trim().is_empty() {
            break;
        }
    }
    let mut bytes = Vec::new();
    if !chunked {
        reader.read_to_end(&mut bytes).unwrap();
    } else {
        while let Some(chunk) = read_chunk(&mut reader) {
            bytes.extend(chunk);
        }
    }
    Answer { status, body: String::from_utf8(bytes).unwrap() }
}

/// A chunk of a chunked body; `None` at its end, or where the connection ends.
pub fn read_chunk(reader: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let length = usize::from_str_radix(line.trim(), 16).ok()?;
    let mut bytes = vec![0; length + 2];
    reader.read_exact(&mut bytes).ok()?;
    bytes.truncate(length);
    (length > 0).then_some(bytes)
}
