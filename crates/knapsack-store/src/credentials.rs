//! Amazon's chain of credentials, in the order in which its own tools look: the environment, a job's token, the profile of its two files, the
//! role of the container or of the machine. What a profile says of single sign-on, of roles and of logins Amazon's own command line is
//! asked for, as whoever wrote such a profile has it.

use crate::lent::{Held, Lent, of_program, wrong};
use crate::profile::Profile;
use crate::roles::{Role, of_json};
use crate::variable;
use knapsack_bundle::cache::StoreError;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::process::Command;

/// Properties of a profile whose credentials somebody has to be asked for.
const LENT: [&str; 4] = ["role_arn", "sso_session", "sso_start_url", "login_session"];

/// Where credentials come from.
#[derive(Debug)]
pub(crate) enum Chain {
    /// They are what they are.
    Own(Credentials),
    /// They are lent for a time; what else was looked for before, where that is the last there is.
    Role(Role, Option<String>, Held<Credentials>),
    /// A program of this machine knows them.
    Program(Program, Held<Credentials>),
}

impl Chain {
    /// Of the environment or the files: for stores whose roles are not Amazon's.
    pub(crate) fn own(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, StoreError> {
        let profile = Profile::read(lookup);
        let found = Credentials::of_environment(lookup).or_else(|| Credentials::of_profile(&profile));
        found.map(Chain::Own).ok_or_else(|| missing(&profile))
    }

    pub(crate) fn find(
        lookup: &dyn Fn(&str) -> Option<OsString>,
        profile: &Profile,
        region: &str,
    ) -> Result<Self, StoreError> {
        if let Some(own) = Credentials::of_environment(lookup) {
            return Ok(Chain::Own(own));
        }
        if let Some(role) = Role::of_token(lookup, region)? {
            return Ok(Chain::Role(role, None, Held::default()));
        }
        if let Some(program) = Program::of_role(profile) {
            return Ok(Chain::Program(program, Held::default()));
        }
        if let Some(own) = Credentials::of_profile(profile) {
            return Ok(Chain::Own(own));
        }
        if let Some(program) = Program::of_profile(profile) {
            return Ok(Chain::Program(program, Held::default()));
        }
        let missing = missing(profile);
        // Who names a profile wants that one.
        let role = if profile.is_named { None } else { Role::of_machine(lookup)? };
        match role {
            Some(role) => Ok(Chain::Role(role, Some(missing.problem), Held::default())),
            None => Err(missing),
        }
    }

    pub(crate) fn credentials(&self) -> Result<Credentials, StoreError> {
        match self {
            Chain::Own(own) => Ok(own.clone()),
            Chain::Program(program, held) => held.get(|| program.ask()),
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

fn missing(profile: &Profile) -> StoreError {
    StoreError::new(format!(
        "there are no credentials: neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY nor the profile {:?} in Amazon's files",
        profile.name
    ))
}

/// A program that prints credentials as Amazon's tools expect them of `credential_process`.
pub(crate) struct Program {
    program: OsString,
    arguments: Vec<String>,
    /// One line for the system's shell, in place of the two.
    line: Option<String>,
    profile: String,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Program(…)")
    }
}

impl Program {
    /// For a profile with a role, single sign-on or a login: `aws`.
    fn of_role(profile: &Profile) -> Option<Self> {
        LENT.iter().any(|property| profile.get(property).is_some()).then(|| Self::command_line("aws".as_ref(), profile))
    }

    fn command_line(program: &OsStr, profile: &Profile) -> Self {
        let words = ["configure", "export-credentials", "--format", "process", "--profile", &profile.name];
        let arguments = words.map(str::to_owned).to_vec();
        Self { program: program.to_owned(), arguments, line: None, profile: profile.name.clone() }
    }

    /// The one that a profile names.
    fn of_profile(profile: &Profile) -> Option<Self> {
        let line = profile.get("credential_process")?;
        let (program, arguments) = (OsString::new(), Vec::new());
        Some(Self { program, arguments, line: Some(line), profile: profile.name.clone() })
    }

    fn ask(&self) -> Result<Lent<Credentials>, StoreError> {
        let command = match &self.line {
            Some(line) => shell(line),
            None => {
                let mut command = Command::new(&self.program);
                command.args(&self.arguments);
                command
            }
        };
        let name = &self.profile;
        let printed = of_program(command).ok_or_else(|| {
            wrong(&match &self.line {
                Some(_) => format!("the credential_process of the profile {name:?} fails: run it by itself to see why"),
                None => format!(
                    "the profile {name:?} has a role, single sign-on or a login, so Amazon's command line (version 2) was asked; \
                     `aws configure export-credentials --profile {name}` says why it fails, and `aws sso login` or `aws login` \
                     may be what is missing"
                ),
            })
        })?;
        of_json(&printed)
    }
}

/// A line as the system's shell takes it apart.
fn shell(line: &str) -> Command {
    #[cfg(windows)]
    {
        use std::os::windows::process::CommandExt;
        let mut command = Command::new("cmd");
        command.raw_arg(format!("/C {line}"));
        command
    }
    #[cfg(not(windows))]
    {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
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

    fn of_profile(profile: &Profile) -> Option<Self> {
        Some(Self {
            id: profile.get("aws_access_key_id")?,
            secret: profile.get("aws_secret_access_key")?,
            session: profile.get("aws_session_token"),
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
            Chain::find(&lookup, &Profile::read(&lookup), "us-east-1").and_then(|chain| chain.credentials())
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
        let problem =
            Chain::find(&empty, &Profile::read(&empty), "us-east-1").unwrap().credentials().unwrap_err().problem;
        assert!(problem.contains("AWS_ACCESS_KEY_ID") && problem.contains("role"), "{problem}");
        // Other stores know nothing of Amazon's roles.
        assert!(Chain::own(&empty).unwrap_err().problem.contains("AWS_ACCESS_KEY_ID"));
        for profile in ["half", "absent"] {
            assert!(find(&[("AWS_PROFILE", profile)]).unwrap_err().problem.contains(profile));
        }
        assert_eq!(format!("{:?}", of("A", "B", None)), "Credentials(…)");
    }

    #[cfg(unix)]
    #[test]
    fn a_profile_may_name_who_knows_and_amazons_command_line_knows_the_rest() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let own = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let printed = r#"{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "S3CRET", "SessionToken": "C",
            "Expiration": "2030-01-01T00:00:00Z"}"#;
        std::fs::write(own("printed"), printed).unwrap();
        let config = format!(
            "[profile own]\ncredential_process = cat '{0}'\n[profile fails]\ncredential_process = cat '{0}'; exit 3\n\
             [profile nonsense]\ncredential_process = echo S3CRET\n[profile endless]\ncredential_process = yes S3CRET\n\
             [profile sso]\nsso_session = x\n",
            own("printed")
        );
        std::fs::write(own("config"), config).unwrap();
        let ask = |profile: &str| {
            let pairs = [("AWS_CONFIG_FILE", own("config")), ("AWS_PROFILE", profile.to_owned())];
            let lookup =
                |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            let profile = Profile::read(&lookup);
            (Chain::find(&lookup, &profile, "us-east-1").unwrap(), profile)
        };
        let expected = Credentials { id: "A".into(), secret: "S3CRET".into(), session: Some("C".into()) };
        let (chain, _) = ask("own");
        assert_eq!(chain.credentials().unwrap(), expected);
        assert!(!format!("{chain:?}").contains("S3CRET"));
        for bad in ["fails", "nonsense", "endless"] {
            let problem = ask(bad).0.credentials().unwrap_err().problem;
            assert!(!problem.contains("S3CRET"), "{bad}: {problem}");
        }
        // Amazon's command line, as far as it matters.
        let aws = own("aws");
        let script = format!(
            "#!/bin/sh\n[ \"$*\" = 'configure export-credentials --format process --profile sso' ] && cat '{}'\n",
            own("printed")
        );
        std::fs::write(&aws, script).unwrap();
        std::fs::set_permissions(&aws, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (chain, profile) = ask("sso");
        assert!(matches!(chain, Chain::Program(..)));
        let (credentials, expires) = Program::command_line(aws.as_ref(), &profile).ask().unwrap();
        assert!(credentials == expected && expires.is_some());
        let nobody = Program::command_line("/nowhere/aws".as_ref(), &profile).ask().unwrap_err().problem;
        assert!(nobody.contains("export-credentials --profile sso"), "{nobody}");
    }
}
