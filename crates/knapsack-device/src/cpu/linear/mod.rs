//! Matrix products: which routine a task takes, and how it is cut into units.
//!
//! Quantized products give a token the same bits whichever routine computes them and whatever other tokens the call has.

pub(crate) mod codes;
pub(crate) mod columns;
pub(crate) mod dense;
pub(crate) mod finish;
pub(crate) mod panel;
pub(crate) mod rows;

use super::task::{Finish, Linear, Matrix};
use super::vector::MAX_LANES;
use knapsack_tensor::{WithBits, with_bits};

/// Most tokens that meet quantized columns where they lie, without a panel.
pub(crate) const MAX_FEW: usize = 16;
/// Panels of a unit, where there are enough of them.
const PANELS: usize = 4;

/// The routine of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Routine {
    /// A few tokens, quantized rows.
    Rows,
    /// A few tokens, quantized columns.
    Columns,
    /// The other quantized products.
    Panel,
    /// Stored floats.
    Dense,
}

/// Chooses the routine, and sets the task's unit for it. `panel_columns` is what the instruction set's panels have, gated or
/// not.
pub(crate) fn plan(task: &mut Linear, panel_columns: [usize; 2]) -> Routine {
    let gated = matches!(task.finish, Finish::Gated(_));
    let routine = match task.matrix {
        Matrix::Dense(_) => Routine::Dense,
        Matrix::Grouped { by_rows: true, .. } if task.n <= rows::MAX_TOKENS => Routine::Rows,
        Matrix::Grouped { by_rows: false, .. } if task.n <= MAX_FEW => Routine::Columns,
        Matrix::Grouped { .. } => Routine::Panel,
    };
    let halves = 1 + usize::from(gated);
    task.unit = match routine {
        Routine::Rows => rows_of_unit(task.columns, rows::MAX_UNIT / halves),
        Routine::Dense => rows_of_unit(task.columns, dense::MAX_ROWS / halves),
        Routine::Columns => task.columns.div_ceil(8).next_multiple_of(64).min(columns::strip_of(task.n) / halves),
        Routine::Panel => {
            let panel = panel_columns[usize::from(gated)];
            panel * (task.columns / panel / 16).clamp(1, PANELS)
        }
    };
    routine
}

/// Output columns of a unit where only a few are wanted, for a routine whose unit may be that large.
pub(crate) fn smallest_unit(routine: Routine, largest: usize) -> usize {
    let unit = match routine {
        // As many rows as are worked on at once, or a vector of columns.
        Routine::Rows | Routine::Dense => 4,
        Routine::Columns => MAX_LANES,
        Routine::Panel => largest,
    };
    unit.min(largest)
}

/// Enough units to share out, few enough to make long streams.
fn rows_of_unit(columns: usize, most: usize) -> usize {
    columns.div_ceil(16).next_multiple_of(8).min(most)
}

/// A routine that is compiled for each width of codes.
pub(crate) trait Format {
    /// Runs it.
    ///
    /// # Safety
    /// The routine's own; the width is that of its matrix.
    unsafe fn run<const BITS: u32>(self);
}

/// Runs a routine compiled for the format of a grouped matrix.
///
/// # Safety
/// The routine's own.
#[inline(always)]
pub(crate) unsafe fn for_format(matrix: &Matrix, routine: impl Format) {
    struct Typed<R>(R);
    impl<R: Format> WithBits for Typed<R> {
        type Output = ();
        #[inline(always)]
        fn run<const BITS: u32>(self) {
            // SAFETY: the promise of `for_format`'s caller.
            unsafe { self.0.run::<BITS>() }
        }
    }
    if let Matrix::Grouped { grouping, .. } = *matrix {
        // A validated library has executable formats only.
        let _ = with_bits(grouping.bits, Typed(routine));
    }
}
