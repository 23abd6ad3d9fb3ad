//! Where the operands of launches lie in the workspace, and what the host writes there for one token.

use crate::call::{Call, write_rope_rows};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::CallInputs;
use knapsack_artifact::plan::{Op, Operand, RowSelect};

/// Bytes of the numbers of a call.
pub(super) const NUMBERS: u64 = 12;

/// Workspace bytes of an operand when a launch has `n` rows; `None` when it lies elsewhere.
pub(super) fn workspace_range(library: &ModelLibrary, operand: &Operand, n: u32) -> Option<(u64, u64)> {
    let rows = |columns: u32| 4 * u64::from(n) * u64::from(columns);
    let (offset, bytes) = match *operand {
        Operand::Tokens => (library.io.tokens.offset, u64::from(n) * library.io.tokens.bytes_per_token),
        Operand::RopeTable(table) => {
            let table = library.rope_tables[table as usize].rows;
            (table.offset, rows(table.columns))
        }
        Operand::Input(r) | Operand::Output(r) => (r.offset, rows(r.columns)),
        Operand::Parameter(_) | Operand::Keys(_) | Operand::Values(_) | Operand::State(_) => return None,
    };
    // Rows of fewer tokens than the chunk may end where the workspace does.
    Some((offset, bytes.min(library.memory.workspace.saturating_sub(offset))))
}

/// The inputs of one token as [`CallInputs`] has them, from its numbers on. The token is that of `decode`; the head takes none.
pub(super) fn stage_one(library: &ModelLibrary, inputs: &CallInputs, call: Call, token: u32, staging: &mut Vec<f32>) {
    let at = |offset: u64| ((offset - inputs.one) / 4) as usize;
    staging.clear();
    staging.resize(at(inputs.end), 0.0);
    let words: &mut [u32] = bytemuck::cast_slice_mut(staging);
    words[..3].copy_from_slice(&[1, call.position, call.row]);
    words[at(inputs.token)] = token;
    let call = Call { n: 1, position: call.position + call.row, row: 0 };
    for (table, &offset) in library.rope_tables.iter().zip(&inputs.ropes) {
        write_rope_rows(table, call, &mut staging[at(offset)..][..table.rows.columns as usize]);
    }
}

/// Where the operands of a function lie in the workspace.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) library: &'a ModelLibrary,
    pub(super) inputs: &'a CallInputs,
    /// Rows of its operands.
    pub(super) n: u32,
    /// Whether its inputs are those of one token.
    pub(super) one: bool,
}

impl Places<'_> {
    /// Offset and bytes of an operand of `op`; `None` when it lies elsewhere.
    pub(super) fn of(&self, op: &Op, operand: &Operand) -> Option<(u64, u64)> {
        // Operations that pick a row out of those of the last forward.
        let selects = matches!(op, Op::Select(_)) || matches!(op, Op::Norm(norm) if norm.rows == RowSelect::One);
        match *operand {
            Operand::Tokens if self.one => Some((self.inputs.token, 4)),
            Operand::RopeTable(table) if self.one => {
                let columns = self.library.rope_tables[table as usize].rows.columns;
                Some((self.inputs.ropes[table as usize], 4 * u64::from(columns)))
            }
            Operand::Input(_) if selects => {
                workspace_range(self.library, operand, self.library.model.prefill_chunk_size)
            }
            _ => workspace_range(self.library, operand, self.n),
        }
    }

    /// Those of the numbers of the call.
    pub(super) const fn numbers(&self) -> (u64, u64) {
        (if self.one { self.inputs.one } else { self.inputs.prefill }, NUMBERS)
    }
}
