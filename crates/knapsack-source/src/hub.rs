//! What the hub's API says about a repository: the commit of a revision, and the files at a commit.

use std::sync::atomic::AtomicBool;

use knapsack_config::lockfile::{ModelCard, check_relative_path, is_digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::card;
use crate::error::{Error, Result};
use crate::http::{Answer, Client, escape, shown};
use crate::location::{HubLocation, RepoId};
use crate::progress::Progress;
use crate::retry::Attempts;
use crate::settings::Settings;

/// Longest answer of the API that is read.
const MAX_ANSWER: u64 = 32 << 20;
/// Most files in the root of a repository. Models have tens, the largest a few hundred.
const MAX_ENTRIES: usize = 20_000;
/// Most pages that they come in.
const MAX_PAGES: usize = 500;
/// Largest file that is believed: 1 TiB.
const MAX_FILE: u64 = 1 << 40;

/// The API of one hub.
pub(crate) struct Hub<'a> {
    pub(crate) client: &'a Client,
    pub(crate) settings: &'a Settings,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) progress: &'a dyn Progress,
}

/// What a revision is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RevisionInfo {
    pub(crate) commit: String,
    /// The repository's present name, when it is another one.
    pub(crate) renamed: Option<String>,
    /// What its card says.
    pub(crate) card: ModelCard,
}

/// A file in the root of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubFile {
    pub(crate) path: String,
    pub(crate) size: u64,
    /// sha256, for files in LFS or Xet.
    pub(crate) sha256: Option<String>,
    /// Git object id, for all others.
    pub(crate) git_oid: Option<String>,
}

#[derive(Deserialize)]
struct InfoAnswer {
    sha: String,
    #[serde(default)]
    id: Option<String>,
    /// The card's head, as its authors wrote it: anything.
    #[serde(rename = "cardData", default)]
    card: serde_json::Value,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    oid: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    lfs: Option<LfsEntry>,
}

#[derive(Deserialize)]
struct LfsEntry {
    #[serde(alias = "sha256")]
    oid: String,
    size: u64,
}

impl Hub<'_> {
    /// Asks which commit a revision is.
    pub(crate) fn revision(&self, location: &HubLocation) -> Result<RevisionInfo> {
        let (endpoint, repository) = (&self.settings.endpoint, &location.repository);
        let url = format!("{endpoint}/api/models/{repository}/revision/{}", escape(location.requested(), true));
        let what = format!("the revision {:?} of {repository}", location.requested());
        let (answer, _): (InfoAnswer, _) = self.json(&url, repository, &what)?;
        if !is_digest(&answer.sha, 40) {
            return Err(Error::BadAnswer {
                url,
                reason: format!("the commit {:?} is not 40 hexadecimal digits", answer.sha),
            });
        }
        let renamed = answer.id.filter(|id| *id != repository.to_string() && RepoId::parse(id).is_ok());
        Ok(RevisionInfo { commit: answer.sha, renamed, card: card::of_hub(&answer.card) })
    }

    /// Lists the files in the root of the repository.
    pub(crate) fn files(&self, repository: &RepoId, commit: &str) -> Result<Vec<HubFile>> {
        let root =
            format!("{}/api/models/{repository}/tree/{commit}?recursive=false&expand=false", self.settings.endpoint);
        let what = format!("the file list of {repository} at {commit}");
        let mut files = Vec::new();
        let (mut next, mut entries, mut pages) = (Some(root), 0, 0);
        while let Some(url) = next.take() {
            let (page, link): (Vec<TreeEntry>, _) = self.json(&url, repository, &what)?;
            (entries, pages) = (entries + page.len(), pages + 1);
            if entries > MAX_ENTRIES || pages > MAX_PAGES || (page.is_empty() && link.is_some()) {
                let reason = format!("it lists more than {MAX_ENTRIES} files or {MAX_PAGES} pages, which no model has");
                return Err(Error::BadAnswer { url: shown(&url), reason });
            }
            for entry in page.into_iter().filter(|entry| entry.kind == "file") {
                files.push(hub_file(entry, &shown(&url))?);
            }
            next = link;
        }
        Ok(files)
    }

    /// The address of a file.
    pub(crate) fn file_url(&self, repository: &RepoId, commit: &str, path: &str) -> String {
        format!("{}/{repository}/resolve/{commit}/{}", self.settings.endpoint, escape(path, false))
    }

    fn json<T: DeserializeOwned>(&self, url: &str, repository: &RepoId, what: &str) -> Result<(T, Option<String>)> {
        let mut attempts = Attempts::new(what, self.settings.patience, self.stop, self.progress);
        let (text, next) = loop {
            let answer = self.client.get(url, 0).and_then(|answer| {
                let next = self.next_page(&answer)?;
                Ok((answer.into_text(MAX_ANSWER)?, next))
            });
            match answer {
                Ok(answer) => break answer,
                Err(error) => attempts.failed(self.explain(error, repository, what))?,
            }
        };
        let unreadable = |error: serde_json::Error| Error::BadAnswer { url: shown(url), reason: error.to_string() };
        Ok((serde_json::from_str(&text).map_err(unreadable)?, next))
    }

    /// `Link: <address>; rel="next"`, which must stay on the hub's API.
    fn next_page(&self, answer: &Answer) -> Result<Option<String>> {
        let Some(link) = answer.header("link") else { return Ok(None) };
        let next = link.split(',').find(|part| part.contains("rel=\"next\""));
        let Some(url) = next.and_then(|part| part.split_once('<')?.1.split_once('>')).map(|(url, _)| url) else {
            return Ok(None);
        };
        let api = format!("{}/api/", self.settings.endpoint);
        match url {
            _ if url.starts_with(&api) => Ok(Some(url.to_owned())),
            _ if url.starts_with("/api/") => Ok(Some(format!("{}{url}", self.settings.endpoint))),
            _ => {
                let reason = format!("its next page is at {}, which is not this hub", shown(url));
                Err(Error::BadAnswer { url: answer.url.clone(), reason })
            }
        }
    }

    /// Says what a status means when a repository or one of its files was asked for.
    pub(crate) fn explain(&self, error: Error, repository: &RepoId, what: &str) -> Error {
        let Error::Status { status, url, message } = error else { return error };
        let page = format!("{}/{repository}", self.settings.endpoint);
        let denied = |reason: String| Error::Denied { repository: repository.to_string(), reason };
        let gated = message.starts_with("GatedRepo");
        let missing_repository = message.starts_with("RepoNotFound");
        match (status, self.client.has_token()) {
            (401 | 403, true) if gated => {
                denied(format!("it is gated; ask for access at {page} with the account of your token"))
            }
            (401 | 403, false) if gated => denied(format!(
                "it is gated; accept its conditions at {page}, then set HF_TOKEN to a token of that account"
            )),
            (401, false) => denied(
                "it does not exist, or it is private; set HF_TOKEN to a token that may read it if it is".to_owned(),
            ),
            (401, true) if missing_repository => denied("it does not exist, or your token may not see it".to_owned()),
            (401, true) => denied("the hub refused the token; check HF_TOKEN or log in again".to_owned()),
            (403, _) => denied(format!("the hub forbids it{}{message}", if message.is_empty() { "" } else { ": " })),
            (404, _) if missing_repository => {
                let hint = "; check the name, and the token's rights if the repository is private";
                Error::NotFound { what: format!("the repository {repository}"), url, hint }
            }
            (404, _) => Error::NotFound { what: what.to_owned(), url, hint: "" },
            _ => Error::Status { status, url, message },
        }
    }
}

fn hub_file(entry: TreeEntry, url: &str) -> Result<HubFile> {
    if let Err(reason) = check_relative_path(&entry.path) {
        return Err(Error::UnsafeName { name: entry.path, place: url.to_owned(), reason });
    }
    let (size, sha256, git_oid) = match entry.lfs {
        Some(lfs) => (lfs.size, Some(lfs.oid), None),
        None => (entry.size, None, Some(entry.oid)),
    };
    let digests =
        sha256.as_ref().is_none_or(|id| is_digest(id, 64)) && git_oid.as_ref().is_none_or(|id| is_digest(id, 40));
    if !digests || size > MAX_FILE {
        let reason = format!("the entry of {:?} has no usable digest or size", entry.path);
        return Err(Error::BadAnswer { url: url.to_owned(), reason });
    }
    Ok(HubFile { path: entry.path, size, sha256, git_oid })
}
