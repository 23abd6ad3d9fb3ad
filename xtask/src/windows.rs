//! The command line for Windows, on any machine: cross-built with MinGW-w64 and run under wine, its tests too. Wine is not Windows: what
//! is shown is that nothing depends on Unix, not what an antivirus or a file system of Windows adds.

use crate::toolchain::{STD, Toolchain, output, run, target, tool};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const TARGET: &str = "x86_64-pc-windows-gnu";

/// Tests of the command line.
const TESTS: [&str; 5] = ["desks", "cli_manifest", "package", "first_use", "running"];
/// Those that compute for minutes where nothing is optimized; what they compute is the same everywhere.
const LONG: [&str; 5] = [
    "every_format_answers",
    "fast_logits_are_close",
    "figures_of_a_benchmark",
    "perplexity_of_the_example",
    "reference_logits_of_every_quantization",
];
/// What is tried is not speed: compiling takes longest, of vector routines above all, and nobody debugs it.
const FAST_TO_BUILD: [&str; 5] = [
    "profile.dev.opt-level=0",
    "profile.dev.debug=false",
    r#"profile.dev.package."*".opt-level=0"#,
    "profile.dev.package.knapsack-device.opt-level=0",
    "profile.dev.package.sha2.opt-level=1",
];

/// Builds and runs.
pub(crate) fn check(root: &Path) -> Result<()> {
    let wine = Wine::new(root)?;
    let windows = Windows { toolchain: Toolchain::of(root, TARGET)?, wine };
    // The program is built with its tests: by itself it has other features of what both use, which would be built twice.
    run(windows.tests(root)?.arg("--no-run"))?;
    let program = target(root).join(TARGET).join("debug/knapsack.exe");
    first_command(root, &windows.wine, &program)?;
    interrupt(&windows.wine, &program)?;
    let mut tests = windows.tests(root)?;
    tests.args(["--no-fail-fast", "--"]).args(LONG.iter().flat_map(|test| ["--skip", test]));
    run(&mut tests)
}

/// What builds for Windows and what runs it.
struct Windows {
    toolchain: Toolchain,
    wine: Wine,
}

impl Windows {
    fn cargo(&self, root: &Path, verb: &str) -> Result<Command> {
        let mut command = self.toolchain.cargo(root, verb, &format!("{STD},test"))?;
        for setting in FAST_TO_BUILD {
            command.args(["--config", setting]);
        }
        let name = TARGET.to_uppercase().replace('-', "_");
        command.env(format!("CARGO_TARGET_{name}_LINKER"), &self.wine.gcc);
        command.env(format!("CARGO_TARGET_{name}_RUNNER"), &self.wine.program);
        if let Some(objects) = self.toolchain.objects(root, &["rsbegin", "rsend"])? {
            command.env(format!("CARGO_TARGET_{name}_RUSTFLAGS"), format!("-Lnative={}", objects.display()));
        }
        self.wine.enter(&mut command);
        Ok(command)
    }

    fn tests(&self, root: &Path) -> Result<Command> {
        let mut command = self.cargo(root, "test")?;
        command.args(["--package", "knapsack"]);
        command.args(TESTS.iter().flat_map(|test| ["--test", test]));
        Ok(command)
    }
}

/// A wine of this project's own, with the tests' temporary files where the tests' other files are.
struct Wine {
    program: String,
    gcc: String,
    folder: PathBuf,
}

impl Wine {
    fn new(root: &Path) -> Result<Self> {
        let program = tool(&["wine", "wine64", "/usr/lib/wine/wine64"], "wine wine64")?;
        let gcc = tool(&["x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-gcc-win32"], "gcc-mingw-w64-x86-64-win32")?;
        let wine = Self { program, gcc, folder: target(root).join("windows") };
        let temporary = wine.folder.join("tmp");
        std::fs::create_dir_all(&temporary)?;
        for name in ["TEMP", "TMP"] {
            let key = ["reg", "add", r"HKCU\Environment", "/f", "/v", name, "/d", &windows_path(&temporary)];
            output(wine.enter(Command::new(&wine.program).args(key)))?;
        }
        let library = wine.prefix().join("drive_c/windows/system32/bcryptprimitives.dll");
        if !library.exists() {
            let mut gcc = Command::new(&wine.gcc);
            gcc.args(["-shared", "-O1", "-Wall", "-Werror", "-o"]).arg(&library);
            run(gcc.arg(root.join("xtask/windows/bcryptprimitives.c")).arg("-ladvapi32"))?;
        }
        Ok(wine)
    }

    fn prefix(&self) -> PathBuf {
        self.folder.join("prefix")
    }

    fn enter<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("WINEPREFIX", self.prefix()).env("WINEDEBUG", "-all").env("WINEDLLOVERRIDES", "mscoree,mshtml=")
    }
}

/// Wine shows the root of the file system as drive Z.
fn windows_path(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', "\\")
}

/// The README's first command, and the answer.
fn first_command(root: &Path, wine: &Wine, program: &Path) -> Result<()> {
    let dist = wine.folder.join("dist");
    let _ = std::fs::remove_dir_all(&dist);
    let knapsack = |words: &[&str]| {
        let mut command = Command::new(&wine.program);
        command
            .arg(program)
            .args(words)
            .current_dir(root)
            .env("KNAPSACK_CACHE", windows_path(&wine.folder.join("cache")));
        wine.enter(&mut command);
        command
    };
    let place = windows_path(&dist);
    run(&mut knapsack(&["package", "-c", "examples/tiny-assistant/mlc-package-config.json", "-o", &place]))?;
    let answer = output(&mut knapsack(&["run", &place, "--prompt", "What is 37 plus 48?"]))?;
    println!("{}", answer.trim_end());
    ensure!(answer.contains("85"), "37 plus 48 is not {answer}");
    Ok(())
}

/// Ctrl-C at a terminal: the server ends in an orderly way, and a program that has nothing to end says that it was interrupted.
fn interrupt(wine: &Wine, program: &Path) -> Result<()> {
    if !Command::new("script").args(["-qec", "true", "/dev/null"]).stdin(Stdio::null()).status()?.success() {
        println!("SKIPPED: Ctrl-C, there is no terminal to be had");
        return Ok(());
    }
    for (words, ready, code, last) in
        [("serve DIST --port 0", "listening on ", 0, "Stopped"), ("chat DIST", "/help shows", 130, "")]
    {
        let words = words.replace("DIST", &format!("'{}'", windows_path(&wine.folder.join("dist"))));
        // A shell that waited for it would answer for it, with an interrupt of its own.
        let line = format!("exec {} '{}' {words}", wine.program, program.display());
        // `script` gives it a terminal; what is written to `script` is typed there.
        let mut command = Command::new("timeout");
        command.args(["300", "script", "-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        println!("$ {line}, and Ctrl-C");
        let mut child = wine.enter(&mut command).spawn().context("cannot start script (Debian's bsdutils)")?;
        let (mut keys, mut screen) =
            (child.stdin.take().context("no stdin")?, child.stdout.take().context("no stdout")?);
        let (mut seen, mut piece, mut typed) = (String::new(), [0; 4096], false);
        loop {
            let bytes = screen.read(&mut piece)?;
            if bytes == 0 {
                break;
            }
            seen.push_str(&String::from_utf8_lossy(&piece[..bytes]));
            if !typed && seen.contains(ready) {
                typed = true;
                std::thread::sleep(Duration::from_secs(1));
                keys.write_all(b"\x03")?;
            }
        }
        let status = child.wait()?;
        ensure!(status.code() == Some(code) && seen.contains(last), "{status}, expected {code}:\n{seen}");
    }
    Ok(())
}
