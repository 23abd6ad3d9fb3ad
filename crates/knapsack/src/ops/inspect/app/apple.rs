//! Apps for Apple's devices.

use super::archive::{Archive, Entry};
use super::{Inspection, binary, models};
use anyhow::{Context, Result};
use knapsack_artifact::app_config::WeightsLocation;
use knapsack_artifact::container::MAX_FILE_BYTES;

const TAKE: &str =
    "add the Swift package dist/KnapsackModels to the app's target, and use KnapsackModels.package in its code";
/// Largest property list that is read.
const MAX_PLIST: u64 = 1 << 20;

/// `Payload/Name.app/`.
pub(super) fn app_folder(archive: &Archive) -> Option<String> {
    archive.files.iter().find_map(|file| {
        let mut parts = file.name.split('/');
        let (payload, app) = (parts.next()?, parts.next()?);
        (payload == "Payload" && app.ends_with(".app") && parts.next().is_some()).then(|| format!("Payload/{app}/"))
    })
}

/// Everything about an app for iPhone or iPad.
pub(super) fn inspect(app: &mut Inspection) -> Result<()> {
    let folder = app_folder(&app.archive).context("there is no Payload/*.app")?;
    let config = models::config(app, |name| name.starts_with(&folder))?;
    if config.is_none() {
        app.error(format!("there is no mlc-app-config.json below {folder}"), TAKE);
    }
    let (mut names, mut text, mut place) = (Vec::new(), 0, folder.clone());
    for file in executables(app, &folder)? {
        let bytes = app.archive.read(&file, MAX_FILE_BYTES)?;
        text += binary::text_bytes(&bytes);
        let found = models::table(app, &file.name, &bytes)?;
        if !found.is_empty() {
            place.clone_from(&file.name);
            names = found;
        }
    }
    if names.is_empty() {
        app.error(format!("no executable of {folder} has a model table"), TAKE);
    } else if let Some((config, _)) = &config {
        models::libraries(app, config, &place, &names);
    }
    if let Some((config, at)) = &config {
        for model in &config.model_list {
            // Packs come from the store; what a device does with an app's compressed files is its own matter.
            let places = models::folders(model, at, |_| None);
            let inside = matches!(model.weights, WeightsLocation::Bundled(_));
            models::check(app, model, places.as_deref().filter(|_| inside), None)?;
        }
    }
    let total = app.archive.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
    app.limit("the app takes, uncompressed,", total, |limits| &limits.apple.app);
    app.limit("__TEXT of the executables takes", text, |limits| &limits.apple.text);
    Ok(())
}

/// The app's own executable, and those of its frameworks.
fn executables(app: &mut Inspection, folder: &str) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let info = app.archive.find(&format!("{folder}Info.plist")).cloned();
    let name = match info {
        Some(info) => executable_name(&app.archive.read(&info, MAX_PLIST)?),
        None => None,
    };
    let bare = folder.trim_end_matches('/').rsplit('/').next().and_then(|app| app.strip_suffix(".app"));
    match name.as_deref().or(bare).and_then(|name| app.archive.find(&format!("{folder}{name}"))) {
        Some(file) => found.push(file.clone()),
        None => app.error(
            format!("{folder} has no executable of the name that its Info.plist says"),
            "CFBundleExecutable names a file of the app's folder",
        ),
    }
    let frameworks = format!("{folder}Frameworks/");
    let of_framework = |file: &&Entry| {
        let Some((framework, name)) = file.name.strip_prefix(&frameworks).and_then(|path| path.split_once('/')) else {
            return false;
        };
        framework.strip_suffix(".framework") == Some(name)
    };
    found.extend(app.archive.files.iter().filter(of_framework).cloned());
    Ok(found)
}

fn executable_name(info: &[u8]) -> Option<String> {
    let value = plist::Value::from_reader(std::io::Cursor::new(info)).ok()?;
    Some(value.as_dictionary()?.get("CFBundleExecutable")?.as_string()?.to_owned())
}
