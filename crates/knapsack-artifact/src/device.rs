//! Which devices a library is compiled for and a package is made for: one row each, which everything else asks.

use crate::library::Target;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceKind {
    /// As manifests and command lines write it.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// What it is called elsewhere: not accepted, but understood.
    pub aliases: &'static [&'static str],
    /// What libraries are compiled for.
    pub target: Target,
    /// What libraries are handed over as.
    pub form: Form,
    /// What its phones run; `None` for what no app is packaged for.
    pub platform: Option<Platform>,
}

impl DeviceKind {
    /// iPhones and iPads. Their package has a slice for Catalyst too, so that one framework serves an app on both.
    pub const IPHONE: DeviceKind = DeviceKind {
        name: "iphone",
        about: "iPhone and iPad",
        aliases: &["ios", "ipad", "ipados", "iphoneos", "metal", "iphonesimulator"],
        target: Target::Metal,
        form: Form::Framework(&AppleSlice::ALL),
        platform: Some(Platform::Ios),
    };
    /// Android phones and the emulator.
    pub const ANDROID: DeviceKind = DeviceKind {
        name: "android",
        about: "Android",
        aliases: &["apk", "aar", "opencl", "arm64-v8a"],
        target: Target::OpenCl,
        form: Form::SharedLibraries(&Abi::ALL),
        platform: Some(Platform::Android),
    };
    /// iPad apps on the Mac.
    pub const MACABI: DeviceKind = DeviceKind {
        name: "macabi",
        about: "Mac Catalyst",
        aliases: &["mac", "macos", "catalyst", "maccatalyst", "osx"],
        target: Target::Metal,
        form: Form::Framework(&[AppleSlice::CATALYST]),
        platform: Some(Platform::Macos),
    };
    /// The machine that packages.
    pub const HOST: DeviceKind = DeviceKind {
        name: "host",
        about: "The machine at hand, as a `.knapsack` file",
        aliases: &[],
        target: Target::Host,
        form: Form::Blob,
        platform: None,
    };

    /// Every row.
    pub const ALL: &'static [DeviceKind] =
        &[DeviceKind::IPHONE, DeviceKind::ANDROID, DeviceKind::MACABI, DeviceKind::HOST];

    /// Those that an app can be packaged for.
    pub fn packaged() -> impl Iterator<Item = DeviceKind> {
        DeviceKind::ALL.iter().copied().filter(|device| device.platform.is_some())
    }

    /// The device of a name.
    pub fn named(name: &str) -> Option<DeviceKind> {
        DeviceKind::ALL.iter().copied().find(|device| device.name == name)
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

impl Serialize for DeviceKind {
    /// Its name.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

/// What libraries are handed over as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Static archives in an xcframework; where one archive is wanted, the first slice's.
    Framework(&'static [AppleSlice]),
    /// A shared library for each ABI; where one is wanted, the first.
    SharedLibraries(&'static [Abi]),
    /// The bare library.
    Blob,
}

/// What a phone runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// iOS and iPadOS.
    Ios,
    /// Android.
    Android,
    /// macOS, for Catalyst apps.
    Macos,
}

impl fmt::Display for Platform {
    /// With an article, for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Platform::Ios => "an iOS device",
            Platform::Android => "an Android device",
            Platform::Macos => "a Mac",
        })
    }
}

/// What a processor executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// 64-bit Arm.
    Arm64,
    /// 64-bit x86.
    X86_64,
}

impl Architecture {
    /// As Apple's tools spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::Arm64 => "arm64",
            Architecture::X86_64 => "x86_64",
        }
    }
}

/// A slice of an xcframework: a platform with its architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppleSlice {
    /// As [`crate::library::Metallib::platform`] says it.
    pub name: &'static str,
    /// As an xcframework's Info.plist tells it from other slices for iOS.
    pub variant: Option<&'static str>,
    /// The platform's number in the load command `LC_BUILD_VERSION`; Apple's `mach-o/loader.h`.
    pub build_platform: u32,
    /// The SDK that `xcrun` compiles kernels with.
    pub sdk: &'static str,
    /// The environment at the end of a target triple.
    pub environment: Option<&'static str>,
    /// What its processors execute.
    pub architectures: &'static [Architecture],
}

impl AppleSlice {
    /// iPhone and iPad.
    pub const DEVICE: AppleSlice = AppleSlice {
        name: "ios",
        variant: None,
        build_platform: 2,
        sdk: "iphoneos",
        environment: None,
        architectures: &[Architecture::Arm64],
    };
    /// Their simulator, on either kind of Mac.
    pub const SIMULATOR: AppleSlice = AppleSlice {
        name: "ios-simulator",
        variant: Some("simulator"),
        build_platform: 7,
        sdk: "iphonesimulator",
        environment: Some("simulator"),
        architectures: &[Architecture::Arm64, Architecture::X86_64],
    };
    /// Mac Catalyst.
    pub const CATALYST: AppleSlice = AppleSlice {
        name: "macabi",
        variant: Some("maccatalyst"),
        build_platform: 6,
        sdk: "macosx",
        environment: Some("macabi"),
        architectures: &[Architecture::Arm64, Architecture::X86_64],
    };

    /// Every row.
    pub const ALL: [AppleSlice; 3] = [AppleSlice::DEVICE, AppleSlice::SIMULATOR, AppleSlice::CATALYST];
}

/// An Android ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Abi {
    /// Folder name in an app.
    pub name: &'static str,
    /// What its processors execute.
    pub architecture: Architecture,
}

impl Abi {
    /// Phones.
    pub const ARM64: Abi = Abi { name: "arm64-v8a", architecture: Architecture::Arm64 };
    /// The emulator.
    pub const X86_64: Abi = Abi { name: "x86_64", architecture: Architecture::X86_64 };

    /// Every row.
    pub const ALL: [Abi; 2] = [Abi::ARM64, Abi::X86_64];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_are_unique_and_read_back() {
        let mut names: Vec<&str> =
            DeviceKind::ALL.iter().flat_map(|device| [&[device.name], device.aliases].concat()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(DeviceKind::ALL.iter().all(|device| DeviceKind::named(device.name) == Some(*device)));
        assert!(DeviceKind::packaged().all(|device| device.form != Form::Blob));
    }
}
