//! One file from the hub into the cache: resumed, hashed while it arrives, and renamed there only when it is right.

use knapsack_artifact::files::{self, rename};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::digest::{Expected, Found};
use crate::error::{Error, Result};
use crate::http::Answer;
use crate::hub::Hub;
use crate::layout::HubCache;
use crate::location::RepoId;
use crate::partial::Partial;
use crate::progress::Event;
use crate::retry::Attempts;
use crate::stamps::Stamps;

/// The hub keeps larger files in LFS, whose blobs are named by sha256.
const GIT_FILE_LIMIT: u64 = 10 << 20;

/// A file to have in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) repository: RepoId,
    pub(crate) commit: String,
    pub(crate) path: String,
    pub(crate) expected: Expected,
    /// Name of its blob, when the hub was asked; a lockfile does not hold it.
    pub(crate) blob: Option<String>,
}

impl Wanted {
    /// For messages.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.repository, self.path)
    }

    /// What the lock and the incomplete file are called.
    pub(crate) fn key(&self) -> &str {
        let known = self.blob.as_ref().or(self.expected.sha256.as_ref()).or(self.expected.git_oid.as_ref());
        known.map_or("unknown", String::as_str)
    }

    /// Where the blob's name is not known, it may be the Git object id; not that of a large file.
    fn needs_git_oid(&self) -> bool {
        self.expected.git_oid.is_some() || (self.blob.is_none() && self.expected.size <= GIT_FILE_LIMIT)
    }

    fn pointer(&self, cache: &HubCache) -> PathBuf {
        cache.snapshot(&self.repository, &self.commit).join(&self.path)
    }
}

/// A file that is in the cache and right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cached {
    pub(crate) path: PathBuf,
    pub(crate) found: Found,
}

/// Brings single files into the cache.
pub(crate) struct Transfers<'a> {
    pub(crate) hub: Option<&'a Hub<'a>>,
    pub(crate) cache: &'a HubCache,
    pub(crate) stamps: &'a Stamps,
    pub(crate) progress: &'a dyn crate::progress::Progress,
}

impl Transfers<'_> {
    /// The file when it is in the cache already. A damaged one counts as absent and is told of.
    pub(crate) fn existing(&self, wanted: &Wanted) -> Result<Option<Cached>> {
        let pointer = wanted.pointer(self.cache);
        if let Some(found) = self.intact(&pointer, wanted)? {
            return Ok(Some(Cached { path: pointer, found }));
        }
        let ids = [wanted.blob.as_ref(), wanted.expected.sha256.as_ref(), wanted.expected.git_oid.as_ref()];
        for id in ids.into_iter().flatten() {
            let blob = self.cache.blob(&wanted.repository, id);
            if let Some(found) = self.intact(&blob, wanted)? {
                let path = self.cache.link(&wanted.repository, &wanted.commit, &wanted.path, id, false)?;
                return Ok(Some(Cached { path, found }));
            }
        }
        Ok(None)
    }

    fn intact(&self, path: &Path, wanted: &Wanted) -> Result<Option<Found>> {
        let Ok(meta) = fs::metadata(path) else { return Ok(None) };
        let checked = match meta.len() == wanted.expected.size {
            true => {
                let found = self.stamps.hash(path, wanted.expected.git_oid.is_some())?;
                wanted.expected.check(&wanted.name(), &found).map(|()| found)
            }
            false => {
                let (file, expected, found) = (wanted.name(), wanted.expected.size, meta.len());
                Err(Error::WrongSize { file, expected, found, hint: "" })
            }
        };
        match checked {
            Ok(found) => Ok(Some(found)),
            Err(error) => {
                let text = format!("the copy in the cache is not used: {error}");
                self.progress.event(Event::Notice { text: &text });
                Ok(None)
            }
        }
    }

    /// Bytes that a download would still write.
    pub(crate) fn missing(&self, wanted: &Wanted) -> u64 {
        let partial = fs::metadata(self.cache.partial(&wanted.repository, wanted.key())).map_or(0, |meta| meta.len());
        if partial > wanted.expected.size { wanted.expected.size } else { wanted.expected.size - partial }
    }

    /// Downloads the file unless another process does so first. `number` is its number in the batch.
    pub(crate) fn download(&self, number: usize, wanted: &Wanted) -> Result<Cached> {
        let Some(hub) = self.hub else {
            return Err(Error::Offline { what: wanted.name(), cache: self.cache.root.clone() });
        };
        let mut told = false;
        let _lock = self.cache.lock(&wanted.repository, wanted.key(), &mut || {
            if !std::mem::replace(&mut told, true) {
                self.progress.event(Event::Waiting { file: number });
            }
            if hub.stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
        })?;
        // Another process or another file of this batch may have brought it meanwhile.
        if let Some(cached) = self.existing(wanted)? {
            return Ok(cached);
        }
        let path = self.cache.partial(&wanted.repository, wanted.key());
        let (found, etag) = Download { hub, wanted, number, etag: None }.run(&path)?;
        files::sync_file(&path).map_err(Error::io("write", &path))?;
        let id = blob_name(wanted, &found, etag.as_deref());
        let blob = self.cache.blob(&wanted.repository, &id);
        rename(&path, &blob).map_err(Error::io("write", &blob))?;
        let path = self.cache.link(&wanted.repository, &wanted.commit, &wanted.path, &id, true)?;
        self.stamps.note(&path, &found)?;
        Ok(Cached { path, found })
    }
}

/// The name that Python gives the blob: the hub's ETag, which is one of the two digests.
fn blob_name(wanted: &Wanted, found: &Found, etag: Option<&str>) -> String {
    let git_oid = found.git_oid.as_deref();
    let by_size = if found.size > GIT_FILE_LIMIT { None } else { git_oid };
    match (&wanted.blob, etag) {
        (Some(blob), _) => blob.clone(),
        (None, Some(etag)) if etag == found.sha256 || Some(etag) == git_oid => etag.to_owned(),
        (None, _) => by_size.unwrap_or(&found.sha256).to_owned(),
    }
}

struct Download<'a> {
    hub: &'a Hub<'a>,
    wanted: &'a Wanted,
    number: usize,
    etag: Option<String>,
}

impl Download<'_> {
    /// Attempts until the file is whole and right. A wrong one is removed and tried once more from the start: the first part
    /// may have been left by another program.
    fn run(mut self, path: &Path) -> Result<(Found, Option<String>)> {
        let name = self.wanted.name();
        let (settings, stop, progress) = (self.hub.settings, self.hub.stop, self.hub.progress);
        let mut attempts = Attempts::new(&name, settings.patience, stop, progress);
        let mut second_chance = true;
        loop {
            let mut partial = Partial::open(path, self.wanted.expected.size, self.wanted.needs_git_oid())?;
            let resumed = partial.done > 0;
            progress.event(Event::Start { file: self.number, name: &name, size: partial.size, done: partial.done });
            let outcome = self.fill(&mut partial, &mut attempts).and_then(|()| {
                let found = partial.hasher.finish();
                self.wanted.expected.check(&name, &found).map(|()| found)
            });
            match outcome {
                Ok(found) => return Ok((found, self.etag)),
                Err(error @ (Error::WrongDigest { .. } | Error::Status { status: 416, .. })) => {
                    fs::remove_file(path).map_err(Error::io("remove", path))?;
                    if !std::mem::replace(&mut second_chance, false) || !resumed {
                        return Err(error);
                    }
                    let (wait, reason) = (Duration::ZERO, error.to_string());
                    progress.event(Event::Retry { name: &name, attempt: 1, wait, reason: &reason });
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn fill(&mut self, partial: &mut Partial, attempts: &mut Attempts<'_>) -> Result<()> {
        let mut furthest = partial.done;
        while partial.done < partial.size {
            let outcome = self.attempt(partial);
            if partial.done > furthest {
                furthest = partial.done;
                // A drip is no progress: it would be waited for without end.
                if !matches!(outcome, Err(Error::TooSlow { .. })) {
                    attempts.progressed();
                }
            }
            if let Err(error) = outcome {
                attempts.failed(self.hub.explain(error, &self.wanted.repository, &self.wanted.name()))?;
            }
        }
        Ok(())
    }

    fn attempt(&mut self, partial: &mut Partial) -> Result<()> {
        let Wanted { repository, commit, path, .. } = self.wanted;
        let answer = self.hub.client.get(&self.hub.file_url(repository, commit, path), partial.done)?;
        self.etag = answer.hub_header("x-linked-etag").or(answer.hub_header("etag")).map(bare_etag);
        if let Some(size) = answer.hub_header("x-linked-size").and_then(|size| size.trim().parse().ok()) {
            self.same_size(size)?;
        }
        if answer.header("content-encoding").is_some_and(|encoding| !encoding.trim().eq_ignore_ascii_case("identity")) {
            return Err(Error::BadAnswer {
                url: answer.url,
                reason: "it is compressed, which was not asked for".to_owned(),
            });
        }
        if answer.status == 206 {
            self.check_range(&answer, partial.done)?;
        } else if partial.done > 0 {
            partial.restart()?;
            let name = self.wanted.name();
            self.hub.progress.event(Event::Start { file: self.number, name: &name, size: partial.size, done: 0 });
        }
        if let Some(length) = answer.length() {
            self.same_size(length.saturating_add(partial.done))?;
        }
        let url = answer.url.clone();
        partial.receive(answer.into_reader(), &url, &mut |count| {
            self.hub.progress.event(Event::Bytes { file: self.number, count });
            if self.hub.stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
        })
    }

    fn same_size(&self, found: u64) -> Result<()> {
        let (file, expected) = (self.wanted.name(), self.wanted.expected.size);
        let pointer = found < 200 && expected > GIT_FILE_LIMIT;
        let hint = if pointer { "; the server sends LFS pointers instead of the files" } else { "" };
        if found == expected { Ok(()) } else { Err(Error::WrongSize { file, expected, found, hint }) }
    }

    /// `Content-Range: bytes first-last/size`.
    fn check_range(&self, answer: &Answer, from: u64) -> Result<()> {
        match answer.range_start() {
            Some((first, size)) if first == from => size.map_or(Ok(()), |size| self.same_size(size)),
            _ => {
                let range = answer.header("content-range").unwrap_or_default();
                let reason = format!("bytes from {from} were asked for, its Content-Range is {range:?}");
                Err(Error::BadAnswer { url: answer.url.clone(), reason })
            }
        }
    }
}

/// An ETag without its quotes and weakness.
fn bare_etag(etag: &str) -> String {
    etag.trim().trim_start_matches("W/").trim_matches('"').to_owned()
}
