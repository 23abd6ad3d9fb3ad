//! An xcframework: a folder for each slice and an Info.plist that says which slice is for what.

use super::{Library, archive};
use crate::error::BundleError;
use knapsack_artifact::device::AppleSlice;
use serde::Serialize;

/// Its folder in `dist/lib/`.
pub const XCFRAMEWORK: &str = "KnapsackModels.xcframework";
const ARCHIVE: &str = "libKnapsackModels.a";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    available_libraries: Vec<Available>,
    #[serde(rename = "CFBundlePackageType")]
    package_type: &'static str,
    #[serde(rename = "XCFrameworkFormatVersion")]
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Available {
    binary_path: &'static str,
    library_identifier: String,
    library_path: &'static str,
    supported_architectures: Vec<&'static str>,
    supported_platform: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    supported_platform_variant: Option<&'static str>,
}

/// The folder that Xcode would name so.
fn identifier(slice: AppleSlice) -> String {
    let architectures: Vec<&str> = slice.architectures.iter().map(|architecture| architecture.name()).collect();
    let variant = slice.variant.map(|variant| format!("-{variant}")).unwrap_or_default();
    format!("ios-{}{variant}", architectures.join("_"))
}

/// A file of the framework: its path below [`XCFRAMEWORK`], and its slice, or `None` for Info.plist.
pub(crate) fn members(slices: &[AppleSlice]) -> Vec<(String, Option<AppleSlice>)> {
    let archives = slices.iter().map(|&slice| (format!("{}/{ARCHIVE}", identifier(slice)), Some(slice)));
    std::iter::once(("Info.plist".to_string(), None)).chain(archives).collect()
}

/// The Info.plist of a framework of these slices.
///
/// # Errors
/// When the plist writer fails, which it has no reason to.
pub(crate) fn info_plist(slices: &[AppleSlice]) -> Result<Vec<u8>, BundleError> {
    let info = Info {
        available_libraries: slices
            .iter()
            .map(|&slice| Available {
                binary_path: ARCHIVE,
                library_identifier: identifier(slice),
                library_path: ARCHIVE,
                supported_architectures: slice.architectures.iter().map(|architecture| architecture.name()).collect(),
                supported_platform: "ios",
                supported_platform_variant: slice.variant,
            })
            .collect(),
        package_type: "XFWK",
        version: "1.0",
    };
    let mut text = Vec::new();
    plist::to_writer_xml(&mut text, &info)
        .map_err(|error| BundleError::Object { format: "Info.plist", problem: error.to_string() })?;
    text.push(b'\n');
    Ok(text)
}

/// Every file of the framework with its path below [`XCFRAMEWORK`].
///
/// # Errors
/// As [`archive`].
pub fn xcframework(slices: &[AppleSlice], libraries: &[Library]) -> Result<Vec<(String, Vec<u8>)>, BundleError> {
    let contents = |slice: Option<AppleSlice>| match slice {
        Some(slice) => archive(slice, libraries),
        None => info_plist(slices),
    };
    members(slices).into_iter().map(|(path, slice)| Ok((path, contents(slice)?))).collect()
}
