//! The files of a weight folder that go into a package, verified against the folder's own index.

use super::chat_config;
use super::output::Output;
use super::{BundleStep, Entry, WriteOptions};
use crate::digest::{Hashed, Wanted};
use crate::error::BundleError;
use knapsack_artifact::weight_index::{FILE_NAME, OLD_FILE_NAME, WeightIndex};
use knapsack_artifact::{json, names, token_tables};
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

const TOKENIZER: &str = "tokenizer.json";
const CHAT_CONFIG: &str = "mlc-chat-config.json";
const MAX_CHAT_CONFIG_BYTES: u64 = 64 << 20;

/// Every file of one model, with its path in the model's folder: chat configuration, index, shards, tokenizer.
pub(super) fn collect(entry: &Entry, folder: &Path, options: &WriteOptions<'_>) -> Result<Vec<Output>, BundleError> {
    let check = Check { entry, folder };
    let source = check.read_chat_config()?;
    let tokenizer = check.tokenizer_files(&source)?;
    let index = WeightIndex::open(folder).map_err(|error| check.problem(folder, describe(&error)))?;
    check.parameters(&index)?;

    let model = &entry.library.library().model;
    let chat =
        chat_config::with_windows(&source, model).map_err(|text| check.problem(&folder.join(CHAT_CONFIG), text))?;
    let mut outputs = vec![Output::bytes(CHAT_CONFIG.to_owned(), chat)];

    let index_name = if folder.join(FILE_NAME).is_file() { FILE_NAME } else { OLD_FILE_NAME };
    let plain = std::iter::once(index_name.to_string()).chain(tokenizer);
    let shards: Vec<&str> = index.shards.iter().map(|shard| &*shard.data_path).collect();
    let mut seen = HashSet::from([CHAT_CONFIG.to_string()]);
    for name in plain.filter(|name| !shards.contains(&&**name)).filter(|name| seen.insert(name.clone())) {
        let path = folder.join(&name);
        let hashed = options.digests.of(&path, Wanted::MEMBER).map_err(BundleError::io("read", &path))?;
        outputs.push(Output::copy(name, path, &hashed));
    }
    outputs.extend(check.shards(&index, options)?);
    if let Some(tables) = &entry.tokenizer.tables
        && seen.contains(TOKENIZER)
        && seen.insert(token_tables::FILE_NAME.to_owned())
    {
        outputs.push(Output::bytes(token_tables::FILE_NAME.to_owned(), tables.clone()));
    }
    Ok(outputs)
}

struct Check<'a> {
    entry: &'a Entry,
    folder: &'a Path,
}

impl Check<'_> {
    fn problem(&self, path: &Path, problem: String) -> BundleError {
        BundleError::Weights { model_id: self.entry.model_id.clone(), path: path.to_path_buf(), problem }
    }

    /// For progress.
    fn shown(&self, name: &str) -> String {
        format!("{}/{name}", self.entry.model_id)
    }

    fn read_chat_config(&self) -> Result<Vec<u8>, BundleError> {
        let path = self.folder.join(CHAT_CONFIG);
        let mut text = Vec::new();
        let file = std::fs::File::open(&path).map_err(BundleError::io("read", &path))?;
        file.take(MAX_CHAT_CONFIG_BYTES + 1).read_to_end(&mut text).map_err(BundleError::io("read", &path))?;
        if text.len() as u64 > MAX_CHAT_CONFIG_BYTES {
            return Err(self.problem(&path, format!("larger than {MAX_CHAT_CONFIG_BYTES} bytes")));
        }
        Ok(text)
    }

    /// The files that the chat configuration lists.
    fn tokenizer_files(&self, chat_config: &[u8]) -> Result<Vec<String>, BundleError> {
        #[derive(serde::Deserialize)]
        struct Listed {
            #[serde(default)]
            tokenizer_files: Vec<String>,
        }
        let path = self.folder.join(CHAT_CONFIG);
        let listed: Listed = json::parse(chat_config).map_err(|error| self.problem(&path, error.to_string()))?;
        for name in &listed.tokenizer_files {
            names::check_relative_path(name)
                .map_err(|source| BundleError::Name { place: path.display().to_string(), source })?;
            if !self.folder.join(name).is_file() {
                return Err(self.problem(&path, format!("`tokenizer_files` lists `{name}`, which is not there")));
            }
        }
        Ok(listed.tokenizer_files)
    }

    /// The library must find every parameter in the folder, as it expects it.
    fn parameters(&self, index: &WeightIndex) -> Result<(), BundleError> {
        let records: HashMap<_, _> = index.records().map(|(_, record)| (&*record.name, record)).collect();
        for parameter in &self.entry.library.library().parameters {
            let library = self.entry.library.name();
            let Some(record) = records.get(&*parameter.name) else {
                let text = format!("tensor `{}`, which library `{library}` needs, is not there", parameter.name);
                return Err(self.problem(self.folder, text));
            };
            if record.shape != parameter.shape || record.stored_dtype() != parameter.dtype {
                let text = format!(
                    "tensor `{}` is {} {:?}, but library `{library}` needs {} {:?}",
                    parameter.name,
                    record.stored_dtype(),
                    record.shape,
                    parameter.dtype,
                    parameter.shape
                );
                return Err(self.problem(self.folder, text));
            }
        }
        Ok(())
    }

    fn shards(&self, index: &WeightIndex, options: &WriteOptions<'_>) -> Result<Vec<Output>, BundleError> {
        let mut paths = Vec::with_capacity(index.shards.len());
        for shard in &index.shards {
            names::check_relative_path(&shard.data_path)
                .map_err(|source| BundleError::Name { place: self.folder.display().to_string(), source })?;
            let path = self.folder.join(&shard.data_path);
            let size = std::fs::metadata(&path).map_err(BundleError::io("read", &path))?.len();
            if size != shard.nbytes {
                return Err(self.problem(&path, format!("{size} bytes, but the index says {}", shard.nbytes)));
            }
            paths.push(path);
        }
        let hashed = self.hash(index, &paths, options)?;
        let mut outputs = Vec::with_capacity(paths.len());
        for ((shard, path), hashed) in index.shards.iter().zip(paths).zip(hashed) {
            if let Some(expected) = shard.md5sum.as_ref().filter(|md5| !md5.eq_ignore_ascii_case(hashed.md5())) {
                return Err(self.problem(&path, format!("its MD5 is {}, but the index says {expected}", hashed.md5())));
            }
            outputs.push(Output::copy(shard.data_path.clone(), path, &hashed));
        }
        Ok(outputs)
    }

    /// Hashes a few shards at a time, so that progress is seen and an interruption is heard.
    fn hash(
        &self,
        index: &WeightIndex,
        paths: &[PathBuf],
        options: &WriteOptions<'_>,
    ) -> Result<Vec<Hashed>, BundleError> {
        let batch = std::thread::available_parallelism().map_or(1, usize::from) * 2;
        let mut all = Vec::with_capacity(paths.len());
        for (shards, paths) in index.shards.chunks(batch).zip(paths.chunks(batch)) {
            for (shard, _) in shards.iter().zip(paths).filter(|(_, path)| !options.digests.knows(path, Wanted::SHARD)) {
                let path = self.shown(&shard.data_path);
                options.report(BundleStep::Verifying { path: &path, bytes: shard.nbytes })?;
            }
            for (path, hashed) in paths.iter().zip(options.digests.of_all(paths, Wanted::SHARD)) {
                all.push(hashed.map_err(BundleError::io("read", path))?);
            }
        }
        Ok(all)
    }
}

/// An error and its causes on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
