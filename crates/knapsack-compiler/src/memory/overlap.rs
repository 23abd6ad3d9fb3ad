//! A checker of placements that shares nothing with the planner: it simulates the arena launch by launch.

use super::{Buffer, Placement};
use knapsack_artifact::plan::ALIGNMENT;
use std::collections::BTreeMap;

/// What is wrong with a placement.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum Overlap {
    /// Two buffers share bytes during a launch.
    #[error("buffers {first} and {second} share bytes during launch {launch}")]
    Shared {
        launch: usize,
        /// The one at the lower offset.
        first: usize,
        second: usize,
    },
    /// A buffer ends beyond the arena, or does not start on a multiple of the alignment.
    #[error("buffer {buffer} at {offset} with {bytes} bytes is misplaced in an arena of {arena}")]
    Misplaced {
        buffer: usize,
        offset: u64,
        bytes: u64,
        /// The arena's size.
        arena: u64,
    },
}

/// Checks a placement by walking through the launches with the set of live buffers ordered by offset.
///
/// # Errors
/// The first fault.
pub fn check(buffers: &[Buffer], placement: &Placement) -> Result<(), Overlap> {
    for (buffer, (&offset, b)) in placement.offsets.iter().zip(buffers).enumerate() {
        let inside = offset.checked_add(b.bytes).is_some_and(|end| end <= placement.bytes);
        if !inside || !offset.is_multiple_of(ALIGNMENT) {
            return Err(Overlap::Misplaced { buffer, offset, bytes: b.bytes, arena: placement.bytes });
        }
    }
    let launches = buffers.iter().map(|b| b.end + 1).max().unwrap_or(0);
    let mut live = BTreeMap::new();
    for launch in 0..launches {
        for (index, buffer) in buffers.iter().enumerate().filter(|(_, b)| b.start == launch && b.bytes > 0) {
            let offset = placement.offsets[index];
            let end = offset + buffer.bytes;
            let before = live.range(..end).next_back();
            if let Some((_, &(_, first))) = before.filter(|(_, (other_end, _))| *other_end > offset) {
                return Err(Overlap::Shared { launch, first, second: index });
            }
            live.insert(offset, (end, index));
        }
        live.retain(|_, (_, index)| buffers[*index].end > launch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found() {
        let buffers = [Buffer { bytes: 300, start: 0, end: 1 }, Buffer { bytes: 10, start: 1, end: 1 }];
        let placement = |offsets: [u64; 2], bytes| Placement { offsets: offsets.to_vec(), bytes };
        assert_eq!(check(&buffers, &placement([0, 512], 768)), Ok(()));
        assert!(matches!(check(&buffers, &placement([0, 256], 768)), Err(Overlap::Shared { launch: 1, .. })));
        assert!(matches!(check(&buffers, &placement([0, 256], 260)), Err(Overlap::Misplaced { buffer: 0, .. })));
        assert!(matches!(check(&buffers, &placement([0, 513], 1024)), Err(Overlap::Misplaced { buffer: 1, .. })));
    }
}
