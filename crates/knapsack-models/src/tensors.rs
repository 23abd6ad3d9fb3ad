//! From a family's table to a model's parameters, and what a checkpoint's tensors are to it.

use crate::config::{Layer, ModelConfig, QueryKeyNorm};
use crate::parameter::{Parameter, ParameterKind, Source, StoredTensor, Transform};
use crate::table::{Change, Part, Role, Row, Section};
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
        if is_leftover(&own) || (self.tied_embeddings && self.is_head(&own)) {
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
    fn has(&self, row: &Row, _layer: Option<&Layer>) -> bool {
        match (row.role, row.part) {
            (Role::Head, _) if self.tied_embeddings => false,
            (_, Part::Weight) => match row.role {
                Role::QueryNorm | Role::KeyNorm => self.query_key_norm != QueryKeyNorm::None,
                _ => true,
            },
            (role, Part::Bias | Part::Float32Bias) => match role {
                Role::Qkv | Role::Query | Role::Key | Role::Value => self.biases.qkv,
                Role::Output => self.biases.attention_output,
                Role::GateUp | Role::Up | Role::Down => self.biases.mlp,
                Role::Head => self.biases.head,
                _ => false,
            },
        }
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
        let suffix = if row.part == Part::Weight { "weight" } else { "bias" };
        let (rows, columns) = self.sizes(row, layer.unwrap_or(&self.layers[0]));
        let module = place(to, row.mlc);
        let mut add = |suffix: &str, columns: Option<u64>, kind: ParameterKind, change: Change| {
            let sources = self.sources(row, &rows, |name| format!("{}.{suffix}", place(from, name)));
            let total = sources.iter().map(|source| source.rows).sum();
            let shape = [Some(total), columns].into_iter().flatten().collect();
            let transform = self.transform(change, layer);
            list.push(Parameter { name: format!("{module}.{suffix}"), shape, kind, sources, transform });
        };
        match row.part {
            Part::Float32Bias => add(suffix, None, ParameterKind::PlainFloat32, row.change),
            Part::Bias => add(suffix, None, ParameterKind::Plain, row.change),
            Part::Weight => {
                let kind = match row.role {
                    Role::Embedding => ParameterKind::Embedding,
                    Role::Head => ParameterKind::Final,
                    role if role.is_norm() => ParameterKind::Plain,
                    _ => ParameterKind::Linear,
                };
                add(suffix, columns, kind, row.change);
                let of_heads = matches!(row.role, Role::QueryNorm | Role::KeyNorm);
                if row.role.is_norm() && self.norm == NormKind::Layer && !of_heads {
                    add("bias", None, ParameterKind::Plain, Change::Keep);
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

    /// The rows of each part of a module's weight, and its columns, `None` for vectors.
    fn sizes(&self, row: &Row, layer: &Layer) -> (Vec<u64>, Option<u64>) {
        let (hidden, vocab, wide) = (u64::from(self.hidden), u64::from(self.vocab), u64::from(layer.intermediate));
        let attention = layer.attention();
        let (query, key) = (attention.query_columns(), attention.key_columns());
        let head_norm = |heads: u32| match self.query_key_norm {
            QueryKeyNorm::PerHead => vec![attention.head_dim.into(); heads as usize],
            QueryKeyNorm::Row => vec![u64::from(heads) * u64::from(attention.head_dim)],
            QueryKeyNorm::None | QueryKeyNorm::Shared | QueryKeyNorm::Rotated => vec![attention.head_dim.into()],
        };
        match row.role {
            Role::Embedding | Role::Head => (vec![vocab], Some(hidden)),
            Role::Qkv => (vec![query, key, key], Some(hidden)),
            Role::Query => (vec![query], Some(hidden)),
            Role::Key | Role::Value => (vec![key], Some(hidden)),
            Role::QueryNorm => (head_norm(attention.heads), None),
            Role::KeyNorm => (head_norm(attention.kv_heads), None),
            Role::Output => (vec![hidden], Some(query)),
            Role::GateUp => (vec![wide, wide], Some(hidden)),
            Role::Up => (vec![wide], Some(hidden)),
            Role::Down => (vec![hidden], Some(wide)),
            Role::FinalNorm | Role::AttentionNorm | Role::PostAttentionNorm | Role::MlpNorm | Role::PostMlpNorm => {
                (vec![hidden], None)
            }
        }
    }

    fn transform(&self, change: Change, layer: Option<&Layer>) -> Transform {
        let attention = layer.unwrap_or(&self.layers[0]).attention();
        match change {
            Change::Keep => Transform::Keep,
            Change::AddOne => Transform::AddOne,
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
