//! Where the bundled files of a package are.

use knapsack_artifact::app_config::{self, AppConfig};
use knapsack_device::{FileRange, WeightFiles};
use knapsack_runtime::{FindFiles, FindLibrary, Package, PackageError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The app config and the files of bundled models.
pub enum Bundle {
    /// The package's folder `bundle`.
    Folder(PathBuf),
    /// Anything else that has the files of that folder under their paths in it, such as the assets of an app.
    Files(Arc<dyn WeightFiles>),
}

impl Bundle {
    pub(super) fn open(self, find_library: FindLibrary) -> Result<Package, PackageError> {
        let files = match self {
            Bundle::Folder(folder) => return Package::with_libraries(&folder, find_library),
            Bundle::Files(files) => files,
        };
        let place = files.place().to_owned();
        let path = place.join(app_config::FILE_NAME);
        let bytes = files.read(app_config::FILE_NAME, app_config::MAX_BYTES).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => PackageError::NotAPackage(place.clone()),
            _ => PackageError::Io { path: path.clone(), source },
        })?;
        let config = AppConfig::decode(&bytes).map_err(|source| PackageError::AppConfig { path, source })?;
        let find_files: FindFiles = Box::new(move |model| {
            let place = files.place().join(model);
            Ok(Arc::new(Below { files: files.clone(), folder: model.to_owned(), place }))
        });
        Ok(Package::with_files(place, config, find_files, find_library))
    }
}

/// The files of a folder in others.
struct Below {
    files: Arc<dyn WeightFiles>,
    folder: String,
    place: PathBuf,
}

impl WeightFiles for Below {
    fn open(&self, name: &str) -> io::Result<FileRange> {
        self.files.open(&format!("{}/{name}", self.folder))
    }

    fn place(&self) -> &Path {
        &self.place
    }

    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.files.read(&format!("{}/{name}", self.folder), limit)
    }
}
