//! Azure's chain of credentials: an account's key or a signature as its command line takes them, then what `DefaultAzureCredential` of its
//! libraries asks: a service principal, a job's token, the identity of the machine, who is logged in at the command line.
//! <https://learn.microsoft.com/dotnet/azure/sdk/authentication/credential-chains>.

use super::Settings;
use crate::lent::{Held, Lent, NEAR, Secret, ask, ask_with_form, of_oauth, of_program, read_small, safe, time, wrong};
use crate::variable;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use knapsack_bundle::cache::StoreError;
use ring::hmac;
use serde::Deserialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

const RESOURCE: &str = "https://storage.azure.com/";
const SCOPE: &str = "https://storage.azure.com/.default";
const AUTHORITY: &str = "https://login.microsoftonline.com";
const MACHINE: &str = "http://169.254.169.254";

/// What a request is sent with.
#[derive(Clone, Debug)]
pub(super) enum Key {
    /// An account's key, in Base64.
    Shared(Secret),
    /// A query that is a signature.
    Signature(Secret),
    Token(Secret),
}

#[derive(Debug)]
pub(super) enum Chain {
    Fixed(Key),
    Lent(Source, Held<Secret>),
}

/// Who is asked for tokens.
#[derive(Debug)]
pub(super) enum Source {
    /// A service principal with a secret, or a job with the file of its token.
    Principal { address: String, client: String, secret: Result<Secret, PathBuf> },
    /// The platform that hosts an app, with what it wants to hear.
    Platform { address: String, header: Secret },
    /// The machine, or else who is logged in at the command line.
    Machine { address: String, program: OsString },
}

impl Chain {
    pub(super) fn signature(text: &str) -> Self {
        Chain::Fixed(Key::Signature(Secret(text.trim_start_matches('?').to_owned())))
    }

    pub(super) fn find(lookup: &dyn Fn(&str) -> Option<OsString>, settings: &Settings) -> Result<Self, StoreError> {
        let get = |name: &str| variable(lookup, name);
        if let Some(key) = &settings.key {
            return Ok(Chain::Fixed(Key::Shared(Secret(key.clone()))));
        }
        if let Some(signature) = &settings.signature {
            return Ok(Self::signature(signature));
        }
        let client = get("AZURE_CLIENT_ID");
        let secret = get("AZURE_CLIENT_SECRET").map(|secret| Ok(Secret(secret)));
        let secret = secret.or_else(|| get("AZURE_FEDERATED_TOKEN_FILE").map(|file| Err(file.into())));
        let source = if let (Some(tenant), Some(client), Some(secret)) = (get("AZURE_TENANT_ID"), &client, secret) {
            let authority = safe(&get("AZURE_AUTHORITY_HOST").unwrap_or_else(|| AUTHORITY.to_owned()), &[])?;
            let address = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
            Source::Principal { address, client: client.clone(), secret }
        } else if let (Some(endpoint), Some(header)) = (get("IDENTITY_ENDPOINT"), get("IDENTITY_HEADER")) {
            let address = question(&endpoint, "2019-08-01", client.as_deref());
            Source::Platform { address, header: Secret(header) }
        } else {
            let host = get("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| MACHINE.to_owned());
            let address = format!("{}/metadata/identity/oauth2/token", host.trim_end_matches('/'));
            let program = if cfg!(windows) { "az.cmd" } else { "az" };
            Source::Machine { address: question(&address, "2018-02-01", client.as_deref()), program: program.into() }
        };
        Ok(Chain::Lent(source, Held::default()))
    }

    pub(super) fn key(&self) -> Result<Key, StoreError> {
        match self {
            Chain::Fixed(key) => Ok(key.clone()),
            Chain::Lent(source, held) => held.get(|| source.ask()).map(Key::Token),
        }
    }
}

fn question(address: &str, version: &str, client: Option<&str>) -> String {
    let mut pairs = vec![("api-version", version), ("resource", RESOURCE)];
    pairs.extend(client.map(|client| ("client_id", client)));
    format!("{address}?{}", crate::sign::query(&pairs))
}

impl Source {
    fn ask(&self) -> Result<Lent<Secret>, StoreError> {
        match self {
            Source::Principal { address, client, secret } => {
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                let own = match secret {
                    Ok(secret) => vec![("client_secret", secret.0.clone())],
                    Err(file) => {
                        let token =
                            read_small(file).ok_or_else(|| wrong("the file of the job's token cannot be read"))?;
                        vec![("client_assertion_type", kind.to_owned()), ("client_assertion", token.trim().to_owned())]
                    }
                };
                let mut form = vec![("grant_type", "client_credentials"), ("client_id", client), ("scope", SCOPE)];
                form.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
                ask_with_form(address, &form)
            }
            // It is on this machine's own network, whatever its address.
            Source::Platform { address, header } => {
                of_oauth(&ask(NEAR, "GET", address, &[("x-identity-header", &header.0)], "")?)
            }
            Source::Machine { address, program } => {
                let found = ask(NEAR, "GET", address, &[("metadata", "true")], "").and_then(|answer| of_oauth(&answer));
                found.or_else(|error| of_command_line(program).ok_or(error)).map_err(|error| {
                    let nothing =
                        "neither AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, a service principal nor `az login`";
                    StoreError::new(format!("{}: {nothing}", error.problem))
                })
            }
        }
    }
}

/// The token of who is logged in at Azure's command line.
fn of_command_line(program: &OsString) -> Option<Lent<Secret>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Printed {
        access_token: Secret,
        #[serde(rename = "expires_on")]
        expires_on: Option<i64>,
    }
    let mut command = Command::new(program);
    command.args(["account", "get-access-token", "--output", "json", "--resource", RESOURCE]);
    let found: Printed = serde_json::from_slice(&of_program(command)?).ok()?;
    let expires = found.expires_on.and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    Some((found.access_token, expires.and_then(|when| time(&when.to_rfc3339()))))
}

/// A text signed with a key that is Base64, in Base64.
pub(super) fn hmac(key: &str, text: &str) -> Option<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(key).ok()?);
    Some(STANDARD.encode(hmac::sign(&key, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lent::peer::{lookup, server};

    const TOKEN: &str = r#"{"access_token": "TOKEN", "expires_in": "3599", "token_type": "Bearer"}"#;

    fn ask_for(pairs: &[(&str, &str)]) -> Result<String, String> {
        let chain = Chain::find(&lookup(pairs), &Settings::default()).map_err(|error| error.problem)?;
        assert!(!format!("{chain:?}").contains("S3CRET"), "{chain:?}");
        match chain.key().map_err(|error| error.problem)? {
            Key::Token(token) => Ok(token.0),
            key => panic!("{key:?}"),
        }
    }

    #[test]
    fn principals_and_jobs_are_asked_for() {
        let address = server(|first, _, body| {
            let own = body.contains("client_secret=S3CRET") || body.contains("client_assertion=ey.J0b");
            let right =
                own && body.contains("client_id=C") && body.contains("scope=https%3A%2F%2Fstorage.azure.com%2F");
            if right && first == "post /t/oauth2/v2.0/token" { (200, TOKEN.into()) } else { (401, String::new()) }
        });
        let whole = [("AZURE_AUTHORITY_HOST", &*address), ("AZURE_TENANT_ID", "T"), ("AZURE_CLIENT_ID", "C")];
        let with = |extra: (&'static str, &str)| {
            let pairs: Vec<_> = whole.iter().copied().chain([extra]).collect();
            ask_for(&pairs)
        };
        assert_eq!(with(("AZURE_CLIENT_SECRET", "S3CRET")).unwrap(), "TOKEN");
        let refused = with(("AZURE_CLIENT_SECRET", "another")).unwrap_err();
        assert!(refused.contains("401") && !refused.contains("another"), "{refused}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "ey.J0b\n").unwrap();
        assert_eq!(with(("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap())).unwrap(), "TOKEN");
        let open = [
            ("AZURE_AUTHORITY_HOST", "http://elsewhere.example"),
            ("AZURE_TENANT_ID", "T"),
            ("AZURE_CLIENT_ID", "C"),
            ("AZURE_CLIENT_SECRET", "S3CRET"),
        ];
        assert!(ask_for(&open).unwrap_err().contains("open network"));
    }

    #[test]
    fn platforms_and_machines_are_asked_for() {
        let address = server(|first, headers, _| {
            let platform = first.starts_with("get /msi?api-version=2019-08-01&resource=https%3a%2f%2fstorage")
                && headers.contains("x-identity-header: s3cret");
            let machine = first.starts_with("get /metadata/identity/oauth2/token?api-version=2018-02-01&client_id=c&")
                && headers.contains("metadata: true");
            if platform || machine { (200, TOKEN.into()) } else { (400, String::new()) }
        });
        let msi = format!("{address}/msi");
        assert_eq!(ask_for(&[("IDENTITY_ENDPOINT", &msi), ("IDENTITY_HEADER", "S3CRET")]).unwrap(), "TOKEN");
        let machine = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", &*address), ("AZURE_CLIENT_ID", "C")];
        assert_eq!(ask_for(&machine).unwrap(), "TOKEN");
        let nobody = Source::Machine { address: "http://127.0.0.1:9/x".into(), program: "/nowhere/az".into() };
        assert!(nobody.ask().unwrap_err().problem.contains("az login"));
    }

    #[cfg(unix)]
    #[test]
    fn who_is_logged_in_is_asked_last() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let az = folder.path().join("az");
        let script = "#!/bin/sh\n[ \"$1 $2\" = 'account get-access-token' ] || exit 1\n\
                      echo '{\"accessToken\": \"OWN\", \"expires_on\": 4102444800, \"tokenType\": \"Bearer\"}'\n";
        std::fs::write(&az, script).unwrap();
        std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o755)).unwrap();
        let source = Source::Machine { address: "http://127.0.0.1:9/x".into(), program: az.into() };
        let (token, expires) = source.ask().unwrap();
        assert!(token == Secret("OWN".into()) && expires.is_some());
    }
}
