//! A package of the tiny assistant, with its weights in it and with its weights on a hub on loopback.

use knapsack_bundle::{Cache, LinkMode};
use knapsack_config::Environment;
use knapsack_package::{Destination, Outcome, Packager, Silent};
use knapsack_source::{LockPolicy, Settings};
use knapsack_testkit::hub::{HubRepository, HubServer};
use std::path::{Path, PathBuf};

/// The model of the package.
pub(crate) const MODEL: &str = "tiny-assistant-q4f16_0";

/// A packaged model.
pub(crate) struct World {
    /// With the weights.
    pub(crate) bundle: PathBuf,
    /// Without them: they are on the hub.
    pub(crate) remote: PathBuf,
    /// The model table.
    pub(crate) library: PathBuf,
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
    let dist = folder.join("dist");
    let manifest = knapsack_config::load(&manifest, &Environment::default()).expect("the example").manifest;
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
        runtime: &knapsack_bundle::Runtime::Version,
    };
    packager.bundle(&manifest, &ready, destination).expect("bundled");

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
    World { bundle, remote, library: dist.join("lib").join(abi).join("libmodel_android.so"), hub }
}

fn product<T>(outcome: Outcome<T>) -> T {
    outcome.product.unwrap_or_else(|| panic!("{:#?}", outcome.findings))
}
