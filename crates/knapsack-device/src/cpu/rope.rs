//! From the fused projection to rotated queries, and keys and values in the cache.

use super::norm::{apply, moments};
use super::task::{Floats, Norm, Rope, RopeQuery};
use super::vector::{Vector, load_some, store_some};
use half::f16;
use knapsack_artifact::plan::{NormPlace, QkvOrder};
use knapsack_artifact::validate::MAX_HEAD_DIM;
use knapsack_tensor::DType;

/// Token `t`.
///
/// # Safety
/// The instruction set of `V` is available, the task's invariants hold and token `t` exists.
#[inline(always)]
pub(crate) unsafe fn token<V: Vector>(task: &Rope, t: usize) {
    let layer = &task.cache.layer;
    let (kv_heads, dim) = (layer.kv_heads as usize, layer.head_dim as usize);
    let slot = layer.slot(task.position + t as u32) as usize;
    let mut head = [0.0f32; MAX_HEAD_DIM as usize];
    // SAFETY: a row of `qkv` has `(heads + 2 kv_heads) * dim` elements (`heads * dim`, and the others as much as they need, when
    // they are apart), one of `query` `heads * dim`, and the cache
    // `kv_heads * positions` rows of `dim` with `slot < positions`; a head fits the buffer.
    unsafe {
        let gated = if task.order == QkvOrder::Gated { task.heads } else { 0 };
        let fused = if task.apart.is_some() { 0 } else { 2 * kv_heads + gated };
        let row = task.qkv.add(t * (task.heads + fused) * dim);
        let angles = task.angles.wrapping_add(t * task.rotary);
        let starts = match task.order {
            QkvOrder::Sections => [0, task.heads, task.heads + kv_heads],
            QkvOrder::Gated => [0, 2 * task.heads, 2 * task.heads + kv_heads],
            QkvOrder::PerHead => [0, 1, 2],
        };
        let [keys, values] = match task.apart {
            Some([keys, values]) => [keys.add(t * kv_heads * dim), values.add(t * kv_heads * dim)],
            None => [row.add(starts[1] * dim), row.add(starts[2] * dim)],
        };
        let (query_step, step) = match task.order {
            QkvOrder::Sections => (1, 1),
            QkvOrder::PerHead => (3, 3),
            QkvOrder::Gated => (2, 1),
        };
        let query_angles = task.query_angles.wrapping_add(t * task.rotary);
        let query = Heads { norm: task.query_norm, place: task.place, angles: query_angles, rotary: task.rotary, dim };
        let whole = query.moments::<V>(row, task.heads);
        for h in 0..task.heads {
            query.prepare::<V>(whole, h, row.add(h * query_step * dim), head.as_mut_ptr());
            std::ptr::copy_nonoverlapping(head.as_ptr(), task.query.add((t * task.heads + h) * dim), dim);
        }
        let key = Heads { norm: task.key_norm, angles, ..query };
        let whole = key.moments::<V>(keys, kv_heads);
        for h in 0..kv_heads {
            let to = (h * layer.positions as usize + slot) * dim;
            key.prepare::<V>(whole, h, keys.add(h * step * dim), head.as_mut_ptr());
            keep::<V>(layer.dtype, head.as_ptr(), task.cache.keys, to, dim);
            let mut value = values.add(h * step * dim);
            if let Some(norm) = &task.value_norm {
                apply::<V>(norm, moments::<V>(norm, value, dim), value, head.as_mut_ptr(), dim);
                value = head.as_ptr();
            }
            keep::<V>(layer.dtype, value, task.cache.values, to, dim);
        }
    }
}

/// The queries of token `t`, of which another layer has the keys and values.
///
/// # Safety
/// As [`token`].
#[inline(always)]
pub(crate) unsafe fn query<V: Vector>(task: &RopeQuery, t: usize) {
    let RopeQuery { heads, dim, rotary, .. } = *task;
    // SAFETY: rows have `heads * dim` elements, and the angles of the token are `rotary / 2` pairs.
    unsafe {
        let angles = task.angles.wrapping_add(t * rotary);
        let norm = task.norm.map(|norm| (norm, [false; 2]));
        let prepared = Heads { norm, place: NormPlace::Heads, angles, rotary, dim };
        for h in 0..heads {
            let at = (t * heads + h) * dim;
            prepared.prepare::<V>(None, h, task.input.add(at), task.output.add(at));
        }
    }
}

/// How the heads of a section are normalized and rotated.
#[derive(Clone, Copy)]
struct Heads {
    norm: Option<(Norm, [bool; 2])>,
    place: NormPlace,
    angles: *const f32,
    rotary: usize,
    dim: usize,
}

impl Heads {
    /// Mean and factor of the norm over all heads of a row, where it is over them.
    ///
    /// # Safety
    /// The instruction set of `V` is available; `count` heads are readable at `row`.
    #[inline(always)]
    unsafe fn moments<V: Vector>(&self, row: *const f32, count: usize) -> Option<(f32, f32)> {
        let (norm, _) = self.norm.filter(|_| self.place == NormPlace::Row)?;
        // SAFETY: the caller's promises; the heads of a row stand one after another wherever a norm is over all of them.
        Some(unsafe { moments::<V>(&norm, row, count * self.dim) })
    }

    /// Head `h`, normalized and rotated, from `from` to `to`.
    ///
    /// # Safety
    /// As [`token`]; a head's elements exist at both.
    #[inline(always)]
    unsafe fn prepare<V: Vector>(&self, whole: Option<(f32, f32)>, h: usize, from: *const f32, to: *mut f32) {
        // SAFETY: the caller's promises; the angles are `rotary / 2` pairs.
        unsafe {
            let last = self.place == NormPlace::Rotated;
            let mut from = from;
            if last {
                std::ptr::copy_nonoverlapping(from, to, self.dim);
                rotate(to, self.angles, self.rotary / 2);
                from = to;
            }
            if !last || self.norm.is_some() {
                head_of::<V>(self.norm, whole, h, from, to, self.dim);
            }
            if !last {
                rotate(to, self.angles, self.rotary / 2);
            }
        }
    }
}

/// Copies head `h`, normalized where there is a norm, whose weights may be one head's or all heads'. With a norm the two places
/// may be the same. `whole` are the norm's moments where they are not this head's.
#[inline(always)]
unsafe fn head_of<V: Vector>(
    norm: Option<(Norm, [bool; 2])>,
    whole: Option<(f32, f32)>,
    h: usize,
    from: *const f32,
    to: *mut f32,
    dim: usize,
) {
    // SAFETY: the caller's promises.
    unsafe {
        match norm {
            None => std::ptr::copy_nonoverlapping(from, to, dim),
            Some((mut norm, [own_weight, own_bias])) => {
                norm.weight = offset(norm.weight, if own_weight { h * dim } else { 0 });
                norm.bias = offset(norm.bias, if own_bias { h * dim } else { 0 });
                // No closure: one would lose the caller's instruction set.
                let moments = match whole {
                    Some(whole) => whole,
                    None => moments::<V>(&norm, from, dim),
                };
                apply::<V>(&norm, moments, from, to, dim);
            }
        }
    }
}

/// The tensor from element `at` on, which exists.
#[inline(always)]
fn offset(floats: Option<Floats>, at: usize) -> Option<Floats> {
    floats.map(|Floats { data, dtype }| Floats { data: data.wrapping_add(at * dtype.size() as usize), dtype })
}

/// `(a, b) -> (a cos - b sin, b cos + a sin)` for the pairs `(x[i], x[i + half])`.
#[inline(always)]
unsafe fn rotate(x: *mut f32, angles: *const f32, half: usize) {
    for i in 0..half {
        // SAFETY: the head has at least `2 half` elements and the angles are `half` pairs.
        unsafe {
            let (cos, sin) = (angles.add(2 * i).read(), angles.add(2 * i + 1).read());
            let (a, b) = (x.add(i).read(), x.add(i + half).read());
            x.add(i).write(a * cos - b * sin);
            x.add(i + half).write(b * cos + a * sin);
        }
    }
}

/// Stores `dim` floats in a cache from element `at` on.
#[inline(always)]
unsafe fn keep<V: Vector>(dtype: DType, from: *const f32, cache: *mut u8, at: usize, dim: usize) {
    // SAFETY: the cache has the elements `at..at + dim`.
    unsafe {
        for i in (0..dim).step_by(V::LANES) {
            let some = dim - i;
            if dtype == DType::F32 {
                store_some::<V>(cache.cast::<f32>().add(at + i), load_some::<V>(from.add(i), some), some);
            } else if some >= V::LANES {
                V::store_f16(cache.add(2 * (at + i)), V::load(from.add(i)));
            } else {
                for j in i..dim {
                    let bits = f16::from_f32(from.add(j).read()).to_bits();
                    cache.add(2 * (at + j)).cast::<u16>().write_unaligned(bits);
                }
            }
        }
    }
}
