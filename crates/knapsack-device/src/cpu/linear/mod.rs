//! Matrix products: which routine a task takes, and how it is cut into units.

pub(crate) mod columns;
pub(crate) mod dense;
pub(crate) mod finish;
pub(crate) mod panel;
pub(crate) mod rows;

use super::task::{Finish, Linear, Matrix, Order};

/// The routine of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Routine {
    /// One token, 4-bit rows.
    Rows,
    /// One token, 4-bit columns.
    Columns,
    /// The other quantized products.
    Panel,
    /// Stored floats.
    Dense,
}

/// Chooses the routine, and sets the task's order and unit for it. `panel_columns` is what the instruction set's panels have,
/// gated or not.
pub(crate) fn plan(task: &mut Linear, panel_columns: [usize; 2]) -> Routine {
    let gated = matches!(task.finish, Finish::Gated(_));
    let routine = match task.matrix {
        Matrix::Dense(_) => Routine::Dense,
        Matrix::Grouped { bits: 4, by_rows: true, .. } if task.n == 1 => Routine::Rows,
        Matrix::Grouped { bits: 4, by_rows: false, .. } if task.n == 1 => Routine::Columns,
        Matrix::Grouped { .. } => Routine::Panel,
    };
    task.order = match (routine, task.matrix) {
        (Routine::Rows, _) => Order::Rows,
        (_, Matrix::Grouped { bits: 3, .. }) => Order::Words3,
        _ => Order::Words4,
    };
    let halves = 1 + usize::from(gated);
    task.unit = match routine {
        Routine::Rows => rows_of_unit(task.columns, rows::MAX_UNIT / halves),
        Routine::Dense => rows_of_unit(task.columns, dense::MAX_ROWS / halves),
        Routine::Columns => task.columns.div_ceil(8).next_multiple_of(64).min(columns::MAX_STRIP / halves),
        Routine::Panel => panel_columns[usize::from(gated)],
    };
    routine
}

/// Enough units to share out, few enough to make long streams.
fn rows_of_unit(columns: usize, most: usize) -> usize {
    columns.div_ceil(16).next_multiple_of(8).min(most)
}
