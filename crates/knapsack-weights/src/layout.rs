//! What will be written where, decided before anything is read: each parameter's tensors, their shards and offsets, and the
//! blocks of rows that are converted independently of each other.

use crate::checkpoint::Checkpoint;
use crate::error::ConvertError;
use crate::safetensors_header::{SourceDType, Tensor};
use knapsack_artifact::weight_index::{Encoding, Metadata, Record, Shard, WeightIndex};
use knapsack_models::{ModelConfig, Parameter, StoredTensor, TensorUse, TensorsError, Transform};
use knapsack_tensor::{GroupFormat, Quantization};
use std::collections::HashMap;
use std::path::PathBuf;

/// Size at which MLC closes a shard.
const SHARD_CAP: u64 = 32 << 20;
/// Bytes of the checkpoint that a block covers: what stays in a core's own cache with its result.
const BLOCK_BYTES: u64 = 1 << 20;

/// Where a tensor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) shard: usize,
    pub(crate) offset: u64,
}

/// How one is added to each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddOne {
    /// The sum has the checkpoint's type.
    Rounded,
    /// The sum is rounded once, to what is stored.
    Exact,
}

/// One parameter.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) rows: u64,
    /// Elements of a row; 1 for vectors.
    pub(crate) columns: u64,
    pub(crate) format: Option<GroupFormat>,
    /// Element type of the plain tensor or of the scales.
    pub(crate) stored: StoredTensor,
    pub(crate) add_one: Option<AddOne>,
    /// Of the plain tensor, or of codes and scales.
    pub(crate) places: Vec<Place>,
}

/// Rows of one source tensor that become rows of one parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) job: usize,
    /// Index into [`Checkpoint::tensors`].
    pub(crate) tensor: usize,
    /// First row in the source.
    pub(crate) from: u64,
    /// First row in the parameter.
    pub(crate) to: u64,
    pub(crate) rows: u64,
}

/// The whole conversion.
#[derive(Debug)]
pub(crate) struct ShardLayout {
    pub(crate) jobs: Vec<Job>,
    pub(crate) blocks: Vec<Block>,
    /// Without MD5 sums.
    pub(crate) index: WeightIndex,
    /// Blocks that write to each shard.
    pub(crate) blocks_of_shard: Vec<usize>,
    /// Bytes of the checkpoint that are read.
    pub(crate) source_bytes: u64,
    /// What was left out: parts beside the language model, with their tensors and bytes.
    pub(crate) left_out: Vec<(&'static str, u64, u64)>,
}

impl ShardLayout {
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        quantization: &Quantization,
    ) -> Result<Self, ConvertError> {
        let parameters = config.parameters();
        let uses: Vec<_> = checkpoint.tensors.iter().map(|tensor| config.tensor_use(&tensor.name)).collect();
        let tensors = match_tensors(checkpoint, config, &parameters, &uses)?;
        let mut shards = Shards::default();
        let (mut jobs, mut blocks, mut source_bytes) = (Vec::new(), Vec::new(), 0);
        let mut loaded_bytes = 0u64;
        for parameter in loading_order(&uses, &parameters) {
            let stored = parameter.stored(quantization);
            loaded_bytes += stored.iter().filter_map(|tensor| tensor.index_dtype.bytes(&tensor.shape)).sum::<u64>();
            let places = stored.iter().map(|tensor| shards.add(tensor)).collect::<Result<_, _>>().map_err(|name| {
                ConvertError::Checkpoint { path: checkpoint.folder.clone(), problem: format!("{name} is too large") }
            })?;
            let job = Job {
                rows: parameter.shape[0],
                columns: parameter.shape[1..].iter().product(),
                format: parameter.group_format(quantization),
                stored: stored.into_iter().next_back().expect("a parameter is stored as one tensor at least"),
                add_one: match parameter.transform {
                    Transform::AddOne => Some(AddOne::Rounded),
                    Transform::AddOneExactly => Some(AddOne::Exact),
                    _ => None,
                },
                places,
            };
            source_bytes += push_blocks(&mut blocks, jobs.len(), &job, parameter, &tensors, checkpoint);
            jobs.push(job);
        }
        let (shards, places) = shards.finish();
        for place in jobs.iter_mut().flat_map(|job: &mut Job| &mut job.places) {
            place.shard = places[place.shard];
        }
        let mut blocks_of_shard = vec![0; shards.len()];
        for block in &blocks {
            for shard in shards_of(&jobs[block.job]) {
                blocks_of_shard[shard] += 1;
            }
        }
        let counted = checkpoint.tensors.iter().zip(&uses).filter(|(tensor, of)| is_counted(&tensor.name, of));
        let elements = counted.map(|(tensor, _)| elements(tensor)).sum::<u64>();
        let metadata = Metadata {
            tensors: shards.iter().map(|shard| shard.records.len() as u64).sum(),
            bytes: loaded_bytes as f64,
            bits_per_parameter: loaded_bytes as f64 * 8.0 / elements as f64,
            other: serde_json::Map::new(),
        };
        let left_out = left_out(checkpoint, &uses);
        Ok(ShardLayout {
            jobs,
            blocks,
            index: WeightIndex { metadata, shards },
            blocks_of_shard,
            source_bytes,
            left_out,
        })
    }
}

/// The shards that a block of this job writes to, each once.
pub(crate) fn shards_of(job: &Job) -> impl Iterator<Item = usize> {
    let first = job.places[0].shard;
    let second = job.places.get(1).map(|place| place.shard).filter(|&shard| shard != first);
    std::iter::once(first).chain(second)
}

/// The parts beside the language model, with their tensors and bytes.
fn left_out(checkpoint: &Checkpoint, uses: &[TensorUse<'_>]) -> Vec<(&'static str, u64, u64)> {
    let mut list: Vec<(&'static str, u64, u64)> = Vec::new();
    for (tensor, of) in checkpoint.tensors.iter().zip(uses) {
        let TensorUse::Part(part) = *of else { continue };
        let bytes = elements(tensor).saturating_mul(tensor.dtype.bytes());
        match list.iter_mut().find(|(name, ..)| *name == part) {
            Some(entry) => (entry.1, entry.2) = (entry.1 + 1, entry.2.saturating_add(bytes)),
            None => list.push((part, 1, bytes)),
        }
    }
    list
}

fn elements(tensor: &Tensor) -> u64 {
    tensor.shape.iter().product()
}

/// Whether MLC counts a tensor as a parameter of the checkpoint.
fn is_counted(name: &str, of: &TensorUse<'_>) -> bool {
    !matches!(of, TensorUse::Part(_))
        && ![".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"].iter().any(|end| name.ends_with(end))
}

/// The checkpoint's tensors by name, after checking that they are exactly those of the parameters.
fn match_tensors<'a>(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    parameters: &[Parameter],
    uses: &'a [TensorUse<'_>],
) -> Result<HashMap<&'a str, usize>, ConvertError> {
    let sources = uses.iter().enumerate().filter_map(|(index, of)| match of {
        TensorUse::Source(name) => Some((name.as_ref(), index)),
        TensorUse::Ignored | TensorUse::Part(_) => None,
    });
    let by_name: HashMap<_, _> = sources.clone().collect();
    if by_name.len() != sources.count() {
        let problem = "a tensor is there twice, in two files".to_owned();
        return Err(ConvertError::Checkpoint { path: checkpoint.folder.clone(), problem });
    }
    let mut error = TensorsError { family: config.family.name, ..TensorsError::default() };
    let mut used = vec![false; checkpoint.tensors.len()];
    for parameter in parameters {
        for source in &parameter.sources {
            let Some(&index) = by_name.get(source.name.as_str()) else {
                error.missing.push(source.name.clone());
                continue;
            };
            used[index] = true;
            let tensor = &checkpoint.tensors[index];
            let expected: Vec<u64> = std::iter::once(source.rows).chain(parameter.shape[1..].iter().copied()).collect();
            if tensor.shape != expected {
                error.misshapen.push((source.name.clone(), tensor.shape.clone(), expected));
            } else if let SourceDType::Other(dtype) = &tensor.dtype {
                let problem = format!("`{}` is of type {dtype}; F32, F16 and BF16 can be converted", tensor.name);
                return Err(ConvertError::Checkpoint { path: checkpoint.folder.clone(), problem });
            }
        }
    }
    let needless = |index: usize| !used[index] && matches!(uses[index], TensorUse::Source(_));
    let left_over = checkpoint.tensors.iter().enumerate().filter(|(index, _)| needless(*index));
    error.left_over = left_over.map(|(_, tensor)| tensor.name.clone()).collect();
    if error.is_empty() { Ok(by_name) } else { Err(error.into()) }
}

/// The parameters in the order in which the checkpoint's tensors first ask for them.
fn loading_order<'a>(uses: &[TensorUse<'_>], parameters: &'a [Parameter]) -> Vec<&'a Parameter> {
    let mut by_source = HashMap::new();
    for (index, parameter) in parameters.iter().enumerate() {
        for source in &parameter.sources {
            by_source.insert(source.name.as_str(), index);
        }
    }
    let mut seen = vec![false; parameters.len()];
    let mut order = Vec::with_capacity(parameters.len());
    for of in uses {
        if let TensorUse::Source(name) = of
            && let Some(&index) = by_source.get(name.as_ref())
            && !std::mem::replace(&mut seen[index], true)
        {
            order.push(&parameters[index]);
        }
    }
    order
}

/// Cuts a parameter into blocks; returns the bytes of its sources.
fn push_blocks(
    blocks: &mut Vec<Block>,
    job_index: usize,
    job: &Job,
    parameter: &Parameter,
    tensors: &HashMap<&str, usize>,
    checkpoint: &Checkpoint,
) -> u64 {
    let mut bytes = 0;
    let mut push = |tensor: usize, from: u64, to: u64, rows: u64| {
        let row_bytes = job.columns * checkpoint.tensors[tensor].dtype.bytes();
        let most = (BLOCK_BYTES / row_bytes).max(1);
        let mut done = 0;
        while done < rows {
            let rows = most.min(rows - done);
            blocks.push(Block { job: job_index, tensor, from: from + done, to: to + done, rows });
            done += rows;
        }
        bytes += rows * row_bytes;
    };
    match parameter.transform {
        Transform::Keep | Transform::AddOne | Transform::AddOneExactly => {
            let mut to = 0;
            for source in &parameter.sources {
                push(tensors[source.name.as_str()], 0, to, source.rows);
                to += source.rows;
            }
        }
        Transform::Unpair { heads, head_dim } => {
            let (changed, dim) = (u64::from(heads) * u64::from(head_dim), u64::from(head_dim));
            let mut to = 0;
            for source in &parameter.sources {
                let tensor = tensors[source.name.as_str()];
                // Sources are whole heads, and only whole sources are changed.
                let pairs = if to < changed { source.rows / 2 } else { 0 };
                for pair in 0..pairs {
                    let (head, i) = (pair / (dim / 2), pair % (dim / 2));
                    push(tensor, 2 * pair, to + head * dim + i, 1);
                    push(tensor, 2 * pair + 1, to + head * dim + i + dim / 2, 1);
                }
                if pairs == 0 {
                    push(tensor, 0, to, source.rows);
                }
                to += source.rows;
            }
        }
        Transform::SplitHeads { heads, head_dim } => {
            let (heads, head_dim) = (u64::from(heads), u64::from(head_dim));
            let tensor = tensors[parameter.sources[0].name.as_str()];
            for head in 0..heads {
                for section in 0..3 {
                    let (from, to) = ((3 * head + section) * head_dim, (section * heads + head) * head_dim);
                    push(tensor, from, to, head_dim);
                }
            }
        }
    }
    bytes
}

/// MLC's sharding. A shard's number is given when it is closed, so places hold the number of the shard among those opened.
#[derive(Default)]
struct Shards {
    opened: Vec<Vec<Record>>,
    /// The open shard and its bytes.
    pending: Option<(usize, u64)>,
    /// Opened shards in the order in which they were closed.
    closed: Vec<usize>,
}

impl Shards {
    /// Appends a tensor; its name when it is too large for any file.
    fn add(&mut self, tensor: &StoredTensor) -> Result<Place, String> {
        let bytes = tensor.bytes().filter(|&bytes| bytes < 1 << 48).ok_or_else(|| tensor.name.clone())?;
        let record = |byte_offset| Record {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.index_dtype,
            format: Encoding::F32ToBf16,
            nbytes: bytes,
            byte_offset,
        };
        let pending_bytes = self.pending.map_or(0, |(_, bytes)| bytes);
        if pending_bytes + bytes >= SHARD_CAP {
            if 2 * bytes >= SHARD_CAP {
                self.opened.push(vec![record(0)]);
                let shard = self.opened.len() - 1;
                self.closed.push(shard);
                return Ok(Place { shard, offset: 0 });
            }
            self.close();
        }
        let (shard, offset) = self.pending.unwrap_or_else(|| {
            self.opened.push(Vec::new());
            (self.opened.len() - 1, 0)
        });
        self.opened[shard].push(record(offset));
        self.pending = Some((shard, offset + bytes));
        Ok(Place { shard, offset })
    }

    fn close(&mut self) {
        self.closed.extend(self.pending.take().map(|(shard, _)| shard));
    }

    /// The shards in order, and the number of each opened one.
    fn finish(mut self) -> (Vec<Shard>, Vec<usize>) {
        self.close();
        let mut numbers = vec![0; self.opened.len()];
        let mut shards = Vec::with_capacity(self.closed.len());
        for (number, opened) in self.closed.into_iter().enumerate() {
            numbers[opened] = number;
            let records = std::mem::take(&mut self.opened[opened]);
            shards.push(Shard {
                data_path: format!("params_shard_{number}.bin"),
                format: "raw-shard".to_owned(),
                nbytes: records.iter().map(|record| record.nbytes).sum(),
                records,
                md5sum: None,
            });
        }
        (shards, numbers)
    }
}

impl ShardLayout {
    /// File names of the shards in `folder`.
    pub(crate) fn shard_paths(&self, folder: &std::path::Path) -> Vec<PathBuf> {
        self.index.shards.iter().map(|shard| folder.join(&shard.data_path)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knapsack_tensor::DType;

    #[test]
    fn shards_are_closed_and_numbered_as_by_the_reference() {
        const MIB: u64 = 1 << 20;
        let mut shards = Shards::default();
        let tensor = |name: &str, mib: u64| StoredTensor {
            name: name.to_owned(),
            shape: vec![mib * MIB / 2],
            dtype: DType::F16,
            index_dtype: DType::F16,
        };
        // a and b share a shard; c is large, so it is written at once, before the shard that stays open; d still fits; e closes it.
        let places: Vec<_> = [("a", 4), ("b", 10), ("c", 20), ("d", 15), ("e", 12)]
            .map(|(name, mib)| shards.add(&tensor(name, mib)).unwrap())
            .into();
        let (shards, numbers) = shards.finish();
        let names: Vec<Vec<_>> =
            shards.iter().map(|s| s.records.iter().map(|r| (r.name.as_str(), r.byte_offset / MIB)).collect()).collect();
        assert_eq!(names, [vec![("c", 0)], vec![("a", 0), ("b", 4), ("d", 14)], vec![("e", 0)]]);
        let found: Vec<_> = places.iter().map(|place| (numbers[place.shard], place.offset / MIB)).collect();
        assert_eq!(found, [(1, 0), (1, 4), (0, 0), (1, 14), (2, 0)]);
        assert_eq!(shards[1].nbytes, 29 * MIB);
    }
}
