//! A float16 cache used as it is, where a processor adds products of float16 to float32 sums: the products are exact.
//!
//! What meets the cache is rounded to float16 first. A query is raised by the power of two that brings its largest element to
//! 1 or more and below 2, so an element is off by 2^-12 of itself, or by 2^-25 of the largest, and nothing overflows;
//! a weight is at most 1 and off by as much. Keys and values were rounded likewise when they were stored.

use super::{BLOCK, Query, ask};
use crate::cpu::task::Attention;
use crate::cpu::vector::Vector;

/// Of a vector; heads are whole ones.
pub(super) const ELEMENTS: u32 = 8;

/// Makes float16 of a query, in its place; gives what products with it must be multiplied with.
#[inline(always)]
pub(super) unsafe fn narrow_query<V: Vector>(query: *mut f32, dim: usize) -> f32 {
    // SAFETY: `dim` elements, whole vectors, of which none is overwritten before it is read.
    unsafe {
        let mut largest = V::splat(0.0);
        for d in (0..dim).step_by(V::LANES) {
            let x = V::load(query.add(d));
            largest = V::max(largest, V::max(x, V::sub(V::splat(0.0), x)));
        }
        // Its exponent, where that has an inverse among normal numbers.
        let exponent = (V::largest(largest).to_bits() >> 23).clamp(1, 253);
        let inverse = V::splat(f32::from_bits((254 - exponent) << 23));
        for d in (0..dim).step_by(V::LANES) {
            V::store_f16(query.cast::<u8>().add(2 * d), V::mul(V::load(query.add(d)), inverse));
        }
        f32::from_bits(exponent << 23)
    }
}

/// Makes float16 of `count` weights of a query, whole vectors, in their place.
#[inline(always)]
pub(super) unsafe fn narrow<V: Vector>(weights: *mut f32, count: usize) {
    for j in (0..count).step_by(V::LANES) {
        // SAFETY: as many weights were written, of which none is overwritten before it is read.
        unsafe { V::store_f16(weights.cast::<u8>().add(2 * j), V::load(weights.add(j))) };
    }
}

/// Keys or values of a block, where the cache has them.
#[derive(Clone, Copy)]
pub(super) struct Rows([*const u8; BLOCK]);

impl Rows {
    /// Of no position.
    pub(super) const NONE: Self = Self([std::ptr::null(); BLOCK]);

    /// Those of positions `first..first + count`; beyond them the last one again, which is not seen.
    #[inline(always)]
    pub(super) unsafe fn new<V: Vector>(
        task: &Attention,
        cache: *const u8,
        kv_head: usize,
        first: u32,
        count: usize,
    ) -> Self {
        let Self(mut rows) = Self::NONE;
        for j in 0..count.next_multiple_of(4) {
            // SAFETY: the positions are cached.
            rows[j] = unsafe { ask::<V>(task, cache, kv_head, first + j.min(count - 1) as u32) };
        }
        Self(rows)
    }
}

/// As [`super::score`], of `count` keys; `Q`.
#[inline(always)]
pub(super) unsafe fn score<V: Vector, const Q: usize>(
    keys: &Rows,
    count: usize,
    dim: usize,
    from: *const f32,
    queries: &[Query],
    scores: *mut [f32; BLOCK],
) -> usize {
    for vector in (0..count).step_by(4) {
        // SAFETY: keys and queries have `dim` float16 each, queries `dim` floats apart.
        unsafe {
            let mut rows = [keys.0[vector]; 4];
            rows.copy_from_slice(&keys.0[vector..vector + 4]);
            let mut sums = [[V::splat(0.0); 4]; Q];
            for d in (0..dim).step_by(ELEMENTS as usize) {
                let mut key = [V::load_halves(rows[0].add(2 * d)); 4];
                for j in 1..4 {
                    key[j] = V::load_halves(rows[j].add(2 * d));
                }
                for q in 0..Q {
                    let x = V::load_halves(from.add(q * dim).cast::<u8>().add(2 * d));
                    for j in 0..4 {
                        sums[q][j] = V::fma_upper(x, key[j], V::fma_lower(x, key[j], sums[q][j]));
                    }
                }
            }
            for q in 0..Q {
                let sum = V::mul(V::float_sums(sums[q]), V::splat(queries[q].raised));
                V::store(scores.add(q).cast::<f32>().add(vector), sum);
            }
        }
    }
    Q
}

impl<V: Vector> super::Values<V> for &Rows {
    const TOGETHER: usize = 2;
    type Weight = V::H;

    #[inline(always)]
    unsafe fn weight(weights: *const f32, j: usize) -> V::H {
        // SAFETY: the caller's promise; weights went through [`narrow`].
        unsafe { V::splat_half(weights.cast::<u8>().add(2 * j)) }
    }

    #[inline(always)]
    unsafe fn add<const Q: usize, const W: usize>(
        self,
        j: usize,
        d: usize,
        weights: &[V::H; Q],
        sums: &mut [[V::F; W]; Q],
    ) {
        for w in (0..W).step_by(2) {
            // SAFETY: the caller's promises; heads are whole vectors of float16, so `W` is even.
            unsafe {
                let value = V::load_halves(self.0[j].add(2 * (d + w * V::LANES)));
                for q in 0..Q {
                    sums[q][w] = V::fma_lower(weights[q], value, sums[q][w]);
                    sums[q][w + 1] = V::fma_upper(weights[q], value, sums[q][w + 1]);
                }
            }
        }
    }
}
