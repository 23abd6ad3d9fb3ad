//! Credentials of the role that a machine or a job has. Somebody has to be asked for them, and they expire; in the order in which Amazon's
//! own tools look: <https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>.

use crate::client::{Answer, Client};
use crate::credentials::{Credentials, read_small};
use crate::sign::query;
use crate::{Patience, variable};
use knapsack_bundle::cache::StoreError;
use quick_xml::Reader;
use quick_xml::events::Event;
use serde::Deserialize;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use ureq::http::{Request, Uri};

/// Longest answer that is read.
const MAX_ANSWER: u64 = 64 << 10;
/// Whoever answers is on the machine itself or beside it, but for the service of tokens.
const NEAR: Patience = Patience {
    connect: Duration::from_secs(1),
    answer: Duration::from_secs(5),
    whole: Duration::from_secs(10),
    attempts: 2,
    pause: Duration::from_millis(100),
};
/// What a container's orchestrator answers at, where only a path is given.
const CONTAINER: &str = "http://169.254.170.2";
/// Hosts that may be asked without TLS besides loopback: those of Amazon's orchestrators.
const ORCHESTRATORS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];
const INSTANCE: &str = "http://169.254.169.254";

/// Who is asked.
pub(crate) enum Role {
    /// The service of tokens, for what a job's own token is worth.
    WebIdentity { endpoint: String, token: PathBuf, role: String, session: String },
    /// The orchestrator of a container.
    Container { address: String, token: Option<String>, token_file: Option<PathBuf> },
    /// The machine that hosts this one.
    Instance { endpoint: String },
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::WebIdentity { .. } => "WebIdentity(…)",
            Role::Container { .. } => "Container(…)",
            Role::Instance { .. } => "Instance",
        })
    }
}

/// Credentials and when they expire.
pub(crate) type Lent = (Credentials, Option<SystemTime>);

impl Role {
    /// A job's token, as Kubernetes and CI services place it.
    pub(crate) fn of_token(
        lookup: &dyn Fn(&str) -> Option<OsString>,
        region: &str,
    ) -> Result<Option<Self>, StoreError> {
        let get = |name: &str| variable(lookup, name);
        let (Some(token), Some(role)) = (get("AWS_WEB_IDENTITY_TOKEN_FILE"), get("AWS_ROLE_ARN")) else {
            return Ok(None);
        };
        let endpoint = get("AWS_ENDPOINT_URL_STS").or_else(|| get("AWS_ENDPOINT_URL"));
        let endpoint = endpoint.unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com"));
        let endpoint = safe(&endpoint, &[])?.trim_end_matches('/').to_owned();
        let session = get("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "knapsack".to_owned());
        Ok(Some(Role::WebIdentity { endpoint, token: token.into(), role, session }))
    }

    /// A container's role, or else the machine's, unless the machine is not to be asked.
    pub(crate) fn of_machine(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<Self>, StoreError> {
        let get = |name: &str| variable(lookup, name);
        let address = match (get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), get("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
            (Some(path), _) => Some(format!("{CONTAINER}/{}", path.trim_start_matches('/'))),
            (None, Some(whole)) => Some(safe(&whole, &ORCHESTRATORS)?),
            (None, None) => None,
        };
        if let Some(address) = address {
            let token_file = get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from);
            return Ok(Some(Role::Container { address, token: get("AWS_CONTAINER_AUTHORIZATION_TOKEN"), token_file }));
        }
        if get("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let endpoint = get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| INSTANCE.to_owned());
        Ok(Some(Role::Instance { endpoint: endpoint.trim_end_matches('/').to_owned() }))
    }

    /// Asks.
    pub(crate) fn ask(&self) -> Result<Lent, StoreError> {
        match self {
            Role::WebIdentity { endpoint, token, role, session } => {
                let token = read_small(token).ok_or_else(|| wrong("the file of the job's token cannot be read"))?;
                let form = query(&[
                    ("Action", "AssumeRoleWithWebIdentity"),
                    ("Version", "2011-06-15"),
                    ("RoleArn", role),
                    ("RoleSessionName", session),
                    ("WebIdentityToken", token.trim()),
                ]);
                let header = [("content-type", "application/x-www-form-urlencoded")];
                let patience = Patience { connect: Duration::from_secs(10), answer: Duration::from_secs(30), ..NEAR };
                let client = Client::new(endpoint, Patience { whole: Duration::from_secs(60), ..patience });
                let answer = ask(&client, "POST", &format!("{endpoint}/"), &header, &form)?;
                of_xml(&answer.body).ok_or_else(|| wrong("the service of tokens answers something else"))
            }
            Role::Container { address, token, token_file } => {
                let from_file = token_file.as_ref().map(|file| {
                    read_small(file).ok_or_else(|| wrong("the file of the container's token cannot be read"))
                });
                let token = from_file.transpose()?.or_else(|| token.clone());
                let header: Vec<_> = token.iter().map(|token| ("authorization", token.trim())).collect();
                of_json(&ask(&Client::new(address, NEAR), "GET", address, &header, "")?.body)
            }
            Role::Instance { endpoint } => {
                let client = Client::new(endpoint, NEAR);
                // Whoever can only make this machine fetch an address cannot get a token.
                let life = [("x-aws-ec2-metadata-token-ttl-seconds", "21600")];
                let token = text(&ask(&client, "PUT", &format!("{endpoint}/latest/api/token"), &life, "")?)?;
                let header = [("x-aws-ec2-metadata-token", token.as_str())];
                let place = format!("{endpoint}/latest/meta-data/iam/security-credentials/");
                let names = text(&ask(&client, "GET", &place, &header, "")?)?;
                let name = names.lines().next().unwrap_or_default().trim();
                of_json(&ask(&client, "GET", &format!("{place}{name}"), &header, "")?.body)
            }
        }
    }
}

fn wrong(problem: &str) -> StoreError {
    StoreError::new(format!("no credentials of a role: {problem}"))
}

/// An address that a token may go to: with TLS, or to this machine or one of `also`.
fn safe(address: &str, also: &[&str]) -> Result<String, StoreError> {
    let uri: Option<Uri> = address.parse().ok();
    let is_near = |host: &str| {
        let bare = host.trim_matches(['[', ']']);
        host == "localhost" || also.contains(&host) || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    let is_safe = uri.as_ref().is_some_and(|uri| match uri.scheme_str() {
        Some("https") => uri.host().is_some(),
        Some("http") => uri.host().is_some_and(is_near),
        _ => false,
    });
    if is_safe { Ok(address.to_owned()) } else { Err(wrong("a token would go over an open network")) }
}

fn ask(
    client: &Client,
    method: &str,
    address: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, StoreError> {
    let request = || {
        let request = headers.iter().fold(Request::builder().method(method).uri(address), |r, (k, v)| r.header(*k, *v));
        request.body(body.as_bytes().to_vec()).map_err(|_| wrong("an address or a token cannot be sent"))
    };
    let answer = client.send(MAX_ANSWER, &request).map_err(|error| wrong(&error.problem))?;
    match answer.status {
        200 => Ok(answer),
        status => Err(wrong(&format!("status {status}"))),
    }
}

fn text(answer: &Answer) -> Result<String, StoreError> {
    std::str::from_utf8(&answer.body).map(|text| text.trim().to_owned()).map_err(|_| wrong("the answer is no text"))
}

fn time(text: &str) -> Option<SystemTime> {
    chrono::DateTime::parse_from_rfc3339(text.trim()).ok().map(SystemTime::from)
}

fn of_json(answer: &[u8]) -> Result<Lent, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Written {
        access_key_id: String,
        secret_access_key: String,
        token: Option<String>,
        expiration: Option<String>,
    }
    let written: Written = serde_json::from_slice(answer).map_err(|_| wrong("the answer is something else"))?;
    let Written { access_key_id: id, secret_access_key: secret, token: session, expiration } = written;
    Ok((Credentials { id, secret, session }, expiration.as_deref().and_then(time)))
}

/// The elements of `<Credentials>`.
fn of_xml(answer: &[u8]) -> Option<Lent> {
    let mut reader = Reader::from_str(std::str::from_utf8(answer).ok()?);
    let (mut inside, mut value) = (false, String::new());
    let (mut id, mut secret, mut session, mut expires) = (None, None, None, None);
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                inside |= tag.local_name().into_inner() == "Credentials";
                value.clear();
            }
            Event::Text(piece) => value.push_str(&piece.xml10_content()),
            Event::End(tag) if inside => {
                let value = std::mem::take(&mut value);
                match tag.local_name().into_inner() {
                    "AccessKeyId" => id = Some(value),
                    "SecretAccessKey" => secret = Some(value),
                    "SessionToken" => session = Some(value),
                    "Expiration" => expires = time(&value),
                    "Credentials" => return Some((Credentials { id: id?, secret: secret?, session }, expires)),
                    _ => {}
                }
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    /// Answers one connection after the other with what `answer` makes of the request's first line, headers and body.
    fn server(answer: impl Fn(&str, &str, &str) -> (u16, String) + Send + 'static) -> String {
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

    const JSON: &str = r#"{"Code": "Success", "AccessKeyId": "A", "SecretAccessKey": "B", "Token": "C",
        "Expiration": "2030-01-01T00:00:00Z"}"#;

    fn lookup(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        let pairs: Vec<(String, OsString)> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        move |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    fn expected() -> Lent {
        let credentials = Credentials { id: "A".into(), secret: "B".into(), session: Some("C".into()) };
        (credentials, time("2030-01-01T00:00:00Z"))
    }

    #[test]
    fn a_machine_is_asked_with_a_token() {
        let address = server(|first, headers, _| match first {
            "put /latest/api/token" if headers.contains("x-aws-ec2-metadata-token-ttl-seconds: 21600") => {
                (200, "TOKEN".into())
            }
            _ if !headers.contains("x-aws-ec2-metadata-token: token") => (401, String::new()),
            "get /latest/meta-data/iam/security-credentials/" => (200, "builder\n".into()),
            "get /latest/meta-data/iam/security-credentials/builder" => (200, JSON.into()),
            _ => (404, String::new()),
        });
        let role = Role::of_machine(&lookup(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &address)])).unwrap().unwrap();
        assert!(role.ask().unwrap() == expected());
        assert!(Role::of_machine(&lookup(&[("AWS_EC2_METADATA_DISABLED", "true")])).unwrap().is_none());
        let nobody = lookup(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")]);
        assert!(Role::of_machine(&nobody).unwrap().unwrap().ask().is_err());
    }

    #[test]
    fn a_containers_token_goes_to_its_orchestrator_alone() {
        let address = server(|first, headers, _| match headers.contains("authorization: secret") {
            true if first == "get /creds" => (200, JSON.into()),
            _ => (403, String::new()),
        });
        let whole = format!("{address}/creds");
        let pairs = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*whole), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "secret")];
        let role = Role::of_machine(&lookup(&pairs)).unwrap().unwrap();
        assert!(role.ask().unwrap() == expected());
        assert!(!format!("{role:?}").contains("secret"));
        for open in ["http://elsewhere.example/creds", "ftp://127.0.0.1/x", "creds"] {
            let pairs = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", open), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "secret")];
            assert!(!Role::of_machine(&lookup(&pairs)).unwrap_err().problem.contains("secret"), "{open}");
        }
    }

    #[test]
    fn a_jobs_token_is_exchanged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "ey.J0b+\n").unwrap();
        let address = server(|first, _, body| {
            let right = body.contains("WebIdentityToken=ey.J0b%2B")
                && body.contains("RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx");
            match right && first == "post /" {
                true => (
                    200,
                    "<AssumeRoleWithWebIdentityResponse><Result><Subject>x</Subject><Credentials><SessionToken>C</SessionToken>\
                     <SecretAccessKey>B</SecretAccessKey><Expiration>2030-01-01T00:00:00Z</Expiration><AccessKeyId>A</AccessKeyId>\
                     </Credentials></Result></AssumeRoleWithWebIdentityResponse>"
                        .into(),
                ),
                false => (400, "no".into()),
            }
        });
        let find = |file: &str| {
            let pairs = [
                ("AWS_WEB_IDENTITY_TOKEN_FILE", file),
                ("AWS_ROLE_ARN", "arn:aws:iam::1:role/x"),
                ("AWS_ENDPOINT_URL_STS", &*address),
            ];
            Role::of_token(&lookup(&pairs), "us-east-1").unwrap().unwrap()
        };
        assert!(find(file.to_str().unwrap()).ask().unwrap() == expected());
        assert!(find("/nowhere/token").ask().unwrap_err().problem.contains("cannot be read"));
        std::fs::write(&file, "another").unwrap();
        let error = find(file.to_str().unwrap()).ask().unwrap_err().problem;
        assert!(error.contains("400") && !error.contains("another"), "{error}");
        for nonsense in ["", "<Credentials>", "<Credentials></Credentials>", "{}"] {
            assert!(of_xml(nonsense.as_bytes()).is_none());
        }
    }
}
