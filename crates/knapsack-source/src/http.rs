//! GET requests. Redirects are followed here, one by one, because each hop decides anew whether the token may go along.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::error::{Error, Result};
use crate::paced::Paced;
use crate::settings::{Settings, Token};

const MAX_REDIRECTS: usize = 8;
/// Words of a server that are repeated in an error.
const MAX_MESSAGE: u64 = 400;

/// A client for one hub.
pub(crate) struct Client {
    agent: ureq::Agent,
    home: Origin,
    token: Option<Token>,
    /// How long a body may come too slowly.
    stall: Duration,
    /// Whether any server has answered.
    reached: AtomicBool,
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    secure: bool,
    host: String,
    port: u16,
}

/// An answer with a success status, its body unread.
pub(crate) struct Answer {
    /// The address that gave it, without query.
    pub(crate) url: String,
    /// 200 or 206.
    pub(crate) status: u16,
    /// Headers of the last hop.
    pub(crate) headers: HeaderMap,
    /// Headers of the first hop, which is the hub when a file lies elsewhere.
    pub(crate) hub_headers: HeaderMap,
    stall: Duration,
    body: ureq::Body,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let patience = settings.patience;
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates {
            tls = tls.root_certs(RootCerts::new_with_certs(&read_certificates(path)?));
        }
        let home = Origin::of(&settings.endpoint).ok_or_else(|| Error::Setting {
            name: "HF_ENDPOINT",
            reason: format!("{:?} is not an address", settings.endpoint),
        })?;
        let mut config = ureq::Agent::config_builder();
        if home.is_loopback() {
            config = config.proxy(None);
        }
        let config = config
            .tls_config(tls.build())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("knapsack/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(patience.resolve))
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.answer))
            .timeout_per_read(Some(patience.stall))
            .timeout_per_write(Some(patience.stall))
            .input_buffer_size(256 << 10)
            .max_idle_connections_per_host(settings.workers)
            .build();
        Ok(Self {
            agent: config.new_agent(),
            home,
            token: settings.token.clone(),
            stall: patience.stall,
            reached: AtomicBool::new(false),
        })
    }

    /// Whether requests to the hub carry a token.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// GETs `url`, from byte `from` when that is not 0. Redirects are followed to http and https addresses; the token goes
    /// only to the hub itself.
    pub(crate) fn get(&self, url: &str, from: u64) -> Result<Answer> {
        self.follow(url, (from > 0).then(|| format!("bytes={from}-")).as_deref())
    }

    /// The first `count` bytes of `url`, or all when it has fewer.
    pub(crate) fn get_first(&self, url: &str, count: u64) -> Result<Vec<u8>> {
        let answer = self.follow(url, Some(&format!("bytes=0-{}", count.saturating_sub(1))))?;
        let (url, mut bytes) = (answer.url.clone(), Vec::new());
        // A server that knows no ranges sends the whole file, of which the rest is not waited for.
        let read = answer.into_reader().take(count).read_to_end(&mut bytes);
        read.map(|_| bytes).map_err(|error| Error::Connection { url, reason: error.to_string() })
    }

    fn follow(&self, url: &str, range: Option<&str>) -> Result<Answer> {
        let mut url = url.to_owned();
        let mut hub_headers = None;
        for _ in 0..=MAX_REDIRECTS {
            let origin = Origin::of(&url)
                .ok_or_else(|| Error::BadAnswer { url: shown(&url), reason: "it is not an http address".to_owned() })?;
            let response = self.send(&url, &origin, range)?;
            let status = response.status().as_u16();
            let (parts, body) = response.into_parts();
            let first = hub_headers.get_or_insert_with(|| parts.headers.clone());
            match status {
                200 | 206 => {
                    let hub_headers = first.clone();
                    return Ok(Answer {
                        url: shown(&url),
                        status,
                        headers: parts.headers,
                        hub_headers,
                        stall: self.stall,
                        body,
                    });
                }
                301 | 302 | 303 | 307 | 308 => url = redirect(&url, &origin, &parts.headers)?,
                _ => return Err(failure(&url, status, &parts.headers, body)),
            }
        }
        Err(Error::BadAnswer { url: shown(&url), reason: format!("more than {MAX_REDIRECTS} redirects in a row") })
    }

    fn send(&self, url: &str, origin: &Origin, range: Option<&str>) -> Result<ureq::http::Response<ureq::Body>> {
        let mut request = self.agent.get(url);
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        if let Some(token) = self.token.as_ref().filter(|_| *origin == self.home) {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        match request.call() {
            Ok(answer) => {
                self.reached.store(true, Ordering::Relaxed);
                Ok(answer)
            }
            Err(error) => Err(match broken(url, &error) {
                // The network was there a moment ago, so it may come back.
                Error::UnknownHost { url } if self.reached.load(Ordering::Relaxed) => {
                    Error::Connection { url, reason: "the host name is not known any more".to_owned() }
                }
                error => error,
            }),
        }
    }
}

impl Origin {
    fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() || authority.as_str().contains('@') {
            return None;
        }
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Some(Self { secure, host, port })
    }

    /// A proxy, when one is set, cannot reach it.
    fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl Answer {
    /// A header of the answer.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header of the hub's own answer, before any redirect.
    pub(crate) fn hub_header(&self, name: &str) -> Option<&str> {
        self.hub_headers.get(name)?.to_str().ok()
    }

    /// `Content-Length`.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// First byte and length of the file, of `Content-Range: bytes first-last/length`.
    pub(crate) fn range_start(&self) -> Option<(u64, Option<u64>)> {
        let (span, length) = self.header("content-range")?.strip_prefix("bytes ")?.split_once('/')?;
        Some((span.split_once('-')?.0.trim().parse().ok()?, length.trim().parse().ok()))
    }

    /// The body as it arrives.
    pub(crate) fn into_reader(self) -> impl Read + Send + 'static {
        Paced::new(self.body.into_reader(), self.stall)
    }

    /// The whole body, refused beyond `limit`.
    pub(crate) fn into_text(self, limit: u64) -> Result<String> {
        let too_large = format!("it is longer than {limit} bytes");
        if self.length().is_some_and(|length| length > limit) {
            return Err(Error::BadAnswer { url: self.url, reason: too_large });
        }
        let mut text = Vec::new();
        let read = Paced::new(self.body.into_reader(), self.stall).take(limit + 1).read_to_end(&mut text);
        read.map_err(|error| Error::Connection { url: self.url.clone(), reason: error.to_string() })?;
        if text.len() as u64 > limit {
            return Err(Error::BadAnswer { url: self.url, reason: too_large });
        }
        String::from_utf8(text).map_err(|_| Error::BadAnswer { url: self.url, reason: "it is not UTF-8".to_owned() })
    }
}

fn read_certificates(path: &std::path::Path) -> Result<Vec<Certificate<'static>>> {
    let text = std::fs::read(path).map_err(Error::io("read the certificates", path))?;
    let certificates: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match certificates.is_empty() {
        true => {
            Err(Error::Setting { name: "SSL_CERT_FILE", reason: format!("{} holds no certificate", path.display()) })
        }
        false => Ok(certificates),
    }
}

/// The address that a redirect leads to.
fn redirect(url: &str, origin: &Origin, headers: &HeaderMap) -> Result<String> {
    let refused = |target: &str, reason| Error::Redirect { url: shown(url), target: shown(target), reason };
    let target = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let scheme = if origin.secure { "https" } else { "http" };
    let next = if target.is_empty() {
        return Err(refused(target, "it names no address"));
    } else if let Some(rest) = target.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if target.starts_with('/') {
        let uri: Uri = url.parse().map_err(|_| refused(target, "it is not an address"))?;
        format!("{scheme}://{}{target}", uri.authority().map(|a| a.as_str()).unwrap_or_default())
    } else {
        target.to_owned()
    };
    match Origin::of(&next) {
        None => Err(refused(target, "only http and https addresses are")),
        Some(next) if origin.secure && !next.secure => Err(refused(target, "it leaves https")),
        Some(_) => Ok(next),
    }
}

fn failure(url: &str, status: u16, headers: &HeaderMap, body: ureq::Body) -> Error {
    let url = shown(url);
    if status == 429 || (status == 503 && headers.contains_key(header::RETRY_AFTER)) {
        return Error::RateLimited { url, wait: retry_after(headers, SystemTime::now()) };
    }
    let message = match headers.get("x-error-message").and_then(|value| value.to_str().ok()) {
        Some(message) => message.to_owned(),
        None => {
            let mut text = Vec::new();
            let _ = body.into_reader().take(MAX_MESSAGE).read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
    };
    let code = headers.get("x-error-code").and_then(|value| value.to_str().ok()).unwrap_or_default();
    Error::Status { status, url, message: one_line(code, &message) }
}

/// A server's words, made harmless for a terminal.
fn one_line(code: &str, message: &str) -> String {
    let clean = |text: &str| -> String {
        let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join(" ").chars().take(200).collect()
    };
    let message = clean(message);
    let message = if message.starts_with('<') { String::new() } else { message };
    match (code.is_empty(), message.is_empty()) {
        (true, _) => message,
        (false, true) => clean(code),
        (false, false) => format!("{}: {message}", clean(code)),
    }
}

/// `Retry-After`: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
    }
}

/// An address as it may be shown: without query and fragment, which hold the signature of a signed link.
pub(crate) fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    url[..end].chars().filter(|c| !c.is_control()).take(300).collect()
}

/// A request without an answer. An untrusted certificate will not be a better one at the next attempt, and a host name that
/// is not known will not be known a moment later.
fn broken(url: &str, error: &ureq::Error) -> Error {
    let url = shown(url);
    let reason = match error {
        ureq::Error::HostNotFound | ureq::Error::Timeout(ureq::Timeout::Resolve) => return Error::UnknownHost { url },
        // The standard library's wording for what the system's resolver says.
        ureq::Error::Io(error) if error.to_string().contains("failed to lookup address") => {
            return Error::UnknownHost { url };
        }
        ureq::Error::Timeout(timeout) => format!("it took too long ({timeout})"),
        ureq::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    // rustls' own wording; its error type is inside the I/O error.
    if reason.contains("invalid peer certificate") {
        Error::Untrusted { url, reason }
    } else {
        Error::Connection { url, reason }
    }
}

/// Escapes a path for an address. `/` stays unless `slash` is set.
pub(crate) fn escape(path: &str, slash: bool) -> String {
    use std::fmt::Write as _;
    path.bytes().fold(String::with_capacity(path.len()), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            b'/' if !slash => text.push('/'),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(target: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::LOCATION, target.parse().unwrap())])
    }

    #[test]
    fn redirects_stay_on_http_and_never_leave_https() {
        let from = "https://hub.example:8443/a/b?x";
        let origin = Origin::of(from).unwrap();
        let follow = |target: &str| redirect(from, &origin, &location(target));
        assert_eq!(follow("/c/d").unwrap(), "https://hub.example:8443/c/d");
        assert_eq!(follow("//cdn.example/c").unwrap(), "https://cdn.example/c");
        assert_eq!(follow("https://cdn.example/c?signature=1").unwrap(), "https://cdn.example/c?signature=1");
        for target in [
            "file:///etc/passwd",
            "ftp://a/b",
            "http://hub.example/a",
            "data:,x",
            "https://user@host/",
            "javascript:1",
            "c/d",
        ] {
            assert!(matches!(follow(target), Err(Error::Redirect { .. })), "{target}");
        }
        assert!(matches!(redirect(from, &origin, &HeaderMap::new()), Err(Error::Redirect { .. })));
        let shown = follow("http://cdn.example/c?signature=secret").unwrap_err().to_string();
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(Origin::of("https://Hub.example/x"), Origin::of("https://hub.example:443"));
        assert_ne!(Origin::of("https://hub.example"), Origin::of("http://hub.example"));
        assert_ne!(Origin::of("http://hub.example:1"), Origin::of("http://hub.example:2"));
        assert_ne!(Origin::of("http://hub.example.evil"), Origin::of("http://hub.example"));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let headers = |text: &str| HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]);
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(retry_after(&headers("7"), now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&headers("Sun, 06 Nov 1994 08:50:07 GMT"), now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after(&headers("Sun, 06 Nov 1994 08:00:00 GMT"), now), Some(Duration::ZERO));
        assert_eq!(retry_after(&headers("soon"), now), None);
    }

    #[test]
    fn an_untrusted_certificate_is_told_apart_from_a_broken_connection() {
        let io = |text: &str| ureq::Error::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, text.to_owned()));
        let error = broken("https://h/a?signature=1", &io("invalid peer certificate: UnknownIssuer"));
        assert!(matches!(&error, Error::Untrusted { url, .. } if url == "https://h/a"), "{error}");
        assert!(matches!(broken("https://h/", &io("connection reset")), Error::Connection { .. }));
        let unknown = io("failed to lookup address information: Name or service not known");
        assert!(matches!(broken("https://h/", &unknown), Error::UnknownHost { .. }));
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escape("a b/ü#?.bin", false), "a%20b/%C3%BC%23%3F.bin");
        assert_eq!(escape("refs/pr/1", true), "refs%2Fpr%2F1");
    }
}
