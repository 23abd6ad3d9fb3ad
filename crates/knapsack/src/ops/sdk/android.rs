//! The Kotlin library `ai.knapsack:runtime` as an AAR in a Maven repository, and the program that `--adb` brings to a phone.

use super::{Built, Missing, Sources, cargo, replace_folder};
use crate::cli::SdkBuildArgs;
use crate::files::write_atomically;
use crate::ops::phone::RUNNER;
use crate::report::Reporter;
use crate::tools::{self, Ndk, android_sdks, in_path, newest_first};
use anyhow::{Context, Result, bail};
use knapsack_artifact::device::Abi;
use knapsack_bundle::android::{Dependency, MavenArtifact, aar};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an ABI is built as.
pub(super) struct Build {
    pub(super) abi: Abi,
    pub(super) target: &'static str,
}

/// Every ABI.
pub(super) const ABIS: [Build; 2] = [
    Build { abi: Abi::ARM64, target: "aarch64-linux-android" },
    Build { abi: Abi::X86_64, target: "x86_64-linux-android" },
];

/// Oldest Android: its NDK's linker has this in its name.
const API: u32 = 26;
/// What the library's users need.
const COROUTINES: Dependency<'_> =
    Dependency { group: "org.jetbrains.kotlinx", name: "kotlinx-coroutines-core", version: "1.8.0", packaging: "jar" };
const KOTLIN: Dependency<'_> =
    Dependency { group: "org.jetbrains.kotlin", name: "kotlin-stdlib", version: "2.1.0", packaging: "jar" };

/// Undefined symbols are an error here and not in the app; segments fit phones with pages of 16 KiB; relocations are packed as
/// Android's linker reads them since API level 23; functions of the same code are one, since nothing compares their addresses.
const LINK: [&str; 12] = [
    "-soname=libknapsack.so",
    "-z",
    "defs",
    "-z",
    "max-page-size=16384",
    "--pack-dyn-relocs=android",
    "--icf=all",
    "--gc-sections",
    "--as-needed",
    "--strip-all",
    "-O1",
    "--eh-frame-hdr",
];
/// Where size counts, LLVM makes functions of instructions that come several times. Each needs an entry in the tables that a stack is
/// unwound by, about 36 bytes, which LLVM does not know of.
const RUSTC: [&str; 1] = ["-Cllvm-args=-outliner-benefit-threshold=36"];
/// What Rust's standard library takes from Android.
const SYSTEM: [&str; 5] = ["-lunwind", "-ldl", "-llog", "-lm", "-lc"];
/// What the library shows. Rust's own link of a shared library would show every C function of every crate in it, and so keep
/// their code: a grammar engine has a C interface of its own.
const EXPORTS: &str = "{ global: knapsack_*; Java_ai_knapsack_*; local: *; };\n";

/// Builds the ABIs that are asked for.
pub(super) fn build(sources: &Sources, args: &SdkBuildArgs, reporter: &Reporter) -> Result<Built> {
    let chosen: Vec<&Build> = ABIS
        .iter()
        .filter(|build| args.only.is_empty() || args.only.iter().any(|name| name == build.abi.name))
        .collect();
    let mut missing = Missing::default();
    let ndk = missing.need("The Android NDK", tools::ndk(), tools::GET_NDK);
    let size = if args.small { cargo::Size::Smallest } else { cargo::Size::Small };
    if args.small {
        missing.need("The standard library's source", cargo::standard_library(), "run `rustup component add rust-src`");
    } else {
        missing.targets(chosen.iter().map(|build| build.target))?;
    }
    let java = missing.need("Java", java(), "install a JDK 11 or newer, or set JAVA_HOME to its folder");
    let kotlin = missing.need("Kotlin's compiler", tools::kotlin(), tools::GET_KOTLIN);
    let platform = missing.need(
        "An Android platform (android.jar)",
        platform(),
        "install one with Android Studio's SDK manager, or set ANDROID_HOME to the SDK's folder",
    );
    missing.check()?;
    let (Some(ndk), Some(java), Some(kotlin), Some(platform)) = (ndk, java, kotlin, platform) else {
        bail!("something is missing");
    };
    let read = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    let (mut files, mut program) = (Vec::new(), None);
    for build in chosen {
        reporter.status("Building", format_args!("the runtime for {}", build.target));
        let linker = linker(&ndk, build.target)?;
        let file = link(&linker, &cargo::build(sources, &library(build.target, &linker, size))?)?;
        files.push((format!("jni/{}/libknapsack.so", build.abi.name), read(&file)?));
        if build.abi == Abi::ARM64 {
            reporter.status("Building", "the program that --adb runs on a phone");
            program = Some(read(&runner(sources, build.target, &linker, size)?)?);
        }
    }
    reporter.status("Building", "the Kotlin library");
    let work = tempfile::tempdir()?;
    let classes = work.path().join("classes.jar");
    compile(sources, &java, &kotlin, &platform, &classes)?;
    files.push(("classes.jar".to_owned(), fs::read(&classes)?));
    files.push(("proguard.txt".to_owned(), sources.read("sdk/android/consumer-rules.pro")?.into_bytes()));
    let manifest = sources.read("sdk/android/AndroidManifest.xml")?;
    let artifact = MavenArtifact {
        group: "ai.knapsack",
        name: "runtime",
        version: env!("CARGO_PKG_VERSION"),
        description: "Language models on the phone",
        dependencies: &[COROUTINES, KOTLIN],
    };
    let repository = args.output.join("maven");
    let place = repository.join(artifact.folder());
    let bytes = aar(&manifest, &files)?;
    replace_folder(&place, |folder| {
        fs::write(folder.join(artifact.file("aar")), &bytes)?;
        Ok(fs::write(folder.join(artifact.file("pom")), artifact.pom())?)
    })?;
    let mut files = vec![place.join(artifact.file("aar")), place.join(artifact.file("pom"))];
    if let Some(program) = program {
        let runner = args.output.join(RUNNER);
        write_atomically(&runner, &program)?;
        files.push(runner);
    }
    let next = format!(
        "In settings.gradle.kts: maven {{ url = uri(\"{}\") }}; in the app: implementation(\"{}\")",
        repository.display(),
        artifact.coordinates()
    );
    Ok(Built { files, next })
}

/// `java` of `JAVA_HOME`, or of PATH.
fn java() -> Option<PathBuf> {
    let program = format!("bin/java{}", std::env::consts::EXE_SUFFIX);
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join(program));
    home.filter(|java| java.is_file()).or_else(|| in_path("java"))
}

/// The classes of the newest Android that is installed.
fn platform() -> Option<PathBuf> {
    let platforms = android_sdks().flat_map(|sdk| newest_first(&sdk.join("platforms")));
    platforms.map(|folder| folder.join("android.jar")).find(|jar| jar.is_file())
}

fn library<'a>(target: &'a str, linker: &Path, size: cargo::Size) -> cargo::Build<'a> {
    // The archive needs no linker, but cargo makes a shared library of a dependency that can be one.
    let environment = vec![links_with(target, linker)];
    cargo::Build { product: cargo::Product::Runtime, target, features: &["jni"], environment, rustc: &RUSTC, size }
}

/// Cargo's setting.
fn links_with(target: &str, linker: &Path) -> (String, PathBuf) {
    (format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_")), linker.to_owned())
}

/// The program that `--adb` brings to a phone: the same code as the library, made in the same way.
fn runner(sources: &Sources, target: &str, linker: &Path, size: cargo::Size) -> Result<PathBuf> {
    let environment = vec![links_with(target, linker)];
    let rustc: Vec<&str> = RUSTC.into_iter().chain(["-Clink-arg=-Wl,-z,max-page-size=16384"]).collect();
    let build =
        cargo::Build { product: cargo::Product::Runner, target, features: &[], environment, rustc: &rustc, size };
    cargo::build(sources, &build)
}

/// Makes the shared library of an archive, beside it.
fn link(linker: &Path, archive: &Path) -> Result<PathBuf> {
    let (library, exports) = (archive.with_extension("so"), archive.with_extension("map"));
    fs::write(&exports, EXPORTS).with_context(|| format!("cannot write {}", exports.display()))?;
    let mut command = Command::new(linker);
    command.args(["-shared", "-nodefaultlibs", "-o"]).arg(&library);
    let mut version_script = OsString::from("--version-script=");
    version_script.push(&exports);
    for flag in LINK.map(OsString::from).into_iter().chain([version_script]) {
        command.arg("-Xlinker").arg(flag);
    }
    command.arg("-Wl,--whole-archive").arg(archive).arg("-Wl,--no-whole-archive").args(SYSTEM);
    let status = command.status().with_context(|| format!("cannot start {}", linker.display()))?;
    if !status.success() {
        bail!("the NDK's linker failed; its messages are above");
    }
    Ok(library)
}

/// The NDK's clang for a target and [`API`].
fn linker(ndk: &Ndk, target: &str) -> Result<PathBuf> {
    let name = format!("{target}{API}-clang{}", if cfg!(windows) { ".cmd" } else { "" });
    let hosts = newest_first(&ndk.folder.join("toolchains/llvm/prebuilt"));
    hosts.into_iter().map(|host| host.join("bin").join(&name)).find(|path| path.is_file()).with_context(|| {
        format!("the NDK {} at {} has no {name}: {}", ndk.version, ndk.folder.display(), tools::GET_NDK)
    })
}

/// Compiles the library's Kotlin to a JAR.
fn compile(sources: &Sources, java: &Path, kotlin: &Path, platform: &Path, out: &Path) -> Result<()> {
    let jar = |name: &str| kotlin.join("lib").join(name);
    let coroutines = jar("kotlinx-coroutines-core-jvm.jar");
    if !coroutines.is_file() {
        bail!("Kotlin at {} has no {}: install Kotlin 2.1 or newer", kotlin.display(), coroutines.display());
    }
    let classes = std::env::join_paths([&jar("kotlin-stdlib.jar"), &coroutines, &platform.to_owned()])?;
    let mut command = Command::new(java);
    command.arg("-cp").arg(kotlin.join("lib/*")).arg("org.jetbrains.kotlin.cli.jvm.K2JVMCompiler");
    command.args(["-no-reflect", "-no-stdlib", "-jvm-target", "1.8", "-cp"]).arg(classes).arg("-d").arg(out);
    command.args([sources.join("sdk/android/src/main"), sources.join("sdk/android/src/android")]);
    let status = command.status().context("cannot start java")?;
    if !status.success() {
        bail!("Kotlin's compiler failed; its messages are above");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_of_the_oldest_android() {
        let folder = tempfile::tempdir().unwrap();
        let ndk = Ndk { folder: folder.path().to_owned(), version: "28.0.1".to_owned() };
        let error = linker(&ndk, "aarch64-linux-android").unwrap_err().to_string();
        assert!(error.contains("aarch64-linux-android26-clang") && error.contains("SDK manager"), "{error}");
        let bin = folder.path().join("toolchains/llvm/prebuilt/linux-x86_64/bin");
        fs::create_dir_all(&bin).unwrap();
        let name = format!("aarch64-linux-android26-clang{}", if cfg!(windows) { ".cmd" } else { "" });
        fs::write(bin.join(&name), "").unwrap();
        assert_eq!(linker(&ndk, "aarch64-linux-android").unwrap(), bin.join(name));
    }
}
