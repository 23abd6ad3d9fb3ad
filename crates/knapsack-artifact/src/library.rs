//! The model library: one model compiled for one device, as one blob of bytes.
//!
//! Layout, little endian: magic `KNAPSACK` (8), format version `u32`, reserved `u32` (0), payload length `u64`, SHA-256 of the
//! payload (32), then the payload: [`ModelLibrary`] as JSON. The header makes the blob self-delimiting, so a pointer to the
//! symbol in a linked image is enough to find its end.

use crate::plan::{
    ALIGNMENT, Function, KernelCall, KvLayer, Lookup, ParameterId, RopeTable, Rows, Scratch, StateLayer,
};
use knapsack_tensor::DType;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// First bytes of every library.
pub const MAGIC: &[u8; 8] = b"KNAPSACK";
/// Breaking version of the format.
pub const VERSION: u32 = 4;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 56;
/// Largest payload that is read. The largest real ones are below 1 MiB.
pub(crate) const MAX_PAYLOAD_BYTES: u64 = 64 << 20;
/// What follows a library's name in its exported symbol.
pub const SYMBOL_SUFFIX: &str = "___knapsack_model_library";

/// What a library was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Apple GPUs.
    Metal,
    /// Android GPUs.
    OpenCl,
    /// The CPU of the machine that packages; holds no kernels.
    Host,
}

/// What the runtime must know of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Family, such as `llama`.
    pub family: String,
    /// Quantization format, such as `q4f16_1`.
    pub quantization: String,
    /// Rows of the logits.
    pub vocab_size: u32,
    /// Columns of the residual stream.
    pub hidden_size: u32,
    /// Transformer layers.
    pub layers: u32,
    /// Most positions of a conversation; `None` with a sliding window, where there is no end.
    pub context_window_size: Option<u32>,
    /// Positions that a query sees, for models compiled with a sliding window on every layer.
    pub sliding_window_size: Option<u32>,
    /// First positions that stay visible beyond the sliding window.
    pub attention_sink_size: u32,
    /// Most tokens of one prefill call.
    pub prefill_chunk_size: u32,
}

/// One weight tensor as the device holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Name in the weight index.
    pub name: String,
    /// Outermost axis first.
    pub shape: Vec<u64>,
    /// Stored element type (see `Quantization::stored_dtype`).
    pub dtype: DType,
}

impl Parameter {
    /// Size in bytes; `None` on overflow.
    pub fn bytes(&self) -> Option<u64> {
        self.dtype.bytes(&self.shape)
    }
}

/// Where the host writes a call's inputs and reads its output, all in the workspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Io {
    /// Token ids, `u32`, 4 bytes for each token.
    pub tokens: Scratch,
    /// Where GPUs find the numbers of a call and the inputs of one token, and leave the most likely tokens:
    /// [`ModelLibrary::call_inputs`] from here on.
    pub call: u64,
    /// The residual stream after the last layer, or where layers that only read what others cache are left to `head`, after the
    /// last before those: what `prefill` and `decode` leave and `head` reads.
    pub hidden: Rows,
    /// What else `prefill` and `decode` leave for `head`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carried: Vec<Rows>,
    /// `(1, vocab_size)`: what `head` leaves.
    pub logits: Rows,
}

/// Device memory, in bytes, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Sum of the parameters, but for those that stay in the file.
    pub weights: u64,
    /// Sum of the parameters of [`ModelLibrary::lookups`]: not held in memory, and no part of the total.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub file: u64,
    /// Sum of [`KvLayer::bytes`].
    pub kv_cache: u64,
    /// [`state_bytes`](crate::plan::state_bytes): the recurrent layers' states, and what is set aside to come back to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub state: u64,
    /// The arena that holds inputs, activations and logits.
    pub workspace: u64,
}

impl MemoryPlan {
    /// All that is held in memory.
    pub const fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv_cache).saturating_add(self.state).saturating_add(self.workspace)
    }
}

impl MemoryPlan {
    /// The parts with what people call them; the state only where there is some.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, u64)> + Clone {
        let MemoryPlan { weights, kv_cache, state, workspace, .. } = *self;
        let all = [("weights", weights), ("KV cache", kv_cache), ("state", state), ("workspace", workspace)];
        all.into_iter().filter(|&(name, bytes)| name != "state" || bytes > 0)
    }
}

/// `weights 3, KV cache 2, workspace 1`, in bytes.
impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.parts().enumerate().try_for_each(|(index, (name, bytes))| {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{name} {bytes}")
        })
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) const fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// One kernel: its entry point and the threads of a work group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Function name in the source.
    pub name: String,
    /// Threads of a work group in x, y, z.
    pub threads: [u32; 3],
    /// Arguments that an OpenCL device gives as images where it builds the source so: buffers that are only read 16 bytes at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<u32>,
}

/// How kernels tile products of many tokens: a switch of their source, which a device sets by what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tiles {
    /// In local memory.
    #[default]
    Local,
    /// In the registers of each thread: for GPUs whose local memory is memory as any other.
    Registers,
    /// In local memory, multiplied by the matrices of simdgroups.
    Matrices,
}

impl Tiles {
    /// The value of the switch.
    pub const fn switch(self) -> u32 {
        match self {
            Tiles::Local => 0,
            Tiles::Registers => 1,
            Tiles::Matrices => 2,
        }
    }
}

/// The GPU kernels of a library: one source that holds them all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelModule {
    /// OpenCL C or Metal Shading Language, by the library's target.
    pub source: String,
    /// Entry points.
    pub kernels: Vec<Kernel>,
    /// Ways to the most likely tokens, by how many they find.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<Top>,
    /// The same source, compiled ahead for Apple's platforms where the machine that packaged could.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metallibs: Vec<Metallib>,
}

/// A compiled Metal library for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metallib {
    /// `ios`, `ios-simulator` or `macabi`.
    pub platform: String,
    /// How it was compiled.
    #[serde(default)]
    pub tiles: Tiles,
    /// What Apple's compiler wrote; hexadecimal in the payload.
    #[serde(with = "hex")]
    pub data: Vec<u8>,
}

/// One model compiled for one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelLibrary {
    /// Symbol prefix, `model_lib` in the app config.
    pub name: String,
    /// `knapsack` and its version.
    pub compiler: String,
    /// What it was compiled for.
    pub target: Target,
    /// What is known of the model without its weights: sizes, vocabulary, family.
    pub model: ModelInfo,
    /// Weights, in the order in which they are loaded.
    pub parameters: Vec<Parameter>,
    /// Rotary tables.
    pub rope_tables: Vec<RopeTable>,
    /// One entry for each layer that keeps keys and values.
    pub kv_cache: Vec<KvLayer>,
    /// What layers remember that keep no keys and values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<StateLayer>,
    /// Tables that stay in the mapped file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lookups: Vec<Lookup>,
    /// Inputs and outputs.
    pub io: Io,
    /// What a device allocates.
    pub memory: MemoryPlan,
    /// `1..=prefill_chunk_size` tokens in, their residual stream out.
    pub prefill: Function,
    /// The same for exactly one token.
    pub decode: Function,
    /// One row of the residual stream in, its logits out.
    pub head: Function,
    /// GPU code; `None` for [`Target::Host`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<KernelModule>,
}

/// Most tokens that a [`Top`] finds, and most work groups of its first kernel.
pub const MOST_TOP: u32 = 64;

/// How a GPU finds the most likely tokens, so that they alone are read and not all logits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    /// How many.
    pub count: u32,
    /// Its kernels take the logits, [`CallInputs::top`] and the numbers of the call. They leave there `count` pairs of a token and the
    /// bits of its logit, as `u32`, in descending order, of equal ones the lower token first; where only so many logits are numbers
    /// above negative infinity, the rest are pairs of `u32::MAX`. Behind them is room for as many pairs of each work group.
    pub gpu: KernelCall,
}

/// Byte offsets in the workspace of what passes between host and GPU, each a multiple of [`ALIGNMENT`]. What one token takes from the
/// host lies together, so that one copy brings all that `decode`, and `head` after it, need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallInputs {
    /// The most likely tokens ([`Top`]).
    pub top: u64,
    /// `n`, `p` and `row` of `prefill`, as `u32`.
    pub prefill: u64,
    /// The same of `decode` and `head`.
    pub one: u64,
    /// The token of `decode`.
    pub token: u64,
    /// For each rotary table the row of the one token.
    pub ropes: Vec<u64>,
    /// Where they end.
    pub end: u64,
}

impl ModelLibrary {
    /// Where [`Io::call`] and what follows it are; `None` when that is not representable.
    pub fn call_inputs(&self) -> Option<CallInputs> {
        CallInputs::at(self.io.call, self.rope_tables.iter().map(|table| table.rows.columns))
    }
}

/// Bytes of the pairs of the largest [`Top`].
pub const TOP_BYTES: u64 = 8 * MOST_TOP as u64 * (1 + MOST_TOP as u64);

impl CallInputs {
    /// Those that begin at `start`, for rotary tables of so many columns.
    pub fn at(start: u64, ropes: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut end = start;
        let mut region = |bytes: u64| {
            let offset = end;
            end = end.checked_add(bytes.checked_next_multiple_of(ALIGNMENT)?)?;
            Some(offset)
        };
        let top = region(TOP_BYTES)?;
        let (prefill, one, token) = (region(12)?, region(12)?, region(4)?);
        let ropes = ropes.into_iter().map(|columns| region(4 * u64::from(columns))).collect::<Option<_>>()?;
        Some(CallInputs { top, prefill, one, token, ropes, end })
    }
}

/// The first contradiction found in a library.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {problem}")]
pub struct InvalidLibrary {
    /// Where, such as `prefill launch 3 (linear)`.
    pub place: String,
    /// What does not hold, with the values.
    pub problem: String,
}

/// Why bytes are not a usable library.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum LibraryError {
    /// Shorter than its header says.
    #[error("the model library is cut short: {actual} bytes, {expected} expected")]
    Truncated {
        /// Bytes at hand.
        actual: u64,
        /// Bytes the header promises.
        expected: u64,
    },
    /// Not a library.
    #[error("not a model library: starts with {found:02x?}, expected `KNAPSACK`")]
    Magic { found: [u8; 8] },
    /// Written by another format version.
    #[error("model library format {found}, but this build reads {VERSION}: package the model again")]
    Version {
        /// Version in the header.
        found: u32,
    },
    /// The payload is larger than any real one.
    #[error("model library payload of {0} bytes exceeds the limit of {MAX_PAYLOAD_BYTES}")]
    TooLarge(u64),
    /// Bytes were changed.
    #[error("the model library is damaged: its checksum does not match")]
    Checksum,
    /// The payload is not what this version writes.
    #[error("the model library cannot be decoded")]
    Decode(#[source] serde_json::Error),
    /// It decodes, but contradicts itself.
    #[error("the model library is invalid")]
    Invalid(#[from] InvalidLibrary),
}

impl ModelLibrary {
    /// Whether a parameter stays in the mapped file.
    pub fn stays_in_file(&self, id: ParameterId) -> bool {
        self.lookups.iter().flat_map(Lookup::parameters).any(|parameter| parameter == id)
    }

    /// The exported symbol that holds a library of this name (without the underscore that Mach-O adds).
    pub fn symbol(name: &str) -> String {
        format!("{name}{SYMBOL_SUFFIX}")
    }

    /// The blob: header and payload.
    pub fn encode(&self) -> Vec<u8> {
        let payload = serde_json::to_vec(self).expect("a library has only serializable fields");
        let mut blob = Vec::with_capacity(HEADER_BYTES + payload.len());
        blob.extend_from_slice(MAGIC);
        blob.extend_from_slice(&VERSION.to_le_bytes());
        blob.extend_from_slice(&0u32.to_le_bytes());
        blob.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        blob.extend_from_slice(&Sha256::digest(&payload));
        blob.extend_from_slice(&payload);
        blob
    }

    /// Length of the blob that starts with these bytes (at least [`HEADER_BYTES`] of them), header included.
    ///
    /// # Errors
    /// When the header is short, foreign, of another version, or promises too much.
    pub fn blob_len(header: &[u8]) -> Result<usize, LibraryError> {
        let Some((magic, rest)) = header.split_first_chunk::<8>() else {
            return Err(LibraryError::Truncated { actual: header.len() as u64, expected: HEADER_BYTES as u64 });
        };
        if magic != MAGIC {
            return Err(LibraryError::Magic { found: *magic });
        }
        if header.len() < HEADER_BYTES {
            return Err(LibraryError::Truncated { actual: header.len() as u64, expected: HEADER_BYTES as u64 });
        }
        let version = u32::from_le_bytes(rest[..4].try_into().expect("four bytes"));
        if version != VERSION {
            return Err(LibraryError::Version { found: version });
        }
        let length = u64::from_le_bytes(rest[8..16].try_into().expect("eight bytes"));
        if length > MAX_PAYLOAD_BYTES {
            return Err(LibraryError::TooLarge(length));
        }
        Ok(HEADER_BYTES + length as usize)
    }

    /// Decodes and validates a blob; bytes after its end are ignored.
    ///
    /// # Errors
    /// [`LibraryError`], in the order of its variants.
    pub fn decode(bytes: &[u8]) -> Result<Self, LibraryError> {
        let length = Self::blob_len(bytes)?;
        let Some(blob) = bytes.get(..length) else {
            return Err(LibraryError::Truncated { actual: bytes.len() as u64, expected: length as u64 });
        };
        let (header, payload) = blob.split_at(HEADER_BYTES);
        if Sha256::digest(payload)[..] != header[24..HEADER_BYTES] {
            return Err(LibraryError::Checksum);
        }
        let library: Self = serde_json::from_slice(payload).map_err(LibraryError::Decode)?;
        library.validate()?;
        Ok(library)
    }
}
