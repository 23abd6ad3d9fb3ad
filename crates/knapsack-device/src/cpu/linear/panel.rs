//! Several tokens times a quantized matrix, and one token in the cases that have no routine of their own.
//!
//! A panel is two vectors of columns (output features) by a block of K. Its packed words are brought together column beside
//! column, unpacked once to a byte a code, and then met by all tokens: four bytes of a token's activations, broadcast, against
//! four codes of each column. Each group ends in a conversion and a multiplication by weight scale and activation scale.

use super::finish::finish;
use crate::cpu::task::{Finish, Linear, Matrix};
use crate::cpu::vector::{Brain, Half, MAX_LANES, Single, Stored, Vector};
use knapsack_tensor::DType;

/// Vectors of columns.
const VECTORS: usize = 2;
/// Most columns.
const WIDTH: usize = VECTORS * MAX_LANES;
/// Groups of a block of K.
const DEPTH: usize = 16;
/// Words of 4 bytes that hold four codes each, for a group of 40.
const MAX_QUADS: usize = 10;
/// Tokens whose sums are kept while K is walked.
const TOKENS: usize = 128;

/// What a unit works with, on the stack.
struct Panel {
    /// Packed words: `[word][column]`.
    words: [u32; DEPTH * 4 * WIDTH],
    /// Unpacked codes: `[quad][column]`, four codes each.
    quads: [u32; DEPTH * MAX_QUADS * WIDTH],
    /// Weight scales: `[group][column]`.
    scales: [f32; DEPTH * WIDTH],
    /// Sums: `[token][column]`.
    sums: [f32; TOKENS * WIDTH],
}

/// Output columns of a unit, not gated and gated (a vector each of gate and up).
pub(crate) const fn unit_columns<V: Vector>() -> [usize; 2] {
    [VECTORS * V::LANES, V::LANES]
}

/// Computes output columns `unit * task.unit..` of all tokens; `T` tokens are in flight.
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold, its order is `Words3` or `Words4` by its bits, `unit`
/// is [`unit_columns`]; unit `unit` exists.
#[inline(always)]
pub(crate) unsafe fn unit<V: Vector, const T: usize>(task: &Linear, unit: usize) {
    let Matrix::Grouped { bits, scales, .. } = task.matrix else { return };
    // SAFETY: the caller's promises; the stored type is the scales' own.
    unsafe {
        match (bits, scales.dtype) {
            (3, DType::F16) => typed_unit::<V, Half, T, 3>(task, unit),
            (3, DType::BF16) => typed_unit::<V, Brain, T, 3>(task, unit),
            (3, _) => typed_unit::<V, Single, T, 3>(task, unit),
            (_, DType::F16) => typed_unit::<V, Half, T, 4>(task, unit),
            (_, DType::BF16) => typed_unit::<V, Brain, T, 4>(task, unit),
            (_, _) => typed_unit::<V, Single, T, 4>(task, unit),
        }
    }
}

/// As [`unit`], for one type of scales and one width of codes.
#[inline(always)]
unsafe fn typed_unit<V: Vector, S: Stored, const T: usize, const BITS: u32>(task: &Linear, unit: usize) {
    let start = unit * task.unit;
    let gated = matches!(task.finish, Finish::Gated(_));
    // The first feature and the number of features of each vector.
    let second = if gated { task.columns + start } else { start + V::LANES };
    let left = task.columns - start;
    let counts =
        [left.min(V::LANES), if gated { left.min(V::LANES) } else { left.saturating_sub(V::LANES).min(V::LANES) }];
    let features = [(start, counts[0]), (second, counts[1])];
    let (group, quads) = if BITS == 3 { (40, 10) } else { (32, 8) };
    let groups = task.k.div_ceil(group);
    let width = VECTORS * V::LANES;
    let mut room = std::mem::MaybeUninit::<Panel>::uninit();
    // SAFETY: a panel is plain numbers, every bit pattern is one; what is read was written before: `words`, `quads` and
    // `scales` of the block by `gather` and `unpack`, `sums` of the tokens by the zeros below.
    unsafe {
        let panel = room.as_mut_ptr();
        let sums = (&raw mut (*panel).sums).cast::<f32>();
        for first in (0..task.n).step_by(TOKENS) {
            let tokens = TOKENS.min(task.n - first);
            std::ptr::write_bytes(sums, 0, tokens * width);
            for g in (0..groups).step_by(DEPTH) {
                let depth = DEPTH.min(groups - g);
                gather::<V, S>(task, features, g, depth, groups, panel);
                unpack::<V, BITS>(panel, depth);
                let quad_data = (&raw const (*panel).quads).cast::<u8>();
                let scale_data = (&raw const (*panel).scales).cast::<f32>();
                let mut t = 0;
                while t < tokens {
                    let to = sums.add(t * width);
                    let block = Block { task, token: first + t, group: g, depth, quads };
                    if tokens - t >= T {
                        multiply::<V, T>(&block, quad_data, scale_data, to);
                        t += T;
                    } else {
                        multiply::<V, 1>(&block, quad_data, scale_data, to);
                        t += 1;
                    }
                }
            }
            for t in 0..tokens {
                let row = sums.add(t * width);
                let count = if gated { counts[0] } else { counts[0] + counts[1] };
                finish::<V>(task, first + t, start, count, row, row.add(V::LANES));
            }
        }
    }
}

/// A block of K and the tokens that meet it.
struct Block<'a> {
    task: &'a Linear,
    token: usize,
    group: usize,
    depth: usize,
    quads: usize,
}

/// Brings the words and scales of groups `g..g + depth` together; columns that do not exist are zero.
#[inline(always)]
unsafe fn gather<V: Vector, S: Stored>(
    task: &Linear,
    features: [(usize, usize); VECTORS],
    g: usize,
    depth: usize,
    groups: usize,
    panel: *mut Panel,
) {
    let Matrix::Grouped { codes, scales, by_rows, .. } = task.matrix else { return };
    let width = VECTORS * V::LANES;
    // SAFETY: features below `task.features` and groups below `groups` exist; the panel has room for `DEPTH` groups.
    unsafe {
        let words = (&raw mut (*panel).words).cast::<u32>();
        let scale_words = (&raw mut (*panel).scales).cast::<f32>();
        for (v, (feature, count)) in features.into_iter().enumerate() {
            if count < V::LANES {
                for w in 0..depth * 4 {
                    std::ptr::write_bytes(words.add(w * width + v * V::LANES), 0, V::LANES);
                }
            }
            let mut stored = [0u8; DEPTH * MAX_LANES * 4];
            if by_rows {
                for lane in 0..count {
                    let row = codes.add(((feature + lane) * groups + g) * 16);
                    for w in 0..depth * 4 {
                        let word = row.add(4 * w).cast::<u32>().read_unaligned();
                        words.add(w * width + v * V::LANES + lane).write(word);
                    }
                    let row = scales.data.add(((feature + lane) * groups + g) * S::SIZE);
                    for i in 0..depth {
                        let to = stored.as_mut_ptr().add((i * V::LANES + lane) * S::SIZE);
                        std::ptr::copy_nonoverlapping(row.add(i * S::SIZE), to, S::SIZE);
                    }
                }
            } else {
                for w in 0..depth * 4 {
                    let from = codes.add(((g * 4 + w) * task.features + feature) * 4);
                    let to = words.add(w * width + v * V::LANES).cast::<u8>();
                    std::ptr::copy_nonoverlapping(from, to, count * 4);
                }
                for i in 0..depth {
                    let from = scales.data.add(((g + i) * task.features + feature) * S::SIZE);
                    let to = stored.as_mut_ptr().add(i * V::LANES * S::SIZE);
                    std::ptr::copy_nonoverlapping(from, to, count * S::SIZE);
                }
            }
            for i in 0..depth {
                let values = S::load::<V>(stored.as_ptr().add(i * V::LANES * S::SIZE));
                V::store(scale_words.add(i * width + v * V::LANES), values);
            }
        }
    }
}

/// Four 3-bit codes from the low 12 bits of each lane to its four bytes.
#[inline(always)]
unsafe fn spread3<V: Vector>(v: V::I) -> V::I {
    // SAFETY: registers only.
    unsafe {
        let low = V::or(V::and(v, V::isplat(0x7)), V::and(V::shl::<5>(v), V::isplat(0x700)));
        let high = V::or(V::and(V::shl::<10>(v), V::isplat(0x7_0000)), V::and(V::shl::<15>(v), V::isplat(0x700_0000)));
        V::or(low, high)
    }
}

/// Words to quads, in the order of the activations (`Order::Words4`, `Order::Words3`).
#[inline(always)]
unsafe fn unpack<V: Vector, const BITS: u32>(panel: *mut Panel, depth: usize) {
    let width = VECTORS * V::LANES;
    // SAFETY: `gather` has written `depth` groups of words, and quads have room for `DEPTH` groups of `MAX_QUADS`.
    unsafe {
        let words = (&raw const (*panel).words).cast::<u8>();
        let quads = (&raw mut (*panel).quads).cast::<u8>();
        for column in (0..width).step_by(V::LANES) {
            if BITS == 3 {
                for pair in 0..depth * 2 {
                    let first = V::iload(words.add((2 * pair * width + column) * 4));
                    let second = V::iload(words.add(((2 * pair + 1) * width + column) * 4));
                    let last = V::or(
                        V::and(spread3::<V>(V::shr::<24>(first)), V::isplat(0x0707)),
                        V::and(spread3::<V>(V::shl::<6>(V::shr::<24>(second))), V::isplat(0x0707_0000)),
                    );
                    let five = [
                        spread3::<V>(first),
                        spread3::<V>(V::shr::<12>(first)),
                        spread3::<V>(second),
                        spread3::<V>(V::shr::<12>(second)),
                        last,
                    ];
                    for (i, quad) in five.into_iter().enumerate() {
                        V::istore(quads.add(((5 * pair + i) * width + column) * 4), quad);
                    }
                }
            } else {
                let nibbles = V::isplat(0x0f0f_0f0f);
                for w in 0..depth * 4 {
                    let word = V::iload(words.add((w * width + column) * 4));
                    V::istore(quads.add((2 * w * width + column) * 4), V::and(word, nibbles));
                    let high = V::and(V::shr::<4>(word), nibbles);
                    V::istore(quads.add(((2 * w + 1) * width + column) * 4), high);
                }
            }
        }
    }
}

/// Adds the products of a block with `T` tokens to their sums.
#[inline(always)]
unsafe fn multiply<V: Vector, const T: usize>(block: &Block<'_>, quads: *const u8, scales: *const f32, sums: *mut f32) {
    let width = VECTORS * V::LANES;
    let acts = &block.task.acts;
    // SAFETY: the tokens exist, their activations have the block's groups; the panel holds its quads and scales.
    unsafe {
        let mut total = [[V::splat(0.0); VECTORS]; T];
        let mut codes = [std::ptr::null::<u8>(); T];
        for t in 0..T {
            codes[t] = acts.codes(block.token + t).add(block.group * block.quads * 4);
            for v in 0..VECTORS {
                total[t][v] = V::load(sums.add(t * width + v * V::LANES));
            }
        }
        for g in 0..block.depth {
            let mut dots = [[V::isplat(0); VECTORS]; T];
            for (t, dots) in dots.iter_mut().enumerate() {
                *dots = [V::isplat(acts.corrections(block.token + t).add(block.group + g).read()); VECTORS];
            }
            for q in 0..block.quads {
                let at = quads.add((g * block.quads + q) * width * 4);
                let weights = [V::iload(at), V::iload(at.add(V::BYTES))];
                for t in 0..T {
                    let act = V::quad(codes[t].add((g * block.quads + q) * 4));
                    for v in 0..VECTORS {
                        dots[t][v] = V::dot(dots[t][v], weights[v], act);
                    }
                }
            }
            for v in 0..VECTORS {
                let scale = V::load(scales.add(g * width + v * V::LANES));
                for t in 0..T {
                    let act_scale = V::splat(acts.scales(block.token + t).add(block.group + g).read());
                    total[t][v] = V::fma(V::mul(scale, act_scale), V::to_float(dots[t][v]), total[t][v]);
                }
            }
        }
        for t in 0..T {
            for v in 0..VECTORS {
                V::store(sums.add(t * width + v * V::LANES), total[t][v]);
            }
        }
    }
}
