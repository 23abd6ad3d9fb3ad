//! From entries to `dist/`.

mod app;
mod bom;
mod chat_config;
mod guard;
mod hashing;
mod maven;
mod output;
mod outputs;
mod packs;
mod record;
mod stage;
mod swift;
#[cfg(test)]
mod tests;
mod weights;

pub use bom::FILE_NAME as BILL_OF_MATERIALS;
pub use guard::check_output;
pub use maven::RUNTIME;

use crate::digest::FileDigests;
use crate::error::BundleError;
use crate::files::LinkMode;
use crate::objects::Library;
use knapsack_artifact::app_config::AppFile;
use knapsack_artifact::{Delivery, DeviceKind};
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Everything that one package holds.
#[derive(Clone, Debug)]
pub struct PackageContents {
    /// What for: decides the form of the libraries.
    pub device: DeviceKind,
    /// In the order of the manifest.
    pub entries: Vec<Entry>,
    /// Keys that the app wants to find in its app config.
    pub app: Map<String, Value>,
    /// What the bill of materials says of when it was made, in seconds since 1970; `None`: nothing, so that the same inputs make
    /// the same package.
    pub date: Option<i64>,
    /// Most bytes of one asset pack of Google Play.
    pub pack_bytes: u64,
    /// Most bytes of the library for Gradle, and with it of an APK.
    pub archive_bytes: u64,
    /// Where apps get the runtime.
    pub runtime: Runtime,
}

/// Version of the runtime that a package is made for, and of the library that holds its models.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where an app gets the runtime that the package is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// From wherever its build looks: a registry of Swift packages, a repository of Maven.
    #[default]
    Version,
    /// A Swift package in a repository of Git.
    Repository(String),
    /// A Swift package in a folder.
    Folder {
        /// From the Swift package of the models.
        path: String,
        /// The folder's name.
        name: String,
    },
    /// A Maven repository that has the runtime's library, which goes into the package's own.
    Maven(PathBuf),
}

/// One model of the manifest.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name at runtime and of the weight folder.
    pub model_id: String,
    /// Its library; entries may share one (same name, same bytes).
    pub library: Library,
    /// The budget that the runtime loads and evicts by.
    pub estimated_vram_bytes: u64,
    /// Revision of the source, where it has one.
    pub revision: Option<String>,
    /// Where the weights come from.
    pub weights: WeightSupply,
    /// What turns its text into tokens.
    pub tokenizer: Tokenizer,
    /// Keys that the app wants to find at this model in its app config.
    pub app: Map<String, Value>,
    /// For the bill of materials.
    pub provenance: Provenance,
}

/// Where a model comes from.
#[derive(Clone, Debug, Default)]
pub struct Provenance {
    /// The repository and its address there, at [`Entry::revision`]; `None`: a folder, whose path says nothing elsewhere.
    pub repository: Option<Repository>,
    /// An SPDX identifier, or the name that the authors gave their licence.
    pub license: Option<String>,
    /// Repositories of the models that it was made from.
    pub base_models: Vec<String>,
    /// The files that were read.
    pub files: Vec<SourceFile>,
    /// Whether the weights were converted from them.
    pub converted: bool,
}

/// A file that a model was made from.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Its path in the repository or folder.
    pub path: String,
    /// Its content.
    pub hash: ContentHash,
}

/// A hash by which a file's content is known, in hexadecimal digits.
#[derive(Clone, Debug)]
pub enum ContentHash {
    /// SHA-256, as hubs and packages name content.
    Sha256(String),
    /// BLAKE3, as the cache of conversions does: to hash gigabytes once more takes longer than to convert them.
    Blake3(String),
}

/// A repository of a hub.
#[derive(Clone, Debug)]
pub struct Repository {
    /// `org/name`.
    pub name: String,
    /// `https://…/org/name`.
    pub url: String,
}

/// A model's tokenizer, as far as a package holds more than its files.
#[derive(Clone, Debug, Default)]
pub struct Tokenizer {
    /// What a runtime holds for it, in bytes.
    pub bytes: u64,
    /// Its tables ([`knapsack_artifact::token_tables`]), which go beside a bundled `tokenizer.json`.
    pub tables: Option<Arc<[u8]>>,
}

/// Where an app gets the weights of a model.
#[derive(Clone, Debug)]
pub enum WeightSupply {
    /// From the package: everything in this MLC weight folder that its index and chat configuration name.
    Bundled {
        /// Holds `tensor-cache.json` (or `ndarray-cache.json`), its shards, `mlc-chat-config.json` and tokenizer files.
        folder: PathBuf,
    },
    /// From packs that a store delivers, made of the same files.
    Packed {
        /// As of [`WeightSupply::Bundled`].
        folder: PathBuf,
        /// Whose packs, and when they come.
        delivery: Delivery,
    },
    /// From the network at first launch.
    Download {
        /// `model_url` of the app config.
        url: String,
        /// What is there, as far as it is known.
        files: Vec<AppFile>,
    },
}

impl std::fmt::Debug for WriteOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteOptions").field("link_mode", &self.link_mode).field("protected", &self.protected).finish()
    }
}

impl WriteOptions<'_> {
    fn report(&self, progress: BundleStep<'_>) -> Result<(), BundleError> {
        match (self.progress)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(BundleError::Interrupted),
        }
    }
}

/// How a package is written.
pub struct WriteOptions<'a> {
    /// How bundled files get into the package.
    pub link_mode: LinkMode,
    /// Folders that the output may not be or contain, such as the manifest's.
    pub protected: &'a [PathBuf],
    /// Hashes of large files that were computed before.
    pub digests: &'a FileDigests,
    /// Where to lock the output folder against a second run; `None`: no lock.
    pub locks: Option<&'a Path>,
    /// Whether to wait until the package is on the disk before it takes the place of the old one.
    pub sync: bool,
    /// Called as work goes on; `Break` stops it and leaves the old package.
    pub progress: &'a (dyn Fn(BundleStep<'_>) -> ControlFlow<()> + Sync),
}

/// A step of writing a package.
#[derive(Clone, Copy, Debug)]
pub enum BundleStep<'a> {
    /// A bundled file is about to be hashed.
    Verifying {
        /// In the package.
        path: &'a str,
        /// Bytes that will be read.
        bytes: u64,
    },
    /// A file is about to be written or copied.
    Writing {
        /// In the package.
        path: &'a str,
        /// Bytes that will be written.
        bytes: u64,
    },
}

/// Why a file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteReason {
    /// The package did not have it.
    New,
    /// What it is made from changed.
    InputsChanged,
    /// The file in the package was changed or damaged since Knapsack wrote it.
    Modified,
    /// It was a hard link to its source, or should be one and was not.
    LinkMode,
}

impl std::fmt::Display for WriteReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New => "not there before",
            Self::InputsChanged => "inputs changed",
            Self::Modified => "changed since it was written",
            Self::LinkMode => "other link mode",
        })
    }
}

/// One file of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Relative to the package, with `/`.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Why it was written; `None`: it was kept or removed.
    pub reason: Option<WriteReason>,
    /// Whether it shares the room of another file of the package, where the file system can.
    pub shared: bool,
}

/// What happened to the package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackageChanges {
    /// Written or copied, in path order.
    pub written: Vec<FileReport>,
    /// Already there and right.
    pub kept: Vec<FileReport>,
    /// There before and no longer named.
    pub removed: Vec<FileReport>,
    /// Files in the folder that Knapsack did not write and left alone.
    pub foreign: Vec<String>,
    /// The bundle is more than the library for Gradle holds, which has none of it: apps get it another way.
    pub bundle_apart: bool,
}

impl PackageChanges {
    /// Bytes of the package that Knapsack is responsible for; what shares its room with another file counts once.
    pub fn total_bytes(&self) -> u64 {
        self.written.iter().chain(&self.kept).filter(|file| !file.shared).map(|file| file.bytes).sum()
    }

    /// Whether the package was already right.
    pub fn is_fresh(&self) -> bool {
        self.written.is_empty() && self.removed.is_empty()
    }
}

/// Makes `out` the package, keeping what is already right. Either all of it happens or `out` stays as it was.
///
/// # Errors
/// [`BundleError`]: an output folder that is not Knapsack's to change, weights that do not match their index, entries that
/// contradict each other, a library that does not read back, or a failing file system.
pub fn write(package: &PackageContents, out: &Path, options: &WriteOptions<'_>) -> Result<PackageChanges, BundleError> {
    // 1 The folder: ours, empty or absent. Leftovers of interrupted runs are cleared.
    let target = guard::prepare(package, out, options)?;
    // 2 Every file of the package with what it is made from. Weights are verified here.
    let (outputs, bundle_apart) = outputs::plan(package, options, target.record.as_ref())?;
    // 3 What is already right stays.
    let mut decision = stage::decide(&outputs, &target, options)?;
    decision.report.bundle_apart = bundle_apart;
    if decision.is_fresh() {
        return Ok(decision.report);
    }
    // 4 The new package beside the old one, read back, then swapped in.
    stage::write(package, &outputs, &target, decision, options)
}
