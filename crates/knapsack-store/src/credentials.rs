//! Amazon's chain of credentials, as far as a developer's machine and a CI job have them: the environment, then the file that
//! `aws configure` writes.

use crate::variable;
use knapsack_bundle::cache::StoreError;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Longest file of credentials that is read.
const MAX_FILE: u64 = 1 << 20;

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
    pub(crate) fn find(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, StoreError> {
        let get = |name: &str| variable(lookup, name);
        if let (Some(id), Some(secret)) = (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
            return Ok(Self { id, secret, session: get("AWS_SESSION_TOKEN") });
        }
        let home =
            || get("HOME").or_else(|| get("USERPROFILE")).map(|home| PathBuf::from(home).join(".aws/credentials"));
        let file = get("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(home);
        let profile = get("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
        let text = file.as_ref().and_then(|file| {
            let small = std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.len() <= MAX_FILE);
            small.then(|| std::fs::read_to_string(file).ok()).flatten()
        });
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
            Credentials::find(&|name| match name {
                "AWS_SHARED_CREDENTIALS_FILE" => Some(file.clone().into()),
                _ => pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)),
            })
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
        for profile in ["half", "absent"] {
            assert!(find(&[("AWS_PROFILE", profile)]).unwrap_err().problem.contains(profile));
        }
        assert_eq!(format!("{:?}", of("A", "B", None)), "Credentials(…)");
    }
}
