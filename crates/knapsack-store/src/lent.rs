//! Credentials that somebody lends for a time, and asking for them.

use crate::Patience;
use crate::client::{Answer, Client};
use knapsack_bundle::cache::StoreError;
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};
use ureq::http::{Request, Uri};

/// Longest file of credentials that is read.
const MAX_FILE: u64 = 1 << 20;
/// Longest answer that is read.
const MAX_ANSWER: u64 = 64 << 10;
/// How long before they expire they are asked for anew.
const AHEAD: Duration = Duration::from_secs(300);
/// For whoever answers on the machine itself or beside it.
pub(crate) const NEAR: Patience = Patience {
    connect: Duration::from_secs(1),
    answer: Duration::from_secs(5),
    whole: Duration::from_secs(10),
    attempts: 2,
    pause: Duration::from_millis(100),
};
/// For a service of tokens.
pub(crate) const FAR: Patience = Patience {
    connect: Duration::from_secs(10),
    answer: Duration::from_secs(30),
    whole: Duration::from_secs(60),
    ..NEAR
};

/// What is lent, and when it expires.
pub(crate) type Lent<T> = (T, Option<SystemTime>);

/// What was lent last.
#[derive(Debug)]
pub(crate) struct Held<T>(Mutex<Option<Lent<T>>>);

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Held<T> {
    /// What is held, or what `ask` brings where that expires soon.
    pub(crate) fn get(&self, ask: impl FnOnce() -> Result<Lent<T>, StoreError>) -> Result<T, StoreError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = SystemTime::now() + AHEAD;
        match &*held {
            Some((value, expires)) if expires.is_none_or(|expires| expires > last) => Ok(value.clone()),
            _ => Ok(held.insert(ask()?).0.clone()),
        }
    }
}

/// Something that nobody may see.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

/// Why there are no credentials.
pub(crate) fn wrong(problem: &str) -> StoreError {
    StoreError::new(format!("no credentials: {problem}"))
}

/// How long a program may take that knows credentials: it may ask somebody else.
const PROGRAM: Duration = Duration::from_secs(60);

/// What a program prints that succeeds in time, and prints no more than an answer may hold.
pub(crate) fn of_program(mut command: Command) -> Option<Vec<u8>> {
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped()).spawn().ok()?;
    let stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut printed = Vec::new();
        let read = stdout.take(MAX_ANSWER + 1).read_to_end(&mut printed);
        let _ = sender.send(read.map(|_| printed));
    });
    let until = Instant::now() + PROGRAM;
    let printed = receiver.recv_timeout(PROGRAM).ok().and_then(Result::ok);
    let printed = printed.filter(|printed| printed.len() as u64 <= MAX_ANSWER);
    // Its output has ended: so has, or soon will, the program.
    while printed.is_some() && Instant::now() < until {
        match child.try_wait() {
            Ok(Some(status)) => return printed.filter(|_| status.success()),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// The text of a file that is small enough to be one of credentials.
pub(crate) fn read_small(file: &Path) -> Option<String> {
    let small = std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.len() <= MAX_FILE);
    small.then(|| std::fs::read_to_string(file).ok()).flatten()
}

/// An address that a secret may go to: with TLS, or to this machine or one of `also`.
pub(crate) fn safe(address: &str, also: &[&str]) -> Result<String, StoreError> {
    let uri: Option<Uri> = address.parse().ok();
    let is_near = |host: &str| is_loopback(host) || also.contains(&host);
    let is_safe = uri.as_ref().is_some_and(|uri| match uri.scheme_str() {
        Some("https") => uri.host().is_some(),
        Some("http") => uri.host().is_some_and(is_near),
        _ => false,
    });
    if is_safe { Ok(address.to_owned()) } else { Err(wrong("a token would go over an open network")) }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Asks whoever lends.
pub(crate) fn ask(
    patience: Patience,
    method: &str,
    address: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, StoreError> {
    let request = || {
        let request = headers.iter().fold(Request::builder().method(method).uri(address), |r, (k, v)| r.header(*k, *v));
        request.body(body.as_bytes().to_vec()).map_err(|_| wrong("an address or a token cannot be sent"))
    };
    let answer = Client::new(address, patience).send(MAX_ANSWER, &request).map_err(|error| wrong(&error.problem))?;
    match answer.status {
        200 => Ok(answer),
        status => Err(wrong(&format!("{} answers with status {status}", host(address)))),
    }
}

fn host(address: &str) -> String {
    address.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default()
}

/// Asks a service of tokens with a form, as OAuth 2 has it (RFC 6749).
pub(crate) fn ask_with_form(address: &str, pairs: &[(&str, &str)]) -> Result<Lent<Secret>, StoreError> {
    let header = [("content-type", "application/x-www-form-urlencoded")];
    of_oauth(&ask(FAR, "POST", address, &header, &crate::sign::query(pairs))?)
}

/// A token as OAuth 2 has it.
pub(crate) fn of_oauth(answer: &Answer) -> Result<Lent<Secret>, StoreError> {
    #[derive(Deserialize)]
    struct Written {
        access_token: Secret,
        /// Seconds: a number, or a text of one.
        expires_in: Option<Value>,
    }
    let written: Written = serde_json::from_slice(&answer.body).map_err(|_| wrong("the answer is something else"))?;
    let seconds = written.expires_in.and_then(|value| match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    });
    // Who does not say for how long is asked again soon.
    let seconds: u64 = seconds.unwrap_or(600);
    Ok((written.access_token, SystemTime::now().checked_add(Duration::from_secs(seconds.min(1 << 32)))))
}

/// A time as RFC 3339 has it.
pub(crate) fn time(text: &str) -> Option<SystemTime> {
    chrono::DateTime::parse_from_rfc3339(text.trim()).ok().map(SystemTime::from)
}

/// Whom the tests ask.
#[cfg(test)]
pub(crate) mod peer {
    use std::ffi::OsString;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    /// Answers one connection after the other with what `answer` makes of the request's first line, headers and body.
    pub(crate) fn server(answer: impl Fn(&str, &str, &str) -> (u16, String) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut lines = String::new();
                while stream.read_line(&mut lines).unwrap() > 2 {}
                let lines = lines.to_ascii_lowercase();
                let length = lines.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                stream.read_exact(&mut body).unwrap();
                let first = lines.lines().next().unwrap().trim_end_matches(" http/1.1").to_owned();
                let (status, text) = answer(&first, &lines, &String::from_utf8(body).unwrap());
                let head =
                    format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
                stream.get_mut().write_all(format!("{head}{text}").as_bytes()).unwrap();
            }
        });
        address
    }

    pub(crate) fn lookup(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        let pairs: Vec<(String, OsString)> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        move |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }
}
