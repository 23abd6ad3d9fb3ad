//! Operations that remember.

use super::Interpreter;
use super::rows::Matrix;
use crate::{CausalConv, Columns, GatedDelta, StateLayer};
use std::rc::Rc;

/// Floats of a state.
pub(super) fn elements(state: &StateLayer) -> usize {
    let count = match *state {
        StateLayer::Conv { channels, taps } => u64::from(channels) * u64::from(taps - 1),
        StateLayer::Delta { heads, key_dim, value_dim } => u64::from(heads) * u64::from(key_dim) * u64::from(value_dim),
    };
    count as usize
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `x` divided by its length.
fn unit(x: &[f32]) -> Vec<f32> {
    let length = (x.iter().map(|x| x * x).sum::<f32>() + 1e-6).sqrt();
    x.iter().map(|x| x / length).collect()
}

impl Matrix {
    /// Each column times the logistic function of its gate.
    pub(super) fn gated(&self, gates: &Matrix) -> Matrix {
        let spread = self.columns / gates.columns.max(1);
        let gate = |at: usize| gates.data[at / self.columns * gates.columns + at % self.columns / spread];
        let data = self.data.iter().enumerate().map(|(at, x)| x * sigmoid(gate(at))).collect();
        Matrix { columns: self.columns, data }
    }
}

impl Interpreter<'_> {
    pub(super) fn causal_conv(&mut self, op: &CausalConv, input: &Matrix) -> Matrix {
        let StateLayer::Conv { channels, taps } = self.graph.states[op.state as usize] else {
            return Matrix::default();
        };
        let part = |start: u32| input.slice(&Columns::range(start, channels));
        let mut u = part(op.start);
        if let Some(gate) = op.gate_in {
            u = u.zip(&part(gate), |u, gate| u * gate);
        }
        let (count, taps) = (channels as usize, taps as usize);
        let state = &mut self.states[op.state as usize];
        let all = [state.as_slice(), &u.data].concat();
        let weight = self.weights.vector(op.weight);
        let bias = op.bias.map(|bias| self.weights.vector(bias));
        let sum = |at: usize| {
            let (t, c) = (at / count, at % count);
            let taken = (0..taps).map(|j| weight[c * taps + j] * all[(t + j) * count + c]);
            taken.sum::<f32>() + bias.map_or(0.0, |bias| bias[c])
        };
        let mut result = Matrix { columns: count, data: (0..u.data.len()).map(sum).collect() };
        *state = all[all.len() - (taps - 1) * count..].to_vec();
        if let Some(function) = op.activation {
            result = result.map(|y| function.apply(y));
        }
        match op.gate_out {
            Some(gate) => result.zip(&part(gate), |y, gate| y * gate),
            None => result,
        }
    }

    pub(super) fn gated_delta(&mut self, op: &GatedDelta, [qkv, decay, write, gate]: &[Rc<Matrix>; 4]) -> Matrix {
        let StateLayer::Delta { heads, key_dim, value_dim } = self.graph.states[op.state as usize] else {
            return Matrix::default();
        };
        let [heads, keys, dk, dv] = [heads, op.key_heads, key_dim, value_dim].map(|size| size as usize);
        let (log, bias) = (self.weights.vector(op.decay_log), self.weights.vector(op.decay_bias));
        let mut data = Vec::with_capacity(gate.data.len());
        for (t, row) in qkv.rows().enumerate() {
            for head in 0..heads {
                let key_head = head / (heads / keys);
                let query: Vec<f32> =
                    unit(&row[key_head * dk..][..dk]).iter().map(|x| x / (dk as f32).sqrt()).collect();
                let key = unit(&row[(keys + key_head) * dk..][..dk]);
                let value = &row[2 * keys * dk + head * dv..][..dv];
                let x = decay.data[t * heads + head] + bias[head];
                let softplus = if x > 20.0 { x } else { x.exp().ln_1p() };
                let alpha = (-log[head].exp() * softplus).exp();
                let beta = sigmoid(write.data[t * heads + head]);
                let matrix = &mut self.states[op.state as usize][head * dk * dv..][..dk * dv];
                matrix.iter_mut().for_each(|s| *s *= alpha);
                for j in 0..dv {
                    let read: f32 = (0..dk).map(|i| matrix[i * dv + j] * key[i]).sum();
                    let change = beta * (value[j] - read);
                    (0..dk).for_each(|i| matrix[i * dv + j] += key[i] * change);
                }
                data.extend((0..dv).map(|j| (0..dk).map(|i| matrix[i * dv + j] * query[i]).sum::<f32>()));
            }
        }
        let normed = self.normed(&Matrix { columns: heads * dv, data }, &op.norm);
        normed.zip(gate, |o, z| o * z * sigmoid(z))
    }
}
