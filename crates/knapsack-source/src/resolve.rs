//! From a manifest's sources to pinned commits, sizes and digests, and from those to files on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use knapsack_config::lockfile::{LockedFile, LockedFormat, LockedModel, Lockfile};

use crate::digest::Expected;
use crate::error::{Error, Result};
use crate::http::Client;
use crate::hub::{Hub, HubFile};
use crate::layout::HubCache;
use crate::local::{LocalModel, open_local, read_small, select_in};
use crate::location::{HubLocation, Location};
use crate::model::{FileRole, ModelSource, Origin, SourceFile};
use crate::parallel::parallel;
use crate::progress::{Event, Progress};
use crate::select::{Contents, is_weights};
use crate::settings::Settings;
use crate::stamps::Stamps;
use crate::transfer::{Cached, Transfers, Wanted};
use crate::usage::Usage;

/// Left free on the disk besides what is downloaded.
const SPARE_SPACE: u64 = 64 << 20;

/// A model of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRequest {
    /// The manifest's `model_id`.
    pub model_id: String,
    /// Where it is.
    pub location: Location,
    /// Whether its weights are needed here: `bundle_weight`, and always for a checkpoint.
    pub weights: bool,
}

/// Which models are asked for anew although the lockfile has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Update {
    /// None: the lockfile decides.
    #[default]
    Nothing,
    /// All.
    Everything,
    /// These `model_id`s.
    Models(BTreeSet<String>),
}

/// How the lockfile is treated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockPolicy {
    /// Fail instead of changing it.
    pub locked: bool,
    /// What to ask for anew.
    pub update: Update,
}

/// What every model is, to the byte; nothing but small files has been downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The models, in the order of the requests.
    pub models: Vec<ResolvedModel>,
    /// The lockfile that says the same.
    pub lock: Lockfile,
    /// How it differs from the one before; empty when it does not.
    pub changes: Vec<LockChange>,
}

/// One resolved model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// What was asked for.
    pub request: ModelRequest,
    /// What was found.
    pub found: Found,
}

/// What stands behind a location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A folder of this machine.
    Local(LocalModel),
    /// A repository at one commit.
    Hub(LockedModel),
}

/// A difference between two lockfiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockChange {
    /// A model that was not locked.
    Added {
        /// Its `model_id`.
        model_id: String,
        /// Its source.
        model: String,
    },
    /// A model that the manifest no longer names.
    Removed {
        /// Its `model_id`.
        model_id: String,
    },
    /// A model that comes from elsewhere now.
    Source {
        /// Its `model_id`.
        model_id: String,
        /// The source before.
        from: String,
        /// The source now.
        to: String,
    },
    /// A model at another commit, or with other files.
    Moved {
        /// Its `model_id`.
        model_id: String,
        /// The commit before.
        from: String,
        /// The commit now.
        to: String,
    },
}

impl fmt::Display for LockChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |commit: &str| commit.chars().take(12).collect::<String>();
        match self {
            Self::Added { model_id, model } => write!(f, "{model_id} ({model}) is not in it"),
            Self::Removed { model_id } => write!(f, "{model_id} is in it, but not in the manifest"),
            Self::Source { model_id, from, to } => write!(f, "{model_id} is locked as {from}, the manifest says {to}"),
            Self::Moved { model_id, from, to } => write!(f, "{model_id} moves from {} to {}", short(from), short(to)),
        }
    }
}

/// Resolves and fetches, with one set of settings.
pub struct Sources<'a> {
    settings: &'a Settings,
    progress: &'a dyn Progress,
    cache: HubCache,
    stamps: Stamps,
    stop: AtomicBool,
}

impl<'a> Sources<'a> {
    /// Touches nothing yet.
    pub fn new(settings: &'a Settings, progress: &'a dyn Progress) -> Self {
        let (cache, stamps) = (HubCache::new(&settings.cache), Stamps::open(&settings.state));
        Self { settings, progress, cache, stamps, stop: AtomicBool::new(false) }
    }

    /// Decides what each model is. Locked models are taken from `lock` without asking anybody.
    pub fn resolve(
        &self,
        requests: &[ModelRequest],
        lock: Option<&Lockfile>,
        policy: &LockPolicy,
    ) -> Result<Resolution> {
        let old = lock.cloned().unwrap_or_default();
        if policy.locked {
            let reasons: Vec<_> = stale(requests, &old, policy).iter().map(LockChange::to_string).collect();
            if !reasons.is_empty() {
                return Err(Error::LockOutOfDate { reasons });
            }
        }
        let client = self.client()?;
        let models = requests.iter().map(|request| self.resolve_one(request, &old, policy, client.as_ref()));
        let models = models.collect::<Result<Vec<_>>>();
        let saved = self.stamps.save();
        let models = models?;
        saved?;
        let locked = models.iter().filter_map(|model| match &model.found {
            Found::Local(_) => None,
            Found::Hub(locked) => Some(locked.clone()),
        });
        let mut lock = Lockfile { models: locked.collect() };
        lock.models.sort_by(|a, b| a.model_id.cmp(&b.model_id));
        let changes = differences(&old, &lock);
        if policy.locked && !changes.is_empty() {
            return Err(Error::LockOutOfDate { reasons: changes.iter().map(LockChange::to_string).collect() });
        }
        Ok(Resolution { models, lock, changes })
    }

    /// Brings everything that the models need into the cache and checks it.
    pub fn fetch(&self, resolution: &Resolution) -> Result<Vec<ModelSource>> {
        let mut wanted = Vec::new();
        for model in &resolution.models {
            if let (Found::Hub(locked), Location::Hub(location)) = (&model.found, &model.request.location) {
                let needed = locked.files.iter().filter(|file| model.request.weights || !is_weights(&file.path));
                wanted.extend(needed.map(|file| locked_file(location, &locked.commit, file)));
            }
        }
        let hub_models = resolution.models.iter().filter_map(|model| match &model.request.location {
            Location::Hub(location) => Some(&location.repository),
            Location::Local(_) => None,
        });
        if !wanted.is_empty() {
            let client = self.client()?;
            let outcome = self.batch(&wanted, client.as_ref());
            self.stamps.save()?;
            outcome?;
            Usage::add(&self.settings.state, hub_models, None)?;
        }
        Ok(resolution.models.iter().map(|model| self.source(model)).collect())
    }

    /// Remembers a lockfile, so that `cache list` can say what uses a download.
    pub fn remember_lockfile(&self, path: &Path) -> Result<()> {
        Usage::add(&self.settings.state, std::iter::empty(), Some(path))
    }

    fn client(&self) -> Result<Option<Client>> {
        if self.settings.offline { Ok(None) } else { Client::new(self.settings).map(Some) }
    }

    fn resolve_one(
        &self,
        request: &ModelRequest,
        old: &Lockfile,
        policy: &LockPolicy,
        client: Option<&Client>,
    ) -> Result<ResolvedModel> {
        let location = match &request.location {
            Location::Local(folder) => {
                let found = Found::Local(open_local(folder)?);
                return Ok(ResolvedModel { request: request.clone(), found });
            }
            Location::Hub(location) => location,
        };
        let kept = old.model(&request.model_id).filter(|locked| locked.model == location.to_string());
        let locked = match (kept.filter(|_| !policy.update.covers(&request.model_id)), client) {
            (Some(locked), _) => locked.clone(),
            (None, Some(client)) => self.ask_hub(request, location, client)?,
            (None, None) if policy.update.covers(&request.model_id) => {
                let what = format!("the newest commit of {}", location.repository);
                return Err(Error::Offline { what, cache: self.cache.root.clone() });
            }
            (None, None) => self.look_in_cache(request, location)?,
        };
        if locked.format == LockedFormat::Checkpoint && !request.weights {
            let (model_id, source_name) = (request.model_id.clone(), location.to_string());
            return Err(Error::CheckpointNotBundled { model_id, source_name });
        }
        Ok(ResolvedModel { request: request.clone(), found: Found::Hub(locked) })
    }

    fn ask_hub(&self, request: &ModelRequest, location: &HubLocation, client: &Client) -> Result<LockedModel> {
        let source = location.to_string();
        self.progress.event(Event::Resolving { model_id: &request.model_id, source: &source });
        let hub = self.hub(client);
        let info = hub.revision(location)?;
        if let Some(name) = &info.renamed {
            let text = format!("{} is called {name} now; change it in the manifest", location.repository);
            self.progress.event(Event::Notice { text: &text });
        }
        let listed = hub.files(&location.repository, &info.commit)?;
        let files: BTreeMap<&str, &HubFile> = listed.iter().map(|file| (file.path.as_str(), file)).collect();
        let sizes = listed.iter().map(|file| (file.path.clone(), file.size)).collect();
        let wanted = |name: &str| hub_file(location, &info.commit, files[name]);
        let mut read = |name: &str| {
            let cached = self.batch(&[wanted(name)], Some(client))?;
            cached.first().map_or(Ok(Vec::new()), |cached| read_small(&cached.path))
        };
        let place = location.repository.to_string();
        let selection = Contents { place: &place, files: &sizes, read: &mut read }.select()?;
        // What is not in LFS has no sha256 at the hub: such files, small ones, are fetched now.
        let names: Vec<_> = selection.metadata.iter().chain(&selection.weights).collect();
        let unknown: Vec<_> =
            names.iter().map(|name| wanted(name)).filter(|file| file.expected.sha256.is_none()).collect();
        let cached = self.batch(&unknown, Some(client))?;
        let computed: BTreeMap<_, _> = unknown.iter().map(|file| &file.path).zip(cached).collect();
        let locked_file = |name: &&String| LockedFile {
            path: (*name).clone(),
            size: sizes[*name],
            sha256: match computed.get(name) {
                Some(cached) => cached.found.sha256.clone(),
                None => files[name.as_str()].sha256.clone().unwrap_or_default(),
            },
        };
        let mut locked = locked_model(request, &source, &info.commit, selection.format);
        locked.files = names.iter().map(locked_file).collect();
        locked.files.sort();
        self.cache.write_ref(&location.repository, location.requested(), &info.commit)?;
        Ok(locked)
    }

    /// Offline and without a lock: what the cache last knew.
    fn look_in_cache(&self, request: &ModelRequest, location: &HubLocation) -> Result<LockedModel> {
        let repository = &location.repository;
        let offline = |what: String| Error::Offline { what, cache: self.cache.root.clone() };
        let revision = location.requested();
        let commit = self.cache.read_ref(repository, revision);
        let commit = commit.ok_or_else(|| offline(format!("the revision {revision:?} of {repository}")))?;
        let folder = self.cache.snapshot(repository, &commit);
        let (sizes, selection) =
            select_in(&folder).map_err(|error| offline(format!("{repository} at {commit} as a whole ({error})")))?;
        let names: Vec<_> = selection.metadata.iter().chain(&selection.weights).collect();
        let hashes = parallel(&names, self.settings.workers, &self.stop, |_, name| {
            self.stamps.hash(&folder.join(name), false).map(|found| found.sha256)
        })?;
        let mut locked = locked_model(request, &location.to_string(), &commit, selection.format);
        let files = names.iter().zip(hashes);
        locked.files =
            files.map(|(name, sha256)| LockedFile { path: (*name).clone(), size: sizes[*name], sha256 }).collect();
        locked.files.sort();
        Ok(locked)
    }

    fn hub<'b>(&'b self, client: &'b Client) -> Hub<'b> {
        Hub { client, settings: self.settings, stop: &self.stop, progress: self.progress }
    }

    /// Has all these files in the cache, in this order.
    fn batch(&self, wanted: &[Wanted], client: Option<&Client>) -> Result<Vec<Cached>> {
        let hub = client.map(|client| self.hub(client));
        let transfers =
            Transfers { hub: hub.as_ref(), cache: &self.cache, stamps: &self.stamps, progress: self.progress };
        let workers = self.settings.workers;
        let mut cached = parallel(wanted, workers, &self.stop, |_, file| transfers.existing(file))?;
        let absent: Vec<usize> = (0..wanted.len()).filter(|&index| cached[index].is_none()).collect();
        if !absent.is_empty() {
            if hub.is_some() {
                self.check_space(absent.iter().map(|&index| transfers.missing(&wanted[index])))?;
                let bytes = absent.iter().map(|&index| wanted[index].expected.size).fold(0, u64::saturating_add);
                self.progress.event(Event::Batch { files: absent.len(), bytes });
            }
            let fetched = parallel(&absent, workers, &self.stop, |number, &index| {
                let file = transfers.download(number, &wanted[index])?;
                self.progress.event(Event::Finish { file: number });
                Ok(file)
            })?;
            self.progress.event(Event::BatchEnd);
            absent.iter().zip(fetched).for_each(|(&index, file)| cached[index] = Some(file));
        }
        Ok(cached.into_iter().flatten().collect())
    }

    fn check_space(&self, sizes: impl Iterator<Item = u64>) -> Result<()> {
        let cache = &self.settings.cache;
        std::fs::create_dir_all(cache).map_err(Error::io("create the folder", cache))?;
        let needed = sizes.fold(0, u64::saturating_add);
        // A file system that does not say how much is free is tried.
        let available = fs4::available_space(cache).unwrap_or(u64::MAX);
        if needed.saturating_add(SPARE_SPACE) > available && needed > 0 {
            return Err(Error::NoSpace { needed, available, path: cache.clone() });
        }
        Ok(())
    }

    fn source(&self, model: &ResolvedModel) -> ModelSource {
        let model_id = model.request.model_id.clone();
        match (&model.found, &model.request.location) {
            (Found::Local(local), location) => {
                let path = match location {
                    Location::Local(path) => path.clone(),
                    Location::Hub(_) => Default::default(),
                };
                ModelSource { model_id, path, kind: local.kind, origin: Origin::Local, files: local.files.clone() }
            }
            (Found::Hub(locked), Location::Hub(location)) => {
                let path = self.cache.snapshot(&location.repository, &locked.commit);
                let origin = Origin::Hub { location: location.clone(), commit: locked.commit.clone() };
                let files = locked.files.iter().map(source_file).collect();
                ModelSource { model_id, path, kind: locked.format.into(), origin, files }
            }
            (Found::Hub(_), Location::Local(_)) => unreachable!("a local request is resolved to a local model"),
        }
    }
}

impl Update {
    fn covers(&self, model_id: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Models(models) => models.contains(model_id),
        }
    }
}

fn locked_model(request: &ModelRequest, source: &str, commit: &str, format: LockedFormat) -> LockedModel {
    let (model_id, model) = (request.model_id.clone(), source.to_owned());
    LockedModel { model_id, model, commit: commit.to_owned(), format, files: Vec::new() }
}

fn hub_file(location: &HubLocation, commit: &str, file: &HubFile) -> Wanted {
    Wanted {
        repository: location.repository.clone(),
        commit: commit.to_owned(),
        path: file.path.clone(),
        expected: Expected { size: file.size, sha256: file.sha256.clone(), git_oid: file.git_oid.clone() },
        blob: file.sha256.clone().or(file.git_oid.clone()),
    }
}

fn locked_file(location: &HubLocation, commit: &str, file: &LockedFile) -> Wanted {
    Wanted {
        repository: location.repository.clone(),
        commit: commit.to_owned(),
        path: file.path.clone(),
        expected: Expected { size: file.size, sha256: Some(file.sha256.clone()), git_oid: None },
        blob: None,
    }
}

fn source_file(file: &LockedFile) -> SourceFile {
    let role = if is_weights(&file.path) { FileRole::Weights } else { FileRole::Metadata };
    SourceFile { path: file.path.clone(), size: file.size, sha256: Some(file.sha256.clone()), role }
}

/// Why a lockfile would change, as far as that can be told without asking the hub.
fn stale(requests: &[ModelRequest], old: &Lockfile, policy: &LockPolicy) -> Vec<LockChange> {
    let mut changes = Vec::new();
    let mut named = BTreeSet::new();
    for request in requests {
        let Location::Hub(location) = &request.location else { continue };
        named.insert(request.model_id.as_str());
        let (model_id, now) = (request.model_id.clone(), location.to_string());
        match old.model(&request.model_id) {
            None => changes.push(LockChange::Added { model_id, model: now }),
            Some(locked) if locked.model != now => {
                changes.push(LockChange::Source { model_id, from: locked.model.clone(), to: now });
            }
            Some(locked) if policy.update.covers(&model_id) => {
                let from = locked.commit.clone();
                changes.push(LockChange::Moved { model_id, from, to: "its newest commit".to_owned() });
            }
            Some(_) => {}
        }
    }
    let gone = old.models.iter().filter(|locked| !named.contains(locked.model_id.as_str()));
    changes.extend(gone.map(|locked| LockChange::Removed { model_id: locked.model_id.clone() }));
    changes
}

fn differences(old: &Lockfile, new: &Lockfile) -> Vec<LockChange> {
    let mut changes = Vec::new();
    for current in &new.models {
        let model_id = current.model_id.clone();
        match old.model(&current.model_id) {
            None => changes.push(LockChange::Added { model_id, model: current.model.clone() }),
            Some(before) if before.model != current.model => {
                changes.push(LockChange::Source { model_id, from: before.model.clone(), to: current.model.clone() });
            }
            Some(before) if before != current => {
                changes.push(LockChange::Moved { model_id, from: before.commit.clone(), to: current.commit.clone() });
            }
            Some(_) => {}
        }
    }
    let gone = old.models.iter().filter(|before| new.model(&before.model_id).is_none());
    changes.extend(gone.map(|before| LockChange::Removed { model_id: before.model_id.clone() }));
    changes
}
