//! An xcframework: a folder for each slice and an Info.plist that says which slice is for what.

use super::{Library, archive};
use crate::error::BundleError;
use knapsack_artifact::device::{AppleSlice, Architecture};
use serde::Serialize;

/// The folder in `dist/lib/` of the models' framework.
pub const XCFRAMEWORK: &str = "KnapsackModels.xcframework";
const ARCHIVE: &str = "libKnapsackModels.a";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Info<'a> {
    available_libraries: Vec<Available<'a>>,
    #[serde(rename = "CFBundlePackageType")]
    package_type: &'static str,
    #[serde(rename = "XCFrameworkFormatVersion")]
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Available<'a> {
    binary_path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers_path: Option<&'a str>,
    library_identifier: String,
    library_path: &'a str,
    supported_architectures: Vec<&'static str>,
    supported_platform: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    supported_platform_variant: Option<&'a str>,
}

/// What Xcode is told of a slice.
#[derive(Clone, Copy, Debug)]
pub struct FrameworkSlice<'a> {
    /// `ios` or `macos`.
    pub platform: &'a str,
    /// What tells it from other slices for its platform.
    pub variant: Option<&'a str>,
    /// What its processors execute.
    pub architectures: &'a [Architecture],
}

impl FrameworkSlice<'_> {
    /// The folder that Xcode would name so.
    pub fn identifier(&self) -> String {
        let architectures: Vec<&str> = self.architectures.iter().map(|architecture| architecture.name()).collect();
        let variant = self.variant.map(|variant| format!("-{variant}")).unwrap_or_default();
        format!("{}-{}{variant}", self.platform, architectures.join("_"))
    }
}

impl From<AppleSlice> for FrameworkSlice<'static> {
    fn from(slice: AppleSlice) -> Self {
        Self { platform: "ios", variant: slice.variant, architectures: slice.architectures }
    }
}

/// A file of the framework: its path below [`XCFRAMEWORK`], and its slice, or `None` for Info.plist.
pub(crate) fn members(slices: &[AppleSlice]) -> Vec<(String, Option<AppleSlice>)> {
    let path = |slice: AppleSlice| format!("{}/{ARCHIVE}", FrameworkSlice::from(slice).identifier());
    let archives = slices.iter().map(|&slice| (path(slice), Some(slice)));
    std::iter::once(("Info.plist".to_string(), None)).chain(archives).collect()
}

/// The Info.plist of the models' framework with these slices.
///
/// # Errors
/// As [`xcframework_info`].
pub(crate) fn info_plist(slices: &[AppleSlice]) -> Result<Vec<u8>, BundleError> {
    let slices: Vec<FrameworkSlice<'_>> = slices.iter().map(|&slice| slice.into()).collect();
    xcframework_info(ARCHIVE, None, &slices)
}

/// The Info.plist of a framework of these slices. In the folder of each lies the static archive `library`, and what C programs
/// include in the folder `headers`.
///
/// # Errors
/// When the plist writer fails, which it has no reason to.
pub fn xcframework_info(
    library: &str,
    headers: Option<&str>,
    slices: &[FrameworkSlice<'_>],
) -> Result<Vec<u8>, BundleError> {
    let info = Info {
        available_libraries: slices
            .iter()
            .map(|slice| Available {
                binary_path: library,
                headers_path: headers,
                library_identifier: slice.identifier(),
                library_path: library,
                supported_architectures: slice.architectures.iter().map(|architecture| architecture.name()).collect(),
                supported_platform: slice.platform,
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
