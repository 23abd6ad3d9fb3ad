//! Reading a package: its app config, its model libraries, its weight folders.

use knapsack_artifact::app_config::{self, AppConfig, AppConfigError, AppModel, AssetPacks, WeightsLocation};
use knapsack_artifact::delivery::Delivery;
#[cfg(feature = "containers")]
use knapsack_artifact::delivery::{PACKS, Store};
use knapsack_artifact::table::TableError;
use knapsack_artifact::{LibraryError, ModelLibrary, ModelTable};
use knapsack_device::{Folder, PlacedFile, Scattered, WeightFiles};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Folder of a package that holds the app config and the weights.
pub(crate) const BUNDLE: &str = "bundle";
/// Folder of a package that holds the model libraries.
#[cfg(feature = "containers")]
pub(crate) const LIB: &str = "lib";

/// Finds a model library by its name (`model_lib` of the app config).
pub type FindLibrary = Box<dyn Fn(&str) -> Result<ModelLibrary, PackageError> + Send + Sync>;

/// Finds libraries in the model table that the app links or loads.
///
/// # Errors
/// A table that cannot be read.
pub fn table_libraries(table: &'static [u8]) -> Result<FindLibrary, PackageError> {
    let table = ModelTable::parse(table).map_err(|source| PackageError::Table { source })?;
    Ok(Box::new(move |name| match table.find(name) {
        Some(library) => library.map_err(|source| PackageError::Library { name: name.to_owned(), source }),
        None => {
            let names: Vec<&str> = table.libraries().iter().map(|(name, _)| *name).collect();
            let place = format!("the app's model table, which has {}", names.join(", "));
            Err(PackageError::NoSuchLibrary { name: name.to_owned(), place })
        }
    }))
}

/// Finds the files of a bundled model by its path in the bundle (`model_path` of the app config).
pub type FindFiles = Box<dyn Fn(&str) -> io::Result<Arc<dyn WeightFiles>> + Send + Sync>;

/// What an app ships, opened for use.
pub struct Package {
    bundle: PathBuf,
    find_files: FindFiles,
    config: AppConfig,
    find_library: FindLibrary,
    libraries: Mutex<HashMap<String, Arc<ModelLibrary>>>,
    /// Of models in packs, by their ids: where each file lies.
    placed: Mutex<HashMap<String, HashMap<String, PlacedFile>>>,
}

/// Why a package cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum PackageError {
    /// The folder holds no app config.
    #[error("{} is not a package: it has no bundle/mlc-app-config.json", .0.display())]
    NotAPackage(PathBuf),
    /// The app config is not usable.
    #[error("cannot use {}", path.display())]
    AppConfig { path: PathBuf, source: AppConfigError },
    /// The package has no such model.
    #[error("the package has no model `{model_id}`; it has {}", available.join(", "))]
    NoSuchModel {
        /// The one asked for.
        model_id: String,
        /// Those that are there.
        available: Vec<String>,
    },
    /// The package has several models, or none, and none was named.
    #[error("the package has {} models ({}): say which one", available.len(), available.join(", "))]
    ModelNotNamed {
        /// Those that are there.
        available: Vec<String>,
    },
    /// A folder or file of the package cannot be read.
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// No library of that name in the package or the app.
    #[error("no model library `{name}` in {place}")]
    NoSuchLibrary {
        name: String,
        /// Where it was looked for.
        place: String,
    },
    /// A library that is there cannot be used.
    #[error("cannot use the model library `{name}`")]
    Library { name: String, source: LibraryError },
    /// The app's model table cannot be read.
    #[error("cannot use the app's model table")]
    Table { source: TableError },
    /// A file that should carry libraries is damaged.
    #[error("cannot read the model libraries in {}: {problem}", path.display())]
    Container { path: PathBuf, problem: String },
    /// The weights are not part of the package.
    #[error("the weights of `{model_id}` are not in the package; the app downloads them from {url}")]
    NotBundled { model_id: String, url: String },
    /// The weights are in packs that the store has not delivered, or that the app has not named.
    #[error("`{model_id}` comes in the pack {} ({delivery}), which is not here yet", packs.join(", "))]
    NotDelivered { model_id: String, delivery: Delivery, packs: Vec<String> },
    /// A file that is placed is none of the model's, or not the packaged one.
    #[error("`{path}` of `{model_id}`: {problem}")]
    Misplaced { model_id: String, path: String, problem: String },
}

impl Package {
    /// A package whose libraries the caller finds: on a phone by [`table_libraries`].
    ///
    /// # Errors
    /// A missing or unusable app config in `bundle`.
    pub fn with_libraries(bundle: &Path, find_library: FindLibrary) -> Result<Self, PackageError> {
        let path = bundle.join(app_config::FILE_NAME);
        if !path.is_file() {
            return Err(PackageError::NotAPackage(bundle.parent().unwrap_or(bundle).to_owned()));
        }
        let config = AppConfig::read(&path).map_err(|source| PackageError::AppConfig { path, source })?;
        let folder = bundle.to_owned();
        let find_files: FindFiles = Box::new(move |path| Ok(Arc::new(Folder::new(folder.join(path)))));
        Ok(Self::with_files(bundle, config, find_files, find_library))
    }

    /// A package whose bundled files are not in a folder, such as the assets inside an Android package; `place` is what messages
    /// call their place.
    pub fn with_files(
        place: impl Into<PathBuf>,
        config: AppConfig,
        find_files: FindFiles,
        find_library: FindLibrary,
    ) -> Self {
        Self {
            bundle: place.into(),
            find_files,
            config,
            find_library,
            libraries: Mutex::default(),
            placed: Mutex::default(),
        }
    }

    /// The files of a model that is bundled, or whose packs are here.
    ///
    /// # Errors
    /// A model whose weights the app downloads, or files that are not where the app config says.
    pub fn bundled_files(&self, model: &AppModel) -> Result<Arc<dyn WeightFiles>, PackageError> {
        match &model.weights {
            WeightsLocation::Bundled(path) => {
                (self.find_files)(path).map_err(|source| PackageError::Io { path: self.bundle.join(path), source })
            }
            WeightsLocation::Packs(packs) => self.packed_files(model, packs),
            WeightsLocation::Download(url) => {
                Err(PackageError::NotBundled { model_id: model.model_id.clone(), url: url.clone() })
            }
        }
    }

    /// Takes note of where a file of a model lies that comes in packs: it is used there. Whether it was the last.
    ///
    /// # Errors
    /// A model that comes in no pack, a file that is none of the model's, or one of another size.
    pub fn place(&self, model: &AppModel, path: &str, file: PlacedFile) -> Result<bool, PackageError> {
        let wrong = |problem: String| {
            let (model_id, path) = (model.model_id.clone(), path.to_owned());
            PackageError::Misplaced { model_id, path, problem }
        };
        if !matches!(model.weights, WeightsLocation::Packs(_)) {
            return Err(wrong("the model comes in no pack".to_owned()));
        }
        let Some(packaged) = model.files.iter().find(|packaged| packaged.path == path) else {
            return Err(wrong("the model has no such file".to_owned()));
        };
        let io = |source| PackageError::Io { path: file.path().unwrap_or(path.as_ref()).to_owned(), source };
        let length = file.open().map_err(io)?.len();
        if length != packaged.size {
            return Err(wrong(format!("it has {length} bytes, not {}", packaged.size)));
        }
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let files = placed.entry(model.model_id.clone()).or_default();
        files.insert(path.to_owned(), file);
        Ok(files.len() == model.files.len())
    }

    /// Whether a file of a model that comes in packs was placed.
    pub fn is_placed(&self, model: &AppModel, path: &str) -> bool {
        let placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        placed.get(&model.model_id).is_some_and(|files| files.contains_key(path))
    }

    fn packed_files(&self, model: &AppModel, packs: &AssetPacks) -> Result<Arc<dyn WeightFiles>, PackageError> {
        let placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner).get(&model.model_id).cloned();
        if let Some(files) = placed.filter(|files| files.len() == model.files.len()) {
            return Ok(Arc::new(Scattered::new(model.model_id.clone(), files)));
        }
        // Packs that are installed with the app are merged into its own assets.
        if packs.delivery == Delivery::PlayInstallTime
            && let Ok(files) = (self.find_files)(&model.model_id)
            && model.files.iter().all(|file| files.open(&file.path).is_ok())
        {
            return Ok(files);
        }
        Err(PackageError::NotDelivered {
            model_id: model.model_id.clone(),
            delivery: packs.delivery,
            packs: packs.names.clone(),
        })
    }

    /// Opens `dist/`, with the libraries taken out of the files in `lib/`.
    ///
    /// # Errors
    /// A folder that is not a package, or an unusable app config.
    #[cfg(feature = "containers")]
    pub fn open(dist: &Path) -> Result<Self, PackageError> {
        let lib = dist.join(LIB);
        let package = Self::with_libraries(&dist.join(BUNDLE), Box::new(move |name| containers::find(&lib, name)))?;
        package.place_packs(dist);
        Ok(package)
    }

    /// The packs that lie beside the app config, as `knapsack package` wrote them.
    #[cfg(feature = "containers")]
    fn place_packs(&self, dist: &Path) {
        for model in &self.config.model_list {
            let WeightsLocation::Packs(packs) = &model.weights else { continue };
            let Some(store) = packs.delivery.store() else { continue };
            let inside = if store == Store::Play { "src/main/assets" } else { "" };
            for (file, pack) in model.files.iter().flat_map(|file| packs.names.iter().map(move |pack| (file, pack))) {
                let pack = dist.join(PACKS).join(store.folder()).join(pack).join(inside);
                let path = pack.join(&packs.folder).join(&file.path);
                // What is not there, or is not what it should be, is missed when the model is loaded.
                let _ = self.place(model, &file.path, PlacedFile::Path(path));
            }
        }
    }

    /// Whether `folder` looks like a package.
    pub fn is_package(folder: &Path) -> bool {
        folder.join(BUNDLE).join(app_config::FILE_NAME).is_file()
    }

    /// The app config.
    pub fn config(&self) -> &AppConfig {
        &self.config
    }

    /// The model of that id, or the only one.
    ///
    /// # Errors
    /// No such model, or several and none named.
    pub fn model(&self, model_id: Option<&str>) -> Result<&AppModel, PackageError> {
        let available = || self.config.model_list.iter().map(|model| model.model_id.clone()).collect();
        match (model_id, &self.config.model_list[..]) {
            (Some(id), _) => self
                .config
                .model(id)
                .ok_or_else(|| PackageError::NoSuchModel { model_id: id.to_owned(), available: available() }),
            (None, [only]) => Ok(only),
            (None, _) => Err(PackageError::ModelNotNamed { available: available() }),
        }
    }

    /// The library of a model; found once and shared afterwards.
    ///
    /// # Errors
    /// A library that is missing or unusable.
    pub fn library(&self, model: &AppModel) -> Result<Arc<ModelLibrary>, PackageError> {
        let mut known = self.libraries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = known.get(&model.model_lib) {
            return Ok(library.clone());
        }
        let library = Arc::new((self.find_library)(&model.model_lib)?);
        known.insert(model.model_lib.clone(), library.clone());
        Ok(library)
    }

    /// The weight folder of a model that is bundled, or in one pack.
    ///
    /// # Errors
    /// A model whose weights the app downloads, or that has no single folder.
    pub fn bundled_weights(&self, model: &AppModel) -> Result<PathBuf, PackageError> {
        match &model.weights {
            WeightsLocation::Bundled(path) => Ok(self.bundle.join(path)),
            WeightsLocation::Packs(packs) => {
                let placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
                let files = placed.get(&model.model_id).filter(|files| files.len() == model.files.len());
                let folder = |(name, file): (&String, &PlacedFile)| ancestor(file.path()?, name);
                let folders = files.map(|files| files.iter().map(folder).collect());
                match folders.map(|folders: HashSet<Option<PathBuf>>| folders.into_iter().collect::<Vec<_>>()) {
                    Some(folders) if folders.len() == 1 => folders.into_iter().next().flatten(),
                    _ => None,
                }
                .ok_or_else(|| PackageError::NotDelivered {
                    model_id: model.model_id.clone(),
                    delivery: packs.delivery,
                    packs: packs.names.clone(),
                })
            }
            WeightsLocation::Download(url) => {
                Err(PackageError::NotBundled { model_id: model.model_id.clone(), url: url.clone() })
            }
        }
    }
}

/// The folder that `name` is relative to in `path`.
fn ancestor(path: &Path, name: &str) -> Option<PathBuf> {
    path.ancestors().nth(name.split('/').count()).map(Path::to_owned)
}

impl std::fmt::Debug for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Package").field("bundle", &self.bundle).field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(feature = "containers")]
mod containers {
    use super::PackageError;
    use knapsack_artifact::ModelLibrary;
    use knapsack_artifact::container::{self, ContainerError};
    use std::path::{Path, PathBuf};

    /// An `.xcframework` has its archives two levels down.
    const MAX_DEPTH: usize = 4;
    const MAX_FILES: usize = 256;

    /// The library of that name in any archive, shared library or blob below `lib`.
    pub(super) fn find(lib: &Path, name: &str) -> Result<ModelLibrary, PackageError> {
        let mut files = Vec::new();
        collect(lib, MAX_DEPTH, &mut files)?;
        for path in files {
            let problem = |error: ContainerError| PackageError::Container {
                path: path.clone(),
                problem: match &error {
                    ContainerError::Blob { source, .. } => format!("{error}: {source}"),
                    other => other.to_string(),
                },
            };
            match container::read(&path).and_then(|bytes| container::find(&bytes, name)) {
                Ok(library) => return Ok(library),
                Err(ContainerError::NoSuchLibrary { .. }) => {}
                Err(error) => return Err(problem(error)),
            }
        }
        Err(PackageError::NoSuchLibrary { name: name.to_owned(), place: lib.display().to_string() })
    }

    fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), PackageError> {
        let io = |source| PackageError::Io { path: folder.to_owned(), source };
        let mut entries: Vec<PathBuf> =
            folder.read_dir().map_err(io)?.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>().map_err(io)?;
        entries.sort();
        for path in entries {
            let carries =
                path.extension().is_some_and(|extension| ["a", "so", "knapsack"].iter().any(|e| extension == *e));
            if path.is_dir() && depth > 0 {
                collect(&path, depth - 1, files)?;
            } else if carries && path.is_file() && files.len() < MAX_FILES {
                files.push(path);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knapsack_device::FileRange;

    fn config(models: &[(&str, &str)]) -> String {
        let list: Vec<_> = models
            .iter()
            .map(|(id, key)| {
                let place = if *key == "model_url" { "https://example.org/m" } else { id };
                serde_json::json!({ "model_id": id, "model_lib": format!("lib_{id}"), *key: place, "estimated_vram_bytes": 1 })
            })
            .collect();
        serde_json::json!({ "model_list": list }).to_string()
    }

    fn package(models: &[(&str, &str)]) -> (tempfile::TempDir, Package) {
        let dist = tempfile::tempdir().unwrap();
        std::fs::create_dir(dist.path().join(BUNDLE)).unwrap();
        std::fs::write(dist.path().join(BUNDLE).join(app_config::FILE_NAME), config(models)).unwrap();
        let find: FindLibrary =
            Box::new(|name| Err(PackageError::NoSuchLibrary { name: name.into(), place: "the app".into() }));
        let package = Package::with_libraries(&dist.path().join(BUNDLE), find).unwrap();
        (dist, package)
    }

    #[test]
    fn models_by_name_or_the_only_one() {
        let (_dist, two) = package(&[("a", "model_path"), ("b", "model_url")]);
        assert_eq!(two.model(Some("b")).unwrap().model_id, "b");
        assert_eq!(two.model(None).unwrap_err().to_string(), "the package has 2 models (a, b): say which one");
        assert_eq!(two.model(Some("c")).unwrap_err().to_string(), "the package has no model `c`; it has a, b");
        let (_dist, one) = package(&[("a", "model_path")]);
        assert_eq!(one.model(None).unwrap().model_id, "a");
    }

    #[test]
    fn weights_and_libraries_are_found_or_said_to_be_missing() {
        let (dist, package) = package(&[("a", "model_path"), ("b", "model_url")]);
        let [a, b] = &package.config().model_list[..] else { panic!() };
        assert_eq!(package.bundled_weights(a).unwrap(), dist.path().join("bundle/a"));
        assert!(package.bundled_weights(b).unwrap_err().to_string().contains("https://example.org/m"));
        assert_eq!(package.library(a).unwrap_err().to_string(), "no model library `lib_a` in the app");
        let nothing = tempfile::tempdir().unwrap();
        let find: FindLibrary = Box::new(|_| unreachable!());
        let error = Package::with_libraries(&nothing.path().join(BUNDLE), find).unwrap_err();
        assert!(matches!(error, PackageError::NotAPackage(path) if path == nothing.path()));
    }

    #[cfg(feature = "containers")]
    #[test]
    fn a_library_file_without_the_name_or_damaged() {
        let (dist, _) = package(&[("a", "model_path")]);
        let lib = dist.path().join(LIB).join("arm64-v8a");
        std::fs::create_dir_all(&lib).unwrap();
        let open = Package::open(dist.path()).unwrap();
        let model = open.model(None).unwrap();
        assert!(matches!(open.library(model), Err(PackageError::NoSuchLibrary { .. })));
        std::fs::write(lib.join("libmodel_android.so"), b"\x7fELF nonsense").unwrap();
        assert!(matches!(open.library(model), Err(PackageError::Container { .. })));
    }

    #[test]
    fn a_model_table_names_what_it_has() {
        let table = |bytes: Vec<u8>| table_libraries(Box::leak(bytes.into_boxed_slice()));
        let damaged = table(b"KNAPTABL".to_vec()).err().unwrap();
        assert!(matches!(damaged, PackageError::Table { .. }), "{damaged}");
        let find = table(knapsack_artifact::table::encode(&[("a", b"no library"), ("b", b"")]).unwrap().bytes).unwrap();
        assert!(matches!(find("a"), Err(PackageError::Library { name, .. }) if name == "a"));
        assert_eq!(find("c").unwrap_err().to_string(), "no model library `c` in the app's model table, which has a, b");
    }

    fn packed(delivery: &str) -> (tempfile::TempDir, Package) {
        let dist = tempfile::tempdir().unwrap();
        let file =
            |path: &str, text: &str| serde_json::json!({ "path": path, "size": text.len(), "sha256": "0".repeat(64) });
        let model = serde_json::json!({
            "asset_packs": { "delivery": delivery, "names": ["a", "a_2"], "folder": "knapsack/a" }, "model_id": "a",
            "model_lib": "lib_a", "estimated_vram_bytes": 1, "files": [file("config.json", "{}"), file("sub/shard", "weights")],
        });
        let config = serde_json::from_value(serde_json::json!({ "model_list": [model] })).unwrap();
        let root = dist.path().to_owned();
        let find: FindFiles = Box::new(move |path| Ok(Arc::new(Folder::new(root.join("assets").join(path)))));
        let package = Package::with_files("assets", config, find, Box::new(|_| unreachable!()));
        (dist, package)
    }

    fn put(folder: &Path, path: &str, text: &str) -> PathBuf {
        let file = folder.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    #[test]
    fn files_of_packs_are_used_where_they_lie() {
        let (dist, package) = packed("play-on-demand");
        let model = package.model(None).unwrap();
        let missing = || assert!(matches!(package.bundled_files(model), Err(PackageError::NotDelivered { .. })));
        missing();
        let (one, two) = (dist.path().join("one"), dist.path().join("two"));
        let (config, shard) = (put(&one, "config.json", "{}"), put(&two, "sub/shard", "weights"));
        let place = |path: &str, file: &Path| package.place(model, path, file.into());
        let refused = |path: &str, file: &Path| place(path, file).unwrap_err();
        assert!(matches!(refused("other", &config), PackageError::Misplaced { .. }));
        assert!(matches!(refused("sub/shard", &config), PackageError::Misplaced { .. }));
        assert!(matches!(refused("config.json", dist.path()), PackageError::Io { .. }));
        assert!(matches!(refused("config.json", &one.join("none")), PackageError::Io { .. }));
        assert!(!place("config.json", &config).unwrap());
        assert!(!place("config.json", &config).unwrap(), "a file that is placed again is one file");
        assert!(package.is_placed(model, "config.json") && !package.is_placed(model, "sub/shard"));
        missing();
        assert!(place("sub/shard", &shard).unwrap());
        let files = package.bundled_files(model).unwrap();
        assert_eq!(
            (files.read("config.json", 9).unwrap(), files.read("sub/shard", 9).unwrap()),
            (b"{}".to_vec(), b"weights".to_vec())
        );
        assert!(package.bundled_weights(model).is_err(), "two packs are no folder");
        place("config.json", &put(&two, "config.json", "[]")).unwrap();
        assert_eq!(package.bundled_weights(model).unwrap(), two);
        assert_eq!(
            package.bundled_files(model).unwrap().read("config.json", 9).unwrap(),
            b"[]",
            "the last place counts"
        );
        // A part of a file that the app opened, which may be gone by its name.
        let apk = put(dist.path(), "app.apk", "zip..{.}..");
        let range = |offset, length| FileRange::new(std::fs::File::open(&apk).unwrap(), offset, length).unwrap();
        let wrong = package.place(model, "config.json", range(5, 3).into());
        assert!(matches!(wrong, Err(PackageError::Misplaced { .. })));
        let part = range(6, 2);
        std::fs::remove_file(&apk).unwrap();
        assert!(package.place(model, "config.json", part.into()).unwrap());
        assert_eq!(package.bundled_files(model).unwrap().read("config.json", 9).unwrap(), b".}");
        assert!(package.bundled_weights(model).is_err(), "a descriptor is no folder");
    }

    #[test]
    fn packs_that_come_with_the_app_are_among_its_assets() {
        let (dist, package) = packed("play-install-time");
        let model = package.model(None).unwrap();
        put(dist.path(), "assets/a/config.json", "{}");
        assert!(matches!(package.bundled_files(model), Err(PackageError::NotDelivered { .. })));
        put(dist.path(), "assets/a/sub/shard", "weights");
        assert_eq!(package.bundled_files(model).unwrap().read("sub/shard", 9).unwrap(), b"weights");
        let (_dist, on_demand) = packed("play-on-demand");
        assert!(on_demand.bundled_files(on_demand.model(None).unwrap()).is_err());
    }

    #[test]
    fn only_models_in_packs_are_placed() {
        let (dist, package) = package(&[("a", "model_path")]);
        let file = put(dist.path(), "config.json", "{}");
        let error = package.place(package.model(None).unwrap(), "config.json", file.as_path().into()).unwrap_err();
        assert!(matches!(error, PackageError::Misplaced { problem, .. } if problem.contains("no pack")));
    }
}
