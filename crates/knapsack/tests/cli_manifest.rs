//! `init`, `check`, `schema`, `doctor` and `completions` through the real program, in a folder and an environment of their own.

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use support::Sandbox;

const WRONG: &str = "{\n    // two mistakes\n    \"device\": \"ios\",\n    \"model_list\": [\n        { \"model\": \"HF://a/b\", \"model_id\": \"../b\" }\n    ]\n}\n";
const RIGHT: &str = "{ \"device\": \"iphone\", \"model_list\": [{ \"model\": \"HF://a/b\", \"model_id\": \"b\" }] }\n";

#[test]
fn init_writes_a_manifest_that_checks_and_is_never_overwritten() {
    for device in ["iphone", "android", "macabi"] {
        let sandbox = Sandbox::new();
        assert_eq!(sandbox.run(&["init", "--device", device, "--schema"]).code, 0);
        let schema = fs::read_to_string(sandbox.path("mlc-package-config.schema.json")).unwrap();
        assert_eq!(sandbox.run(&["schema"]).stdout, schema);
        let checked = sandbox.run(&["check"]);
        assert_eq!((checked.code, checked.stdout.as_str()), (0, ""), "{}", checked.stderr);
        // The optional parts are right too, once their comment signs go.
        let text = fs::read_to_string(sandbox.path("mlc-package-config.json")).unwrap();
        let uncommented: String = text
            .lines()
            .map(|line| match line.trim_start().strip_prefix("// \"") {
                Some(rest) => format!("\"{rest}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        sandbox.write("all.json", &uncommented);
        let all = sandbox.run(&["check", "-c", "all.json"]);
        assert_eq!(all.code, 0, "{}{uncommented}", all.stderr);
        let again = sandbox.run(&["init"]);
        assert_eq!(again.code, 2);
        assert_eq!(again.stderr, "error: mlc-package-config.json exists already and is left as it is\n");
        assert_eq!(fs::read_to_string(sandbox.path("mlc-package-config.json")).unwrap(), text);
    }
}

#[test]
fn init_takes_a_folder() {
    let sandbox = Sandbox::new();
    // Windows has no quotes in names.
    let model = if cfg!(windows) { "my 'model'" } else { "my \"model\"" };
    sandbox.write(&format!("{model}/config.json"), "{}");
    sandbox.write(&format!("{model}/model.safetensors"), "");
    assert_eq!(sandbox.run(&["init", "--model", model, "-c", "app.json"]).code, 0);
    let written = sandbox.read("app.json");
    assert!(!written.contains("http") && !written.contains("$schema"), "an address that nobody asked for: {written}");
    let checked = sandbox.run(&["check", "-c", "app.json"]);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    assert!(checked.stderr.contains("the checkpoint is converted to q4f16_1"), "{}", checked.stderr);
}

#[test]
fn check_shows_every_error_with_its_place() {
    let sandbox = Sandbox::new();
    sandbox.write("mlc-package-config.json", WRONG);
    let checked = sandbox.run(&["check"]);
    assert_eq!((checked.code, checked.stdout.as_str()), (2, ""));
    insta::assert_snapshot!(checked.stderr, @r#"
    error[unknown-device]: unknown device `ios`
     --> mlc-package-config.json:3:15
      |
    3 |     "device": "ios",
      |               ^^^^^ did you mean `iphone`?
      |
      = help: accepted are iphone, android, macabi

    error[bad-model-id]: `../b` can not be a model id: it has a path separator
     --> mlc-package-config.json:5:44
      |
    5 |         { "model": "HF://a/b", "model_id": "../b" }
      |                                            ^^^^^^
      |
      = help: the id becomes a folder name on every system: letters, digits, `.`, `_` and `-`, no leading or trailing dot

    error: 2 errors in the manifest
    "#);
    assert_eq!(sandbox.names(), ["mlc-package-config.json"]);
}

#[test]
fn check_speaks_json() {
    let sandbox = Sandbox::new();
    sandbox.write("mlc-package-config.json", WRONG);
    let checked = sandbox.run(&["check", "--message-format", "json"]);
    assert_eq!((checked.code, checked.stderr.as_str()), (2, ""));
    let lines = checked.json_lines();
    let places: Vec<_> = lines
        .iter()
        .map(|line| {
            assert_eq!((&line["reason"], &line["severity"]), (&"diagnostic".into(), &"error".into()));
            assert!(line["rendered"].as_str().unwrap().starts_with("error["));
            (
                line["code"].as_str().unwrap(),
                line["file"].as_str().unwrap(),
                line["line"].as_u64().unwrap(),
                line["column"].as_u64().unwrap(),
            )
        })
        .collect();
    let file = "mlc-package-config.json";
    assert_eq!(places, [("unknown-device", file, 3, 15), ("bad-model-id", file, 5, 44)]);

    sandbox.write("mlc-package-config.json", RIGHT);
    let checked = sandbox.run(&["check", "--message-format=json"]);
    let lines = checked.json_lines();
    assert_eq!((checked.code, lines.len()), (0, 1));
    assert_eq!(
        (&lines[0]["reason"], &lines[0]["device"], &lines[0]["models"][0]),
        (&"checked".into(), &"iphone".into(), &"b".into())
    );
}

#[test]
fn check_without_a_manifest() {
    let sandbox = Sandbox::new();
    let checked = sandbox.run(&["check"]);
    assert_eq!(checked.code, 2);
    assert!(
        checked.stderr.contains("can not read mlc-package-config.json: there is no such file"),
        "{}",
        checked.stderr
    );
}

#[test]
fn quiet_says_nothing_when_all_is_well() {
    let sandbox = Sandbox::new();
    sandbox.write("mlc-package-config.json", RIGHT);
    let checked = sandbox.run(&["check", "-q"]);
    assert_eq!((checked.code, checked.stdout.as_str(), checked.stderr.as_str()), (0, "", ""));
}

#[test]
fn colours_only_when_wanted() {
    let sandbox = Sandbox::new();
    sandbox.write("mlc-package-config.json", WRONG);
    let escape = '\u{1b}';
    assert!(!sandbox.run(&["check"]).stderr.contains(escape));
    assert!(sandbox.run(&["check", "--color", "always"]).stderr.contains(escape));
    assert!(!sandbox.run(&["check", "--color", "never"]).stderr.contains(escape));
    let forced = sandbox.knapsack().args(["check"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(String::from_utf8(forced.stderr).unwrap().contains(escape));
    let refused = sandbox.knapsack().args(["check"]).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
    assert!(!String::from_utf8(refused.stderr).unwrap().contains(escape));
}

#[test]
fn the_hub_of_the_environment_is_accepted() {
    let sandbox = Sandbox::new();
    sandbox.write("mlc-package-config.json", &RIGHT.replace("HF://a/b", "http://127.0.0.1:1/a/b"));
    assert_eq!(sandbox.run(&["check"]).code, 2);
    let output = sandbox.knapsack().args(["check"]).env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn schema_is_the_kept_one() {
    let kept =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/mlc-package-config.schema.json"));
    let printed = Sandbox::new().run(&["schema"]);
    assert_eq!((printed.code, printed.stdout), (0, kept.unwrap()));
}

#[test]
fn wrong_arguments_exit_with_2() {
    let sandbox = Sandbox::new();
    for args in
        [&[][..], &["chek"], &["check", "--nonsense"], &["check", "-q", "-v"], &["check", "--message-format", "xml"]]
    {
        let outcome = sandbox.run(args);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{args:?}");
        assert!(!outcome.stderr.is_empty(), "{args:?}");
    }
    assert!(sandbox.run(&["chek"]).stderr.contains("check"));
}

#[test]
fn help_and_version_exit_with_0() {
    let sandbox = Sandbox::new();
    let help = sandbox.run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("Examples:") && help.stdout.contains("Exit codes:"));
    let version = sandbox.run(&["--version"]);
    assert_eq!((version.code, version.stdout), (0, format!("knapsack {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let outcome = Sandbox::new().run(&["completions", shell]);
        assert_eq!(outcome.code, 0);
        assert!(outcome.stdout.contains("completions"), "{shell}");
    }
}

#[test]
fn doctor_requires_nothing() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    assert!(outcome.stdout.contains("packaging needs none"));
    let outcome = sandbox.run(&["doctor", "--json"]);
    let [line] = &outcome.json_lines()[..] else { panic!("{}", outcome.stdout) };
    for finding in line["findings"].as_array().unwrap() {
        assert_eq!(finding["found"].as_bool().unwrap(), finding["advice"].is_null(), "{finding}");
    }
}

/// `knapsack schema | head -0`: no panic, no message.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.knapsack().args(["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}
