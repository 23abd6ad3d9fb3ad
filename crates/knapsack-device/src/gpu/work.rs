//! How much work a launch is, so that what is handed to a GPU at once stays bounded: a submission that runs for seconds freezes a
//! phone's screen, cannot be cancelled, and is ended by the system's watchdog.

use crate::call::Call;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::ModelInfo;
use knapsack_artifact::plan::{Function, Launch, Op};

/// Multiplications and additions of a submission. At 100 to 500 GFLOP/s, the range of phones, 30 to 170 ms.
pub(super) const SUBMISSION: u64 = 1 << 33;
/// Multiplications and additions of a single launch, which cannot be divided: eight submissions.
const LAUNCH: u64 = 1 << 36;
/// Calls of at least this many tokens stay multiples of it, which is what kernels for several tokens are made for.
const TOKENS: u64 = 32;

/// Multiplications and additions of launches, for a token and for each position that it sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    token: u64,
    position: u64,
    /// Most positions that a token sees.
    positions: u64,
}

impl Work {
    /// That of launches which one kernel call executes.
    pub(super) fn of(library: &ModelLibrary, launches: &[Launch]) -> Self {
        let mut work = Work::default();
        for launch in launches {
            match &launch.op {
                Op::Linear(op) => work.token += u64::from(op.input.columns) * u64::from(op.out_features),
                Op::Attention(op) => {
                    // Keys once, values once.
                    work.position += 2 * u64::from(op.query.columns);
                    let layer = library.kv_cache.get(op.layer as usize);
                    work.positions = work.positions.max(layer.map_or(0, |layer| u64::from(layer.positions)));
                }
                Op::CausalConv(op) => work.token += u64::from(op.taps) * u64::from(op.output.columns),
                // A matrix is gone through four times.
                Op::GatedDelta(op) => work.token += 4 * u64::from(op.key_dim) * u64::from(op.output.columns),
                // Rows that are read and written once.
                Op::Embed(_) | Op::Norm(_) | Op::AddNorm(_) | Op::RopeAppend(_) | Op::RopeQuery(_) | Op::Select(_) => {}
            }
        }
        work
    }

    /// That of a call.
    pub(super) fn at(self, call: Call) -> u64 {
        let seen = (u64::from(call.position) + u64::from(call.row) + u64::from(call.n)).min(self.positions);
        u64::from(call.n).saturating_mul(self.token.saturating_add(self.position.saturating_mul(seen)))
    }

    fn at_most(self) -> u64 {
        self.token.saturating_add(self.position.saturating_mul(self.positions))
    }
}

/// Most tokens of a call for which no launch of `prefill` is more than [`LAUNCH`].
pub(super) fn step(model: &ModelInfo, library: &ModelLibrary, prefill: &Function) -> u32 {
    let heaviest = prefill.calls().map(|(_, launches)| Work::of(library, launches).at_most()).max();
    let most = LAUNCH / heaviest.unwrap_or(0).max(1);
    let most = if most > TOKENS { most - most % TOKENS } else { most.max(1) };
    model.prefill_chunk_size.min(u32::try_from(most).unwrap_or(u32::MAX))
}

/// How many of `work`, launch by launch, make the next submission: as many as fit into [`SUBMISSION`], at least one.
pub(super) fn next(work: impl Iterator<Item = u64>) -> usize {
    let mut sum = 0u64;
    let fits = work.take_while(|&work| {
        sum = sum.saturating_add(work);
        sum <= SUBMISSION
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submissions_hold_what_fits_and_never_nothing() {
        let next = |work: &[u64]| next(work.iter().copied());
        assert_eq!(next(&[1, 2, 3]), 3);
        assert_eq!(next(&[SUBMISSION, 0, 0, 1]), 3);
        assert_eq!(next(&[SUBMISSION + 1, 0]), 1);
        assert_eq!(next(&[u64::MAX, u64::MAX]), 1);
        assert_eq!(next(&[SUBMISSION - 1, u64::MAX]), 1);
    }

    #[test]
    fn work_grows_with_what_is_seen_up_to_the_window() {
        let work = Work { token: 100, position: 3, positions: 50 };
        let at = |n, position| work.at(Call { n, position, row: 0 });
        assert_eq!(at(1, 0), 103);
        assert_eq!(at(10, 0), 10 * (100 + 30));
        assert_eq!(at(10, 1000), 10 * (100 + 150));
        assert_eq!(work.at_most(), 250);
    }
}
