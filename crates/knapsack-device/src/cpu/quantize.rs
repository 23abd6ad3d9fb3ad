//! Activations to int8: symmetric, one scale for each step of the weights they will meet, in the order of their quads.

use super::linear::codes::{MAX_STEP, element, quad_at, quads, step, step_at};
use super::linear::{Format, for_format};
use super::task::Linear;
use super::vector::{MAX_LANES, Vector, load_some, store_some};
use knapsack_tensor::Grouping;
use std::marker::PhantomData;

/// The longest step, and room for a last vector beyond it.
const ROOM: usize = MAX_STEP + MAX_LANES;

/// Quantizes row `t` of the input: `scale = max|x| / 127`, `code = round(x / scale)`.
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
        let step = const { step(BITS) };
        let max_int = const { Grouping::of(BITS).max_int() as i32 };
        // SAFETY: row `t` of input and scratch; codes, scales and corrections have `acts.steps` entries, whole vectors of steps.
        unsafe {
            let input = task.input.add(t * task.k);
            let (codes, scales, corrections) = (task.acts.codes(t), task.acts.scales(t), task.acts.corrections(t));
            for s in 0..task.acts.steps {
                let mut natural = [0u8; ROOM];
                let (scale, sum) = match task.k.saturating_sub(s * step) {
                    0 => (0.0, 0),
                    left => quantize_group::<V>(input.add(s * step), step.min(left), step, &mut natural),
                };
                scales.add(s).write(scale);
                corrections.add(s).write(-max_int * sum);
                let to = codes.add(step_at::<V>(BITS, s));
                for q in 0..const { quads(BITS) } {
                    let four = [0, 1, 2, 3].map(|byte| natural[element(BITS, q, byte)]);
                    to.add(quad_at(q, V::BYTES)).cast::<[u8; 4]>().write(four);
                }
            }
        }
    }
}

/// The scale and the sum of codes of up to `group` elements, whose codes go to `natural`.
///
/// # Safety
/// `count` floats are readable at `x`.
#[inline(always)]
unsafe fn quantize_group<V: Vector>(x: *const f32, count: usize, group: usize, natural: &mut [u8; ROOM]) -> (f32, i32) {
    // SAFETY: reads stay below `count`; the padded copy has `ROOM` elements, a vector beyond the longest step.
    unsafe {
        let mut padded = [0.0f32; ROOM];
        let mut x = x;
        if count < group || !group.is_multiple_of(V::LANES) {
            for i in (0..count).step_by(V::LANES) {
                let v = load_some::<V>(x.add(i), count - i);
                store_some::<V>(padded.as_mut_ptr().add(i), v, count - i);
            }
            x = padded.as_ptr();
        }
        let mut largest = V::splat(0.0);
        for i in (0..group).step_by(V::LANES) {
            let v = V::load(x.add(i));
            largest = V::max(largest, V::max(v, V::sub(V::splat(0.0), v)));
        }
        let largest = V::largest(largest);
        // Below this the quotient is not finite; such a group is as good as zero. An infinity spoils its group.
        if !(largest > 1e-30 && largest < f32::INFINITY) {
            return (if largest <= 1e-30 { 0.0 } else { largest }, 0);
        }
        let inverse = V::splat(127.0 / largest);
        let mut sum = V::isplat(0);
        for i in (0..group).step_by(V::LANES) {
            // The bounds matter for NaN only, whose integer would be anything.
            let quotient = V::mul(V::load(x.add(i)), inverse);
            let code = V::to_int(V::min(V::max(quotient, V::splat(-127.0)), V::splat(127.0)));
            sum = V::iadd(sum, code);
            V::store_bytes(natural.as_mut_ptr().add(i), code);
        }
        (largest / 127.0, V::isum(sum))
    }
}
