//! A manifest as it is written in one file: every key with its place, every value checked alone.
//!
//! What needs other keys, other files or the file system is checked in [`crate::resolve`].

use crate::codes;
use crate::device::Device;
use crate::devices::DEFAULT_APP_RESERVE;
use crate::diagnostic::Diagnostic;
use crate::manifest::DEFAULT_QUANTIZATION;
use crate::overrides::{OverrideKey, check_number};
use crate::parse::{Kind, Member, Node};
use crate::render::quoted;
use crate::source::SourceText;
use crate::source_map::{Span, Spanned};
use crate::suggest::nearest;
use knapsack_tensor::{QUANTIZATIONS, Quantization};

/// Keys of a manifest.
pub(crate) const MANIFEST_KEYS: [&str; 8] = [
    "device",
    "model_list",
    "model_lib_path_for_prepare_libs",
    "extends",
    "target_devices",
    "increased_memory_limit",
    "app_reserve_bytes",
    "$schema",
];
/// Keys of an entry of `model_list`.
pub(crate) const MODEL_KEYS: [&str; 7] =
    ["model", "model_id", "estimated_vram_bytes", "bundle_weight", "overrides", "model_lib", "quantization"];
/// Longest model id and library prefix: part of file and symbol names.
const MAX_ID: usize = 128;
/// Most models of one manifest.
const MAX_MODELS: usize = 1000;

/// What a key was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given<T> {
    /// A value that is right on its own.
    Value(T),
    /// Null: what an extended file says is removed.
    Null,
    /// Something wrong, reported already.
    Wrong,
}

/// A key with its value as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field<T> {
    /// The key.
    pub(crate) key: Span,
    /// The value.
    pub(crate) span: Span,
    pub(crate) given: Given<T>,
}

/// A manifest as written in one file, or several merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) span: Span,
    pub(crate) extends: Vec<Spanned<String>>,
    /// Whether `extends` names something that is no path: then what is inherited is unknown.
    pub(crate) extends_wrong: bool,
    pub(crate) device: Option<Field<Device>>,
    pub(crate) models: Option<Field<Vec<WrittenModel>>>,
    pub(crate) prebuilt: Option<Field<Vec<WrittenPrebuilt>>>,
    pub(crate) target_devices: Option<Field<Vec<Spanned<String>>>>,
    pub(crate) increased_memory_limit: Option<Field<bool>>,
    pub(crate) app_reserve_bytes: Option<Field<u64>>,
}

/// An entry of `model_list` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenModel {
    pub(crate) span: Span,
    pub(crate) model: Option<Field<SourceText>>,
    pub(crate) model_id: Option<Field<String>>,
    pub(crate) estimated_vram_bytes: Option<Field<u64>>,
    pub(crate) bundle_weight: Option<Field<bool>>,
    pub(crate) overrides: Option<Field<Vec<WrittenOverride>>>,
    pub(crate) model_lib: Option<Field<String>>,
    pub(crate) quantization: Option<Field<Quantization>>,
}

/// A key of `overrides` as written. The value is `None` for the model's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenOverride {
    pub(crate) name: OverrideKey,
    pub(crate) field: Field<Option<u64>>,
}

/// A prebuilt library as written: its prefix and its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenPrebuilt {
    pub(crate) prefix: String,
    pub(crate) field: Field<String>,
}

/// Reads the root of one file.
pub(crate) fn read(root: &Node, hf_endpoint: Option<&str>, diagnostics: &mut Vec<Diagnostic>) -> Option<Written> {
    let mut reader = Reader { hf_endpoint, extends: false, diagnostics };
    let members = reader.object(root, "a manifest")?;
    reader.extends = members.iter().any(|member| member.key.value == "extends");
    reader.unknown_keys(members, &MANIFEST_KEYS, "a manifest", &[(&MODEL_KEYS, "an entry of `model_list`")]);
    let find = |key: &str| members.iter().find(|member| member.key.value == key);
    if let Some(schema) = find("$schema") {
        reader.string(&schema.value);
    }
    let (extends, extends_wrong) = find("extends").map(|member| reader.extends(member)).unwrap_or_default();
    Some(Written {
        span: root.span,
        extends,
        extends_wrong,
        device: find("device").map(|member| reader.field(member, Reader::device)),
        models: find("model_list").map(|member| reader.field(member, Reader::models)),
        prebuilt: find("model_lib_path_for_prepare_libs").map(|member| reader.field(member, Reader::prebuilt)),
        target_devices: find("target_devices").map(|member| reader.field(member, Reader::target_devices)),
        increased_memory_limit: find("increased_memory_limit").map(|member| reader.field(member, Reader::bool)),
        app_reserve_bytes: find("app_reserve_bytes").map(|member| reader.field(member, Reader::reserve)),
    })
}

struct Reader<'a> {
    hf_endpoint: Option<&'a str>,
    /// Whether the file extends another: only then null means something.
    extends: bool,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn error(&mut self, code: &'static str, span: Span, message: impl Into<String>, label: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(code, span, message).label(label));
    }

    fn wrong_type(&mut self, node: &Node, expected: &str) {
        if node.kind != Kind::Reported {
            let message = format!("expected {expected}, found {}", node.describe());
            self.error(codes::WRONG_TYPE, node.span, message, format!("expected {expected}"));
        }
    }

    fn object<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Member]> {
        if let Kind::Object(members) = &node.kind {
            return Some(members);
        }
        self.wrong_type(node, &format!("an object ({what})"));
        None
    }

    fn list<'n>(&mut self, node: &'n Node, of: &str) -> Option<&'n [Node]> {
        if let Kind::List(items) = &node.kind {
            return Some(items);
        }
        self.wrong_type(node, &format!("a list of {of}"));
        None
    }

    fn string<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        if let Kind::String(text) = &node.kind {
            return Some(text);
        }
        self.wrong_type(node, "a string");
        None
    }

    fn bool(&mut self, node: &Node) -> Option<bool> {
        if let Kind::Bool(value) = node.kind {
            return Some(value);
        }
        self.wrong_type(node, "true or false");
        None
    }

    /// A value that null may remove.
    fn field<T>(&mut self, member: &Member, read: impl FnOnce(&mut Self, &Node) -> Option<T>) -> Field<T> {
        let node = &member.value;
        let given = if node.kind == Kind::Null {
            self.null(node.span)
        } else {
            read(self, node).map_or(Given::Wrong, Given::Value)
        };
        Field { key: member.key.span, span: node.span, given }
    }

    fn null<T>(&mut self, span: Span) -> Given<T> {
        if self.extends {
            return Given::Null;
        }
        let error = Diagnostic::error(codes::NULL_WITHOUT_BASE, span, "null has nothing to remove")
            .label("leave the key out")
            .help("null removes what a file named by `extends` says; this file extends nothing");
        self.diagnostics.push(error);
        Given::Wrong
    }

    /// Reports every key that is not known, with the key that was probably meant. `elsewhere` are the keys of other places.
    fn unknown_keys(&mut self, members: &[Member], known: &[&str], place: &str, elsewhere: &[(&[&str], &str)]) {
        for member in members.iter().filter(|member| !known.contains(&member.key.value.as_str())) {
            let key = member.key.value.as_str();
            let home = elsewhere.iter().find(|(keys, _)| keys.contains(&key));
            let label = match (home, nearest(key, known.iter().copied())) {
                (Some((_, home)), _) => format!("this belongs into {home}"),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => "unknown".to_owned(),
            };
            let message = format!("unknown key {} in {place}", quoted(key));
            let mut error = Diagnostic::error(codes::UNKNOWN_KEY, member.key.span, message).label(label);
            if home.is_none() {
                let accepted: Vec<&str> = known.iter().copied().filter(|key| !key.starts_with('$')).collect();
                error = error.help(format!("accepted are {}", accepted.join(", ")));
            }
            self.diagnostics.push(error);
        }
    }

    fn extends(&mut self, member: &Member) -> (Vec<Spanned<String>>, bool) {
        let nodes = match &member.value.kind {
            Kind::List(items) => items.as_slice(),
            _ => std::slice::from_ref(&member.value),
        };
        let mut paths = Vec::new();
        let before = self.diagnostics.len();
        for node in nodes {
            let Kind::String(path) = &node.kind else {
                self.wrong_type(node, "a path as a string");
                continue;
            };
            if path.is_empty() || path.contains('\0') {
                self.error(codes::EMPTY, node.span, "`extends` names no file", "");
                continue;
            }
            paths.push(Spanned::new(path.clone(), node.span));
        }
        (paths, self.diagnostics.len() > before)
    }

    fn device(&mut self, node: &Node) -> Option<Device> {
        let name = self.string(node)?;
        if let Some(device) = Device::parse(name) {
            return Some(device);
        }
        let label = Device::guess(name).map(|device| format!("did you mean `{device}`?")).unwrap_or_default();
        let message = format!("unknown device {}", quoted(name));
        let error = Diagnostic::error(codes::UNKNOWN_DEVICE, node.span, message).label(label);
        self.diagnostics.push(error.help("accepted are iphone, android, macabi"));
        None
    }

    fn target_devices(&mut self, node: &Node) -> Option<Vec<Spanned<String>>> {
        let mut names: Vec<Spanned<String>> = Vec::new();
        for item in self.list(node, "device profiles")? {
            let Some(name) = self.string(item) else { continue };
            if let Some(first) = names.iter().find(|first| first.value == name) {
                let message = format!("{} is named twice", quoted(name));
                let error =
                    Diagnostic::warning(codes::DUPLICATE_KEY, item.span, message).related(first.span, "first here");
                self.diagnostics.push(error);
            } else {
                names.push(Spanned::new(name.to_owned(), item.span));
            }
        }
        Some(names)
    }

    fn prebuilt(&mut self, node: &Node) -> Option<Vec<WrittenPrebuilt>> {
        let members = self.object(node, "library prefixes with the paths of their files")?;
        let mut libraries = Vec::new();
        for member in members {
            self.check_prefix(&member.key.value, member.key.span);
            let field = self.field(member, |reader, node| {
                let path = reader.string(node)?;
                if path.is_empty() || path.contains('\0') {
                    reader.error(codes::EMPTY, node.span, "the path of a prebuilt library is empty", "");
                    return None;
                }
                Some(path.to_owned())
            });
            libraries.push(WrittenPrebuilt { prefix: member.key.value.clone(), field });
        }
        Some(libraries)
    }

    fn models(&mut self, node: &Node) -> Option<Vec<WrittenModel>> {
        let items = self.list(node, "models")?;
        if items.len() > MAX_MODELS {
            let message = format!("{} models; a manifest may have {MAX_MODELS}", items.len());
            self.error(codes::TOO_LARGE, node.span, message, "");
            return None;
        }
        let models: Vec<WrittenModel> = items.iter().filter_map(|item| self.model(item)).collect();
        let mut seen: Vec<(&str, Span)> = Vec::new();
        for model in &models {
            let Some(Field { given: Given::Value(id), span, .. }) = &model.model_id else { continue };
            match seen.iter().find(|(other, _)| other.eq_ignore_ascii_case(id)) {
                Some((other, first)) => self.diagnostics.push(duplicate_id(id, *span, other, *first)),
                None => seen.push((id, *span)),
            }
        }
        Some(models)
    }

    fn model(&mut self, node: &Node) -> Option<WrittenModel> {
        let members = self.object(node, "a model")?;
        let override_keys = OverrideKey::ALL.map(OverrideKey::as_str);
        let elsewhere: [(&[&str], &str); 2] =
            [(&override_keys, "`overrides`"), (&MANIFEST_KEYS, "the manifest's top level")];
        self.unknown_keys(members, &MODEL_KEYS, "an entry of `model_list`", &elsewhere);
        let find = |key: &str| members.iter().find(|member| member.key.value == key);
        Some(WrittenModel {
            span: node.span,
            model: find("model").map(|member| self.field(member, Self::source)),
            model_id: find("model_id").map(|member| self.field(member, Self::model_id)),
            estimated_vram_bytes: find("estimated_vram_bytes").map(|member| self.field(member, Self::bytes)),
            bundle_weight: find("bundle_weight").map(|member| self.field(member, Self::bool)),
            overrides: find("overrides").map(|member| self.field(member, Self::overrides)),
            model_lib: find("model_lib").map(|member| self.field(member, Self::model_lib)),
            quantization: find("quantization").map(|member| self.field(member, Self::quantization)),
        })
    }

    fn source(&mut self, node: &Node) -> Option<SourceText> {
        let text = self.string(node)?;
        match SourceText::parse(text, self.hf_endpoint) {
            Ok(source) => Some(source),
            Err(error) => {
                let found = Diagnostic::error(codes::BAD_SOURCE, node.span, error.to_string());
                self.diagnostics.push(found.maybe_help(error.help()));
                None
            }
        }
    }

    fn model_id(&mut self, node: &Node) -> Option<String> {
        let id = self.string(node)?;
        match check_model_id(id) {
            Ok(()) => Some(id.to_owned()),
            Err(reason) => {
                let message = format!("{} can not be a model id: {reason}", quoted(id));
                let error = Diagnostic::error(codes::BAD_MODEL_ID, node.span, message)
                    .help("the id becomes a folder name on every system: letters, digits, `.`, `_` and `-`, no leading or trailing dot");
                self.diagnostics.push(error);
                None
            }
        }
    }

    /// A budget: no model needs nothing.
    fn bytes(&mut self, node: &Node) -> Option<u64> {
        self.byte_count(node, 1, "a positive whole number", "it is computed")
    }

    /// A reserve; nothing is one too.
    fn reserve(&mut self, node: &Node) -> Option<u64> {
        self.byte_count(node, 0, "a whole number", &format!("it is {DEFAULT_APP_RESERVE}"))
    }

    /// Bytes, at least `least`; `otherwise` says what holds without the key.
    fn byte_count(&mut self, node: &Node, least: i128, number_of: &str, otherwise: &str) -> Option<u64> {
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
                self.wrong_type(node, &format!("{number_of} of bytes"));
                return None;
            }
        };
        let help = match help {
            Some(bytes) => format!("write {bytes}"),
            None => format!("write {number_of} of bytes, or leave the key out: then {otherwise}"),
        };
        let error = Diagnostic::error(codes::BAD_SIZE, node.span, message).label(format!("expected {number_of}"));
        self.diagnostics.push(error.help(help));
        None
    }

    fn model_lib(&mut self, node: &Node) -> Option<String> {
        let prefix = self.string(node)?;
        self.check_prefix(prefix, node.span).then(|| prefix.to_owned())
    }

    /// A library prefix becomes part of a symbol in C.
    fn check_prefix(&mut self, prefix: &str, span: Span) -> bool {
        let letters = prefix.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let begins = prefix.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if letters && begins && prefix.len() <= MAX_ID {
            return true;
        }
        let mut plain: String =
            prefix.chars().take(MAX_ID).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if plain.starts_with(|c: char| c.is_ascii_digit()) {
            plain.insert(0, '_');
        }
        let message = format!("{} can not be a library prefix", quoted(prefix));
        let label = if plain.is_empty() { String::new() } else { format!("did you mean `{plain}`?") };
        let error = Diagnostic::error(codes::BAD_MODEL_LIB, span, message).label(label).help(
            "the prefix becomes part of a symbol: letters, digits and `_`, not a digit first, at most 128 characters",
        );
        self.diagnostics.push(error);
        false
    }

    fn quantization(&mut self, node: &Node) -> Option<Quantization> {
        let name = self.string(node)?;
        if let Ok(format) = name.parse() {
            return Some(format);
        }
        let names = QUANTIZATIONS.map(|format| format.name);
        // The default first: it wins among equally near ones.
        let candidates = [DEFAULT_QUANTIZATION].into_iter().chain(names);
        let label = nearest(name, candidates).map(|near| format!("did you mean `{near}`?")).unwrap_or_default();
        let message = format!("unknown quantization {}", quoted(name));
        let error = Diagnostic::error(codes::UNKNOWN_QUANTIZATION, node.span, message).label(label);
        self.diagnostics.push(error.help(format!("accepted are {}", names.join(", "))));
        None
    }

    fn overrides(&mut self, node: &Node) -> Option<Vec<WrittenOverride>> {
        let members = self.object(node, "overrides")?;
        let known = OverrideKey::ALL.map(OverrideKey::as_str);
        self.unknown_keys(members, &known, "`overrides`", &[(&MODEL_KEYS, "the model's entry, outside `overrides`")]);
        let mut overrides = Vec::new();
        for member in members {
            let Some(name) = OverrideKey::parse(&member.key.value) else { continue };
            let field = self.field(member, |reader, node| reader.override_value(name, node));
            overrides.push(WrittenOverride { name, field });
        }
        Some(overrides)
    }

    fn override_value(&mut self, key: OverrideKey, node: &Node) -> Option<Option<u64>> {
        match key {
            OverrideKey::Opt => {
                let text = self.string(node)?;
                if is_opt(text) {
                    return Some(None);
                }
                let message = format!("{} is no optimization setting", quoted(text));
                let help = "accepted, without effect, are MLC's presets O0 to O3 and lists such as \"flashinfer=1;cudagraph=0\"";
                self.diagnostics.push(Diagnostic::error(codes::BAD_OVERRIDE, node.span, message).help(help));
                None
            }
            OverrideKey::Disaggregation => {
                if self.bool(node)? {
                    let message = "disaggregation must be false: one device runs the whole model";
                    self.error(codes::BAD_OVERRIDE, node.span, message, "only false is accepted");
                    return None;
                }
                Some(None)
            }
            _ => self.override_number(key, node),
        }
    }

    fn override_number(&mut self, key: OverrideKey, node: &Node) -> Option<Option<u64>> {
        let Kind::Number(number) = &node.kind else {
            self.wrong_type(node, "a whole number");
            return None;
        };
        let Ok(value) = number.parse::<i128>() else {
            let message = if number.contains(['.', 'e', 'E']) {
                format!("{key} must be a whole number, not {}", quoted(number))
            } else {
                format!("{key} {} is too large", quoted(number))
            };
            let help = whole(number).map(|number| format!("write {number}"));
            self.diagnostics.push(Diagnostic::error(codes::BAD_OVERRIDE, node.span, message).maybe_help(help));
            return None;
        };
        match check_number(key, value) {
            Ok(value) => {
                if key == OverrideKey::MaxBatchSize && value.is_some_and(|value| value > 1) {
                    let message = "max_batch_size has no effect: a phone serves one conversation at a time";
                    self.diagnostics.push(Diagnostic::warning(codes::OVERRIDE_WITHOUT_EFFECT, node.span, message));
                }
                Some(value)
            }
            Err(error) => {
                self.error(codes::BAD_OVERRIDE, node.span, error.to_string(), "");
                None
            }
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
    if id.eq_ignore_ascii_case("mlc-app-config.json") {
        return Err("the package's own configuration has that name".to_owned());
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
