//! What the program does with GPUs: models run on OpenCL, and Metal kernels compiled ahead where there is an `xcrun`.

mod support;

use knapsack_testkit::{mlc_fixture, tiny_assistant};
use serde_json::json;
use support::{Sandbox, succeed};

/// The OpenCL device that `doctor` found; the tests below say aloud that they skip where there is none, and fail where one is
/// required.
fn opencl(sandbox: &Sandbox) -> Option<String> {
    let report = sandbox.run(&["doctor", "--json"]).expect(0).json();
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["tool"] == "OpenCL").unwrap_or_else(|| panic!("{report:#}"));
    if finding["found"] == true {
        return Some(finding.to_string());
    }
    let required = std::env::var_os("KNAPSACK_REQUIRE_OPENCL").is_some_and(|value| value == "1");
    assert!(!required, "KNAPSACK_REQUIRE_OPENCL=1, but doctor says {finding}");
    eprintln!("SKIPPED: no OpenCL: {finding}");
    None
}

#[test]
fn doctor_names_the_device_and_run_uses_it() {
    let sandbox = Sandbox::new();
    let Some(finding) = opencl(&sandbox) else { return };
    eprintln!("{finding}");
    let model = tiny_assistant();
    let run = || {
        let mut command = sandbox.knapsack();
        command.arg("run").arg(&model).args(["--device", "opencl", "--prompt", "What is 37 plus 48?"]);
        // PoCL starts a linker.
        succeed(command.env("PATH", std::env::var_os("PATH").unwrap()))
    };
    assert_eq!(run(), "37 plus 48 is 85.\n");
    let programs = || {
        let entries = std::fs::read_dir(sandbox.path("cache/opencl-v1")).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap())).collect::<Vec<_>>()
    };
    let kept = programs();
    assert_eq!(kept.len(), 1);
    assert_eq!(run(), "37 plus 48 is 85.\n");
    assert_eq!(programs(), kept, "the second run takes the program that the first one built");
}

#[cfg(unix)]
mod xcrun {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use support::outcome;

    /// An `xcrun` that logs its arguments and runs `body` where it is to compile, with the output file in `$out`.
    fn write(sandbox: &Sandbox, body: &str) {
        let log = sandbox.path("log");
        sandbox.write(
            "bin/xcrun",
            &format!(
                "#!/bin/sh\necho \"$*\" >> '{}'\nfor word; do case \"$word\" in *.metallib) out=\"$word\";; esac; done\n\
                 case \"$*\" in *-find*) exit 0;; *--version) echo 'metal 1'; exit 0;; esac\n{body}\n",
                log.display()
            ),
        );
        std::fs::set_permissions(sandbox.path("bin/xcrun"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Exit code and everything that was said.
    fn package(sandbox: &Sandbox) -> (i32, String) {
        let path = std::env::join_paths([sandbox.path("bin"), "/bin".into(), "/usr/bin".into()]).unwrap();
        let outcome = outcome(sandbox.knapsack().arg("package").env("PATH", path));
        (outcome.code, outcome.stdout + &outcome.stderr)
    }

    /// Both in one test: a file that is open for writing cannot be executed, and a child that another test starts meanwhile
    /// would hold it open.
    #[test]
    fn package_compiles_metal_kernels_ahead() {
        let sandbox = Sandbox::new();
        let model = json!({ "model": mlc_fixture("llama", "q4f16_1"), "model_id": "llama", "bundle_weight": true });
        sandbox.write("mlc-package-config.json", &json!({ "device": "iphone", "model_list": [model] }).to_string());
        write(&sandbox, "echo 'kernels.metal:7: error: no' >&2; exit 1");
        let (code, said) = package(&sandbox);
        assert!(code == 1 && said.contains("kernels.metal:7: error: no"), "{code}: {said}");
        assert!(!sandbox.path("dist").exists());

        write(&sandbox, "printf 'MTLB made for %s' \"$2\" > \"$out\"");
        let (code, said) = package(&sandbox);
        assert_eq!(code, 0, "{said}");
        let archive = std::fs::read(sandbox.path("dist/lib/libmodel_iphone.a")).unwrap();
        for platform in ["iphoneos", "iphonesimulator", "macosx"] {
            let text = format!("-sdk {platform} metal -target air64-apple-ios");
            assert!(sandbox.read("log").contains(&text), "{text}");
            // In hexadecimal in the library.
            let compiled: String = format!("MTLB made for {platform}").bytes().map(|b| format!("{b:02x}")).collect();
            assert!(archive.windows(compiled.len()).any(|window| window == compiled.as_bytes()), "{platform}");
        }
        // For Android nothing of it is asked.
        let asked = sandbox.read("log");
        let manifest = sandbox.read("mlc-package-config.json").replace("\"iphone\"", "\"android\"");
        sandbox.write("mlc-package-config.json", &manifest);
        let (code, said) = package(&sandbox);
        assert_eq!(code, 0, "{said}");
        assert_eq!(sandbox.read("log"), asked);
    }
}
