//! When Knapsack last used a repository of the shared cache, and which lockfiles it has seen: what `cache list` tells.

use knapsack_artifact::files;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knapsack_config::lockfile::Lockfile;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::layout::{beside, create_parent};
use crate::location::RepoId;
use crate::settings::STATE_FOLDER;

const FORMAT: u32 = 1;
const MAX_TEXT: u64 = 16 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    format: u32,
    /// Cache folder of the repository, and seconds since 1970.
    repositories: BTreeMap<String, u64>,
    lockfiles: BTreeMap<PathBuf, u64>,
}

impl Usage {
    /// Reads the notes in `state`; damaged ones count as none.
    pub(crate) fn read(state: &Path) -> Self {
        let path = state.join(STATE_FOLDER).join("usage.json");
        let small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= MAX_TEXT);
        let text = if small { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        serde_json::from_slice(&text).ok().filter(|usage: &Self| usage.format == FORMAT).unwrap_or_default()
    }

    /// Adds to the notes in `state`. Lockfiles that are gone are dropped.
    pub(crate) fn add<'a>(
        state: &Path,
        repositories: impl Iterator<Item = &'a RepoId>,
        lockfile: Option<&Path>,
    ) -> Result<()> {
        let mut usage = Self::read(state);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        usage.format = FORMAT;
        let before = usage.clone();
        usage.repositories.extend(repositories.map(|repository| (repository.folder(), now)));
        if let Some(path) = lockfile.and_then(|path| fs::canonicalize(path).ok()) {
            usage.lockfiles.insert(path, now);
        }
        usage.lockfiles.retain(|path, _| path.exists());
        // Times are told in days: an update every hour is enough, and keeps repeated runs from writing.
        let recent = |old: &BTreeMap<_, u64>, new: &BTreeMap<_, u64>| {
            new.iter().all(|(key, _)| old.get(key).is_some_and(|t| t + 3600 > now))
        };
        let same_files = before.lockfiles.len() == usage.lockfiles.len();
        if recent(&before.repositories, &usage.repositories) && same_files && before.format == FORMAT {
            return Ok(());
        }
        let path = state.join(STATE_FOLDER).join("usage.json");
        create_parent(&path)?;
        let beside = beside(&path);
        let text = serde_json::to_vec_pretty(&usage).unwrap_or_default();
        files::replace(&path, &beside, &text).map_err(Error::io("write", &path))
    }

    pub(crate) fn last_used(&self, repository: &RepoId) -> Option<SystemTime> {
        self.repositories.get(&repository.folder()).map(|seconds| UNIX_EPOCH + Duration::from_secs(*seconds))
    }

    /// Known lockfiles that still exist and can be read.
    pub(crate) fn lockfiles(&self) -> impl Iterator<Item = (&Path, Lockfile)> {
        self.lockfiles.keys().filter_map(|path| Some((path.as_path(), Lockfile::read(path).ok()??)))
    }
}
