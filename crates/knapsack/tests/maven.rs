//! The Maven repository of a package as Maven itself sees it.
#![cfg(unix)]

mod support;

use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::Sandbox;

/// Debian's repository of plugins (`libmaven-jar-plugin-java`), and the newest version of the one that resolves dependencies.
fn maven() -> Option<(&'static Path, String)> {
    let repository = Path::new("/usr/share/maven-repo");
    let versions = fs::read_dir(repository.join("org/apache/maven/plugins/maven-jar-plugin")).ok();
    let names = versions.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let newest = names.filter(|name| name.starts_with('3')).max();
    let runs = Command::new("mvn").arg("--version").output().is_ok_and(|out| out.status.success());
    let found = newest.filter(|_| runs).map(|version| (repository, version));
    assert!(
        found.is_some() || std::env::var_os("KNAPSACK_REQUIRE_MAVEN").is_none(),
        "Maven or its jar plugin is missing"
    );
    found
}

#[test]
fn maven_resolves_the_models_and_the_runtime() {
    let Some((repository, version)) = maven() else {
        eprintln!("skipped: no Maven with its jar plugin");
        return;
    };
    let sandbox = Sandbox::new();
    let entry = json!({ "model": knapsack_testkit::tiny_assistant(), "model_id": "tiny", "quantization": "q4f16_1", "bundle_weight": true });
    sandbox.write("mlc-package-config.json", &json!({ "device": "android", "model_list": [entry] }).to_string());
    // What `knapsack sdk build` writes, without what is in it.
    let own = env!("CARGO_PKG_VERSION");
    let runtime = format!("sdk/maven/ai/knapsack/runtime/{own}/runtime-{own}");
    sandbox.write(&format!("{runtime}.aar"), "the runtime");
    sandbox.write(
        &format!("{runtime}.pom"),
        &format!(
            "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion><groupId>ai.knapsack</groupId>\
             <artifactId>runtime</artifactId><version>{own}</version><packaging>aar</packaging></project>"
        ),
    );
    sandbox.run(&["package", "--no-sync", "--quiet", "--sdk", "sdk"]).expect(0);
    let url = format!("file://{}", sandbox.path("dist/maven").display());
    sandbox.write(
        "pom.xml",
        &format!(
            "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion><groupId>org.example</groupId>\
             <artifactId>app</artifactId><version>1</version><packaging>pom</packaging>\
             <repositories><repository><id>models</id><url>{url}</url></repository></repositories>\
             <dependencies><dependency><groupId>ai.knapsack</groupId><artifactId>models</artifactId><version>{own}</version>\
             <type>aar</type></dependency></dependencies></project>"
        ),
    );
    let local = sandbox.path("local");
    let copied = Command::new("cp").arg("-as").args([repository, &local]).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new("mvn");
    command.args(["--batch-mode", "--offline", "-Daether.offline.protocols=file"]);
    command.arg(format!("-Dmaven.repo.local={}", local.display())).current_dir(sandbox.folder.path());
    let out = command.arg(format!("org.apache.maven.plugins:maven-jar-plugin:{version}:jar")).output().unwrap();
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{told}");
    for name in ["models", "runtime"] {
        let file: PathBuf = format!("ai/knapsack/{name}/{own}/{name}-{own}.aar").into();
        let resolved = fs::read(local.join(&file)).unwrap_or_else(|error| panic!("{name}: {error}\n{told}"));
        assert_eq!(resolved, fs::read(sandbox.path("dist/maven").join(&file)).unwrap(), "{name}");
    }
}

/// The package's project file against Maven's own schema, <https://maven.apache.org/xsd/maven-4.0.0.xsd>, which `KNAPSACK_MAVEN_XSD` names.
#[test]
fn the_project_file_is_valid_by_mavens_schema() {
    let Some(schema) = std::env::var_os("KNAPSACK_MAVEN_XSD").map(PathBuf::from) else {
        eprintln!("skipped: KNAPSACK_MAVEN_XSD is not set");
        return;
    };
    let sandbox = Sandbox::new();
    let entry = json!({ "model": knapsack_testkit::tiny_assistant(), "model_id": "tiny", "quantization": "q4f16_1", "bundle_weight": true });
    sandbox.write("mlc-package-config.json", &json!({ "device": "android", "model_list": [entry] }).to_string());
    sandbox.run(&["package", "--no-sync", "--quiet"]).expect(0);
    let own = env!("CARGO_PKG_VERSION");
    let valid = |path: &Path| {
        let out =
            Command::new("xmllint").args(["--noout", "--nonet", "--schema"]).args([&schema, path]).output().unwrap();
        out.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let pom = sandbox.path(&format!("dist/maven/ai/knapsack/models/{own}/models-{own}.pom"));
    valid(&pom).unwrap();
    // The schema is one that would have told.
    let text = fs::read_to_string(&pom).unwrap();
    for (right, wrong) in [("packaging>", "packing>"), ("<scope>compile</scope>", "<scopes/>")] {
        assert!(text.contains(right), "{text}");
        sandbox.write("wrong.pom", &text.replace(right, wrong));
        assert!(valid(&sandbox.path("wrong.pom")).is_err(), "{wrong}");
    }
}
