//! Building for machines that this one is not: a Rust toolchain that has the standard library for a target, or can build it.
//!
//! Where rustup has the target (`rustup target add …`) it is used. Otherwise the standard library is built from its source, which
//! must be of the compiler's own version: the toolchain's (`rustup component add rust-src`), what `RUST_SRC` names (a folder with
//! `library/` in it), or Debian's package rust-src, fetched with apt into the cache.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where downloads are kept from run to run: `KNAPSACK_BUILD_CACHE`, or a folder of the user's cache, or the target folder.
pub(crate) fn cache(root: &Path) -> Result<PathBuf> {
    let named = std::env::var_os("KNAPSACK_BUILD_CACHE").map(PathBuf::from);
    let users = || {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).map(|c| c.join("knapsack-build"))
    };
    let folder = named.or_else(users).unwrap_or_else(|| target(root).join("build-cache"));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// The target folder for everything that is not built for this machine, so that the two do not rebuild each other's crates.
pub(crate) fn target(root: &Path) -> PathBuf {
    host_target(root).join("cross")
}

/// The phones' profile, with which the machine's own part of the build is shared, for what runs once or never: optimising it takes longer than it saves.
pub(crate) fn quickly(cargo: &mut Command) {
    for (name, value) in [("OPT_LEVEL", "0"), ("LTO", "off"), ("CODEGEN_UNITS", "16")] {
        cargo.env(format!("CARGO_PROFILE_MOBILE_{name}"), value);
    }
}

/// The target folder of this machine's programs.
pub(crate) fn host_target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// What is built for this machine.
pub(crate) struct Host {
    /// The command line.
    pub(crate) program: PathBuf,
    /// The folder of the runtime as a shared library.
    pub(crate) library: PathBuf,
    /// The example `world`.
    pub(crate) world: PathBuf,
}

/// Builds it with the features that `cargo test --workspace` builds everything with, so that neither rebuilds the other's crates.
pub(crate) fn host(root: &Path) -> Result<Host> {
    let mut command = Command::new("cargo");
    command.args(["build", "--locked", "--workspace", "--features", "knapsack-ffi/jni"]);
    run(command.args(["--lib", "--bin", "knapsack", "--example", "world"]).current_dir(root))?;
    let folder = host_target(root).join("debug");
    let (program, world) = (folder.join("knapsack"), folder.join("examples/world"));
    ensure!(folder.join("libknapsack.so").is_file(), "cargo made no libknapsack.so");
    Ok(Host { program, library: folder, world })
}

/// What the standard library needs where panics are caught.
pub(crate) const STD: &str = "std,panic_unwind";

/// What a program prints; its failure is ours.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(out.status.success(), "{:?} failed: {}", command, String::from_utf8_lossy(&out.stderr).trim());
    String::from_utf8(out.stdout).context("not UTF-8")
}

/// Runs a program, whose output people see.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(status.success(), "{} failed ({status})", command.get_program().display());
    Ok(())
}

/// What could not be downloaded: the task that wants it is skipped, which it says.
#[derive(Debug)]
pub(crate) struct Unavailable(pub(crate) String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// Longest time of a download, in seconds.
const DOWNLOAD: &str = "480";

/// Runs a program that downloads.
///
/// # Errors
/// [`Unavailable`].
pub(crate) fn fetch(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let mut limited = Command::new("timeout");
    limited.arg(DOWNLOAD).arg(&program).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    run(&mut limited)
        .map_err(|_| Unavailable(format!("{} cannot download, for the reason above", program.display())).into())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// The first of `names` that is installed.
///
/// # Errors
/// None is; the error says which Debian package has it.
pub(crate) fn tool(names: &[&str], package: &str) -> Result<String> {
    let runs = |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    match names.iter().find(runs) {
        Some(name) => Ok((*name).to_owned()),
        None => bail!("{} is not installed: apt-get install {package}", names[0]),
    }
}

/// A toolchain for one target.
pub(crate) struct Toolchain {
    target: String,
    /// Where cargo and rustc lie; `None`: the ones that run this, which have the target.
    from_source: Option<PathBuf>,
}

impl Toolchain {
    /// Finds or makes one.
    pub(crate) fn of(root: &Path, target: &str) -> Result<Self> {
        let libraries = output(Command::new("rustc").args(["--print", "target-libdir", "--target", target]))?;
        let from_source = if Path::new(libraries.trim()).is_dir() { None } else { Some(with_source(root)?) };
        Ok(Self { target: target.to_owned(), from_source })
    }

    /// `cargo VERB … --target TARGET`, with these parts of the standard library where it is built.
    pub(crate) fn cargo(&self, root: &Path, verb: &str, parts: &str) -> Result<Command> {
        let mut command = Command::new(self.from_source.as_ref().map_or("cargo".into(), |t| t.join("bin/cargo")));
        command.arg(verb).args(["--locked", "--target", &self.target]).current_dir(root);
        self.enter(root, &mut command, parts)?;
        Ok(command)
    }

    /// Lets a program that calls cargo and rustc use this toolchain.
    pub(crate) fn enter(&self, root: &Path, command: &mut Command, parts: &str) -> Result<()> {
        if let Some(toolchain) = &self.from_source {
            let (bin, path) = (toolchain.join("bin"), std::env::var_os("PATH").unwrap_or_default());
            let folders = std::iter::once(bin.clone()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(folders)?);
            // Unstable options for the standard library only: the workspace itself is stable code.
            command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", bin.join("rustc")).env("RUSTC_WRAPPER", "");
            command.env("CARGO_UNSTABLE_BUILD_STD", parts);
            // Without names of functions for stack traces.
            command.env("CARGO_UNSTABLE_BUILD_STD_FEATURES", "panic-unwind");
        }
        command.env("CARGO_TARGET_DIR", target(root));
        // Settings of the shell that runs `cargo xtask` are not meant for other targets, and rustup's library path would let the
        // copied compiler take the original for its home.
        let foreign = ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO", "CARGO_RESOLVER_FEATURE_UNIFICATION"];
        for name in foreign.into_iter().chain(["LD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"]) {
            command.env_remove(name);
        }
        Ok(())
    }

    /// A folder with those objects of a standard library that cargo does not build, if it builds the library.
    pub(crate) fn objects(&self, root: &Path, names: &[&str]) -> Result<Option<PathBuf>> {
        let Some(toolchain) = &self.from_source else { return Ok(None) };
        let folder = target(root).join(&self.target).join("objects");
        std::fs::create_dir_all(&folder)?;
        for name in names {
            let source = toolchain.join("lib/rustlib/src/rust/library/rtstartup").join(format!("{name}.rs"));
            let mut rustc = Command::new(toolchain.join("bin/rustc"));
            rustc
                .args(["--emit=obj", "--target", &self.target, "-o"])
                .arg(folder.join(format!("{name}.o")))
                .arg(source);
            output(rustc.env("RUSTC_BOOTSTRAP", "1").env_remove("LD_LIBRARY_PATH"))?;
        }
        Ok(Some(folder))
    }
}

/// A copy of the toolchain, by hard links, that has the source where cargo looks for it.
fn with_source(root: &Path) -> Result<PathBuf> {
    let sysroot = PathBuf::from(output(Command::new("rustc").args(["--print", "sysroot"]))?.trim());
    if sysroot.join("lib/rustlib/src/rust/library").is_dir() {
        return Ok(sysroot);
    }
    let version = output(Command::new("rustc").arg("--version"))?;
    let version = version.split(' ').nth(1).context("rustc prints no version")?.to_owned();
    let copy = target(root).join(format!("toolchain-{version}"));
    if copy.join("lib/rustlib/src/rust/library").is_dir() {
        return Ok(copy);
    }
    let source = match std::env::var_os("RUST_SRC") {
        Some(folder) => PathBuf::from(folder),
        None => debian_source(&cache(root)?, &version)?,
    };
    ensure!(source.join("library/std").is_dir(), "{} has no library/std", source.display());
    let _ = std::fs::remove_dir_all(&copy);
    std::fs::create_dir_all(target(root))?;
    if output(Command::new("cp").arg("-al").args([&sysroot, &copy])).is_err() {
        // Another file system.
        let _ = std::fs::remove_dir_all(&copy);
        output(Command::new("cp").arg("-a").args([&sysroot, &copy]))?;
    }
    std::fs::create_dir_all(copy.join("lib/rustlib/src"))?;
    output(Command::new("ln").arg("-sfn").arg(&source).arg(copy.join("lib/rustlib/src/rust")))?;
    Ok(copy)
}

/// The source of that version out of the first Debian suite that has it.
fn debian_source(cache: &Path, version: &str) -> Result<PathBuf> {
    let folder = cache.join(format!("rust-src-{version}"));
    let source = folder.join(format!("usr/src/rustc-{version}"));
    if source.join("library/std").is_dir() {
        return Ok(source);
    }
    let suites = ["trixie-backports", "forky", "sid"];
    let apt = Apt::new(cache.join("apt"), &suites).with_context(|| {
        "the standard library's source is missing: `rustup component add rust-src`, or set RUST_SRC to a folder with library/"
    })?;
    let listed = output(apt.command("apt-cache").args(["madison", "rust-src"]))?;
    let package = listed
        .lines()
        .filter_map(|line| line.split('|').nth(1).map(str::trim))
        .find(|package| package.split('+').next() == Some(version))
        .with_context(|| format!("no Debian suite of {} has rust-src {version}", suites.join(", ")))?;
    std::fs::create_dir_all(&folder)?;
    fetch(apt.command("apt-get").args(["-q", "download", &format!("rust-src={package}")]).current_dir(&folder))?;
    let name = std::fs::read_dir(&folder)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("apt downloaded nothing")?;
    output(Command::new("dpkg").arg("-x").args([&name, &folder]))?;
    std::fs::remove_file(name)?;
    Ok(source)
}

/// apt with package lists of its own, so that it never changes what the machine installs.
struct Apt(PathBuf);

impl Apt {
    fn new(folder: PathBuf, suites: &[&str]) -> Result<Self> {
        let mirror = mirror()?;
        std::fs::create_dir_all(folder.join("lists/partial"))?;
        let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let sources: String = suites.iter().map(|s| format!("deb [signed-by={key}] {mirror} {s} main\n")).collect();
        std::fs::write(folder.join("sources.list"), sources)?;
        let apt = Self(folder);
        fetch(apt.command("apt-get").args(["-q", "update"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args([
            format!("-oDir::Etc::sourcelist={}", self.0.join("sources.list").display()),
            "-oDir::Etc::sourceparts=/dev/null".to_owned(),
            format!("-oDir::State::Lists={}", self.0.join("lists").display()),
            "-oDir::State::status=/dev/null".to_owned(),
        ]);
        command
    }
}

/// The Debian mirror that this machine's apt uses.
pub(crate) fn mirror() -> Result<String> {
    let listed =
        output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]))
            .context("no apt here")?;
    listed.lines().find(|line| line.ends_with("/debian/")).map(str::to_owned).context("apt knows no mirror of Debian")
}
