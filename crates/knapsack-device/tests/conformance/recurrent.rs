//! The operations that remember: each against a naive evaluation, in calls of drawn lengths, and after going back to a state that was
//! set aside.

use super::Instance;
use super::build::{Builder, HEAD, Sample};
use super::cases::{Kind, activate, activations, check, normalized, run, tokens, wide};
use knapsack_artifact::plan::*;
use knapsack_device::StateCopy;
use knapsack_tensor::{DType, NormKind};
use proptest::prelude::*;

fn state(b: &mut Builder, state: StateLayer) -> u32 {
    b.library.memory.state += 2 * state.bytes();
    b.library.states.push(state);
    b.library.states.len() as u32 - 1
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Rows of the tokens that a call at `from` computes.
fn forward(
    instance: &Instance<'_>,
    model: &mut dyn knapsack_device::LoadedModel,
    part: &[u32],
    from: u32,
) -> Vec<Vec<f32>> {
    model.forward(part, from).unwrap_or_else(|error| panic!("{}: {error}", instance.name));
    let row = |row: usize| {
        let mut logits = vec![0.0; model.library().model.vocab_size as usize];
        model.logits(row as u32, &mut logits).unwrap();
        logits.iter().map(|x| x * HEAD).collect()
    };
    (0..part.len()).map(row).collect()
}

/// What is computed from a state that was set aside, taken up after other tokens: that of the other tokens does not show.
fn after_going_back(instance: &Instance<'_>, sample: &Sample, tokens: &[u32], chunk: u32) -> Vec<Vec<f32>> {
    let library = (instance.prepare)(&sample.library);
    let mut model = instance.device.load(library, sample.folder.path()).unwrap();
    let first = tokens.len().min(chunk as usize);
    let mut rows = forward(instance, &mut *model, &tokens[..first], 0);
    model.copy_states(first as u32, StateCopy::Kept).unwrap();
    forward(instance, &mut *model, &tokens[..first], first as u32);
    model.copy_states(first as u32, StateCopy::Current).unwrap();
    for (index, part) in tokens[first..].chunks(chunk as usize).enumerate() {
        rows.extend(forward(instance, &mut *model, part, (first + index * chunk as usize) as u32));
    }
    rows
}

fn calls() -> impl Strategy<Value = (u32, usize, u64)> {
    (prop_oneof![Just(1u32), 2..=20u32], 1..=40usize, any::<u64>())
}

pub(crate) fn causal_conv(instance: &Instance<'_>) {
    let channels = prop_oneof![1..=40u32, Just(64u32), 250..=300u32];
    let shape = (channels, prop_oneof![Just(3u32), Just(4), Just(7), 2..=16u32], any::<[bool; 4]>());
    run(instance, (shape, prop::option::of(activations()), calls()), |(shape, activation, (chunk, count, seed))| {
        let (channels, taps, [gated_in, gated_out, biased, single]) = shape;
        let mut b = Builder::new(chunk, 128, seed);
        let (input, x) = b.input(3 * channels + 1, channels);
        let values = b.random.normals((channels * taps) as usize);
        let dtype = if single { DType::F32 } else { DType::F16 };
        let (weight, w) = b.floats(&[u64::from(channels), 1, u64::from(taps)], dtype, &values);
        let bias = biased.then(|| {
            let values = b.random.normals(channels as usize);
            b.floats(&[u64::from(channels)], DType::F16, &values)
        });
        let (start, gate_in, gate_out) = (1, gated_in.then_some(channels + 1), gated_out.then_some(2 * channels + 1));
        let output = b.rows(channels);
        let state = state(&mut b, StateLayer::Conv { channels, taps });
        b.push(Op::CausalConv(CausalConv {
            input,
            start,
            gate_in,
            gate_out,
            weight,
            bias: bias.as_ref().map(|(id, _)| *id),
            activation,
            taps,
            state,
            output,
        }));
        // There are as many ids as logits.
        let tokens = tokens(&mut b.random, count, channels);
        let at = |t: usize, column: u32| f64::from(x[tokens[t] as usize][column as usize]);
        let expected: Vec<Vec<f64>> = (0..count)
            .map(|t| {
                let y = |c: u32| {
                    let products = (0..taps as usize).filter(|j| t + j + 1 >= taps as usize).map(|j| {
                        let before = t + j + 1 - taps as usize;
                        let u = at(before, start + c) * gate_in.map_or(1.0, |gate| at(before, gate + c));
                        f64::from(w[c as usize * taps as usize + j]) * u
                    });
                    let sum = products.sum::<f64>() + bias.as_ref().map_or(0.0, |(_, b)| f64::from(b[c as usize]));
                    let y = activation.map_or(sum, |function| activate(function, sum));
                    y * gate_out.map_or(1.0, |gate| at(t, gate + c))
                };
                (0..channels).map(y).collect()
            })
            .collect();
        let sample = b.finish(output);
        let what = format!("{channels} channels, {taps} taps, {chunk} of {count}");
        check(instance, Kind::Exact, &instance.run(&sample, &tokens, chunk), &expected, &what)?;
        check(instance, Kind::Exact, &after_going_back(instance, &sample, &tokens, chunk), &expected, &what)
    });
}

pub(crate) fn gated_delta(instance: &Instance<'_>) {
    let dims = || prop_oneof![Just(16u32), Just(128), 1..=40u32];
    let shape = (1..=2u32, 1..=3u32, dims(), dims());
    run(instance, (shape, calls()), |((key_heads, group, key_dim, value_dim), (chunk, count, seed))| {
        let heads = key_heads * group;
        let mut b = Builder::new(chunk, 128, seed);
        let values = heads * value_dim;
        let keys = key_heads * key_dim;
        let (qkv, x) = b.input(2 * keys + values, values);
        let (decay, a) = b.input(heads, values);
        let (write, w) = b.input(heads, values);
        let (gate, z) = b.input(values, values);
        let vector = |b: &mut Builder, dtype| {
            let values = b.random.normals(heads as usize);
            b.floats(&[u64::from(heads)], dtype, &values)
        };
        let (decay_log, log) = vector(&mut b, DType::F32);
        let (decay_bias, bias) = vector(&mut b, DType::BF16);
        let (norm, weight, _) = b.norm(NormKind::Rms, value_dim as usize, DType::F16);
        let output = b.rows(values);
        let state = state(&mut b, StateLayer::Delta { heads, key_dim, value_dim });
        b.push(Op::GatedDelta(GatedDelta {
            qkv,
            decay,
            write,
            gate,
            decay_log,
            decay_bias,
            norm,
            key_heads,
            heads,
            key_dim,
            value_dim,
            state,
            output,
        }));
        let tokens = tokens(&mut b.random, count, values);
        let (dk, dv) = (key_dim as usize, value_dim as usize);
        let mut matrices = vec![vec![0.0f64; dk * dv]; heads as usize];
        let mut expected = Vec::new();
        for &token in &tokens {
            let row = wide(&x[token as usize]);
            let unit = |start: usize, by: f64| -> Vec<f64> {
                let part = &row[start..start + dk];
                let length = (part.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt() * by;
                part.iter().map(|x| x / length).collect()
            };
            let mut all = Vec::new();
            for (head, matrix) in matrices.iter_mut().enumerate() {
                let key_head = head / group as usize;
                let q = unit(key_head * dk, f64::from(key_dim).sqrt());
                let k = unit((key_heads as usize + key_head) * dk, 1.0);
                let v = &row[2 * keys as usize + head * dv..][..dv];
                let softplus = (f64::from(a[token as usize][head]) + f64::from(bias[head])).exp().ln_1p();
                let alpha = (-f64::from(log[head]).exp() * softplus).exp();
                let beta = sigmoid(f64::from(w[token as usize][head]));
                matrix.iter_mut().for_each(|s| *s *= alpha);
                let product = |matrix: &[f64], with: &[f64], j: usize| -> f64 {
                    (0..dk).map(|i| matrix[i * dv + j] * with[i]).sum()
                };
                let change: Vec<f64> = (0..dv).map(|j| beta * (v[j] - product(matrix, &k, j))).collect();
                for i in 0..dk {
                    (0..dv).for_each(|j| matrix[i * dv + j] += k[i] * change[j]);
                }
                let o: Vec<f64> = (0..dv).map(|j| product(matrix, &q, j)).collect();
                let gates = z[token as usize][head * dv..].iter().map(|&z| f64::from(z) * sigmoid(f64::from(z)));
                all.extend(normalized(NormKind::Rms, &o, &weight, None).into_iter().zip(gates).map(|(o, z)| o * z));
            }
            expected.push(all);
        }
        let sample = b.finish(output);
        let what = format!("{heads} / {key_heads} heads of {key_dim} x {value_dim}, {chunk} of {count}");
        // Normalizing divides by what may be small.
        check(instance, Kind::Recurrent, &instance.run(&sample, &tokens, chunk), &expected, &what)?;
        check(instance, Kind::Recurrent, &after_going_back(instance, &sample, &tokens, chunk), &expected, &what)
    });
}
