//! The `model` text of a manifest, taken apart: a repository on a hub, or a folder.

use std::fmt;
use std::path::{Path, PathBuf};

use knapsack_config::lockfile::check_relative_path;

use crate::error::{Error, Result};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A repository on a Hugging Face hub.
    Hub(HubLocation),
    /// A folder of this machine.
    Local(PathBuf),
}

/// A repository and, where it was given, a branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubLocation {
    /// The repository.
    pub repository: RepoId,
    /// The revision as written; `main` when absent.
    pub revision: Option<String>,
}

/// `org/name`, both safe as parts of a path and of an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId {
    organisation: String,
    name: String,
}

impl Location {
    /// Reads `HF://org/name[@revision]`, `https://huggingface.co/org/name[/tree/revision]`, the same at `endpoint`, or a path
    /// relative to `base`.
    pub fn parse(text: &str, base: &Path, endpoint: &str) -> Result<Self> {
        let malformed = |reason: String| Error::Location { text: text.to_owned(), reason };
        if text.trim().is_empty() {
            return Err(malformed("it is empty".to_owned()));
        }
        if let Some(rest) = strip_scheme(text, "hf://") {
            let (repository, revision) = match rest.split_once('@') {
                Some((repository, revision)) => (repository, Some(revision)),
                None => (rest, None),
            };
            return HubLocation::new(repository.trim_end_matches('/'), revision).map(Self::Hub).map_err(malformed);
        }
        if let Some(rest) = strip_scheme(text, "https://").or_else(|| strip_scheme(text, "http://")) {
            return parse_address(text, rest, endpoint).map(Self::Hub).map_err(malformed);
        }
        match text.split_once("://") {
            Some((scheme, _)) => {
                Err(malformed(format!("the scheme {scheme:?} is not known; use HF://, https:// or a path")))
            }
            None => Ok(Self::Local(base.join(text))),
        }
    }
}

/// `https://host/org/name[/tree/revision]`.
fn parse_address(text: &str, rest: &str, endpoint: &str) -> Result<HubLocation, String> {
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let secure = strip_scheme(text, "https://").is_some();
    let own_hub = endpoint.trim_end_matches('/').eq_ignore_ascii_case(&text[..text.len() - rest.len() + host.len()]);
    let public_hub =
        secure && ["huggingface.co", "www.huggingface.co", "hf.co"].iter().any(|h| h.eq_ignore_ascii_case(host));
    if !own_hub && !public_hub {
        return Err(format!("{host} is not a known hub; set HF_ENDPOINT to its address if it is one"));
    }
    let parts: Vec<&str> = path.trim_end_matches('/').splitn(4, '/').collect();
    match parts[..] {
        [organisation, name] => HubLocation::new(&format!("{organisation}/{name}"), None),
        [organisation, name, "tree", revision] => HubLocation::new(&format!("{organisation}/{name}"), Some(revision)),
        _ => Err(format!("expected https://{host}/org/name or https://{host}/org/name/tree/revision")),
    }
}

fn strip_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    text.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme)).map(|_| &text[scheme.len()..])
}

impl HubLocation {
    /// Checks both parts.
    pub fn new(repository: &str, revision: Option<&str>) -> Result<Self, String> {
        let repository = RepoId::parse(repository)?;
        if let Some(revision) = revision {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/+".contains(c);
            if let Some(c) = revision.chars().find(|c| !allowed(*c)) {
                return Err(format!("the revision {revision:?} holds {c:?}"));
            }
            check_relative_path(revision).map_err(|_| format!("{revision:?} is not a revision"))?;
        }
        Ok(Self { repository, revision: revision.map(str::to_owned) })
    }

    /// The revision to ask the hub for.
    pub fn requested(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl RepoId {
    /// Checks `org/name` by the hub's own rules.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((organisation, name)) = text.split_once('/').filter(|(_, name)| !name.contains('/')) else {
            return Err(format!("expected org/name, found {text:?}"));
        };
        for part in [organisation, name] {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if let Some(c) = part.chars().find(|c| !allowed(*c)) {
                return Err(format!("{part:?} holds {c:?}; letters, digits, `.`, `_` and `-` can stand there"));
            }
            let edge = |c: char| c == '.' || c == '-';
            if part.is_empty() || part.starts_with(edge) || part.ends_with(edge) {
                return Err(format!("{part:?} is empty or begins or ends with `.` or `-`"));
            }
            if part.contains("--") || part.contains("..") || part.len() > 96 || check_relative_path(part).is_err() {
                return Err(format!("{part:?} is not a name that the hub gives"));
            }
        }
        Ok(Self { organisation: organisation.to_owned(), name: name.to_owned() })
    }

    /// `models--org--name`, the folder in a hub cache.
    pub fn folder(&self) -> String {
        format!("models--{}--{}", self.organisation, self.name)
    }

    /// The repository whose cache folder is called `folder`.
    pub fn from_folder(folder: &str) -> Option<Self> {
        let (organisation, name) = folder.strip_prefix("models--")?.split_once("--")?;
        Self::parse(&format!("{organisation}/{name}")).ok()
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.organisation, self.name)
    }
}

/// The normal form, which the lockfile holds.
impl fmt::Display for HubLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HF://{}", self.repository)?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(hub) => hub.fmt(f),
            Self::Local(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location> {
        Location::parse(text, Path::new("/base"), "http://127.0.0.1:8080/")
    }

    #[test]
    fn every_form_has_one_normal_form() {
        for (text, normal) in [
            ("HF://mlc-ai/Llama-3.2", "HF://mlc-ai/Llama-3.2"),
            ("hf://mlc-ai/Llama-3.2/", "HF://mlc-ai/Llama-3.2"),
            ("HF://o/n@v1.0", "HF://o/n@v1.0"),
            ("HF://o/n@refs/pr/3", "HF://o/n@refs/pr/3"),
            ("https://huggingface.co/o/n", "HF://o/n"),
            ("https://huggingface.co/o/n/", "HF://o/n"),
            ("https://hf.co/o/n/tree/feature/x", "HF://o/n@feature/x"),
            ("http://127.0.0.1:8080/o/n/tree/main", "HF://o/n@main"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), normal);
        }
        assert_eq!(parse("models/x").unwrap(), Location::Local("/base/models/x".into()));
        assert_eq!(parse("/abs").unwrap(), Location::Local("/abs".into()));
    }

    #[test]
    fn malformed_sources_are_refused() {
        for text in [
            "",
            " ",
            "HF://",
            "HF://name",
            "HF://a/b/c",
            "HF://a/..",
            "HF://../b",
            "HF://a/b@",
            "HF://a/b@../x",
            "HF://a/b@x y",
            "HF://a--b/c",
            "HF://a/b?x",
            "HF://a/b%2e",
            "https://example.com/a/b",
            "http://huggingface.co/a/b",
            "ftp://a/b",
            "https://huggingface.co/a",
            "https://huggingface.co/a/b/blob/main/x",
            "https://huggingface.co/a/b/tree",
            "https://user@huggingface.co/a/b",
            "HF://a\\b/c",
        ] {
            assert!(matches!(parse(text), Err(Error::Location { .. })), "{text:?} gave {:?}", parse(text));
        }
    }

    #[test]
    fn cache_folders_and_repositories_map_both_ways() {
        let repository = RepoId::parse("mlc-ai/Llama-3.2").unwrap();
        assert_eq!(repository.folder(), "models--mlc-ai--Llama-3.2");
        assert_eq!(RepoId::from_folder(&repository.folder()), Some(repository));
        assert_eq!(RepoId::from_folder("datasets--a--b"), None);
    }
}
