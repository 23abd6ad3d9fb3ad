use crate::activity::Activity;
use crate::cancel::CancelFlag;
use crate::chat_config::ChatModel;
use crate::download::{DownloadError, DownloadProgress, Store};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::manager::{BoxError, Cancelled, Loader};
use crate::package::{Package, PackageError};
use crate::session::Session;
use crate::text::Keep;
use knapsack_artifact::app_config::{AppModel, WeightsLocation};
use knapsack_device::{Device, DeviceError, Folder, Watch, WeightFiles};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Loads the models of a package onto a device, for a [`crate::manager::Manager`].
pub struct PackageLoader {
    package: Package,
    device: Box<dyn Device>,
    store: Option<Store>,
    activity: Activity,
}

/// Why a model of a package could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadFailed {
    /// The package says something that cannot be, or lacks what it names.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The weights could not be fetched.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// The weights or the text side are not the library's, or the device refused them.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The model is to be downloaded, and was not.
    #[error("`{0}` is not on this device yet: download it first")]
    NotDownloaded(String),
}

impl PackageLoader {
    /// A loader; `store` holds what is downloaded.
    pub fn new(package: Package, device: Box<dyn Device>, store: Option<Store>) -> Self {
        Self { package, device, store, activity: Activity::new() }
    }

    /// What the app pauses when it goes into the background. Answers of models that may not compute there end with
    /// [`crate::FinishReason::Backgrounded`], loads wait.
    pub const fn activity(&self) -> &Activity {
        &self.activity
    }

    /// The package whose models are loaded.
    pub const fn package(&self) -> &Package {
        &self.package
    }

    /// Where downloaded models are.
    pub const fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Makes sure that the weights of a model are on this device: downloads them when they are not part of the package. To be
    /// called before the model is acquired, because a load holds its share of the budget and a download may take long.
    ///
    /// # Errors
    /// No such model, or a download that failed.
    pub fn prepare(
        &self,
        model_id: &str,
        progress: &(dyn Fn(DownloadProgress) + Sync),
        cancel: &CancelFlag,
    ) -> Result<PathBuf, LoadFailed> {
        let model = self.package.model(Some(model_id))?;
        match (&model.weights, &self.store) {
            (WeightsLocation::Download(_), Some(store)) => Ok(store.ensure(model, progress, cancel)?),
            _ => Ok(self.files(model)?.place().to_owned()),
        }
    }

    /// The files of a model that is on this device.
    fn files(&self, model: &AppModel) -> Result<Arc<dyn WeightFiles>, LoadFailed> {
        match (&model.weights, &self.store) {
            (WeightsLocation::Download(_), Some(store)) => {
                let folder = store.folder(model).ok_or_else(|| LoadFailed::NotDownloaded(model.model_id.clone()))?;
                Ok(Arc::new(Folder::new(folder)))
            }
            _ => Ok(self.package.bundled_files(model)?),
        }
    }

    fn engine(&self, model_id: &str, watch: &LoadWatch<'_>) -> Result<Engine, LoadFailed> {
        let model = self.package.model(Some(model_id))?;
        let files = self.files(model)?;
        let library = self.package.library(model)?;
        let start = Instant::now();
        watch.check()?;
        (watch.progress)(0.0);
        let resumed = self.activity.enter_when_resumed(watch.cancel).ok_or(EngineError::Cancelled)?;
        // A pause does not wait for a load: nothing of it runs on a GPU that is for the foreground.
        drop(resumed);
        watch.check()?;
        // The text side is read beside the weights.
        let (chat, loaded) = std::thread::scope(|scope| {
            // What was downloaded is the app's own, and what comes with it is not to be changed.
            let keep = match &model.weights {
                WeightsLocation::Download(_) => Keep::Beside(files.place()),
                WeightsLocation::Bundled(_) | WeightsLocation::Packs(_) => Keep::Nowhere,
            };
            let (files, vocab_size) = (&*files, library.model.vocab_size);
            let chat = scope.spawn(move || ChatModel::from_files(files, vocab_size, keep));
            let loaded = self.device.load_from(library.clone(), files, watch);
            (chat.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), loaded)
        });
        let (chat, loaded) = (chat.map_err(EngineError::from)?, loaded.map_err(EngineError::from)?);
        (watch.progress)(1.0);
        log::info!("loaded {model_id} in {:.3} s", start.elapsed().as_secs_f64());
        let pauses = loaded.foreground_only();
        let session = Session::new(loaded);
        let session = if pauses { session.with_activity(self.activity.clone()) } else { session };
        Ok(Engine::new(session, Arc::new(chat)))
    }
}

/// What a load asks and tells.
struct LoadWatch<'a> {
    progress: &'a dyn Fn(f32),
    cancel: &'a CancelFlag,
}

impl LoadWatch<'_> {
    fn check(&self) -> Result<(), EngineError> {
        if self.proceed() { Ok(()) } else { Err(EngineError::Cancelled) }
    }
}

impl Watch for LoadWatch<'_> {
    fn proceed(&self) -> bool {
        !self.cancel.is_cancelled()
    }

    fn progress(&self, done: u64, total: u64) {
        (self.progress)((done as f64 / total.max(1) as f64) as f32);
    }
}

impl Loader for PackageLoader {
    type Model = Engine;

    /// What the model's library plans, for the device allocates exactly that, and what the package says of its tokenizer.
    fn bytes(&self, model_id: &str) -> Result<u64, BoxError> {
        let model = self.package.model(Some(model_id))?;
        let tokenizer = model.planned_memory.map_or(0, |planned| planned.tokenizer);
        Ok(self.package.library(model)?.memory.total().saturating_add(tokenizer))
    }

    fn load(&self, model_id: &str, progress: &dyn Fn(f32), cancel: &CancelFlag) -> Result<Engine, BoxError> {
        self.engine(model_id, &LoadWatch { progress, cancel }).map_err(|error| match error {
            LoadFailed::Engine(EngineError::Cancelled | EngineError::Device(DeviceError::Interrupted)) => {
                Cancelled.into()
            }
            error => error.into(),
        })
    }
}

#[cfg(test)]
mod tests;
