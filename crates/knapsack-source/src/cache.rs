//! Looking at the downloads in the hub cache: what is there, whether it is right, what can go.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use knapsack_config::lockfile::is_digest;

use crate::digest::hash_file;
use crate::error::{Error, Result};
use crate::layout::HubCache;
use crate::location::RepoId;
use crate::settings::Settings;
use crate::usage::Usage;

/// Deepest folder that is looked into.
const MAX_DEPTH: usize = 16;

/// A repository in the hub cache, whoever downloaded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedRepository {
    /// As the hub names it.
    pub repository: RepoId,
    /// Its folder in the shared cache.
    pub path: PathBuf,
    /// Bytes on the disk, incomplete downloads included.
    pub size: u64,
    /// Of these, bytes of incomplete downloads.
    pub incomplete: u64,
    /// The commits of which something is there.
    pub commits: Vec<CachedCommit>,
    /// When Knapsack last used it; `None` when it never did.
    pub last_used: Option<SystemTime>,
    /// Lockfiles that name a commit that is there.
    pub used_by: Vec<PathBuf>,
}

/// One commit of a cached repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedCommit {
    /// Its full hash.
    pub commit: String,
    /// Branches and tags that last stood for it.
    pub refs: Vec<String>,
    /// How many of its files are there.
    pub files: usize,
    /// Their size.
    pub size: u64,
}

/// A file in the cache that is not what it should be.
#[derive(Debug)]
pub struct Damage {
    /// As the hub names it.
    pub repository: RepoId,
    /// The file whose content is not what its name says.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Every model repository in the cache, by name.
pub fn list_downloads(settings: &Settings) -> Result<Vec<CachedRepository>> {
    let usage = Usage::read(&settings.state);
    let mut used: BTreeMap<(RepoId, String), Vec<PathBuf>> = BTreeMap::new();
    for (path, lock) in usage.lockfiles() {
        for model in lock.models {
            let source = model.model.trim_start_matches("HF://").split('@').next().unwrap_or_default().to_owned();
            if let Ok(repository) = RepoId::parse(&source) {
                let by = used.entry((repository, model.commit)).or_default();
                if !by.iter().any(|known| known == path) {
                    by.push(path.to_owned());
                }
            }
        }
    }
    let mut found = Vec::new();
    for (repository, path) in repositories(settings)? {
        let blobs = walk(&path.join("blobs"))?;
        let incomplete = blobs.iter().filter(|blob| is_partial(&blob.path)).map(|blob| blob.size).sum();
        let commits = commits(&path)?;
        let mut used_by: Vec<_> = commits
            .iter()
            .filter_map(|commit| used.get(&(repository.clone(), commit.commit.clone())))
            .flatten()
            .cloned()
            .collect();
        used_by.sort();
        used_by.dedup();
        let size = size_on_disk(&path)?;
        let last_used = usage.last_used(&repository);
        found.push(CachedRepository { repository, path, size, incomplete, commits, last_used, used_by });
    }
    found.sort_by(|a, b| a.repository.cmp(&b.repository));
    Ok(found)
}

/// Reads every download again: content against the digest that names it or that a known lockfile gives, and links that lead
/// nowhere. `each` is told the path of each file before it is read.
pub fn verify_downloads(settings: &Settings, each: &mut dyn FnMut(&Path)) -> Result<Vec<Damage>> {
    let locked = locked_digests(settings);
    let mut damage = Vec::new();
    for (repository, path) in repositories(settings)? {
        let mut report = |path: PathBuf, reason| damage.push(Damage { repository: repository.clone(), path, reason });
        for file in walk(&path.join("blobs"))?.into_iter().filter(|file| !is_partial(&file.path)) {
            each(&file.path);
            if let Some(reason) = wrong_blob(&file.path)? {
                report(file.path, reason);
            }
        }
        for file in walk(&path.join("snapshots"))? {
            if file.link && !file.path.exists() {
                report(file.path, "it links to a blob that is not there".to_owned());
            } else if !file.link
                && let Some(expected) = locked.get(&file.path)
            {
                each(&file.path);
                let found = hash_file(&file.path, false)?.sha256;
                if found != *expected {
                    report(file.path, format!("its sha256 is {found}, a lockfile says {expected}"));
                }
            }
        }
    }
    Ok(damage)
}

/// Removes incomplete downloads that no process is working on, and what killed runs left beside them. Returns the bytes freed.
pub fn clean_partial_downloads(settings: &Settings) -> Result<u64> {
    const OLD: Duration = Duration::from_secs(3600);
    let cache = HubCache::new(&settings.cache);
    let mut freed = 0;
    let mut remove = |file: &Entry| {
        freed += file.size;
        fs::remove_file(&file.path).map_err(Error::io("remove", &file.path))
    };
    for (repository, path) in repositories(settings)? {
        for file in walk(&path)?.into_iter().filter(|file| is_partial(&file.path)) {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(id) = name.strip_suffix(".incomplete") {
                match cache.lock(&repository, id, &mut || Err(Error::Stopped)) {
                    Ok(_lock) => remove(&file)?,
                    Err(Error::Stopped) => {}
                    Err(error) => return Err(error),
                }
            } else if file.modified.elapsed().is_ok_and(|age| age > OLD) {
                // Renamed within moments, unless its process is gone.
                remove(&file)?;
            }
        }
    }
    Ok(freed)
}

/// Removes a repository from the cache, for Python too. Returns the bytes freed.
pub fn remove_download(settings: &Settings, repository: &RepoId) -> Result<u64> {
    let cache = HubCache::new(&settings.cache);
    let path = cache.repository(repository);
    let size = size_on_disk(&path)?;
    match fs::remove_dir_all(&path) {
        Ok(()) => {
            let _ = fs::remove_dir_all(cache.root.join(".locks").join(repository.folder()));
            Ok(size)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::io("remove", path)(error)),
    }
}

/// Blobs, and the files of snapshots that are no links.
fn size_on_disk(repository: &Path) -> Result<u64> {
    let blobs = walk(&repository.join("blobs"))?;
    let plain = walk(&repository.join("snapshots"))?;
    Ok(blobs.iter().chain(&plain).filter(|file| !file.link).map(|file| file.size).sum())
}

struct Entry {
    path: PathBuf,
    link: bool,
    size: u64,
    modified: SystemTime,
}

fn repositories(settings: &Settings) -> Result<Vec<(RepoId, PathBuf)>> {
    let root = &settings.cache;
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", root)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", root))?;
        if let Some(repository) = entry.file_name().to_str().and_then(RepoId::from_folder)
            && entry.path().is_dir()
        {
            found.push((repository, entry.path()));
        }
    }
    Ok(found)
}

/// Files and links below a folder; links are not followed.
fn walk(root: &Path) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("list", folder)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &folder))?;
            // A file may vanish while another process finishes it.
            let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
            if meta.is_dir() && depth < MAX_DEPTH {
                folders.push((entry.path(), depth + 1));
            } else if !meta.is_dir() {
                let modified = meta.modified().unwrap_or_else(|_| SystemTime::now());
                found.push(Entry { path: entry.path(), link: meta.is_symlink(), size: meta.len(), modified });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn commits(repository: &Path) -> Result<Vec<CachedCommit>> {
    let refs_folder = repository.join("refs");
    let mut refs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in walk(&refs_folder)? {
        let name = file.path.strip_prefix(&refs_folder).unwrap_or(&file.path).to_string_lossy().into_owned();
        if let Ok(commit) = fs::read_to_string(&file.path) {
            refs.entry(commit.trim().to_owned()).or_default().push(name);
        }
    }
    let snapshots = repository.join("snapshots");
    let mut found: BTreeMap<String, CachedCommit> = BTreeMap::new();
    for file in walk(&snapshots)? {
        let inside = file.path.strip_prefix(&snapshots).unwrap_or(&file.path);
        let commit =
            inside.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
        let refs = refs.get(&commit).cloned().unwrap_or_default();
        let entry = CachedCommit { commit: commit.clone(), refs, files: 0, size: 0 };
        let entry = found.entry(commit).or_insert(entry);
        if let Ok(meta) = fs::metadata(&file.path) {
            entry.files += 1;
            entry.size += meta.len();
        }
    }
    Ok(found.into_values().collect())
}

fn is_partial(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "incomplete" || extension == "tmp")
}

/// What is wrong with a blob whose name is a digest.
fn wrong_blob(path: &Path) -> Result<Option<String>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let git = is_digest(&name, 40);
    if !git && !is_digest(&name, 64) {
        return Ok(None);
    }
    let found = hash_file(path, git)?;
    let (kind, found) =
        if git { ("git object id", found.git_oid.unwrap_or_default()) } else { ("sha256", found.sha256) };
    Ok((found != name).then(|| format!("its {kind} is {found}")))
}

/// What known lockfiles say of files in snapshots.
fn locked_digests(settings: &Settings) -> BTreeMap<PathBuf, String> {
    let cache = HubCache::new(&settings.cache);
    let mut digests = BTreeMap::new();
    for (_, lock) in Usage::read(&settings.state).lockfiles() {
        for model in lock.models {
            let source = model.model.trim_start_matches("HF://").split('@').next().unwrap_or_default().to_owned();
            let Ok(repository) = RepoId::parse(&source) else { continue };
            let snapshot = cache.snapshot(&repository, &model.commit);
            digests.extend(model.files.into_iter().map(|file| (snapshot.join(file.path), file.sha256)));
        }
    }
    digests
}
