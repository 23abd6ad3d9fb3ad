//! The index of a weight folder: `tensor-cache.json`, `ndarray-cache.json` in older folders. It says which tensor lies where in
//! which `params_shard_*.bin`.
//!
//! [`WeightIndex::parse`] accepts nothing that a reader would have to check again: names and files are unique, every record's
//! size is that of its shape and lies inside its shard, every path is a plain file name.

use crate::json::{self, JsonError};
use knapsack_tensor::DType;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The index's file name.
pub const FILE_NAME: &str = "tensor-cache.json";
/// The name that older folders have.
pub const OLD_FILE_NAME: &str = "ndarray-cache.json";
/// The second index of folders with float32 tensors: the same, with the types as they are on disk.
pub const B16_FILE_NAME: &str = "tensor-cache-b16.json";

/// Largest index that is read, in bytes. That of a 70 B model is below 1 MiB.
pub const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Most shards.
pub const MAX_SHARDS: usize = 1 << 16;
/// Most tensors.
pub const MAX_TENSORS: usize = 1 << 18;
/// Most axes of a tensor.
pub const MAX_AXES: usize = 8;
/// Longest tensor or file name, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 512;

/// How a tensor's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// As the dtype says, little endian.
    #[serde(rename = "raw")]
    Raw,
    /// Float32 tensors as bfloat16; everything else raw.
    #[serde(rename = "f32-to-bf16")]
    F32ToBf16,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The tensor's name.
    pub name: String,
    /// Outermost axis first.
    pub shape: Vec<u64>,
    /// Element type when loaded by MLC; see [`Record::stored_dtype`].
    pub dtype: DType,
    /// How it is stored.
    pub format: Encoding,
    /// Bytes on disk.
    pub nbytes: u64,
    /// Where it starts in its shard.
    #[serde(rename = "byteOffset")]
    pub byte_offset: u64,
}

impl Record {
    /// Element type on disk.
    pub const fn stored_dtype(&self) -> DType {
        match (self.format, self.dtype) {
            (Encoding::F32ToBf16, DType::F32) => DType::BF16,
            (_, dtype) => dtype,
        }
    }
}

/// One file of weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// File name in the folder.
    #[serde(rename = "dataPath")]
    pub data_path: String,
    /// Always `raw-shard`.
    pub format: String,
    /// Length of the file.
    pub nbytes: u64,
    /// Tensors in it.
    pub records: Vec<Record>,
    /// MD5 of the file, in lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5sum: Option<String>,
}

/// What MLC writes about the whole folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Number of tensors.
    #[serde(rename = "ParamSize", default)]
    pub tensors: u64,
    /// Bytes when loaded by MLC (4 for each float32 element).
    #[serde(rename = "ParamBytes", default)]
    pub bytes: f64,
    /// Bits for each parameter of the checkpoint.
    #[serde(rename = "BitsPerParam", default)]
    pub bits_per_parameter: f64,
    /// Anything else.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// The index of a weight folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightIndex {
    /// About the whole folder.
    #[serde(default)]
    pub metadata: Metadata,
    /// The files, in loading order.
    #[serde(rename = "records")]
    pub shards: Vec<Shard>,
}

/// Why a weight index cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum WeightIndexError {
    /// Neither of the two files is there.
    #[error("{}: neither {FILE_NAME} nor {OLD_FILE_NAME} is there", .0.display())]
    NotFound(PathBuf),
    /// It cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Larger than any real one.
    #[error("the weight index has {0} bytes, more than {MAX_INDEX_BYTES}")]
    TooLarge(u64),
    /// Not JSON of the right form.
    #[error("the weight index cannot be decoded")]
    Decode(#[source] JsonError),
    /// More of something than is accepted.
    #[error("the weight index has {found} {what}, more than {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        found: usize,
        /// How many are accepted.
        limit: usize,
    },
    /// A shard that is not usable.
    #[error("the weight index names the file {path:?}: {problem}")]
    Shard { path: String, problem: &'static str },
    /// A tensor that is not usable.
    #[error("tensor {name:?} of the weight index: {problem}")]
    Tensor {
        name: String,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// A file that is missing or of another length.
    #[error("{}: {actual} bytes, {expected} expected", .path.display())]
    Length {
        path: PathBuf,
        actual: u64,
        /// The length in the index.
        expected: u64,
    },
}

impl WeightIndex {
    /// Decodes and checks an index.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, WeightIndexError> {
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            return Err(WeightIndexError::TooLarge(bytes.len() as u64));
        }
        let index: Self = json::parse(bytes).map_err(WeightIndexError::Decode)?;
        index.check()?;
        Ok(index)
    }

    /// Reads the index of a weight folder, under its new or its old name.
    ///
    /// # Errors
    /// When neither is there, or it cannot be used.
    pub fn open(folder: &Path) -> Result<Self, WeightIndexError> {
        for name in [FILE_NAME, OLD_FILE_NAME] {
            let path = folder.join(name);
            match read_bounded(&path, MAX_INDEX_BYTES) {
                Ok(bytes) => return Self::parse(&bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(WeightIndexError::Read { path, source }),
            }
        }
        Err(WeightIndexError::NotFound(folder.to_owned()))
    }

    /// Checks that every shard is there and has the length that the index gives.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_files(&self, folder: &Path) -> Result<(), WeightIndexError> {
        for shard in &self.shards {
            let path = folder.join(&shard.data_path);
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.len() == shard.nbytes => {}
                Ok(metadata) => {
                    return Err(WeightIndexError::Length { path, actual: metadata.len(), expected: shard.nbytes });
                }
                Err(source) => return Err(WeightIndexError::Read { path, source }),
            }
        }
        Ok(())
    }

    /// Every tensor with the index of its shard.
    pub fn records(&self) -> impl Iterator<Item = (usize, &Record)> {
        self.shards
            .iter()
            .enumerate()
            .flat_map(|(index, shard)| shard.records.iter().map(move |record| (index, record)))
    }

    /// Bytes of all shards.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.nbytes).sum()
    }

    /// The index as MLC writes it: JSON, indented by four.
    pub fn to_json(&self) -> String {
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        self.serialize(&mut serializer).expect("an index has only serializable fields");
        String::from_utf8(bytes).expect("JSON is UTF-8")
    }

    /// The second index, `tensor-cache-b16.json`, which calls tensors what they are on disk; `None` without float32 tensors.
    pub fn to_b16(&self) -> Option<Self> {
        let narrowed = |record: &Record| record.stored_dtype() != record.dtype;
        if !self.records().any(|(_, record)| narrowed(record)) {
            return None;
        }
        let mut index = self.clone();
        for record in index.shards.iter_mut().flat_map(|shard| &mut shard.records).filter(|record| narrowed(record)) {
            record.dtype = record.stored_dtype();
            record.format = Encoding::Raw;
        }
        Some(index)
    }

    fn check(&self) -> Result<(), WeightIndexError> {
        let tensors: usize = self.shards.iter().map(|shard| shard.records.len()).sum();
        for (what, found, limit) in [("files", self.shards.len(), MAX_SHARDS), ("tensors", tensors, MAX_TENSORS)] {
            if found > limit {
                return Err(WeightIndexError::TooMany { what, found, limit });
            }
        }
        let (mut names, mut files) = (HashSet::new(), HashSet::new());
        for shard in &self.shards {
            let problem = shard.problem().or((!files.insert(&shard.data_path)).then_some("it is named twice"));
            if let Some(problem) = problem {
                return Err(WeightIndexError::Shard { path: shortened(&shard.data_path), problem });
            }
            for record in &shard.records {
                let twice = || (!names.insert(&record.name)).then(|| "it is there twice".to_owned());
                if let Some(problem) = record.problem(shard.nbytes).or_else(twice) {
                    return Err(WeightIndexError::Tensor { name: shortened(&record.name), problem });
                }
            }
        }
        Ok(())
    }
}

impl Shard {
    fn problem(&self) -> Option<&'static str> {
        let plain = !self.data_path.is_empty()
            && self.data_path.len() <= MAX_NAME_BYTES
            && !self.data_path.starts_with('.')
            && self.data_path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        let digest = |md5: &String| md5.len() == 32 && md5.bytes().all(|b| b.is_ascii_hexdigit());
        if !plain {
            Some("not a plain file name")
        } else if self.format != "raw-shard" {
            Some("its format is not `raw-shard`")
        } else if !self.md5sum.as_ref().is_none_or(digest) {
            Some("its md5sum is not 32 hexadecimal digits")
        } else if self.nbytes > 1 << 48 {
            Some("its length is beyond any file's")
        } else {
            None
        }
    }
}

impl Record {
    fn problem(&self, shard_bytes: u64) -> Option<String> {
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES || self.name.chars().any(char::is_control) {
            return Some(format!("a name has 1 to {MAX_NAME_BYTES} bytes and no control characters"));
        }
        if self.shape.len() > MAX_AXES {
            return Some(format!("{} axes, more than {MAX_AXES}", self.shape.len()));
        }
        match self.stored_dtype().bytes(&self.shape) {
            Some(bytes) if bytes == self.nbytes => {}
            bytes => {
                let dtype = self.stored_dtype();
                let expected = bytes.map_or("more than fit".to_owned(), |bytes| bytes.to_string());
                return Some(format!("nbytes {} but shape {:?} of {dtype} has {expected}", self.nbytes, self.shape));
            }
        }
        match self.byte_offset.checked_add(self.nbytes) {
            Some(end) if end <= shard_bytes => None,
            _ => Some(format!(
                "{} bytes at offset {} are not inside the file's {shard_bytes}",
                self.nbytes, self.byte_offset
            )),
        }
    }
}

/// Reads a file up to one byte more than `limit`. A pipe would keep whoever opens it waiting, so only files are opened.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn shortened(text: &str) -> String {
    text.chars().take(120).collect()
}
