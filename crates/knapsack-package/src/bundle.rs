//! Stage 6: the package.

use crate::text::chain;
use crate::{Error, Event, Outcome, Packager, Ready};
use knapsack_bundle::digest::Wanted;
use knapsack_bundle::package::BundleStep;
use knapsack_bundle::{
    BundleError, ContentHash, Entry, LinkMode, PackageChanges, PackageContents, Provenance, Repository, Runtime,
    SourceFile, WriteOptions,
};
use knapsack_config::{Diagnostic, Manifest, ModelForm, ModelSource, StoreLimits, codes};
use knapsack_source::ModelFile;
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
    /// What the bill of materials says of when it was made, in seconds since 1970; `None`: nothing.
    pub date: Option<i64>,
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

    /// Stage 6: writes the package. A finding is a weight folder that is not what it says of itself.
    ///
    /// # Errors
    /// As [`knapsack_bundle::write`]; [`Error::Interrupted`] when the observer wants to stop. The old package, if there is one,
    /// stays then.
    pub fn bundle(
        &self,
        manifest: &Manifest,
        models: &[Ready],
        destination: Destination<'_>,
    ) -> Result<Outcome<PackageChanges>, Error> {
        let limits = StoreLimits::built_in();
        let package = PackageContents {
            device: manifest.device.value,
            entries: models.iter().map(|model| self.entry(model)).collect::<Result<_, _>>()?,
            app: manifest.app.clone(),
            date: destination.date,
            pack_bytes: limits.play.pack.error_above,
            archive_bytes: limits.android.apk.error_above,
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
        match result {
            Ok(changes) => {
                let findings = changes.bundle_apart.then(|| apart(manifest)).into_iter().collect();
                Ok(Outcome { product: Some(changes), findings })
            }
            Err(BundleError::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                let BundleError::Weights { model_id, .. } = &error else { return Err(error.into()) };
                let span = manifest.model(model_id).map(|entry| entry.source.span);
                let finding = Diagnostic::error(codes::WEIGHTS_MISMATCH, span, chain(&error));
                Ok(Outcome { product: None, findings: vec![finding] })
            }
        }
    }

    fn entry(&self, model: &Ready) -> Result<Entry, Error> {
        let planned = &model.built.planned;
        Ok(Entry {
            model_id: planned.id().to_owned(),
            estimated_vram_bytes: planned
                .declared()
                .unwrap_or_else(|| model.built.library.library().memory.total() + planned.tokenizer.bytes),
            library: model.built.library.clone(),
            revision: planned.found.folder.origin.commit().map(str::to_owned),
            weights: model.weights.clone(),
            tokenizer: planned.tokenizer.clone(),
            app: planned.found.entry.app.clone(),
            provenance: self.provenance(model)?,
        })
    }

    fn provenance(&self, model: &Ready) -> Result<Provenance, Error> {
        let (planned, found) = (&model.built.planned, &model.built.planned.found);
        let (origin, card) = (&found.folder.origin, found.resolved.card());
        let repository = origin.repository().zip(origin.url());
        let converted = planned.model.kind == ModelForm::Checkpoint;
        Ok(Provenance {
            repository: repository.map(|(name, url)| Repository { name: name.to_string(), url }),
            license: card.license.clone(),
            base_models: card.base_models.clone(),
            files: found
                .folder
                .files
                .iter()
                .map(|file| self.hashed(&found.folder.path, file, converted))
                .collect::<Result<_, _>>()?,
            converted,
        })
    }

    /// A source's file with its hash: from the lockfile, or as conversion (BLAKE3) or the package (SHA-256) need it anyway.
    fn hashed(&self, folder: &Path, file: &ModelFile, converted: bool) -> Result<SourceFile, Error> {
        let path = folder.join(&file.path);
        let computed = |wanted| self.cache.digests().of(&path, wanted).map_err(Error::io("read", &path));
        let hash = match &file.sha256 {
            Some(sha256) => ContentHash::Sha256(sha256.clone()),
            None if converted => ContentHash::Blake3(computed(Wanted::CONTENT)?.blake3().to_owned()),
            None => ContentHash::Sha256(computed(Wanted::PACKAGE)?.sha256().to_owned()),
        };
        Ok(SourceFile { path: file.path.clone(), hash })
    }
}

/// A bundle that is too large for the library for Gradle.
fn apart(manifest: &Manifest) -> Diagnostic {
    let message = "the bundled weights are more than an archive holds: the Maven library has the model libraries alone";
    let help = "push `bundle` to the device (`adb push`) and open it there by `ModelPackage(File(…))`, or give models an `asset_delivery`";
    Diagnostic::warning(codes::BUNDLE_APART, manifest.device.span, message).help(help)
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
