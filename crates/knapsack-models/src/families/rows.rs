//! Rows that most families' tables have, under llama's names.

use crate::table::{Role, Row, bias, row};

pub(crate) const EMBEDDING: Row = row(Role::Embedding, "model.embed_tokens", &["model.embed_tokens"]);
pub(crate) const FINAL_NORM: Row = row(Role::FinalNorm, "model.norm", &["model.norm"]);
pub(crate) const HEAD: Row = row(Role::Head, "lm_head", &["lm_head"]);
pub(crate) const ATTENTION_NORM: Row = row(Role::AttentionNorm, "input_layernorm", &["input_layernorm"]);
/// Before the feed-forward network, in families without a norm of what attention adds.
pub(crate) const MLP_NORM: Row = row(Role::MlpNorm, "post_attention_layernorm", &["post_attention_layernorm"]);
/// Three projections of a checkpoint.
pub(crate) const QKV_SOURCES: &[&str] = &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
pub(crate) const QKV: Row = row(Role::Qkv, "self_attn.qkv_proj", QKV_SOURCES);
pub(crate) const QKV_BIAS: Row = bias(Role::Qkv, "self_attn.qkv_proj", QKV_SOURCES);
pub(crate) const QUERY_NORM: Row = row(Role::QueryNorm, "self_attn.q_norm", &["self_attn.q_norm"]);
pub(crate) const KEY_NORM: Row = row(Role::KeyNorm, "self_attn.k_norm", &["self_attn.k_norm"]);
pub(crate) const OUTPUT: Row = row(Role::Output, "self_attn.o_proj", &["self_attn.o_proj"]);
pub(crate) const OUTPUT_BIAS: Row = bias(Role::Output, "self_attn.o_proj", &["self_attn.o_proj"]);
const GATE_UP_SOURCES: &[&str] = &["mlp.gate_proj", "mlp.up_proj"];
pub(crate) const GATE_UP: Row = row(Role::GateUp, "mlp.gate_up_proj", GATE_UP_SOURCES);
pub(crate) const GATE_UP_BIAS: Row = bias(Role::GateUp, "mlp.gate_up_proj", GATE_UP_SOURCES);
pub(crate) const DOWN: Row = row(Role::Down, "mlp.down_proj", &["mlp.down_proj"]);
pub(crate) const DOWN_BIAS: Row = bias(Role::Down, "mlp.down_proj", &["mlp.down_proj"]);
/// Of what attention adds, in families that have no norm before it.
pub(crate) const POST_ATTENTION_NORM: Row =
    row(Role::PostAttentionNorm, "post_attention_layernorm", &["post_attention_layernorm"]);
/// Of what the feed-forward network adds.
pub(crate) const POST_MLP_NORM: Row =
    row(Role::PostMlpNorm, "post_feedforward_layernorm", &["post_feedforward_layernorm"]);
