//! From the manifest as written to the resolved one: what needs several keys, the file system or the environment.

use crate::codes;
use crate::devices::{AppMemory, DEVICES_FILE, DeviceProfile};
use crate::diagnostic::Diagnostic;
use crate::environment::Environment;
use crate::local::{self, NotAModel};
use crate::manifest::{ChatTemplateRef, DEFAULT_QUANTIZATION, Manifest, ModelEntry, PrebuiltLibrary};
use crate::overrides::{OverrideConflict, OverrideKey, Overrides};
use crate::render::{looked_for, quoted};
use crate::source::{HubSource, LocalSource, ModelForm, ModelSource, SourceText};
use crate::source_map::{SourceMap, Span, Spanned};
use crate::suggest::nearest;
use crate::written::{
    Field, Given, Models, TemplateText, Written, WrittenModel, WrittenOverride, WrittenPrebuilt, duplicate_id,
};
use knapsack_artifact::delivery::pack_name;
use knapsack_artifact::{Delivery, DeviceKind};
use knapsack_tensor::Quantization;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What stands for a checkpoint's own chat template.
const MODEL_TEMPLATE: &str = "model";

/// Checks a merged manifest as a whole. `None` when something that must be there is missing or wrong; why is in
/// `diagnostics` then, and so is everything else that is wrong.
pub(crate) fn resolve(
    written: Written,
    path: PathBuf,
    environment: &Environment,
    sources: &SourceMap,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Manifest> {
    let mut resolver = Resolver { environment, sources, diagnostics };
    resolver.missing(written.missing(), written.span, "the manifest");
    let device = value(written.device.clone());
    let entries = resolver.model_list(&written);
    resolver.unique_ids(&entries);
    let models: Option<Vec<ModelEntry>> =
        entries.iter().map(|entry| resolver.model(entry, device.as_ref())).collect::<Vec<_>>().into_iter().collect();
    resolver.unique_packs(models.as_deref().unwrap_or_default());
    let libraries = written.prebuilt.and_then(Field::value).map(|libraries| libraries.0).unwrap_or_default();
    let prebuilt = resolver.prebuilt(libraries, prefixes(&written.models, &entries).as_deref());
    let targets = written.target_devices.and_then(Field::value).map(|names| names.0).unwrap_or_default();
    let target_devices = resolver.target_devices(&targets, device.as_ref());
    let stated = AppMemory::default();
    let app_memory = AppMemory {
        increased_memory_limit: written
            .increased_memory_limit
            .and_then(Field::value)
            .unwrap_or(stated.increased_memory_limit),
        reserve_bytes: written.app_reserve_bytes.and_then(Field::value).map_or(stated.reserve_bytes, |bytes| bytes.0),
    };
    let app = written.app.and_then(Field::value).map(|app| app.0).unwrap_or_default();
    Some(Manifest { path, device: device?, models: models?, prebuilt, target_devices, app_memory, app })
}

/// The value of a field that is right.
fn value<T>(field: Option<Field<T>>) -> Option<Spanned<T>> {
    match field {
        Some(Field { given: Given::Value(value), span, .. }) => Some(Spanned::new(value, span)),
        _ => None,
    }
}

/// The library prefixes that the models name; `None` when something about them is wrong: it was reported, and what is wrong about
/// the rest can not be told.
fn prefixes(list: &Option<Field<Models>>, entries: &[WrittenModel]) -> Option<Vec<String>> {
    let complete = matches!(list, Some(Field { given: Given::Value(models), .. }) if models.complete);
    let named = entries.iter().filter_map(|entry| entry.model_lib.clone());
    let prefixes: Option<Vec<String>> = named.map(|field| field.value().map(|prefix| prefix.0)).collect();
    prefixes.filter(|_| complete)
}

/// The id of an entry that has a right one.
fn model_id(entry: &WrittenModel) -> Option<Spanned<String>> {
    value(entry.model_id.clone()).map(|given| given.map(|id| id.0))
}

struct Resolver<'a> {
    environment: &'a Environment,
    sources: &'a SourceMap,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Resolver<'_> {
    /// Keys that must be there and are not, each with what to add.
    fn missing(&mut self, keys: impl Iterator<Item = (&'static str, String)>, object: Span, place: &str) {
        // The caret stands under the opening brace: the whole object would be too much.
        let span = Span { end: (object.start + 1).min(object.end), ..object };
        for (key, help) in keys {
            let message = format!("{place} has no `{key}`");
            let error = Diagnostic::error(codes::MISSING_KEY, span, message).label(format!("`{key}` is missing here"));
            self.diagnostics.push(error.help(help));
        }
    }

    fn model_list(&mut self, written: &Written) -> Vec<WrittenModel> {
        let Some(field) = &written.models else { return Vec::new() };
        match &field.given {
            Given::Value(models) if models.entries.is_empty() && models.complete => {
                let error =
                    Diagnostic::error(codes::EMPTY, field.span, "`model_list` is empty").label("no model to package");
                self.diagnostics.push(error.help("add at least { \"model\": …, \"model_id\": … }"));
                Vec::new()
            }
            Given::Value(models) => models.entries.clone(),
            _ => Vec::new(),
        }
    }

    /// Ids that differ only in case, across files; within a file that was reported already.
    fn unique_ids(&mut self, entries: &[WrittenModel]) {
        let ids: Vec<Spanned<String>> = entries.iter().filter_map(model_id).collect();
        for (at, id) in ids.iter().enumerate() {
            let first = ids[..at].iter().find(|other| other.value.eq_ignore_ascii_case(&id.value));
            if let Some(first) = first.filter(|first| first.span.file != id.span.file) {
                self.diagnostics.push(duplicate_id(&id.value, id.span, &first.value, first.span));
            }
        }
    }

    fn model(&mut self, entry: &WrittenModel, device: Option<&Spanned<DeviceKind>>) -> Option<ModelEntry> {
        self.missing(entry.missing(), entry.span, "the model");
        let (overrides, override_spans) = self.overrides(entry);
        let source = value(entry.model.clone()).and_then(|text| self.source(text));
        let delivery = self.delivery(entry, source.as_ref(), device);
        let mut quantization = value(entry.quantization.clone());
        if let Some(Spanned { value: ModelSource::Local(local), span }) = &source {
            let wrong = entry.quantization.is_some() && quantization.is_none();
            if !wrong {
                quantization = self.local_quantization(local, *span, quantization);
            }
        }
        let chat_template = value(entry.chat_template.clone())
            .and_then(|text| self.chat_template(text, source.as_ref().map(|source| &source.value)));
        Some(ModelEntry {
            span: entry.span,
            model_id: model_id(entry)?,
            source: source?,
            estimated_vram_bytes: value(entry.estimated_vram_bytes.clone()).map(|given| given.map(|bytes| bytes.0)),
            delivery: delivery?,
            overrides,
            override_spans,
            model_lib: value(entry.model_lib.clone()).map(|given| given.map(|prefix| prefix.0)),
            quantization,
            chat_template,
            app: entry.app.clone().and_then(Field::value).map(|app| app.0).unwrap_or_default(),
        })
    }

    /// A path is what has a separator or ends with `.jinja`.
    fn chat_template(
        &mut self,
        text: Spanned<TemplateText>,
        source: Option<&ModelSource>,
    ) -> Option<Spanned<ChatTemplateRef>> {
        let Spanned { value: TemplateText(name), span } = text;
        if let Some(ModelSource::Local(LocalSource { kind: ModelForm::Mlc, .. })) = source {
            let message = "`chat_template` is only for a checkpoint, and this model is converted already";
            let error = Diagnostic::error(codes::NOT_A_CHECKPOINT, span, message);
            self.diagnostics.push(error.help("leave it out: the model keeps its `conv_template`"));
            return None;
        }
        if !name.contains(['/', '\\']) && !name.ends_with(".jinja") {
            let known = &self.environment.chat_templates;
            if name != MODEL_TEMPLATE && !known.is_empty() && !known.contains(&name) {
                let candidates = [MODEL_TEMPLATE].into_iter().chain(known.iter().map(String::as_str));
                let label =
                    nearest(&name, candidates).map(|near| format!("did you mean `{near}`?")).unwrap_or_default();
                let message = format!("unknown chat template {}", quoted(&name));
                let error = Diagnostic::error(codes::UNKNOWN_CHAT_TEMPLATE, span, message).label(label);
                self.diagnostics.push(error.help(format!(
                    "accepted are `{MODEL_TEMPLATE}` (the checkpoint's own), a path that ends with .jinja, or one of {}",
                    known.join(", ")
                )));
                return None;
            }
            return Some(Spanned::new(ChatTemplateRef::Named(name), span));
        }
        let path = self.sources.file(span.file).folder().join(&name);
        if !path.is_file() {
            let message = format!("the chat template {} does not exist", quoted(&name));
            let error = Diagnostic::error(codes::MISSING_PATH, span, message);
            self.diagnostics.push(error.maybe_help(looked_for(&name, &path)));
            return None;
        }
        Some(Spanned::new(ChatTemplateRef::File(path), span))
    }

    fn source(&mut self, text: Spanned<SourceText>) -> Option<Spanned<ModelSource>> {
        let name = match &text.value {
            SourceText::Hub(hub) => return Some(Spanned::new(ModelSource::Hub(hub.clone()), text.span)),
            SourceText::Path(name) => name,
        };
        let path = self.sources.file(text.span.file).folder().join(name);
        let (code, message, mut help) = match local::inspect(&path) {
            Ok(kind) => return Some(Spanned::new(ModelSource::Local(LocalSource { path, kind }), text.span)),
            Err(NotAModel::Missing) => {
                let message = format!("the folder {} does not exist", quoted(name));
                (codes::MISSING_PATH, message, looked_for(name, &path).into_iter().collect())
            }
            Err(NotAModel::Unreadable(reason)) => {
                (codes::MISSING_PATH, format!("the folder {} can not be read", quoted(name)), vec![reason])
            }
            Err(NotAModel::NotAFolder) => {
                let help = "`model` names the folder that holds the configuration and the weights".to_owned();
                (codes::NOT_A_MODEL, format!("{} is a file, not a folder", quoted(name)), vec![help])
            }
            Err(NotAModel::Incomplete(lines)) => {
                let message = format!("the folder {} is neither an MLC model nor a checkpoint", quoted(name));
                (codes::NOT_A_MODEL, message, lines)
            }
        };
        let mut error = Diagnostic::error(code, text.span, message);
        if code == codes::MISSING_PATH {
            let near = local::nearest_sibling(&path);
            let hub = near.is_none().then(|| HubSource::meant(name)).flatten();
            if let Some(near) = near {
                error = error.label(format!("did you mean {} there?", quoted(&near)));
            }
            help.extend(hub.map(|hub| format!("for a repository on the hub write \"{hub}\"")));
            help.extend(name.starts_with('~').then(|| "`~` is not expanded".to_owned()));
        }
        error.help.extend(help);
        self.diagnostics.push(error);
        None
    }

    /// How the weights of a model get onto the device, where nothing contradicts it.
    fn delivery(
        &mut self,
        entry: &WrittenModel,
        source: Option<&Spanned<ModelSource>>,
        device: Option<&Spanned<DeviceKind>>,
    ) -> Option<Spanned<Delivery>> {
        let (asked, bundle) = (value(entry.asset_delivery.clone()), value(entry.bundle_weight.clone()));
        let wrong = |given: bool, right: bool| given && !right;
        if wrong(entry.asset_delivery.is_some(), asked.is_some())
            || wrong(entry.bundle_weight.is_some(), bundle.is_some())
        {
            return None;
        }
        let local = source.filter(|source| matches!(source.value, ModelSource::Local(_)));
        let Some(asked) = asked else { return self.bundle_or_download(entry, local, bundle.as_ref()) };
        let mut conflict = |related: Span, what: String, label: &str, help: String| {
            let message = format!("`asset_delivery` is `{}`, and {what}", asked.value);
            let error = Diagnostic::error(codes::DELIVERY_CONFLICT, asked.span, message);
            self.diagnostics.push(error.related(related, label).help(help));
        };
        let before = asked.value;
        if let Some(device) = device.filter(|device| !before.is_for(device.value.platform)) {
            let accepted: Vec<&str> =
                Delivery::ALL.into_iter().filter(|d| d.is_for(device.value.platform)).map(Delivery::name).collect();
            let help = format!("for {} there are {}", device.value, accepted.join(", "));
            conflict(
                device.span,
                format!("the package is for {}", device.value),
                "what the manifest packages for",
                help,
            );
            return None;
        }
        let means = match bundle {
            Some(Spanned { value: true, .. }) => Some(Delivery::Bundled),
            Some(Spanned { value: false, .. }) => Some(Delivery::Download),
            None => None,
        };
        if let (Some(bundle), Some(means)) = (bundle, means)
            && means != asked.value
        {
            let what = format!("`bundle_weight` {} means `{means}`", bundle.value);
            conflict(bundle.span, what, "this one says otherwise", "leave `bundle_weight` out".to_owned());
            return None;
        }
        if let (Some(local), Delivery::Download) = (local, asked.value) {
            let help = "name a repository on the hub, or another delivery".to_owned();
            conflict(local.span, "a local model has no address to download it from".to_owned(), "local", help);
            return None;
        }
        Some(asked)
    }

    /// What `bundle_weight` says alone. A local model has no address that an app could download it from.
    fn bundle_or_download(
        &mut self,
        entry: &WrittenModel,
        local: Option<&Spanned<ModelSource>>,
        bundle: Option<&Spanned<bool>>,
    ) -> Option<Spanned<Delivery>> {
        let span = bundle.map(|bundle| bundle.span).or_else(|| model_id(entry).map(|id| id.span)).unwrap_or(entry.span);
        if bundle.is_some_and(|bundle| bundle.value) {
            return Some(Spanned::new(Delivery::Bundled, span));
        }
        let Some(local) = local else { return Some(Spanned::new(Delivery::Download, span)) };
        let (span, label) = match bundle {
            Some(bundle) => (bundle.span, "must be true for a local model"),
            None => (local.span, "local, and `bundle_weight` is not given"),
        };
        let message = "a local model that is not bundled has no address to download it from";
        let error = Diagnostic::error(codes::NO_URL, span, message).label(label);
        self.diagnostics.push(error.help("add \"bundle_weight\": true, or name a repository on the hub"));
        None
    }

    /// Packs whose names meet: a pack's name has fewer characters than a model's id.
    fn unique_packs(&mut self, models: &[ModelEntry]) {
        let name = |model: &ModelEntry| pack_name(&model.model_id.value);
        let packed: Vec<&ModelEntry> = models.iter().filter(|model| model.delivery.value.store().is_some()).collect();
        for (at, model) in packed.iter().enumerate() {
            if let Some(first) = packed[..at].iter().find(|first| name(first) == name(model)) {
                let (id, other) = (&model.model_id.value, &first.model_id.value);
                let message =
                    format!("the packs of {} and {} would both be `{}`", quoted(other), quoted(id), name(model));
                let error = Diagnostic::error(codes::DUPLICATE_PACK, model.model_id.span, message);
                let help =
                    "a pack's name has lower-case letters, digits and `_`, at most 64: choose another `model_id`";
                self.diagnostics.push(error.related(first.model_id.span, "the first").help(help));
            }
        }
    }

    fn local_quantization(
        &mut self,
        local: &LocalSource,
        model: Span,
        given: Option<Spanned<Quantization>>,
    ) -> Option<Spanned<Quantization>> {
        match (local.kind, given) {
            (ModelForm::Mlc, Some(given)) => {
                let message = "`quantization` is only for a checkpoint, and this model is converted already";
                let error = Diagnostic::error(codes::NOT_A_CHECKPOINT, given.span, message);
                self.diagnostics.push(error.related(model, "an MLC model").help("leave `quantization` out"));
                None
            }
            (ModelForm::Mlc, None) => None,
            (ModelForm::Checkpoint, Some(given)) => Some(given),
            (ModelForm::Checkpoint, None) => {
                let message = format!("the checkpoint is converted to {DEFAULT_QUANTIZATION}");
                let notice = Diagnostic::notice(codes::CHOSEN, model, message);
                self.diagnostics.push(notice.help("\"quantization\" in the model's entry chooses another format"));
                DEFAULT_QUANTIZATION.parse().ok().map(|format| Spanned::new(format, model))
            }
        }
    }

    fn overrides(&mut self, entry: &WrittenModel) -> (Overrides, BTreeMap<OverrideKey, Span>) {
        let (mut overrides, mut spans) = (Overrides::default(), BTreeMap::new());
        for WrittenOverride { name, field } in
            entry.overrides.clone().and_then(Field::value).map(|given| given.0).unwrap_or_default()
        {
            if let Given::Value(size) = field.given {
                overrides.set(name, size);
                spans.insert(name, field.span);
            }
        }
        for conflict in overrides.conflicts() {
            let [blamed, other] = conflict.keys().map(|key| spans.get(&key).copied().unwrap_or(entry.span));
            let error = Diagnostic::error(codes::OVERRIDE_CONFLICT, blamed, conflict.to_string());
            let help = match conflict {
                OverrideConflict::SlidingBeyondContext { .. } => {
                    Some("leave one of the two out, or set it to -1 for the model's own value".to_owned())
                }
                _ => None,
            };
            self.diagnostics.push(error.related(other, "").maybe_help(help));
        }
        if let (Some(context), Some(window)) = (overrides.context_window_size, overrides.sliding_window_size)
            && context >= window
        {
            let span = spans.get(&OverrideKey::ContextWindowSize).copied().unwrap_or(entry.span);
            let message =
                format!("context_window_size {context} has no effect: the window slides over {window} positions");
            let warning = Diagnostic::warning(codes::OVERRIDE_WITHOUT_EFFECT, span, message);
            let window = spans.get(&OverrideKey::SlidingWindowSize).copied().unwrap_or(entry.span);
            self.diagnostics.push(warning.related(window, "").help("leave one of the two out"));
        }
        (overrides, spans)
    }

    /// The prebuilt libraries that are there. `used` are the prefixes that models name, where all of them are known.
    fn prebuilt(&mut self, written: Vec<WrittenPrebuilt>, used: Option<&[String]>) -> Vec<PrebuiltLibrary> {
        let mut libraries = Vec::new();
        for WrittenPrebuilt { prefix, field } in written {
            if let Some(used) = used.filter(|used| !used.contains(&prefix)) {
                let label =
                    nearest(&prefix, used.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
                let message = format!("no model uses the prebuilt library {}", quoted(&prefix));
                let error =
                    Diagnostic::error(codes::UNUSED_PREBUILT, field.key, message).label(label.unwrap_or_default());
                self.diagnostics.push(error.help("name it in a model's `model_lib`, or remove it"));
            }
            let Given::Value(name) = field.given else { continue };
            let path = self.sources.file(field.span.file).folder().join(&name);
            if !path.is_file() {
                let what = if path.is_dir() { "is a folder, not a library" } else { "does not exist" };
                let message = format!("the prebuilt library {} {what}", quoted(&name));
                let error = Diagnostic::error(codes::MISSING_PREBUILT, field.span, message);
                self.diagnostics.push(error.maybe_help(looked_for(&name, &path)));
                continue;
            }
            libraries.push(PrebuiltLibrary { prefix, path: Spanned::new(path, field.span) });
        }
        libraries
    }

    /// The profiles of the names that are right; the others are reported.
    fn target_devices(
        &mut self,
        names: &[Spanned<String>],
        device: Option<&Spanned<DeviceKind>>,
    ) -> Vec<Spanned<DeviceProfile>> {
        let mut profiles = Vec::new();
        for name in names {
            let Some(profile) = self.environment.devices.get(&name.value) else {
                let known = self.environment.devices.names();
                let label = nearest(&name.value, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
                let message = format!("no profile of a device {}", quoted(&name.value));
                let error = Diagnostic::error(codes::UNKNOWN_TARGET_DEVICE, name.span, message);
                let help = if known.is_empty() {
                    "there are no profiles".to_owned()
                } else {
                    format!("known are {}", known.join(", "))
                };
                let own = format!("a file {DEVICES_FILE} beside the manifest adds profiles of your own");
                self.diagnostics.push(error.label(label.unwrap_or_default()).help(help).help(own));
                continue;
            };
            let Some(device) = device else { continue };
            if Some(profile.platform) == device.value.platform {
                profiles.push(Spanned::new(profile.clone(), name.span));
            } else {
                let message =
                    format!("{} is {}, and the package is for {}", quoted(&name.value), profile.platform, device.value);
                let error = Diagnostic::error(codes::TARGET_DEVICE_PLATFORM, name.span, message);
                self.diagnostics.push(error.related(device.span, "what the manifest packages for"));
            }
        }
        profiles
    }
}
