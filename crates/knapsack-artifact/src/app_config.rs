//! `mlc-app-config.json`: what the app reads to know its models. MLC's keys, so that MLC's apps read it, and Knapsack's.

use crate::delivery::Delivery;
use crate::library::MemoryPlan;
use crate::names::{self, UnsafeName};
use crate::weight_index::read_bounded;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::path::Path;

/// File name inside `bundle/`.
pub const FILE_NAME: &str = "mlc-app-config.json";
/// Largest file that is read.
pub const MAX_BYTES: u64 = 16 << 20;
/// Most models.
pub const MAX_MODELS: usize = 4096;
/// Most files of a model.
pub const MAX_FILES: usize = 1 << 16;
/// Most packs of a model.
pub(crate) const MAX_PACKS: usize = 256;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AppConfig {
    /// In the order of the manifest.
    pub model_list: Vec<AppModel>,
    /// The app's own keys, as the manifest gives them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub app: Map<String, Value>,
}

/// One model of the app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppModel {
    /// Where its weights are: `model_path`, `model_url` or `asset_packs`.
    #[serde(flatten)]
    pub weights: WeightsLocation,
    /// Name at runtime, and of the weight folder.
    pub model_id: String,
    /// Prefix of the library's symbol ([`crate::ModelLibrary::symbol`]).
    pub model_lib: String,
    /// The budget by which the runtime loads and evicts.
    pub estimated_vram_bytes: u64,
    /// Revision that was packaged, where the source has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Exact device memory; absent in files that Knapsack did not write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_memory: Option<PlannedMemory>,
    /// Most positions of a conversation; -1 in the file: none (sliding window).
    #[serde(default, with = "window")]
    pub context_window_size: Option<u32>,
    /// Positions that a query sees; -1 in the file: no sliding window.
    #[serde(default, with = "window")]
    pub sliding_window_size: Option<u32>,
    /// Most tokens of one prefill call; -1 in the file: not said.
    #[serde(default, with = "window")]
    pub prefill_chunk_size: Option<u32>,
    /// The app's own keys for this model, as the manifest gives them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub app: Map<String, Value>,
    /// Every file of the weight folder; the runtime downloads and verifies by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<AppFile>,
}

/// Where the weights of a model are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WeightsLocation {
    /// In the package: the folder beside the app config.
    #[serde(rename = "model_path")]
    Bundled(String),
    /// Downloaded at first launch from here.
    #[serde(rename = "model_url")]
    Download(String),
    /// In packs that a store delivers beside the app.
    #[serde(rename = "asset_packs")]
    Packs(AssetPacks),
}

/// The packs that hold a model's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetPacks {
    /// Whose they are, and when they come.
    pub delivery: Delivery,
    /// Their names; each file is in one of them.
    pub names: Vec<String>,
    /// Where the files lie, in each pack.
    pub folder: String,
}

/// [`MemoryPlan`] and the tokenizer, with their total spelled out for readers that do not add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMemory {
    /// Sum of the parameters, in bytes.
    pub weights: u64,
    /// Parameters that stay in the mapped file, in bytes; no part of the total.
    #[serde(default, skip_serializing_if = "crate::library::is_zero")]
    pub file: u64,
    /// Keys and values, in bytes.
    pub kv_cache: u64,
    /// What recurrent layers remember, in bytes: their state, and the copy that is set aside.
    #[serde(default, skip_serializing_if = "crate::library::is_zero")]
    pub state: u64,
    /// Activations and logits, in bytes.
    pub workspace: u64,
    /// What the runtime holds to turn text into tokens, in bytes; not on the device.
    #[serde(default)]
    pub tokenizer: u64,
    /// Sum of them all but `file`.
    pub total: u64,
}

impl PlannedMemory {
    /// A device's memory and a tokenizer's.
    pub const fn new(plan: MemoryPlan, tokenizer: u64) -> Self {
        let MemoryPlan { weights, file, kv_cache, state, workspace } = plan;
        Self { weights, file, kv_cache, state, workspace, tokenizer, total: plan.total().saturating_add(tokenizer) }
    }
}

/// One file of a weight folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppFile {
    /// Relative to the weight folder, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// Why an app config is not usable.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum AppConfigError {
    /// The file cannot be read.
    #[error("cannot read the app config")]
    Read(#[source] std::io::Error),
    /// Larger than any real one.
    #[error("the app config is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not the JSON that is expected.
    #[error("the app config cannot be decoded")]
    Decode(#[source] serde_json::Error),
    /// Too many models or files.
    #[error("the app config lists {count} {what}, more than the limit of {limit}")]
    TooMany {
        /// `models` or `files`.
        what: &'static str,
        /// How many it lists.
        count: usize,
        /// How many are read.
        limit: usize,
    },
    /// A name that could leave its folder.
    #[error("the app config names a file that is not safe to use")]
    Name(#[from] UnsafeName),
    /// Two models of one name.
    #[error("the app config lists model `{0}` twice")]
    Duplicate(String),
    /// A value that makes no sense.
    #[error("app config, model `{model_id}`: {problem}")]
    Value { model_id: String, problem: String },
}

impl AppConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// [`AppConfigError`].
    pub fn read(path: &Path) -> Result<Self, AppConfigError> {
        Self::decode(&read_bounded(path, MAX_BYTES).map_err(AppConfigError::Read)?)
    }

    /// Parses and checks.
    ///
    /// # Errors
    /// [`AppConfigError`], in the order of its variants.
    pub fn decode(bytes: &[u8]) -> Result<Self, AppConfigError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(AppConfigError::TooLarge);
        }
        let config: Self = serde_json::from_slice(bytes).map_err(AppConfigError::Decode)?;
        config.check()?;
        Ok(config)
    }

    /// The file's text.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("an app config has only serializable fields");
        text.push(b'\n');
        text
    }

    /// The model of this name.
    pub fn model(&self, model_id: &str) -> Option<&AppModel> {
        self.model_list.iter().find(|model| model.model_id == model_id)
    }

    /// Checks names, counts and values; what [`AppConfig::decode`] returns has passed.
    ///
    /// # Errors
    /// The first problem.
    pub fn check(&self) -> Result<(), AppConfigError> {
        if self.model_list.len() > MAX_MODELS {
            return Err(AppConfigError::TooMany { what: "models", count: self.model_list.len(), limit: MAX_MODELS });
        }
        let mut seen = HashSet::new();
        for model in &self.model_list {
            if !seen.insert(model.model_id.to_lowercase()) {
                return Err(AppConfigError::Duplicate(model.model_id.clone()));
            }
            model.check()?;
        }
        Ok(())
    }
}

impl AppModel {
    fn check(&self) -> Result<(), AppConfigError> {
        names::check_file_name(&self.model_id)?;
        let problem = |problem: String| AppConfigError::Value { model_id: self.model_id.clone(), problem };
        if !is_symbol_prefix(&self.model_lib) {
            return Err(problem(format!("`model_lib` is not a symbol name: `{}`", self.model_lib.escape_default())));
        }
        match &self.weights {
            WeightsLocation::Bundled(path) => names::check_relative_path(path)?,
            WeightsLocation::Download(url) if url.starts_with("https://") || url.starts_with("http://") => {}
            WeightsLocation::Download(url) => {
                return Err(problem(format!("`model_url` is not a web address: `{}`", url.escape_default())));
            }
            WeightsLocation::Packs(packs) => {
                names::check_relative_path(&packs.folder)?;
                packs.names.iter().try_for_each(|name| names::check_file_name(name))?;
                let delivery = packs.delivery;
                if delivery.store().is_none() || packs.names.is_empty() || packs.names.len() > MAX_PACKS {
                    return Err(problem(format!("`asset_packs`: {} packs by {delivery}", packs.names.len())));
                }
            }
        }
        if self.files.len() > MAX_FILES {
            return Err(AppConfigError::TooMany { what: "files", count: self.files.len(), limit: MAX_FILES });
        }
        let mut paths = HashSet::new();
        for file in &self.files {
            names::check_relative_path(&file.path)?;
            if !is_sha256(&file.sha256) {
                return Err(problem(format!("the sha256 of `{}` is not 64 lower-case hexadecimal digits", file.path)));
            }
            if !paths.insert(file.path.to_lowercase()) {
                return Err(problem(format!("`{}` is listed twice", file.path)));
            }
        }
        Ok(())
    }
}

/// Whether `text` can be the first part of a symbol: letters, digits, `_`, `.`, `-`, `$`; at most 512 bytes.
pub fn is_symbol_prefix(text: &str) -> bool {
    (1..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-$".contains(&byte))
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// `None` is -1, as in `mlc-chat-config.json`.
mod window {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map_or(-1, i64::from).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        match i64::deserialize(deserializer)? {
            -1 => Ok(None),
            value => u32::try_from(value)
                .map(Some)
                .map_err(|_| serde::de::Error::custom(format_args!("{value} is neither -1 nor a number of positions"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> AppModel {
        AppModel {
            weights: WeightsLocation::Bundled("tiny".into()),
            model_id: "tiny".into(),
            model_lib: "llama_q4f16_1".into(),
            estimated_vram_bytes: 3_000_000_000,
            revision: None,
            planned_memory: Some(PlannedMemory::new(
                MemoryPlan { weights: 1, kv_cache: 2, workspace: 3, ..MemoryPlan::default() },
                4,
            )),
            context_window_size: None,
            sliding_window_size: Some(512),
            prefill_chunk_size: Some(128),
            app: Map::from_iter([("group".to_owned(), "tiny".into())]),
            files: vec![AppFile { path: "tokenizer.json".into(), size: 4, sha256: "0".repeat(64) }],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let config = AppConfig { model_list: vec![model()], app: Map::from_iter([("theme".to_owned(), 3.into())]) };
        let text = String::from_utf8(config.encode()).unwrap();
        assert!(text.contains("\"model_path\": \"tiny\"") && text.contains("\"context_window_size\": -1"), "{text}");
        assert_eq!(AppConfig::decode(text.as_bytes()).unwrap(), config);
    }

    #[test]
    fn an_app_config_of_mlc_is_read() {
        let text = br#"{"model_list": [{"model_id": "a", "model_lib": "llama_q4f16_1_0123abcd",
            "model_url": "https://huggingface.co/org/a", "estimated_vram_bytes": 5, "other": {"x": [1]}}]}"#;
        let config = AppConfig::decode(text).unwrap();
        assert_eq!(
            config.model("a").unwrap().weights,
            WeightsLocation::Download("https://huggingface.co/org/a".into())
        );
        assert!(config.model("A").is_none());
    }

    #[test]
    fn packs_are_read_and_checked() {
        let packs = AssetPacks {
            delivery: Delivery::PlayOnDemand,
            names: vec!["tiny".into(), "tiny_2".into()],
            folder: "knapsack/tiny".into(),
        };
        let with = |packs: AssetPacks| {
            let model = AppModel { weights: WeightsLocation::Packs(packs), ..model() };
            AppConfig { model_list: vec![model], app: Map::new() }
        };
        let text = String::from_utf8(with(packs.clone()).encode()).unwrap();
        assert!(text.contains("\"asset_packs\": {") && text.contains("\"delivery\": \"play-on-demand\""), "{text}");
        assert_eq!(AppConfig::decode(text.as_bytes()).unwrap(), with(packs.clone()));
        for bad in [
            AssetPacks { delivery: Delivery::Bundled, ..packs.clone() },
            AssetPacks { names: vec![], ..packs.clone() },
            AssetPacks { names: vec!["../x".into()], ..packs.clone() },
            AssetPacks { folder: "/etc".into(), ..packs },
        ] {
            assert!(AppConfig::decode(&with(bad).encode()).is_err());
        }
    }

    type Change = fn(&mut AppModel);

    #[test]
    fn hostile_values_are_refused() {
        let changes: [(&str, Change); 8] = [
            ("another folder", |m| m.model_id = "..".into()),
            ("separator", |m| m.model_id = "a/b".into()),
            ("empty", |m| m.weights = WeightsLocation::Bundled("/etc".into())),
            ("web address", |m| m.weights = WeightsLocation::Download("file:///etc".into())),
            ("another folder", |m| m.files[0].path = "../x".into()),
            ("hexadecimal", |m| m.files[0].sha256 = "A".repeat(64)),
            ("listed twice", |m| m.files.push(AppFile { path: "Tokenizer.json".into(), ..m.files[0].clone() })),
            ("symbol", |m| m.model_lib = "a b".into()),
        ];
        for (expected, change) in changes {
            let mut bad = model();
            change(&mut bad);
            let error = AppConfig::decode(&AppConfig { model_list: vec![bad], app: Map::new() }.encode()).unwrap_err();
            let text =
                format!("{error} {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let twice = AppConfig { model_list: vec![model(), model()], app: Map::new() }.encode();
        assert!(matches!(AppConfig::decode(&twice), Err(AppConfigError::Duplicate(_))));
        for bad in
            [&b"{}"[..], b"[", br#"{"model_list": [{"model_id": "a", "model_lib": "b", "estimated_vram_bytes": -1}]}"#]
        {
            assert!(matches!(AppConfig::decode(bad), Err(AppConfigError::Decode(_))));
        }
        let mut huge = vec![b' '; MAX_BYTES as usize + 1];
        huge[0] = b'{';
        assert!(matches!(AppConfig::decode(&huge), Err(AppConfigError::TooLarge)));
    }
}
