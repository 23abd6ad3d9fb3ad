//! APKs, bundles for Google Play, and libraries of Android apps.

use super::archive::Entry;
use super::{Form, Inspection, binary, models};
use anyhow::Result;
use knapsack_artifact::app_config::{AppModel, WeightsLocation};
use knapsack_artifact::container::MAX_FILE_BYTES;
use knapsack_artifact::{AppConfig, Delivery};
use std::collections::BTreeSet;

/// Name of the library that holds the models.
const MODELS: &str = "libmodel_android.so";
/// Name of the library that is the runtime.
const RUNTIME: &str = "libknapsack.so";
/// The ABI of phones.
const PHONE: &str = "arm64-v8a";
/// ABIs of 64 bits: only those have pages of 16 KiB.
const WIDE: [&str; 2] = [PHONE, "x86_64"];

const STORE: &str = "in the app's build.gradle.kts: android { androidResources { noCompress += \"bin\" } }";
const TAKE: &str =
    "add the dependency on ai.knapsack:models, or copy dist/lib/<abi>/libmodel_android.so into src/main/jniLibs/<abi>/";

impl Form {
    /// Folders of shared libraries and of assets.
    const fn places(self) -> (&'static str, &'static str) {
        match self {
            Form::Aab => ("base/lib/", "base/assets/"),
            Form::Aar => ("jni/", "assets/"),
            Form::Apk | Form::Ipa => ("lib/", "assets/"),
        }
    }
}

/// Everything about an Android app.
pub(super) fn inspect(app: &mut Inspection, form: Form) -> Result<()> {
    let (libraries, assets) = form.places();
    let config = models::config(app, |name| name.starts_with(assets))?;
    if config.is_none() {
        let help = "dist/bundle/* belongs into the app's assets, in the folder knapsack";
        app.error(format!("there is no mlc-app-config.json below {assets}"), help);
    }
    shared_libraries(app, form, libraries, config.as_ref().map(|(config, _)| config))?;
    if let Some((config, folder)) = &config {
        for model in &config.model_list {
            weights(app, form, model, folder)?;
        }
    }
    sizes(app, form);
    Ok(())
}

fn shared_libraries(app: &mut Inspection, form: Form, folder: &str, config: Option<&AppConfig>) -> Result<()> {
    let all: Vec<Entry> = app.archive.files.iter().filter(|file| file.name.starts_with(folder)).cloned().collect();
    let parts = |file: &Entry| {
        let (abi, name) = file.name.strip_prefix(folder)?.split_once('/')?;
        (name.ends_with(".so") && !name.contains('/')).then(|| (abi.to_owned(), name.to_owned()))
    };
    let found: Vec<(Entry, String, String)> =
        all.iter().filter_map(|file| parts(file).map(|(abi, name)| (file.clone(), abi, name))).collect();
    let abis: BTreeSet<&str> = found.iter().map(|(_, abi, _)| abi.as_str()).chain([PHONE]).collect();
    for abi in abis.into_iter().filter(|abi| WIDE.contains(abi)) {
        let has = |name: &str| found.iter().any(|(_, of, found)| of == abi && found == name);
        if !has(MODELS) {
            app.error(format!("{folder}{abi} has no {MODELS}: the compiled models are missing"), TAKE);
        }
        if !has(RUNTIME) && form != Form::Aar {
            let help =
                "add the dependency on ai.knapsack:runtime; an app with a runtime library of its own can ignore this";
            app.warning(format!("{folder}{abi} has no {RUNTIME}: the runtime is missing"), help);
        }
    }
    for (file, abi, name) in &found {
        if WIDE.contains(&abi.as_str()) {
            let bytes = app.archive.read(file, MAX_FILE_BYTES)?;
            pages(app, form, file, &bytes);
            if name == MODELS {
                let names = models::table(app, &file.name, &bytes)?;
                if names.is_empty() {
                    app.error(format!("{} has no model table", file.name), TAKE);
                } else if let Some(config) = config {
                    models::libraries(app, config, &file.name, &names);
                }
            }
        }
    }
    Ok(())
}

/// Whether a phone with pages of 16 KiB can load a library, and map it where it lies.
fn pages(app: &mut Inspection, form: Form, file: &Entry, bytes: &[u8]) {
    let page = app.limits.android.page.error_above;
    let source = app.limits.android.page.source.clone();
    match binary::page_alignment(bytes) {
        Err(problem) => app.error(format!("{}: {problem:#}", file.name), "it belongs to another ABI, or is damaged"),
        Ok(found) if found < page => {
            let message = format!("{}: its segments are aligned to {found} bytes, not {page}", file.name);
            app.error(message, format!("link it with -Wl,-z,max-page-size={page}; {source}"));
        }
        // A library that is compressed is unpacked when the app is installed.
        Ok(_) if form == Form::Apk && file.stored && !file.offset.is_multiple_of(page) => {
            let message = format!("{} begins at {}, which is no multiple of {page}", file.name, file.offset);
            app.error(
                message,
                "align the APK before it is signed: zipalign -P 16 -f 4, or the Android Gradle Plugin 8.5.1 or newer",
            );
        }
        Ok(_) => {}
    }
}

fn weights(app: &mut Inspection, form: Form, model: &AppModel, folder: &str) -> Result<()> {
    let modules: BTreeSet<String> =
        app.archive.files.iter().filter_map(|file| Some(file.name.split_once("/assets/")?.0.to_owned())).collect();
    let pack = |name: &str| match form {
        Form::Aab => modules.contains(name).then(|| format!("{name}/assets/")),
        _ => None,
    };
    let places = models::folders(model, folder, pack);
    if let (Form::Aab, WeightsLocation::Packs(packs), None) = (form, &model.weights, &places) {
        let message = format!("{}: its packs are missing: {}", model.model_id, packs.names.join(", "));
        app.error(message, "dist/asset-packs/play/packs.settings.gradle.kts says how they get into the app");
    }
    // How a bundle's assets are stored in the APKs is decided by its configuration.
    let deflated = matches!(form, Form::Apk).then_some(STORE);
    models::check(app, model, places.as_deref(), deflated)?;
    if form == Form::Aab && matches!(&model.weights, WeightsLocation::Bundled(_)) {
        let stored = match app.archive.find("BundleConfig.pb").cloned() {
            Some(entry) => app.archive.read(&entry, 1 << 20)?.windows(4).any(|bytes| bytes == b".bin"),
            None => false,
        };
        if !stored {
            let message =
                format!("{}: the bundle's configuration does not say that .bin stays uncompressed", model.model_id);
            app.error(message, STORE);
        }
    }
    Ok(())
}

fn sizes(app: &mut Inspection, form: Form) {
    match form {
        Form::Apk => {
            let bytes = app.archive.bytes;
            app.limit("the APK has", bytes, |limits| &limits.android.apk);
        }
        Form::Aab => {
            let of = |module: &str, files: &[Entry]| -> u64 {
                files.iter().filter(|file| file.name.starts_with(module)).map(|file| file.compressed).sum()
            };
            let base = of("base/", &app.archive.files);
            app.limit("the base module has", base, |limits| &limits.play.base_module);
            let packs: BTreeSet<String> = app
                .archive
                .files
                .iter()
                .filter_map(|file| Some(file.name.split_once("/assets/knapsack/")?.0.to_owned()))
                .collect();
            let mut total = base;
            for pack in packs.iter().filter(|pack| *pack != "base") {
                let bytes = of(&format!("{pack}/"), &app.archive.files);
                app.limit(&format!("the pack {pack} has"), bytes, |limits| &limits.play.pack);
                total += bytes;
            }
            let at_install = app.models.iter().all(|model| {
                matches!(model.delivery, Delivery::Bundled | Delivery::Download | Delivery::PlayInstallTime)
            });
            if at_install {
                app.limit("what is installed with the app has", total, |limits| &limits.play.install_time_total);
            }
        }
        Form::Aar | Form::Ipa => {}
    }
}
