//! Programs and kits of other people on this machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An Android NDK.
pub(crate) struct Ndk {
    pub(crate) folder: PathBuf,
    pub(crate) version: String,
}

/// How to get the NDK.
pub(crate) const GET_NDK: &str =
    "install it with Android Studio's SDK manager (NDK r28 or newer), or set ANDROID_NDK_HOME to its folder";

/// Folders that an Android SDK may be in.
pub(crate) fn android_sdks() -> impl Iterator<Item = PathBuf> {
    let named = ["ANDROID_HOME", "ANDROID_SDK_ROOT"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let home = env::home_dir().unwrap_or_default();
    named.chain(["Android/Sdk", "Library/Android/sdk", "AppData/Local/Android/Sdk"].map(|folder| home.join(folder)))
}

/// The NDK that is named by the environment, or the newest of the SDK.
pub(crate) fn ndk() -> Option<Ndk> {
    let named =
        ["ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "NDK_HOME"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let in_sdks = android_sdks().flat_map(|sdk| newest_first(&sdk.join("ndk")));
    named.chain(in_sdks).find_map(|folder| {
        let properties = std::fs::read_to_string(folder.join("source.properties")).ok()?;
        let version = properties.lines().find_map(|line| line.strip_prefix("Pkg.Revision"))?;
        let version = version.trim_start_matches([' ', '=']).trim().to_owned();
        Some(Ndk { folder, version })
    })
}

/// How to get Kotlin's compiler.
pub(crate) const GET_KOTLIN: &str = "install Kotlin's command line compiler (https://kotlinlang.org/docs/command-line.html), or set KOTLIN_HOME to its folder";

/// The folder of Kotlin's compiler: `KOTLIN_HOME`, or where the `kotlinc` of PATH lies.
pub(crate) fn kotlin() -> Option<PathBuf> {
    let named = env::var_os("KOTLIN_HOME").map(PathBuf::from);
    let in_path = || Some(in_path("kotlinc")?.canonicalize().ok()?.parent()?.parent()?.to_owned());
    named.or_else(in_path).filter(|folder| folder.join("lib/kotlin-compiler.jar").is_file())
}

/// The folders in a folder, highest version first.
pub(crate) fn newest_first(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        std::cmp::Reverse(name.split('.').map(|part| part.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>())
    });
    found
}

/// The program of a name in PATH.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let file = format!("{name}{}", env::consts::EXE_SUFFIX);
    env::split_paths(&env::var_os("PATH")?)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(&file))
        .find(|path| path.is_file())
}

/// The first line that a program prints, if it succeeds within a few seconds.
pub(crate) fn first_line(program: &Path, args: &[&str]) -> Option<String> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let begun = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_ndk_first() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["9.0.1", "26.1.10909125", "27.0.1"] {
            std::fs::create_dir(folder.path().join(version)).unwrap();
        }
        let names: Vec<String> = newest_first(folder.path())
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["27.0.1", "26.1.10909125", "9.0.1"]);
        assert!(newest_first(&folder.path().join("none")).is_empty());
    }
}
