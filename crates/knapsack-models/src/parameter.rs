use knapsack_tensor::{DType, GroupFormat, Quantization};

/// What a parameter is, which decides how a quantization format stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParameterKind {
    /// The weight `(n, k)` of a linear layer.
    Linear,
    /// The weight of the final linear layer.
    Final,
    /// The embedding table `(vocab, hidden)`.
    Embedding,
    /// A normalization's weight or a bias, in the model dtype.
    Plain,
    /// A bias or another vector that MLC keeps in float32 whatever the format.
    PlainFloat32,
}

/// Where a part of a parameter comes from: one tensor of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Its name in the checkpoint.
    pub name: String,
    /// How many rows (elements, of a vector) it gives; the rest of its shape is the parameter's.
    pub rows: u64,
}

/// What happens to the sources after they are concatenated on axis 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transform {
    /// Nothing.
    Keep,
    /// One is added to every element, in the checkpoint's dtype (gemma's normalizations).
    AddOne,
    /// One is added to every element, in float32 (qwen3_5's normalizations).
    AddOneExactly,
    /// From rows of `heads` heads, each with its q, k and v of `head_dim`, to all q, all k, all v (gpt_neox).
    SplitHeads {
        /// Heads.
        heads: u32,
        /// Elements of a head.
        head_dim: u32,
    },
    /// Of the first `heads` heads, rows `2 i` and `2 i + 1` become `i` and `i + head_dim / 2`; the rest stays (ernie4_5).
    Unpair {
        /// Heads.
        heads: u32,
        /// Elements of a head; even.
        head_dim: u32,
    },
}

/// One parameter of a model before quantization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parameter {
    /// MLC's name, such as `model.layers.0.self_attn.qkv_proj.weight`.
    pub name: String,
    /// Outermost axis first: `(n, k)`, `(n)`, or of a convolution `(n, 1, taps)`.
    pub shape: Vec<u64>,
    /// By which rule of a format it is stored.
    pub kind: ParameterKind,
    /// Tensors of the checkpoint, concatenated on axis 0.
    pub sources: Vec<Source>,
    /// What happens to them then.
    pub transform: Transform,
}

/// One tensor of a weight folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoredTensor {
    /// Name in the weight index.
    pub name: String,
    /// Outermost axis first.
    pub shape: Vec<u64>,
    /// Element type on disk and on the device.
    pub dtype: DType,
    /// Element type that the weight index gives: float32 where bfloat16 is stored for it (`f32-to-bf16`).
    pub index_dtype: DType,
}

impl StoredTensor {
    /// Bytes on disk and on the device; `None` on overflow.
    pub fn bytes(&self) -> Option<u64> {
        self.dtype.bytes(&self.shape)
    }
}

impl Parameter {
    /// How this parameter is grouped in `quantization`; `None` when it is stored plainly.
    pub fn group_format(&self, quantization: &Quantization) -> Option<GroupFormat> {
        match self.kind {
            ParameterKind::Linear => quantization.linear(),
            ParameterKind::Final => quantization.final_linear(),
            ParameterKind::Embedding => quantization.embedding(),
            ParameterKind::Plain | ParameterKind::PlainFloat32 => None,
        }
    }

    /// The module's name: the parameter's without `.weight` or `.bias`.
    pub fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(module, _)| module)
    }

    /// The tensors that hold this parameter in `quantization`: one, or codes and scales, in this order.
    pub fn stored(&self, quantization: &Quantization) -> Vec<StoredTensor> {
        let float = match self.kind {
            ParameterKind::PlainFloat32 => DType::F32,
            _ => quantization.model_dtype,
        };
        let stored = if float == DType::F32 { DType::BF16 } else { float };
        match (self.group_format(quantization), self.shape.as_slice()) {
            (Some(format), &[n, k]) => vec![
                StoredTensor {
                    name: format!("{}.q_weight", self.module()),
                    shape: format.code_shape(n, k).to_vec(),
                    dtype: DType::U32,
                    index_dtype: DType::U32,
                },
                StoredTensor {
                    name: format!("{}.q_scale", self.module()),
                    shape: format.scale_shape(n, k).to_vec(),
                    dtype: stored,
                    index_dtype: float,
                },
            ],
            _ => vec![StoredTensor {
                name: self.name.clone(),
                shape: self.shape.clone(),
                dtype: stored,
                index_dtype: float,
            }],
        }
    }
}
