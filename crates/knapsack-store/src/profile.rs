//! A profile of Amazon's two files, `~/.aws/config` and `~/.aws/credentials`:
//! <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>.

use crate::lent::read_small;
use crate::variable;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// What both files say of it.
pub(crate) struct Profile {
    pub(crate) name: String,
    /// It was asked for by its name.
    pub(crate) is_named: bool,
    /// A property of a property is `outer.inner`.
    properties: BTreeMap<String, String>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Profile({:?}, …)", self.name)
    }
}

impl Profile {
    /// The one that `AWS_PROFILE` names, or else `default`; where there are no files it is empty.
    pub(crate) fn read(lookup: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| variable(lookup, name);
        let named = get("AWS_PROFILE").or_else(|| get("AWS_DEFAULT_PROFILE"));
        let file = |variable: &str, place: &str| {
            let home = || get("HOME").or_else(|| get("USERPROFILE")).map(|home| PathBuf::from(home).join(place));
            let file = get(variable).map(PathBuf::from).or_else(home);
            file.and_then(|file| read_small(&file)).unwrap_or_default()
        };
        let config = file("AWS_CONFIG_FILE", ".aws/config");
        let secrets = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
        let name = named.clone().unwrap_or_else(|| "default".to_owned());
        let heading = if name == "default" { name.clone() } else { format!("profile {name}") };
        let mut properties = section(&config, &heading);
        if let Some(services) = properties.get("services").map(|services| format!("services {services}")) {
            let own = std::mem::replace(&mut properties, section(&config, &services));
            properties.extend(own);
        }
        // What is in both files counts as it is in the one of secrets.
        properties.extend(section(&secrets, &name));
        Self { name, is_named: named.is_some(), properties }
    }

    pub(crate) fn get(&self, property: &str) -> Option<String> {
        self.properties.get(property).filter(|value| !value.is_empty()).cloned()
    }
}

/// The properties below a heading, whose words may be quoted.
fn section(text: &str, heading: &str) -> BTreeMap<String, String> {
    let (mut inside, mut outer, mut found) = (false, String::new(), BTreeMap::new());
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with(['#', ';']));
    for line in lines {
        if let Some(title) = line.trim().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let words = title.0.replace(['"', '\''], "");
            inside = words.split_whitespace().eq(heading.split_whitespace());
            outer.clear();
        } else if let (true, Some((name, value))) = (inside, line.split_once('=')) {
            let (mut name, value) = (name.trim().to_ascii_lowercase(), without_comment(value).trim().to_owned());
            if line.starts_with([' ', '\t']) && !outer.is_empty() {
                name = format!("{outer}.{name}");
            } else {
                // Only what has no value of its own has properties.
                outer = if value.is_empty() { name.clone() } else { String::new() };
            }
            found.insert(name, value);
        }
    }
    found
}

/// A comment begins with a sign after a space.
fn without_comment(value: &str) -> &str {
    [" #", " ;", "\t#", "\t;"].iter().filter_map(|sign| value.find(sign)).min().map_or(value, |end| &value[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lent::peer::lookup;

    const CONFIG: &str = "# by hand\n[default]\nregion = eu-west-1 ; near\noutput=json\n\n[profile  'team a']\n\
        Region=eu-north-1\ns3 =\n  addressing_style = path\n\tendpoint_url = https://no.example\nservices = local\n\
        [sso-session x]\nregion = other\n[services local]\ns3 =\n  endpoint_url = http://127.0.0.1:9000\n\
        ec2 =\n  endpoint_url = http://other.example\n[profile own]\naws_access_key_id = OLD\ncredential_process = /x/y --a=b\n\
        [broken\nnothing\n= \n[profile]\n";

    #[test]
    fn both_files_say_what_a_profile_is() {
        let folder = tempfile::tempdir().unwrap();
        let (config, secrets) = (folder.path().join("config"), folder.path().join("credentials"));
        std::fs::write(&config, CONFIG).unwrap();
        std::fs::write(&secrets, "[own]\naws_access_key_id = NEW\n[team a]\naws_secret_access_key=a#b;c\n").unwrap();
        let read = |profile: Option<&str>| {
            let mut pairs = vec![
                ("AWS_CONFIG_FILE", config.to_str().unwrap()),
                ("AWS_SHARED_CREDENTIALS_FILE", secrets.to_str().unwrap()),
            ];
            pairs.extend(profile.map(|profile| ("AWS_PROFILE", profile)));
            Profile::read(&lookup(&pairs))
        };
        let default = read(None);
        assert_eq!(default.get("region").as_deref(), Some("eu-west-1"));
        assert!(!default.is_named && default.get("s3.endpoint_url").is_none());
        let team = read(Some("team a"));
        assert_eq!(team.get("region").as_deref(), Some("eu-north-1"));
        assert_eq!(team.get("s3.addressing_style").as_deref(), Some("path"));
        assert_eq!(team.get("ec2.endpoint_url").as_deref(), Some("http://other.example"));
        assert_eq!(team.get("aws_secret_access_key").as_deref(), Some("a#b;c"));
        let own = read(Some("own"));
        assert_eq!(own.get("aws_access_key_id").as_deref(), Some("NEW"));
        assert_eq!(own.get("credential_process").as_deref(), Some("/x/y --a=b"));
        assert_eq!(format!("{own:?}"), "Profile(\"own\", …)");
        assert!(read(Some("absent")).get("region").is_none());
        let home = folder.path().join("home");
        std::fs::create_dir_all(home.join(".aws")).unwrap();
        std::fs::write(home.join(".aws/config"), "[profile default]\nregion=a\n[default]\nregion=b\n").unwrap();
        assert_eq!(Profile::read(&lookup(&[("HOME", home.to_str().unwrap())])).get("region").as_deref(), Some("b"));
    }
}
