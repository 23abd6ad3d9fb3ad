//! What the stores refuse of a manifest whose models have given sizes.

use knapsack_artifact::delivery::Store;
use knapsack_config::{Environment, Shipped, StoreLimits, load_text};
use std::path::Path;

const GB: u64 = 1_000_000_000;

/// What is found for models of an entry's keys, bytes, and bytes of the largest file, in an app that goes through the store of its
/// platform; each finding as its severity and first words.
fn found(device: &str, models: &[(&str, u64, u64)], libraries: Option<u64>) -> Vec<String> {
    let store = if device == "android" { Store::Play } else { Store::Apple };
    found_through(Some(store), device, models, libraries)
}

/// The same of an app that goes through `store`, or nobody knows.
fn found_through(
    store: Option<Store>,
    device: &str,
    models: &[(&str, u64, u64)],
    libraries: Option<u64>,
) -> Vec<String> {
    let entry = |(index, (keys, _, _)): (usize, &(&str, u64, u64))| {
        format!("{{ \"model\": \"HF://a/b\", \"model_id\": \"m{index}\", {keys} }}")
    };
    let list: Vec<String> = models.iter().enumerate().map(entry).collect();
    let text = format!("{{ \"device\": \"{device}\", \"model_list\": [{}] }}", list.join(",\n"));
    let environment = Environment::default();
    let loaded = load_text(Path::new("mlc-package-config.json"), &text, &environment).expect("a right manifest");
    let sizes = loaded.manifest.models.iter().zip(models);
    let shipped: Vec<_> = sizes
        .map(|(entry, (_, bytes, largest_file))| Shipped { entry, bytes: *bytes, largest_file: *largest_file })
        .collect();
    let findings = StoreLimits::built_in().check(&loaded.manifest, &shipped, libraries, store);
    for finding in &findings {
        assert!(finding.help.iter().any(|help| help.contains("--store none") && help.contains("2026")), "{finding:?}");
        assert!(finding.span.is_some());
    }
    findings.iter().map(|finding| format!("{}: {}", finding.severity, finding.message)).collect()
}

const BUNDLED: &str = "\"bundle_weight\": true";
const ON_DEMAND: &str = "\"asset_delivery\": \"play-on-demand\"";
const AT_INSTALL: &str = "\"asset_delivery\": \"play-install-time\"";

#[test]
fn the_base_module_of_google_play() {
    assert!(found("android", &[(BUNDLED, GB / 5, 1)], None).is_empty());
    let both = found("android", &[(BUNDLED, GB / 5, 1), (BUNDLED, 1, 1)], None);
    assert_eq!(both.len(), 1);
    assert!(
        both[0].starts_with("warning: the bundled weights take at least 200.0 MB, and 200.0 MB is what Google Play")
    );
    let large = found("android", &[(BUNDLED, 695_200_000, 1)], None);
    assert!(
        large[0].starts_with("error: the bundled weights take at least 695.2 MB, and 500.0 MB is what"),
        "{large:?}"
    );
    // The same size elsewhere is no matter.
    assert!(found("android", &[("\"bundle_weight\": false", 9 * GB, 1)], None).is_empty());
    assert!(found("iphone", &[(BUNDLED, 695_200_000, 1)], None).is_empty());
}

#[test]
fn packs_of_google_play() {
    assert!(found("android", &[(ON_DEMAND, 3 * GB, GB)], None).is_empty());
    let two =
        found("android", &[(ON_DEMAND, 3 * GB, GB), ("\"asset_delivery\": \"play-fast-follow\"", 2 * GB, GB)], None);
    assert!(
        two[0].starts_with("warning: the on-demand and fast-follow packs take at least 5.0 GB, and 4.0 GB"),
        "{two:?}"
    );
    assert!(found("android", &[(ON_DEMAND, 31 * GB, GB)], None)[0].starts_with("error: the on-demand"));
    let installed = found("android", &[(AT_INSTALL, 3_700_000_000, GB), (BUNDLED, 100_000_000, 1)], None);
    assert!(installed[0].starts_with("warning: what is there when the app is installed takes at least 3.8 GB"));
    let shard = found("android", &[(ON_DEMAND, 2 * GB, 2 * GB)], None);
    assert!(shard[0].starts_with("error: m0: its largest file has at least 2.0 GB, and 1.5 GB is what"), "{shard:?}");
    let many: Vec<_> = (0..51).map(|_| (AT_INSTALL, 1, 1)).collect();
    assert!(found("android", &many, None)[0].starts_with("warning: 51 packs, and a store takes 50"));
}

#[test]
fn an_apk_that_cannot_be_signed() {
    let both = found("android", &[(BUNDLED, 5 * GB, GB)], None);
    assert!(both.iter().any(|text| text.starts_with("error") && text.ends_with("an APK that can be signed may have")));
}

#[test]
fn the_app_store() {
    let pack = "\"asset_delivery\": \"apple-prefetch\"";
    assert!(found("iphone", &[(BUNDLED, 3 * GB, 1), (pack, 9 * GB, 9 * GB)], Some(GB / 10)).is_empty());
    assert!(found("iphone", &[(BUNDLED, 3_900_000_000, 1)], None)[0].starts_with("warning: the bundled weights"));
    assert!(found("iphone", &[(BUNDLED, 4_100_000_000, 1)], None)[0].starts_with("error: the bundled weights"));
    assert!(
        found("macabi", &[(pack, 201 * GB, 1)], None)[0].starts_with("error: the asset packs take at least 201.0 GB")
    );
    let many: Vec<_> = (0..101).map(|_| (pack, 1, 1)).collect();
    assert!(found("iphone", &many, None)[0].starts_with("error: 101 packs, and a store takes 100"));
    assert!(found("iphone", &[(pack, 1, 1)], Some(501_000_000))[0].starts_with("error: the compiled models take"));
}

#[test]
fn bundled_weights_say_nothing_of_a_store() {
    // MLCChat's manifest for Android bundles so much and is pushed over a cable, its manifest for iPhone is installed by Xcode.
    let android: &[_] = &[(BUNDLED, 4 * GB, GB), (BUNDLED, 3_600_000_000, GB)];
    let unstated = found_through(None, "android", android, None);
    assert_eq!(unstated.len(), 2, "{unstated:?}");
    assert!(
        unstated[0].starts_with("warning: the bundled weights take at least 7.6 GB, and 500.0 MB is what Google Play")
    );
    assert!(unstated[1].starts_with("warning: ") && unstated[1].ends_with("an APK that can be signed may have"));
    let stated = found_through(Some(Store::Play), "android", android, None);
    assert!(stated.len() == 2 && stated.iter().all(|text| text.starts_with("error: ")), "{stated:?}");

    let iphone: &[_] = &[(BUNDLED, 5_400_000_000, GB)];
    let unstated = found_through(None, "iphone", iphone, None);
    assert!(unstated[0].starts_with("warning: the bundled weights take at least 5.4 GB, and 4.0 GB is what"));
    assert!(found_through(Some(Store::Apple), "iphone", iphone, None)[0].starts_with("error: "));
    let executable = found_through(None, "iphone", &[(BUNDLED, 1, 1)], Some(501_000_000));
    assert!(executable[0].starts_with("warning: the compiled models take"), "{executable:?}");
}

#[test]
fn a_pack_of_a_store_says_that_the_app_goes_through_it() {
    let bundled = "\"asset_delivery\": \"bundled\"";
    assert!(found_through(None, "android", &[(bundled, GB, 1)], None)[0].starts_with("warning: the bundled"));
    let packed = found_through(None, "android", &[(bundled, GB, 1), (ON_DEMAND, 1, 1)], None);
    assert!(packed[0].starts_with("error: the bundled weights take at least 1.0 GB"), "{packed:?}");
    assert!(found_through(None, "android", &[(ON_DEMAND, 31 * GB, GB)], None)[0].starts_with("error: the on-demand"));
}
