//! What the page is about, taken from the package.

use crate::cli::PhoneArgs;
use crate::exit::OrWrongInput;
use crate::files::read_limited;
use crate::ops::inspect::{FoundLibrary, library_files, read_files};
use crate::ops::memory::{Growth, growth};
use crate::phones;
use anyhow::{Context, Result};
use knapsack_artifact::app_config::{AppModel, WeightsLocation};
use knapsack_artifact::device::Platform;
use knapsack_artifact::library::Target;
use knapsack_artifact::{AppConfig, Delivery, app_config};
use knapsack_bundle::package::BILL_OF_MATERIALS;
use knapsack_config::{AppMemory, DeviceProfile, DeviceProfiles, Limit, Severity, StoreLimits};
use knapsack_package::Model;
use knapsack_runtime::Package;
use serde_json::Value;
use std::path::Path;

/// Largest bill of materials that is read.
const MAX_BILL: u64 = 64 << 20;
/// Most files of a package that are listed.
const MAX_FILES: usize = 100_000;

/// A package.
pub(super) struct PackageData {
    /// Its folder's name.
    pub(super) name: String,
    pub(super) platform: Option<Platform>,
    pub(super) models: Vec<ModelData>,
    pub(super) libraries: Vec<FoundLibrary>,
    /// Every file with its size, largest first.
    pub(super) files: Vec<(String, u64)>,
    pub(super) phones: Vec<DeviceProfile>,
    pub(super) app: AppMemory,
    pub(super) limits: Vec<Held>,
    /// The day on which the limits were read.
    pub(super) limits_read: String,
}

/// A model of the package.
pub(super) struct ModelData {
    pub(super) config: AppModel,
    pub(super) delivery: Delivery,
    /// Memory for other sizes; empty where the model's configuration is not in the package.
    pub(super) growth: Vec<Growth>,
    /// What the model's files say of its licence.
    pub(super) licence: Option<String>,
}

/// A size beside a limit of a store.
pub(super) struct Held {
    pub(super) what: &'static str,
    pub(super) value: u64,
    pub(super) limit: Limit,
    pub(super) severity: Option<Severity>,
}

impl PackageData {
    pub(super) fn read(path: &Path, args: &PhoneArgs) -> Result<Self> {
        let package = Package::open(path).or_wrong_input()?;
        let folder = path.join("lib");
        let files = if folder.is_dir() { library_files(&folder)? } else { Vec::new() };
        let libraries = read_files(path, &files).or_wrong_input()?;
        let platform = libraries.first().and_then(|found| match found.library.target {
            Target::Metal => Some(Platform::Ios),
            Target::OpenCl => Some(Platform::Android),
            Target::Host => None,
        });
        let bill = bill(path);
        let models = package.config().model_list.iter().map(|model| ModelData::read(&package, model, &bill));
        let models = models.collect::<Result<Vec<_>>>()?;
        let profiles = DeviceProfiles::built_in()?;
        let wanted = args.phone.iter().map(|name| phones::named(name, &profiles).cloned());
        let mut phones = wanted.collect::<Result<Vec<_>>>()?;
        if phones.is_empty() {
            phones = profiles.iter().filter(|phone| Some(phone.platform) == platform).cloned().collect();
        }
        let limits = StoreLimits::built_in();
        let held = held(&limits, package.config(), &libraries, platform);
        let absolute = std::path::absolute(path).with_context(|| path.display().to_string())?;
        Ok(PackageData {
            name: absolute.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            platform,
            models,
            libraries,
            files: all_files(path)?,
            phones,
            app: phones::app_memory(args, &AppMemory::default()),
            limits: held,
            limits_read: limits.read,
        })
    }

    /// Bytes of the whole package.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The library of a model.
    pub(super) fn library(&self, model: &AppModel) -> Option<&FoundLibrary> {
        self.libraries.iter().find(|found| found.library.name == model.model_lib)
    }
}

impl ModelData {
    fn read(package: &Package, model: &AppModel, bill: &Value) -> Result<Self> {
        let delivery = match &model.weights {
            WeightsLocation::Bundled(_) => Delivery::Bundled,
            WeightsLocation::Download(_) => Delivery::Download,
            WeightsLocation::Packs(packs) => packs.delivery,
        };
        let folder = package.bundled_weights(model).ok().filter(|folder| folder.is_dir());
        let opened = folder.as_deref().map(|folder| Model::open(folder, None)).transpose()?;
        let mut found = Vec::new();
        if let (Some(opened), Ok(library)) = (&opened, package.library(model)) {
            let info = &library.model;
            let own = opened.own().windows;
            let windows = knapsack_ir::Windows {
                context: info.context_window_size.unwrap_or(own.context),
                sliding: info.sliding_window_size,
                sinks: info.attention_sink_size,
                chunk: info.prefill_chunk_size,
            };
            let tokenizer = model.planned_memory.as_ref().map_or(0, |planned| planned.tokenizer);
            found = growth(opened, &windows, tokenizer)?;
        }
        let stated = model.app.get("license").or_else(|| model.app.get("licence")).and_then(|value| value.as_str());
        let licence = stated.map(str::to_owned).or_else(|| licence(bill, &model.model_id));
        Ok(ModelData { config: model.clone(), delivery, growth: found, licence })
    }

    /// Bytes of its files.
    pub(super) fn bytes(&self) -> u64 {
        self.config.files.iter().map(|file| file.size).sum()
    }
}

/// The package's bill of materials, or nothing.
fn bill(path: &Path) -> Value {
    let text = read_limited(&path.join("bundle").join(BILL_OF_MATERIALS), MAX_BILL).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// What the bill of materials says of a model's licence, or of what it was made from.
fn licence(bill: &Value, model_id: &str) -> Option<String> {
    let model = bill["components"].as_array()?.iter().find(|component| component["name"] == model_id)?;
    let made_from = model["pedigree"]["ancestors"].as_array().into_iter().flatten();
    let choices =
        std::iter::once(model).chain(made_from).filter_map(|component| component["licenses"].as_array()).flatten();
    let words = |choice: &Value| {
        let licence = &choice["license"];
        let text =
            licence["id"].as_str().or_else(|| licence["name"].as_str()).or_else(|| choice["expression"].as_str());
        text.map(str::to_owned)
    };
    let found: Vec<String> = choices.filter_map(words).collect();
    (!found.is_empty()).then(|| found.join(", "))
}

/// Sizes beside the limits of the platform's store.
fn held(limits: &StoreLimits, config: &AppConfig, libraries: &[FoundLibrary], platform: Option<Platform>) -> Vec<Held> {
    let total = |of: &[Delivery]| -> u64 {
        let delivery = |model: &AppModel| match &model.weights {
            WeightsLocation::Bundled(_) => Delivery::Bundled,
            WeightsLocation::Download(_) => Delivery::Download,
            WeightsLocation::Packs(packs) => packs.delivery,
        };
        let models = config.model_list.iter().filter(|model| of.contains(&delivery(model)));
        models.flat_map(|model| &model.files).map(|file| file.size).sum()
    };
    let one = |what, value, limit: &Limit| {
        let severity = limit.judge(value).map(|(severity, _)| severity);
        Held { what, value, limit: limit.clone(), severity }
    };
    let bundled = total(&[Delivery::Bundled]);
    match platform {
        Some(Platform::Android) => vec![
            one("bundled weights, of the base module", bundled, &limits.play.base_module),
            one("bundled weights, of an APK", bundled, &limits.android.apk),
            one(
                "bundled weights and install-time packs",
                total(&[Delivery::Bundled, Delivery::PlayInstallTime]),
                &limits.play.install_time_total,
            ),
            one(
                "fast-follow and on-demand packs",
                total(&[Delivery::PlayFastFollow, Delivery::PlayOnDemand]),
                &limits.play.deferred_total,
            ),
        ],
        Some(Platform::Ios | Platform::Macos) => {
            let packs = [Delivery::AppleEssential, Delivery::ApplePrefetch, Delivery::AppleOnDemand];
            let text = libraries.iter().map(|found| found.blob.len() as u64).sum();
            vec![
                one("bundled weights, of the app", bundled, &limits.apple.app),
                one("compiled models, of __TEXT", text, &limits.apple.text),
                one("asset packs", total(&packs), &limits.apple.packs_total),
            ]
        }
        None => Vec::new(),
    }
}

/// Every file of the package but its own record. Symbolic links are not followed.
fn all_files(root: &Path) -> Result<Vec<(String, u64)>> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let name = path.strip_prefix(root).unwrap_or(&path).display().to_string().replace('\\', "/");
                files.push((name, entry.metadata()?.len()));
                anyhow::ensure!(files.len() <= MAX_FILES, "more than {MAX_FILES} files");
            }
        }
    }
    files.retain(|(name, _)| !name.starts_with(".knapsack/"));
    files.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(files)
}

/// The name of the app config, for the page.
pub(super) const APP_CONFIG: &str = app_config::FILE_NAME;
