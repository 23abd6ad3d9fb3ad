//! Who may ask. A page in a browser can send requests to any address, and by a name of its own that resolves to this machine (DNS
//! rebinding) even read the answers: so the `Host` must be this server's, an `Origin` must be the server itself, and a body must be
//! declared as JSON, which a page cannot do for another site without asking first.

use super::Refused;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use knapsack_openai::ApiError;
use std::net::IpAddr;
use std::sync::Arc;

/// What a request needs to be heard.
#[derive(Clone, Debug)]
pub struct Access {
    /// The address that is listened on.
    address: IpAddr,
    /// Names that this server goes by.
    names: Vec<String>,
    /// A request must bring one of these, where there are any.
    keys: Vec<String>,
}

impl Access {
    /// For a server that listens on `address` and goes by `names` besides `localhost`. A request must bring one of `keys`, where
    /// there are any.
    pub fn new(address: IpAddr, names: Vec<String>, keys: Vec<String>) -> Self {
        Self { address, names, keys }
    }

    fn check(&self, request: &Request) -> Result<(), ApiError> {
        let host = self.host(request)?;
        let headers = request.headers();
        if let Some(origin) = text(headers, ORIGIN)? {
            let same = origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
            if !same {
                return Err(forbidden(
                    "forbidden_origin",
                    format!("requests of pages of {} are refused", short(origin)),
                ));
            }
        }
        // A server that is asked whether it lives gives nothing away.
        if !self.keys.is_empty() && request.uri().path() != "/health" {
            self.check_key(headers)?;
        }
        if request.method() == Method::POST && !is_json(text(headers, CONTENT_TYPE)?) {
            let message = "send the request as JSON, with the header `Content-Type: application/json`";
            return Err(ApiError { status: 415, code: "unsupported_media_type", ..ApiError::invalid(message) });
        }
        Ok(())
    }

    /// The host that the request is for, when it is this server.
    fn host<'a>(&self, request: &'a Request) -> Result<&'a str, ApiError> {
        let named = request.uri().authority().map(Authority::as_str);
        let host = match named {
            Some(host) => host,
            None => match text(request.headers(), HOST)? {
                Some(host) => host,
                None if request.version() < Version::HTTP_11 => return Ok(""),
                None => return Err(ApiError::invalid("the request has no Host header")),
            },
        };
        match host.parse::<Authority>() {
            Ok(authority) if self.is_own(authority.host()) => Ok(host),
            _ => {
                let message = format!("{} is no name of this server: start it with --allow-host NAME", short(host));
                Err(forbidden("forbidden_host", message))
            }
        }
    }

    /// Names can be made to point here by anybody, addresses cannot.
    fn is_own(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        match bare.parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || address == self.address || self.address.is_unspecified(),
            Err(_) => {
                let own = |name: &String| name.trim_end_matches('.').eq_ignore_ascii_case(bare);
                bare.eq_ignore_ascii_case("localhost") || self.names.iter().any(own)
            }
        }
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let given = text(headers, AUTHORIZATION)?.and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
        match given {
            // All are compared, so that the time tells nothing.
            Some(given) if self.keys.iter().fold(false, |found, key| equal(key, given) | found) => Ok(()),
            _ => {
                let message = "this server wants its key: `Authorization: Bearer KEY`";
                Err(ApiError { status: 401, code: "invalid_api_key", ..ApiError::invalid(message) })
            }
        }
    }
}

/// Lets a request through or refuses it.
pub(super) async fn check(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    match access.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => Refused(error).into_response(),
    }
}

fn forbidden(code: &'static str, message: String) -> ApiError {
    ApiError { status: 403, code, ..ApiError::invalid(message) }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, ApiError> {
    let unreadable = |_| ApiError::invalid(format!("the header {name} is no text"));
    headers.get(&name).map(|value| value.to_str().map_err(unreadable)).transpose()
}

fn is_json(content_type: Option<&str>) -> bool {
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

/// In time that depends on the lengths only.
fn equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn check(access: &Access, method: Method, headers: &[(&str, &str)]) -> Result<(), (u16, &'static str)> {
        let mut request = Request::builder().method(method).uri("/v1/models");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        access.check(&request.body(Body::empty()).unwrap()).map_err(|error| (error.status, error.code))
    }

    #[test]
    fn only_the_servers_own_names() {
        let at = |address: &str| Access::new(address.parse().unwrap(), vec!["box.lan".into()], Vec::new());
        let (local, everywhere) = (at("127.0.0.1"), at("0.0.0.0"));
        let get = |access: &Access, host: &str| check(access, Method::GET, &[("host", host)]).is_ok();
        for host in ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "box.lan:8000", "localhost.:80"] {
            assert!(get(&local, host) && get(&everywhere, host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "", "a b", "box.lan.x"] {
            assert!(!get(&local, host) && !get(&everywhere, host), "{host}");
        }
        assert!(!get(&local, "192.168.1.7:8000") && get(&everywhere, "192.168.1.7:8000"));
        assert_eq!(check(&local, Method::GET, &[]), Err((400, "invalid_value")));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let access = Access::new("127.0.0.1".parse().unwrap(), Vec::new(), Vec::new());
        let from = |origin: &str| check(&access, Method::GET, &[("host", "localhost:8000"), ("origin", origin)]);
        assert_eq!(from("http://localhost:8000"), Ok(()));
        for origin in ["http://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:8000", ""] {
            assert_eq!(from(origin), Err((403, "forbidden_origin")), "{origin}");
        }
    }

    #[test]
    fn bodies_are_json_and_keys_are_right() {
        let access = Access::new("127.0.0.1".parse().unwrap(), Vec::new(), vec!["first".into(), "second".into()]);
        let post = |authorization: &str, content: &str| {
            let headers = [("host", "localhost"), ("authorization", authorization), ("content-type", content)];
            check(&access, Method::POST, &headers)
        };
        assert_eq!(post("Bearer second", "application/json; charset=utf-8"), Ok(()));
        assert_eq!(post("bearer first", "Application/JSON"), Ok(()));
        assert_eq!(post("Bearer first", "text/plain"), Err((415, "unsupported_media_type")));
        for wrong in ["Bearer firs", "Bearer ", "first", "Basic first", "Bearer firsta"] {
            assert_eq!(post(wrong, "application/json"), Err((401, "invalid_api_key")), "{wrong}");
        }
        assert_eq!(check(&access, Method::GET, &[("host", "localhost")]), Err((401, "invalid_api_key")));
    }
}
