//! What a family calls its parameters: one table of rows, from which follow the parameter list (and so what a conversion reads
//! and writes), the names that the graph reads, and which layers have what.

use std::fmt;

/// What a module is to the decoder. Shape, storage and the switch that may leave it out follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// `(vocab, hidden)`.
    Embedding,
    /// Before the logits.
    FinalNorm,
    /// `(vocab, hidden)`; absent with tied embeddings.
    Head,
    /// Of what attention reads; a family without it reads the stream as it is.
    AttentionNorm,
    /// q, k and v in one, rows in this order. From one tensor, or from three.
    Qkv,
    /// q alone, in families that keep the three apart.
    Query,
    /// k alone.
    Key,
    /// v alone.
    Value,
    /// Of the q heads.
    QueryNorm,
    /// Of the k heads.
    KeyNorm,
    /// After attention.
    Output,
    /// Of what attention adds to the stream.
    PostAttentionNorm,
    /// Of what the feed-forward network reads; a family without it reads what attention reads, or the stream.
    MlpNorm,
    /// Gate above up. From one tensor, or from two.
    GateUp,
    /// The wide product of a network without a gate.
    Up,
    /// Back to the stream.
    Down,
    /// Of what the feed-forward network adds to the stream.
    PostMlpNorm,
    /// One gate for each head of attention.
    AttentionGate,
    /// Of a convolution layer: gate, gate and input, rows in this order.
    ConvIn,
    /// `(hidden, 1, taps)`.
    Conv,
    /// After the convolution.
    ConvOut,
    /// Of a delta rule's layer: q, k and v.
    DeltaQkv,
    /// What its result is multiplied by.
    DeltaGate,
    /// How fast it forgets, from the token.
    DeltaDecay,
    /// How much it writes.
    DeltaWrite,
    /// `(columns of q, k and v, 1, taps)`.
    DeltaConv,
    /// How fast it forgets, of itself.
    DeltaLog,
    /// Added to what the token says of forgetting.
    DeltaBias,
    /// Of each head's result.
    DeltaNorm,
    /// After the delta rule.
    DeltaOut,
    /// `(vocab, layers * columns)`: what each layer is given of each token.
    PerLayerTable,
    /// `(layers * columns, hidden)`: the same from the embedding.
    PerLayerModel,
    /// Of each layer's columns of that.
    PerLayerNorm,
    /// From the stream to what a layer's columns are multiplied with.
    PerLayerGate,
    /// Back to the stream.
    PerLayerProjection,
    /// Of what that adds to the stream.
    PostPerLayerNorm,
    /// One number that the stream is multiplied by at the end of a layer.
    LayerScalar,
}

impl Role {
    /// Whether it is a normalization: a vector, with an offset where the model's kind of normalization has one.
    pub(crate) const fn is_norm(self) -> bool {
        use Role::*;
        matches!(
            self,
            FinalNorm
                | AttentionNorm
                | QueryNorm
                | KeyNorm
                | PostAttentionNorm
                | MlpNorm
                | PostMlpNorm
                | DeltaNorm
                | PerLayerNorm
                | PostPerLayerNorm
        )
    }

    /// The kind of layer that has it; `None`: every one.
    pub(crate) const fn mixer(self) -> Option<MixerKind> {
        use Role::*;
        match self {
            Qkv | Query | Key | Value | QueryNorm | KeyNorm | Output | AttentionGate => Some(MixerKind::Attention),
            ConvIn | Conv | ConvOut => Some(MixerKind::Conv),
            DeltaQkv | DeltaGate | DeltaDecay | DeltaWrite | DeltaConv | DeltaLog | DeltaBias | DeltaNorm
            | DeltaOut => Some(MixerKind::Delta),
            _ => None,
        }
    }
}

/// What mixes the tokens of a layer, without its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MixerKind {
    Attention,
    Conv,
    Delta,
}

/// Which parameter of a module a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// `<module>.weight`.
    Weight,
    /// `<module>.bias`, there where the configuration says so.
    Bias,
    /// A bias that MLC keeps in float32 whatever the format.
    Float32Bias,
    /// A parameter whose names are complete: nothing is put behind them.
    Named,
    /// The same, which MLC keeps in float32.
    NamedFloat32,
}

/// What is done to the checkpoint's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    Keep,
    /// One is added to every element, in the checkpoint's type.
    AddOne,
    /// One is added to every element in float32.
    AddOneExactly,
    /// q, k and v of each head become all q, all k, all v.
    SplitHeads,
    /// Neighbouring elements of q and k heads, which the checkpoint rotates, come to stand half a head apart.
    Unpair,
}

/// One parameter of the model, or of each of its layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) role: Role,
    pub(crate) part: Part,
    /// MLC's name of the module; of one in a layer without the layer's prefix.
    pub(crate) mlc: &'static str,
    /// The checkpoint's name, or those of the tensors that are stacked.
    pub(crate) sources: &'static [&'static str],
    pub(crate) change: Change,
}

/// A weight that is stored under these names.
pub(crate) const fn row(role: Role, mlc: &'static str, sources: &'static [&'static str]) -> Row {
    Row { role, part: Part::Weight, mlc, sources, change: Change::Keep }
}

/// A bias that is stored under these names.
pub(crate) const fn bias(role: Role, mlc: &'static str, sources: &'static [&'static str]) -> Row {
    Row { role, part: Part::Bias, mlc, sources, change: Change::Keep }
}

/// A parameter that is no weight of a module.
pub(crate) const fn named(role: Role, part: Part, mlc: &'static str, sources: &'static [&'static str]) -> Row {
    Row { role, part, mlc, sources, change: Change::Keep }
}

impl Row {
    pub(crate) const fn with(self, change: Change) -> Row {
        Row { change, ..self }
    }

    pub(crate) const fn in_float32(self) -> Row {
        Row { part: Part::Float32Bias, ..self }
    }
}

/// Rows that are there once, or once for each layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Section {
    Once(&'static [Row]),
    Layers(&'static [Row]),
}

/// A family's table. Sections and rows stand in the order in which a library lists its parameters.
pub(crate) struct Modules {
    /// What stands before a layer's number: in MLC, and in checkpoints.
    pub(crate) layers: [&'static str; 2],
    pub(crate) sections: &'static [Section],
}

impl Modules {
    /// The row of a role's weight, or of what it is instead.
    pub(crate) fn find(&self, role: Role) -> Option<&Row> {
        let rows = self.sections.iter().flat_map(|section| match section {
            Section::Once(rows) | Section::Layers(rows) => rows.iter(),
        });
        let own = |part| matches!(part, Part::Weight | Part::Named | Part::NamedFloat32);
        rows.into_iter().find(|row| row.role == role && own(row.part))
    }
}

/// Tables are statics: two are the same when they are one.
impl PartialEq for Modules {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl fmt::Debug for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.layers[0])
    }
}
