//! Profiles of phones: how much memory there is, and how much of it one app may use. Every figure names its source.
//!
//! The built-in profiles are `data/devices.json`; a file of the same form adds profiles or replaces them by name.

use crate::Gpu;
use knapsack_artifact::device::Platform;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The profiles that come with Knapsack.
const BUILT_IN: &str = include_str!("../data/devices.json");
/// A file of this name beside a manifest adds profiles, or replaces some.
pub const DEVICES_FILE: &str = "knapsack-devices.json";
/// What an app itself needs beside its models, when the manifest does not say: an assumption, not a measurement.
pub const DEFAULT_APP_RESERVE: u64 = 200_000_000;
/// Most profiles of one file.
const MAX_PROFILES: usize = 1000;

/// A number of bytes and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// Bytes.
    pub bytes: u64,
    /// Where the figure comes from.
    pub source: String,
}

/// A phone. What nobody has published or reported is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceProfile {
    /// Name in `target_devices`: lower-case letters, digits and `-`.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// What it runs.
    pub platform: Platform,
    /// Its GPU, by its name among [`crate::Gpu::all`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Memory of the whole phone.
    pub ram: Figure,
    /// What one app may use before the system ends it. Android has no such figure: it ends apps when memory is short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_limit: Option<Figure>,
    /// The same with `com.apple.developer.kernel.increased-memory-limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_limit_entitled: Option<Figure>,
    /// Largest buffer of the GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_buffer: Option<Figure>,
}

/// What an app says about its memory, on any phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AppMemory {
    /// Whether it has the entitlement `com.apple.developer.kernel.increased-memory-limit`.
    pub increased_memory_limit: bool,
    /// Bytes that it keeps for itself.
    pub reserve_bytes: u64,
}

impl Default for AppMemory {
    fn default() -> Self {
        AppMemory { increased_memory_limit: false, reserve_bytes: DEFAULT_APP_RESERVE }
    }
}

impl DeviceProfile {
    /// Bytes that the models of an app may take together: what one app may use, less its reserve. `None` when nobody has
    /// published or reported what one app may use.
    pub fn available(&self, app: &AppMemory) -> Option<u64> {
        let limit = self.limit(app.increased_memory_limit)?;
        Some(limit.bytes.saturating_sub(app.reserve_bytes))
    }

    /// What one app may use, with the entitlement or without; `None` when no figure is known.
    pub fn limit(&self, entitled: bool) -> Option<&Figure> {
        if entitled { self.app_limit_entitled.as_ref().or(self.app_limit.as_ref()) } else { self.app_limit.as_ref() }
    }
}

/// Profiles by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceProfiles {
    profiles: BTreeMap<String, DeviceProfile>,
}

/// Why a file of profiles is refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum DeviceProfilesError {
    /// The file is too long.
    #[error("the device profiles are longer than {} bytes", DeviceProfiles::MAX_BYTES)]
    TooLong,
    /// Not JSON, or not of the form of `devices.json`.
    #[error("the device profiles can not be read")]
    Form(#[from] serde_json::Error),
    /// Too many profiles.
    #[error("{0} device profiles; at most {MAX_PROFILES} are read")]
    TooMany(usize),
    /// A name that can not stand in `target_devices`.
    #[error("`{0}` can not be the name of a device profile: lower-case letters, digits and `-`")]
    Name(String),
    /// A name that stands twice in one file.
    #[error("the device profile `{0}` stands twice in one file")]
    Twice(String),
    /// A figure of zero, or beyond the phone's memory.
    #[error("the device profile `{name}` says {bytes} bytes for `{key}`, of {ram} in all")]
    Figure {
        name: String,
        key: &'static str,
        bytes: u64,
        /// The phone's memory.
        ram: u64,
    },
    /// A figure without a source.
    #[error("the device profile `{name}` names no source for `{key}`")]
    NoSource { name: String, key: &'static str },
    /// A GPU that nobody knows.
    #[error("the device profile `{name}` has the GPU `{gpu}`, which is not one of {known}")]
    Gpu { name: String, gpu: String, known: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    devices: Vec<DeviceProfile>,
}

impl DeviceProfiles {
    /// Longest file of profiles.
    pub const MAX_BYTES: u64 = 1 << 20;

    /// The profiles that come with Knapsack.
    pub fn built_in() -> Result<Self, DeviceProfilesError> {
        let mut profiles = DeviceProfiles::default();
        profiles.extend_from_json(BUILT_IN)?;
        Ok(profiles)
    }

    /// Adds the profiles of a file of the form of `devices.json`; a name that is there already is replaced. On an error
    /// nothing is added.
    pub fn extend_from_json(&mut self, text: &str) -> Result<(), DeviceProfilesError> {
        if text.len() as u64 > Self::MAX_BYTES {
            return Err(DeviceProfilesError::TooLong);
        }
        let File { devices } = serde_json::from_str(text)?;
        if devices.len() > MAX_PROFILES {
            return Err(DeviceProfilesError::TooMany(devices.len()));
        }
        let mut added = BTreeMap::new();
        for profile in devices {
            check(&profile)?;
            if let Some(twice) = added.insert(profile.name.clone(), profile) {
                return Err(DeviceProfilesError::Twice(twice.name));
            }
        }
        self.profiles.extend(added);
        Ok(())
    }

    /// The profile of a name.
    pub fn get(&self, name: &str) -> Option<&DeviceProfile> {
        self.profiles.get(name)
    }

    /// Every name, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.profiles.keys().map(String::as_str).collect()
    }

    /// Every profile, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &DeviceProfile> {
        self.profiles.values()
    }
}

fn check(profile: &DeviceProfile) -> Result<(), DeviceProfilesError> {
    let name = &profile.name;
    let allowed = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if name.is_empty() || name.len() > 64 || !allowed {
        return Err(DeviceProfilesError::Name(name.chars().take(64).collect()));
    }
    if let Some(gpu) = &profile.gpu
        && Gpu::named(gpu).is_none()
    {
        let known = Gpu::all().iter().map(|gpu| gpu.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(DeviceProfilesError::Gpu { name: name.clone(), gpu: gpu.chars().take(64).collect(), known });
    }
    let figures = [
        ("ram", Some(&profile.ram)),
        ("app_limit", profile.app_limit.as_ref()),
        ("app_limit_entitled", profile.app_limit_entitled.as_ref()),
        ("max_buffer", profile.max_buffer.as_ref()),
    ];
    for (key, figure) in figures.into_iter().filter_map(|(key, figure)| figure.map(|figure| (key, figure))) {
        if figure.source.trim().is_empty() {
            return Err(DeviceProfilesError::NoSource { name: name.clone(), key });
        }
        if figure.bytes == 0 || figure.bytes > profile.ram.bytes {
            let (bytes, ram) = (figure.bytes, profile.ram.bytes);
            return Err(DeviceProfilesError::Figure { name: name.clone(), key, bytes, ram });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_are_right() {
        let profiles = DeviceProfiles::built_in().unwrap();
        let pro = profiles.get("iphone-15-pro").unwrap();
        assert_eq!(pro.limit(false).unwrap().bytes, 3_000_000_000);
        assert_eq!(pro.limit(true).unwrap().bytes, 6_000_000_000);
        let app = |increased_memory_limit, reserve_bytes| AppMemory { increased_memory_limit, reserve_bytes };
        assert_eq!(pro.available(&AppMemory::default()), Some(2_800_000_000));
        assert_eq!(pro.available(&app(true, 1)), Some(5_999_999_999));
        assert_eq!(pro.available(&app(false, u64::MAX)), Some(0));
        assert!(profiles.get("iphone-13").is_some() && profiles.get("android-8gb").unwrap().limit(true).is_none());
    }

    #[test]
    fn a_file_adds_and_replaces() {
        let mut profiles = DeviceProfiles::built_in().unwrap();
        let before = profiles.names().len();
        let one = |name: &str, ram: u64, source: &str| {
            format!(r#"{{"name":"{name}","title":"x","platform":"ios","ram":{{"bytes":{ram},"source":"{source}"}}}}"#)
        };
        profiles
            .extend_from_json(&format!(r#"{{"devices":[{},{}]}}"#, one("mine", 5, "me"), one("iphone-13", 7, "me")))
            .unwrap();
        assert_eq!(profiles.names().len(), before + 1);
        assert_eq!(profiles.get("iphone-13").unwrap().ram.bytes, 7);
        let unchanged = profiles.clone();
        for bad in [
            "[]".to_owned(),
            r#"{"devices":[{}]}"#.to_owned(),
            format!(r#"{{"devices":[{},{}]}}"#, one("a", 1, "x"), one("a", 1, "x")),
            format!(r#"{{"devices":[{},{}]}}"#, one("good", 1, "x"), one("Bad", 1, "x")),
            format!(r#"{{"devices":[{}]}}"#, one("a", 0, "x")),
            format!(r#"{{"devices":[{}]}}"#, one("a", 1, " ")),
        ] {
            assert!(profiles.extend_from_json(&bad).is_err(), "{bad}");
            assert_eq!(profiles, unchanged);
        }
    }
}
