//! The bill of materials of a package's models, in CycloneDX 1.5: what each is, under which licence, and what it was made from.
//!
//! ```text
//! metadata.component        the package
//! components                a model of the package        its files with SHA-256, its format and sizes
//!   pedigree.ancestors        its source                   repository and commit (purl), licence, files with SHA-256 or BLAKE3
//!     pedigree.ancestors        its base models            what the source's card names
//! components                a model library of the package
//! dependencies              package → models → libraries
//! ```
//!
//! It holds no time unless one is given, no path of the machine that packaged and no random number: the same inputs give the same
//! bytes.

mod cyclonedx;
mod licence;

use super::{Entry, PackageContents, WeightSupply};
use crate::digest::sha256;
use crate::error::BundleError;
use crate::objects::Library;
use cyclonedx::{Bom, Component, Dependency, Hash, Kind, Metadata, Pedigree, Property, Reference, Tools};
use knapsack_artifact::app_config::AppFile;

/// Its name, beside the app config.
pub const FILE_NAME: &str = "models.cdx.json";
const PACKAGE: &str = "package";

/// The file's text; `files` are those of each entry, by their paths in the model's folder.
pub(super) fn encode(
    package: &PackageContents,
    files: &[Vec<AppFile>],
    libraries: &[Library],
) -> Result<Vec<u8>, BundleError> {
    let models = package.entries.iter().zip(files).map(|(entry, files)| model(entry, files));
    let components = models.chain(libraries.iter().map(library)).collect();
    let mut bom = Bom::new(metadata(package)?, components, dependencies(package, libraries));
    bom.serial_number = Some(serial_number(&bom.encode()));
    Ok(bom.encode())
}

/// A UUID of RFC 9562's version 8: by the content, which then has the same number wherever it is made.
fn serial_number(text: &[u8]) -> String {
    let digits = sha256(text);
    let variant = 8 | (u8::from_str_radix(&digits[16..17], 16).unwrap_or_default() & 3);
    let parts = [&digits[..8], &digits[8..12], &digits[13..16], &digits[17..20], &digits[20..32]];
    format!("urn:uuid:{}-{}-8{}-{variant:x}{}-{}", parts[0], parts[1], parts[2], parts[3], parts[4])
}

fn metadata(package: &PackageContents) -> Result<Metadata, BundleError> {
    let date = |seconds| -> Result<String, BundleError> {
        let date = chrono::DateTime::from_timestamp(seconds, 0);
        let date = date.ok_or_else(|| BundleError::Bom(format!("{seconds} is no number of seconds since 1970")))?;
        Ok(date.format("%Y-%m-%dT%H:%M:%SZ").to_string())
    };
    let tool =
        Component { version: Some(env!("CARGO_PKG_VERSION").into()), ..Component::new(Kind::Application, "knapsack") };
    let name = format!("models for {}", package.device);
    Ok(Metadata {
        timestamp: package.date.map(date).transpose()?,
        tools: Tools { components: vec![tool] },
        component: Component { bom_ref: Some(PACKAGE.into()), ..Component::new(Kind::Data, &name) },
    })
}

fn dependencies(package: &PackageContents, libraries: &[Library]) -> Vec<Dependency> {
    let on = |name: String, depends_on| Dependency { name, depends_on };
    let models = package.entries.iter().map(|entry| model_ref(&entry.model_id)).collect();
    let mut list = vec![on(PACKAGE.to_owned(), models)];
    let with_library = |entry: &Entry| on(model_ref(&entry.model_id), vec![library_ref(entry.library.name())]);
    list.extend(package.entries.iter().map(with_library));
    list.extend(libraries.iter().map(|library| on(library_ref(library.name()), Vec::new())));
    list
}

fn model_ref(model_id: &str) -> String {
    format!("model:{model_id}")
}

fn library_ref(name: &str) -> String {
    format!("library:{name}")
}

/// A model as the app finds it.
fn model(entry: &Entry, files: &[AppFile]) -> Component {
    let info = &entry.library.library().model;
    let (place, weights) = match (&entry.weights, entry.provenance.converted) {
        (WeightSupply::Bundled { .. }, true) => (format!("bundle/{}/", entry.model_id), "converted and bundled"),
        (WeightSupply::Bundled { .. }, false) => (format!("bundle/{}/", entry.model_id), "bundled"),
        (WeightSupply::Packed { .. }, true) => (String::new(), "converted, delivered in packs"),
        (WeightSupply::Packed { .. }, false) => (String::new(), "delivered in packs"),
        (WeightSupply::Download { .. }, _) => (String::new(), "downloaded at first launch"),
    };
    let files = files
        .iter()
        .map(|file| Component::file(&format!("{place}{}", file.path), Hash::sha256(&file.sha256)))
        .collect();
    let property = |name: &str, value: &str| Property { name: format!("knapsack:{name}"), value: value.into() };
    let mut properties = vec![
        property("family", &info.family),
        property("quantization", &info.quantization),
        property("weights", weights),
    ];
    let context = info.context_window_size.map(|size| property("context_window_size", &size.to_string()));
    properties.extend(context);
    let source = source(entry);
    Component {
        bom_ref: Some(model_ref(&entry.model_id)),
        version: source.version.clone(),
        licenses: source.licenses.clone(),
        properties,
        components: files,
        pedigree: Some(Pedigree { ancestors: vec![source] }),
        ..Component::new(Kind::MachineLearningModel, &entry.model_id)
    }
}

/// What a model was made from.
fn source(entry: &Entry) -> Component {
    let origin = &entry.provenance;
    let base = |name: &String| Component { purl: purl(name, None), ..Component::new(Kind::MachineLearningModel, name) };
    let bases: Vec<_> = origin.base_models.iter().filter(|name| !name.is_empty()).map(base).collect();
    let repository = origin.repository.as_ref();
    let name = repository.map_or(&*entry.model_id, |repository| &repository.name);
    let revision = entry.revision.as_deref();
    let address = |url: &str| revision.map_or_else(|| url.to_owned(), |commit| format!("{url}/tree/{commit}"));
    let reference = repository.map(|found| Reference { kind: "distribution", url: address(&found.url) });
    Component {
        version: revision.map(str::to_owned),
        licenses: origin.license.as_deref().map(licence::choice).into_iter().collect(),
        purl: repository.and_then(|repository| purl(&repository.name, revision)),
        external_references: reference.into_iter().collect(),
        components: origin.files.iter().map(|file| Component::file(&file.path, Hash::of(&file.hash))).collect(),
        pedigree: (!bases.is_empty()).then_some(Pedigree { ancestors: bases }),
        ..Component::new(Kind::MachineLearningModel, name)
    }
}

/// `pkg:huggingface/org/name@commit`, as the package URL specification writes the hub's models.
fn purl(repository: &str, revision: Option<&str>) -> Option<String> {
    let plain = |part: &str| {
        part.bytes().any(|byte| byte.is_ascii_alphanumeric())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let (organisation, name) = repository.split_once('/')?;
    let version = revision.map(|commit| format!("@{}", commit.to_ascii_lowercase())).unwrap_or_default();
    (plain(organisation) && plain(name)).then(|| format!("pkg:huggingface/{repository}{version}"))
}

fn library(library: &Library) -> Component {
    Component {
        bom_ref: Some(library_ref(library.name())),
        ..Component { kind: Kind::Library, ..Component::file(library.name(), Hash::sha256(&sha256(library.blob()))) }
    }
}
