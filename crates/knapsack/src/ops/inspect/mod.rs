//! `knapsack inspect`: what is in a library, a weight folder, a checkpoint or a package.

mod app;
mod folder;
mod library;

use crate::cli::InspectArgs;
use crate::exit::OrWrongInput;
use crate::report::Reporter;
use anyhow::{Context, Result};
use knapsack_artifact::{app_config, chat_config, container, weight_index};
use library::Place;
pub(super) use library::{FoundLibrary, windows};
use std::path::{Path, PathBuf};

/// Deepest folder in which library files are looked for: `lib/<framework>/<slice>/<file>`.
const MAX_DEPTH: u32 = 5;
/// Most library files of one package.
const MAX_FILES: usize = 1 << 12;

/// Looks at the path and shows what it is.
pub fn run(args: &InspectArgs, reporter: &Reporter) -> Result<()> {
    let path = &args.path;
    let json = args.json.json || reporter.is_json();
    let show = Show { json, kernels: args.kernels, verbose: reporter.verbosity() > 0 };
    std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display())).or_wrong_input()?;
    if !path.is_dir() {
        if app::is_archive(path) {
            return app::run(path, show, reporter);
        }
        let libraries =
            read_files(path.parent().unwrap_or(Path::new("")), std::slice::from_ref(path)).or_wrong_input()?;
        anyhow::ensure!(!libraries.is_empty(), "{} holds no model library", path.display());
        return library::show(&libraries, show, reporter);
    }
    let bundled = path.join("bundle").join(app_config::FILE_NAME);
    if bundled.is_file() {
        return folder::package(path, &bundled, show, reporter);
    }
    let has = |name: &str| path.join(name).is_file();
    if has(weight_index::FILE_NAME) || has(weight_index::OLD_FILE_NAME) {
        return folder::weights(path, show, reporter);
    }
    if has(chat_config::FILE_NAME) || has("config.json") {
        return folder::configuration(path, show, reporter);
    }
    let files = library_files(path).or_wrong_input()?;
    if files.is_empty() {
        return Err(crate::exit::wrong_input(format!(
            "{} is neither a package (bundle/mlc-app-config.json), nor a weight folder (tensor-cache.json), nor a checkpoint \
             (config.json), and it holds no model libraries (.a, .so, .knapsack)",
            path.display()
        )));
    }
    library::show(&read_files(path, &files).or_wrong_input()?, show, reporter)
}

/// How much is shown, and in which form.
#[derive(Clone, Copy, Debug)]
struct Show {
    json: bool,
    kernels: bool,
    verbose: bool,
}

/// Every distinct library of the files with all places where it lies.
pub(super) fn read_files(root: &Path, files: &[PathBuf]) -> Result<Vec<FoundLibrary>> {
    let mut found: Vec<FoundLibrary> = Vec::new();
    for path in files {
        let shown = || format!("cannot inspect {}", path.display());
        let bytes = container::read(path).with_context(shown)?;
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        for contained in container::libraries(&bytes).with_context(shown)? {
            let place = Place { file: name.clone(), slice: contained.slice.to_string() };
            match found.iter_mut().find(|library| library.blob == contained.blob) {
                Some(library) => library.places.push(place),
                None => found.push(FoundLibrary {
                    library: contained.decode().with_context(shown)?,
                    blob: contained.blob.to_vec(),
                    places: vec![place],
                }),
            }
        }
    }
    Ok(found)
}

/// Files below `root` that can carry libraries, in order. Symbolic links are not followed.
pub(super) fn library_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![(root.to_path_buf(), MAX_DEPTH)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, entry.path());
            if kind.is_dir() && depth > 1 {
                folders.push((path, depth - 1));
            } else if kind.is_file()
                && path.extension().is_some_and(|end| ["a", "so", "knapsack"].iter().any(|e| end == *e))
            {
                files.push(path);
                anyhow::ensure!(
                    files.len() <= MAX_FILES,
                    "{} holds more than {MAX_FILES} library files",
                    root.display()
                );
            }
        }
    }
    files.sort();
    Ok(files)
}
