//! Amazon's chain of credentials, without `~/.aws/config`: the environment, a job's token, the file that `aws configure` writes, the role of the container or of
//! the machine.

use crate::lent::{Held, read_small};
use crate::roles::Role;
use crate::variable;
use knapsack_bundle::cache::StoreError;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Where credentials come from.
#[derive(Debug)]
pub(crate) enum Chain {
    /// They are what they are.
    Own(Credentials),
    /// They are lent for a time; what else was looked for before, where that is the last there is.
    Role(Role, Option<String>, Held<Credentials>),
}

impl Chain {
    /// Of the environment or the file: for stores whose roles are not Amazon's.
    pub(crate) fn own(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, StoreError> {
        Credentials::of_environment(lookup).map_or_else(|| Credentials::of_file(lookup), Ok).map(Chain::Own)
    }

    pub(crate) fn find(lookup: &dyn Fn(&str) -> Option<OsString>, region: &str) -> Result<Self, StoreError> {
        if let Some(own) = Credentials::of_environment(lookup) {
            return Ok(Chain::Own(own));
        }
        if let Some(role) = Role::of_token(lookup, region)? {
            return Ok(Chain::Role(role, None, Held::default()));
        }
        let missing = match Credentials::of_file(lookup) {
            Ok(own) => return Ok(Chain::Own(own)),
            Err(missing) => missing,
        };
        // Who names a profile wants that one.
        let role = if variable(lookup, "AWS_PROFILE").is_some() { None } else { Role::of_machine(lookup)? };
        match role {
            Some(role) => Ok(Chain::Role(role, Some(missing.problem), Held::default())),
            None => Err(missing),
        }
    }

    pub(crate) fn credentials(&self) -> Result<Credentials, StoreError> {
        match self {
            Chain::Own(own) => Ok(own.clone()),
            Chain::Role(role, missing, held) => held.get(|| {
                role.ask().map_err(|error| match missing {
                    Some(missing) => {
                        StoreError::new(format!("{missing}; nor has the machine a role: {}", error.problem))
                    }
                    None => error,
                })
            }),
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) session: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    fn of_environment(lookup: &dyn Fn(&str) -> Option<OsString>) -> Option<Self> {
        let get = |name: &str| variable(lookup, name);
        let (id, secret) = (get("AWS_ACCESS_KEY_ID")?, get("AWS_SECRET_ACCESS_KEY")?);
        Some(Self { id, secret, session: get("AWS_SESSION_TOKEN") })
    }

    fn of_file(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, StoreError> {
        let get = |name: &str| variable(lookup, name);
        let home =
            || get("HOME").or_else(|| get("USERPROFILE")).map(|home| PathBuf::from(home).join(".aws/credentials"));
        let file = get("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(home);
        let profile = get("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
        let text = file.and_then(|file| read_small(&file));
        text.and_then(|text| Self::of_profile(&text, &profile)).ok_or_else(|| {
            StoreError::new(format!(
                "there are no credentials: neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY nor the profile {profile:?} in \
                 Amazon's credentials file"
            ))
        })
    }

    /// `[profile]`, then `name = value`.
    fn of_profile(text: &str, profile: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim);
        let own =
            lines.skip_while(|line| line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) != Some(profile)).skip(1);
        let pairs: Vec<_> =
            own.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once('=')).collect();
        let get = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_owned())
        };
        Some(Self {
            id: get("aws_access_key_id")?,
            secret: get("aws_secret_access_key")?,
            session: get("aws_session_token"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_comes_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        let text = "[default]\naws_access_key_id = A\naws_secret_access_key=B\n\n[ci]\nAWS_ACCESS_KEY_ID=C\n\
                    aws_secret_access_key = D==\naws_session_token = E\n[half]\naws_access_key_id = F\n";
        std::fs::write(&file, text).unwrap();
        let find = |pairs: &[(&str, &str)]| {
            let lookup = |name: &str| match name {
                "AWS_SHARED_CREDENTIALS_FILE" => Some(file.clone().into()),
                _ => pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)),
            };
            Chain::find(&lookup, "us-east-1").and_then(|chain| chain.credentials())
        };
        let of = |id: &str, secret: &str, session: Option<&str>| Credentials {
            id: id.into(),
            secret: secret.into(),
            session: session.map(Into::into),
        };
        assert_eq!(find(&[]).unwrap(), of("A", "B", None));
        assert_eq!(find(&[("AWS_PROFILE", "ci")]).unwrap(), of("C", "D==", Some("E")));
        let both = [("AWS_ACCESS_KEY_ID", "X"), ("AWS_SECRET_ACCESS_KEY", "Y"), ("AWS_PROFILE", "ci")];
        assert_eq!(find(&both).unwrap(), of("X", "Y", None));
        // A machine that has no role either still tells what else was looked for.
        let empty = |name: &str| match name {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT" => Some(OsString::from("http://127.0.0.1:9")),
            _ => None,
        };
        let problem = Chain::find(&empty, "us-east-1").unwrap().credentials().unwrap_err().problem;
        assert!(problem.contains("AWS_ACCESS_KEY_ID") && problem.contains("role"), "{problem}");
        // Other stores know nothing of Amazon's roles.
        assert!(Chain::own(&empty).unwrap_err().problem.contains("AWS_ACCESS_KEY_ID"));
        for profile in ["half", "absent"] {
            assert!(find(&[("AWS_PROFILE", profile)]).unwrap_err().problem.contains(profile));
        }
        assert_eq!(format!("{:?}", of("A", "B", None)), "Credentials(…)");
    }
}
