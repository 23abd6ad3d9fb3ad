//! Where a model comes from: a repository on a hub, or a folder.

use std::fmt;
use std::path::PathBuf;

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
    /// Owner and name.
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

impl TryFrom<&knapsack_config::ModelSource> for Location {
    type Error = Error;

    /// What the manifest says, checked again where it becomes part of paths and addresses.
    fn try_from(source: &knapsack_config::ModelSource) -> Result<Self> {
        match source {
            knapsack_config::ModelSource::Local(local) => Ok(Self::Local(local.path.clone())),
            knapsack_config::ModelSource::Hub(hub) => {
                let location = HubLocation::new(&hub.repository(), hub.revision.as_deref());
                location.map(Self::Hub).map_err(|reason| Error::Location { text: hub.to_string(), reason })
            }
        }
    }
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
    pub(crate) fn from_folder(folder: &str) -> Option<Self> {
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
    use knapsack_config::{HubSource, ModelSource};

    #[test]
    fn names_and_revisions_are_checked() {
        for (repository, revision, normal) in [
            ("mlc-ai/Llama-3.2", None, "HF://mlc-ai/Llama-3.2"),
            ("o/n", Some("v1.0"), "HF://o/n@v1.0"),
            ("o/n", Some("refs/pr/3"), "HF://o/n@refs/pr/3"),
        ] {
            assert_eq!(HubLocation::new(repository, revision).unwrap().to_string(), normal);
        }
        for repository in
            ["", "a", "a/", "/b", "a/b/c", "a/..", "../b", "a--b/c", "a/b--c", "a/b?x", "a/b%2e", "a\\b/c", "a/nul"]
        {
            assert!(HubLocation::new(repository, None).is_err(), "{repository}");
        }
        for revision in ["", "..", "../x", "a//b", "/a", "x y", "a%2f", "a\\b", "a?b"] {
            assert!(HubLocation::new("a/b", Some(revision)).is_err(), "{revision}");
        }
        let (org, name, revision) = ("a".to_owned(), "..".to_owned(), None);
        let source = ModelSource::Hub(HubSource { org, name, revision });
        assert!(matches!(Location::try_from(&source), Err(Error::Location { .. })));
    }

    #[test]
    fn cache_folders_and_repositories_map_both_ways() {
        let repository = RepoId::parse("mlc-ai/Llama-3.2").unwrap();
        assert_eq!(repository.folder(), "models--mlc-ai--Llama-3.2");
        assert_eq!(RepoId::from_folder(&repository.folder()), Some(repository));
        assert_eq!(RepoId::from_folder("datasets--a--b"), None);
        assert_eq!(RepoId::from_folder("models--..--b"), None);
    }
}
