//! Keys, values and attention.

use super::rows::Matrix;
use crate::{Columns, KvLayer, QkvOrder, RopeAppend};

/// Keys and values of every position of one layer.
#[derive(Default)]
pub(super) struct History {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

/// The columns of q, k and v in a fused projection.
pub(super) fn columns(op: &RopeAppend, kv: &KvLayer) -> [Columns; 3] {
    let width = kv.head_dim;
    match op.order {
        QkvOrder::Sections => {
            let (q, k) = (op.heads * width, kv.kv_heads * width);
            [Columns::range(0, q), Columns::range(q, k), Columns::range(q + k, k)]
        }
        QkvOrder::Gated => {
            let (q, k) = (op.heads * width, kv.kv_heads * width);
            let queries = Columns { start: 0, width, count: op.heads, stride: 2 * width };
            [queries, Columns::range(2 * q, k), Columns::range(2 * q + k, k)]
        }
        QkvOrder::PerHead => {
            [0, 1, 2].map(|part| Columns { start: part * width, width, count: kv.kv_heads, stride: 3 * width })
        }
    }
}

impl History {
    pub(super) fn append(&mut self, keys: &Matrix, values: &Matrix) {
        self.keys.extend(keys.rows().map(<[f32]>::to_vec));
        self.values.extend(values.rows().map(<[f32]>::to_vec));
    }

    /// Attention of query rows at `position` and after.
    pub(super) fn attend(
        &self,
        query: &Matrix,
        kv: &KvLayer,
        position: u32,
        scale: f32,
        soft_cap: Option<f32>,
    ) -> Matrix {
        let dim = kv.head_dim as usize;
        let heads = query.columns / dim;
        let shared = heads / kv.kv_heads as usize;
        let mut data = Vec::with_capacity(query.data.len());
        for (t, row) in query.rows().enumerate() {
            let visible: Vec<usize> =
                (0..=position as usize + t).filter(|&j| visible(kv, position as usize + t, j)).collect();
            for (head, q) in row.chunks_exact(dim).enumerate() {
                let columns = (head / shared) * dim..(head / shared + 1) * dim;
                let score = |&j: &usize| {
                    let dot: f32 = q.iter().zip(&self.keys[j][columns.clone()]).map(|(a, b)| a * b).sum();
                    let score = dot * scale;
                    soft_cap.map_or(score, |cap| cap * (score / cap).tanh())
                };
                let scores: Vec<f32> = visible.iter().map(score).collect();
                let largest = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                let weights: Vec<f32> = scores.iter().map(|s| (s - largest).exp()).collect();
                let total: f32 = weights.iter().sum();
                let mix = |i: usize| {
                    let sum: f32 = visible.iter().zip(&weights).map(|(&j, w)| w * self.values[j][i]).sum();
                    sum / total
                };
                data.extend(columns.map(mix));
            }
        }
        Matrix { columns: query.columns, data }
    }
}

/// Whether a query sees a position not after its own: among the last `window`, or among the first `sinks`.
fn visible(kv: &KvLayer, query: usize, position: usize) -> bool {
    kv.window.is_none_or(|window| query - position < window as usize) || position < kv.sinks as usize
}
