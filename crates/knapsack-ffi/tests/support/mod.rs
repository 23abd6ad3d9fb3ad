//! A package of the tiny assistant, with its weights in it and with its weights on a hub on loopback.

use knapsack_bundle::{Cache, LinkMode};
use knapsack_config::Environment;
use knapsack_package::{Destination, Outcome, Packager, Silent};
use knapsack_source::{LockPolicy, Settings};
use knapsack_testkit::hub::{HubRepository, HubServer};
use std::path::{Path, PathBuf};

/// The model of the package.
pub(crate) const MODEL: &str = "tiny-assistant-q4f16_0";

/// The model with tools and thoughts.
pub(crate) const TOOLS_MODEL: &str = "tools";

/// A template that takes tools as Hermes' does, and begins thoughts where it is told to.
const TOOLS_TEMPLATE: &str = concat!(
    "{{ bos_token }}{% if tools %}{{ '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool.function.name + '\\n' }}{% endfor %}",
    "{{ '<tool_call><|im_end|>\\n' }}{% endif %}",
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + (message.content or '') }}",
    "{% for call in message.tool_calls or [] %}{{ '<tool_call>\\n{\"name\": ' + call.function.name | tojson + ', \"arguments\": ' ",
    "+ call.function.arguments | tojson + '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}",
    "{% if enable_thinking is defined and enable_thinking %}{{ '<think>\\n' }}{% endif %}{% endif %}{# </think> #}"
);

/// Packaged models.
pub(crate) struct World {
    /// With the weights.
    pub(crate) bundle: PathBuf,
    /// Without them: they are on the hub.
    pub(crate) remote: PathBuf,
    /// The model table.
    pub(crate) library: PathBuf,
    /// The same model with a template that takes tools and thinks.
    pub(crate) tools_bundle: PathBuf,
    /// Its model table.
    pub(crate) tools_library: PathBuf,
    /// Misbehaves on demand.
    pub(crate) hub: HubServer,
}

/// Packages the example for Android: its library is data only, so this machine's loader takes it too.
///
/// # Panics
/// When it cannot be packaged.
pub(crate) fn world(folder: &Path) -> World {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let manifest = examples.join("tiny-assistant-android/mlc-package-config.json");
    let dist = package(folder, &manifest, "dist");
    let tools = package(folder, &with_tools(folder), "tools-dist");
    let bundle = dist.join("bundle");
    let hub = HubServer::start();
    hub.push("knapsack/tiny", HubRepository::of_folder(&bundle.join(MODEL)));
    let remote = folder.join("remote");
    std::fs::create_dir_all(&remote).unwrap();
    let config = std::fs::read_to_string(bundle.join("mlc-app-config.json")).unwrap();
    let (here, there) =
        (format!("\"model_path\": \"{MODEL}\""), format!("\"model_url\": \"{}/knapsack/tiny\"", hub.url()));
    assert!(config.contains(&here), "{config}");
    std::fs::write(remote.join("mlc-app-config.json"), config.replace(&here, &there)).unwrap();
    let abi = if cfg!(target_arch = "aarch64") { "arm64-v8a" } else { "x86_64" };
    let [library, tools_library] = [&dist, &tools].map(|dist| dist.join("lib").join(abi).join("libmodel_android.so"));
    World { bundle, remote, library, tools_bundle: tools.join("bundle"), tools_library, hub }
}

/// A manifest of the tiny assistant with another template.
fn with_tools(folder: &Path) -> PathBuf {
    let model = folder.join("with-tools");
    std::fs::create_dir_all(&model).unwrap();
    for entry in std::fs::read_dir(knapsack_testkit::tiny_assistant()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let config = model.join("tokenizer_config.json");
    let mut tokens: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    tokens["chat_template"] = TOOLS_TEMPLATE.into();
    std::fs::write(&config, tokens.to_string()).unwrap();
    let entry = serde_json::json!({ "model": model, "model_id": TOOLS_MODEL, "quantization": "q4f16_1", "bundle_weight": true });
    let manifest = folder.join("tools.json");
    std::fs::write(&manifest, serde_json::json!({ "device": "android", "model_list": [entry] }).to_string()).unwrap();
    manifest
}

/// Packages what a manifest says; the folder.
fn package(folder: &Path, manifest: &Path, name: &str) -> PathBuf {
    let dist = folder.join(name);
    let manifest = knapsack_config::load(manifest, &Environment::default()).expect("a manifest").manifest;
    let settings = Settings::new("http://127.0.0.1:9", folder.join("hub"), folder.join("cache"));
    let packager = Packager::new(Cache::at(folder.join("cache")), settings, None, &Silent);
    let found = product(packager.find(&manifest, &LockPolicy::default()).expect("found")).models;
    let planned = product(packager.plan(&manifest, found, false));
    let built = product(packager.build(&manifest, planned).expect("built"));
    let ready = product(packager.make_ready(built).expect("ready"));
    let destination = Destination {
        folder: &dist,
        link_mode: LinkMode::Copy,
        sync: false,
        date: None,
        runtime: &knapsack_bundle::Runtime::Version,
    };
    product(packager.bundle(&manifest, &ready, destination).expect("bundled"));
    dist
}

fn product<T>(outcome: Outcome<T>) -> T {
    outcome.product.unwrap_or_else(|| panic!("{:#?}", outcome.findings))
}
