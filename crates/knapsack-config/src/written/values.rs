//! The kinds of values that keys of a manifest have: how each is read, merged and described.

use super::WrittenModel;
use super::object::{Field, Given, Null, Value, nullable, object_schema};
use super::reader::Reader;
use super::unknown::{Place, names};
use crate::codes;
use crate::device;
use crate::devices::DEFAULT_APP_RESERVE;
use crate::diagnostic::Diagnostic;
use crate::manifest::DEFAULT_QUANTIZATION;
use crate::overrides::{Accepts, OverrideKey, check_number};
use crate::parse::{Kind, Member, Node};
use crate::render::quoted;
use crate::source::SourceText;
use crate::source_map::{Span, Spanned};
use crate::suggest::nearest;
use knapsack_artifact::{Delivery, DeviceKind};
use knapsack_tensor::{QUANTIZATIONS, Quantization};
use serde_json::json;

/// Longest model id and library prefix: part of file and symbol names.
const MAX_ID: usize = 128;
/// Most models, libraries and phones of one manifest.
const MAX_ITEMS: usize = 1000;

impl Reader<'_> {
    /// Reports a list that is longer than anybody's, before its elements are looked at.
    fn count(&mut self, node: &Node, count: usize, what: &str) -> Option<()> {
        if count <= MAX_ITEMS {
            return Some(());
        }
        let span = Span { end: (node.span.start + 1).min(node.span.end), ..node.span };
        self.error(codes::TOO_LARGE, span, format!("{count} {what}; a manifest may have {MAX_ITEMS}"), "");
        None
    }
}

impl Value for bool {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        reader.bool(node)
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "type": "boolean", "default": false })
    }
}

/// The address of a schema, which is for editors alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address;

impl Value for Address {
    const NULL: Null = Null::Wrong;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        reader.string(node).map(|_| Address)
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "type": "string" })
    }
}

/// What a file extends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bases {
    /// Paths, relative to the file.
    pub(crate) paths: Vec<Spanned<String>>,
    /// Whether every one is a path: otherwise what is inherited is unknown.
    pub(crate) complete: bool,
}

impl Value for Bases {
    const NULL: Null = Null::Wrong;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let nodes = match &node.kind {
            Kind::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut paths = Vec::new();
        for node in nodes {
            let Kind::String(path) = &node.kind else {
                reader.wrong_type(node, "a path as a string");
                continue;
            };
            if path.is_empty() || path.contains('\0') {
                reader.error(codes::EMPTY, node.span, "`extends` names no file", "");
                continue;
            }
            paths.push(Spanned::new(path.clone(), node.span));
        }
        let complete = paths.len() == nodes.len();
        Some(Bases { paths, complete })
    }

    fn schema(_: bool) -> serde_json::Value {
        let path = nonempty();
        json!({ "anyOf": [path, { "type": "array", "items": path }] })
    }
}

fn nonempty() -> serde_json::Value {
    json!({ "type": "string", "minLength": 1 })
}

impl Value for DeviceKind {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let name = reader.string(node)?;
        if let Some(device) = DeviceKind::packaged().find(|device| device.name == name) {
            return Some(device);
        }
        let label = device::guess(name).map(|device| format!("did you mean `{device}`?")).unwrap_or_default();
        let message = format!("unknown device {}", quoted(name));
        let error = Diagnostic::error(codes::UNKNOWN_DEVICE, node.span, message).label(label);
        reader.diagnostics.push(error.help(format!("accepted are {}", device::names().join(", "))));
        None
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "enum": device::names() })
    }
}

impl Value for Delivery {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let name = reader.string(node)?;
        let names = Delivery::ALL.map(Delivery::name);
        let found = Delivery::named(name);
        if found.is_none() {
            let label = nearest(name, names).map(|near| format!("did you mean `{near}`?")).unwrap_or_default();
            let message = format!("unknown delivery {}", quoted(name));
            let error = Diagnostic::error(codes::UNKNOWN_DELIVERY, node.span, message).label(label);
            reader.diagnostics.push(error.help(format!("accepted are {}", names.join(", "))));
        }
        found
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "enum": Delivery::ALL.map(Delivery::name) })
    }
}

/// Names of phones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetDevices(pub(crate) Vec<Spanned<String>>);

impl Value for TargetDevices {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut names: Vec<Spanned<String>> = Vec::new();
        let items = reader.list(node, "device profiles")?;
        reader.count(node, items.len(), "phones")?;
        for item in items {
            let Some(name) = reader.string(item) else { continue };
            if let Some(first) = names.iter().find(|first| first.value == name) {
                let message = format!("{} is named twice", quoted(name));
                let error =
                    Diagnostic::warning(codes::DUPLICATE_KEY, item.span, message).related(first.span, "first here");
                reader.diagnostics.push(error);
            } else {
                names.push(Spanned::new(name.to_owned(), item.span));
            }
        }
        Some(TargetDevices(names))
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "type": "array", "maxItems": MAX_ITEMS, "items": { "type": "string" } })
    }
}

/// A prebuilt library as written: its prefix and its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenPrebuilt {
    pub(crate) prefix: String,
    pub(crate) field: Field<String>,
}

/// Prebuilt libraries; they merge prefix by prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrebuiltPaths(pub(crate) Vec<WrittenPrebuilt>);

impl Value for PrebuiltPaths {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let members = reader.object(node, "library prefixes with the paths of their files")?;
        reader.count(node, members.len(), "libraries")?;
        let mut libraries = Vec::new();
        for member in members {
            let prefix = check_prefix(&member.key.value, member.key.span, reader);
            let field = reader.value(member, Null::Removes, |reader, node| {
                let path = reader.string(node)?;
                if path.is_empty() || path.contains('\0') {
                    reader.error(codes::EMPTY, node.span, "the path of a prebuilt library is empty", "");
                    return None;
                }
                Some(path.to_owned())
            });
            let Some(prefix) = prefix else { continue };
            if let Some(first) = libraries.iter().find(|first: &&WrittenPrebuilt| first.prefix == prefix) {
                let message = format!("the library prefix {} stands twice", quoted(&prefix));
                let error = Diagnostic::error(codes::DUPLICATE_KEY, member.key.span, message).label("again here");
                reader.diagnostics.push(error.related(first.field.key, "first here"));
                continue;
            }
            libraries.push(WrittenPrebuilt { prefix, field });
        }
        Some(PrebuiltPaths(libraries))
    }

    fn over(self, below: Option<Self>) -> Self {
        let mut merged = below.map(|below| below.0).unwrap_or_default();
        for over in self.0 {
            merged.retain(|known| known.prefix != over.prefix);
            if over.field.given != Given::Null {
                merged.push(over);
            }
        }
        PrebuiltPaths(merged)
    }

    fn schema(extending: bool) -> serde_json::Value {
        json!({
            "type": "object",
            "maxProperties": MAX_ITEMS,
            "propertyNames": { "pattern": PREFIX },
            "additionalProperties": nullable(nonempty(), Null::Removes, extending),
        })
    }
}

/// The entries of `model_list`; they merge by `model_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Models {
    pub(crate) entries: Vec<WrittenModel>,
    /// Whether every element was an entry: otherwise what the others would have said is unknown.
    pub(crate) complete: bool,
}

impl Value for Models {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let items = reader.list(node, "models")?;
        reader.count(node, items.len(), "models")?;
        let models: Vec<WrittenModel> = items.iter().filter_map(|item| WrittenModel::read(item, reader)).collect();
        let mut seen: Vec<(&str, Span)> = Vec::new();
        for model in &models {
            let Some(Field { given: Given::Value(ModelId(id)), span, .. }) = &model.model_id else { continue };
            match seen.iter().find(|(other, _)| other.eq_ignore_ascii_case(id)) {
                Some((other, first)) => reader.diagnostics.push(duplicate_id(id, *span, other, *first)),
                None => seen.push((id, *span)),
            }
        }
        let complete = models.len() == items.len();
        Some(Models { entries: models, complete })
    }

    fn over(self, below: Option<Self>) -> Self {
        let complete = self.complete && below.as_ref().is_none_or(|below| below.complete);
        let mut merged = below.map(|below| below.entries).unwrap_or_default();
        for model in self.entries {
            let id = |model: &WrittenModel| model.model_id.clone().and_then(Field::value);
            let wanted = id(&model);
            let place = wanted.and_then(|wanted| merged.iter().position(|known| id(known).as_ref() == Some(&wanted)));
            let removed = matches!(&model.model, Some(Field { given: Given::Null, .. }));
            match place {
                Some(place) if removed => drop(merged.remove(place)),
                Some(place) => merged[place] = model.over(merged[place].clone()),
                None if removed => {}
                None => {
                    let nothing = WrittenModel::empty(model.span);
                    merged.push(model.over(nothing));
                }
            }
        }
        Models { entries: merged, complete }
    }

    fn schema(extending: bool) -> serde_json::Value {
        let least = u32::from(!extending);
        let entry = object_schema(WrittenModel::KEYS, extending);
        json!({ "type": "array", "minItems": least, "maxItems": MAX_ITEMS, "items": entry })
    }
}

impl Value for SourceText {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.string(node)?;
        match SourceText::parse(text, reader.hf_endpoint) {
            Ok(source) => Some(source),
            Err(error) => {
                let found = Diagnostic::error(codes::BAD_SOURCE, node.span, error.to_string());
                reader.diagnostics.push(found.maybe_help(error.help(text)));
                None
            }
        }
    }

    fn schema(_: bool) -> serde_json::Value {
        nonempty()
    }
}

/// The name of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelId(pub(crate) String);

impl Value for ModelId {
    /// It says which model of an extended file is meant.
    const NULL: Null = Null::Wrong;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let id = reader.string(node)?;
        match check_model_id(id) {
            Ok(()) => Some(ModelId(id.to_owned())),
            Err(reason) => {
                let message = format!("{} can not be a model id: {reason}", quoted(id));
                let error = Diagnostic::error(codes::BAD_MODEL_ID, node.span, message)
                    .help("the id becomes a folder name on every system: letters, digits, `.`, `_` and `-`, no leading or trailing dot");
                reader.diagnostics.push(error);
                None
            }
        }
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "type": "string", "pattern": r"^(?!\.)(?!.*\.\.)(?!.*\.$)[A-Za-z0-9._-]{1,128}$" })
    }
}

/// Bytes that a model may take: no model needs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget(pub(crate) u64);

impl Value for Budget {
    const NULL: Null = Null::Absent;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        byte_count(node, 1, "a positive whole number", "it is computed", reader).map(Budget)
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "type": "integer", "minimum": 1, "maximum": i64::MAX })
    }
}

/// Bytes that an app keeps for itself; nothing is an answer too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AppReserve(pub(crate) u64);

impl Value for AppReserve {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        byte_count(node, 0, "a whole number", &format!("it is {DEFAULT_APP_RESERVE}"), reader).map(AppReserve)
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "type": "integer", "minimum": 0, "maximum": i64::MAX, "default": DEFAULT_APP_RESERVE })
    }
}

/// Bytes, at least `least`; `otherwise` says what holds without the key.
fn byte_count(node: &Node, least: i128, number_of: &str, otherwise: &str, reader: &mut Reader<'_>) -> Option<u64> {
    let (message, help) = match &node.kind {
        Kind::Number(number) => match number.parse::<i128>() {
            Ok(bytes) if (least..=i128::from(i64::MAX)).contains(&bytes) => return Some(bytes as u64),
            Ok(0) => ("0 bytes hold no model".to_owned(), None),
            Ok(bytes) if bytes < 0 => (format!("{bytes} bytes are less than none"), None),
            Err(_) if number.contains(['.', 'e', 'E']) => {
                (format!("{} is not a whole number of bytes", quoted(number)), whole(number))
            }
            _ => (format!("{} bytes are more than any device has", quoted(number)), None),
        },
        Kind::String(text) => (format!("{} is a string, not a number of bytes", quoted(text)), parse_size(text)),
        _ => {
            reader.wrong_type(node, &format!("{number_of} of bytes"));
            return None;
        }
    };
    let help = match help {
        Some(bytes) => format!("write {bytes}"),
        None => format!("write {number_of} of bytes, or leave the key out: then {otherwise}"),
    };
    let error = Diagnostic::error(codes::BAD_SIZE, node.span, message).label(format!("expected {number_of}"));
    reader.diagnostics.push(error.help(help));
    None
}

/// Symbol prefix of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LibraryPrefix(pub(crate) String);

const PREFIX: &str = "^[A-Za-z_-][A-Za-z0-9_-]{0,127}$";

impl Value for LibraryPrefix {
    const NULL: Null = Null::Absent;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let prefix = reader.string(node)?;
        check_prefix(prefix, node.span, reader).map(LibraryPrefix)
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "type": "string", "pattern": PREFIX })
    }
}

/// The prefix as part of a symbol in C, where `-` becomes `_`.
fn check_prefix(prefix: &str, span: Span, reader: &mut Reader<'_>) -> Option<String> {
    let prefix = &prefix.replace('-', "_");
    let letters = prefix.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let begins = prefix.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if letters && begins && prefix.len() <= MAX_ID {
        return Some(prefix.clone());
    }
    let mut plain: String =
        prefix.chars().take(MAX_ID).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if plain.starts_with(|c: char| c.is_ascii_digit()) {
        plain.insert(0, '_');
    }
    let message = format!("{} can not be a library prefix", quoted(prefix));
    let label = if plain.is_empty() { String::new() } else { format!("did you mean `{plain}`?") };
    let error = Diagnostic::error(codes::BAD_MODEL_LIB, span, message).label(label).help(
        "the prefix becomes part of a symbol: letters, digits, `_`, and `-` which becomes `_`; not a digit first, at most 128 characters",
    );
    reader.diagnostics.push(error);
    None
}

impl Value for Quantization {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let name = reader.string(node)?;
        if let Ok(format) = name.parse() {
            return Some(format);
        }
        let names = QUANTIZATIONS.map(|format| format.name);
        // The default first: it wins among equally near ones.
        let candidates = [DEFAULT_QUANTIZATION].into_iter().chain(names);
        let label = nearest(name, candidates).map(|near| format!("did you mean `{near}`?")).unwrap_or_default();
        let message = format!("unknown quantization {}", quoted(name));
        let error = Diagnostic::error(codes::UNKNOWN_QUANTIZATION, node.span, message).label(label);
        reader.diagnostics.push(error.help(format!("accepted are {}", names.join(", "))));
        None
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "enum": QUANTIZATIONS.map(|format| format.name) })
    }
}

/// `chat_template`: what it names is known where models are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TemplateText(pub(crate) String);

impl Value for TemplateText {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        reader.string(node).map(|text| TemplateText(text.to_owned()))
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "type": "string", "minLength": 1, "default": "model" })
    }
}

/// The app's own keys; they merge key by key. Their values are whatever the app makes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppKeys(pub(crate) serde_json::Map<String, serde_json::Value>);

impl Value for AppKeys {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let members = reader.object(node, "the app's own keys")?;
        Some(AppKeys(members.iter().map(|member| (member.key.value.clone(), member.value.to_json())).collect()))
    }

    fn over(self, below: Option<Self>) -> Self {
        let mut merged = below.map(|below| below.0).unwrap_or_default();
        merged.extend(self.0);
        AppKeys(merged)
    }

    fn schema(_: bool) -> serde_json::Value {
        json!({ "type": "object" })
    }
}

impl AppKeys {
    /// The keys below `app` with those that stand beside it; below it wins.
    pub(crate) fn with(field: Option<Field<Self>>, beside: &[&Member]) -> Option<Field<Self>> {
        let Some(first) = beside.first() else { return field };
        let more = AppKeys(beside.iter().map(|member| (member.key.value.clone(), member.value.to_json())).collect());
        let mut field = field.unwrap_or(Field { key: first.key.span, span: first.value.span, given: Given::Null });
        field.given = match field.given {
            Given::Value(below) => Given::Value(below.over(Some(more))),
            Given::Null => Given::Value(more),
            Given::Wrong => Given::Wrong,
        };
        Some(field)
    }
}

/// A key of `overrides` as written. The value is `None` for the model's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenOverride {
    pub(crate) name: OverrideKey,
    pub(crate) field: Field<Option<u64>>,
}

/// `overrides`; they merge key by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OverrideValues(pub(crate) Vec<WrittenOverride>);

impl Value for OverrideValues {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let members = reader.object(node, "overrides")?;
        let known = OverrideKey::ALL.map(OverrideKey::as_str);
        let entry = names(WrittenModel::KEYS);
        let place = Place {
            name: "`overrides`",
            keys: &known,
            rows: &[],
            elsewhere: &[(&entry, "the model's entry, outside `overrides`")],
        };
        let help = format!("with effect, or accepted for MLC's sake, are {}", known.join(", "));
        reader.unknown_keys(members, &place, "without effect", &help);
        let mut overrides = Vec::new();
        for member in members {
            let Some(name) = OverrideKey::parse(&member.key.value) else { continue };
            let field = reader.value(member, Null::Absent, |reader, node| override_value(name, node, reader));
            overrides.push(WrittenOverride { name, field });
        }
        Some(OverrideValues(overrides))
    }

    fn over(self, below: Option<Self>) -> Self {
        let mut merged = below.map(|below| below.0).unwrap_or_default();
        for over in self.0 {
            merged.retain(|known| known.name != over.name);
            if over.field.given != Given::Null {
                merged.push(over);
            }
        }
        OverrideValues(merged)
    }

    fn schema(extending: bool) -> serde_json::Value {
        let keys = OverrideKey::ALL.map(|key| {
            let mut schema = key.accepts().schema();
            schema["description"] = key.meaning().into();
            (key.as_str().to_owned(), nullable(schema, Null::Absent, extending))
        });
        json!({
            "type": "object",
            "properties": serde_json::Map::from_iter(keys),
            "required": [],
            "additionalProperties": false,
        })
    }
}

fn override_value(key: OverrideKey, node: &Node, reader: &mut Reader<'_>) -> Option<Option<u64>> {
    match key.accepts() {
        Accepts::Setting => {
            let text = reader.string(node)?;
            if is_opt(text) {
                return Some(None);
            }
            let message = format!("{} is no optimization setting", quoted(text));
            let help =
                "accepted, without effect, are MLC's presets O0 to O3 and lists such as \"flashinfer=1;cudagraph=0\"";
            reader.diagnostics.push(Diagnostic::error(codes::BAD_OVERRIDE, node.span, message).help(help));
            None
        }
        Accepts::False => {
            if reader.bool(node)? {
                let message = format!("{key} must be false: one device runs the whole model");
                reader.error(codes::BAD_OVERRIDE, node.span, message, "only false is accepted");
                return None;
            }
            Some(None)
        }
        Accepts::Size | Accepts::SizeOrNone | Accepts::Ignored | Accepts::One => override_number(key, node, reader),
    }
}

fn override_number(key: OverrideKey, node: &Node, reader: &mut Reader<'_>) -> Option<Option<u64>> {
    let Kind::Number(number) = &node.kind else {
        reader.wrong_type(node, "a whole number");
        return None;
    };
    let Ok(value) = number.parse::<i128>() else {
        let message = if number.contains(['.', 'e', 'E']) {
            format!("{key} must be a whole number, not {}", quoted(number))
        } else {
            format!("{key} {} is too large", quoted(number))
        };
        let help = whole(number).map(|number| format!("write {number}"));
        reader.diagnostics.push(Diagnostic::error(codes::BAD_OVERRIDE, node.span, message).maybe_help(help));
        return None;
    };
    match check_number(key, value) {
        Ok(value) => {
            if key.accepts() == Accepts::Ignored && value.is_some_and(|value| value > 1) {
                let message = format!("{key} has no effect: a phone serves one conversation at a time");
                reader.diagnostics.push(Diagnostic::warning(codes::OVERRIDE_WITHOUT_EFFECT, node.span, message));
            }
            Some(value)
        }
        Err(error) => {
            reader.error(codes::BAD_OVERRIDE, node.span, error.to_string(), "");
            None
        }
    }
}

/// The error for two models that would share a folder.
pub(crate) fn duplicate_id(id: &str, span: Span, other: &str, first: Span) -> Diagnostic {
    let message = if id == other {
        format!("two models have the id {}", quoted(id))
    } else {
        format!("the ids {} and {} differ only in case", quoted(id), quoted(other))
    };
    Diagnostic::error(codes::DUPLICATE_MODEL_ID, span, message)
        .label("again here")
        .related(first, "first here")
        .help("each id becomes a folder name, and many file systems ignore case")
}

/// Why a text can not be a model id.
fn check_model_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("it is empty".to_owned());
    }
    if id.len() > MAX_ID {
        return Err(format!("it is longer than {MAX_ID} characters"));
    }
    if id.contains(['/', '\\']) {
        return Err("it has a path separator".to_owned());
    }
    if id.starts_with('.') {
        return Err("it begins with a dot".to_owned());
    }
    if id.contains("..") {
        return Err("it has two dots in a row".to_owned());
    }
    if id.ends_with('.') {
        return Err("it ends with a dot, which Windows drops".to_owned());
    }
    if let Some(bad) = id.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(format!("{} is not allowed in it", quoted(&bad.to_string())));
    }
    // Windows keeps these names for devices, with any extension; see Microsoft's "Naming Files, Paths, and Namespaces".
    let stem = id.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let numbered = |name: &str| {
        stem.strip_prefix(name).is_some_and(|rest| matches!(rest.as_bytes(), [digit] if digit.is_ascii_digit()))
    };
    if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL") || numbered("COM") || numbered("LPT") {
        return Err(format!("Windows keeps the name {stem} for a device"));
    }
    if ["mlc-app-config.json", "models.cdx.json"].iter().any(|own| id.eq_ignore_ascii_case(own)) {
        return Err("a file of the package has that name".to_owned());
    }
    Ok(())
}

/// `O0` to `O3`, or a list of `name=value` separated by `;`, as MLC's `--opt` takes it.
fn is_opt(text: &str) -> bool {
    let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    matches!(text, "O0" | "O1" | "O2" | "O3")
        || text
            .trim_end_matches(';')
            .split(';')
            .all(|part| part.split_once('=').is_some_and(|(k, v)| word(k) && word(v)))
}

/// The whole number that a number with a fraction or an exponent is nearest to, if it can be told exactly enough.
fn whole(number: &str) -> Option<u64> {
    let value = number.parse::<f64>().ok()?.round();
    (1.0..=9.0e15).contains(&value).then_some(value as u64)
}

/// The bytes that a text such as `3GB`, `1.5 GiB` or `3,000,000,000` means.
fn parse_size(text: &str) -> Option<u64> {
    let text: String = text.chars().filter(|c| !matches!(c, ' ' | ',' | '_' | '\'')).collect();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" | "bytes" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = (number.parse::<f64>().ok()? * scale).round();
    (1.0..=9.0e15).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_understood_for_the_hint() {
        assert_eq!(parse_size("3GB"), Some(3_000_000_000));
        assert_eq!(parse_size("1.5 GiB"), Some(1_610_612_736));
        assert_eq!(parse_size("3,000,000,000"), Some(3_000_000_000));
        assert_eq!(parse_size("lots"), None);
        assert_eq!(parse_size("-3GB"), None);
        assert_eq!(whole("3e9"), Some(3_000_000_000));
        assert_eq!(whole("1e400"), None);
    }

    #[test]
    fn model_ids() {
        for good in ["Llama-3.2-3B-Instruct-q4f16_1-MLC", "a", "_", "-x", "console", "com", "com10", "a.b"] {
            assert_eq!(check_model_id(good), Ok(()), "{good}");
        }
        let long = "x".repeat(MAX_ID + 1);
        for bad in
            ["", ".", "..", "a/b", "a\\b", ".a", "a.", "a..b", "a b", "ä", "con", "Nul.txt", "COM1", "lpt9.x", &long]
        {
            assert!(check_model_id(bad).is_err(), "{bad}");
        }
        assert!(check_model_id("MLC-App-Config.json").is_err());
    }
}
