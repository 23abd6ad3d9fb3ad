//! Convolution of each channel over the last tokens.

use super::linear::finish::load_floats;
use super::math::activate;
use super::task::Conv;
use super::vector::{MAX_LANES, Vector, load_some, store_some};
use knapsack_artifact::validate::MAX_TAPS;
use std::mem::MaybeUninit;

/// Channels of a unit; a multiple of every vector's lanes.
pub(crate) const CHANNELS: usize = 256;
/// Most taps.
const TAPS: usize = MAX_TAPS as usize;

/// Channels `unit * CHANNELS..` of all tokens.
///
/// # Safety
/// The instruction set of `V` is available, the task's invariants hold and the unit exists.
#[inline(always)]
pub(crate) unsafe fn unit<V: Vector>(task: &Conv, unit: usize) {
    // SAFETY: the caller's promises.
    unsafe {
        match task.taps {
            // What models have: loops are unrolled and windows are registers.
            3 => channels::<V, 3>(task, unit),
            4 => channels::<V, 4>(task, unit),
            7 => channels::<V, 7>(task, unit),
            _ => channels::<V, 0>(task, unit),
        }
    }
}

/// As [`unit`], of `N` taps, or of any number of them where `N` is zero.
///
/// # Safety
/// As [`unit`].
#[inline(always)]
unsafe fn channels<V: Vector, const N: usize>(task: &Conv, unit: usize) {
    let first = unit * CHANNELS;
    let count = CHANNELS.min(task.channels - first);
    for c in (0..count).step_by(V::LANES) {
        // SAFETY: the channels exist.
        unsafe { lanes::<V, N>(task, first + c, (count - c).min(V::LANES)) };
    }
}

/// As many channels as a vector has lanes, or the last `some`: their window stays in registers.
///
/// # Safety
/// As [`unit`]; `some` channels exist from `channel` on.
#[inline(always)]
unsafe fn lanes<V: Vector, const N: usize>(task: &Conv, channel: usize, some: usize) {
    let (taps, zero) = (if N == 0 { task.taps } else { N }, 0.0);
    // SAFETY: weights have `taps` elements for each channel, states `taps - 1` rows of all channels, rows of the input the
    // columns that the task names; `taps <= TAPS`.
    unsafe {
        let mut weights = [V::splat(zero); TAPS];
        transposed::<V, N>(task, channel, some, &mut weights);
        // `window[j]` is the input of `taps - 1 - j` tokens before.
        let mut window = [V::splat(zero); TAPS];
        if !task.fresh {
            for j in 0..taps - 1 {
                window[j] = load_some::<V>(task.state.add(j * task.channels + channel), some);
            }
        }
        for t in 0..task.n {
            let row = t * task.columns + channel;
            let mut u = load_some::<V>(task.input.add(row), some);
            if let Some(gate) = task.gate_in {
                u = V::mul(u, load_some::<V>(gate.add(row), some));
            }
            window[taps - 1] = u;
            let mut y = match task.bias {
                Some(bias) => load_floats::<V>(bias, channel, some),
                None => V::splat(zero),
            };
            for j in 0..taps {
                y = V::fma(weights[j], window[j], y);
            }
            if let Some(function) = task.activation {
                y = activate::<V>(function, y);
            }
            if let Some(gate) = task.gate_out {
                y = V::mul(y, load_some::<V>(gate.add(row), some));
            }
            store_some::<V>(task.output.add(t * task.channels + channel), y, some);
            for j in 1..taps {
                window[j - 1] = window[j];
            }
        }
        for j in 0..taps - 1 {
            store_some::<V>(task.state.add(j * task.channels + channel), window[j], some);
        }
    }
}

/// Tap by tap the weights of some channels, which are stored channel by channel.
///
/// # Safety
/// As [`lanes`].
#[inline(always)]
unsafe fn transposed<V: Vector, const N: usize>(task: &Conv, channel: usize, some: usize, weights: &mut [V::F; TAPS]) {
    let taps = if N == 0 { task.taps } else { N };
    let mut stored = MaybeUninit::<[f32; MAX_LANES * TAPS]>::uninit();
    // SAFETY: the channels have `taps` weights each, and the buffers room for as many; what is read was written.
    unsafe {
        let stored = stored.as_mut_ptr().cast::<f32>();
        if some < V::LANES {
            stored.write_bytes(0, V::LANES * taps);
        }
        for i in (0..some * taps).step_by(V::LANES) {
            let few = (some * taps - i).min(V::LANES);
            store_some::<V>(stored.add(i), load_floats::<V>(task.weight, channel * taps + i, few), few);
        }
        for j in 0..taps {
            let mut lanes = [0.0f32; MAX_LANES];
            for c in 0..V::LANES {
                lanes[c] = stored.add(c * taps + j).read();
            }
            weights[j] = V::load(lanes.as_ptr());
        }
    }
}
