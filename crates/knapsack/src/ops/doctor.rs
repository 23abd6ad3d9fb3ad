//! `knapsack doctor`: which optional tools are there, and what to do about the rest.
//!
//! Nothing of it is required: packaging needs no compiler, no NDK and no Xcode. The tools matter for what comes after, such
//! as building the app, or for running a model on the GPU of this machine.

use crate::cli::DoctorArgs;
use crate::report::Reporter;
use crate::tools::{self, first_line, in_path};
use knapsack_device::opencl::{OpenClDevice, OpenClOptions};
use serde::Serialize;
use std::path::PathBuf;

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
    let findings = [&opencl as &dyn Fn() -> Finding, &clang, &xcode, &ndk, &kotlin, &rust_targets].map(|look| look());
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
    let found = tools::ndk().map(|ndk| format!("{} at {}", ndk.version, ndk.folder.display()));
    Finding::new("Android NDK", "building the runtime for an Android app", found.ok_or(tools::GET_NDK.to_owned()))
}

fn kotlin() -> Finding {
    let found = tools::kotlin().map(|folder| folder.display().to_string());
    Finding::new(
        "Kotlin",
        "building the runtime's library for an Android app",
        found.ok_or(tools::GET_KOTLIN.to_owned()),
    )
}

fn rust_targets() -> Finding {
    let sysroot = in_path("rustc").and_then(|path| first_line(&path, &["--print", "sysroot"])).map(PathBuf::from);
    let found = match sysroot {
        None => Err("install Rust from https://rustup.rs".to_owned()),
        Some(sysroot) => {
            let installed = |target: &&str| sysroot.join("lib/rustlib").join(target).join("lib").is_dir();
            let (there, missing): (Vec<&str>, Vec<&str>) = super::sdk::targets().partition(installed);
            match there.len() {
                0 => Err(format!("run `rustup target add {}`", missing.join(" "))),
                _ => Ok(there.join(", ")),
            }
        }
    };
    Finding::new("Rust targets", "building the runtime for an app", found)
}
