//! What both faces call. Everything blocks and may be called from any thread.

mod answer;
mod bundle;
mod error;
mod gate;
mod library;
pub mod log;

pub use answer::{Answer, Piece};
pub use bundle::Bundle;
pub(crate) use error::holding;
pub use error::{Code, Error, Result, guard};
pub use library::{loaded_table, table_at};

use gate::Gate;
use knapsack_artifact::app_config::{AppFile, AppModel, WeightsLocation};
use knapsack_device::{FileRange, OpenOptions, PlacedFile};
use knapsack_runtime::download::{Body, DownloadProgress, Store, Transport, TransportError, WantedFile};
use knapsack_runtime::manager::{Acquire, Handle, Listener, Manager, Pressure, system_budget};
use knapsack_runtime::{CancelFlag, PackageLoader, table_libraries};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// What an app opens its models with.
pub struct Options {
    /// The app config and the files of bundled models.
    pub bundle: Bundle,
    /// The model table.
    pub table: &'static [u8],
    /// Where downloaded models are kept; without it a model that is to be downloaded cannot be used.
    pub storage: Option<PathBuf>,
    /// Bytes that loaded models may take; `None`: what the system says, asked again before each load.
    pub budget: Option<u64>,
    /// What stops while the app is in the background.
    pub background: Background,
    /// Moves the bytes of downloads.
    pub transport: Option<Arc<dyn Transport>>,
    /// Is told of loads and evictions, on the thread whose call caused them, before that call returns.
    pub listener: Option<Listener>,
}

/// What [`Models::pause`] stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Work on a GPU, which the system forbids in the background; the CPU goes on.
    StopGpu,
    /// Every answer.
    StopAll,
    /// Nothing.
    Continue,
}

/// A function that takes a file of a model: its id, the file's path in the package, where it lies.
pub type TakeFile = fn(&Models, &str, &str, &Path) -> Result<bool>;

/// One model of the package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// `model_id` of the manifest.
    pub id: String,
    /// Bytes that it takes when it is loaded.
    pub memory: u64,
    /// Most tokens of a conversation; `None`: no end (sliding window).
    pub context: Option<u32>,
    /// Bytes that are downloaded before its first use; 0 when it is bundled.
    pub download: u64,
    /// Revision that was packaged, where the source has one.
    pub revision: Option<String>,
}

/// Whether a model can be used at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Part of the app.
    Bundled,
    /// Downloaded, verified, in place.
    Ready,
    /// Not downloaded.
    Missing {
        /// Its bytes.
        total: u64,
    },
    /// A download was begun.
    Partial {
        /// Bytes that are here.
        done: u64,
        /// Bytes of the model.
        total: u64,
    },
}

/// The models of an app.
pub struct Models {
    manager: Manager<PackageLoader>,
    budget: Option<u64>,
    /// The app asks the system for memory and says what it got ([`Models::grant`]); else it is asked here.
    app_asks: AtomicBool,
    background: Background,
    gate: Gate,
}

impl Models {
    /// Opens the models of a package.
    ///
    /// # Errors
    /// A package or a table that cannot be used.
    pub fn open(options: Options) -> Result<Self> {
        let package = options.bundle.open(table_libraries(options.table)?)?;
        // Beside the models: names that begin with a dot are none of theirs.
        let programs = options.storage.as_ref().map(|folder| folder.join(".programs"));
        let device = Box::new(knapsack_device::best(&OpenOptions { threads: None, programs }));
        let transport = options.transport.unwrap_or_else(|| Arc::new(NoTransport));
        let store = options.storage.map(|folder| Store::new(folder, transport));
        let loader = PackageLoader::new(package, device, store);
        let budget = options.budget.or_else(system_budget).unwrap_or(u64::MAX);
        let manager = Manager::new(loader, budget, options.listener);
        let gate = Gate::new(options.background == Background::StopAll);
        Ok(Self {
            manager,
            budget: options.budget,
            app_asks: AtomicBool::new(false),
            background: options.background,
            gate,
        })
    }

    /// Every model, in the order of the manifest.
    pub fn models(&self) -> Vec<ModelInfo> {
        let info = |model: &AppModel| ModelInfo {
            id: model.model_id.clone(),
            memory: model.planned_memory.map_or(model.estimated_vram_bytes, |plan| plan.total),
            context: model.context_window_size,
            download: match model.weights {
                WeightsLocation::Download(_) => total(model),
                WeightsLocation::Bundled(_) => 0,
                WeightsLocation::Packs(_) => match self.loader().package().bundled_files(model) {
                    Ok(_) => 0,
                    Err(_) => total(model),
                },
            },
            revision: model.revision.clone(),
        };
        self.loader().package().config().model_list.iter().map(info).collect()
    }

    /// Whether a model can be used at once.
    ///
    /// # Errors
    /// No such model.
    pub fn state(&self, id: &str) -> Result<ModelState> {
        let model = self.model(id)?;
        let total = total(model);
        match model.weights {
            WeightsLocation::Bundled(_) => return Ok(ModelState::Bundled),
            WeightsLocation::Packs(_) => {
                let here = self.loader().package().bundled_files(model).is_ok();
                return Ok(if here { ModelState::Ready } else { ModelState::Missing { total } });
            }
            WeightsLocation::Download(_) => {}
        }
        let Some(store) = self.loader().store() else { return Ok(ModelState::Missing { total }) };
        if store.folder(model).is_some() {
            return Ok(ModelState::Ready);
        }
        Ok(match total - store.missing_bytes(model) {
            0 => ModelState::Missing { total },
            done => ModelState::Partial { done, total },
        })
    }

    /// Downloads a model, or what is still missing of it; nothing to do for a bundled one. `progress` is called on this thread;
    /// false stops the download, which a later call takes up again.
    ///
    /// # Errors
    /// No such model, no storage, too little space, a network that keeps failing, files that keep being wrong, the flag.
    pub fn prepare(
        &self,
        id: &str,
        cancel: &CancelFlag,
        progress: &mut dyn FnMut(DownloadProgress) -> bool,
    ) -> Result<()> {
        self.model(id)?;
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            let download = scope.spawn(move || {
                let tell = |done: DownloadProgress| {
                    // Nobody listens any more when the caller's callback panicked.
                    let _ = sender.send(done);
                };
                self.loader().prepare(id, &tell, cancel)
            });
            let mut highest = 0;
            for step in receiver {
                // Several files at once: their messages may overtake each other.
                if step.done >= highest && !progress(step) {
                    cancel.cancel();
                }
                highest = highest.max(step.done);
            }
            match download.join() {
                Ok(outcome) => outcome.map(drop).map_err(Error::from),
                Err(panic) => Err(error::panicked(&panic)),
            }
        })
    }

    /// The files of a model, for an app whose system downloads them.
    ///
    /// # Errors
    /// No such model, nothing to download, or no storage.
    pub fn wanted(&self, id: &str) -> Result<Vec<WantedFile>> {
        let model = self.model(id)?;
        if let WeightsLocation::Packs(packs) = &model.weights {
            let package = self.loader().package();
            let file = |file: &AppFile| WantedFile {
                // Not to be downloaded: where it lies in its pack.
                url: format!("pack:{}/{}", packs.folder, file.path),
                path: file.path.clone(),
                size: file.size,
                sha256: file.sha256.clone(),
                have: package.is_placed(model, &file.path),
            };
            return Ok(model.files.iter().map(file).collect());
        }
        Ok(self.store()?.wanted(model)?)
    }

    /// Takes note of where a file lies that came in a store's pack: it is used there, and nothing is copied. Whether the model is
    /// complete now. To be called again after each start: the system may move packs.
    ///
    /// # Errors
    /// A file that is none of the model's, or has another size; a model that comes in no pack.
    pub fn place(&self, id: &str, path: &str, file: &Path) -> Result<bool> {
        self.place_file(id, path, file.into())
    }

    /// The same for a file that has no path here, or one that the app may not open by it.
    ///
    /// # Errors
    /// As [`Models::place`].
    pub fn place_range(&self, id: &str, path: &str, range: FileRange) -> Result<bool> {
        self.place_file(id, path, range.into())
    }

    fn place_file(&self, id: &str, path: &str, file: PlacedFile) -> Result<bool> {
        Ok(self.loader().package().place(self.model(id)?, path, file)?)
    }

    /// Takes a file that the app's system downloaded; whether the model is complete now.
    ///
    /// # Errors
    /// A file that is none of the model's, or not the one that was packaged; the file system.
    pub fn adopt(&self, id: &str, path: &str, file: &Path) -> Result<bool> {
        Ok(self.store()?.adopt(self.model(id)?, path, file)?.is_some())
    }

    /// Checks every byte of a downloaded model; the files that are missing or wrong. Wrong ones are removed, and wanted again.
    ///
    /// # Errors
    /// No such model, one that is not downloaded, or the file system.
    pub fn verify(&self, id: &str) -> Result<Vec<String>> {
        let model = self.model(id)?;
        self.manager.unload(id)?;
        Ok(self.store()?.verify(model)?)
    }

    fn store(&self) -> Result<&Store> {
        self.loader().store().ok_or_else(|| Error::new(Code::InvalidArgument, "there is no storage for downloads"))
    }

    /// Removes a downloaded model from this device; false when there was nothing.
    ///
    /// # Errors
    /// A model that is in use, or the file system.
    pub fn remove(&self, id: &str) -> Result<bool> {
        self.model(id)?;
        self.manager.unload(id)?;
        Ok(self.loader().store().map_or(Ok(false), |store| store.remove(id))?)
    }

    /// Whether the model would fit into the budget if nothing else were in use: to be asked before a download.
    ///
    /// # Errors
    /// It would not; no such model.
    pub fn fits(&self, id: &str) -> Result<()> {
        self.refresh_budget();
        Ok(self.manager.check_fits(id)?)
    }

    /// Loads a model ahead of its first answer.
    ///
    /// # Errors
    /// As [`Models::answer`].
    pub fn load(&self, id: &str, cancel: &CancelFlag) -> Result<()> {
        self.acquire(id, cancel).map(drop)
    }

    fn acquire(&self, id: &str, cancel: &CancelFlag) -> Result<Handle<PackageLoader>> {
        self.model(id)?;
        self.gate.wait(cancel)?;
        self.refresh_budget();
        Ok(self.manager.acquire(id, &Acquire { cancel: cancel.clone(), ..Acquire::default() })?)
    }

    /// Frees a loaded model; false when it is not loaded.
    ///
    /// # Errors
    /// A model that is in use.
    pub fn unload(&self, id: &str) -> Result<bool> {
        Ok(self.manager.unload(id)?)
    }

    /// Keeps a model from being evicted for another's sake, or lets it go again.
    pub fn pin(&self, id: &str, pinned: bool) {
        self.manager.pin(id, pinned);
    }

    /// Frees models that are not in use; returns their bytes.
    pub fn memory_pressure(&self, critical: bool) -> u64 {
        self.manager.memory_pressure(if critical { Pressure::Critical } else { Pressure::Moderate })
    }

    /// Sets the budget.
    pub fn set_budget(&self, bytes: u64) {
        self.manager.set_budget(bytes);
    }

    /// Sets the budget to what models hold already and `bytes` more, which the system grants by a call that only the app can make
    /// (Android's `MemoryInfo`), and leaves asking to the app from then on; nothing happens where the app has set a budget.
    pub fn grant(&self, bytes: u64) {
        self.app_asks.store(true, Ordering::Relaxed);
        self.allow(bytes);
    }

    fn allow(&self, bytes: u64) {
        if self.budget.is_none() {
            self.manager.set_budget(self.manager.used().saturating_add(bytes));
        }
    }

    /// The app goes to the background: running answers end after the current token, new ones are refused and loads wait until
    /// [`Models::resume`]. Returns when nothing computes any more.
    pub fn pause(&self) {
        match self.background {
            // Models that may compute only in the foreground look at this themselves.
            Background::StopGpu => self.loader().activity().pause(),
            Background::StopAll => self.gate.pause(),
            Background::Continue => {}
        }
    }

    /// The app is back.
    pub fn resume(&self) {
        self.loader().activity().resume();
        self.gate.resume();
    }

    /// What is free now and what models hold already, less the system's share: asked again before each load.
    fn refresh_budget(&self) {
        if !self.app_asks.load(Ordering::Relaxed)
            && let Some(free) = system_budget()
        {
            self.allow(free);
        }
    }

    fn loader(&self) -> &PackageLoader {
        self.manager.loader()
    }

    fn model(&self, id: &str) -> Result<&AppModel> {
        Ok(self.loader().package().model(Some(id))?)
    }
}

fn total(model: &AppModel) -> u64 {
    model.files.iter().map(|file| file.size).sum()
}

struct NoTransport;

impl Transport for NoTransport {
    fn get(&self, _: &str, _: u64) -> std::result::Result<Body, TransportError> {
        Err(TransportError::Refused("the app gave no way to download".into()))
    }
}
