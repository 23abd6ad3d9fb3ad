//! `knapsack sdk build` with programs that stand in for cargo, rustc, Java and the NDK: what it asks of them, what it makes of
//! what they give, and what it says when they are not there. `cargo xtask android` and `cargo xtask apple` build for real.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A machine: a folder of programs and a home.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(machine.path("bin")).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path(&format!("bin/{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Rust with every target: cargo writes a library with its own arguments in it.
    fn rust(&self) {
        let (log, libraries) = (self.path("cargo.log"), self.path("libraries"));
        fs::create_dir_all(&libraries).unwrap();
        self.program("rustc", &format!("echo {}", libraries.display()));
        let script = format!(
            "echo \"$@\" >> {log}\nfile={out}/libknapsack.a\n\
             echo \"built: $*\" > $file\n\
             echo '{{\"reason\":\"compiler-artifact\",\"target\":{{\"name\":\"knapsack\"}},\"filenames\":[\"'$file'\"]}}'\n\
             case \"$*\" in *--bin*) echo runner > {out}/knapsack-runner\n\
             echo '{{\"reason\":\"compiler-artifact\",\"target\":{{\"name\":\"knapsack-runner\"}},\"executable\":\"{out}/knapsack-runner\"}}';;\n\
             esac",
            log = log.display(),
            out = libraries.display()
        );
        self.program("cargo", &script);
    }

    /// The NDK, a JDK, Kotlin's compiler and an Android platform. The linker writes its own arguments.
    fn android(&self) {
        let log = self.path("linker.log");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> '{}'\nwhile [ \"$1\" != -o ]; do shift; done\necho linked > \"$2\"\n",
            log.display()
        );
        for target in ["aarch64-linux-android", "x86_64-linux-android"] {
            let name = format!("ndk/toolchains/llvm/prebuilt/linux-x86_64/bin/{target}26-clang");
            self.file(&name, &script);
            fs::set_permissions(self.path(&name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        self.file("ndk/source.properties", "Pkg.Desc = Android NDK\nPkg.Revision = 28.2.13676358\n");
        for jar in ["kotlin-compiler", "kotlin-stdlib", "kotlinx-coroutines-core-jvm"] {
            self.file(&format!("kotlin/lib/{jar}.jar"), "");
        }
        self.file("android/platforms/android-35/android.jar", "");
        self.program("java", "while [ \"$1\" != -d ]; do shift; done\necho classes > \"$2\"");
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut command = Command::new(env!("CARGO_BIN_EXE_knapsack"));
        command.args(["sdk", "build"]).args(args).arg("--source").arg(source).arg("-o").arg(self.path("a b/out"));
        command.env_clear().env("HOME", self.0.path()).env("NO_COLOR", "1");
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        command.env("ANDROID_NDK_HOME", self.path("ndk")).env("ANDROID_HOME", self.path("android"));
        command.env("KOTLIN_HOME", self.path("kotlin")).env("JAVA_HOME", self.path("none"));
        command.output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_aar_in_a_repository() {
    let machine = Machine::new();
    machine.rust();
    machine.android();
    for _ in 0..2 {
        let out = machine.run(&["--target", "android", "--message-format", "json"]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert!(text(&out.stdout).contains("runtime-0.1.0.aar"), "{}", text(&out.stdout));
    }
    let folder = machine.path("a b/out/maven/ai/knapsack/runtime/0.1.0");
    let aar = fs::read(folder.join("runtime-0.1.0.aar")).unwrap();
    for member in ["AndroidManifest.xml", "classes.jar", "jni/arm64-v8a/libknapsack.so", "jni/x86_64/libknapsack.so"] {
        assert!(aar.windows(member.len()).any(|window| window == member.as_bytes()), "{member}");
    }
    assert!(fs::read_to_string(folder.join("runtime-0.1.0.pom")).unwrap().contains("kotlinx-coroutines-core"));
    let asked = fs::read_to_string(machine.path("cargo.log")).unwrap();
    let first = asked.lines().next().unwrap();
    for flag in ["--profile mobile", "--features jni", "--target aarch64-linux-android", "--crate-type staticlib"] {
        assert!(first.contains(flag), "{flag}: {first}");
    }
    let runner = asked.lines().nth(1).unwrap();
    for flag in ["--profile mobile", "--bin knapsack-runner", "--target aarch64-linux-android", "max-page-size=16384"] {
        assert!(runner.contains(flag), "{flag}: {runner}");
    }
    assert_eq!(fs::read_to_string(machine.path("a b/out/knapsack-android-arm64")).unwrap(), "runner\n");
    let asked = fs::read_to_string(machine.path("linker.log")).unwrap();
    for flag in ["-shared", "-z -Xlinker defs", "max-page-size=16384", "--version-script=", "libknapsack.a"] {
        assert!(asked.lines().all(|line| line.contains(flag)), "{flag}: {asked}");
    }
    assert_eq!(asked.lines().count(), 4);
    let exports = fs::read_to_string(machine.path("libraries/libknapsack.map")).unwrap();
    assert!(exports.contains("local: *"), "{exports}");
}

/// R8 renames what no rule keeps; the native library finds classes and callbacks by their names.
#[test]
fn r8_keeps_what_the_native_library_finds_by_name() {
    let read = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap();
    let rules = read("sdk/android/consumer-rules.pro");
    let kept = |rule: String| assert!(rules.lines().any(|line| line.starts_with(&rule)), "{rule}");
    kept("-keep interface ai.knapsack.internal.* { *; }".to_owned());
    kept("-keepclassmembers class * implements ai.knapsack.internal.* { *; }".to_owned());
    let (native, java) =
        (read("crates/knapsack-ffi/src/java.rs"), read("sdk/android/src/main/kotlin/ai/knapsack/internal/Native.kt"));
    let classes: Vec<&str> =
        native.split("\"ai/knapsack/internal/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(!classes.is_empty() && native.contains("Java_ai_knapsack_internal_Native_"));
    classes.into_iter().chain(["Native"]).for_each(|class| kept(format!("-keep class ai.knapsack.internal.{class} ")));
    // What is called back is declared by an interface in that package.
    let interfaces: String = java.split("interface ").skip(1).filter_map(|rest| rest.split("\n}").next()).collect();
    let calls: Vec<&str> = native.split("jni_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    for name in calls.iter().filter(|name| !name.contains('/')) {
        assert!(interfaces.contains(&format!("fun {name}(")), "no interface has {name}");
    }
    assert!(calls.len() > 5);
}

#[test]
fn a_swift_package_with_a_framework() {
    let machine = Machine::new();
    machine.rust();
    machine.program("xcode-select", "echo /Applications/Xcode.app");
    let out = machine.run(&["--target", "ios"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let package = machine.path("a b/out/Knapsack");
    assert!(package.join("Package.swift").is_file() && package.join("Sources/Knapsack/LocalModels.swift").is_file());
    let framework = package.join("Knapsack.xcframework");
    let info = fs::read_to_string(framework.join("Info.plist")).unwrap();
    for slice in ["ios-arm64", "ios-arm64_x86_64-simulator", "ios-arm64_x86_64-maccatalyst", "macos-arm64_x86_64"] {
        assert!(info.contains(&format!("<string>{slice}</string>")), "{slice}: {info}");
        let headers = framework.join(slice).join("Headers");
        assert!(fs::read_to_string(headers.join("module.modulemap")).unwrap().contains("CKnapsack"));
        assert!(headers.join("knapsack.h").is_file() && framework.join(slice).join("libknapsack.a").is_file());
    }
    assert!(info.contains("HeadersPath") && info.contains("<string>macos</string>"), "{info}");
}

#[test]
fn everything_that_is_missing_is_said_with_how_to_get_it() {
    let machine = Machine::new();
    machine.program("rustc", "exit 1");
    let out = machine.run(&["--target", "android"]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    for advice in [
        "ANDROID_NDK_HOME",
        "rustup target add aarch64-linux-android x86_64-linux-android",
        "KOTLIN_HOME",
        "ANDROID_HOME",
    ] {
        assert!(said.contains(advice), "{advice}: {said}");
    }
    assert!(!machine.path("a b").exists(), "something was written");
    let out = machine.run(&["--target", "ios"]);
    assert!(text(&out.stderr).contains("rustup target add aarch64-apple-ios"), "{}", text(&out.stderr));
    let out = machine.run(&["--target", "ios", "--only", "watchos"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("none of ios, ios-simulator, macabi, macos"), "{}", text(&out.stderr));
}

#[test]
fn a_build_that_fails_leaves_what_was_there() {
    let machine = Machine::new();
    machine.rust();
    machine.android();
    assert!(machine.run(&["--target", "android", "--only", "arm64-v8a"]).status.success());
    machine.program("java", "exit 3");
    let out = machine.run(&["--target", "android", "--only", "arm64-v8a"]);
    assert!(out.status.code() == Some(1) && text(&out.stderr).contains("Kotlin's compiler failed"), "{out:?}");
    for name in ["java", "cargo"] {
        fs::remove_file(machine.path(&format!("bin/{name}"))).unwrap();
    }
    machine.rust();
    machine.android();
    let linker = "ndk/toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android26-clang";
    machine.file(linker, "#!/bin/sh\nexit 1\n");
    let out = machine.run(&["--target", "android", "--only", "arm64-v8a"]);
    assert!(out.status.code() == Some(1) && text(&out.stderr).contains("the NDK's linker failed"), "{out:?}");
    machine.program("cargo", "exit 101");
    let out = machine.run(&["--target", "android", "--only", "arm64-v8a"]);
    assert!(text(&out.stderr).contains("could not build the runtime for aarch64-linux-android"), "{out:?}");
    assert!(machine.path("a b/out/maven/ai/knapsack/runtime/0.1.0/runtime-0.1.0.aar").is_file());
}
