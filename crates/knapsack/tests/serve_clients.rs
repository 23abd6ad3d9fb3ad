//! `knapsack serve` and clients that are slow, silent, many, gone or not welcome.

mod support;

use serde_json::{Value, json};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::{Answer, BUDGET_FOR_ONE, FOUR, STORY, SUM, SUM_ANSWER, Sandbox, Server, THREE, question, read_answer};

fn world(arguments: &[&str]) -> (Sandbox, PathBuf, Server) {
    let sandbox = Sandbox::new();
    let dist = sandbox.three_models();
    let server = sandbox.serve(&dist, |command| {
        command.args(arguments);
    });
    (sandbox, dist, server)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Sends a request with headers of its own.
fn ask(server: &Server, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let mut stream = connect(server);
    let head = headers.iter().map(|line| format!("{line}\r\n")).collect::<String>();
    let length = body.len();
    let text = format!("{method} {path} HTTP/1.1\r\n{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).unwrap();
    read_answer(BufReader::new(stream))
}

/// More bytes than sockets hold, in an answer that takes a while.
fn flood(model: &str) -> Value {
    let mut body = question(model, STORY, 200);
    let more = json!({ "stream": true, "n": 128, "logprobs": true, "top_logprobs": 20, "ignore_eos": true });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_client_that_reads_nothing_holds_nobody_up() {
    let (sandbox, dist, server) = world(&["--budget", BUDGET_FOR_ONE, "--client-timeout", "2"]);
    let story = sandbox.alone(&dist, THREE, STORY, 32);
    let mut silent: Vec<_> =
        (0..3).map(|_| server.send("POST", "/v1/chat/completions", flood(FOUR).to_string().as_bytes())).collect();
    std::thread::sleep(Duration::from_millis(500));
    // The other model needs the memory of theirs, so their answers must have ended, though nobody took them.
    assert_eq!(server.ask(THREE, STORY, 32), story);
    assert_eq!(server.ask(FOUR, SUM, 64), SUM_ANSWER);
    // What they missed is not kept for them.
    std::thread::sleep(Duration::from_secs(3));
    for reader in &mut silent {
        let mut rest = Vec::new();
        let _ = reader.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"), "{} bytes", rest.len());
    }
}

#[test]
fn slow_senders_and_idle_connections_are_closed() {
    let (_sandbox, _dist, server) = world(&["--client-timeout", "1", "--max-connections", "4"]);
    let host = format!("Host: {}\r\n", server.address);
    let idle = connect(&server);
    let mut head = connect(&server);
    head.write_all(b"GET /health HT").unwrap();
    let mut after_an_answer = connect(&server);
    after_an_answer.write_all(format!("GET /health HTTP/1.1\r\n{host}\r\n").as_bytes()).unwrap();
    let mut body = connect(&server);
    let json = "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    body.write_all(format!("POST /v1/chat/completions HTTP/1.1\r\n{host}{json}").as_bytes()).unwrap();
    // All places are taken; the next client gets one when those have lost theirs.
    let start = Instant::now();
    assert_eq!(server.get("/health").status, 200);
    let waited = start.elapsed();
    assert!(waited > Duration::from_millis(500) && waited < Duration::from_secs(30), "{waited:?}");
    for (name, mut stream) in [("idle", idle), ("head", head), ("kept", after_an_answer), ("body", body)] {
        // A drip does not keep it.
        let _ = stream.write_all(b" ");
        let mut rest = String::new();
        let _ = stream.read_to_string(&mut rest);
        assert_eq!(rest.contains(" 408 "), name == "body", "{name}: {rest}");
        assert_eq!(rest.contains(" 200 "), name == "kept", "{name}: {rest}");
    }
}

/// Kilobytes of memory that a process holds.
#[cfg(target_os = "linux")]
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn two_hundred_clients_at_once_with_flat_memory() {
    let (_sandbox, _dist, server) = world(&["--budget", BUDGET_FOR_ONE]);
    let round = || {
        std::thread::scope(|scope| {
            for client in 0..200 {
                let server = &server;
                scope.spawn(move || {
                    let mut body = question(FOUR, SUM, 64);
                    body["stream"] = json!(client % 2 == 0);
                    let answer = server.post(&body);
                    assert_eq!(answer.status, 200, "{}", answer.body);
                    assert!(
                        answer.body.contains(if client % 2 == 0 { "[DONE]" } else { SUM_ANSWER }),
                        "{}",
                        answer.body
                    );
                });
            }
        });
        resident(&server)
    };
    round();
    let (second, third) = (round(), round());
    assert!(third < second + 8 * 1024, "{second} kB, then {third} kB");
    assert_eq!(server.count("Loaded", FOUR), 1);
}

#[test]
fn an_answer_whose_client_went_away_stops_at_once() {
    // The reference device is slow: the whole of these answers would take minutes.
    let (_sandbox, _dist, server) = world(&["--device", "cpu-reference", "--budget", BUDGET_FOR_ONE]);
    let alone = Instant::now();
    assert_eq!(server.ask(FOUR, SUM, 64), SUM_ANSWER);
    let alone = alone.elapsed();
    for stream in [false, true] {
        let mut body = flood(FOUR);
        body["stream"] = json!(stream);
        let readers: Vec<_> =
            (0..5).map(|_| server.send("POST", "/v1/chat/completions", body.to_string().as_bytes())).collect();
        std::thread::sleep(Duration::from_millis(300));
        drop(readers);
        let start = Instant::now();
        assert_eq!(server.ask(FOUR, SUM, 64), SUM_ANSWER);
        let took = start.elapsed();
        assert!(took < alone * 4 + Duration::from_secs(2), "{took:?} where {alone:?} is enough");
    }
}

#[test]
fn only_those_who_are_meant_are_heard() {
    let (_sandbox, _dist, server) = world(&["--allow-host", "box.lan"]);
    let body = question(FOUR, SUM, 64).to_string();
    let json = "Content-Type: application/json";
    let post = |headers: &[&str]| ask(&server, "POST", "/v1/chat/completions", headers, &body);
    let host = format!("Host: {}", server.address);
    assert_eq!(post(&[&host, json]).status, 200);
    assert_eq!(post(&["Host: box.lan", json]).status, 200);
    let own = format!("Origin: http://{}", server.address);
    assert_eq!(post(&[&host, json, &own]).status, 200);
    assert_eq!(post(&["Host: evil.example", json]).refusal(), (403, "forbidden_host".to_owned()));
    assert_eq!(post(&[&host, json, "Origin: http://evil.example"]).refusal(), (403, "forbidden_origin".to_owned()));
    // What a page may send anywhere without asking.
    assert_eq!(post(&[&host, "Content-Type: text/plain"]).refusal(), (415, "unsupported_media_type".to_owned()));
    assert_eq!(post(&[&host]).refusal(), (415, "unsupported_media_type".to_owned()));
    assert_eq!(ask(&server, "GET", "/v1/models", &["Host: evil.example"], "").status, 403);
}

#[test]
fn a_key_where_one_is_set() {
    let sandbox = Sandbox::new();
    let dist = sandbox.three_models();
    for by_environment in [false, true] {
        let server = sandbox.serve(&dist, |command| {
            match by_environment {
                true => command.env("KNAPSACK_API_KEY", "sesame"),
                false => command.args(["--api-key", "other", "--api-key", "sesame"]),
            };
        });
        let host = format!("Host: {}", server.address);
        let models = |headers: &[&str]| ask(&server, "GET", "/v1/models", headers, "");
        assert_eq!(models(&[&host]).refusal(), (401, "invalid_api_key".to_owned()));
        assert_eq!(models(&[&host, "Authorization: Bearer guess"]).status, 401);
        assert_eq!(models(&[&host, "Authorization: Bearer sesame"]).status, 200);
        assert_eq!(ask(&server, "GET", "/health", &[&host], "").status, 200);
        assert!(!server.log().contains("sesame"), "{}", server.log());
    }
    let refused = sandbox.run(&["serve", "dist", "--port", "0", "--api-key", "two words"]).expect(2).stderr;
    assert!(refused.contains("visible ASCII characters") && !refused.contains("two words"), "{refused}");
}
