//! The memory plan of the workspace: which bytes each buffer has, from when until when it is needed.
//!
//! A function is a sequence of launches. Each value of rows that a launch defines gets a [`Buffer`] from the launch that
//! defines it to the last that reads it; scratch lives for its launch alone. [`place`] gives offsets such that buffers that
//! live at the same time do not overlap. A sum that may stand where its residual stood shares the residual's buffer (see
//! `lower`), so a residual stream needs one buffer for all layers.

mod overlap;

pub use overlap::{Overlap, check};

use knapsack_artifact::plan::ALIGNMENT;

/// Bytes that are needed during some launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Size.
    pub bytes: u64,
    /// First launch that writes it.
    pub start: usize,
    /// Last launch that touches it.
    pub end: usize,
}

impl Buffer {
    fn meets(&self, other: &Buffer) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// Where buffers were placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Offset of each buffer, a multiple of [`ALIGNMENT`].
    pub offsets: Vec<u64>,
    /// Bytes of the arena that holds them all.
    pub bytes: u64,
}

/// Places buffers in an arena: the largest first, each at the lowest free offset (greedy by size; Pisarchyk and Lee,
/// "Efficient memory management for deep neural net inference", 2020). `None` when the arena is not representable.
pub fn place(buffers: &[Buffer]) -> Option<Placement> {
    let mut order: Vec<usize> = (0..buffers.len()).filter(|&index| buffers[index].bytes > 0).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(buffers[index].bytes), buffers[index].start, index));
    let mut offsets = vec![0u64; buffers.len()];
    // Placed buffers by offset, so that gaps are found from below in one walk.
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    let mut arena = 0u64;
    for index in order {
        let buffer = &buffers[index];
        let mut offset = 0u64;
        for &other in placed.iter().filter(|&&other| buffers[other].meets(buffer)) {
            if offset.checked_add(buffer.bytes)? <= offsets[other] {
                break;
            }
            offset = offset.max(aligned(offsets[other].checked_add(buffers[other].bytes)?)?);
        }
        offsets[index] = offset;
        arena = arena.max(aligned(offset.checked_add(buffer.bytes)?)?);
        let at = placed.partition_point(|&other| (offsets[other], other) < (offset, index));
        placed.insert(at, index);
    }
    Some(Placement { offsets, bytes: arena })
}

/// The next multiple of [`ALIGNMENT`].
pub(crate) fn aligned(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffers() -> impl Strategy<Value = Vec<Buffer>> {
        let buffer = (0u64..5000, 0usize..20, 0usize..8);
        proptest::collection::vec(buffer, 0..60).prop_map(|list| {
            list.into_iter().map(|(bytes, start, length)| Buffer { bytes, start, end: start + length }).collect()
        })
    }

    proptest! {
        #[test]
        fn nothing_overlaps(buffers in buffers()) {
            let placement = place(&buffers).unwrap();
            prop_assert_eq!(check(&buffers, &placement), Ok(()));
        }

        #[test]
        fn the_arena_is_between_the_peak_and_the_sum(buffers in buffers()) {
            let placement = place(&buffers).unwrap();
            let size = |b: &Buffer| aligned(b.bytes).unwrap();
            let peak = (0..30).map(|t| buffers.iter().filter(|b| b.start <= t && t <= b.end).map(size).sum::<u64>()).max();
            prop_assert!(placement.bytes >= peak.unwrap_or(0));
            prop_assert!(placement.bytes <= buffers.iter().map(size).sum());
        }
    }

    #[test]
    fn what_is_not_needed_together_shares_bytes() {
        let chain: Vec<_> = (0..10).map(|t| Buffer { bytes: 1000, start: t, end: t + 1 }).collect();
        assert_eq!(place(&chain).unwrap().bytes, 2 * 1024);
    }

    #[test]
    fn an_arena_beyond_64_bits_is_refused() {
        let huge = Buffer { bytes: u64::MAX - 10, start: 0, end: 1 };
        assert_eq!(place(&[huge, huge]), None);
    }
}
