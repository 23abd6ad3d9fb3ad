//! `knapsack.lock`: which commit of each remote model, and path, size and sha256 of every file that a package needs from it.
//!
//! The file is JSON with one line per file, in a fixed order, so that a diff shows what moved. `version` is breaking: another
//! version is refused. `revision` is additive: a file of a later revision is read, what this version does not know is ignored.

use knapsack_artifact::files;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::source::ModelForm;
use serde::Deserialize;

/// Name of the file, beside the manifest.
pub const LOCKFILE_NAME: &str = "knapsack.lock";
/// Breaking version of the format.
pub(crate) const LOCKFILE_VERSION: u32 = 1;
/// Additive revision of the format: 1 adds `license` and `base_models`. A lockfile without them is written as revision 0.
pub(crate) const LOCKFILE_REVISION: u32 = 1;

const MAX_TEXT: u64 = 64 << 20;
const MAX_MODELS: usize = 4096;
const MAX_FILES: usize = 20_000;
/// Most models that one was made from, and longest text of a card.
const MAX_BASE_MODELS: usize = 64;
const MAX_CARD_TEXT: usize = 256;

/// Everything that was resolved for one manifest. Local models do not appear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lockfile {
    /// The locked models, sorted by `model_id`.
    pub models: Vec<LockedModel>,
}

/// One remote model at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LockedModel {
    /// The manifest's `model_id`.
    pub model_id: String,
    /// The source in its normal form, `HF://org/name` or `HF://org/name@revision`. Another source makes the entry stale.
    pub model: String,
    /// Commit of the repository, 40 lower-case hexadecimal digits.
    pub commit: String,
    /// Format of the model there.
    pub format: ModelForm,
    /// What its card says.
    #[serde(flatten)]
    pub card: ModelCard,
    /// The files that the package needs, sorted by path.
    pub files: Vec<LockedFile>,
}

/// What a model's card says of its rights and its origin. It is passed on, and nothing is decided by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ModelCard {
    /// The licence: an SPDX identifier, or the name that its authors gave it.
    #[serde(default)]
    pub license: Option<String>,
    /// What the model was made from: repositories of the hub.
    #[serde(default)]
    pub base_models: Vec<String>,
}

impl ModelCard {
    /// From what a card says under `license`, `license_name` and `base_model`: what is too long or too much is left out.
    pub fn new(license: Option<&str>, license_name: Option<&str>, base_models: &[&str]) -> Self {
        let usable = |text: &&str| !text.is_empty() && is_card_text(text);
        let license = license.map(str::trim).filter(usable);
        // The hub's word for a licence that it has no word for.
        let license = match (license, license_name.map(str::trim).filter(usable)) {
            (Some("other") | None, Some(name)) => Some(name),
            (license, _) => license,
        };
        let base_models = base_models.iter().map(|name| name.trim()).filter(usable).take(MAX_BASE_MODELS);
        Self { license: license.map(str::to_owned), base_models: base_models.map(str::to_owned).collect() }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn check(&self) -> Result<(), String> {
        if self.base_models.len() > MAX_BASE_MODELS {
            return Err(format!("{} base models, at most {MAX_BASE_MODELS}", self.base_models.len()));
        }
        match self.license.iter().chain(&self.base_models).find(|text| !is_card_text(text)) {
            Some(_) => Err(format!("its card has a text of more than {MAX_CARD_TEXT} bytes, or control characters")),
            None => Ok(()),
        }
    }
}

fn is_card_text(text: &str) -> bool {
    text.len() <= MAX_CARD_TEXT && !text.chars().any(char::is_control)
}

/// One file of a locked model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct LockedFile {
    /// Path in the repository, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// sha256 of the content, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// What is wrong with a lockfile.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum LockfileError {
    /// It cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// It is larger than any real one.
    #[error("the lockfile is larger than {limit} bytes")]
    TooLarge {
        /// Accepted size.
        limit: u64,
    },
    /// It is not the JSON of a lockfile.
    #[error("the lockfile is damaged")]
    Syntax(#[source] serde_json::Error),
    /// It was written in a format that this version does not know.
    #[error(
        "the lockfile has version {found}, this knapsack reads version {expected}; run `knapsack update` to write it anew"
    )]
    Version {
        /// The file's version.
        found: u32,
        /// The version read here.
        expected: u32,
    },
    /// A value in it cannot be.
    #[error("the lockfile is damaged: {place}: {reason}")]
    Invalid {
        /// Which model or file.
        place: String,
        reason: String,
    },
}

#[derive(Deserialize)]
struct Header {
    version: u32,
}

#[derive(Deserialize)]
struct Body {
    models: Vec<LockedModel>,
}

impl Lockfile {
    /// The entry of `model_id`.
    pub fn model(&self, model_id: &str) -> Option<&LockedModel> {
        self.models.iter().find(|model| model.model_id == model_id)
    }

    /// Reads the lockfile at `path`; `None` when there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, LockfileError> {
        let failed = |source| LockfileError::Io { action: "read", path: path.to_owned(), source };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut text = String::new();
        file.take(MAX_TEXT + 1).read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text).map(Some)
    }

    /// Reads the text of a lockfile. Every name in the result is a safe relative path, every digest well-formed.
    pub fn parse(text: &str) -> Result<Self, LockfileError> {
        if text.len() as u64 > MAX_TEXT {
            return Err(LockfileError::TooLarge { limit: MAX_TEXT });
        }
        let header: Header = serde_json::from_str(text).map_err(LockfileError::Syntax)?;
        if header.version != LOCKFILE_VERSION {
            return Err(LockfileError::Version { found: header.version, expected: LOCKFILE_VERSION });
        }
        let body: Body = serde_json::from_str(text).map_err(LockfileError::Syntax)?;
        let mut lock = Self { models: body.models };
        lock.check()?;
        lock.sort();
        Ok(lock)
    }

    /// The text of the lockfile: the same for the same content, one line per file.
    pub(crate) fn to_text(&self) -> String {
        let mut sorted = self.clone();
        sorted.sort();
        let revision = if sorted.models.iter().all(|model| model.card.is_empty()) { 0 } else { LOCKFILE_REVISION };
        let mut text =
            format!("{{\n    \"version\": {LOCKFILE_VERSION},\n    \"revision\": {revision},\n    \"models\": [");
        for (index, model) in sorted.models.iter().enumerate() {
            text.push_str(if index == 0 { "\n" } else { ",\n" });
            write_model(&mut text, model);
        }
        text.push_str(if sorted.models.is_empty() { "]\n}\n" } else { "\n    ]\n}\n" });
        text
    }

    /// Writes it beside `path` and renames it there, with the line ends of the file that is there. Leaves a file with the same text
    /// untouched; says whether it wrote.
    pub fn write(&self, path: &Path) -> Result<bool, LockfileError> {
        let mut text = self.to_text();
        let old = std::fs::read(path).unwrap_or_default();
        if old.windows(2).any(|end| end == b"\r\n") {
            text = text.replace('\n', "\r\n");
        }
        if old == text.as_bytes() {
            return Ok(false);
        }
        let failed = |source| LockfileError::Io { action: "write", path: path.to_owned(), source };
        let name = path.file_name().unwrap_or(LOCKFILE_NAME.as_ref()).to_string_lossy();
        let beside = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        files::replace(path, &beside, text.as_bytes()).map(|()| true).map_err(failed)
    }

    fn sort(&mut self) {
        self.models.sort_by(|a, b| a.model_id.cmp(&b.model_id));
        for model in &mut self.models {
            model.files.sort();
        }
    }

    fn check(&self) -> Result<(), LockfileError> {
        let invalid = |place: &str, reason: String| Err(LockfileError::Invalid { place: place.to_owned(), reason });
        if self.models.len() > MAX_MODELS {
            return invalid("models", format!("{} entries, at most {MAX_MODELS}", self.models.len()));
        }
        let mut ids = BTreeSet::new();
        for model in &self.models {
            if !ids.insert(&model.model_id) {
                return invalid(&model.model_id, "appears twice".to_owned());
            }
            if !is_digest(&model.commit, 40) {
                return invalid(&model.model_id, format!("commit {:?} is not 40 hexadecimal digits", model.commit));
            }
            if let Err(problem) = model.card.check() {
                return invalid(&model.model_id, problem);
            }
            if model.files.len() > MAX_FILES {
                return invalid(&model.model_id, format!("{} files, at most {MAX_FILES}", model.files.len()));
            }
            check_files(model)?;
        }
        Ok(())
    }
}

impl LockedModel {
    /// Sum of the file sizes.
    pub fn total_size(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }
}

fn check_files(model: &LockedModel) -> Result<(), LockfileError> {
    let mut paths = BTreeSet::new();
    let mut total = 0u64;
    for file in &model.files {
        let invalid = |reason: String| {
            Err(LockfileError::Invalid { place: format!("{}: {:?}", model.model_id, file.path), reason })
        };
        if let Err(reason) = check_relative_path(&file.path) {
            return invalid(reason.to_owned());
        }
        if !paths.insert(file.path.to_lowercase()) {
            return invalid("appears twice".to_owned());
        }
        if !is_digest(&file.sha256, 64) {
            return invalid(format!("sha256 {:?} is not 64 hexadecimal digits", file.sha256));
        }
        match total.checked_add(file.size) {
            Some(sum) => total = sum,
            None => return invalid("the sizes add up to more than 2^64 bytes".to_owned()),
        }
    }
    Ok(())
}

fn write_model(text: &mut String, model: &LockedModel) {
    let quoted = |value: &str| serde_json::Value::from(value).to_string();
    text.push_str("        {\n");
    for (key, value) in [
        ("model_id", model.model_id.as_str()),
        ("model", &model.model),
        ("commit", &model.commit),
        ("format", model.format.name()),
    ] {
        let _ = writeln!(text, "            \"{key}\": {},", quoted(value));
    }
    if let Some(license) = &model.card.license {
        let _ = writeln!(text, "            \"license\": {},", quoted(license));
    }
    if !model.card.base_models.is_empty() {
        let names: Vec<_> = model.card.base_models.iter().map(|name| quoted(name)).collect();
        let _ = writeln!(text, "            \"base_models\": [{}],", names.join(", "));
    }
    text.push_str("            \"files\": [");
    for (index, file) in model.files.iter().enumerate() {
        let _ = write!(
            text,
            "{}                {{\"path\": {}, \"size\": {}, \"sha256\": {}}}",
            if index == 0 { "\n" } else { ",\n" },
            quoted(&file.path),
            file.size,
            quoted(&file.sha256)
        );
    }
    text.push_str(if model.files.is_empty() { "]\n        }" } else { "\n            ]\n        }" });
}

/// Whether `text` is a digest of `digits` lower-case hexadecimal digits.
pub fn is_digest(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a name from outside can be joined to a folder and stays inside it, on every platform: `/` separates, no empty,
/// `.` or `..` part, nothing absolute, no backslash, colon, control character or other character that Windows refuses, no
/// reserved device name. The error says which rule it breaks.
pub fn check_relative_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the name is empty");
    }
    if path.len() > 1024 {
        return Err("the name is longer than 1024 bytes");
    }
    if path.starts_with('/') {
        return Err("the name is absolute");
    }
    path.split('/').try_for_each(check_path_part)
}

fn check_path_part(part: &str) -> Result<(), &'static str> {
    const DIGITS: &[char] = &['1', '2', '3', '4', '5', '6', '7', '8', '9', '\u{b9}', '\u{b2}', '\u{b3}'];
    const RESERVED: &[&str] = &["con", "prn", "aux", "nul", "conin$", "conout$"];
    let stem = part.split('.').next().unwrap_or(part).trim_end().to_ascii_lowercase();
    let number = stem.strip_prefix("com").or(stem.strip_prefix("lpt"));
    let numbered = number.is_some_and(|number| number.chars().count() == 1 && number.contains(DIGITS));
    match part {
        "" => Err("the name has an empty part"),
        "." | ".." => Err("the name has a `.` or `..` part"),
        _ if part.len() > 255 => Err("a part of the name is longer than 255 bytes"),
        _ if part.contains(|c: char| c.is_control() || "\\:*?\"<>|".contains(c)) => {
            Err("the name has a character that file names cannot have everywhere")
        }
        _ if part.ends_with(['.', ' ']) => Err("a part of the name ends with a dot or a space"),
        _ if numbered || RESERVED.contains(&stem.as_str()) => Err("the name is a reserved device name"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> LockedFile {
        LockedFile { path: path.to_owned(), size, sha256: "0a".repeat(32) }
    }

    fn example() -> Lockfile {
        let model = |model_id: &str, files| LockedModel {
            model_id: model_id.to_owned(),
            model: "HF://org/name@main".to_owned(),
            commit: "1f".repeat(20),
            format: ModelForm::Mlc,
            card: ModelCard::default(),
            files,
        };
        let files = vec![file("params_shard_0.bin", 33_554_432), file("mlc-chat-config.json", 2409)];
        Lockfile { models: vec![model("zebra", files), model("ant", vec![])] }
    }

    #[test]
    fn the_text_is_stable_and_reads_back() {
        let text = example().to_text();
        insta::assert_snapshot!(text, @r#"
        {
            "version": 1,
            "revision": 0,
            "models": [
                {
                    "model_id": "ant",
                    "model": "HF://org/name@main",
                    "commit": "1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f",
                    "format": "mlc",
                    "files": []
                },
                {
                    "model_id": "zebra",
                    "model": "HF://org/name@main",
                    "commit": "1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f",
                    "format": "mlc",
                    "files": [
                        {"path": "mlc-chat-config.json", "size": 2409, "sha256": "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"},
                        {"path": "params_shard_0.bin", "size": 33554432, "sha256": "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"}
                    ]
                }
            ]
        }
        "#);
        let read = Lockfile::parse(&text).unwrap();
        assert_eq!(read.to_text(), text);
        assert_eq!(read.model("zebra").unwrap().total_size(), 33_554_432 + 2409);
        assert_eq!(Lockfile::parse(&Lockfile::default().to_text()).unwrap(), Lockfile::default());
    }

    #[test]
    fn a_later_revision_is_read_and_a_later_version_is_not() {
        let text = example().to_text().replace("\"revision\": 0", "\"revision\": 7, \"extra\": [1]");
        assert!(Lockfile::parse(&text).is_ok());
        let text = example().to_text().replace("\"version\": 1", "\"version\": 2");
        assert!(matches!(Lockfile::parse(&text), Err(LockfileError::Version { found: 2, expected: 1 })));
        assert!(matches!(Lockfile::parse("{\"version\": 2}"), Err(LockfileError::Version { .. })));
    }

    #[test]
    fn what_a_card_says_is_kept_and_bounded() {
        let mut lock = example();
        lock.models[0].card = ModelCard::new(Some("other"), Some("gemma"), &["google/gemma-3-1b", "a\nb", ""]);
        let text = lock.to_text();
        assert!(text.contains("\"revision\": 1") && text.contains("            \"license\": \"gemma\",\n"), "{text}");
        assert!(text.contains("            \"base_models\": [\"google/gemma-3-1b\"],\n"), "{text}");
        let read = Lockfile::parse(&text).unwrap();
        assert_eq!(read.to_text(), text);
        assert_eq!(read.model("zebra").unwrap().card.license.as_deref(), Some("gemma"));
        assert_eq!(ModelCard::new(Some("mit"), Some("ignored"), &[]).license.as_deref(), Some("mit"));
        let long = "x".repeat(MAX_CARD_TEXT + 1);
        assert_eq!(ModelCard::new(Some(&long), None, &[&long]), ModelCard::default());
        for to in [long.as_str(), "a\\nb"] {
            assert!(matches!(
                Lockfile::parse(&text.replace("gemma\"", &format!("{to}\""))),
                Err(LockfileError::Invalid { .. })
            ));
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let text = example().to_text();
        for (from, to) in [
            ("params_shard_0.bin", "../params_shard_0.bin"),
            ("params_shard_0.bin", "/etc/passwd"),
            ("params_shard_0.bin", "a\\\\b"),
            ("params_shard_0.bin", "MLC-chat-config.json"),
            ("0a0a0a\"", "0A0a0a\""),
            ("1f1f\"", "1f1\""),
            ("\"ant\"", "\"zebra\""),
            ("33554432", "18446744073709551615"),
        ] {
            let damaged = text.replace(from, to);
            assert_ne!(damaged, text);
            assert!(matches!(Lockfile::parse(&damaged), Err(LockfileError::Invalid { .. })), "{from} -> {to}");
        }
        for damaged in ["", "[]", "{}", "{\"version\":1}", &text[..text.len() / 2], &text.replace("2409", "-1")] {
            assert!(matches!(Lockfile::parse(damaged), Err(LockfileError::Syntax(_))), "{damaged}");
        }
    }

    #[test]
    fn writing_the_same_again_leaves_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCKFILE_NAME);
        assert!(Lockfile::read(&path).unwrap().is_none());
        assert!(example().write(&path).unwrap());
        assert!(!example().write(&path).unwrap());
        // Git may have checked it out with other line ends, which then stay.
        let windows = example().to_text().replace('\n', "\r\n");
        std::fs::write(&path, &windows).unwrap();
        assert!(!example().write(&path).unwrap());
        std::fs::write(&path, windows.replace("zebra", "bear")).unwrap();
        assert!(example().write(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), windows);
        assert_eq!(Lockfile::read(&path).unwrap().unwrap().to_text(), example().to_text());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn unsafe_names_are_named_as_such() {
        for good in
            ["a", "a/b.c", ".gitattributes", "params_shard_0.bin", "..a", "ünïcode", "COM10", "console", "coma", "lpt0"]
        {
            assert_eq!(check_relative_path(good), Ok(()), "{good}");
        }
        let long = "x".repeat(256);
        for bad in [
            "", "/a", "a//b", "a/", ".", "..", "a/../b", "../a", "a\\b", "C:\\a", "c:a", "a\0b", "a\nb", "nul",
            "NUL.txt", "com1", "a.", "a ", "dir./a", &long, "a*b",
        ] {
            assert!(check_relative_path(bad).is_err(), "{bad:?}");
        }
    }
}
