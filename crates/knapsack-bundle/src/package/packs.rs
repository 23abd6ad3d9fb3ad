//! Weights in packs that a store delivers: modules of a Gradle build for Google Play, folders with a manifest for Apple's tool.
//!
//! A model's files lie in each of its packs below `knapsack/<model_id>/`, so that a device finds them wherever packs are merged.

use super::output::Output;
use crate::error::BundleError;
use knapsack_artifact::app_config::AssetPacks;
use knapsack_artifact::delivery::{Delivery, PACKS, Store, pack_folder, pack_name};
use serde_json::json;

/// Puts a model's files (paths relative to its folder) into packs of at most `most` bytes each, and adds what makes them packs.
///
/// # Errors
/// A file that is larger than a pack.
pub(super) fn place(
    model_id: &str,
    delivery: Delivery,
    store: Store,
    files: Vec<Output>,
    most: u64,
) -> Result<(AssetPacks, Vec<Output>), BundleError> {
    let (name, folder) = (pack_name(model_id), pack_folder(model_id));
    // Apple's packs have no limit of their own.
    let most = if store == Store::Apple { u64::MAX } else { most };
    let (mut outputs, mut names, mut room) = (Vec::with_capacity(files.len()), Vec::new(), 0);
    for mut file in files {
        if file.size > most {
            return Err(BundleError::LargerThanPack { path: file.path, bytes: file.size, most });
        }
        if names.is_empty() || file.size > room {
            let number = names.len() + 1;
            names.push(if number == 1 { name.clone() } else { format!("{name}_{number}") });
            room = most;
        }
        room -= file.size;
        let pack = names.last().map(String::as_str).unwrap_or_default();
        file.path = format!("{}/{folder}/{}", content(store, pack), file.path);
        outputs.push(file);
    }
    for pack in &names {
        let (path, text) = match store {
            Store::Play => ("build.gradle.kts", gradle(pack, delivery)),
            Store::Apple => ("Manifest.json", manifest(pack, delivery)?),
        };
        outputs.push(Output::bytes(format!("{PACKS}/{}/{pack}/{path}", store.folder()), text.into_bytes()));
    }
    Ok((AssetPacks { delivery, names, folder }, outputs))
}

/// The folder of a pack that its content is relative to.
fn content(store: Store, pack: &str) -> String {
    let folder = format!("{PACKS}/{}/{pack}", store.folder());
    match store {
        Store::Play => format!("{folder}/src/main/assets"),
        Store::Apple => folder,
    }
}

/// The build file of an AI pack's module; see Google's "Play for On-device AI".
fn gradle(pack: &str, delivery: Delivery) -> String {
    let kind = delivery.name().trim_start_matches("play-");
    format!(
        "// Before the Android Gradle Plugin 8.8 this is the plugin `com.android.asset-pack`, and the block `assetPack`.\n\
         plugins {{\n    id(\"com.android.ai-pack\")\n}}\n\n\
         aiPack {{\n    packName.set(\"{pack}\")\n    dynamicDelivery {{\n        deliveryType.set(\"{kind}\")\n    }}\n}}\n"
    )
}

/// The manifest of a managed asset pack; see Apple's "Creating managed asset packs". `ba-package` runs in the pack's folder.
fn manifest(pack: &str, delivery: Delivery) -> Result<String, BundleError> {
    let at_install = json!({ "installationEventTypes": ["firstInstallation", "subsequentUpdate"] });
    let policy = match delivery {
        Delivery::AppleEssential => json!({ "essential": at_install }),
        Delivery::ApplePrefetch => json!({ "prefetch": at_install }),
        _ => json!({ "onDemand": {} }),
    };
    let value = json!({
        "assetPackID": pack,
        "downloadPolicy": policy,
        "fileSelectors": [{ "directory": "knapsack" }],
        "platforms": ["iOS", "macOS"],
    });
    let wrong = |error: serde_json::Error| BundleError::Object { format: "Manifest.json", problem: error.to_string() };
    Ok(serde_json::to_string_pretty(&value).map_err(wrong)? + "\n")
}

/// The lines of `settings.gradle.kts` that make modules of the packs of Google Play.
pub(super) fn settings(packs: &[String]) -> Output {
    let mut text = "// In the app's settings.gradle.kts: apply(from = \"<this folder>/packs.settings.gradle.kts\")\n\
                    // In its build.gradle.kts: android { assetPacks += listOf("
        .to_owned();
    text.push_str(&packs.iter().map(|pack| format!("\":{pack}\"")).collect::<Vec<_>>().join(", "));
    text.push_str(") }\n");
    for pack in packs {
        text.push_str(&format!("include(\":{pack}\")\nproject(\":{pack}\").projectDir = file(\"{pack}\")\n"));
    }
    Output::bytes(format!("{PACKS}/{}/packs.settings.gradle.kts", Store::Play.folder()), text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(sizes: &[usize]) -> Vec<Output> {
        let file = |(index, size): (usize, &usize)| Output::bytes(format!("f{index}"), vec![0; *size]);
        sizes.iter().enumerate().map(file).collect()
    }

    #[test]
    fn packs_are_filled_in_order_below_the_limit() {
        let split = |sizes: &[usize]| {
            let (packs, outputs) = place("M-1", Delivery::PlayOnDemand, Store::Play, files(sizes), 10).unwrap();
            let of = |name: &str| {
                let within = format!("{PACKS}/play/{name}/src/main/assets/knapsack/M-1/");
                let sizes = outputs.iter().filter(|output| output.path.starts_with(&within)).map(|output| output.size);
                sizes.collect::<Vec<_>>()
            };
            packs.names.iter().map(|name| of(name)).collect::<Vec<_>>()
        };
        assert_eq!(split(&[4, 6, 1]), [vec![4, 6], vec![1]]);
        assert_eq!(split(&[10, 10]), [[10], [10]]);
        assert_eq!(split(&[0, 0]), [[0, 0]]);
        let error = place("m", Delivery::PlayOnDemand, Store::Play, files(&[3, 11]), 10).unwrap_err();
        assert!(matches!(&error, BundleError::LargerThanPack { path, bytes: 11, most: 10 } if path == "f1"), "{error}");
        let (packs, _) = place("m", Delivery::AppleEssential, Store::Apple, files(&[11]), 10).unwrap();
        assert_eq!((packs.names, packs.folder), (vec!["m".to_owned()], "knapsack/m".to_owned()));
    }
}
