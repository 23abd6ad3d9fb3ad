//! Every file of a package, decided before anything is written.

use super::output::Output;
use super::{
    Entry, PackageContents, WeightSupply, WriteOptions, app, bom, maven, packs, record::Record, swift, weights,
};
use crate::error::BundleError;
use crate::objects::{self, Library, XCFRAMEWORK};
use knapsack_artifact::app_config::{AppFile, WeightsLocation};
use knapsack_artifact::delivery::{Delivery, Store};
use knapsack_artifact::device::{Abi, AppleSlice, DeviceKind, Form};
use knapsack_artifact::{AppConfig, app_config, names};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// All files: libraries, bundles, app config, what Xcode and Gradle take, and last the record of them all. `before` is what an earlier
/// run wrote. Also whether the bundle is more than the library for Gradle holds.
pub(super) fn plan(
    package: &PackageContents,
    options: &WriteOptions<'_>,
    before: Option<&Record>,
) -> Result<(Vec<Output>, bool), BundleError> {
    check_entries(package)?;
    let libraries = distinct_libraries(package)?;
    let mut outputs = library_files(package.device, &libraries)?;
    let mut models = Vec::with_capacity(package.entries.len());
    let mut files_of = Vec::with_capacity(package.entries.len());
    let mut play_packs = Vec::new();
    for entry in &package.entries {
        let (location, listed, files) = weights_of(entry, package.pack_bytes, options)?;
        if let WeightsLocation::Packs(packs) = &location
            && packs.delivery.store() == Some(Store::Play)
        {
            play_packs.extend(packs.names.iter().cloned());
        }
        files_of.push(listed.clone());
        models.push(app::model(entry, location, listed));
        outputs.extend(files);
    }
    let bill = bom::encode(package, &files_of, &libraries)?;
    outputs.push(Output::bytes(format!("bundle/{}", bom::FILE_NAME), bill));
    if !play_packs.is_empty() {
        outputs.push(packs::settings(&play_packs));
    }
    let config = AppConfig { model_list: models, app: package.app.clone() };
    outputs.push(Output::bytes(format!("bundle/{}", app_config::FILE_NAME), app::encode(&config)?));
    let mut bundle_apart = false;
    let projects = match package.device.form {
        Form::Framework(_) => swift::outputs(&outputs, &package.runtime),
        Form::SharedLibraries(_) => {
            let repository = maven::repository(&outputs, package, options, before)?;
            bundle_apart = repository.bundle_apart;
            repository.outputs
        }
        Form::Blob => Vec::new(),
    };
    outputs.extend(projects);
    check_paths(&outputs)?;
    let record = Record::new(&outputs, &HashMap::new()).encode();
    outputs.push(Output::bytes(super::record::PATH.into(), record));
    Ok((outputs, bundle_apart))
}

/// Where a model's weights are, what the app config says of its files, and those that go into the package.
fn weights_of(
    entry: &Entry,
    pack_bytes: u64,
    options: &WriteOptions<'_>,
) -> Result<(WeightsLocation, Vec<AppFile>, Vec<Output>), BundleError> {
    let id = &entry.model_id;
    let (folder, delivery) = match &entry.weights {
        WeightSupply::Download { url, files } => {
            return Ok((WeightsLocation::Download(url.clone()), files.clone(), Vec::new()));
        }
        WeightSupply::Bundled { folder } => (folder, Delivery::Bundled),
        WeightSupply::Packed { folder, delivery } => (folder, *delivery),
    };
    let mut files = weights::collect(entry, folder, options)?;
    let listed = app::files(&files);
    if let Some(store) = delivery.store() {
        let (packs, files) = packs::place(id, delivery, store, files, pack_bytes)?;
        return Ok((WeightsLocation::Packs(packs), listed, files));
    }
    files.iter_mut().for_each(|file| file.path = format!("bundle/{id}/{}", file.path));
    Ok((WeightsLocation::Bundled(id.clone()), listed, files))
}

/// Model ids become folders; the manifest's checks have looked at them before, but this is where it matters.
fn check_entries(package: &PackageContents) -> Result<(), BundleError> {
    let mut seen = HashSet::new();
    for entry in &package.entries {
        let place = || format!("model id `{}`", entry.model_id.escape_default());
        names::check_file_name(&entry.model_id).map_err(|source| BundleError::Name { place: place(), source })?;
        if !seen.insert(entry.model_id.to_lowercase()) {
            return Err(BundleError::SamePath { path: format!("bundle/{}", entry.model_id) });
        }
    }
    Ok(())
}

fn distinct_libraries(package: &PackageContents) -> Result<Vec<Library>, BundleError> {
    let mut by_name: BTreeMap<&str, (&str, &Library)> = BTreeMap::new();
    for entry in &package.entries {
        let (first, library) = by_name.entry(entry.library.name()).or_insert((&entry.model_id, &entry.library));
        if library.blob() != entry.library.blob() {
            return Err(BundleError::LibraryClash {
                name: entry.library.name().into(),
                first: (*first).into(),
                second: entry.model_id.clone(),
            });
        }
    }
    Ok(by_name.into_values().map(|(_, library)| library.clone()).collect())
}

fn library_files(device: DeviceKind, libraries: &[Library]) -> Result<Vec<Output>, BundleError> {
    match device.form {
        Form::Framework(slices) => framework(slices, libraries),
        Form::SharedLibraries(abis) => {
            let file = |abi: &Abi| {
                let path = format!("lib/{}/libmodel_android.so", abi.name);
                Ok(Output::libraries(path, objects::shared_library(*abi, libraries)?.into(), 1))
            };
            abis.iter().map(file).collect()
        }
        Form::Blob => Err(BundleError::NoPackage { device }),
    }
}

fn framework(slices: &[AppleSlice], libraries: &[Library]) -> Result<Vec<Output>, BundleError> {
    let mut outputs = Vec::new();
    for (path, slice) in objects::framework_members(slices) {
        let path = format!("lib/{XCFRAMEWORK}/{path}");
        let Some(slice) = slice else {
            outputs.push(Output::bytes(path, objects::framework_info(slices)?));
            continue;
        };
        let bytes: Arc<[u8]> = objects::archive(slice, libraries)?.into();
        let count = slice.architectures.len();
        // MLC's apps link the archive by this name; it is the framework's first slice.
        if slice == slices[0] {
            outputs.push(Output::libraries("lib/libmodel_iphone.a".into(), bytes.clone(), count));
        }
        outputs.push(Output::libraries(path, bytes, count));
    }
    Ok(outputs)
}

/// No two outputs may meet on a file system that ignores case.
fn check_paths(outputs: &[Output]) -> Result<(), BundleError> {
    let mut seen = HashSet::new();
    for output in outputs {
        if !seen.insert(output.path.to_lowercase()) {
            return Err(BundleError::SamePath { path: output.path.clone() });
        }
    }
    Ok(())
}
