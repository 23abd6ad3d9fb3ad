//! Why a package could not be written.

use knapsack_artifact::app_config::AppConfigError;
use knapsack_artifact::container::ContainerError;
use knapsack_artifact::names::UnsafeName;
use knapsack_artifact::{DeviceKind, LibraryError};
use std::path::{Path, PathBuf};

/// Why a package could not be written. The old one, if any, is still there.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum BundleError {
    /// The file system refused something.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// Of which file or folder.
        path: PathBuf,
        /// The system's own error.
        #[source]
        source: std::io::Error,
    },
    /// The output folder is one that must not become a package.
    #[error("`{}` cannot be the output folder: {reason}", path.display())]
    DangerousOutput {
        /// The folder with symbolic links resolved.
        path: PathBuf,
        /// The rule that it breaks.
        reason: String,
    },
    /// The output folder holds something else.
    #[error(
        "`{}` is not empty and was not written by Knapsack (there is `{example}`): choose another output folder or empty it",
        path.display()
    )]
    ForeignOutput {
        /// The folder with symbolic links resolved.
        path: PathBuf,
        /// The first entry that Knapsack does not know.
        example: String,
    },
    /// The record of an earlier run is not readable.
    #[error("`{}` does not say what Knapsack wrote there ({problem}): delete the folder or choose another", path.display())]
    DamagedRecord {
        /// The record's path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that Knapsack did not write is where the package needs one.
    #[error("`{}` is in the way: Knapsack did not write it and will not replace it", path.display())]
    InTheWay { path: PathBuf },
    /// A device that no app is made for.
    #[error("there are no packages for {device}")]
    NoPackage { device: DeviceKind },
    /// Two outputs would be the same file.
    #[error("two files of the package would both be `{path}`")]
    SamePath {
        /// In the package.
        path: String,
    },
    /// A file that no pack of the store can hold.
    #[error(
        "`{path}` has {bytes} bytes, and a pack of the store may have {most}: convert the model again, in smaller shards"
    )]
    LargerThanPack {
        /// In the model's folder.
        path: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// A name that is not safe on every platform.
    #[error("{place}: a file name cannot be used")]
    Name {
        /// Where the name stands.
        place: String,
        /// What is wrong with it.
        #[source]
        source: UnsafeName,
    },
    /// A file of a weight folder is not what the folder says of itself.
    #[error("model `{model_id}`: `{}`: {problem}", path.display())]
    Weights {
        /// The manifest's `model_id`.
        model_id: String,
        /// The file of the weight folder, or the folder.
        path: PathBuf,
        /// What does not match, with both values.
        problem: String,
    },
    /// Two entries use one library name for different libraries.
    #[error("models `{first}` and `{second}` both use the library name `{name}`, but their libraries differ")]
    LibraryClash {
        /// The symbol prefix that both use.
        name: String,
        /// The `model_id` that uses it first.
        first: String,
        /// The `model_id` whose library differs.
        second: String,
    },
    /// A blob that is not a library.
    #[error("model library `{name}` cannot be used")]
    Library {
        /// The library's name, where it has one.
        name: String,
        /// What its decoder says.
        #[source]
        source: LibraryError,
    },
    /// An object file could not be made.
    #[error("cannot write model libraries as {format}: {problem}")]
    Object {
        /// Mach-O, ELF, a property list or a symbol.
        format: &'static str,
        /// What its writer says.
        problem: String,
    },
    /// What was written is not what is read back.
    #[error("`{}` does not read back as written: {problem}", path.display())]
    ReadBack {
        path: PathBuf,
        /// What is missing or different.
        problem: String,
    },
    /// A written library file is not readable.
    #[error("`{}` does not read back", path.display())]
    ReadBackContainer {
        path: PathBuf,
        /// What its reader says.
        #[source]
        source: Box<ContainerError>,
    },
    /// The caller's progress function asked to stop.
    #[error("interrupted; the package was left as it was")]
    Interrupted,
    /// The bill of materials could not be made.
    #[error("cannot write the bill of materials: {0}")]
    Bom(String),
    /// The app config would not be accepted by its own reader.
    #[error("the app config would be refused by the app")]
    AppConfig(#[from] AppConfigError),
}

impl BundleError {
    /// Whether another output folder, or another model, has to be named.
    pub fn is_wrong_input(&self) -> bool {
        !matches!(
            self,
            Self::Io { .. }
                | Self::ReadBack { .. }
                | Self::ReadBackContainer { .. }
                | Self::Interrupted
                | Self::Object { .. }
                | Self::Bom(_)
                | Self::AppConfig(_)
        )
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}
