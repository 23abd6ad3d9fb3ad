//! The gated delta rule. A head's matrix goes through the cache once for each token, in blocks of columns that stay in registers:
//! what is read with the key and with the query is summed in one pass over the old matrix, which decays and is written in the
//! second; the query's part of the change follows from the product of key and query.

use super::linear::finish::load_floats;
use super::math::activate;
use super::norm::{apply, moments};
use super::task::{Delta, Floats};
use super::vector::{Vector, load_some, store_some};
use knapsack_artifact::validate::MAX_STATE_DIM;
use knapsack_tensor::Activation;

/// Most elements of a head.
const DIM: usize = MAX_STATE_DIM as usize;
/// Vectors of a block of columns.
const BLOCK: usize = 4;

/// What a head needs of one token.
struct Token {
    query: [f32; DIM],
    key: [f32; DIM],
    /// Product of the two.
    both: f32,
    /// What is left of the matrix.
    kept: f32,
    /// How much of the change is written.
    write: f32,
}

/// Head `head` of all tokens.
///
/// # Safety
/// The instruction set of `V` is available, the task's invariants hold and the head exists.
#[inline(always)]
pub(crate) unsafe fn unit<V: Vector>(task: &Delta, head: usize) {
    let (dk, dv) = (task.key_dim, task.value_dim);
    let columns = 2 * task.key_heads * dk + task.heads * dv;
    let key_head = head / (task.heads / task.key_heads);
    // SAFETY: the head's matrix, and its columns in each row, exist; heads are at most `DIM` long.
    unsafe {
        let matrix = task.state.add(head * dk * dv);
        if task.fresh {
            std::ptr::write_bytes(matrix, 0, dk * dv);
        }
        for t in 0..task.n {
            let row = task.qkv.add(t * columns);
            let token = token::<V>(task, t, head, row.add(key_head * dk), row.add((task.key_heads + key_head) * dk));
            let value = row.add(2 * task.key_heads * dk + head * dv);
            let at = (t * task.heads + head) * dv;
            let result = task.output.add(at);
            for first in (0..dv).step_by(BLOCK * V::LANES) {
                block::<V>(&token, matrix, value, result, first, [dk, dv]);
            }
            let statistics = moments::<V>(&task.norm, result, dv);
            apply::<V>(&task.norm, statistics, result, result, dv);
            for i in (0..dv).step_by(V::LANES) {
                let gate = activate::<V>(Activation::Silu, load_some::<V>(task.gate.add(at + i), dv - i));
                let gated = V::mul(load_some::<V>(result.add(i), dv - i), gate);
                store_some::<V>(result.add(i), gated, dv - i);
            }
        }
    }
}

/// One element of a stored tensor.
///
/// # Safety
/// The instruction set of `V` is available and the element exists.
#[inline(always)]
unsafe fn one<V: Vector>(floats: Floats, at: usize) -> f32 {
    // SAFETY: the caller's promises; the other lanes are zero.
    unsafe { V::sum(load_floats::<V>(floats, at, 1)) }
}

/// `x` divided by its length and by `by`.
///
/// # Safety
/// The instruction set of `V` is available; `count <= DIM` floats are readable.
#[inline(always)]
unsafe fn unit_of<V: Vector>(x: *const f32, count: usize, by: f32, to: &mut [f32; DIM]) {
    // SAFETY: all indices are below `count`.
    unsafe {
        let mut squares = V::splat(0.0);
        for i in (0..count).step_by(V::LANES) {
            let some = load_some::<V>(x.add(i), count - i);
            squares = V::fma(some, some, squares);
        }
        let factor = V::splat(1.0 / ((V::sum(squares) + 1e-6).sqrt() * by));
        for i in (0..count).step_by(V::LANES) {
            let scaled = V::mul(load_some::<V>(x.add(i), count - i), factor);
            store_some::<V>(to.as_mut_ptr().add(i), scaled, count - i);
        }
    }
}

/// # Safety
/// As [`unit`]; the token exists, `query` and `key` are its.
#[inline(always)]
unsafe fn token<V: Vector>(task: &Delta, t: usize, head: usize, query: *const f32, key: *const f32) -> Token {
    let dk = task.key_dim;
    let mut token = Token { query: [0.0; DIM], key: [0.0; DIM], both: 0.0, kept: 0.0, write: 0.0 };
    // SAFETY: the caller's promises.
    unsafe {
        unit_of::<V>(query, dk, (dk as f32).sqrt(), &mut token.query);
        unit_of::<V>(key, dk, 1.0, &mut token.key);
        let mut both = V::splat(0.0);
        for i in (0..dk).step_by(V::LANES) {
            let (q, k) = (token.query.as_ptr().add(i), token.key.as_ptr().add(i));
            both = V::fma(load_some::<V>(q, dk - i), load_some::<V>(k, dk - i), both);
        }
        token.both = V::sum(both);
        let at = t * task.heads + head;
        let x = task.decay.add(at).read() + one::<V>(task.decay_bias, head);
        let softplus = if x > 20.0 { x } else { x.exp().ln_1p() };
        token.kept = (-one::<V>(task.decay_log, head).exp() * softplus).exp();
        token.write = 1.0 / (1.0 + (-task.write.add(at).read()).exp());
    }
    token
}

/// Columns `first..` of a head's matrix, as many as a block has, and of its result.
///
/// # Safety
/// As [`unit`]; `value` and `result` have `dv` elements, the matrix `dk` rows of them.
#[inline(always)]
unsafe fn block<V: Vector>(
    token: &Token,
    matrix: *mut f32,
    value: *const f32,
    result: *mut f32,
    first: usize,
    [dk, dv]: [usize; 2],
) {
    let zero = 0.0;
    // Vectors of this block, and elements of each.
    let vectors = (dv - first).div_ceil(V::LANES).min(BLOCK);
    let some = |v: usize| dv - first - v * V::LANES;
    // SAFETY: all columns are below `dv`, all rows below `dk`.
    unsafe {
        let (mut read, mut seen) = ([V::splat(zero); BLOCK], [V::splat(zero); BLOCK]);
        for i in 0..dk {
            let row = matrix.add(i * dv + first);
            let (k, q) = (V::splat(token.key[i]), V::splat(token.query[i]));
            for v in 0..vectors {
                let s = load_some::<V>(row.add(v * V::LANES), some(v));
                read[v] = V::fma(k, s, read[v]);
                seen[v] = V::fma(q, s, seen[v]);
            }
        }
        let (kept, write, both) = (V::splat(token.kept), V::splat(token.write), V::splat(token.both));
        let mut change = [V::splat(zero); BLOCK];
        for v in 0..vectors {
            let wanted = load_some::<V>(value.add(first + v * V::LANES), some(v));
            change[v] = V::mul(write, V::sub(wanted, V::mul(kept, read[v])));
            let o = V::fma(both, change[v], V::mul(kept, seen[v]));
            store_some::<V>(result.add(first + v * V::LANES), o, some(v));
        }
        for i in 0..dk {
            let row = matrix.add(i * dv + first);
            let k = V::splat(token.key[i]);
            for v in 0..vectors {
                let s = load_some::<V>(row.add(v * V::LANES), some(v));
                store_some::<V>(row.add(v * V::LANES), V::fma(k, change[v], V::mul(kept, s)), some(v));
            }
        }
    }
}
