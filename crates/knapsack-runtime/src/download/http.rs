use super::{Body, Transport, TransportError};
use std::time::Duration;
use ureq::config::ConfigBuilder;
use ureq::http::header;
use ureq::typestate::AgentScope;

/// HTTP and HTTPS by `ureq`, for apps that have no client of their own.
pub struct HttpTransport {
    agent: ureq::Agent,
}

impl HttpTransport {
    /// A client. Loopback addresses work without a proxy only when the environment sets none for them.
    pub fn new() -> Self {
        Self { agent: settings().build().new_agent() }
    }

    /// The same without a proxy, whatever the environment says.
    pub fn direct() -> Self {
        Self { agent: settings().proxy(None).build().new_agent() }
    }
}

fn settings() -> ConfigBuilder<AgentScope> {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("knapsack/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
}

impl Default for HttpTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl Transport for HttpTransport {
    fn get(&self, url: &str, from: u64) -> Result<Body, TransportError> {
        let mut request = self.agent.get(url);
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| TransportError::Connection(error.to_string()))?;
        let (parts, body) = response.into_parts();
        let start = match parts.status.as_u16() {
            200 => 0,
            206 => range_start(parts.headers.get(header::CONTENT_RANGE)).unwrap_or(from),
            429 | 503 if let Some(wait) = seconds(parts.headers.get(header::RETRY_AFTER)) => {
                return Err(TransportError::Limited(wait));
            }
            status => return Err(TransportError::Status(status)),
        };
        Ok(Body { start, reader: Box::new(body.into_reader()) })
    }
}

/// `Retry-After` in seconds; a date counts as absent.
fn seconds(value: Option<&ureq::http::HeaderValue>) -> Option<Duration> {
    value?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The first number of `bytes 100-199/200`.
fn range_start(value: Option<&ureq::http::HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
