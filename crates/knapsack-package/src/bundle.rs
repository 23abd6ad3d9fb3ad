//! Stage 6: the package.

use crate::{Error, Event, Packager, Ready};
use knapsack_bundle::package::BundleStep;
use knapsack_bundle::{BundleError, Entry, LinkMode, PackageChanges, PackageContents, Runtime, WriteOptions};
use knapsack_config::{Manifest, ModelSource, StoreLimits};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Where the package goes.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// Its folder, replaced as a whole.
    pub folder: &'a Path,
    /// How bundled weights get there.
    pub link_mode: LinkMode,
    /// Whether to wait until the package is on the disk before it takes the place of the old one.
    pub sync: bool,
    /// Where apps get the runtime.
    pub runtime: &'a Runtime,
}

impl Packager<'_> {
    /// Whether stage 6 may write to the folder, as far as that can be told before anything is made for it.
    ///
    /// # Errors
    /// A folder that nobody means, or with somebody else's files.
    pub fn check_destination(&self, manifest: &Manifest, folder: &Path) -> Result<(), Error> {
        Ok(knapsack_bundle::check_output(folder, &protected(manifest)?)?)
    }

    /// Stage 6: writes the package.
    ///
    /// # Errors
    /// As [`knapsack_bundle::write`]; [`Error::Interrupted`] when the observer wants to stop. The old package, if there is one,
    /// stays then.
    pub fn bundle(
        &self,
        manifest: &Manifest,
        models: &[Ready],
        destination: Destination<'_>,
    ) -> Result<PackageChanges, Error> {
        let package = PackageContents {
            device: manifest.device.value,
            entries: models.iter().map(entry).collect(),
            app: manifest.app.clone(),
            pack_bytes: StoreLimits::built_in().play.pack.error_above,
            runtime: destination.runtime.clone(),
        };
        let protected = protected(manifest)?;
        let locks = self.cache.locks();
        let progress = |step: BundleStep<'_>| {
            let (BundleStep::Verifying { path, bytes } | BundleStep::Writing { path, bytes }) = step;
            self.observer.event(Event::BundlingFile { path, bytes });
            if self.observer.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let options = WriteOptions {
            link_mode: destination.link_mode,
            protected: &protected,
            digests: self.cache.digests(),
            locks: Some(&locks),
            sync: destination.sync,
            progress: &progress,
        };
        self.observer.event(Event::Bundling);
        let result = knapsack_bundle::write(&package, destination.folder, &options);
        self.observer.event(Event::BundlingEnd);
        self.cache.digests().save();
        result.map_err(|error| match error {
            BundleError::Interrupted => Error::Interrupted,
            error => error.into(),
        })
    }
}

fn entry(model: &Ready) -> Entry {
    let planned = &model.built.planned;
    Entry {
        model_id: planned.id().to_owned(),
        estimated_vram_bytes: planned.declared().unwrap_or_else(|| model.built.library.library().memory.total()),
        library: model.built.library.clone(),
        revision: planned.found.folder.origin.commit().map(str::to_owned),
        weights: model.weights.clone(),
        app: planned.found.entry.app.clone(),
    }
}

/// Folders that the output may not be or contain: the manifest's and those of local models.
fn protected(manifest: &Manifest) -> Result<Vec<PathBuf>, Error> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::io("resolve", path));
    let folder = manifest.folder();
    let mut list = vec![absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?];
    for entry in &manifest.models {
        if let ModelSource::Local(local) = &entry.source.value {
            list.push(absolute(&local.path)?);
        }
    }
    Ok(list)
}
