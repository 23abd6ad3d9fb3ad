//! Activations to int8: symmetric, one scale for each step of the weights they will meet, in the order of their quads.

use super::linear::codes::{MAX_STEP, element, quad_at, quads, step, step_at};
use super::linear::{Format, for_format};
use super::task::Linear;
use super::vector::{MAX_LANES, Vector, load_some, store_some};
use knapsack_tensor::Grouping;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// The longest step, and room for a last vector beyond it.
const ROOM: usize = MAX_STEP + MAX_LANES;

/// Quantizes row `t` of the activations: `scale = max|x| / 127`, `code = round(x / scale)`. Of a token with two rows of codes the
/// second does the same with what the first rounds off.
///
/// # Safety
/// The instruction set of `V` is available; the task's invariants hold, its matrix is grouped; `t < task.n`.
#[inline(always)]
pub(crate) unsafe fn quantize<V: Vector>(task: &Linear, t: usize) {
    // SAFETY: the caller's promises.
    unsafe { for_format(&task.matrix, Row { task, t, vector: PhantomData::<V> }) }
}

struct Row<'a, V> {
    task: &'a Linear,
    t: usize,
    vector: PhantomData<V>,
}

impl<V: Vector> Format for Row<'_, V> {
    #[inline(always)]
    unsafe fn run<const BITS: u32>(self) {
        let Row { task, t, .. } = self;
        let step = step::<BITS>();
        let max_int = const { Grouping::of(BITS).max_int() as i32 };
        // SAFETY: row `t` of input and scratch; codes, scales and corrections have `acts.steps` entries, whole vectors of steps.
        unsafe {
            let (input, rest) = (task.input.add(t / task.digits * task.k), t % task.digits > 0);
            let (codes, scales, corrections) = (task.acts.codes(t), task.acts.scales(t), task.acts.corrections(t));
            for s in 0..task.acts.steps {
                let mut natural = [0u8; ROOM];
                let (scale, sum) = match task.k.saturating_sub(s * step) {
                    0 => (0.0, 0),
                    left => quantize_group::<V>(input.add(s * step), step.min(left), step, rest, &mut natural),
                };
                scales.add(s).write(scale);
                corrections.add(s).write(-max_int * sum);
                let to = codes.add(step_at::<V, BITS>(s));
                for q in 0..quads::<BITS>() {
                    let mut four = [0; 4];
                    for byte in 0..4 {
                        four[byte] = natural[element(BITS, q, byte)];
                    }
                    to.add(quad_at(q, V::BYTES)).cast::<[u8; 4]>().write(four);
                }
            }
        }
    }
}

/// The scale and the sum of codes of up to `group` elements, or of the `rest` that these round off, whose codes go to `natural`.
///
/// # Safety
/// `count` floats are readable at `x`.
#[inline(always)]
unsafe fn quantize_group<V: Vector>(
    x: *const f32,
    count: usize,
    group: usize,
    rest: bool,
    natural: &mut [u8; ROOM],
) -> (f32, i32) {
    // SAFETY: reads stay below `count`; the padded copy has `ROOM` elements, a vector beyond the longest step, and those of whole
    // vectors of the group are written before they are read.
    unsafe {
        let mut padded = MaybeUninit::<[f32; ROOM]>::uninit();
        let padded = padded.as_mut_ptr().cast::<f32>();
        let mut x = x;
        if count < group || !group.is_multiple_of(V::LANES) {
            padded.write_bytes(0, ROOM);
            for i in (0..count).step_by(V::LANES) {
                let v = load_some::<V>(x.add(i), count - i);
                store_some::<V>(padded.add(i), v, count - i);
            }
            x = padded.cast_const();
        }
        let mut largest = largest_of::<V>(x, group);
        // Below this the quotient is not finite; such a group is as good as zero. An infinity spoils its group.
        let usable = |largest: f32| largest > 1e-30 && largest < f32::INFINITY;
        if rest && usable(largest) {
            let scale = V::splat(largest / 127.0);
            for i in (0..group).step_by(V::LANES) {
                let v = V::load(x.add(i));
                let coded = V::mul(V::to_float(code_of::<V>(v, 127.0 / largest)), scale);
                V::store(padded.add(i), V::sub(v, coded));
            }
            x = padded.cast_const();
            largest = largest_of::<V>(x, group);
        }
        if !usable(largest) {
            return (if rest || largest <= 1e-30 { 0.0 } else { largest }, 0);
        }
        let mut sum = V::isplat(0);
        for i in (0..group).step_by(V::LANES) {
            let code = code_of::<V>(V::load(x.add(i)), 127.0 / largest);
            sum = V::iadd(sum, code);
            V::store_bytes(natural.as_mut_ptr().add(i), code);
        }
        (largest / 127.0, V::isum(sum))
    }
}

/// The largest absolute value of whole vectors of elements.
///
/// # Safety
/// The instruction set of `V` is available; the elements are readable at `x`.
#[inline(always)]
unsafe fn largest_of<V: Vector>(x: *const f32, group: usize) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut largest = V::splat(0.0);
        for i in (0..group).step_by(V::LANES) {
            let v = V::load(x.add(i));
            largest = V::max(largest, V::max(v, V::sub(V::splat(0.0), v)));
        }
        V::largest(largest)
    }
}

/// `round(x * inverse)`, at most 127 from zero.
///
/// # Safety
/// The instruction set of `V` is available.
#[inline(always)]
unsafe fn code_of<V: Vector>(x: V::F, inverse: f32) -> V::I {
    // SAFETY: the caller's promise.
    unsafe {
        // The bounds matter for NaN only, whose integer would be anything.
        let quotient = V::mul(x, V::splat(inverse));
        V::to_int(V::min(V::max(quotient, V::splat(-127.0)), V::splat(127.0)))
    }
}
