//! A manifest as it is written in one file: every key with its place, every value checked alone.
//!
//! A key is one row here. Its kind of value says how it is read, merged and described (`values`); what it means for a package is
//! [`crate::manifest`], where it gets by `resolve`. What needs other keys, other files or the file system is checked there.

mod document;
mod object;
mod reader;
mod unknown;
mod values;

pub use document::key_tables;
pub(crate) use object::{Field, Given, Key, Value, object_schema};
pub(crate) use values::{Models, TemplateText, WrittenOverride, WrittenPrebuilt, duplicate_id};

use crate::device;
use crate::diagnostic::Diagnostic;
use crate::overrides::OverrideKey;
use crate::parse::{Member, Node};
use crate::source::SourceText;
use crate::source_map::Span;
use knapsack_artifact::{Delivery, DeviceKind};
use knapsack_tensor::Quantization;
use object::object;
use reader::Reader;
use unknown::{Place, names};
use values::{
    Address, AppKeys, AppReserve, Bases, Budget, LibraryPrefix, ModelId, OverrideValues, PrebuiltPaths, TargetDevices,
};

object! {
    /// A manifest as written in one file, or several merged.
    struct Written;

    /// What to package for: decides kernels (Metal or OpenCL), the libraries' format, and where weights go.
    "device" device: DeviceKind,
        wrong "missing, unknown: error naming the accepted values",
        required format!("add \"device\": {}", device::alternatives());

    /// The models. Their order is kept in the app config.
    "model_list" models: Models,
        wrong "missing, empty, not a list: error",
        required "add \"model_list\": a list of the models to package";

    /// Prebuilt model libraries: the file of each prefix that a `model_lib` names.
    "model_lib_path_for_prepare_libs" prebuilt: PrebuiltPaths,
        wrong "missing file, wrong device or prefix inside, prefix no entry uses: error";

    /// Files to start from, relative to this one. This file's keys win, models merge by `model_id`, null removes.
    "extends" extends: Bases,
        wrong "not a path, no such file, a circle, more than 16 in a chain: error";

    /// Phones that every model must fit, by the names of profiles (`knapsack memory --list-phones`), such as `iphone-15-pro`.
    "target_devices" target_devices: TargetDevices,
        wrong "unknown name, phone of another platform: error. A model that needs more than a phone leaves, or a buffer that its GPU cannot have: error (`--allow-over-budget` makes it a warning). Nobody knows what an app may use there: warning";

    /// Whether the app has the entitlement `com.apple.developer.kernel.increased-memory-limit`; default false.
    "increased_memory_limit" increased_memory_limit: bool,
        wrong "not a boolean: error";

    /// Memory in bytes that the app needs beside its models, when they are held against `target_devices`; default 200,000,000, an assumption to replace by your own measurement.
    "app_reserve_bytes" app_reserve_bytes: AppReserve,
        wrong "negative, fraction, string: error";

    /// What the app itself wants to find in its app config: an object of any keys, handed on as it is, under `app`.
    "app" app: AppKeys,
        wrong "not an object: error";

    /// This schema, for editors.
    "$schema" address: Address,
        wrong "not a string: error";
}

object! {
    /// An entry of `model_list` as written.
    struct WrittenModel;

    /// HF://org/name, HF://org/name@revision, https://huggingface.co/org/name, or a folder relative to this file.
    "model" model: SourceText,
        wrong "malformed, missing path, neither checkpoint nor MLC model: error that says what was looked for",
        elsewhere ["model_url", "model_path"],
        required "add \"model\": \"HF://org/name\", or a path relative to the manifest";

    /// Name at run time and of the weight folder: letters, digits, `.`, `_` and `-`, no leading dot, unique without regard to case.
    "model_id" model_id: ModelId,
        wrong "path separators, `..`, duplicates, reserved names: error (it becomes a folder name)",
        elsewhere ["local_id"],
        required "add \"model_id\": the name at run time and of the weight folder";

    /// Memory in bytes that the runtime loads and evicts by. Computed when it is left out.
    "estimated_vram_bytes" estimated_vram_bytes: Budget,
        wrong "`\"3GB\"`, negative, fraction: error. Smaller than the plan needs: error (`--allow-over-budget` makes it a warning); larger than twice the plan: warning",
        elsewhere ["vram_required_MB"];

    /// Whether the weights go into the package; otherwise the app downloads them at first launch, which is the default.
    "bundle_weight" bundle_weight: bool,
        wrong "not a boolean: error. A local model with false has no URL: error before anything is compiled";

    /// How the weights get onto the device: `bundled` in the app, `download` by the app at first launch, or in a pack that the store delivers: `play-install-time`, `play-fast-follow`, `play-on-demand` for Android, `apple-essential`, `apple-prefetch`, `apple-on-demand` for Apple's devices. Without it `bundle_weight` decides between the first two.
    "asset_delivery" asset_delivery: Delivery,
        wrong "unknown: error naming the accepted values. Another store than the device's, `bundle_weight` with another meaning, `download` of a local model, two models whose packs would have one name: error. More than a store takes: warning with the numbers; where the app is known to go through that store, by a pack of it or by `--store`, error",
        elsewhere ["delivery"];

    /// Sizes that differ from the model's own; -1 is the model's own.
    "overrides" overrides: OverrideValues,
        wrong "a key near a known one: error with that one; other unknown keys: warning, without effect; chunk larger than the window, a context and a sliding window that contradict each other, beyond the model's trained positions without rope scaling: error or warning with the numbers";

    /// Symbol prefix of the model's library; `-` reads as `_`, as mlc_llm does.
    "model_lib" model_lib: LibraryPrefix,
        wrong "no symbol: error. Two entries with one prefix and different libraries: error that shows the difference";

    /// Format that a checkpoint is converted to; not for a model that is converted already.
    "quantization" quantization: Quantization,
        wrong "unknown: error naming the accepted values. For an MLC model: error";

    /// Chat template of a checkpoint: "model" for its own, which is the default, the name of a conversation template of MLC, or a file with a Jinja template.
    "chat_template" chat_template: TemplateText,
        wrong "neither a known name nor a file that is there: error. For an MLC model, which keeps its `conv_template`: error";

    /// What the app itself wants to find in this model's entry of the app config: an object of any keys, handed on as it is, under `app`.
    "app" app: AppKeys,
        wrong "not an object: error";
}

impl Written {
    /// Reads the root of one file.
    pub(crate) fn read(root: &Node, hf_endpoint: Option<&str>, diagnostics: &mut Vec<Diagnostic>) -> Option<Written> {
        let mut reader = Reader { hf_endpoint, extends: false, diagnostics };
        let members = reader.object(root, "a manifest")?;
        reader.extends = members.iter().any(|member| member.key.value == "extends");
        let (known, models) = (names(Written::KEYS), names(WrittenModel::KEYS));
        let place = Place {
            name: "a manifest",
            keys: &known,
            rows: Written::KEYS,
            elsewhere: &[(&models, "an entry of `model_list`")],
        };
        let unknown = reader.unknown_keys(members, &place, KEPT, KEPT_HELP);
        let mut written = Written::of(root.span, members, &mut reader);
        unknown.meant.iter().for_each(|(name, member)| written.meant(name, member));
        written.app = AppKeys::with(written.app, &unknown.own);
        Some(written)
    }

    /// Without what null removes, once nothing is left to extend.
    pub(crate) fn without_nulls(self) -> Written {
        let nothing = Written::empty(self.span);
        self.over(nothing)
    }
}

impl WrittenModel {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<WrittenModel> {
        let members = reader.object(node, "a model")?;
        let overrides = OverrideKey::ALL.map(OverrideKey::as_str);
        let (known, top) = (names(WrittenModel::KEYS), names(Written::KEYS));
        let place = Place {
            name: "an entry of `model_list`",
            keys: &known,
            rows: WrittenModel::KEYS,
            elsewhere: &[(&overrides, "`overrides`"), (&top, "the manifest's top level")],
        };
        let unknown = reader.unknown_keys(members, &place, KEPT, KEPT_HELP);
        let mut model = WrittenModel::of(node.span, members, reader);
        unknown.meant.iter().for_each(|(name, member)| model.meant(name, member));
        model.app = AppKeys::with(model.app, &unknown.own);
        Some(model)
    }
}

/// What happens to an unknown key that resembles no other.
const KEPT: &str = "goes into the app config as the app's own";
const KEPT_HELP: &str = "put the app's own keys below \"app\", and nothing is said about them";
