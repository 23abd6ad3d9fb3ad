//! Which phones a verb looks at, and what an app leaves of their memory to its models.

use crate::cli::PhoneArgs;
use crate::exit::wrong_input;
use anyhow::Result;
use knapsack_config::{AppMemory, DeviceProfile, DeviceProfiles, Manifest, ModelEntry, suggest};

/// What the command line says about the app, else the manifest.
pub fn app_memory(args: &PhoneArgs, stated: &AppMemory) -> AppMemory {
    AppMemory {
        increased_memory_limit: args.increased_memory_limit || stated.increased_memory_limit,
        reserve_bytes: args.reserve.unwrap_or(stated.reserve_bytes),
    }
}

/// The phones that `--phone` names, else those of `target_devices`: none when neither says anything.
///
/// # Errors
/// A name without a profile, or a phone of another platform than the manifest's; with exit code 2.
pub fn chosen(args: &PhoneArgs, manifest: &Manifest, profiles: &DeviceProfiles) -> Result<Vec<DeviceProfile>> {
    if args.phone.is_empty() {
        return Ok(manifest.target_devices.iter().map(|phone| phone.value.clone()).collect());
    }
    let device = manifest.device.value;
    let mut phones: Vec<DeviceProfile> = Vec::new();
    for name in &args.phone {
        let profile = named(name, profiles)?;
        if Some(profile.platform) != device.platform {
            return Err(wrong_input(format!("{name} is {}, and the manifest packages for {device}", profile.platform)));
        }
        if !phones.contains(profile) {
            phones.push(profile.clone());
        }
    }
    Ok(phones)
}

/// The profile of a name.
///
/// # Errors
/// A name without a profile; with exit code 2.
pub fn named<'a>(name: &str, profiles: &'a DeviceProfiles) -> Result<&'a DeviceProfile> {
    profiles.get(name).ok_or_else(|| {
        let names = profiles.names();
        let near = suggest::nearest(name, names.iter().copied());
        let hint = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
        wrong_input(format!("no profile of a phone {name}{hint} (known are {})", names.join(", ")))
    })
}

/// The places in the manifest of the models with these ids; of all models without ids.
///
/// # Errors
/// An id that the manifest does not have; with exit code 2.
pub fn models(ids: &[String], manifest: &Manifest) -> Result<Vec<usize>> {
    let entries = &manifest.models;
    let place = |id: &String| {
        let of = |entry: &ModelEntry| entry.model_id.value == *id;
        entries.iter().position(of).ok_or_else(|| unknown_model(id, manifest))
    };
    let mut places = ids.iter().map(place).collect::<Result<Vec<_>>>()?;
    if ids.is_empty() {
        places = (0..entries.len()).collect();
    }
    Ok(places)
}

/// The error for a model that the manifest does not have.
pub fn unknown_model(id: &str, manifest: &Manifest) -> anyhow::Error {
    let ids = manifest.models.iter().map(|model| model.model_id.value.as_str());
    let hint = suggest::nearest(id, ids).map_or(String::new(), |near| format!("; did you mean {near}?"));
    wrong_input(format!("the manifest has no model {id}{hint}"))
}
