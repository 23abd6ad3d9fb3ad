//! Where an app gets the runtime, as `--sdk` says it.

use crate::exit::wrong_input;
use anyhow::{Context, Result};
use knapsack_artifact::device::Form;
use knapsack_bundle::{Runtime, package};
use std::path::{Component, Path, PathBuf};

/// The folder of the models' Swift package in a package.
const SWIFT: &str = "KnapsackModels";
/// The runtime's Swift package and Maven repository in what `knapsack sdk build` writes.
const BUILT: (&str, &str) = ("Knapsack", "maven");

/// What `--sdk` means for a package of that form in `output`.
///
/// # Errors
/// A folder without a runtime for it; with exit code 2.
pub fn of(sdk: Option<&str>, form: Form, output: &Path) -> Result<Runtime> {
    let Some(sdk) = sdk else { return Ok(Runtime::Version) };
    let is_address = sdk.contains("://") || sdk.starts_with("git@");
    let folder = Path::new(sdk);
    match form {
        Form::Framework(_) if is_address => Ok(Runtime::Repository(sdk.to_owned())),
        Form::Framework(_) => {
            let places = [folder.join(BUILT.0), folder.to_owned()];
            let Some(found) = places.into_iter().find(|place| place.join("Package.swift").is_file()) else {
                return Err(wrong_input(format!(
                    "{sdk} has no Swift package: `knapsack sdk build --target ios` makes one"
                )));
            };
            let found = found.canonicalize().with_context(|| found.display().to_string())?;
            let name = found.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let from = std::path::absolute(output).with_context(|| output.display().to_string())?.join(SWIFT);
            Ok(Runtime::Folder { path: relative(&found, &from), name })
        }
        Form::SharedLibraries(_) => {
            let file = format!("{}/{}", package::RUNTIME.folder(), package::RUNTIME.file("aar"));
            let places = [folder.join(BUILT.1), folder.to_owned()];
            match places.into_iter().find(|place| place.join(&file).is_file()) {
                Some(found) => Ok(Runtime::Maven(found)),
                None => Err(wrong_input(format!(
                    "{sdk} has no {}: `knapsack sdk build --target android` makes it",
                    package::RUNTIME.coordinates()
                ))),
            }
        }
        Form::Blob => Ok(Runtime::Version),
    }
}

/// The way from one absolute folder to another, with `/`; the folder itself where they share nothing.
fn relative(to: &Path, from: &Path) -> String {
    let parts = |path: &Path| path.components().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>();
    let real = from.ancestors().find_map(|folder| {
        let real = folder.canonicalize().ok()?;
        Some(real.join(from.strip_prefix(folder).ok()?))
    });
    let (to_parts, from_parts) = (parts(to), parts(real.as_deref().unwrap_or(from)));
    let shared = to_parts.iter().zip(&from_parts).take_while(|(a, b)| a == b).count();
    if shared < 2 && matches!(to.components().next(), Some(Component::Prefix(_))) {
        return to.display().to_string();
    }
    let up = std::iter::repeat_n("..".into(), from_parts.len() - shared);
    let path: PathBuf = up.chain(to_parts.into_iter().skip(shared)).collect::<Vec<_>>().iter().collect();
    path.to_string_lossy().replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_between_folders() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("sdk/swift")).unwrap();
        assert_eq!(relative(&root.join("sdk/swift"), &root.join("app/dist/KnapsackModels")), "../../../sdk/swift");
        assert_eq!(relative(&root.join("dist"), &root.join("dist/KnapsackModels")), "..");
    }

    #[test]
    fn a_folder_without_a_runtime_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let sdk = folder.path().to_str();
        let output = folder.path().join("dist");
        let swift = Form::Framework(&[]);
        assert!(of(sdk, swift, &output).is_err() && of(sdk, Form::SharedLibraries(&[]), &output).is_err());
        let url = "https://example.org/knapsack.git";
        assert_eq!(of(Some(url), swift, &output).unwrap(), Runtime::Repository(url.into()));
        std::fs::write(folder.path().join("Package.swift"), "").unwrap();
        let Runtime::Folder { path, .. } = of(sdk, swift, &output).unwrap() else { panic!() };
        assert_eq!(path, "../..");
    }
}
