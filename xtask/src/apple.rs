//! The runtime for Apple's systems, on any machine: no Xcode, no SDK, no Mac. The library for the iPhone is built as its users
//! build it and linked into an app by LLVM's linker, against files that have only the names of the system's symbols; the one for
//! the simulator is type-checked. Nothing of it runs here.

use crate::toolchain::{STD, Toolchain, host, output, quickly, run, target, tool};
use anyhow::{Result, ensure};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const DEVICE: &str = "aarch64-apple-ios";
/// Crates and where they are type-checked: the simulator's runtime, and the whole command line on a Mac, where `--device metal` runs.
const SIMULATOR: (&str, &str) = ("aarch64-apple-ios-sim", "knapsack-ffi");
const MAC: (&str, &str) = ("aarch64-apple-darwin", "knapsack");
/// Version 14 leaves the tables out that a stack is unwound by.
const LLD: &[&str] = &["ld64.lld-22", "ld64.lld-19", "ld64.lld-16", "ld64.lld-15", "ld64.lld"];
const CLANG: &[&str] = &["clang", "clang-22", "clang-19", "clang-16", "clang-15", "clang-14"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Type-check the command line for a Mac as well.
    #[arg(long)]
    mac: bool,
}

/// Builds, links and checks.
pub(crate) fn check(root: &Path, arguments: &Arguments) -> Result<()> {
    // What costs least comes first.
    for (target, package) in [Some(SIMULATOR), arguments.mac.then_some(MAC)].into_iter().flatten() {
        let mut cargo = Toolchain::of(root, target)?.cargo(root, "check", STD)?;
        pretend_tools(root, target, &mut cargo)?;
        quickly(&mut cargo);
        // The profile of the library: macros and build scripts are built once for all.
        run(cargo.args(["--profile", "mobile", "--package", package]))?;
    }
    link(root)
}

/// An app with the runtime and the tiny assistant's table: no `-all_load`, everything unused stripped, nothing exported.
fn link(root: &Path) -> Result<()> {
    let (lld, clang) = (tool(LLD, "lld-19")?, tool(CLANG, "clang")?);
    let toolchain = Toolchain::of(root, DEVICE)?;
    let program = host(root)?.program;
    let (out, work) = (target(root).join("sdk"), target(root).join("apple"));
    let mut build = Command::new(&program);
    build.args(["sdk", "build", "--target", "ios", "--only", "ios", "--source"]).arg(root).arg("-o").arg(&out);
    toolchain.enter(root, &mut build, STD)?;
    // A static library is not linked, but cargo makes a shared one, too, of a dependency that can be one.
    let pretend = pretend_tools(root, DEVICE, &mut build)?;
    build.env(format!("CARGO_TARGET_{}_LINKER", DEVICE.to_uppercase().replace('-', "_")), pretend);
    quickly(&mut build);
    run(&mut build)?;
    let runtime = out.join("Knapsack/Knapsack.xcframework/ios-arm64");

    let manifest = root.join("examples/tiny-assistant/mlc-package-config.json");
    run(Command::new(&program).args(["package", "-q", "-c"]).arg(manifest).arg("-o").arg(work.join("dist")))?;
    let models = work.join("dist/lib/KnapsackModels.xcframework/ios-arm64/libKnapsackModels.a");
    let object = work.join("app.o");
    run(Command::new(&clang)
        .args(["-target", "arm64-apple-ios15.0", "-O1", "-Wall", "-Werror", "-ffreestanding", "-c", "-o"])
        .args([&object, &root.join("xtask/apple/app.c")])
        .arg("-I")
        .arg(runtime.join("Headers")))?;
    let app = work.join("App");
    let mut command = Command::new(&lld);
    command.args([
        "-arch",
        "arm64",
        "-platform_version",
        "ios",
        "15.0",
        "18.0",
        "-dead_strip",
        "-S",
        "-x",
        "--error-limit=0",
    ]);
    command.args(["-exported_symbol", "_main", "-o"]).args([&app, &object, &runtime.join("libknapsack.a"), &models]);
    run(command.args(stubs(root, &work)?))?;

    let inspected = output(Command::new(&program).arg("inspect").arg(&app))?;
    ensure!(inspected.contains("metal") && inspected.contains("mach-o arm64 ios"), "no model in the app: {inspected}");
    let bytes = std::fs::read(&app)?;
    // The Metal device is there, and panics can be caught.
    for part in ["MTLCreateSystemDefaultDevice", "__eh_frame", "__gcc_except_tab"] {
        ensure!(bytes.windows(part.len()).any(|window| window == part.as_bytes()), "the app has no {part}: {lld}");
    }
    println!("an iPhone app with the runtime, the Metal device and a model: {} bytes", bytes.len());
    Ok(())
}

/// Libraries of the system that have only names, out of `xtask/apple/system.txt`.
fn stubs(root: &Path, work: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(root.join("xtask/apple/system.txt"))?;
    let mut files: Vec<(String, Vec<&str>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let Some(library) = words.next() else { continue };
        match files.iter_mut().find(|(name, _)| name == library) {
            Some((_, symbols)) => symbols.extend(words),
            None => files.push((library.to_owned(), words.collect())),
        }
    }
    let mut paths = Vec::new();
    for (library, symbols) in files {
        let path = work.join(format!("{}.tbd", library.rsplit('/').next().unwrap_or(&library)));
        let symbols: Vec<String> = symbols.iter().map(|name| format!("'{name}'")).collect();
        let stub = format!(
            "--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-ios ]\ninstall-name: '{library}'\n\
             exports:\n  - targets: [ arm64-ios ]\n    symbols: [ {} ]\n...\n",
            symbols.join(", ")
        );
        std::fs::write(&path, stub)?;
        paths.push(path);
    }
    Ok(paths)
}

/// Nothing that is used here is C: a compiler, an archiver and a linker that make empty files are enough for build scripts. Where it is.
fn pretend_tools(root: &Path, for_target: &str, cargo: &mut Command) -> Result<PathBuf> {
    let folder = target(root).join("apple");
    std::fs::create_dir_all(&folder)?;
    let script = "#!/bin/sh\nout=\nprevious=\nfor word in \"$@\"; do\n  case $previous in -o) out=$word;; esac\n  \
                  case $word in *.a) out=$word;; esac\n  previous=$word\ndone\n[ -z \"$out\" ] || : > \"$out\"\n";
    let tool = folder.join("pretend");
    std::fs::write(&tool, script)?;
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755))?;
    for name in ["CC", "AR", "CXX"] {
        cargo.env(format!("{name}_{}", for_target.replace('-', "_")), &tool);
    }
    cargo.env("SDKROOT", &folder);
    Ok(tool)
}
