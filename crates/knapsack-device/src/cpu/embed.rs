//! Token embedding: decodes one row of the table for each token.

use super::linear::finish::load_floats;
use super::task::{Embed, Floats, Matrix};
use super::vector::{Brain, Half, Single, Stored, Vector, store_some};
use knapsack_tensor::DType;

/// One stored float.
///
/// # Safety
/// Element `at` exists.
#[inline(always)]
unsafe fn one(floats: Floats, at: usize) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        match floats.dtype {
            DType::F16 => Half::one(floats.data.add(2 * at)),
            DType::BF16 => Brain::one(floats.data.add(2 * at)),
            DType::F32 | DType::U32 => Single::one(floats.data.add(4 * at)),
        }
    }
}

/// Row `t` of the output.
///
/// # Safety
/// The instruction set of `V` is available, the task's invariants hold and token `t` exists and is below the table's rows.
#[inline(always)]
pub(crate) unsafe fn row<V: Vector>(task: &Embed, t: usize) {
    let columns = task.columns;
    // SAFETY: row `token` of the table and row `t` of the output have `columns` elements (grouped rows are whole groups).
    unsafe {
        let token = task.tokens.add(t).read() as usize;
        let output = task.output.add(t * columns);
        match task.table {
            Matrix::Dense(floats) => {
                for i in (0..columns).step_by(V::LANES) {
                    let x = load_floats::<V>(floats, token * columns + i, columns - i);
                    store_some::<V>(output.add(i), V::mul(x, V::splat(task.scale)), columns - i);
                }
            }
            Matrix::Grouped { codes, scales, grouping, .. } => {
                let (group, per_word) = (grouping.group as usize, grouping.codes_per_word() as usize);
                let (bits, max_int) = (grouping.bits, grouping.max_int() as i32);
                let (groups, group_bytes) = (columns.div_ceil(group), 4 * grouping.words_per_group() as usize);
                for g in 0..groups {
                    let scale = one(scales, token * groups + g) * task.scale;
                    let packed = codes.add((token * groups + g) * group_bytes);
                    for i in 0..group.min(columns - g * group) {
                        let word = u32::from_le(packed.add(i / per_word * 4).cast::<u32>().read_unaligned());
                        let code = word >> ((i % per_word) as u32 * bits) & ((1 << bits) - 1);
                        output.add(g * group + i).write((code as i32 - max_int) as f32 * scale);
                    }
                }
            }
        }
    }
}
