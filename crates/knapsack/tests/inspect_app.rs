//! `knapsack inspect` of finished apps: what is wrong with them is found, and so is that nothing is.

mod support;

use knapsack_artifact::device::{Abi, AppleSlice};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Outcome, Sandbox};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A file of an archive: its path, its bytes, whether they are stored, and what they are aligned to.
type Member = (String, Vec<u8>, bool, u16);

fn archive(path: &Path, members: &[Member]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    for (name, bytes, stored, alignment) in members {
        let method = if *stored { CompressionMethod::Stored } else { CompressionMethod::Deflated };
        let options = SimpleFileOptions::default().compression_method(method).with_alignment(*alignment);
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// A sandbox with a package of the tiny assistant.
fn packaged(device: &str, keys: &Value) -> Sandbox {
    let sandbox = Sandbox::new();
    let mut entry =
        json!({ "model": knapsack_testkit::tiny_assistant(), "model_id": "tiny", "quantization": "q4f16_1" });
    entry.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let manifest = json!({ "device": device, "model_list": [entry] });
    sandbox.write("mlc-package-config.json", &manifest.to_string());
    sandbox.run(&["package", "--no-sync", "--quiet"]).expect(0);
    sandbox
}

/// Every file below a folder with its path in it.
fn tree(folder: &Path) -> Vec<(String, PathBuf)> {
    let (mut found, mut pending) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((name, path));
            }
        }
    }
    found.sort();
    found
}

/// The members of an APK that Gradle would make of a package.
fn apk(sandbox: &Sandbox) -> Vec<Member> {
    let mut members: Vec<Member> = vec![("AndroidManifest.xml".into(), b"binary".to_vec(), false, 4)];
    for abi in Abi::ALL {
        let from = sandbox.path(&format!("dist/lib/{}/libmodel_android.so", abi.name));
        let bytes = fs::read(from).unwrap();
        members.push((format!("lib/{}/libknapsack.so", abi.name), bytes.clone(), true, 16384));
        members.push((format!("lib/{}/libmodel_android.so", abi.name), bytes, true, 16384));
    }
    for (name, path) in tree(&sandbox.path("dist/bundle")) {
        members.push((format!("assets/knapsack/{name}"), fs::read(path).unwrap(), true, 4));
    }
    members
}

fn inspect(sandbox: &Sandbox, name: &str, members: &[Member]) -> Outcome {
    archive(&sandbox.path(name), members);
    sandbox.run(&["inspect", name])
}

/// What is told of a changed app, which must fail.
fn told(sandbox: &Sandbox, name: &str, members: &[Member]) -> String {
    inspect(sandbox, name, members).expect(1).stderr
}

fn changed(members: &[Member], change: impl Fn(&mut Member)) -> Vec<Member> {
    let mut members = members.to_vec();
    members.iter_mut().for_each(change);
    members
}

#[test]
fn an_apk_and_everything_that_can_be_wrong_with_it() {
    let sandbox = packaged("android", &json!({ "bundle_weight": true }));
    let right = apk(&sandbox);
    let good = inspect(&sandbox, "app.apk", &right).expect(0);
    assert!(good.stdout.contains("APK of") && good.stdout.contains("right"), "{good:?}");
    assert!(good.stdout.contains("model table in lib/arm64-v8a/libmodel_android.so: "), "{good:?}");
    let value = sandbox.run(&["inspect", "--json", "app.apk"]).expect(0).json();
    assert_eq!(
        (&value["form"], &value["findings"], &value["models"][0]["delivery"]),
        (&json!("apk"), &json!([]), &json!("bundled"))
    );
    assert_eq!(value["models"][0]["right"], value["models"][0]["files"]);

    // The models' library was forgotten.
    let without: Vec<Member> =
        right.iter().filter(|member| !member.0.ends_with("libmodel_android.so")).cloned().collect();
    let text = told(&sandbox, "without.apk", &without);
    assert!(text.contains("lib/arm64-v8a has no libmodel_android.so") && text.contains("ai.knapsack:models"), "{text}");
    // The library is another one.
    let other = changed(&right, |member| {
        if member.0.ends_with("libmodel_android.so") {
            let at = member.1.windows(8).position(|bytes| bytes == b"KNAPTABL").unwrap();
            member.1[at] = b'X';
        }
    });
    let text = told(&sandbox, "table.apk", &other);
    assert!(text.contains("libmodel_android.so has no model table") || text.contains("table"), "{text}");
    // Weights are deflated. The largest file of the tiny model is.
    let deflated = changed(&right, |member| member.2 &= !member.0.ends_with(".bin"));
    let text = told(&sandbox, "deflated.apk", &deflated);
    assert!(text.contains("deflated, and cannot be mapped: params_shard_") && text.contains("noCompress"), "{text}");
    // Pages of 4 KiB: in the library, and in the archive.
    let narrow = changed(&right, |member| {
        if member.0.ends_with("arm64-v8a/libmodel_android.so") {
            narrow(&mut member.1);
        }
    });
    let text = told(&sandbox, "narrow.apk", &narrow);
    assert!(text.contains("aligned to 4096 bytes, not 16384") && text.contains("max-page-size"), "{text}");
    let unaligned = changed(&right, |member| member.3 = 4);
    let text = told(&sandbox, "unaligned.apk", &unaligned);
    assert!(text.contains("no multiple of 16384") && text.contains("zipalign -P 16"), "{text}");
    // Files of another package.
    let swapped = changed(&right, |member| {
        if member.0.ends_with("tokenizer.json") {
            member.1[0] ^= 1;
        }
    });
    let text = told(&sandbox, "swapped.apk", &swapped);
    assert!(text.contains("1 files are not those of the app config: tokenizer.json"), "{text}");
    let lost: Vec<Member> = right.iter().filter(|member| !member.0.ends_with("tokenizer.json")).cloned().collect();
    assert!(told(&sandbox, "lost.apk", &lost).contains("files are missing: tokenizer.json"));
    let bare: Vec<Member> = right.iter().filter(|member| !member.0.starts_with("assets/")).cloned().collect();
    assert!(told(&sandbox, "bare.apk", &bare).contains("there is no mlc-app-config.json below assets/"));
}

/// Makes the loaded segments of an ELF file those of a linker for pages of 4 KiB: only what they say.
fn narrow(bytes: &mut [u8]) {
    let number = |bytes: &[u8], at: usize, size: usize| {
        bytes[at..at + size].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (start, size, count) = (number(bytes, 32, 8), number(bytes, 54, 2), number(bytes, 56, 2));
    for header in (0..count).map(|index| start + index * size) {
        if number(bytes, header, 4) == 1 {
            bytes[header + 48..header + 56].copy_from_slice(&4096u64.to_le_bytes());
        }
    }
}

#[test]
fn a_bundle_for_google_play_with_a_pack() {
    let sandbox = packaged("android", &json!({ "asset_delivery": "play-on-demand" }));
    let mut members: Vec<Member> = vec![("BundleConfig.pb".into(), b"**.bin".to_vec(), false, 1)];
    members.push(("base/manifest/AndroidManifest.xml".into(), vec![], false, 1));
    for (name, path) in tree(&sandbox.path("dist/lib")) {
        let bytes = fs::read(path).unwrap();
        members.push((format!("base/lib/{name}"), bytes.clone(), false, 1));
        members.push((format!("base/lib/{}", name.replace("model_android", "knapsack")), bytes, false, 1));
    }
    for (name, path) in tree(&sandbox.path("dist/bundle")) {
        members.push((format!("base/assets/knapsack/{name}"), fs::read(path).unwrap(), false, 1));
    }
    let base = members.clone();
    for (name, path) in tree(&sandbox.path("dist/asset-packs/play")) {
        if let Some((pack, file)) = name.split_once("/src/main/") {
            members.push((format!("{pack}/{file}"), fs::read(path).unwrap(), false, 1));
        }
    }
    inspect(&sandbox, "app.aab", &members).expect(0);
    let value = sandbox.run(&["inspect", "--json", "app.aab"]).expect(0).json();
    assert_eq!(
        (&value["models"][0]["delivery"], &value["models"][0]["inside"]),
        (&json!("play-on-demand"), &json!(true))
    );
    let text = told(&sandbox, "without.aab", &base);
    assert!(text.contains("its packs are missing: tiny") && text.contains("packs.settings.gradle.kts"), "{text}");
}

#[test]
fn an_app_for_iphone() {
    let sandbox = packaged("iphone", &json!({ "bundle_weight": true }));
    let archive = fs::read(sandbox.path("dist/lib/libmodel_iphone.a")).unwrap();
    let library = knapsack_artifact::container::tables(&archive).unwrap();
    assert_eq!(library.len(), AppleSlice::DEVICE.architectures.len());
    let info = r#"<?xml version="1.0"?><plist version="1.0"><dict><key>CFBundleExecutable</key><string>Chat</string></dict></plist>"#;
    let at = "Payload/Chat.app/";
    let executable = app_executable(&sandbox, true).unwrap_or_else(|| {
        eprintln!("no clang or no ld64.lld: an object stands for the executable, which is Mach-O with __TEXT too");
        let start = archive.windows(4).position(|bytes| bytes == [0xcf, 0xfa, 0xed, 0xfe]).unwrap();
        archive[start..].to_vec()
    });
    let mut members: Vec<Member> = vec![
        (format!("{at}Info.plist"), info.as_bytes().to_vec(), false, 1),
        (format!("{at}Chat"), executable, false, 1),
    ];
    for (name, path) in tree(&sandbox.path("dist/bundle")) {
        members.push((
            format!("{at}KnapsackModels_KnapsackModels.bundle/bundle/{name}"),
            fs::read(path).unwrap(),
            false,
            1,
        ));
    }
    let good = inspect(&sandbox, "Chat.ipa", &members).expect(0);
    assert!(good.stdout.contains("IPA of") && good.stdout.contains("model table in Payload/Chat.app/Chat"), "{good:?}");
    let with = |executable: Vec<u8>| {
        changed(&members, |member| {
            if member.0.ends_with("/Chat") {
                member.1.clone_from(&executable);
            }
        })
    };
    // An app that never asks for its models: the linker leaves them out.
    let forgetful = app_executable(&sandbox, false).unwrap_or_else(|| members[1].1[..600].to_vec());
    assert!(told(&sandbox, "none.ipa", &with(forgetful)).contains("dist/KnapsackModels"));
    // An app of another package.
    let other = packaged("iphone", &json!({ "bundle_weight": true, "model_id": "other", "quantization": "q0f16" }));
    if let Some(executable) = app_executable(&other, true) {
        told(&sandbox, "other.ipa", &with(executable));
    }
}

/// What a linker makes of an app and the packaged library as a release is linked: nothing that nobody asks for, no symbol but `main`.
/// The app asks for the table, or does not.
fn app_executable(sandbox: &Sandbox, asks: bool) -> Option<Vec<u8>> {
    let runs = |name: &str| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    let find = |name: &str| {
        let names = ["", "-22", "-19", "-16", "-15", "-14"].map(|version| format!("{name}{version}"));
        names.into_iter().find(|name| runs(name))
    };
    let (clang, lld) = (find("clang"), find("ld64.lld"));
    let required = std::env::var_os("KNAPSACK_REQUIRE_LLVM").is_some();
    assert!(!required || clang.is_some() && lld.is_some(), "no clang or no ld64.lld");
    let (clang, lld) = (clang?, lld?);
    sandbox.write(
        "app.c",
        if asks {
            "extern const unsigned char knapsack_model_table[];\nint main(void) { return knapsack_model_table[0]; }\n"
        } else {
            "int main(void) { return 0; }\n"
        },
    );
    sandbox.write(
        "libSystem.tbd",
        "--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-ios ]\ninstall-name: '/usr/lib/libSystem.B.dylib'\n\
         exports:\n  - targets: [ arm64-ios ]\n    symbols: [ dyld_stub_binder ]\n...\n",
    );
    tool(&clang, sandbox, &["-target", "arm64-apple-ios15.0", "-O1", "-c", "-o", "app.o", "app.c"]);
    let system = ["-arch", "arm64", "-platform_version", "ios", "15.0", "18.0", "libSystem.tbd"];
    let release = ["-dead_strip", "-S", "-x", "-exported_symbol", "_main"];
    let files = ["-o", "Chat", "app.o", "dist/lib/KnapsackModels.xcframework/ios-arm64/libKnapsackModels.a"];
    tool(&lld, sandbox, &[&system[..], &release, &files].concat());
    Some(fs::read(sandbox.path("Chat")).unwrap())
}

#[test]
fn hostile_archives_are_refused() {
    let sandbox = packaged("android", &json!({ "bundle_weight": true }));
    let right = apk(&sandbox);
    archive(&sandbox.path("app.apk"), &right);
    let bytes = fs::read(sandbox.path("app.apk")).unwrap();
    // Cut, and with each of many bytes changed: never a panic, never a success by accident that says nothing.
    for end in [4, 30, bytes.len() / 2, bytes.len() - 1] {
        fs::write(sandbox.path("cut.apk"), &bytes[..end]).unwrap();
        let outcome = sandbox.run(&["inspect", "cut.apk"]);
        assert_eq!(outcome.code, 2, "{outcome:?}");
    }
    let directory = bytes.len() - 22 - 2000;
    for at in (directory..bytes.len()).step_by(61) {
        let mut other = bytes.clone();
        other[at] ^= 0x7f;
        fs::write(sandbox.path("changed.apk"), &other).unwrap();
        let outcome = sandbox.run(&["inspect", "changed.apk"]);
        assert!((0..=2).contains(&outcome.code) && !outcome.stderr.contains("panicked"), "{at}: {outcome:?}");
    }
    // A file that unpacks to far more than it says.
    let bomb = changed(&right, |member| {
        if member.0.ends_with("mlc-app-config.json") {
            member.1 = vec![b' '; 64 << 20];
            member.2 = false;
        }
    });
    let outcome = inspect(&sandbox, "bomb.apk", &bomb);
    assert!(outcome.code > 0 && outcome.stderr.contains("more than"), "{outcome:?}");
    sandbox.write("text.zip", "PK\u{3}\u{4} and nothing else");
    sandbox.run(&["inspect", "text.zip"]).expect(2);
    archive(&sandbox.path("other.zip"), &[("readme.txt".into(), b"x".to_vec(), true, 1)]);
    assert!(sandbox.run(&["inspect", "other.zip"]).expect(2).stderr.contains("neither an APK"));
}

/// Programs of Debian's packages `aapt`, `zipalign`, `apksigner` and `android-framework-res`, and Java's `keytool`.
fn android_tools() -> Option<PathBuf> {
    let framework = PathBuf::from("/usr/share/android-framework-res/framework-res.apk");
    let runs = |(name, argument): (&str, &str)| Command::new(name).arg(argument).output().is_ok();
    let tools = [("aapt2", "version"), ("zipalign", "-h"), ("apksigner", "--version"), ("keytool", "-help")];
    let there = framework.is_file() && tools.into_iter().all(runs);
    assert!(there || std::env::var_os("KNAPSACK_REQUIRE_ANDROID_TOOLS").is_none(), "Android's tools are not installed");
    there.then_some(framework)
}

fn tool(name: &str, sandbox: &Sandbox, args: &[&str]) {
    let out = Command::new(name).args(args).current_dir(sandbox.folder.path()).output().unwrap();
    assert!(out.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&[out.stdout, out.stderr].concat()));
}

/// From the AAR to a signed APK with Android's own tools, as far as a machine without its compiler of classes gets.
#[test]
fn an_apk_that_android_tools_made_of_the_aar() {
    let Some(framework) = android_tools() else {
        eprintln!("skipped: aapt2, zipalign, apksigner or keytool is missing");
        return;
    };
    let sandbox = packaged("android", &json!({ "bundle_weight": true }));
    let aar = tree(&sandbox.path("dist/maven")).into_iter().find(|(name, _)| name.ends_with(".aar")).unwrap().1;
    let mut aar = zip::ZipArchive::new(File::open(aar).unwrap()).unwrap();
    for index in 0..aar.len() {
        let mut file = aar.by_index(index).unwrap();
        let path = sandbox.path("aar").join(file.name().unwrap().as_ref());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        fs::write(path, bytes).unwrap();
    }
    // This aapt2 is older than <uses-native-library>.
    sandbox.write(
        "AndroidManifest.xml",
        r#"<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="org.example.chat" android:versionCode="1">
            <uses-sdk android:minSdkVersion="26" android:targetSdkVersion="29"/><application android:hasCode="false"/></manifest>"#,
    );
    let framework = framework.to_str().unwrap();
    let link = [
        "link",
        "-o",
        "bare.apk",
        "--manifest",
        "AndroidManifest.xml",
        "-I",
        framework,
        "-A",
        "aar/assets",
        "-0",
        ".bin",
    ];
    tool("aapt2", &sandbox, &link);
    // As Gradle merges the folder jni of a library.
    knapsack_artifact::files::rename(sandbox.path("aar/jni"), sandbox.path("lib")).unwrap();
    for abi in Abi::ALL {
        let from = sandbox.path("lib").join(abi.name);
        fs::copy(from.join("libmodel_android.so"), from.join("libknapsack.so")).unwrap();
    }
    tool("zip", &sandbox, &["-q", "-r", "bare.apk", "lib"]);
    tool("zipalign", &sandbox, &["-f", "4", "bare.apk", "app.apk"]);
    let key = [
        "-genkeypair",
        "-keystore",
        "key.jks",
        "-storepass",
        "secret",
        "-alias",
        "a",
        "-dname",
        "CN=a",
        "-keyalg",
        "RSA",
    ];
    tool("keytool", &sandbox, &key);
    tool("apksigner", &sandbox, &["sign", "--ks", "key.jks", "--ks-pass", "pass:secret", "app.apk"]);
    tool("apksigner", &sandbox, &["verify", "--min-sdk-version", "26", "app.apk"]);
    sandbox.run(&["inspect", "app.apk"]).expect(0);
}
