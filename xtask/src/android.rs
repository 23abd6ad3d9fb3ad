//! The Android library and the program that measures on a phone, built by `knapsack sdk build` as its users build them, and run.
//!
//! There is no NDK: clang and lld of this machine stand in for its compiler, and libraries that have only the names of bionic's
//! symbols for its libraries, so that a symbol that an old phone lacks does not link. There is no phone: qemu runs the library, with
//! glibc in place of bionic where the two agree, and a shim where they do not. Kotlin and JNI cannot run there.

use crate::arm64::{gcc, qemu};
use crate::sdk::{Kotlin, sources};
use crate::toolchain::{STD, Toolchain, host, output, run, target, tool};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "aarch64-linux-android";
/// Bytes of the stripped library, of which BENCHMARKS.md has the parts; and how much more is a mistake, in percent.
const SIZE: u64 = 4_182_048;
const GROWTH: u64 = 5;
const _: () = assert!(SIZE <= 4 << 20, "the goal is 4 MB");
/// Pages of older and of newer phones.
const PAGES: [&str; 2] = ["4096", "16384"];

/// Builds it, looks at it and asks it.
pub(crate) fn check(root: &Path) -> Result<()> {
    let (qemu, gcc) = (&qemu()?, &gcc()?);
    let (toolchain, kotlin) = (Toolchain::of(root, TARGET)?, Kotlin::find(root)?);
    let program = host(root)?.program;
    let kit = Kit::make(root, &toolchain, gcc)?;
    let out = target(root).join("sdk");
    let mut build = Command::new(&program);
    build
        .args(["sdk", "build", "--target", "android", "--only", "arm64-v8a", "--small", "--source"])
        .arg(root)
        .arg("-o")
        .arg(&out);
    toolchain.enter(root, &mut build, STD)?;
    build.env("ANDROID_NDK_HOME", kit.0.join("ndk")).env("ANDROID_HOME", kit.0.join("sdk"));
    run(build.env("KOTLIN_HOME", kotlin.home()))?;
    let library = library(root);
    segments(&library)?;
    exports(&library)?;
    parts(&kit.map())?;
    size(&library)?;

    let dist = target(root).join("tiny-android");
    let manifest = root.join("examples/tiny-assistant-android/mlc-package-config.json");
    run(Command::new(&program).args(["package", "-q", "-c"]).arg(manifest).arg("-o").arg(&dist))?;
    let app = kit.app(root, gcc)?;
    let emulator = kit.emulator(qemu)?;
    for pages in PAGES {
        let mut command = Command::new(&emulator);
        command.env("QEMU_PAGESIZE", pages).arg(&app).arg(&library);
        command.arg(dist.join("bundle")).arg(dist.join("lib/arm64-v8a/libmodel_android.so"));
        let answer = output(&mut command)?;
        println!("pages of {pages} bytes: {}", answer.trim());
        ensure!(answer.contains("85"), "not the answer");
    }
    cable(root, &emulator, &out.join("knapsack-android-arm64"))
}

/// `knapsack bench --adb` and `logits --adb`, with a stand-in for the cable: what is brought to the phone runs under the emulator.
fn cable(root: &Path, emulator: &Path, runner: &Path) -> Result<()> {
    segments(runner)?;
    let mut tests = Command::new("cargo");
    tests.args(["test", "--locked", "--workspace", "--test", "adb"]).current_dir(root);
    run(tests.env("KNAPSACK_TEST_RUNNER", runner).env("KNAPSACK_TEST_EMULATOR", emulator))
}

/// Google Play: every segment fits pages of 16 KiB.
fn segments(file: &Path) -> Result<()> {
    let listed = output(Command::new("readelf").arg("-lW").arg(file))?;
    let loads: Vec<&str> = listed.lines().filter(|line| line.trim_start().starts_with("LOAD")).collect();
    ensure!(!loads.is_empty(), "no segment in {listed}");
    for load in loads {
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16);
        let fields: Vec<&str> = load.split_whitespace().collect();
        let (offset, address) = (number(fields[1])?, number(fields[2])?);
        let alignment = number(fields.last().context("a line")?)?;
        ensure!(alignment >= 16384 && offset % 16384 == address % 16384, "not for pages of 16 KiB: {load}");
    }
    Ok(())
}

/// The library shows the app its two interfaces and nothing else.
fn exports(library: &Path) -> Result<()> {
    let listed = output(Command::new("readelf").args(["--dyn-syms", "-W"]).arg(library))?;
    let defined = listed.lines().filter(|line| line.contains(" GLOBAL ") && !line.contains(" UND "));
    let names: Vec<&str> = defined.filter_map(|line| line.split_whitespace().last()).collect();
    let ours = |name: &&str| name.starts_with("knapsack_") || name.starts_with("Java_ai_knapsack_");
    let others: Vec<&&str> = names.iter().filter(|name| !ours(name)).collect();
    ensure!(others.is_empty(), "{} exports {others:?}", library.display());
    ensure!(names.len() > 50, "only {} exports", names.len());
    Ok(())
}

/// Prints the size of every section, and of the code of every crate, as the linker's map has them. What is generic counts for the
/// crate of its first name.
fn parts(map: &Path) -> Result<()> {
    let text = std::fs::read(map).with_context(|| map.display().to_string())?;
    let (mut sections, mut crates, mut section) = (BTreeMap::new(), BTreeMap::new(), String::new());
    for line in String::from_utf8_lossy(&text).lines().skip(1) {
        // Address, address, size, alignment, and the name: further to the right for a part of what stands above it.
        let Some((size, name)) = map_line(line) else { continue };
        match name.len() - name.trim_start().len() {
            0..8 => section = name.trim().to_owned(),
            16.. if section == ".text" => *crates.entry(first_crate(name.trim())).or_insert(0) += size,
            _ => continue,
        }
        if !name.starts_with(' ') {
            sections.insert(section.clone(), size);
        }
    }
    ensure!(crates.len() > 10, "{} names no symbols", map.display());
    for (what, parts) in [("sections", sections), ("code of the crates", crates)] {
        let mut parts: Vec<(String, u64)> = parts.into_iter().filter(|(_, size)| *size >= 5000).collect();
        parts.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        let parts: Vec<String> = parts.into_iter().map(|(name, size)| format!("{name} {size}")).collect();
        println!("{what}: {}", parts.join(", "));
    }
    Ok(())
}

/// The size in a line of a map, and what follows the four numbers.
fn map_line(line: &str) -> Option<(u64, &str)> {
    let mut rest = line;
    let mut size = 0;
    for column in 0..4 {
        rest = rest.trim_start();
        let (number, after) = rest.split_once(' ')?;
        if column == 2 {
            size = u64::from_str_radix(number, 16).ok()?;
        }
        rest = after;
    }
    Some((size, rest))
}

/// The crate that a function's name begins with, without what stands before it in `<&mut dyn core::fmt::Write as …>`.
fn first_crate(name: &str) -> String {
    let mut rest = name;
    loop {
        rest = rest.trim_start_matches(['<', '&', '*', '(', '[']);
        match ["mut ", "dyn ", "const ", "impl ", "unsafe ", "fn("].iter().find_map(|word| rest.strip_prefix(word)) {
            Some(after) => rest = after,
            None => break,
        }
    }
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(rest).to_owned()
}

/// Holds BENCHMARKS.md to the figure, and to that the library that was built last, if one was.
pub(crate) fn figure(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("BENCHMARKS.md")).context("BENCHMARKS.md")?;
    let written = format!("{},{:03},{:03} bytes", SIZE / 1_000_000, SIZE / 1000 % 1000, SIZE % 1000);
    let mut problems = Vec::new();
    if !text.contains(&written) {
        problems.push(format!("BENCHMARKS.md does not give the size of the runtime for Android as {written}"));
    }
    if let Ok(library) = std::fs::metadata(library(root)) {
        problems.extend(grown(library.len()));
    }
    Ok(problems)
}

/// What there is to say of a library of that size.
fn grown(bytes: u64) -> Option<String> {
    let most = SIZE + SIZE * GROWTH / 100;
    (bytes > most).then(|| {
        format!(
            "the runtime for {TARGET} has {bytes} bytes: {GROWTH} % more than the {SIZE} that BENCHMARKS.md tells of"
        )
    })
}

fn size(library: &Path) -> Result<()> {
    let bytes = std::fs::metadata(library)?.len();
    println!("the runtime for {TARGET}: {bytes} bytes");
    grown(bytes).map_or(Ok(()), |problem| bail!(problem))
}

/// Where the build leaves it.
fn library(root: &Path) -> PathBuf {
    target(root).join(TARGET).join("mobile/libknapsack.so")
}

/// Everything that stands in for Google's.
struct Kit(PathBuf);

impl Kit {
    fn make(root: &Path, toolchain: &Toolchain, gcc: &str) -> Result<Self> {
        let clang = tool(&["clang", "clang-19", "clang-16", "clang-15", "clang-14"], "clang")?;
        tool(&["ld.lld"], "lld")?;
        let kit = Self(target(root).join("android-kit"));
        let _ = std::fs::remove_dir_all(&kit.0);
        let bin = kit.0.join("ndk/toolchains/llvm/prebuilt/linux-x86_64/bin");
        for folder in ["lib", "run", "classes", "sdk/platforms/android-35"].map(|name| kit.0.join(name)) {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::create_dir_all(&bin)?;
        std::fs::write(kit.0.join("ndk/source.properties"), "Pkg.Revision = 0.0.0\n")?;
        let linker = bin.join(format!("{TARGET}26-clang"));
        let libraries = kit.0.join("lib");
        // The library has a map; programs have a beginning, and the machine's own loader in place of Android's. Cargo links shared
        // libraries of dependencies, too.
        let script = format!(
            "case \" $* \" in\n*' -soname=libknapsack.so '*) set -- \"$@\" '-Wl,-Map={}';;\n*' -shared '*) ;;\n\
             *) set -- \"$@\" '{}/start.o' -Wl,--dynamic-linker=/lib/ld-linux-aarch64.so.1;;\nesac\n\
             exec {clang} --target={TARGET}26 -fuse-ld=lld -nostartfiles '-L{1}' \"$@\"\n",
            kit.map().display(),
            libraries.display()
        );
        program(&linker, &script)?;
        run(Command::new(gcc)
            .arg("-c")
            .arg(root.join("xtask/android/start.s"))
            .arg("-o")
            .arg(libraries.join("start.o")))?;
        kit.system_libraries(root, gcc)?;
        kit.unwinder(root, toolchain)?;
        kit.platform(root)?;
        Ok(kit)
    }

    /// A program that runs another one for Android.
    fn emulator(&self, qemu: &str) -> Result<PathBuf> {
        let (path, run) = (self.0.join("emulator"), self.0.join("run"));
        let environment = format!("'LD_LIBRARY_PATH={}'", run.display());
        program(&path, &format!("exec {qemu} -cpu max -L /usr/aarch64-linux-gnu -E {environment} \"$@\"\n"))?;
        Ok(path)
    }

    /// Where the linker writes what it placed.
    fn map(&self) -> PathBuf {
        self.0.join("libknapsack.map")
    }

    /// For the link: libraries with bionic's names in them. For the run: libraries of the same names over glibc.
    fn system_libraries(&self, root: &Path, gcc: &str) -> Result<()> {
        for (library, symbols) in symbols(root)? {
            let code: String =
                symbols.iter().map(|name| format!(".globl {name}\n.type {name},%function\n{name}:\n")).collect();
            let source = self.0.join("symbols.s");
            std::fs::write(&source, code)?;
            let soname = format!("-Wl,-soname,{library}");
            let shared = ["-shared", "-nostdlib", &soname, "-o"];
            run(Command::new(gcc).args(shared).arg(self.0.join("lib").join(&library)).arg(&source))?;
            let mut shim = Command::new(gcc);
            shim.args(["-shared", "-O1", "-Wall", "-Werror", "-Wno-builtin-declaration-mismatch", &soname, "-o"])
                .arg(self.0.join("run").join(&library));
            if library == "libc.so" {
                shim.arg(root.join("xtask/android/shim.c"));
            }
            run(shim.args(["-Wl,--no-as-needed", "-lm"]))?;
        }
        Ok(())
    }

    /// The NDK has a library that unwinds stacks, and Rust's standard library links it.
    fn unwinder(&self, root: &Path, toolchain: &Toolchain) -> Result<()> {
        let mut cargo = toolchain.cargo(root, "build", "core")?;
        cargo.args(["--release", "--manifest-path", "xtask/android/unwinder/Cargo.toml"]);
        run(&mut cargo)?;
        let built = target(root).join(TARGET).join("release/libunwind.a");
        std::fs::copy(&built, self.0.join("lib/libunwind.a")).with_context(|| built.display().to_string())?;
        Ok(())
    }

    /// Android's classes, as far as the Kotlin library names them.
    fn platform(&self, root: &Path) -> Result<()> {
        tool(&["javac"], "default-jdk-headless")?;
        let classes = self.0.join("classes");
        run(Command::new("javac").arg("-d").arg(&classes).args(sources(&[root.join("sdk/android/stubs")], "java")?))?;
        let jar = self.0.join("sdk/platforms/android-35/android.jar");
        run(Command::new("jar").arg("cf").arg(jar).arg("-C").arg(&classes).arg("."))
    }

    /// A C program that uses the library as an app does.
    fn app(&self, root: &Path, gcc: &str) -> Result<PathBuf> {
        let app = self.0.join("run/app");
        let mut command = Command::new(gcc);
        command
            .args(["-O1", "-Wall", "-Werror", "-o"])
            .arg(&app)
            .arg("-I")
            .arg(root.join("crates/knapsack-ffi/include"));
        run(command.args(["app.c", "relocate.c"].map(|name| root.join("xtask/android").join(name))).arg("-ldl"))?;
        Ok(app)
    }
}

/// Writes a shell script.
fn program(path: &Path, script: &str) -> Result<()> {
    std::fs::write(path, format!("#!/bin/sh\n{script}")).with_context(|| path.display().to_string())?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

/// Names by library out of `xtask/android/bionic.txt`.
fn symbols(root: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let text = std::fs::read_to_string(root.join("xtask/android/bionic.txt"))?;
    let mut libraries: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace().map(str::to_owned);
        if let Some(library) = words.next() {
            libraries.entry(library).or_default().extend(words);
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_may_grow_a_little() {
        assert_eq!(grown(SIZE + SIZE / 25), None);
        assert!(grown(SIZE + SIZE / 16).unwrap().contains("5 % more"));
    }
}
