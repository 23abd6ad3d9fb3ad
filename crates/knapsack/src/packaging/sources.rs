//! Stage 2: what each model is, and its configuration on the disk.

use super::{Resolved, Workspace};
use crate::downloads::Downloads;
use crate::exit::OrWrongInput;
use anyhow::Result;
use knapsack_config::{Loaded, Lockfile, ModelEntry};
use knapsack_source::{Error, Location, LockPolicy, ModelRequest, ModelSource, Resolution, Sources, Update};
use std::path::{Path, PathBuf};

/// How the lockfile and the network may be used.
#[derive(Clone, Debug, Default)]
pub struct Locking {
    /// Fail instead of changing the lockfile.
    pub locked: bool,
    /// Which models to ask the hub for anew.
    pub update: Update,
}

impl Workspace<'_> {
    /// Stage 2: decides what each model is, by the lockfile where it says so; writes the lockfile when that changed anything;
    /// fetches configurations, but no weights.
    ///
    /// # Errors
    /// A source that cannot be found or is no model, a lockfile that would have to change but may not, a failing network.
    pub fn resolve(&self, loaded: &Loaded, locking: &Locking) -> Result<Resolved> {
        let lock_path = lock_path(&loaded.manifest.path);
        let lock = Lockfile::read(&lock_path).or_wrong_input()?;
        let requests = loaded.manifest.models.iter().map(request).collect::<Result<Vec<_>>>()?;
        let downloads = Downloads::new(self.reporter);
        let sources = Sources::new(&self.settings, &downloads);
        let policy = LockPolicy { locked: locking.locked, update: locking.update.clone() };
        let resolution = sources.resolve(&requests, lock.as_ref(), &policy).map_err(classified)?;
        for change in &resolution.changes {
            self.reporter.detail("Locking", change);
        }
        let found = sources.fetch(&without_weights(&resolution)).map_err(classified)?;
        if lock.is_some() || !resolution.lock.models.is_empty() {
            if resolution.lock.write(&lock_path)? {
                self.reporter.status("Locked", lock_path.display());
            }
            sources.remember_lockfile(&lock_path)?;
        }
        Ok(Resolved { resolution, sources: found })
    }

    /// Weights of every model that needs them here.
    pub(super) fn fetch_weights(&self, resolved: &Resolved) -> Result<Vec<ModelSource>> {
        let downloads = Downloads::new(self.reporter);
        Sources::new(&self.settings, &downloads).fetch(&resolved.resolution).map_err(classified)
    }
}

/// `knapsack.lock` beside the manifest.
fn lock_path(manifest: &Path) -> PathBuf {
    manifest.with_file_name("knapsack.lock")
}

fn request(entry: &ModelEntry) -> Result<ModelRequest> {
    let location = Location::try_from(&entry.source.value).or_wrong_input()?;
    Ok(ModelRequest { model_id: entry.model_id.value.clone(), location, weights: entry.bundle_weight })
}

/// The same models with configurations and tokenizers only.
fn without_weights(resolution: &Resolution) -> Resolution {
    let mut metadata = resolution.clone();
    for model in &mut metadata.models {
        model.request.weights = false;
    }
    metadata
}

/// What the user wrote down wrongly is exit code 2, what went wrong otherwise 1.
fn classified(error: Error) -> anyhow::Error {
    match error {
        Error::LockOutOfDate { .. } | Error::CheckpointNotBundled { .. } | Error::NotAModel { .. } => {
            wrong_input_error(error)
        }
        other => other.into(),
    }
}

fn wrong_input_error(error: Error) -> anyhow::Error {
    crate::exit::WrongInput(error.into()).into()
}
