//! A checkpoint folder: `config.json` and one safetensors file, or several with their index. Only headers are read here.

use crate::error::ConvertError;
use crate::io::{read_exact_at, read_json};
use crate::safetensors_header::{self, Tensor};
use knapsack_artifact::chat_config;
use knapsack_models::ModelConfig;
use knapsack_tensor::Quantization;
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A checkpoint whose files are open and whose headers were checked.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) folder: PathBuf,
    /// `config.json`.
    pub(crate) config: Value,
    /// In the order in which the reference loads them: file by file, in the order of the index.
    pub(crate) tensors: Vec<Tensor>,
    files: Vec<(PathBuf, File)>,
}

/// The first bytes of a file of weights that is elsewhere: its whole header.
#[derive(Clone, Copy, Debug)]
pub struct WeightsStart<'a> {
    /// The file's name in its folder.
    pub name: &'a str,
    /// How many bytes it has.
    pub size: u64,
    /// Its first.
    pub bytes: &'a [u8],
}

/// Which tensor is in which of several files.
const INDEX: &str = "model.safetensors.index.json";
const WITHOUT_INDEX: &str = "several safetensors files, but no model.safetensors.index.json";
/// Most files of a checkpoint.
const MAX_FILES: usize = 4096;

impl Checkpoint {
    /// Opens a checkpoint folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, ConvertError> {
        let mut checkpoint = Self::without_tensors(folder)?;
        match read_json(&folder.join(INDEX))? {
            Some(index) => checkpoint.read_indexed(&index, |checkpoint, name| {
                let path = checkpoint.folder.join(name);
                if path.is_file() { checkpoint.add_file(path).map(Some) } else { Ok(None) }
            })?,
            None => checkpoint.read_single(single_file(folder)?)?,
        }
        Ok(checkpoint)
    }

    /// The checkpoint in `folder` whose weights are elsewhere: each file that holds some begins with the bytes of one of `starts`.
    pub(crate) fn of_headers(folder: &Path, starts: &[WeightsStart<'_>]) -> Result<Self, ConvertError> {
        let mut checkpoint = Self::without_tensors(folder)?;
        let entries = |number: usize| {
            let WeightsStart { name, size, bytes } = starts[number];
            Ok((number, safetensors_header::parse(bytes, size, &folder.join(name))?))
        };
        match read_json(&folder.join(INDEX))? {
            Some(index) => checkpoint.read_indexed(&index, |_, name| {
                starts.iter().position(|start| start.name == name).map(entries).transpose()
            })?,
            None if starts.len() == 1 => {
                let (file, entries) = entries(0)?;
                checkpoint.tensors = entries.into_iter().map(|entry| entry.into_tensor(file)).collect();
            }
            None => return Err(not_one(folder, WITHOUT_INDEX)),
        }
        Ok(checkpoint)
    }

    fn without_tensors(folder: &Path) -> Result<Self, ConvertError> {
        if !folder.is_dir() {
            return Err(not_one(folder, "not a folder"));
        }
        let config = read_json(&folder.join("config.json"))?.ok_or_else(|| not_one(folder, "no config.json"))?;
        Ok(Checkpoint { folder: folder.to_owned(), config, tensors: Vec::new(), files: Vec::new() })
    }

    /// Reads `buffer.len()` bytes of a tensor, from its byte `start` on.
    pub(crate) fn read(&self, tensor: &Tensor, start: u64, buffer: &mut [u8]) -> Result<(), ConvertError> {
        let (path, file) = &self.files[tensor.file];
        read_exact_at(file, buffer, tensor.offset + start).map_err(ConvertError::io("read", path))
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(usize, Vec<safetensors_header::Entry>), ConvertError> {
        let file = File::open(&path).map_err(ConvertError::io("read", &path))?;
        let entries = safetensors_header::read(&file, &path)?;
        self.files.push((path, file));
        Ok((self.files.len() - 1, entries))
    }

    fn read_single(&mut self, path: PathBuf) -> Result<(), ConvertError> {
        let (file, entries) = self.add_file(path)?;
        self.tensors = entries.into_iter().map(|entry| entry.into_tensor(file)).collect();
        Ok(())
    }

    /// Files and tensors in the order of the index's `weight_map`. `entries_of` gives a file its number and lists what it holds; `None`:
    /// there is no such file.
    fn read_indexed(
        &mut self,
        index: &Value,
        mut entries_of: impl FnMut(&mut Self, &str) -> Result<Option<(usize, Vec<safetensors_header::Entry>)>, ConvertError>,
    ) -> Result<(), ConvertError> {
        let path = self.folder.join(INDEX);
        let wrong = |problem: String| ConvertError::Checkpoint { path: path.clone(), problem };
        let map = index.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| wrong("no `weight_map` object".to_owned()))?;
        let mut names: Vec<(&str, Vec<&str>)> = Vec::new();
        let mut positions = HashMap::new();
        for (tensor, file) in map {
            let file = file.as_str().filter(|file| is_plain_safetensors_name(file));
            let file = file.ok_or_else(|| wrong(format!("`{tensor}` is not in a file of the folder")))?;
            let position = *positions.entry(file).or_insert(names.len());
            if position == names.len() {
                names.push((file, Vec::new()));
            }
            names[position].1.push(tensor);
        }
        if names.is_empty() || names.len() > MAX_FILES {
            return Err(wrong(format!("{} files, expected 1 to {MAX_FILES}", names.len())));
        }
        for (name, tensors) in names {
            let entries = entries_of(self, name)?;
            let (file, entries) =
                entries.ok_or_else(|| wrong(format!("names the file `{name}`, which is not there")))?;
            let mut by_name: HashMap<_, _> = entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
            for tensor in tensors {
                let entry = by_name.remove(tensor);
                let entry =
                    entry.ok_or_else(|| wrong(format!("says that `{tensor}` is in `{name}`, but it is not")))?;
                self.tensors.push(entry.into_tensor(file));
            }
        }
        Ok(())
    }
}

/// `model.safetensors`, or the only safetensors file of the folder.
fn single_file(folder: &Path) -> Result<PathBuf, ConvertError> {
    let usual = folder.join("model.safetensors");
    if usual.is_file() {
        return Ok(usual);
    }
    let entries = std::fs::read_dir(folder).map_err(ConvertError::io("read", folder))?;
    let paths: Vec<PathBuf> = entries.take(MAX_FILES).filter_map(|entry| Some(entry.ok()?.path())).collect();
    let with_extension =
        |extension: &'static str| paths.iter().filter(move |path| path.extension().is_some_and(|e| e == extension));
    let mut found: Vec<_> = with_extension("safetensors").collect();
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path.clone()),
        (Some(_), false) => Err(not_one(folder, WITHOUT_INDEX)),
        (None, _) if with_extension("bin").chain(with_extension("gguf")).next().is_some() => {
            Err(not_one(folder, "no safetensors file; PyTorch and GGUF files are not read"))
        }
        (None, _) => Err(not_one(folder, "neither model.safetensors nor model.safetensors.index.json")),
    }
}

fn not_one(folder: &Path, problem: &str) -> ConvertError {
    ConvertError::NotACheckpoint { folder: folder.to_owned(), problem: problem.to_owned() }
}

fn is_plain_safetensors_name(name: &str) -> bool {
    name.len() <= 255
        && name.ends_with(".safetensors")
        && !name.starts_with('.')
        && !name.chars().any(|c| matches!(c, '/' | '\\' | ':') || c.is_control())
}

/// The model that a `config.json` describes.
pub(crate) fn model_config(folder: &Path, config: &Value) -> Result<ModelConfig, ConvertError> {
    let wrong = |source| ConvertError::Config { path: folder.join("config.json"), source };
    ModelConfig::from_hf(config).map_err(wrong)
}

/// A folder that is converted already is not converted again, least of all to another format.
pub(crate) fn refuse_converted(folder: &Path, quantization: &Quantization) -> Result<(), ConvertError> {
    let Some(chat) = read_json(&folder.join(chat_config::FILE_NAME))? else { return Ok(()) };
    let found = chat.get("quantization").and_then(Value::as_str).unwrap_or("an unknown format");
    let (folder, found) = (folder.to_owned(), found.chars().take(40).collect());
    if found == quantization.name {
        Err(ConvertError::AlreadyConverted { folder, quantization: found })
    } else {
        Err(ConvertError::OtherQuantization { folder, found, asked: quantization.name.to_owned() })
    }
}
