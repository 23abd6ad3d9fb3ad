//! Requests with limits, tried again where that may help.

use crate::lent::is_loopback;
use knapsack_bundle::cache::StoreError;
use std::time::Duration;
use ureq::http::{HeaderMap, Method, Request, Uri, header};

/// Words of a server that are repeated.
const MAX_MESSAGE: u64 = 2048;

/// How long a store is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the first byte of an answer, and between two.
    pub answer: Duration,
    /// For a request as a whole, which moves at most a part of a file.
    pub whole: Duration,
    /// How often a request is tried.
    pub attempts: u32,
    /// Before the second try; twice as long before each further one.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        let (connect, answer, whole) = (seconds(10), seconds(30), seconds(300));
        Self { connect, answer, whole, attempts: 4, pause: Duration::from_millis(500) }
    }
}

/// An answer that was read.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Client {
    agent: ureq::Agent,
    patience: Patience,
}

impl Client {
    /// For one store.
    pub(crate) fn new(endpoint: &str, patience: Patience) -> Self {
        let mut config = ureq::Agent::config_builder();
        let uri: Option<Uri> = endpoint.parse().ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        if is_loopback(&host) {
            // A proxy, when one is set, cannot reach it.
            config = config.proxy(None);
        }
        let config = config
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("knapsack/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.answer))
            .timeout_per_read(Some(patience.answer))
            .timeout_per_write(Some(patience.answer))
            .timeout_global(Some(patience.whole))
            .build();
        Self { agent: config.new_agent(), patience }
    }

    /// Sends what `request` makes, anew for every try, and reads at most `limit` + 1 bytes of the answer. Any status below 500 but
    /// 408 and 429 is an answer.
    pub(crate) fn send(
        &self,
        limit: u64,
        request: &dyn Fn() -> Result<Request<Vec<u8>>, StoreError>,
    ) -> Result<Answer, StoreError> {
        let mut attempt = 1;
        loop {
            let request = request()?;
            let place = shown(request.uri());
            let (problem, wait) = match self.once(request, limit) {
                Ok(answer) if !matches!(answer.status, 408 | 429 | 500..) => return Ok(answer),
                // What a store cannot do, it can never do.
                Ok(answer) if answer.status == 501 => return Ok(answer),
                Ok(answer) => {
                    let wait =
                        answer.headers.get(header::RETRY_AFTER).and_then(|text| text.to_str().ok()?.parse().ok());
                    (format!("status {}", answer.status), wait.map(Duration::from_secs))
                }
                Err(problem) => (problem, None),
            };
            let pause = self.patience.pause * 2u32.saturating_pow(attempt - 1);
            let wait = wait.unwrap_or(pause);
            // A store that wants to be left alone for long is left alone.
            if attempt >= self.patience.attempts || wait > self.patience.answer {
                return Err(StoreError::new(format!("{place}: {problem}, after {attempt} tries")));
            }
            std::thread::sleep(wait);
            attempt += 1;
        }
    }

    fn once(&self, request: Request<Vec<u8>>, limit: u64) -> Result<Answer, String> {
        let (parts, body) = request.into_parts();
        let sent = match parts.method {
            Method::PUT | Method::POST => self.agent.run(Request::from_parts(parts, body)),
            _ => self.agent.run(Request::from_parts(parts, ())),
        };
        let (parts, mut body) = sent.map_err(|error| without_address(&error))?.into_parts();
        let mut bytes = Vec::new();
        let limit = if parts.status.is_success() { limit } else { MAX_MESSAGE };
        let reader = body.as_reader();
        let read = std::io::Read::read_to_end(&mut std::io::Read::take(reader, limit.saturating_add(1)), &mut bytes);
        read.map_err(|error| format!("the answer ends early: {error}"))?;
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: bytes })
    }
}

/// What the library says, without the address, which may hold a signature.
fn without_address(error: &ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) => "the address cannot be used".to_owned(),
        error => error.to_string(),
    }
}

/// Host and path.
pub(crate) fn shown(uri: &Uri) -> String {
    format!("{}{}", uri.host().unwrap_or_default(), uri.path())
}

/// What an answer of failure means, for people.
pub(crate) fn failure(place: &str, answer: &Answer, is_write: bool) -> StoreError {
    let text = String::from_utf8_lossy(&answer.body);
    // A word for what is wrong: in XML, or Google's in JSON.
    let between = |start: &str, end: &str| text.split_once(start)?.1.split_once(end).map(|(word, _)| word.trim());
    let word = between("<Code>", "</Code>").or_else(|| between("\"reason\":", ",").map(|word| word.trim_matches('"')));
    let word = word.filter(|word| word.len() < 64 && word.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let meaning = match (answer.status, word) {
        (401 | 403, _) => " (the credentials do not allow it)",
        (404, _) if text.contains("bucket does not exist") => " (there is no such bucket)",
        (404, Some("ContainerNotFound")) => " (there is no such container)",
        (404, Some("NoSuchBucket")) => " (there is no such bucket)",
        (301 | 302 | 307 | 308, _) => " (it is somewhere else: another region, or another address)",
        _ => "",
    };
    let word = word.map(|word| format!(" {word}")).unwrap_or_default();
    let read_only = is_write && matches!(answer.status, 401 | 403 | 405);
    StoreError { problem: format!("{place}: status {}{word}{meaning}", answer.status), read_only }
}
