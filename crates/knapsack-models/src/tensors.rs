//! From a family's table to a model's parameters, and what a checkpoint's tensors are to it.

use crate::config::{Attention, AttentionGate, Delta, Layer, Mixer, ModelConfig, QueryKeyNorm};
use crate::parameter::{Parameter, ParameterKind, Source, StoredTensor, Transform};
use crate::table::{Change, MixerKind, Part, Role, Row, Section};
use knapsack_tensor::{NormKind, Quantization};
use std::borrow::Cow;

/// What a tensor of a checkpoint is to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorUse<'a> {
    /// A source of a parameter if one has this name. Checkpoints of models that also see or hear keep the language model's
    /// tensors under a prefix, which is taken off here.
    Source(Cow<'a, str>),
    /// It carries nothing that is needed: rotary tables, causal masks, the second copy of tied embeddings.
    Ignored,
    /// It belongs to a part beside the language model, such as `vision`.
    Part(&'static str),
}

/// What stands before a language model's own names where it is part of something larger, and what to put in its place.
const PREFIXES: [(&str, &str); 3] =
    [("model.language_model.", "model."), ("language_model.model.", "model."), ("language_model.lm_head.", "lm_head.")];

impl ModelConfig {
    /// Every parameter, unquantized, by MLC name.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut list = Vec::new();
        for section in self.modules.sections {
            match section {
                Section::Once(rows) => rows.iter().for_each(|row| self.push(&mut list, row, None)),
                Section::Layers(rows) => {
                    for at in self.layers.iter().enumerate() {
                        rows.iter().for_each(|row| self.push(&mut list, row, Some(at)));
                    }
                }
            }
        }
        list
    }

    /// Every tensor as a weight folder of this format holds it, in the order of [`ModelConfig::parameters`].
    pub fn stored_tensors(&self, quantization: &Quantization) -> Vec<StoredTensor> {
        self.parameters().iter().flat_map(|parameter| parameter.stored(quantization)).collect()
    }

    /// What a checkpoint's tensor of this name is to the model.
    pub fn tensor_use<'a>(&self, name: &'a str) -> TensorUse<'a> {
        for &(beginning, part) in self.family.skips {
            if name.starts_with(beginning) {
                return TensorUse::Part(part);
            }
        }
        let own = canonical(name);
        if is_leftover(&own) || self.is_of_shared(&own) || (self.tied_embeddings && self.is_head(&own)) {
            return TensorUse::Ignored;
        }
        TensorUse::Source(own)
    }

    fn is_head(&self, name: &str) -> bool {
        let head = self.modules.find(Role::Head).and_then(|row| row.sources.first());
        head.is_some_and(|head| name.strip_prefix(head) == Some(".weight"))
    }

    /// MLC's name of the module of a role, where the model has one.
    pub(crate) fn module(&self, role: Role, layer: Option<u32>) -> Option<String> {
        let row = self.modules.find(role)?;
        match layer {
            None => self.has(row, None).then(|| row.mlc.to_owned()),
            Some(index) => {
                let layer = self.layers.get(index as usize)?;
                self.has(row, Some(layer)).then(|| format!("{}.{index}.{}", self.modules.layers[0], row.mlc))
            }
        }
    }

    /// Whether the model, or one of its layers, has what a row says.
    fn has(&self, row: &Row, layer: Option<&Layer>) -> bool {
        let kind = layer.map(|layer| match layer.mixer {
            Mixer::Attention(_) => MixerKind::Attention,
            Mixer::Conv { .. } => MixerKind::Conv,
            Mixer::Delta(_) => MixerKind::Delta,
        });
        if row.role.mixer().is_some_and(|needed| kind != Some(needed)) {
            return false;
        }
        match (row.role, row.part) {
            (Role::Head, _) if self.tied_embeddings => false,
            (_, Part::Named | Part::NamedFloat32) => true,
            (Role::Key | Role::Value | Role::KeyNorm, _) if Self::shares(layer) => false,
            (_, Part::Weight) => match row.role {
                Role::PerLayerTable
                | Role::PerLayerModel
                | Role::PerLayerNorm
                | Role::PerLayerGate
                | Role::PerLayerProjection
                | Role::PostPerLayerNorm => self.per_layer_input.is_some(),
                Role::QueryNorm | Role::KeyNorm => self.query_key_norm != QueryKeyNorm::None,
                Role::AttentionGate => self.attention_gate == AttentionGate::Heads,
                _ => true,
            },
            (role, Part::Bias | Part::Float32Bias) => match role {
                Role::Qkv | Role::Query | Role::Key | Role::Value => self.biases.qkv,
                Role::Output => self.biases.attention_output,
                Role::GateUp | Role::Up | Role::Down => self.biases.mlp,
                Role::Head => self.biases.head,
                Role::ConvIn | Role::Conv | Role::ConvOut => self.biases.conv,
                _ => false,
            },
        }
    }

    /// Whether a layer has neither keys nor values of its own.
    fn shares(layer: Option<&Layer>) -> bool {
        layer.and_then(Layer::attention).is_some_and(|attention| attention.shares.is_some())
    }

    /// Whether a tensor gives keys and values to a layer that has none of its own: checkpoints hold them all the same.
    fn is_of_shared(&self, name: &str) -> bool {
        let layer = name.strip_prefix(self.modules.layers[1]).and_then(|rest| rest.strip_prefix('.'));
        let Some((index, rest)) = layer.and_then(|rest| rest.split_once('.')) else { return false };
        let layer = index.parse().ok().and_then(|index: usize| self.layers.get(index));
        let is = |role: Role| {
            let names = self.modules.find(role).map_or(&[][..], |row| row.sources);
            names.iter().any(|source| rest.strip_prefix(source) == Some(".weight"))
        };
        Self::shares(layer) && [Role::Key, Role::Value, Role::KeyNorm].into_iter().any(is)
    }

    fn push(&self, list: &mut Vec<Parameter>, row: &Row, at: Option<(usize, &Layer)>) {
        let layer = at.map(|(_, layer)| layer);
        if !self.has(row, layer) {
            return;
        }
        let place = |prefix: &str, name: &str| match at {
            None => name.to_owned(),
            Some((index, _)) => format!("{prefix}.{index}.{name}"),
        };
        let [to, from] = self.modules.layers;
        let suffix = match row.part {
            Part::Weight => ".weight",
            Part::Bias | Part::Float32Bias => ".bias",
            Part::Named | Part::NamedFloat32 => "",
        };
        let (rows, inner) = self.sizes(row, layer.unwrap_or(&self.layers[0]));
        let module = place(to, row.mlc);
        let mut add = |suffix: &str, inner: &[u64], kind: ParameterKind, change: Change| {
            let sources = self.sources(row, &rows, |name| format!("{}{suffix}", place(from, name)));
            let total: u64 = sources.iter().map(|source| source.rows).sum();
            let shape = std::iter::once(total).chain(inner.iter().copied()).collect();
            let transform = self.transform(change, layer);
            list.push(Parameter { name: format!("{module}{suffix}"), shape, kind, sources, transform });
        };
        match row.part {
            Part::Float32Bias => add(suffix, &[], ParameterKind::PlainFloat32, row.change),
            Part::Bias => add(suffix, &[], ParameterKind::Plain, row.change),
            Part::Named => add(suffix, &inner, ParameterKind::Plain, row.change),
            Part::NamedFloat32 => add(suffix, &inner, ParameterKind::PlainFloat32, row.change),
            Part::Weight => {
                let kind = match row.role {
                    Role::Embedding | Role::PerLayerTable => ParameterKind::Embedding,
                    Role::Head => ParameterKind::Final,
                    role if role.is_norm() || role == Role::Conv => ParameterKind::Plain,
                    _ => ParameterKind::Linear,
                };
                add(suffix, &inner, kind, row.change);
                let of_heads = matches!(row.role, Role::QueryNorm | Role::KeyNorm);
                if row.role.is_norm() && self.norm == NormKind::Layer && !of_heads {
                    add(".bias", &[], ParameterKind::Plain, Change::Keep);
                }
            }
        }
    }

    /// The tensors that a row is made of.
    fn sources(&self, row: &Row, rows: &[u64], name: impl Fn(&str) -> String) -> Vec<Source> {
        let heads = matches!(row.role, Role::QueryNorm | Role::KeyNorm) && self.query_key_norm == QueryKeyNorm::PerHead;
        match row.sources {
            [one] if heads => {
                let head = |(head, &rows)| Source { name: name(&format!("{one}.norms.{head}")), rows };
                rows.iter().enumerate().map(head).collect()
            }
            [one] => vec![Source { name: name(one), rows: rows.iter().sum() }],
            several => several.iter().zip(rows).map(|(one, &rows)| Source { name: name(one), rows }).collect(),
        }
    }

    /// The rows of each part of a module's weight, and its other axes, none for vectors.
    fn sizes(&self, row: &Row, layer: &Layer) -> (Vec<u64>, Vec<u64>) {
        let (hidden, vocab, wide) = (u64::from(self.hidden), u64::from(self.vocab), u64::from(layer.intermediate));
        let given = u64::from(self.per_layer_input.unwrap_or(0));
        let all = given * self.layers.len() as u64;
        match (row.role, &layer.mixer) {
            (Role::PerLayerTable, _) => (vec![vocab], vec![all]),
            (Role::PerLayerModel, _) => (vec![all], vec![hidden]),
            (Role::PerLayerNorm, _) => (vec![given], vec![]),
            (Role::PerLayerGate, _) => (vec![given], vec![hidden]),
            (Role::PerLayerProjection, _) => (vec![hidden], vec![given]),
            (Role::LayerScalar, _) => (vec![1], vec![]),
            (Role::Embedding | Role::Head, _) => (vec![vocab], vec![hidden]),
            (Role::GateUp, _) => (vec![wide, wide], vec![hidden]),
            (Role::Up, _) => (vec![wide], vec![hidden]),
            (Role::Down, _) => (vec![hidden], vec![wide]),
            (Role::ConvIn, _) => (vec![3 * hidden], vec![hidden]),
            (Role::ConvOut, _) => (vec![hidden], vec![hidden]),
            (Role::Conv, Mixer::Conv { taps }) => (vec![hidden], vec![1, u64::from(*taps)]),
            (role, Mixer::Attention(attention)) => self.attention_sizes(role, attention),
            (role, Mixer::Delta(delta)) => self.delta_sizes(role, delta),
            (_, Mixer::Conv { .. }) => (vec![hidden], vec![]),
        }
    }

    fn delta_sizes(&self, role: Role, delta: &Delta) -> (Vec<u64>, Vec<u64>) {
        let (hidden, heads, values) = (u64::from(self.hidden), u64::from(delta.heads), delta.value_columns());
        match role {
            Role::DeltaQkv => (vec![delta.columns()], vec![hidden]),
            Role::DeltaGate => (vec![values], vec![hidden]),
            Role::DeltaDecay | Role::DeltaWrite => (vec![heads], vec![hidden]),
            Role::DeltaConv => (vec![delta.columns()], vec![1, u64::from(delta.taps)]),
            Role::DeltaLog | Role::DeltaBias => (vec![heads], vec![]),
            Role::DeltaNorm => (vec![u64::from(delta.value_dim)], vec![]),
            Role::DeltaOut => (vec![hidden], vec![values]),
            _ => (vec![hidden], vec![]),
        }
    }

    fn attention_sizes(&self, role: Role, attention: &Attention) -> (Vec<u64>, Vec<u64>) {
        let hidden = u64::from(self.hidden);
        let (query, key) = (attention.query_columns(), attention.key_columns());
        let gated = if self.attention_gate == AttentionGate::Elements { 2 * query } else { query };
        let head_norm = |heads: u32| match self.query_key_norm {
            QueryKeyNorm::PerHead => vec![attention.head_dim.into(); heads as usize],
            QueryKeyNorm::Row => vec![u64::from(heads) * u64::from(attention.head_dim)],
            QueryKeyNorm::None | QueryKeyNorm::Shared | QueryKeyNorm::Rotated => vec![attention.head_dim.into()],
        };
        match role {
            Role::Qkv => (vec![gated, key, key], vec![hidden]),
            Role::Query => (vec![query], vec![hidden]),
            Role::Key | Role::Value => (vec![key], vec![hidden]),
            Role::QueryNorm => (head_norm(attention.heads), vec![]),
            Role::KeyNorm => (head_norm(attention.kv_heads), vec![]),
            Role::Output => (vec![hidden], vec![query]),
            Role::AttentionGate => (vec![u64::from(attention.heads)], vec![hidden]),
            _ => (vec![hidden], vec![]),
        }
    }

    fn transform(&self, change: Change, layer: Option<&Layer>) -> Transform {
        let attention = layer.and_then(Layer::attention).unwrap_or_else(|| self.attention());
        match change {
            Change::Keep => Transform::Keep,
            Change::AddOne => Transform::AddOne,
            Change::AddOneExactly => Transform::AddOneExactly,
            Change::Unpair => {
                Transform::Unpair { heads: attention.heads + attention.kv_heads, head_dim: attention.head_dim }
            }
            Change::SplitHeads => Transform::SplitHeads { heads: attention.heads, head_dim: attention.head_dim },
        }
    }
}

/// The name that the tables know a tensor by.
fn canonical(name: &str) -> Cow<'_, str> {
    for (prefix, instead) in PREFIXES {
        if let Some(rest) = name.strip_prefix(prefix) {
            return format!("{instead}{rest}").into();
        }
    }
    name.into()
}

/// Rotary tables and causal masks that older versions of transformers saved.
fn is_leftover(name: &str) -> bool {
    [".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"].iter().any(|end| name.ends_with(end))
}
