//! From a manifest's sources to pinned commits, sizes and digests, and from those to files on the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use knapsack_config::ModelForm;
use knapsack_config::lockfile::{LockedFile, LockedModel, Lockfile, ModelCard};

use crate::card;
use crate::digest::Expected;
use crate::error::{Error, FetchError, Result};
use crate::http::Client;
use crate::hub::{Hub, HubFile};
use crate::layout::HubCache;
use crate::local::{open_local, read_small, select_in};
use crate::location::{HubLocation, Location};
use crate::model::{FileRole, ModelFile, ModelFolder, Origin, WeightsHeader};
use crate::parallel::parallel;
use crate::progress::{Event, Progress};
use crate::resolution::{LockPolicy, ModelRequest, Pinned, Resolution, ResolvedModel};
use crate::select::{Contents, is_weights};
use crate::settings::Settings;
use crate::stamps::Stamps;
use crate::transfer::{Cached, Transfers, Wanted};
use crate::usage::Usage;

/// Longest header of a safetensors file that is asked for, with its length in front.
const MAX_HEADER: u64 = 32 << 20;
/// Most bytes that are asked for to read the headers of one model; those of the largest are some hundred kilobytes.
const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Most files of one model whose headers are read.
const MAX_HEADERS: usize = 64;
/// Left free on the disk besides what is downloaded.
const SPARE_SPACE: u64 = 64 << 20;

/// Resolves and fetches, with one set of settings.
pub struct Sources<'a> {
    settings: &'a Settings,
    progress: &'a dyn Progress,
    cache: HubCache,
    stamps: Stamps,
    client: OnceLock<Client>,
    stop: AtomicBool,
}

impl<'a> Sources<'a> {
    /// Touches nothing yet.
    pub fn new(settings: &'a Settings, progress: &'a dyn Progress) -> Self {
        let (cache, stamps) = (HubCache::new(&settings.cache), Stamps::open(&settings.state));
        Self { settings, progress, cache, stamps, client: OnceLock::new(), stop: AtomicBool::new(false) }
    }

    /// Decides what each model is, the first failure ending it. Locked models are taken from `lock` without asking anybody.
    ///
    /// # Errors
    /// As [`Sources::find`] and [`Resolution::new`].
    pub fn resolve(
        &self,
        requests: &[ModelRequest],
        lock: Option<&Lockfile>,
        policy: &LockPolicy,
    ) -> Result<Resolution> {
        self.check_lock(requests, lock, policy)?;
        let models = requests.iter().map(|request| self.find(request, lock, policy)).collect::<Result<Vec<_>>>()?;
        Resolution::new(models, lock, policy)
    }

    /// Whether the policy lets `lock` serve `requests`, as far as that can be told without asking the hub.
    ///
    /// # Errors
    /// Every reason why it does not.
    pub fn check_lock(&self, requests: &[ModelRequest], lock: Option<&Lockfile>, policy: &LockPolicy) -> Result<()> {
        policy.check(requests, lock.unwrap_or(&Lockfile::default()))
    }

    /// Decides what one model is: by the lockfile when it has the model, else by asking the hub, or by the folder.
    ///
    /// # Errors
    /// A source that does not exist, may not be read or is no model; the network, the disk.
    pub fn find(&self, request: &ModelRequest, lock: Option<&Lockfile>, policy: &LockPolicy) -> Result<ResolvedModel> {
        self.stop.store(false, Ordering::Relaxed);
        let outcome = self.resolve_one(request, lock, policy);
        let saved = self.stamps.save();
        let model = outcome?;
        saved.map(|()| model)
    }

    /// Brings everything that the models need into the cache and checks it.
    ///
    /// # Errors
    /// A download that fails or is not what the lockfile says, with the model that it is of.
    pub fn fetch(&self, models: &[ResolvedModel]) -> Result<Vec<ModelFolder>, FetchError> {
        self.fetch_files(models, |model, path| model.request.weights || !is_weights(path))?;
        Ok(models.iter().map(|model| self.folder(model)).collect())
    }

    /// Brings configuration, index and tokenizer of one model into the cache and checks them.
    ///
    /// # Errors
    /// As [`Sources::fetch`].
    pub fn fetch_metadata(&self, model: &ResolvedModel) -> Result<ModelFolder> {
        self.fetch_files(std::slice::from_ref(model), |_, path| !is_weights(path))?;
        Ok(self.folder(model))
    }

    /// The first bytes of each file of a checkpoint's weights, in which its tensors are listed; `None` where some of them cannot be
    /// had now, or are more than a plan is worth: nobody needs them to go on.
    pub fn headers(&self, model: &ResolvedModel) -> Option<Vec<WeightsHeader>> {
        let (Pinned::Hub(locked), Location::Hub(location)) = (&model.pinned, &model.request.location) else {
            return None;
        };
        let weights: Vec<_> = locked.files.iter().filter(|file| is_weights(&file.path)).collect();
        if locked.format != ModelForm::Checkpoint || weights.len() > MAX_HEADERS {
            return None;
        }
        let left = AtomicU64::new(MAX_HEADER_BYTES);
        let read = |_, file: &&LockedFile| {
            let bytes = self.header(location, &locked.commit, file, &left)?;
            Ok(WeightsHeader { path: file.path.clone(), size: file.size, bytes })
        };
        self.stop.store(false, Ordering::Relaxed);
        parallel(&weights, self.settings.workers, &self.stop, read).ok()
    }

    /// The header of one file. `left` counts down the bytes that headers may have in all.
    fn header(&self, location: &HubLocation, commit: &str, file: &LockedFile, left: &AtomicU64) -> Result<Vec<u8>> {
        /// What most headers are shorter than: one request then does.
        const USUAL: u64 = 256 << 10;
        let cached = self.cache.snapshot(&location.repository, commit).join(&file.path);
        let first = |count: u64| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count))
                .map_err(|_| Error::Stopped)?;
            match File::open(&cached) {
                Ok(opened) => {
                    let mut bytes = Vec::new();
                    opened.take(count).read_to_end(&mut bytes).map_err(Error::io("read", &cached))?;
                    Ok(bytes)
                }
                Err(_) => {
                    let client = self.client()?.ok_or(Error::Stopped)?;
                    client.get_first(&self.hub(client).file_url(&location.repository, commit, &file.path), count)
                }
            }
        };
        let bytes = first(USUAL.min(file.size))?;
        // What has no length is shorter than a header can be, which is for the reader of headers to say.
        let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length).saturating_add(8));
        match length > MAX_HEADER || length <= bytes.len() as u64 {
            true => Ok(bytes),
            false => first(length.min(file.size)),
        }
    }

    fn fetch_files(
        &self,
        models: &[ResolvedModel],
        is_needed: impl Fn(&ResolvedModel, &str) -> bool,
    ) -> Result<(), FetchError> {
        let (mut wanted, mut owners) = (Vec::new(), Vec::new());
        let mut repositories = Vec::new();
        for (number, model) in models.iter().enumerate() {
            if let (Pinned::Hub(locked), Location::Hub(location)) = (&model.pinned, &model.request.location) {
                let needed = locked.files.iter().filter(|file| is_needed(model, &file.path));
                wanted.extend(needed.map(|file| locked_file(location, &locked.commit, file)));
                owners.resize(wanted.len(), number);
                repositories.push(&location.repository);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        self.stop.store(false, Ordering::Relaxed);
        let outcome = self.batch(&wanted, self.client()?);
        self.stamps.save()?;
        outcome.map_err(|FetchError { of, source }| FetchError { of: of.map(|file| owners[file]), source })?;
        Ok(Usage::add(&self.settings.state, repositories.into_iter(), None)?)
    }

    /// Remembers a lockfile, so that `cache list` can say what uses a download.
    pub fn remember_lockfile(&self, path: &Path) -> Result<()> {
        Usage::add(&self.settings.state, std::iter::empty(), Some(path))
    }

    /// The client, made when it is first needed; `None` where the network may not be used.
    fn client(&self) -> Result<Option<&Client>> {
        if self.settings.offline {
            return Ok(None);
        }
        if let Some(client) = self.client.get() {
            return Ok(Some(client));
        }
        let client = Client::new(self.settings)?;
        Ok(Some(self.client.get_or_init(|| client)))
    }

    fn resolve_one(
        &self,
        request: &ModelRequest,
        lock: Option<&Lockfile>,
        policy: &LockPolicy,
    ) -> Result<ResolvedModel> {
        let location = match &request.location {
            Location::Local(folder) => {
                let pinned = Pinned::Local(open_local(folder)?);
                return Ok(ResolvedModel { request: request.clone(), pinned });
            }
            Location::Hub(location) => location,
        };
        let kept = lock.and_then(|lock| lock.model(&request.model_id));
        let kept = kept.filter(|locked| locked.model == location.to_string());
        let locked = match (kept.filter(|_| !policy.update.covers(&request.model_id)), self.client()?) {
            (Some(locked), _) => locked.clone(),
            (None, Some(client)) => self.ask_hub(request, location, client)?,
            (None, None) if policy.update.covers(&request.model_id) => {
                let what = format!("the newest commit of {}", location.repository);
                return Err(Error::Offline { what, cache: self.cache.root.clone() });
            }
            (None, None) => self.look_in_cache(request, location)?,
        };
        if locked.format == ModelForm::Checkpoint && !request.weights {
            let (model_id, source_name) = (request.model_id.clone(), location.to_string());
            return Err(Error::CheckpointNotBundled { model_id, source_name });
        }
        Ok(ResolvedModel { request: request.clone(), pinned: Pinned::Hub(locked) })
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
        locked.card = info.card;
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
        locked.card = card::of_folder(&folder);
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
    fn batch(&self, wanted: &[Wanted], client: Option<&Client>) -> Result<Vec<Cached>, FetchError> {
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
            });
            let of_wanted = |FetchError { of, source }| FetchError { of: of.map(|number| absent[number]), source };
            let fetched = fetched.map_err(of_wanted)?;
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

    fn folder(&self, model: &ResolvedModel) -> ModelFolder {
        let model_id = model.request.model_id.clone();
        match (&model.pinned, &model.request.location) {
            (Pinned::Local(local), location) => {
                let path = match location {
                    Location::Local(path) => path.clone(),
                    Location::Hub(_) => Default::default(),
                };
                ModelFolder { model_id, path, kind: local.kind, origin: Origin::Local, files: local.files.clone() }
            }
            (Pinned::Hub(locked), Location::Hub(location)) => {
                let path = self.cache.snapshot(&location.repository, &locked.commit);
                let origin = Origin::Hub { location: location.clone(), commit: locked.commit.clone() };
                let files = locked.files.iter().map(source_file).collect();
                ModelFolder { model_id, path, kind: locked.format, origin, files }
            }
            (Pinned::Hub(_), Location::Local(_)) => unreachable!("a local request is resolved to a local model"),
        }
    }
}

fn locked_model(request: &ModelRequest, source: &str, commit: &str, format: ModelForm) -> LockedModel {
    let (model_id, model) = (request.model_id.clone(), source.to_owned());
    LockedModel { model_id, model, commit: commit.to_owned(), format, card: ModelCard::default(), files: Vec::new() }
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

fn source_file(file: &LockedFile) -> ModelFile {
    let role = if is_weights(&file.path) { FileRole::Weights } else { FileRole::Metadata };
    ModelFile { path: file.path.clone(), size: file.size, sha256: Some(file.sha256.clone()), role }
}
