//! `knapsack doctor`: which optional tools are there, and what to do about the rest.
//!
//! Nothing of it is required: packaging needs no compiler, no NDK and no Xcode. The tools matter for what comes after, such
//! as building the app, or for running a model on the GPU of this machine.

use crate::cli::DoctorArgs;
use crate::report::Reporter;
use knapsack_device::opencl::{OpenClDevice, OpenClOptions};
use serde::Serialize;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One thing that was looked for.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked for.
    tool: &'static str,
    /// What it is good for.
    purpose: &'static str,
    /// Whether it is there.
    found: bool,
    /// Where, or which version.
    detail: String,
    /// What to do when it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn new(tool: &'static str, purpose: &'static str, found: Result<String, String>) -> Self {
        match found {
            Ok(detail) => Finding { tool, purpose, found: true, detail, advice: None },
            Err(advice) => {
                Finding { tool, purpose, found: false, detail: "not found".to_owned(), advice: Some(advice) }
            }
        }
    }
}

/// Looks for everything and shows it. Always succeeds: nothing is required.
pub fn run(args: &DoctorArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let findings =
        [&opencl as &dyn Fn() -> Finding, &clang, &xcode, &ndk, &rust_targets, &cargo_ndk].map(|look| look());
    if args.json.json || reporter.is_json() {
        return reporter
            .result("doctor", &serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "findings": findings }));
    }
    reporter.stdout(|out| {
        writeln!(out, "knapsack {}: packaging needs none of the following.\n", env!("CARGO_PKG_VERSION"))?;
        for finding in &findings {
            let mark = if finding.found { "yes" } else { " no" };
            writeln!(out, "{mark}  {:<16} {}", finding.tool, finding.detail)?;
            writeln!(out, "     {:<16} for {}", "", finding.purpose)?;
            if let Some(advice) = &finding.advice {
                writeln!(out, "     {:<16} to get it: {advice}", "")?;
            }
        }
        Ok(())
    })
}

fn opencl() -> Finding {
    let advice =
        "install the driver of your GPU, or PoCL for OpenCL on the CPU (Debian: pocl-opencl-icd ocl-icd-libopencl1)";
    let found = match OpenClDevice::list(&OpenClOptions::default()) {
        Ok(devices) if devices.is_empty() => Err(format!("the library is there but offers no device; {advice}")),
        Ok(devices) => {
            let names: Vec<String> =
                devices.iter().map(|device| format!("{} ({})", device.name, device.platform)).collect();
            Ok(names.join(", "))
        }
        Err(_) => Err(advice.to_owned()),
    };
    Finding::new("OpenCL", "running models on this machine's GPU (--device opencl)", found)
}

fn clang() -> Finding {
    let found =
        in_path("clang").map(|path| first_line(&path, &["--version"]).unwrap_or_else(|| path.display().to_string()));
    let advice = "install clang from your system's packages".to_owned();
    Finding::new("clang", "checking the syntax of generated kernels in Knapsack's own tests", found.ok_or(advice))
}

fn xcode() -> Finding {
    let found = if !cfg!(target_os = "macos") {
        Err("Xcode runs on macOS only; libraries for iPhone are written without it, the app itself is built there"
            .to_owned())
    } else {
        // `xcrun` itself would open a window that offers to install the tools.
        let selected = in_path("xcode-select").and_then(|path| first_line(&path, &["-p"]));
        selected.ok_or_else(|| "install Xcode, then run `xcode-select --install`".to_owned())
    };
    Finding::new("Xcode (xcrun)", "building and signing the iPhone app", found)
}

fn ndk() -> Finding {
    let named =
        ["ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "NDK_HOME"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let sdk_variables = ["ANDROID_HOME", "ANDROID_SDK_ROOT"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let home = env::home_dir().unwrap_or_default();
    let usual = ["Android/Sdk", "Library/Android/sdk", "AppData/Local/Android/Sdk"].map(|folder| home.join(folder));
    let in_sdks = sdk_variables.chain(usual).flat_map(|sdk| newest_first(&sdk.join("ndk")));
    let found = named.chain(in_sdks).find_map(|folder| {
        let properties = std::fs::read_to_string(folder.join("source.properties")).ok()?;
        let version = properties.lines().find_map(|line| line.strip_prefix("Pkg.Revision"))?;
        Some(format!("{} at {}", version.trim_start_matches([' ', '=']).trim(), folder.display()))
    });
    let advice = "install it with Android Studio's SDK manager, or set ANDROID_NDK_HOME to its folder".to_owned();
    Finding::new("Android NDK", "building the runtime for an Android app", found.ok_or(advice))
}

/// The folders in a folder, highest version first.
fn newest_first(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        std::cmp::Reverse(name.split('.').map(|part| part.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>())
    });
    found
}

/// Targets of the phones' runtime.
const TARGETS: [&str; 6] = [
    "aarch64-apple-ios",
    "aarch64-apple-ios-sim",
    "x86_64-apple-ios",
    "aarch64-apple-ios-macabi",
    "aarch64-linux-android",
    "x86_64-linux-android",
];

fn rust_targets() -> Finding {
    let sysroot = in_path("rustc").and_then(|path| first_line(&path, &["--print", "sysroot"])).map(PathBuf::from);
    let found = match sysroot {
        None => Err("install Rust from https://rustup.rs".to_owned()),
        Some(sysroot) => {
            let installed = |target: &&str| sysroot.join("lib/rustlib").join(target).join("lib").is_dir();
            let (there, missing): (Vec<&str>, Vec<&str>) = TARGETS.into_iter().partition(installed);
            match there.len() {
                0 => Err(format!("run `rustup target add {}`", missing.join(" "))),
                _ => Ok(there.join(", ")),
            }
        }
    };
    Finding::new("Rust targets", "building the runtime for an app", found)
}

fn cargo_ndk() -> Finding {
    let found = in_path("cargo-ndk").map(|path| path.display().to_string());
    Finding::new(
        "cargo-ndk",
        "building the runtime for an Android app",
        found.ok_or("run `cargo install cargo-ndk`".to_owned()),
    )
}

/// The program of a name in PATH.
fn in_path(name: &str) -> Option<PathBuf> {
    let file = format!("{name}{}", env::consts::EXE_SUFFIX);
    env::split_paths(&env::var_os("PATH")?)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(&file))
        .find(|path| path.is_file())
}

/// The first line that a program prints, if it succeeds within a few seconds.
fn first_line(program: &Path, args: &[&str]) -> Option<String> {
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
