//! The models of an app: the app config, and each file of what it says is inside.

use super::Inspection;
use crate::ops::inspect::folder::delivery;
use anyhow::{Context, Result};
use knapsack_artifact::app_config::{AppModel, MAX_BYTES, WeightsLocation};
use knapsack_artifact::{AppConfig, Delivery, app_config, container};
use serde::Serialize;

/// Files above this are weights, or as large: they are mapped where they lie.
const LARGE: u64 = 1 << 20;

/// A model as it was found.
#[derive(Debug, Serialize)]
pub(super) struct Model {
    pub(super) model_id: String,
    pub(super) model_lib: String,
    pub(super) delivery: Delivery,
    /// Whether its files are in the archive.
    pub(super) inside: bool,
    pub(super) bytes: u64,
    pub(super) files: usize,
    /// Files whose content is the packaged one.
    pub(super) right: usize,
}

/// The app config of an app, and the folder that it lies in (with `/` at its end).
pub(super) fn config(app: &mut Inspection, is_place: impl Fn(&str) -> bool) -> Result<Option<(AppConfig, String)>> {
    let end = format!("/{}", app_config::FILE_NAME);
    let found = app.archive.files.iter().filter(|file| file.name.ends_with(&end) && is_place(&file.name));
    let Some(entry) = found.min_by_key(|file| file.name.len()).cloned() else { return Ok(None) };
    let text = app.archive.read(&entry, MAX_BYTES)?;
    let config = AppConfig::decode(&text).with_context(|| entry.name.clone())?;
    let folder = entry.name.strip_suffix(app_config::FILE_NAME).unwrap_or_default().to_owned();
    Ok(Some((config, folder)))
}

/// Where a model's files lie: the folders that are looked through for each.
pub(super) fn folders(model: &AppModel, folder: &str, packs: impl Fn(&str) -> Option<String>) -> Option<Vec<String>> {
    match &model.weights {
        WeightsLocation::Bundled(path) => Some(vec![format!("{folder}{path}/")]),
        WeightsLocation::Download(_) => None,
        WeightsLocation::Packs(found) => {
            let places = found.names.iter().map(|name| Some(format!("{}{}/", packs(name)?, found.folder)));
            places.collect()
        }
    }
}

/// Compares every file of a model with the app config; `places` is where they should be, if they are inside. `deflated`: what
/// to do about files that are compressed, where that keeps them from being mapped.
pub(super) fn check(
    app: &mut Inspection,
    model: &AppModel,
    places: Option<&[String]>,
    deflated: Option<&str>,
) -> Result<()> {
    let mut found = Model {
        model_id: model.model_id.clone(),
        model_lib: model.model_lib.clone(),
        delivery: delivery(model),
        inside: places.is_some(),
        bytes: model.files.iter().map(|file| file.size).sum(),
        files: model.files.len(),
        right: 0,
    };
    let (mut missing, mut other, mut packed) = (Vec::new(), Vec::new(), Vec::new());
    for file in model.files.iter().filter(|_| places.is_some()) {
        let names = places.unwrap_or_default().iter().map(|place| format!("{place}{}", file.path));
        let Some(entry) = names.filter_map(|name| app.archive.find(&name)).next().cloned() else {
            missing.push(file.path.clone());
            continue;
        };
        if !entry.stored && entry.size > LARGE {
            packed.push(file.path.clone());
        }
        if entry.size == file.size && app.archive.sha256(&entry)? == file.sha256 {
            found.right += 1;
        } else {
            other.push(file.path.clone());
        }
    }
    app.models.push(found);
    let id = &model.model_id;
    if !missing.is_empty() {
        let message =
            format!("{id}: {} of {} files are missing: {}", missing.len(), model.files.len(), listed(&missing));
        let place = places.and_then(|places| places.first()).cloned().unwrap_or_default();
        app.error(message, format!("they belong into {place}: take the whole package of one `knapsack package`"));
    }
    if !other.is_empty() {
        let message = format!("{id}: {} files are not those of the app config: {}", other.len(), listed(&other));
        app.error(message, "take app config and weights of one `knapsack package`");
    }
    if let (Some(help), false) = (deflated, packed.is_empty()) {
        let message = format!("{id}: {} files are deflated, and cannot be mapped: {}", packed.len(), listed(&packed));
        app.error(message, help);
    }
    Ok(())
}

/// The libraries of the model table in an executable; none where there is no table.
pub(super) fn table(app: &mut Inspection, place: &str, bytes: &[u8]) -> Result<Vec<String>> {
    let found = match container::tables(bytes) {
        Ok(found) => found,
        Err(problem) => {
            let help = "package the models again, with the version of the runtime";
            app.error(format!("{place}: {:#}", anyhow::Error::from(problem)), help);
            return Ok(Vec::new());
        }
    };
    let mut names = Vec::new();
    for (_, table) in &found {
        for (name, _) in table.libraries() {
            if let Some(Err(problem)) = table.find(name) {
                let message = format!("{place}: the model library {name}: {:#}", anyhow::Error::from(problem));
                app.error(message, "package the models again, with the version of the runtime");
            }
            if !names.iter().any(|known| known == name) {
                names.push((*name).to_owned());
            }
        }
    }
    if !found.is_empty() {
        app.tables.push((place.to_owned(), names.clone()));
    }
    Ok(names)
}

/// Models whose library a table does not have.
pub(super) fn libraries(app: &mut Inspection, config: &AppConfig, place: &str, names: &[String]) {
    for model in &config.model_list {
        if !names.contains(&model.model_lib) {
            let message = format!("{place} has no library `{}`, which {} needs", model.model_lib, model.model_id);
            app.error(message, "take app config and libraries of one `knapsack package`");
        }
    }
}

fn listed(names: &[String]) -> String {
    const MOST: usize = 5;
    let text = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > MOST { format!("{text} and {} more", names.len() - MOST) } else { text }
}
