//! Libraries around single operations, with their weights in a folder of their own.
//!
//! Inputs come in through an embedding (a float32 table, one random row for each token id), results go out through the head: an
//! RMS norm whose epsilon of 2^40 drowns any mean square, so that it divides by 2^20 exactly.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{Io, MemoryPlan, ModelInfo, Parameter, Target};
use knapsack_artifact::plan::*;
use knapsack_artifact::weight_index::{Encoding, FILE_NAME, Metadata, Record, Shard, WeightIndex};
use knapsack_tensor::{DType, GroupFormat, Grouping, Layout, NormKind, dequantize_group, pack_group, quantize_group};
use std::sync::Arc;

/// What the head divides by.
pub(crate) const HEAD: f32 = (1u64 << 20) as f32;

/// A reproducible source of numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Roughly normal, variance 1.
    pub(crate) fn normal(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum * 3f32.sqrt()
    }

    pub(crate) fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }

    pub(crate) fn below(&mut self, end: u32) -> u32 {
        self.normal();
        (self.0 >> 33) as u32 % end
    }
}

/// A library under construction.
pub(crate) struct Builder {
    pub(crate) library: ModelLibrary,
    pub(crate) random: Random,
    shard: Vec<u8>,
    records: Vec<Record>,
    /// Whether products have scratch for twice eight bits of each activation.
    pub(crate) fine: bool,
}

/// A matrix as it is stored, and its exact values, row by row.
pub(crate) struct StoredMatrix {
    pub(crate) weight: Weight,
    pub(crate) values: Vec<f32>,
}

/// How a test stores a matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Storage {
    Dense(DType),
    Grouped(GroupFormat),
}

impl Storage {
    pub(crate) fn grouped(bits: u32, layout: Layout, scale: DType) -> Self {
        Storage::Grouped(GroupFormat { bits, group: Grouping::of(bits).group, layout, scale })
    }

    /// A table is never in KN layout.
    pub(crate) fn row_major(self) -> Self {
        match self {
            Storage::Grouped(format) => Storage::Grouped(format.row_major()),
            dense => dense,
        }
    }
}

/// A finished library and its folder.
pub(crate) struct Sample {
    pub(crate) library: Arc<ModelLibrary>,
    pub(crate) folder: tempfile::TempDir,
}

impl Builder {
    pub(crate) fn new(chunk: u32, context: u32, seed: u64) -> Self {
        let rows = Rows { offset: 0, columns: 1 };
        let library = ModelLibrary {
            name: "sample".to_owned(),
            compiler: "knapsack test".to_owned(),
            target: Target::Host,
            model: ModelInfo {
                family: "sample".to_owned(),
                quantization: "q0f32".to_owned(),
                vocab_size: 1,
                hidden_size: 1,
                layers: 0,
                context_window_size: Some(context),
                sliding_window_size: None,
                attention_sink_size: 0,
                prefill_chunk_size: chunk,
            },
            parameters: Vec::new(),
            rope_tables: Vec::new(),
            kv_cache: Vec::new(),
            states: Vec::new(),
            lookups: Vec::new(),
            io: Io {
                tokens: Scratch { offset: 0, bytes_per_token: 4 },
                call: 0,
                hidden: rows,
                carried: Vec::new(),
                logits: rows,
            },
            memory: MemoryPlan::default(),
            prefill: Function::default(),
            decode: Function::default(),
            head: Function::default(),
            kernels: None,
        };
        let mut builder =
            Builder { library, random: Random::new(seed), shard: Vec::new(), records: Vec::new(), fine: false };
        builder.scratch(4);
        // One odd pair of bytes in front: records are then aligned to 2 and no more.
        builder.shard.extend([0, 0]);
        builder
    }

    pub(crate) fn scratch(&mut self, bytes_per_token: u64) -> Scratch {
        let offset = self.library.memory.workspace;
        let bytes = bytes_per_token * u64::from(self.library.model.prefill_chunk_size);
        self.library.memory.workspace = offset + bytes.next_multiple_of(ALIGNMENT);
        Scratch { offset, bytes_per_token }
    }

    pub(crate) fn rows(&mut self, columns: u32) -> Rows {
        Rows { offset: self.scratch(4 * u64::from(columns)).offset, columns }
    }

    fn parameter(&mut self, shape: &[u64], dtype: DType, bytes: &[u8]) -> ParameterId {
        let id = self.library.parameters.len();
        let name = format!("p{id}");
        self.records.push(Record {
            name: name.clone(),
            shape: shape.to_vec(),
            dtype,
            format: Encoding::Raw,
            nbytes: bytes.len() as u64,
            byte_offset: self.shard.len() as u64,
        });
        self.shard.extend_from_slice(bytes);
        self.library.memory.weights += bytes.len() as u64;
        self.library.parameters.push(Parameter { name, shape: shape.to_vec(), dtype });
        ParameterId(id as u32)
    }

    /// Stores floats, and says what they became.
    pub(crate) fn floats(&mut self, shape: &[u64], dtype: DType, values: &[f32]) -> (ParameterId, Vec<f32>) {
        let (mut bytes, mut stored) = (Vec::new(), Vec::new());
        for &value in values {
            match dtype {
                DType::F16 => {
                    let half = half::f16::from_f32(value);
                    bytes.extend(half.to_le_bytes());
                    stored.push(half.to_f32());
                }
                DType::BF16 => {
                    let brain = half::bf16::from_f32(value);
                    bytes.extend(brain.to_le_bytes());
                    stored.push(brain.to_f32());
                }
                DType::F32 | DType::U32 => {
                    bytes.extend(value.to_le_bytes());
                    stored.push(value);
                }
            }
        }
        (self.parameter(shape, dtype, &bytes), stored)
    }

    /// A random `(n, k)` matrix.
    pub(crate) fn matrix(&mut self, n: usize, k: usize, storage: Storage) -> StoredMatrix {
        let scale = 1.0 / (k as f32).sqrt();
        let values: Vec<f32> = self.random.normals(n * k).iter().map(|x| x * scale).collect();
        match storage {
            Storage::Dense(dtype) => {
                let (id, values) = self.floats(&[n as u64, k as u64], dtype, &values);
                StoredMatrix { weight: Weight::Dense(id), values }
            }
            Storage::Grouped(format) => self.grouped(n, k, format, &values),
        }
    }

    fn grouped(&mut self, n: usize, k: usize, format: GroupFormat, values: &[f32]) -> StoredMatrix {
        let groups = format.groups(k as u64) as usize;
        let per_group = format.words_per_group() as usize;
        let (mut codes, mut scales) = (vec![0u32; n * groups * per_group], vec![0.0; n * groups]);
        let mut exact = vec![0.0; n * k];
        let place = |row: usize, index: usize, length: usize| match format.layout {
            Layout::Nk => row * length + index,
            Layout::Kn => index * n + row,
        };
        for row in 0..n {
            for g in 0..groups {
                let range = row * k + g * format.group as usize..row * k + k.min((g + 1) * format.group as usize);
                let mut group = vec![0; range.len()];
                let scale = quantize_group(&format, format.scale, &values[range.clone()], &mut group);
                dequantize_group(&format, &group, scale, &mut exact[range]);
                let mut words = vec![0; per_group];
                pack_group(&format, &group, &mut words);
                scales[place(row, g, groups)] = scale;
                for (w, word) in words.into_iter().enumerate() {
                    codes[place(row, g * per_group + w, groups * per_group)] = word;
                }
            }
        }
        let bytes: Vec<u8> = codes.iter().flat_map(|word| word.to_le_bytes()).collect();
        let codes = self.parameter(&format.code_shape(n as u64, k as u64), DType::U32, &bytes);
        let (scales, _) = self.floats(&format.scale_shape(n as u64, k as u64), format.scale, &scales);
        StoredMatrix { weight: Weight::Grouped { codes, scales, format }, values: exact }
    }

    /// Random norm weights over `columns`, and their values.
    pub(crate) fn norm(
        &mut self,
        kind: NormKind,
        columns: usize,
        dtype: DType,
    ) -> (NormWeights, Vec<f32>, Option<Vec<f32>>) {
        let values: Vec<f32> = self.random.normals(columns).iter().map(|x| 1.0 + 0.3 * x).collect();
        let (weight, values) = self.floats(&[columns as u64], dtype, &values);
        let bias = (kind == NormKind::Layer).then(|| {
            let values = self.random.normals(columns);
            self.floats(&[columns as u64], dtype, &values)
        });
        let (bias, biases) = bias.unzip();
        (NormWeights { kind, epsilon: 1e-5, weight: Some(weight), bias }, values, biases)
    }

    /// Adds an operation to `prefill` and `decode`.
    pub(crate) fn push(&mut self, op: Op) {
        let rows = if self.fine { 2 } else { 1 };
        let scratch = op.scratch_bytes().map(|bytes| self.scratch(rows * bytes));
        let parts = match &op {
            Op::Attention(op) => Attention::parts_bytes(op.heads, &self.library.kv_cache[op.layer as usize]),
            _ => None,
        };
        let of_one = parts.map(|bytes| self.scratch(bytes)).or(scratch);
        self.library.prefill.launches.push(Launch { op: op.clone(), scratch, gpu: None });
        self.library.decode.launches.push(Launch { op, scratch: of_one, gpu: None });
    }

    /// Rows that hold row `token` of the returned table for each token; there are `ids` token ids.
    pub(crate) fn input(&mut self, columns: u32, ids: u32) -> (Rows, Vec<Vec<f32>>) {
        let values = self.random.normals(ids as usize * columns as usize);
        let (id, values) = self.floats(&[u64::from(ids), u64::from(columns)], DType::F32, &values);
        let output = self.rows(columns);
        self.push(Op::Embed(Embed { table: Weight::Dense(id), vocab: ids, scale: 1.0, output }));
        (output, values.chunks(columns as usize).map(<[f32]>::to_vec).collect())
    }

    /// Makes `result` what the model gives out, writes the folder, and validates.
    pub(crate) fn finish(mut self, result: Rows) -> Sample {
        let logits = self.rows(result.columns);
        let norm = NormWeights { kind: NormKind::Rms, epsilon: HEAD * HEAD, weight: None, bias: None };
        let read = Op::Norm(Norm { input: result, rows: RowSelect::One, norm, output: logits });
        self.library.head.launches.push(Launch { op: read, scratch: None, gpu: None });
        self.library.io.hidden = result;
        self.library.io.logits = logits;
        self.library.io.call = self.library.memory.workspace;
        self.library.memory.workspace = self.library.call_inputs().expect("a small library").end;
        self.library.model.vocab_size = result.columns;
        self.library.model.hidden_size = result.columns;
        self.library.model.layers = self.library.kv_cache.len() as u32;
        self.library.memory.kv_cache = self.library.kv_cache.iter().map(KvLayer::bytes).sum();
        self.library.validate().expect("the suite builds valid libraries");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("params_shard_0.bin"), &self.shard).unwrap();
        let shard = Shard {
            data_path: "params_shard_0.bin".to_owned(),
            format: "raw-shard".to_owned(),
            nbytes: self.shard.len() as u64,
            records: self.records,
            md5sum: None,
        };
        let index = WeightIndex { metadata: Metadata::default(), shards: vec![shard] };
        std::fs::write(folder.path().join(FILE_NAME), index.to_json()).unwrap();
        Sample { library: Arc::new(self.library), folder }
    }
}
