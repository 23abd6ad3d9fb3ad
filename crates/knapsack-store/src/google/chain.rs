//! Google's chain of credentials (Application Default Credentials): the file that a variable names, the one that `gcloud auth
//! application-default login` writes, the service account of the machine.
//! <https://cloud.google.com/docs/authentication/application-default-credentials>.

use crate::lent::{FAR, Held, Lent, NEAR, Secret, ask, ask_with_form, of_oauth, read_small, safe, time, wrong};
use crate::variable;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use knapsack_bundle::cache::StoreError;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// The variable that names a file.
pub(super) const FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
const TOKENS: &str = "https://oauth2.googleapis.com/token";
const MACHINE: &str = "metadata.google.internal";

/// Who is asked for tokens.
#[derive(Debug)]
enum Source {
    /// What a file of credentials says.
    File(Box<Written>),
    /// The machine that hosts this one; and whether it is only a guess that there is one.
    Machine { address: String },
}

#[derive(Debug)]
pub(super) struct Chain {
    source: Source,
    held: Held<Secret>,
}

/// A file of credentials, of one of three kinds.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Written {
    ServiceAccount {
        client_email: String,
        private_key: Secret,
        private_key_id: Option<String>,
        token_uri: Option<String>,
    },
    AuthorizedUser {
        client_id: String,
        client_secret: Secret,
        refresh_token: Secret,
        token_uri: Option<String>,
    },
    /// Whom another service knows: a job of a CI service above all.
    ExternalAccount {
        audience: String,
        subject_token_type: String,
        token_url: String,
        credential_source: Subject,
        service_account_impersonation_url: Option<String>,
    },
}

/// Where the other service's token is.
#[derive(Debug, Deserialize)]
struct Subject {
    file: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Default, Deserialize)]
struct Format {
    /// In which field of a JSON object it is; none: it is all there is.
    subject_token_field_name: Option<String>,
}

impl Chain {
    pub(super) fn find(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, StoreError> {
        let get = |name: &str| variable(lookup, name);
        let source = if let Some(file) = get(FILE) {
            let text = read_small(file.as_ref()).ok_or_else(|| wrong(&format!("the file of {FILE} cannot be read")))?;
            Source::File(Box::new(
                read(&text).ok_or_else(|| wrong(&format!("the file of {FILE} is of no known kind")))?,
            ))
        } else if let Some(text) = well_known(lookup).and_then(|file| read_small(&file)) {
            let written = read(&text).ok_or_else(|| wrong("gcloud's file of credentials is of no known kind"))?;
            Source::File(Box::new(written))
        } else {
            let host = get("GCE_METADATA_HOST").unwrap_or_else(|| MACHINE.to_owned());
            let path = "computeMetadata/v1/instance/service-accounts/default/token";
            Source::Machine { address: format!("http://{host}/{path}") }
        };
        Ok(Self { source, held: Held::default() })
    }

    pub(super) fn token(&self) -> Result<Secret, StoreError> {
        self.held.get(|| match &self.source {
            Source::File(written) => written.ask(),
            Source::Machine { address } => {
                let answer = ask(NEAR, "GET", address, &[("metadata-flavor", "Google")], "").map_err(|error| {
                    let nowhere = format!("neither {FILE} nor gcloud's own file, and no machine of Google's answers");
                    StoreError::new(format!("{}: {nowhere}", error.problem))
                })?;
                of_oauth(&answer)
            }
        })
    }
}

fn well_known(lookup: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let get = |name: &str| variable(lookup, name).map(PathBuf::from);
    let folder = get("CLOUDSDK_CONFIG").or_else(|| match cfg!(windows) {
        true => get("APPDATA").map(|folder| folder.join("gcloud")),
        false => get("HOME").map(|home| home.join(".config/gcloud")),
    });
    folder.map(|folder| folder.join("application_default_credentials.json"))
}

fn read(text: &str) -> Option<Written> {
    serde_json::from_str(text).ok()
}

impl Written {
    fn ask(&self) -> Result<Lent<Secret>, StoreError> {
        match self {
            Written::ServiceAccount { client_email, private_key, private_key_id, token_uri } => {
                let address = safe(token_uri.as_deref().unwrap_or(TOKENS), &[])?;
                let claim = signed(client_email, private_key, private_key_id.as_deref(), &address, SystemTime::now())?;
                let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
                ask_with_form(&address, &[("grant_type", grant), ("assertion", &claim)])
            }
            Written::AuthorizedUser { client_id, client_secret, refresh_token, token_uri } => {
                let address = safe(token_uri.as_deref().unwrap_or(TOKENS), &[])?;
                let form = [
                    ("grant_type", "refresh_token"),
                    ("client_id", client_id),
                    ("client_secret", &client_secret.0),
                    ("refresh_token", &refresh_token.0),
                ];
                ask_with_form(&address, &form)
            }
            Written::ExternalAccount {
                audience,
                subject_token_type,
                token_url,
                credential_source,
                service_account_impersonation_url,
            } => {
                let subject = credential_source.token()?;
                let form = [
                    ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                    ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
                    ("audience", audience),
                    ("scope", "https://www.googleapis.com/auth/cloud-platform"),
                    ("subject_token_type", subject_token_type),
                    ("subject_token", &subject.0),
                ];
                let lent = ask_with_form(&safe(token_url, &[])?, &form)?;
                match service_account_impersonation_url {
                    Some(address) => impersonate(&safe(address, &[])?, &lent.0),
                    None => Ok(lent),
                }
            }
        }
    }
}

impl Subject {
    fn token(&self) -> Result<Secret, StoreError> {
        let text = match (&self.file, &self.url) {
            (Some(file), None) => {
                read_small(file).ok_or_else(|| wrong("the file of the other service's token cannot be read"))?
            }
            (None, Some(address)) => {
                let headers: Vec<_> =
                    self.headers.iter().map(|(name, Secret(value))| (name.as_str(), value.as_str())).collect();
                let answer = ask(FAR, "GET", &safe(address, &[])?, &headers, "")?;
                String::from_utf8(answer.body).map_err(|_| wrong("the other service's token is no text"))?
            }
            _ => return Err(wrong("the other service's token is neither in a file nor at an address")),
        };
        let token = match &self.format.subject_token_field_name {
            Some(field) => {
                let value: Option<Value> = serde_json::from_str(&text).ok();
                let token = value.as_ref().and_then(|value| value.get(field)?.as_str()).map(str::to_owned);
                token.ok_or_else(|| wrong("the other service's answer lacks the token"))?
            }
            None => text.trim().to_owned(),
        };
        Ok(Secret(token))
    }
}

/// A service account's token for somebody who may act as it.
fn impersonate(address: &str, token: &Secret) -> Result<Lent<Secret>, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answered {
        access_token: Secret,
        expire_time: String,
    }
    let bearer = format!("Bearer {}", token.0);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let answer = ask(FAR, "POST", address, &headers, &json!({ "scope": [SCOPE] }).to_string())?;
    let found: Answered = serde_json::from_slice(&answer.body).map_err(|_| wrong("the answer is something else"))?;
    Ok((found.access_token, time(&found.expire_time)))
}

/// A claim that the key's owner is who it is (RFC 7523): good for an hour.
fn signed(
    email: &str,
    key: &Secret,
    key_id: Option<&str>,
    audience: &str,
    now: SystemTime,
) -> Result<String, StoreError> {
    let unusable = || wrong("the service account's private key cannot be used");
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let mut head = json!({ "alg": "RS256", "typ": "JWT" });
    if let Some(id) = key_id {
        head["kid"] = id.into();
    }
    let body = json!({ "iss": email, "scope": SCOPE, "aud": audience, "iat": seconds, "exp": seconds + 3600 });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claim = format!("{}.{}", encode(&head), encode(&body));
    let inner: String = key.0.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(inner).map_err(|_| unusable())?;
    let pair = RsaKeyPair::from_pkcs8(&der).map_err(|_| unusable())?;
    let mut signature = vec![0; pair.public().modulus_len()];
    let random = ring::rand::SystemRandom::new();
    pair.sign(&RSA_PKCS1_SHA256, &random, claim.as_bytes(), &mut signature).map_err(|_| unusable())?;
    Ok(format!("{claim}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lent::peer::{lookup, server};

    /// Made for this test: `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048`.
    const KEY: &str = include_str!("../../tests/data/rsa_key_of_nobody.pem");

    fn find(text: &Value) -> Result<Chain, StoreError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials.json");
        std::fs::write(&file, text.to_string()).unwrap();
        Chain::find(&lookup(&[(FILE, file.to_str().unwrap())]))
    }

    const TOKEN: &str = r#"{"access_token": "TOKEN", "expires_in": 3599, "token_type": "Bearer"}"#;

    #[test]
    fn a_service_account_signs_its_claim() {
        let address = server(|first, _, body| {
            let claim = body.split('&').find_map(|pair| pair.strip_prefix("assertion="));
            let parts: Vec<&str> = claim.unwrap_or_default().split('.').collect();
            let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
            let head: Value = serde_json::from_slice(&decode(parts[0])).unwrap();
            let body: Value = serde_json::from_slice(&decode(parts[1])).unwrap();
            let der = KEY.lines().filter(|line| !line.starts_with('-')).collect::<String>();
            let pair = RsaKeyPair::from_pkcs8(&STANDARD.decode(der).unwrap()).unwrap();
            let public = ring::signature::UnparsedPublicKey::new(
                &ring::signature::RSA_PKCS1_2048_8192_SHA256,
                pair.public().as_ref().to_vec(),
            );
            let is_signed = public.verify(format!("{}.{}", parts[0], parts[1]).as_bytes(), &decode(parts[2])).is_ok();
            let right = head["kid"] == "7" && body["iss"] == "ci@x.iam.gserviceaccount.com" && body["scope"] == SCOPE;
            match is_signed && right && first == "post /token" {
                true => (200, TOKEN.into()),
                false => (400, String::new()),
            }
        });
        let account = |key: &str| {
            json!({
                "type": "service_account", "client_email": "ci@x.iam.gserviceaccount.com", "private_key": key,
                "private_key_id": "7", "token_uri": format!("{address}/token")
            })
        };
        let chain = find(&account(KEY)).unwrap();
        assert_eq!(chain.token().unwrap(), Secret("TOKEN".into()));
        assert!(!format!("{chain:?}").contains("BEGIN"));
        assert!(!format!("{chain:?}").contains("TOKEN"));
        for bad in ["", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"] {
            let problem = find(&account(bad)).unwrap().token().unwrap_err().problem;
            assert!(problem.contains("private key") && !problem.contains("c2Vj"), "{problem}");
        }
    }

    #[test]
    fn a_user_and_another_services_job_are_asked_for() {
        let address = server(|first, headers, body| match first {
            "post /token" if body.contains("refresh_token=R%2F1") && body.contains("client_secret=S") => {
                (200, TOKEN.into())
            }
            "get /job?audience=x" if headers.contains("authorization: bearer j0b") => {
                (200, r#"{"value": "SUBJECT"}"#.into())
            }
            "post /exchange" if body.contains("subject_token=SUBJECT") => (200, r#"{"access_token": "F"}"#.into()),
            "post /as:generateaccesstoken" if headers.contains("authorization: bearer f") => {
                (200, r#"{"accessToken": "TOKEN", "expireTime": "2030-01-01T00:00:00Z"}"#.into())
            }
            _ => (403, String::new()),
        });
        let user = json!({
            "type": "authorized_user", "client_id": "C", "client_secret": "S", "refresh_token": "R/1",
            "token_uri": format!("{address}/token")
        });
        assert_eq!(find(&user).unwrap().token().unwrap(), Secret("TOKEN".into()));
        let job = json!({
            "type": "external_account", "audience": "//iam.googleapis.com/x",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": format!("{address}/exchange"),
            "service_account_impersonation_url": format!("{address}/as:generateAccessToken"),
            "credential_source": {
                "url": format!("{address}/job?audience=x"), "headers": { "Authorization": "Bearer J0B" },
                "format": { "type": "json", "subject_token_field_name": "value" }
            }
        });
        assert_eq!(find(&job).unwrap().token().unwrap(), Secret("TOKEN".into()));
        let open = json!({
            "type": "authorized_user", "client_id": "C", "client_secret": "S", "refresh_token": "R",
            "token_uri": "http://elsewhere.example/token"
        });
        assert!(find(&open).unwrap().token().unwrap_err().problem.contains("open network"));
        assert!(
            find(&json!({ "type": "other", "private_key": "hidden" })).unwrap_err().problem.contains("no known kind")
        );
    }

    #[test]
    fn the_machine_is_asked_last() {
        let address = server(|first, headers, _| match first {
            "get /computemetadata/v1/instance/service-accounts/default/token"
                if headers.contains("metadata-flavor: google") =>
            {
                (200, TOKEN.into())
            }
            _ => (404, String::new()),
        });
        let host = address.trim_start_matches("http://");
        let chain = Chain::find(&lookup(&[("GCE_METADATA_HOST", host)])).unwrap();
        assert_eq!(chain.token().unwrap(), Secret("TOKEN".into()));
        let nobody =
            Chain::find(&lookup(&[("GCE_METADATA_HOST", "127.0.0.1:9")])).unwrap().token().unwrap_err().problem;
        assert!(nobody.contains(FILE), "{nobody}");
        assert!(Chain::find(&lookup(&[(FILE, "/nowhere")])).unwrap_err().problem.contains(FILE));
    }
}
