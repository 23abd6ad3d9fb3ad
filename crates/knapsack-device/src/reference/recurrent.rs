//! The operations that remember.

use super::ops::{Plain, normalize, sigmoid};
use crate::call::Call;
use knapsack_artifact::plan::{CausalConv, GatedDelta};

/// `x` divided by its length and by `by`.
fn unit(x: &[f32], by: f32) -> Vec<f32> {
    let length = (x.iter().map(|x| x * x).sum::<f32>() + 1e-6).sqrt();
    x.iter().map(|x| x / length / by).collect()
}

impl Plain<'_> {
    /// A state: what the call before left, or zeros at position 0.
    fn state(&mut self, index: u32, call: Call) -> Vec<f32> {
        let elements = self.memory.library.states[index as usize].elements() as usize;
        if call.position == 0 {
            return vec![0.0; elements];
        }
        let start = self.memory.states[index as usize];
        let bytes = &self.memory.state.bytes()[start..start + 4 * elements];
        bytemuck::cast_slice(bytes).to_vec()
    }

    fn set_state(&mut self, index: u32, values: &[f32]) {
        let start = self.memory.states[index as usize];
        let bytes: &[u8] = bytemuck::cast_slice(values);
        self.memory.state.bytes_mut()[start..start + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn causal_conv(&mut self, op: &CausalConv, call: Call) {
        let (channels, columns, taps) = (op.output.columns as usize, op.input.columns as usize, op.taps as usize);
        let input = self.read(op.input, call.n);
        let (weight, bias) = (self.floats(op.weight), op.bias.map(|id| self.floats(id)));
        // The inputs of all tokens, those that are remembered first.
        let mut all = self.state(op.state, call);
        for row in input.chunks_exact(columns) {
            let part = |start: u32| &row[start as usize..][..channels];
            let gated = op.gate_in.map(part);
            all.extend(part(op.start).iter().enumerate().map(|(c, x)| x * gated.map_or(1.0, |gate| gate[c])));
        }
        let mut output = Vec::new();
        for (t, row) in input.chunks_exact(columns).enumerate() {
            for c in 0..channels {
                let products = (0..taps).map(|j| weight[c * taps + j] * all[(t + j) * channels + c]);
                let mut y = products.sum::<f32>() + bias.as_ref().map_or(0.0, |bias| bias[c]);
                if let Some(function) = op.activation {
                    y = function.apply(y);
                }
                output.push(y * op.gate_out.map_or(1.0, |gate| row[gate as usize + c]));
            }
        }
        self.set_state(op.state, &all[all.len() - (taps - 1) * channels..]);
        self.write(op.output, &output);
    }

    pub(super) fn gated_delta(&mut self, op: &GatedDelta, call: Call) {
        let [heads, key_heads, dk, dv] = [op.heads, op.key_heads, op.key_dim, op.value_dim].map(|size| size as usize);
        let (qkv, gate) = (self.read(op.qkv, call.n), self.read(op.gate, call.n));
        let (decay, write) = (self.read(op.decay, call.n), self.read(op.write, call.n));
        let (log, bias) = (self.floats(op.decay_log), self.floats(op.decay_bias));
        let weight = op.norm.weight.map(|id| self.floats(id));
        let mut state = self.state(op.state, call);
        let mut output = Vec::new();
        for (t, row) in qkv.chunks_exact(op.qkv.columns as usize).enumerate() {
            for head in 0..heads {
                let key_head = head / (heads / key_heads);
                let query = unit(&row[key_head * dk..][..dk], (dk as f32).sqrt());
                let key = unit(&row[(key_heads + key_head) * dk..][..dk], 1.0);
                let value = &row[2 * key_heads * dk + head * dv..][..dv];
                let x = decay[t * heads + head] + bias[head];
                let softplus = if x > 20.0 { x } else { x.exp().ln_1p() };
                let alpha = (-log[head].exp() * softplus).exp();
                let beta = sigmoid(write[t * heads + head]);
                let matrix = &mut state[head * dk * dv..][..dk * dv];
                matrix.iter_mut().for_each(|s| *s *= alpha);
                let mut result = vec![0.0; dv];
                for j in 0..dv {
                    let read: f32 = (0..dk).map(|i| matrix[i * dv + j] * key[i]).sum();
                    let change = beta * (value[j] - read);
                    (0..dk).for_each(|i| matrix[i * dv + j] += key[i] * change);
                    result[j] = (0..dk).map(|i| matrix[i * dv + j] * query[i]).sum();
                }
                normalize(&op.norm, weight.as_deref(), None, &mut result);
                let gate = &gate[(t * heads + head) * dv..][..dv];
                output.extend(result.iter().zip(gate).map(|(o, z)| o * z * sigmoid(*z)));
            }
        }
        self.set_state(op.state, &state);
        self.write(op.output, &output);
    }
}
