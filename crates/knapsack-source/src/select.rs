//! Which files of a folder or repository make up the model, and of which kind it is. Nothing else is fetched: never pickles,
//! never the other formats that a repository may hold beside.

use std::collections::{BTreeMap, BTreeSet};

use knapsack_config::ModelForm;
use knapsack_config::lockfile::check_relative_path;
use serde::Deserialize;

use crate::error::{Error, Result};

/// Index of an MLC folder, newest name first.
pub(crate) const MLC_INDEXES: &[&str] = &["tensor-cache.json", "ndarray-cache.json"];
/// Configuration of an MLC folder.
pub(crate) const MLC_CONFIG: &str = "mlc-chat-config.json";
const CHECKPOINT_CONFIG: &str = "config.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(crate) const CHECKPOINT_INDEX: &str = "model.safetensors.index.json";
const CHECKPOINT_SINGLE: &str = "model.safetensors";
/// What a tokenizer and its chat template may lie in.
const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];
/// Longest configuration or index that is read.
pub(crate) const MAX_INDEX: u64 = 64 << 20;
const MAX_SHARDS: usize = 10_000;

/// A model's files by role, each list in a fixed order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) format: ModelForm,
    /// Configuration, index, tokenizer.
    pub(crate) metadata: Vec<String>,
    /// Shards or safetensors.
    pub(crate) weights: Vec<String>,
}

/// The files in the root of a folder or repository, and how to read the small ones.
pub(crate) struct Contents<'a> {
    /// For messages: a path or `org/name`.
    pub(crate) place: &'a str,
    /// Name and size.
    pub(crate) files: &'a BTreeMap<String, u64>,
    /// Reads one of them.
    pub(crate) read: &'a mut dyn FnMut(&str) -> Result<Vec<u8>>,
}

#[derive(Deserialize)]
struct MlcConfig {
    #[serde(default)]
    tokenizer_files: Vec<String>,
}

#[derive(Deserialize)]
struct MlcIndex {
    records: Vec<MlcShard>,
}

#[derive(Deserialize)]
struct MlcShard {
    #[serde(rename = "dataPath")]
    data_path: String,
    nbytes: u64,
}

#[derive(Deserialize)]
struct CheckpointIndex {
    weight_map: BTreeMap<String, String>,
}

/// Whether a file of a selection holds weights. The selection sees to it that the name alone tells.
pub(crate) fn is_weights(path: &str) -> bool {
    path.ends_with(".bin") || path.ends_with(".safetensors")
}

impl Contents<'_> {
    /// Decides what the model is, and lists its files.
    pub(crate) fn select(&mut self) -> Result<Selection> {
        let has = |name: &str| self.files.contains_key(name);
        let index = MLC_INDEXES.iter().find(|name| has(name));
        match index.filter(|_| has(MLC_CONFIG)) {
            Some(index) => self.select_mlc(index),
            None if has(CHECKPOINT_CONFIG) && has(CHECKPOINT_INDEX) => self.select_sharded(),
            None => match self.single().filter(|_| has(CHECKPOINT_CONFIG)) {
                Some(file) => {
                    let (metadata, weights) = (self.checkpoint_metadata(), BTreeSet::from([file.clone()]));
                    self.finish(ModelForm::Checkpoint, &file, metadata, weights)
                }
                None => Err(self.not_a_model()),
            },
        }
    }

    /// The weights of a checkpoint in one file: by its usual name, or the only one.
    fn single(&self) -> Option<String> {
        let is_model = |name: &&String| name.ends_with(".safetensors") && !name.starts_with("adapter_model");
        let mut tensors = self.files.keys().filter(is_model);
        match (self.files.contains_key(CHECKPOINT_SINGLE), tensors.next(), tensors.next()) {
            (true, ..) => Some(CHECKPOINT_SINGLE.to_owned()),
            (false, Some(only), None) => Some(only.clone()),
            _ => None,
        }
    }

    fn select_mlc(&mut self, index: &str) -> Result<Selection> {
        let config: MlcConfig = self.json(MLC_CONFIG)?;
        let mut metadata = BTreeSet::from([MLC_CONFIG.to_owned(), index.to_owned()]);
        metadata.extend(self.present(TOKENIZER_FILES));
        for name in config.tokenizer_files {
            self.check_name(&name, MLC_CONFIG)?;
            if self.files.contains_key(&name) && !is_weights(&name) {
                metadata.insert(name);
            }
        }
        let shards: MlcIndex = self.json(index)?;
        let mut weights = BTreeSet::new();
        for shard in shards.records {
            self.check_name(&shard.data_path, index)?;
            if !shard.data_path.ends_with(".bin") {
                return Err(self.damaged(index, format!("{:?} is not a shard", shard.data_path)));
            }
            let size = self.size(&shard.data_path, index)?;
            if size != shard.nbytes {
                let hint = "; the index and the file do not belong together, or the file is not whole";
                let file = format!("{}/{}", self.place, shard.data_path);
                return Err(Error::WrongSize { file, expected: shard.nbytes, found: size, hint });
            }
            weights.insert(shard.data_path);
        }
        self.finish(ModelForm::Mlc, index, metadata, weights)
    }

    fn checkpoint_metadata(&self) -> BTreeSet<String> {
        let own = self.present(&[CHECKPOINT_CONFIG, "generation_config.json"]);
        own.into_iter().chain(self.present(TOKENIZER_FILES)).collect()
    }

    fn select_sharded(&mut self) -> Result<Selection> {
        let mut metadata = self.checkpoint_metadata();
        metadata.insert(CHECKPOINT_INDEX.to_owned());
        let map: CheckpointIndex = self.json(CHECKPOINT_INDEX)?;
        let mut weights = BTreeSet::new();
        for name in map.weight_map.into_values().collect::<BTreeSet<_>>() {
            self.check_name(&name, CHECKPOINT_INDEX)?;
            if !name.ends_with(".safetensors") {
                return Err(self.damaged(CHECKPOINT_INDEX, format!("{name:?} is not a safetensors file")));
            }
            self.size(&name, CHECKPOINT_INDEX)?;
            weights.insert(name);
        }
        self.finish(ModelForm::Checkpoint, CHECKPOINT_INDEX, metadata, weights)
    }

    fn finish(
        &self,
        format: ModelForm,
        index: &str,
        metadata: BTreeSet<String>,
        weights: BTreeSet<String>,
    ) -> Result<Selection> {
        if weights.is_empty() || weights.len() > MAX_SHARDS {
            return Err(
                self.damaged(index, format!("it names {} weight files, expected 1 to {MAX_SHARDS}", weights.len()))
            );
        }
        Ok(Selection { format, metadata: metadata.into_iter().collect(), weights: weights.into_iter().collect() })
    }

    fn present(&self, names: &[&str]) -> Vec<String> {
        names.iter().filter(|name| self.files.contains_key(**name)).map(|name| (*name).to_owned()).collect()
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        let size = self.size(name, name)?;
        if size > MAX_INDEX {
            return Err(self.damaged(name, format!("it has {size} bytes, more than {MAX_INDEX}")));
        }
        let text = (self.read)(name)?;
        knapsack_artifact::json::parse(&text).map_err(|error| self.damaged(name, error.to_string()))
    }

    fn size(&self, name: &str, index: &str) -> Result<u64> {
        let missing = || self.damaged(index, format!("it names {name:?}, which is not there"));
        self.files.get(name).copied().ok_or_else(missing)
    }

    fn check_name(&self, name: &str, index: &str) -> Result<()> {
        let place = format!("{index} of {}", self.place);
        let unsafe_name = |reason| Error::UnsafeName { name: name.to_owned(), place, reason };
        check_relative_path(name).map_err(unsafe_name)?;
        match name.contains('/') {
            true => Err(self.damaged(index, format!("{name:?} lies in a subfolder, where no model has its files"))),
            false => Ok(()),
        }
    }

    fn damaged(&self, file: &str, reason: String) -> Error {
        Error::DamagedMetadata { place: self.place.to_owned(), file: file.to_owned(), reason }
    }

    fn not_a_model(&self) -> Error {
        let has = |name: &str| self.files.contains_key(name);
        let any = |ending: &str| self.files.keys().any(|name| name.ends_with(ending));
        let reason = if has(ADAPTER_CONFIG) && any(".safetensors") {
            format!("it is an adapter ({ADAPTER_CONFIG}) without its base model; merge the two and save that")
        } else if has(MLC_CONFIG) {
            format!("it has {MLC_CONFIG}, but neither {}", MLC_INDEXES.join(" nor "))
        } else if MLC_INDEXES.iter().any(|index| has(index)) {
            format!("it has an MLC weight index, but no {MLC_CONFIG}")
        } else if any(".gguf") && !any(".safetensors") {
            "it holds GGUF files only; a checkpoint in safetensors or an MLC model is needed".to_owned()
        } else if (any(".bin") || any(".pt") || any(".pth")) && !any(".safetensors") {
            "its weights are pickles, which are never loaded; convert them to safetensors".to_owned()
        } else if has(CHECKPOINT_CONFIG) && any(".safetensors") {
            format!("it has several safetensors files, but no {CHECKPOINT_INDEX}")
        } else if has(CHECKPOINT_CONFIG) {
            format!("it has {CHECKPOINT_CONFIG}, but neither {CHECKPOINT_SINGLE} nor {CHECKPOINT_INDEX}")
        } else {
            format!(
                "looked for {MLC_CONFIG} with {} (an MLC model), or {CHECKPOINT_CONFIG} with {CHECKPOINT_SINGLE} or \
                 {CHECKPOINT_INDEX} (a checkpoint)",
                MLC_INDEXES.join(" or ")
            )
        };
        Error::NotAModel { place: self.place.to_owned(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(files: &[(&str, &str)]) -> Result<Selection> {
        let sizes: BTreeMap<_, _> = files.iter().map(|(name, text)| ((*name).to_owned(), text.len() as u64)).collect();
        let mut read = |name: &str| {
            let text = files.iter().find(|(found, _)| *found == name).expect("only listed files are read").1;
            Ok(text.as_bytes().to_vec())
        };
        Contents { place: "org/name", files: &sizes, read: &mut read }.select()
    }

    const CONFIG: (&str, &str) =
        (MLC_CONFIG, r#"{"tokenizer_files": ["tokenizer.json", "extra.vocab", "absent.txt"]}"#);

    #[test]
    fn an_mlc_repository_gives_config_index_shards_and_tokenizer() {
        let index = r#"{"records": [{"dataPath": "params_shard_1.bin", "nbytes": 2}, {"dataPath": "params_shard_0.bin", "nbytes": 1}]}"#;
        let selection = select(&[
            CONFIG,
            ("ndarray-cache.json", index),
            ("params_shard_0.bin", "1"),
            ("params_shard_1.bin", "22"),
            ("params_shard_2.bin", "333"),
            ("extra.vocab", ""),
            ("tokenizer.json", "{}"),
            ("tokenizer_config.json", "{}"),
            ("README.md", ""),
            ("config.json", "{}"),
            ("pytorch_model.bin", ""),
        ]);
        let selection = selection.unwrap();
        assert_eq!(selection.format, ModelForm::Mlc);
        assert_eq!(selection.weights, ["params_shard_0.bin", "params_shard_1.bin"]);
        let expected = ["extra.vocab", MLC_CONFIG, "ndarray-cache.json", "tokenizer.json", "tokenizer_config.json"];
        assert_eq!(selection.metadata, expected);
    }

    #[test]
    fn a_checkpoint_gives_safetensors_and_never_pickles() {
        let index =
            r#"{"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}"#;
        let selection = select(&[
            ("config.json", "{}"),
            (CHECKPOINT_INDEX, index),
            ("model-1.safetensors", ""),
            ("model-2.safetensors", ""),
            ("consolidated.safetensors", ""),
            ("pytorch_model.bin", ""),
            ("training_args.bin", ""),
            ("tokenizer.json", ""),
            ("generation_config.json", ""),
        ]);
        let selection = selection.unwrap();
        assert_eq!(selection.format, ModelForm::Checkpoint);
        assert_eq!(selection.weights, ["model-1.safetensors", "model-2.safetensors"]);
        assert_eq!(selection.metadata, ["config.json", "generation_config.json", CHECKPOINT_INDEX, "tokenizer.json"]);
        let single = select(&[("config.json", "{}"), (CHECKPOINT_SINGLE, ""), ("pytorch_model.bin", "")]).unwrap();
        assert_eq!(single.weights, [CHECKPOINT_SINGLE]);
        let single = select(&[("config.json", "{}"), ("weights.safetensors", "")]).unwrap();
        assert_eq!(single.weights, ["weights.safetensors"]);
    }

    #[test]
    fn what_is_no_model_is_told_apart() {
        let reason = |files: &[(&str, &str)]| match select(files) {
            Err(Error::NotAModel { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(&[]).contains("looked for"));
        assert!(reason(&[("config.json", ""), ("pytorch_model.bin", "")]).contains("pickles"));
        assert!(reason(&[("model.gguf", "")]).contains("GGUF"));
        assert!(reason(&[CONFIG]).contains("neither tensor-cache.json nor"));
        assert!(reason(&[("tensor-cache.json", "")]).contains(MLC_CONFIG));
        assert!(reason(&[("config.json", "")]).contains(CHECKPOINT_SINGLE));
        let adapter = [("config.json", ""), (ADAPTER_CONFIG, ""), ("adapter_model.safetensors", "")];
        assert!(reason(&adapter).contains("merge") && reason(&adapter[1..]).contains("merge"));
        assert!(reason(&[("config.json", ""), ("a.safetensors", ""), ("b.safetensors", "")]).contains("several"));
    }

    #[test]
    fn hostile_indexes_are_refused() {
        let with = |index: &str| select(&[CONFIG, ("tensor-cache.json", index), ("a.bin", "1")]);
        let shard = |name: &str, size: &str| format!(r#"{{"records": [{{"dataPath": "{name}", "nbytes": {size}}}]}}"#);
        assert!(with(&shard("a.bin", "1")).is_ok());
        for name in ["../a.bin", "/etc/passwd", "c:\\\\a", "a//b", ""] {
            assert!(matches!(with(&shard(name, "1")), Err(Error::UnsafeName { .. })), "{name}");
        }
        assert!(matches!(with(&shard("a.bin", "2")), Err(Error::WrongSize { expected: 2, found: 1, .. })));
        for index in [
            "",
            "[]",
            "{}",
            r#"{"records": []}"#,
            &shard("b.bin", "1"),
            &shard("sub/b.bin", "1"),
            &shard("a.bin", "-1"),
        ] {
            assert!(matches!(with(index), Err(Error::DamagedMetadata { .. })), "{index}");
        }
        let pickle = r#"{"weight_map": {"a": "pytorch_model.bin"}}"#;
        let found = select(&[("config.json", "{}"), (CHECKPOINT_INDEX, pickle), ("pytorch_model.bin", "")]);
        assert!(matches!(found, Err(Error::DamagedMetadata { .. })));
        let unsafe_tokenizer = (MLC_CONFIG, r#"{"tokenizer_files": ["../../x"]}"#);
        let found = select(&[unsafe_tokenizer, ("tensor-cache.json", &shard("a.bin", "1")), ("a.bin", "1")]);
        assert!(matches!(found, Err(Error::UnsafeName { .. })));
    }
}
