//! Where a model comes from: the text of `model` in the manifest, as a type.

use serde::Deserialize;
use std::fmt;
use std::path::PathBuf;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// A repository on the Hugging Face hub, or on the hub that `HF_ENDPOINT` names.
    Hub(HubSource),
    /// A folder that was there, and held a model, when the manifest was read.
    Local(LocalSource),
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelSource::Hub(hub) => hub.fmt(f),
            ModelSource::Local(local) => local.path.display().fmt(f),
        }
    }
}

/// A repository on a hub. Shown in its normal form, `HF://org/name[@revision]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubSource {
    /// User or organization at the hub.
    pub org: String,
    /// The name within the owner.
    pub name: String,
    /// Branch, tag or commit; `None` is the default branch.
    pub revision: Option<String>,
}

impl HubSource {
    /// The repository that a text of another form probably means: `org/name` with whatever tools put before and behind it.
    pub(crate) fn meant(text: &str) -> Option<HubSource> {
        let mut rest = text.trim();
        loop {
            let bare = BEFORE.iter().find_map(|before| {
                let head = rest.get(..before.len())?;
                head.eq_ignore_ascii_case(before).then(|| &rest[before.len()..])
            });
            match bare {
                // A slash too many, as in `HF:/org/name`.
                Some(bare) => rest = bare.trim_start_matches('/'),
                None => break,
            }
        }
        let rest = rest.trim_end_matches('/');
        let rest = rest.strip_suffix(".git").unwrap_or(rest);
        if rest.starts_with(['.', '/', '~']) {
            return None;
        }
        match rest.split('/').collect::<Vec<_>>().as_slice() {
            [org, name, "tree" | "blob" | "resolve" | "raw", revision, ..] => {
                hub(&format!("{org}/{name}@{revision}")).ok()
            }
            [_, _] => hub(rest).ok(),
            _ => None,
        }
    }

    /// `org/name`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }
}

impl fmt::Display for HubSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HF://{}/{}", self.org, self.name)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

/// A folder with a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalSource {
    /// The folder: the path of the manifest, joined by the path in it.
    pub path: PathBuf,
    /// Whether its weights are converted already.
    pub kind: ModelForm,
}

/// What a model is kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelForm {
    /// `config.json` and safetensors: to be converted.
    Checkpoint,
    /// `mlc-chat-config.json`, a weight index, shards: converted already.
    Mlc,
}

impl ModelForm {
    /// Its name in the lockfile.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Mlc => "mlc",
        }
    }
}

/// The text of `model`, before the file system is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SourceText {
    Hub(HubSource),
    /// A path, relative to the file that states it.
    Path(String),
}

/// Why the text of `model` can not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Nothing is there.
    #[error("the model source is empty")]
    Empty,
    /// A NUL, which no path can hold.
    #[error("the model source holds a NUL character")]
    Nul,
    /// Not `org/name`.
    #[error("a hub source names a repository as org/name")]
    NotARepository,
    /// A part of a repository's name that the hub does not allow.
    #[error("`{part}` can not be {role} of a hub repository")]
    BadName {
        /// The owner or the name.
        part: String,
        /// Which of the two.
        role: &'static str,
    },
    /// A revision that can not be one.
    #[error("`{0}` can not be a branch, a tag or a commit")]
    BadRevision(String),
    /// A page of a repository other than the repository itself.
    #[error("`/{0}` is no part of a model source")]
    BadPath(String),
    /// A query or a fragment.
    #[error("a model source has no query and no fragment")]
    Query,
    /// Another scheme than `HF://` and `https://`.
    #[error("`{0}://` is no model source")]
    BadScheme(String),
    /// Another host than the hub.
    #[error("`{0}` is not a hub that Knapsack knows")]
    UnknownHost(String),
}

impl SourceError {
    /// What to write instead of `text`.
    pub(crate) fn help(&self, text: &str) -> Option<String> {
        if let Some(hub) = HubSource::meant(text) {
            return Some(format!("write \"{hub}\""));
        }
        Some(match self {
            SourceError::Empty | SourceError::NotARepository | SourceError::BadScheme(_) => {
                "accepted are HF://org/name, HF://org/name@revision, https://huggingface.co/org/name, \
                 and a path relative to the manifest"
                    .to_owned()
            }
            SourceError::BadName { .. } => {
                "letters, digits, `-`, `_` and `.`, at most 96; no `-` or `.` at either end, no `--` and no `..`".to_owned()
            }
            SourceError::BadPath(_) => "write https://huggingface.co/org/name or …/org/name/tree/revision".to_owned(),
            SourceError::UnknownHost(_) => {
                "only https://huggingface.co is known; for another hub set the environment variable HF_ENDPOINT to its address"
                    .to_owned()
            }
            SourceError::Query | SourceError::Nul | SourceError::BadRevision(_) => return None,
        })
    }
}

/// What stands before `org/name` in other notations, and what is left of them when something was forgotten.
const BEFORE: [&str; 16] = [
    "https://huggingface.co/",
    "https://www.huggingface.co/",
    "https://hf.co/",
    "http://huggingface.co/",
    "http://hf.co/",
    "ssh://",
    "git+",
    "git@",
    "hf-hub:",
    "hf:",
    "huggingface://",
    "huggingface.co/",
    "huggingface.co:",
    "www.huggingface.co/",
    "hf.co/",
    "hf.co:",
];
const HUB: &str = "https://huggingface.co";
/// Longest owner, name and revision. The hub's own limit for names is 96.
const MAX_NAME: usize = 96;
const MAX_REVISION: usize = 255;

impl SourceText {
    /// Reads the text of `model`. `endpoint` is the value of `HF_ENDPOINT`, if there is one.
    pub(crate) fn parse(text: &str, endpoint: Option<&str>) -> Result<Self, SourceError> {
        if text.trim().is_empty() {
            return Err(SourceError::Empty);
        }
        if text.contains('\0') {
            return Err(SourceError::Nul);
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(SourceText::Path(text.to_owned())) };
        if scheme.eq_ignore_ascii_case("hf") {
            return hub(rest).map(SourceText::Hub);
        }
        let endpoints = [
            Some(HUB),
            Some("https://www.huggingface.co"),
            Some("https://hf.co"),
            endpoint.map(|endpoint| endpoint.trim_end_matches('/')),
        ];
        for endpoint in endpoints.into_iter().flatten().filter(|endpoint| !endpoint.is_empty()) {
            let head = text.get(..endpoint.len()).filter(|head| head.eq_ignore_ascii_case(endpoint));
            if head.is_some()
                && let Some(path) = text[endpoint.len()..].strip_prefix('/')
            {
                return page(path).map(SourceText::Hub);
            }
        }
        if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http") {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            return Err(SourceError::UnknownHost(format!("{scheme}://{host}")));
        }
        Err(SourceError::BadScheme(scheme.to_owned()))
    }
}

/// `org/name[@revision]`.
fn hub(text: &str) -> Result<HubSource, SourceError> {
    let (repository, revision) = match text.split_once('@') {
        Some((repository, revision)) => (repository, Some(check_revision(revision)?)),
        None => (text, None),
    };
    let (org, name) =
        repository.strip_suffix('/').unwrap_or(repository).split_once('/').ok_or(SourceError::NotARepository)?;
    Ok(HubSource { org: check_name(org, "the owner")?, name: check_name(name, "the name")?, revision })
}

/// `org/name[/tree/revision]`, the path of a page.
fn page(path: &str) -> Result<HubSource, SourceError> {
    if path.contains(['?', '#']) {
        return Err(SourceError::Query);
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let (org, rest) = path.split_once('/').ok_or(SourceError::NotARepository)?;
    let (name, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let revision = match rest.split_once('/').unwrap_or((rest, "")) {
        ("", _) => None,
        ("tree", "") => return Err(SourceError::BadRevision(String::new())),
        // The hub writes a slash within a revision as %2F.
        ("tree", revision) => Some(check_revision(&revision.replace("%2F", "/").replace("%2f", "/"))?),
        (other, _) => return Err(SourceError::BadPath(other.to_owned())),
    };
    Ok(HubSource { org: check_name(org, "the owner")?, name: check_name(name, "the name")?, revision })
}

/// The hub's rule for owners and names.
fn check_name(name: &str, role: &'static str) -> Result<String, SourceError> {
    let allowed = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let edges = !name.starts_with(['-', '.']) && !name.ends_with(['-', '.']);
    let good =
        !name.is_empty() && name.len() <= MAX_NAME && allowed && edges && !name.contains("--") && !name.contains("..");
    if good {
        Ok(name.to_owned())
    } else {
        Err(SourceError::BadName { part: name.chars().take(MAX_NAME).collect(), role })
    }
}

/// Branches, tags, commits and `refs/…`; nothing that could leave a folder or a URL's path.
fn check_revision(revision: &str) -> Result<String, SourceError> {
    let allowed = revision.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+'));
    let parts = revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.'));
    let good =
        revision.len() <= MAX_REVISION && allowed && parts && !revision.starts_with('-') && !revision.contains("..");
    if good {
        Ok(revision.to_owned())
    } else {
        Err(SourceError::BadRevision(revision.chars().take(MAX_NAME).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        match SourceText::parse(text, Some("http://127.0.0.1:9000/")) {
            Ok(SourceText::Hub(hub)) => Ok(hub.to_string()),
            Ok(SourceText::Path(path)) => Ok(format!("path {path}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn accepted() {
        for (text, normal) in [
            ("HF://mlc-ai/Llama-3.2-3B-Instruct-q4f16_1-MLC", "HF://mlc-ai/Llama-3.2-3B-Instruct-q4f16_1-MLC"),
            ("hf://a/b/", "HF://a/b"),
            ("HF://a/b@main", "HF://a/b@main"),
            ("HF://a/b@refs/pr/1", "HF://a/b@refs/pr/1"),
            ("https://huggingface.co/a/b", "HF://a/b"),
            ("https://huggingface.co/a/b/", "HF://a/b"),
            ("https://huggingface.co/a/b/tree/v1.0", "HF://a/b@v1.0"),
            ("https://huggingface.co/a/b/tree/refs%2Fpr%2F1", "HF://a/b@refs/pr/1"),
            ("http://127.0.0.1:9000/a/b", "HF://a/b"),
            ("./models/x", "path ./models/x"),
            ("C:\\models\\x", "path C:\\models\\x"),
            ("HF:/a/b", "path HF:/a/b"),
        ] {
            assert_eq!(shown(text), Ok(normal.to_owned()), "{text}");
        }
    }

    /// Whatever is hinted at is accepted.
    #[test]
    fn hints_are_right_themselves() {
        for (text, hint) in [
            ("HF:org/name", Some("HF://org/name")),
            ("HF:/org/name", Some("HF://org/name")),
            ("HF://HF:org/name", Some("HF://org/name")),
            ("git@hf.co:org/name", Some("HF://org/name")),
            ("HF://git@hf.co:org/name", Some("HF://org/name")),
            ("hf.co/org/name.git", Some("HF://org/name")),
            ("http://huggingface.co/org/name", Some("HF://org/name")),
            ("https://huggingface.co/org/name/blob/main/config.json", Some("HF://org/name@main")),
            ("https://huggingface.co/org/name/resolve/main/", Some("HF://org/name@main")),
            ("your-name/your-model", Some("HF://your-name/your-model")),
            ("./org/name", None),
            ("~/models", None),
            ("models/my model", None),
            ("a/b/c", None),
            ("https://example.org/a/b", None),
            ("https://example.org/a", None),
            ("s3://bucket/b", None),
        ] {
            let meant = HubSource::meant(text).map(|hub| hub.to_string());
            assert_eq!(meant.as_deref(), hint, "{text}");
            assert!(meant.is_none_or(|meant| shown(&meant) == Ok(meant.clone())), "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in [
            "",
            " ",
            "a\0b",
            "HF://",
            "HF://a",
            "HF:///b",
            "HF://a/",
            "HF://a/b/c",
            "HF://a/..",
            "HF://../b",
            "HF://a/b@",
            "HF://a/b@..",
            "HF://a/b@x/../y",
            "HF://a/b@/x",
            "HF://a/b@-x",
            "HF://a b/c",
            "HF://a/b?x",
            "https://huggingface.co/a",
            "https://huggingface.co/a/b/tree/",
            "https://huggingface.co/a/b/tree/main?x=1",
            "https://huggingface.co/a/b/blob/main/config.json",
            "https://huggingface.co.evil.org/a/b",
            "https://example.org/a/b",
            "http://huggingface.co/a/b",
            "http://127.0.0.1:90001/a/b",
            "ftp://a/b",
        ] {
            assert!(shown(text).is_err(), "{text}: {:?}", shown(text));
        }
    }
}
