//! Credentials of the role that a machine or a job has. Somebody has to be asked for them, and they expire; in the order in which Amazon's
//! own tools look: <https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>.

use crate::credentials::Credentials;
use crate::lent::{FAR, Lent, NEAR, ask, read_small, safe, time};
use crate::sign::query;
use crate::variable;
use crate::xml::walk;
use knapsack_bundle::cache::StoreError;
use serde::Deserialize;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

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
    pub(crate) fn ask(&self) -> Result<Lent<Credentials>, StoreError> {
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
                let answer = ask(FAR, "POST", &format!("{endpoint}/"), &header, &form)?;
                of_xml(&answer.body).ok_or_else(|| wrong("the service of tokens answers something else"))
            }
            Role::Container { address, token, token_file } => {
                let from_file = token_file.as_ref().map(|file| {
                    read_small(file).ok_or_else(|| wrong("the file of the container's token cannot be read"))
                });
                let token = from_file.transpose()?.or_else(|| token.clone());
                let header: Vec<_> = token.iter().map(|token| ("authorization", token.trim())).collect();
                of_json(&ask(NEAR, "GET", address, &header, "")?.body)
            }
            Role::Instance { endpoint } => {
                // Whoever can only make this machine fetch an address cannot get a token.
                let life = [("x-aws-ec2-metadata-token-ttl-seconds", "21600")];
                let token = text(&ask(NEAR, "PUT", &format!("{endpoint}/latest/api/token"), &life, "")?)?;
                let header = [("x-aws-ec2-metadata-token", token.as_str())];
                let place = format!("{endpoint}/latest/meta-data/iam/security-credentials/");
                let names = text(&ask(NEAR, "GET", &place, &header, "")?)?;
                let name = names.lines().next().unwrap_or_default().trim();
                of_json(&ask(NEAR, "GET", &format!("{place}{name}"), &header, "")?.body)
            }
        }
    }
}

fn wrong(problem: &str) -> StoreError {
    crate::lent::wrong(&format!("of a role: {problem}"))
}

fn text(answer: &crate::client::Answer) -> Result<String, StoreError> {
    std::str::from_utf8(&answer.body).map(|text| text.trim().to_owned()).map_err(|_| wrong("the answer is no text"))
}

/// Credentials as those who host containers and machines have them, and programs that know some.
pub(crate) fn of_json(answer: &[u8]) -> Result<Lent<Credentials>, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Written {
        access_key_id: String,
        secret_access_key: String,
        #[serde(alias = "SessionToken")]
        token: Option<String>,
        expiration: Option<String>,
    }
    let written: Written = serde_json::from_slice(answer).map_err(|_| wrong("the answer is something else"))?;
    let Written { access_key_id: id, secret_access_key: secret, token: session, expiration } = written;
    Ok((Credentials { id, secret, session }, expiration.as_deref().and_then(time)))
}

/// The elements of `<Credentials>`.
fn of_xml(answer: &[u8]) -> Option<Lent<Credentials>> {
    let (mut id, mut secret, mut session, mut expires) = (None, None, None, None);
    walk(answer, |path, text| {
        if let ([.., "Credentials", name], Some(text)) = (path, text) {
            match *name {
                "AccessKeyId" => id = Some(text.to_owned()),
                "SecretAccessKey" => secret = Some(text.to_owned()),
                "SessionToken" => session = Some(text.to_owned()),
                "Expiration" => expires = time(text),
                _ => {}
            }
        }
        Some(())
    })?;
    Some((Credentials { id: id?, secret: secret?, session }, expires))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lent::peer::{lookup, server};

    const JSON: &str = r#"{"Code": "Success", "AccessKeyId": "A", "SecretAccessKey": "B", "Token": "C",
        "Expiration": "2030-01-01T00:00:00Z"}"#;

    fn expected() -> Lent<Credentials> {
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
