//! Every file of a package, decided before anything is written.

use super::output::Output;
use super::{PackageContents, WeightSupply, WriteOptions, app, bom, record::Record, weights};
use crate::error::BundleError;
use crate::objects::{self, Library, XCFRAMEWORK};
use knapsack_artifact::device::{Abi, AppleSlice, DeviceKind, Form};
use knapsack_artifact::{AppConfig, app_config, names};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// All files: libraries, bundles, app config, and last the record of them all.
pub(super) fn plan(package: &PackageContents, options: &WriteOptions<'_>) -> Result<Vec<Output>, BundleError> {
    check_entries(package)?;
    let libraries = distinct_libraries(package)?;
    let mut outputs = library_files(package.device, &libraries)?;
    let mut models = Vec::with_capacity(package.entries.len());
    let mut bundled = Vec::with_capacity(package.entries.len());
    for entry in &package.entries {
        let files = match &entry.weights {
            WeightSupply::Bundled { folder } => weights::collect(entry, folder, options)?,
            WeightSupply::Download { .. } => Vec::new(),
        };
        models.push(app::model(entry, &files));
        bundled.push(files);
    }
    let bill = bom::encode(package, &bundled, &libraries)?;
    outputs.extend(bundled.into_iter().flatten());
    outputs.push(Output::bytes(format!("bundle/{}", bom::FILE_NAME), bill));
    let config = AppConfig { model_list: models, app: package.app.clone() };
    outputs.push(Output::bytes(format!("bundle/{}", app_config::FILE_NAME), app::encode(&config)?));
    check_paths(&outputs)?;
    let record = Record::new(&outputs).encode();
    outputs.push(Output::bytes(super::record::PATH.into(), record));
    Ok(outputs)
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
