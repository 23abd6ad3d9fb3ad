//! `knapsack report`: what the page says, and how a browser shows it.

mod support;

use serde_json::json;
use std::path::PathBuf;
use std::process::Command;
use support::Sandbox;

fn packaged(id: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let entry = json!({
        "model": knapsack_testkit::tiny_assistant(), "model_id": id, "quantization": "q4f16_1", "bundle_weight": true,
        "app": { "license": "Apache-2.0 <or> MIT" },
    });
    sandbox.write("mlc-package-config.json", &json!({ "device": "iphone", "model_list": [entry] }).to_string());
    sandbox.run(&["package", "--no-sync", "--quiet"]).expect(0);
    sandbox
}

#[test]
fn the_page_says_everything_and_needs_nothing() {
    let sandbox = packaged("tiny");
    let lines = sandbox.run(&["report", "dist", "--message-format", "json"]).expect(0).json_lines();
    assert_eq!((&lines[0]["reason"], &lines[0]["output"]), (&json!("report"), &json!("report.html")));
    let page = sandbox.read("report.html");
    for heading in ["Sizes", "Memory", "Phones", "Stores", "Provenance", "Kernels"] {
        assert!(page.contains(&format!(">{heading}</h2>")), "{heading}");
    }
    for expected in [
        "Apache-2.0 &lt;or&gt; MIT",
        "iPhone 13",
        "compiled models, of __TEXT",
        "prefers-color-scheme: dark",
        "lang=\"en\"",
        "Skip to the content",
        "<caption>",
        "scope=\"col\"",
        "role=\"img\" aria-label=\"",
        "Content-Security-Policy",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
    let config = sandbox.read("dist/bundle/mlc-app-config.json");
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    for file in config["model_list"][0]["files"].as_array().unwrap() {
        assert!(page.contains(file["sha256"].as_str().unwrap()));
    }
    // Nothing is loaded from anywhere: no script, no address but those of models in links.
    for foreign in ["<script", "<link", "src=", "@import", "url(", "http://", "<iframe"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    sandbox.run(&["report", "dist", "-o", "again.html"]).expect(0);
    assert_eq!(sandbox.read("again.html"), page, "the same package gives another page");
    assert!(sandbox.run(&["report", "nothing"]).expect(2).stderr.contains("is not a package"));
}

/// Debian's `chromium-headless-shell`, or another name that it goes by.
fn browser() -> Option<&'static str> {
    let names = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
    let found = names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok());
    assert!(found.is_some() || std::env::var_os("KNAPSACK_REQUIRE_BROWSER").is_none(), "no Chromium is installed");
    found
}

/// A browser shows it in both modes, on a wide and on a narrow screen. `KNAPSACK_SCREENSHOTS` keeps the pictures.
#[test]
fn a_browser_shows_the_page() {
    let Some(browser) = browser() else {
        eprintln!("skipped: no Chromium");
        return;
    };
    let sandbox = packaged("tiny");
    sandbox.run(&["report", "dist"]).expect(0);
    let kept = std::env::var_os("KNAPSACK_SCREENSHOTS").map(PathBuf::from);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(browser);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]);
        command.arg(format!("--user-data-dir={}", sandbox.path("profile").display())).args(arguments);
        let out = command.arg(format!("file://{}", sandbox.path("report.html").display())).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    // What the browser made of it is what was written: nothing was dropped or moved.
    let dom = run(&["--dump-dom"]);
    assert_eq!(dom.matches("<h2").count(), 6);
    assert_eq!(dom.matches("<svg").count(), sandbox.read("report.html").matches("<svg").count());
    let mut sizes = Vec::new();
    for (name, width, dark) in [("light", 1200, false), ("dark", 1200, true), ("narrow", 420, false)] {
        let path = kept.clone().unwrap_or_else(|| sandbox.path("")).join(format!("report-{name}.png"));
        let mut arguments = vec![format!("--window-size={width},2400"), format!("--screenshot={}", path.display())];
        if dark {
            arguments.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let picture = std::fs::read(&path).unwrap();
        assert!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000, "{name}: {} bytes", picture.len());
        sizes.push(picture);
    }
    assert_ne!(sizes[0], sizes[1], "light and dark look the same");
}
