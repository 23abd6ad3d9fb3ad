//! `--adb` with a stand-in for Android's `adb`: a folder is the phone, and its shell is this machine's. What runs there is this machine's
//! `knapsack`, which takes the words that the runner takes. `cargo xtask android` runs these tests with the program that it built for Android
//! (`KNAPSACK_TEST_RUNNER`) and an emulator of the processor (`KNAPSACK_TEST_EMULATOR`, a program that takes a command).
#![cfg(unix)]

mod support;

use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use support::{Sandbox, outcome};

const ADB: &str = r#"#!/bin/sh
# adb devices | adb -s SERIAL shell COMMAND | push FROM TO | pull FROM TO
echo "$@" >> "$PHONE/../adb.log"
[ "$1" = devices ] && { printf 'List of devices attached\n'; cat "$PHONE/../devices"; exit 0; }
[ "$2" = emulator-1 ] || { echo "device '$2' not found" >&2; exit 1; }
shift 2
here() { echo "$1" | sed "s#/data/local/tmp#$PHONE#g"; }
# The shell's command with its program under the emulator, where there is one.
emulated() { [ -z "$EMULATOR" ] && echo "$1" || echo "$1" | sed "s#'./knapsack'#\"\$EMULATOR\" ./knapsack#"; }
case "$1" in
    shell) PATH="$PHONE/../bin:$PATH" exec sh -c "$(emulated "$(here "$2")")" ;;
    push) exec cp "$2" "$(here "$3")" ;;
    pull) exec cp "$(here "$2")" "$3" ;;
esac
exit 1
"#;

struct Cable {
    sandbox: Sandbox,
}

/// What runs on the phone.
fn runner() -> PathBuf {
    std::env::var_os("KNAPSACK_TEST_RUNNER").unwrap_or_else(|| env!("CARGO_BIN_EXE_knapsack").into()).into()
}

fn emulator() -> Option<PathBuf> {
    std::env::var_os("KNAPSACK_TEST_EMULATOR").map(PathBuf::from)
}

impl Cable {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let entry = json!({
            "model": knapsack_testkit::tiny_assistant(), "model_id": "tiny", "quantization": "q4f16_1", "bundle_weight": true,
        });
        sandbox.write("mlc-package-config.json", &json!({ "device": "android", "model_list": [entry] }).to_string());
        sandbox.run(&["package", "--no-sync", "--quiet"]).expect(0);
        sandbox.write("adb", ADB);
        sandbox.write("devices", "emulator-1\tdevice\n");
        sandbox.write("bin/getprop", "#!/bin/sh\ncase $1 in ro.product.model) echo Stand-in;; *) echo none;; esac\n");
        for program in ["adb", "bin/getprop"] {
            std::fs::set_permissions(sandbox.path(program), PermissionsExt::from_mode(0o755)).unwrap();
        }
        std::fs::create_dir(sandbox.path("phone")).unwrap();
        Cable { sandbox }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.knapsack();
        command.env("KNAPSACK_ADB", self.sandbox.path("adb")).env("PHONE", self.sandbox.path("phone"));
        command.env("EMULATOR", emulator().unwrap_or_default());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).args(args);
        command
    }

    fn bench(&self, more: &[&str]) -> support::Outcome {
        let common = ["bench", "dist", "--prefill-tokens", "8", "--decode-tokens", "2", "--repeat", "1"];
        outcome(self.command(&common).arg("--runner").arg(runner()).args(more))
    }

    fn pushed(&self) -> usize {
        let log = std::fs::read_to_string(self.sandbox.path("adb.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(" push ")).count()
    }
}

#[test]
fn a_phone_is_measured_and_held_against_this_machine() {
    let cable = Cable::new();
    let first = cable.bench(&["--adb", "--json", "--report", "phone.json"]).expect(0);
    let value: Value = serde_json::from_str(first.stdout.lines().last().unwrap()).unwrap();
    let cpu = &value["runs"][0];
    assert_eq!((&value["phone"]["model"], &cpu["device"]), (&json!("Stand-in"), &json!("cpu")));
    assert!(cpu["figures"]["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!((&cpu["logits"]["same"], &cpu["logits"]["of"]), (&json!(8), &json!(8)));
    // Attention takes float16 as it is there, and one bit in activations of eight bits is 0.4 %.
    assert!(cpu["logits"]["relative"].as_f64().unwrap() < 1e-2, "{cpu}");
    let kept: Value = serde_json::from_str(&cable.sandbox.read("phone.json")).unwrap();
    assert_eq!((&kept["format"], &kept["runs"]), (&json!("knapsack-phone-report"), &value["runs"]));
    // What a phone said stands beside what is planned.
    let memory = cable.sandbox.run(&["memory", "--offline", "--measured", "."]).expect(2);
    assert!(memory.stderr.contains("is no report of a phone"), "{memory:?}");
    std::fs::create_dir(cable.sandbox.path("phones")).unwrap();
    std::fs::copy(cable.sandbox.path("phone.json"), cable.sandbox.path("phones/a.json")).unwrap();
    let memory = cable.sandbox.run(&["memory", "--offline", "--measured", "phones"]).expect(0);
    assert!(memory.stdout.contains("measured on") && memory.stdout.contains("none Stand-in"), "{memory:?}");
    // The second time nothing moves; a changed file does, and what is no longer wanted goes.
    let moved = cable.pushed();
    assert!(moved > 4);
    std::fs::write(cable.sandbox.path("phone/knapsack/package/bundle/tiny/tokenizer.json"), "x").unwrap();
    std::fs::write(cable.sandbox.path("phone/knapsack/left over"), "x").unwrap();
    let second = cable.bench(&["--adb", "emulator-1"]).expect(0);
    assert!(second.stdout.contains("most likely tokens are the same"), "{second:?}");
    assert_eq!(cable.pushed(), moved + 1);
    assert!(!cable.sandbox.path("phone/knapsack/left over").exists());
}

/// The runner is found where `knapsack sdk build` writes it.
#[test]
fn logits_of_a_phone_are_brought_here() {
    let cable = Cable::new();
    std::fs::create_dir(cable.sandbox.path("sdk-dist")).unwrap();
    symlink(runner(), cable.sandbox.path("sdk-dist/knapsack-android-arm64")).unwrap();
    let args = ["logits", "dist", "--tokens", "1,2,3", "-o", "phone.safetensors", "--adb"];
    outcome(&mut cable.command(&args)).expect(0);
    let here = |device: &str| {
        let args = ["logits", "dist", "--tokens", "1,2,3", "-o", "host.safetensors", "--device", device];
        outcome(&mut cable.command(&args)).expect(0);
        std::fs::read(cable.sandbox.path("host.safetensors")).unwrap()
    };
    let phone = std::fs::read(cable.sandbox.path("phone.safetensors")).unwrap();
    let host = here("cpu");
    if emulator().is_none() {
        assert_eq!(phone, host);
        return;
    }
    // Another processor has other routines: both are close to what each number is by definition.
    let exact = here("cpu-reference");
    let start = 8 + usize::try_from(u64::from_le_bytes(*host.first_chunk().unwrap())).unwrap();
    let numbers = |file: &[u8]| -> Vec<f64> {
        file[start..].as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four).into()).collect()
    };
    let exact = numbers(&exact);
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let apart = [&phone, &host].map(|file| {
        let found = numbers(file);
        assert_eq!(found.len(), exact.len());
        (square(&mut found.iter().zip(&exact).map(|(a, b)| a - b)) / square(&mut exact.iter().copied())).sqrt()
    });
    assert!(phone != host && apart.iter().all(|apart| *apart < 0.03), "{apart:?}");
    println!("apart from the definition: phone {:.4}, host {:.4}", apart[0], apart[1]);
}

#[test]
fn what_is_missing_is_said() {
    let cable = Cable::new();
    for (devices, code, expected) in [
        ("", 1, "there is no phone"),
        ("emulator-1\tunauthorized\n", 1, "allow USB debugging"),
        ("a\tdevice\nb\tdevice\n", 2, "name one with --adb SERIAL"),
    ] {
        cable.sandbox.write("devices", devices);
        let told = cable.bench(&["--adb"]).expect(code).stderr;
        assert!(told.contains(expected), "{told}");
    }
    assert!(cable.bench(&["--adb", "other"]).expect(1).stderr.contains("there is no phone other"));
    let none = outcome(&mut cable.command(&["bench", "dist", "--adb"])).expect(2);
    for place in ["--runner", "knapsack sdk build --target android", "sdk-dist"] {
        assert!(none.stderr.contains(place), "{place}: {none:?}");
    }
    cable.sandbox.write("devices", "emulator-1\tdevice\n");
    let told = outcome(&mut cable.command(&["bench", "examples", "--adb", "--runner", "adb"])).expect(2).stderr;
    assert!(told.contains("is not a package"), "{told}");
}
