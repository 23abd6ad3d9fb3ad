//! The manifest after everything was read, merged and checked.

use crate::devices::{AppMemory, DeviceProfile};
use crate::overrides::{OverrideKey, Overrides};
use crate::source::ModelSource;
use crate::source_map::{Span, Spanned};
use knapsack_artifact::{Delivery, DeviceKind};
use knapsack_tensor::Quantization;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Format that a checkpoint is converted to when the manifest does not say.
pub const DEFAULT_QUANTIZATION: &str = "q4f16_1";

/// A manifest in which every value was checked, as far as that is possible without the models. Spans point into the
/// texts of [`crate::LoadedManifest::report`], so that what is found later is reported at its place too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The file it was read from.
    pub path: PathBuf,
    /// What to package for.
    pub device: Spanned<DeviceKind>,
    /// The models, at least one, in the order of the app config. Ids are unique without regard to case.
    pub models: Vec<ModelEntry>,
    /// Prebuilt libraries; each is used by at least one model.
    pub prebuilt: Vec<PrebuiltLibrary>,
    /// Phones that every model must fit, of the manifest's platform.
    pub target_devices: Vec<Spanned<DeviceProfile>>,
    /// How much of a phone's memory the app leaves to its models.
    pub app_memory: AppMemory,
    /// The app's own keys.
    pub app: AppKeys,
}

impl Manifest {
    /// The folder of the manifest; empty for a file in the working directory.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The model of an id, exactly as written.
    pub fn model(&self, id: &str) -> Option<&ModelEntry> {
        self.models.iter().find(|model| model.model_id.value == id)
    }
}

/// One model of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// The whole entry, in the last file that says something about it.
    pub span: Span,
    /// Name at run time and of the weight folder; safe as a folder name on every system.
    pub model_id: Spanned<String>,
    /// Where the model comes from.
    pub source: Spanned<ModelSource>,
    /// The budget; when it is absent the plan decides.
    pub estimated_vram_bytes: Option<Spanned<u64>>,
    /// How the weights get onto the device. Never a download for local models. The place is that of the key that says so, or of the
    /// model's id.
    pub delivery: Spanned<Delivery>,
    /// Sizes that differ from the model's own.
    pub overrides: Overrides,
    /// Where each override's value is written, for those that are.
    pub override_spans: BTreeMap<OverrideKey, Span>,
    /// Symbol prefix of the library.
    pub model_lib: Option<Spanned<String>>,
    /// Format to convert a checkpoint to. Always there for a local checkpoint (then possibly chosen), never for a local
    /// MLC model; for a hub source it is what the manifest says, since what the repository holds is known only later.
    pub quantization: Option<Spanned<Quantization>>,
    /// Chat template of a checkpoint; its own when absent.
    pub chat_template: Option<Spanned<ChatTemplateRef>>,
    /// The app's own keys for this model.
    pub app: AppKeys,
}

/// Where a checkpoint's chat template comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatTemplateRef {
    /// `model`, or the name of a conversation template of MLC.
    Named(String),
    /// A file, joined to the manifest's folder. It was there when it was checked.
    File(PathBuf),
}

/// Keys that an app wants to find in its app config: nothing to Knapsack.
pub type AppKeys = serde_json::Map<String, serde_json::Value>;

impl ModelEntry {
    /// Whether the weights are needed to package: they go into the package, in the app or in a pack.
    pub fn ships_weights(&self) -> bool {
        self.delivery.value != Delivery::Download
    }

    /// Where an override is written, or the model's id when it is not: a place to report at in either case.
    pub fn span_of(&self, key: OverrideKey) -> Span {
        self.override_spans.get(&key).copied().unwrap_or(self.model_id.span)
    }

    /// Where the budget is written, or the model's id when it is not.
    pub fn span_of_budget(&self) -> Span {
        self.estimated_vram_bytes.as_ref().map_or(self.model_id.span, |budget| budget.span)
    }
}

/// A library that was compiled before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrebuiltLibrary {
    /// Its symbol prefix.
    pub prefix: String,
    /// The file: the path of the manifest that states it, joined by the path in it. It was there when it was checked.
    pub path: Spanned<PathBuf>,
}
