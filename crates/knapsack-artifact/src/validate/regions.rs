//! Regions of the workspace: inside the arena, aligned, and apart where one is written.

use super::{Check, MAX_COLUMNS, Role, ensure};
use crate::ModelLibrary;
use crate::plan::{ALIGNMENT, Epilogue, Launch, Op, Operand, RowSelect, Rows, Scratch};

/// Bytes `start..end` of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    start: u64,
    end: u64,
}

impl Region {
    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        self.end <= other.start || other.end <= self.start
    }
}

impl ModelLibrary {
    /// Where `n` rows lie, or why they cannot lie there.
    pub(super) fn region(&self, what: &str, rows: Rows, n: u32) -> Check<Region> {
        ensure!((1..=MAX_COLUMNS).contains(&rows.columns), "{what} of {} columns", rows.columns);
        self.place(what, rows.offset, u64::from(rows.columns) * 4, n)
    }

    /// Where a scratch lies for `n` tokens.
    pub(super) fn scratch_region(&self, what: &str, scratch: Scratch, n: u32) -> Check<Region> {
        self.place(what, scratch.offset, scratch.bytes_per_token, n)
    }

    /// Where [`crate::library::Io::call`] and what follows it lie.
    pub(super) fn call_region(&self) -> Check<Region> {
        let inputs = self.call_inputs().ok_or("the inputs of a call have no end")?;
        self.place("the inputs of a call", inputs.top, inputs.end - inputs.top, 1)
    }

    fn place(&self, what: &str, offset: u64, bytes_per_token: u64, n: u32) -> Check<Region> {
        ensure!(offset.is_multiple_of(ALIGNMENT), "{what} at offset {offset}, not a multiple of {ALIGNMENT}");
        let end = bytes_per_token.checked_mul(u64::from(n)).and_then(|bytes| bytes.checked_add(offset));
        match end {
            Some(end) if end <= self.memory.workspace => Ok(Region { start: offset, end }),
            _ => Err(format!(
                "{what} at offset {offset} with {n} x {bytes_per_token} bytes exceeds the workspace of {}",
                self.memory.workspace
            )),
        }
    }

    /// Every operand and the scratch inside the workspace; every written one apart from all others of the launch and from the
    /// numbers of the call, except that
    /// the sum of an [`Op::AddNorm`] and the output of a [`Op::Linear`] may be exactly their residual. In the head function
    /// nothing may be written over the residual stream of the last call, of which other rows may be asked for next.
    pub(super) fn check_regions(&self, role: Role, launch: &Launch) -> Check {
        let op = &launch.op;
        let chunk = self.model.prefill_chunk_size;
        let n = self.tokens(role);
        // Which of the inputs is the residual that is updated in place: the first of an addition, the second of a product.
        let in_place = match op {
            Op::AddNorm(op) if op.sum == op.residual => Some(0),
            Op::Linear(op) if op.epilogue == Epilogue::Add(op.output) => Some(1),
            _ => None,
        };
        let mut inputs = 0..;
        let selects = matches!(op, Op::Select(_)) || matches!(op, Op::Norm(norm) if norm.rows == RowSelect::One);
        let call = self.call_region()?;
        let mut placed: Vec<(&'static str, bool, Region)> = Vec::with_capacity(8);
        placed.push(("the numbers of the call", false, call));
        if let Some(scratch) = launch.scratch {
            let scratch = self.scratch_region("scratch", scratch, n)?;
            ensure!(scratch.is_disjoint(&call), "scratch {scratch:?} overlaps the numbers of the call");
            placed.push(("scratch", true, scratch));
        }
        for operand in op.operands() {
            let (what, written, region) = match operand {
                Operand::Tokens => ("tokens", false, self.scratch_region("tokens", self.io.tokens, n)?),
                Operand::RopeTable(index) => {
                    let table = self.rope_tables.get(index as usize).ok_or("no such rope table")?;
                    // The head reads the row of the selected token.
                    ("rope table", false, self.region("rope table", table.rows, chunk)?)
                }
                Operand::Input(_) if inputs.next() == in_place => continue,
                Operand::Input(rows) => ("input", false, self.region("input", rows, if selects { chunk } else { n })?),
                Operand::Output(rows) => ("output", true, self.region("output", rows, n)?),
                Operand::Parameter(_) | Operand::Keys(_) | Operand::Values(_) | Operand::State(_) => continue,
            };
            for (other, other_written, other_region) in &placed {
                ensure!(
                    !(written || *other_written) || region.is_disjoint(other_region),
                    "{what} {region:?} overlaps {other} {other_region:?}"
                );
            }
            placed.push((what, written, region));
        }
        if role == Role::Head {
            for kept in std::iter::once(self.io.hidden).chain(self.io.carried.iter().copied()) {
                let kept = self.region("hidden", kept, chunk)?;
                let harmless = placed.iter().all(|(_, written, region)| !written || region.is_disjoint(&kept));
                ensure!(harmless, "overwrites the residual stream");
            }
        }
        Ok(())
    }
}
