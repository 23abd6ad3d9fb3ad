//! What a manifest packages for.

use crate::devices::Platform;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The value of `device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// iPhone and iPad, with their simulator: Metal, a static library.
    Iphone,
    /// Android: OpenCL, a shared library.
    Android,
    /// Mac Catalyst: Metal, a static library.
    Macabi,
}

impl Device {
    /// Every accepted value.
    pub const ALL: [Device; 3] = [Device::Iphone, Device::Android, Device::Macabi];

    /// As written in a manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Device::Iphone => "iphone",
            Device::Android => "android",
            Device::Macabi => "macabi",
        }
    }

    /// What its machines run.
    pub const fn platform(self) -> Platform {
        match self {
            Device::Iphone => Platform::Ios,
            Device::Android => Platform::Android,
            Device::Macabi => Platform::Macos,
        }
    }

    /// The device of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|device| device.as_str() == name)
    }

    /// The device that another name for it probably means.
    pub(crate) fn guess(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "ios" | "ipad" | "ipados" | "iphoneos" | "metal" | "iphonesimulator" => Some(Device::Iphone),
            "mac" | "macos" | "catalyst" | "maccatalyst" | "osx" => Some(Device::Macabi),
            "apk" | "aar" | "opencl" | "arm64-v8a" => Some(Device::Android),
            other => crate::suggest::nearest(other, Self::ALL.map(Device::as_str)).and_then(Device::parse),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
