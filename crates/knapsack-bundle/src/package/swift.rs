//! The Swift package of a package: what Xcode takes in one step. A binary target with the model table, a C target that names the table
//! (so that a linker keeps it), and a Swift target with the app config and the bundled weights.

use super::output::{Content, Output};
use super::{Runtime, VERSION};
use crate::objects::XCFRAMEWORK;

/// Its folder in the package.
const FOLDER: &str = "KnapsackModels";

/// Its files: those that are made here, and the framework and the bundle once more.
pub(super) fn outputs(others: &[Output], runtime: &Runtime) -> Vec<Output> {
    let text = |path: &str, text: String| Output::bytes(format!("{FOLDER}/{path}"), text.into_bytes());
    let mut outputs = vec![
        text("Package.swift", manifest(runtime)),
        text("Sources/CKnapsackModels/include/CKnapsackModels.h", HEADER.to_owned()),
        text("Sources/CKnapsackModels/table.c", TABLE.to_owned()),
        text("Sources/KnapsackModels/KnapsackModels.swift", SOURCE.to_owned()),
    ];
    for output in others {
        let path = match (output.path.strip_prefix("lib/"), output.path.strip_prefix("bundle/")) {
            (Some(path), _) if path.starts_with(XCFRAMEWORK) => format!("{FOLDER}/{path}"),
            (_, Some(path)) => format!("{FOLDER}/Sources/KnapsackModels/bundle/{path}"),
            _ => continue,
        };
        outputs.push(Output { path, same_as: Some(output.path.clone()), ..output.clone() });
    }
    debug_assert!(outputs.iter().all(|output| !matches!(output.content, Content::Zip(_))));
    outputs
}

fn manifest(runtime: &Runtime) -> String {
    let (dependency, package) = match runtime {
        // The identity of a package in a folder is the folder's name.
        Runtime::Folder { path, name } => (format!(".package(path: {})", quoted(path)), name.as_str()),
        Runtime::Repository(url) => {
            let name = url.trim_end_matches('/').rsplit('/').next().unwrap_or(url);
            (format!(".package(url: {}, from: \"{VERSION}\")", quoted(url)), name.trim_end_matches(".git"))
        }
        Runtime::Version | Runtime::Maven(_) => {
            (format!(".package(id: \"{REGISTRY}\", from: \"{VERSION}\")"), REGISTRY)
        }
    };
    format!(
        "// swift-tools-version: 6.0\n\
         // Written by knapsack: changes are lost with the next `knapsack package`.\n\
         import PackageDescription\n\n\
         let package = Package(\n    \
             name: \"{FOLDER}\",\n    \
             platforms: [.iOS(.v15), .macCatalyst(.v15), .macOS(.v12)],\n    \
             products: [.library(name: \"{FOLDER}\", targets: [\"{FOLDER}\"])],\n    \
             dependencies: [{dependency}],\n    \
             targets: [\n        \
                 .binaryTarget(name: \"KnapsackModelTable\", path: \"{XCFRAMEWORK}\"),\n        \
                 .target(\n            \
                     name: \"CKnapsackModels\",\n            \
                     dependencies: [.target(name: \"KnapsackModelTable\", condition: .when(platforms: [.iOS, .macCatalyst]))]),\n        \
                 .target(\n            \
                     name: \"{FOLDER}\",\n            \
                     dependencies: [\"CKnapsackModels\", .product(name: \"Knapsack\", package: {})],\n            \
                     resources: [.copy(\"bundle\")]),\n    \
             ],\n    \
             swiftLanguageModes: [.v6]\n\
         )\n",
        quoted(package)
    )
}

/// The runtime in a registry of Swift packages.
const REGISTRY: &str = "knapsack.Knapsack";

/// A string literal of Swift.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

const HEADER: &str = "\
#ifndef KNAPSACK_MODELS_H
#define KNAPSACK_MODELS_H

/* The address of the model table: an app that asks for it links it, and does not link without it. */
const void *knapsack_models_table(void);

#endif
";

const TABLE: &str = "\
#include \"CKnapsackModels.h\"

extern const unsigned char knapsack_model_table[];

const void *knapsack_models_table(void) { return knapsack_model_table; }
";

const SOURCE: &str = "\
import CKnapsackModels
import Foundation
import Knapsack

/// The models that this app ships.
public enum KnapsackModels {
    /// For `LocalModels(KnapsackModels.package)`.
    public static var package: ModelPackage {
        guard let table = knapsack_models_table() else { preconditionFailure(\"the model table is linked\") }
        return ModelPackage(bundle: Bundle.module.bundleURL.appendingPathComponent(\"bundle\", isDirectory: true), table: table)
    }
}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_is_named_by_folder_address_or_version() {
        let folder = Runtime::Folder { path: "../my \"sdk\"/swift".into(), name: "swift".into() };
        assert!(manifest(&folder).contains(r#"dependencies: [.package(path: "../my \"sdk\"/swift")],"#));
        assert!(manifest(&folder).contains(r#".product(name: "Knapsack", package: "swift")"#));
        let url = manifest(&Runtime::Repository("https://example.org/a/Knapsack.git".into()));
        assert!(url.contains(&format!(r#".package(url: "https://example.org/a/Knapsack.git", from: "{VERSION}")"#)));
        assert!(url.contains(r#"package: "Knapsack")"#));
        assert!(manifest(&Runtime::Version).contains(r#".package(id: "knapsack.Knapsack", from: ""#));
    }
}
