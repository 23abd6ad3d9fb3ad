//! Scores of many queries: keys that lie element by element need no sums across lanes, and give the same bits.

use super::{BLOCK, ask};
use crate::cpu::task::Attention;
use crate::cpu::vector::{Half, Single, Vector, load_stored};
use knapsack_tensor::DType;

/// Widens keys as [`super::widen`], but lays those of an element side by side: whole vectors of positions, zeros beyond `count`.
#[inline(always)]
pub(super) unsafe fn turn<V: Vector>(task: &Attention, kv_head: usize, first: u32, count: usize, block: *mut f32) {
    let dim = task.cache.layer.head_dim as usize;
    let stride = count.next_multiple_of(V::LANES);
    for j in (0..stride).step_by(4) {
        // SAFETY: positions below `count` are cached; the block has `stride` positions of every element.
        unsafe {
            let mut rows = [std::ptr::null(); 4];
            for r in 0..4.min(count.saturating_sub(j)) {
                rows[r] = ask::<V>(task, task.cache.keys, kv_head, first + (j + r) as u32);
            }
            for d in (0..dim).step_by(V::LANES) {
                let mut pieces = [V::isplat(0); 4];
                for r in 0..4 {
                    if !rows[r].is_null() {
                        pieces[r] = V::as_int(piece::<V>(task, rows[r], d));
                    }
                }
                let turned = V::transpose(pieces);
                for r in 0..4 {
                    // Element `d + 4 g + r` of the four positions is group `g`.
                    V::store_groups(block.add((d + r) * stride + j).cast(), 16 * stride, turned[r]);
                }
            }
        }
    }
}

/// Elements `d..` of a cached row, a vector of them, zeros beyond its end.
#[inline(always)]
unsafe fn piece<V: Vector>(task: &Attention, row: *const u8, d: usize) -> V::F {
    let left = task.cache.layer.head_dim as usize - d;
    // SAFETY: `left` elements are readable.
    unsafe {
        if task.cache.layer.dtype == DType::F32 {
            load_stored::<V, Single>(row.add(4 * d), left)
        } else {
            load_stored::<V, Half>(row.add(2 * d), left)
        }
    }
}

/// As [`super::score`] and in its order of sums, of keys as [`turn`] lays them.
#[inline(always)]
pub(super) unsafe fn score<V: Vector, const Q: usize>(
    queries: *const f32,
    padded: usize,
    keys: *const f32,
    vectors: usize,
    scores: *mut [f32; BLOCK],
) -> usize {
    let stride = vectors * V::LANES;
    let mut first = 0;
    while first < vectors {
        // SAFETY: queries and keys have `padded` elements, whole vectors; of each element there are keys of `vectors` vectors of
        // positions.
        unsafe {
            let (keys, scores) = (keys.add(first * V::LANES), scores.cast::<f32>().add(first * V::LANES));
            first += if vectors - first >= 2 {
                vectors_of::<V, Q, 2>(queries, padded, keys, stride, scores)
            } else {
                vectors_of::<V, Q, 1>(queries, padded, keys, stride, scores)
            };
        }
    }
    Q
}

/// As [`score`], for `P` vectors of positions; `P`.
#[inline(always)]
unsafe fn vectors_of<V: Vector, const Q: usize, const P: usize>(
    queries: *const f32,
    padded: usize,
    keys: *const f32,
    stride: usize,
    scores: *mut f32,
) -> usize {
    // SAFETY: the caller's promises; each query has scores of a block.
    unsafe {
        let mut groups = [[[V::splat(0.0); P]; Q]; 4];
        for g in 0..V::GROUPS {
            let mut even = lane_of::<V, Q, P>(queries, padded, keys, stride, 4 * g);
            let third = lane_of::<V, Q, P>(queries, padded, keys, stride, 4 * g + 2);
            add_each::<V, Q, P>(&mut even, &third);
            let mut odd = lane_of::<V, Q, P>(queries, padded, keys, stride, 4 * g + 1);
            let fourth = lane_of::<V, Q, P>(queries, padded, keys, stride, 4 * g + 3);
            add_each::<V, Q, P>(&mut odd, &fourth);
            add_each::<V, Q, P>(&mut even, &odd);
            groups[g] = even;
        }
        let [mut even, mut odd, third, fourth] = groups;
        if V::GROUPS == 4 {
            add_each::<V, Q, P>(&mut even, &third);
            add_each::<V, Q, P>(&mut odd, &fourth);
        }
        add_each::<V, Q, P>(&mut even, &odd);
        for q in 0..Q {
            for p in 0..P {
                V::store(scores.add(q * BLOCK + p * V::LANES), even[q][p]);
            }
        }
    }
    P
}

/// What lane `lane` of [`super::score`] adds up.
#[inline(always)]
unsafe fn lane_of<V: Vector, const Q: usize, const P: usize>(
    queries: *const f32,
    padded: usize,
    keys: *const f32,
    stride: usize,
    lane: usize,
) -> [[V::F; P]; Q] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [[V::splat(0.0); P]; Q];
        let (mut query, mut keys, end) = (queries.add(lane), keys.add(lane * stride), queries.add(padded));
        while query < end {
            let mut key = [V::splat(0.0); P];
            for p in 0..P {
                key[p] = V::load(keys.add(p * V::LANES));
            }
            for q in 0..Q {
                let x = V::splat(query.add(q * padded).read());
                for p in 0..P {
                    sums[q][p] = V::fma(x, key[p], sums[q][p]);
                }
            }
            query = query.wrapping_add(V::LANES);
            keys = keys.wrapping_add(V::LANES * stride);
        }
        sums
    }
}

/// `a += b`.
#[inline(always)]
unsafe fn add_each<V: Vector, const Q: usize, const P: usize>(a: &mut [[V::F; P]; Q], b: &[[V::F; P]; Q]) {
    for q in 0..Q {
        for p in 0..P {
            // SAFETY: registers only.
            a[q][p] = unsafe { V::add(a[q][p], b[q][p]) };
        }
    }
}
