//! How the weights of a model get onto a device: one row each, which manifest, package and app config ask.

use crate::device::Platform;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A way for weights to get onto a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Inside the app.
    Bundled,
    /// Downloaded by the app at first launch, from the model's own address.
    Download,
    /// A pack of Google Play that is installed with the app, as a split APK.
    PlayInstallTime,
    /// A pack of Google Play whose download begins when the app was installed.
    PlayFastFollow,
    /// A pack of Google Play that the app asks for.
    PlayOnDemand,
    /// A pack of Apple's Background Assets that is there before the app opens for the first time.
    AppleEssential,
    /// A pack of Apple's Background Assets whose download begins when the app is installed.
    ApplePrefetch,
    /// A pack of Apple's Background Assets that the app asks for.
    AppleOnDemand,
}

/// Who delivers packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    /// Google Play: asset packs and AI packs.
    Play,
    /// Apple: Background Assets.
    Apple,
}

impl Delivery {
    /// Every row.
    pub const ALL: [Delivery; 8] = [
        Delivery::Bundled,
        Delivery::Download,
        Delivery::PlayInstallTime,
        Delivery::PlayFastFollow,
        Delivery::PlayOnDemand,
        Delivery::AppleEssential,
        Delivery::ApplePrefetch,
        Delivery::AppleOnDemand,
    ];

    /// As manifests and app configs write it.
    pub const fn name(self) -> &'static str {
        match self {
            Delivery::Bundled => "bundled",
            Delivery::Download => "download",
            Delivery::PlayInstallTime => "play-install-time",
            Delivery::PlayFastFollow => "play-fast-follow",
            Delivery::PlayOnDemand => "play-on-demand",
            Delivery::AppleEssential => "apple-essential",
            Delivery::ApplePrefetch => "apple-prefetch",
            Delivery::AppleOnDemand => "apple-on-demand",
        }
    }

    /// The delivery of a name.
    pub fn named(name: &str) -> Option<Delivery> {
        Delivery::ALL.into_iter().find(|delivery| delivery.name() == name)
    }

    /// Whose pack it is; `None` where there is no pack.
    pub const fn store(self) -> Option<Store> {
        match self {
            Delivery::Bundled | Delivery::Download => None,
            Delivery::PlayInstallTime | Delivery::PlayFastFollow | Delivery::PlayOnDemand => Some(Store::Play),
            Delivery::AppleEssential | Delivery::ApplePrefetch | Delivery::AppleOnDemand => Some(Store::Apple),
        }
    }

    /// Whether an app for that platform can have it.
    pub fn is_for(self, platform: Option<Platform>) -> bool {
        self.store().is_none_or(|store| store.is_for(platform))
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Store {
    /// Whether it delivers apps for that platform.
    pub fn is_for(self, platform: Option<Platform>) -> bool {
        match self {
            Store::Play => platform == Some(Platform::Android),
            Store::Apple => matches!(platform, Some(Platform::Ios | Platform::Macos)),
        }
    }

    /// Its folder below `asset-packs/` of a package.
    pub const fn folder(self) -> &'static str {
        match self {
            Store::Play => "play",
            Store::Apple => "apple",
        }
    }
}

/// Folder of a package that holds the packs, a folder for each store and in it one for each pack.
pub const PACKS: &str = "asset-packs";
/// Longest name of a pack.
const MAX_NAME: usize = 64;

/// The name of a model's pack. Google Play takes a letter first and then letters, digits and `_`; Apple's identifiers may have more,
/// and get the same.
pub fn pack_name(model_id: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let mut name: String = model_id.chars().map(plain).collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "model_");
    }
    name.truncate(MAX_NAME);
    name
}

/// Where a model's files lie in each of its packs.
pub fn pack_folder(model_id: &str) -> String {
    format!("knapsack/{model_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_in_every_form() {
        for delivery in Delivery::ALL {
            assert_eq!(Delivery::named(delivery.name()), Some(delivery));
            assert_eq!(serde_json::to_value(delivery).unwrap(), delivery.name());
            let platforms = [Platform::Ios, Platform::Android, Platform::Macos];
            assert!(platforms.into_iter().any(|platform| delivery.is_for(Some(platform))), "{delivery}");
        }
        assert!(!Delivery::PlayOnDemand.is_for(Some(Platform::Ios)) && !Delivery::AppleOnDemand.is_for(None));
    }

    #[test]
    fn a_pack_can_have_the_name_of_any_model() {
        for (id, name) in [
            ("Llama-3.2-1B-Instruct-q4f16_1-MLC", "llama_3_2_1b_instruct_q4f16_1_mlc"),
            ("2b", "model_2b"),
            ("_x", "model__x"),
        ] {
            assert_eq!(pack_name(id), name);
        }
        assert_eq!(pack_name(&"x".repeat(128)).len(), MAX_NAME);
    }
}
