//! Checks of the window sizes of a request.

use crate::error::{WindowProblem, WindowProblems};
use knapsack_ir::Windows;

/// Largest window size: positions are 32-bit in the kernels, and products of them with strides must stay far from overflow.
pub const MAX_POSITIONS: u32 = 1 << 28;

/// Checks that window sizes are in range and go together.
///
/// # Errors
/// All problems.
pub fn check_windows(windows: &Windows) -> Result<(), WindowProblems> {
    let Windows { context, sliding, sinks, chunk } = *windows;
    let mut problems = vec![];
    let sizes = [("context_window_size", context), ("prefill_chunk_size", chunk)];
    for (name, value) in sizes.into_iter().chain(sliding.map(|window| ("sliding_window_size", window))) {
        if !(1..=MAX_POSITIONS).contains(&value) {
            problems.push(WindowProblem::Range { name, value });
        }
    }
    match sliding {
        Some(window) => {
            if chunk > window {
                problems.push(WindowProblem::ChunkBeyondWindow { chunk, window });
            }
            if sinks >= window {
                problems.push(WindowProblem::SinksBeyondWindow { sinks, window });
            }
        }
        None if chunk > context => problems.push(WindowProblem::ChunkBeyondContext { chunk, context }),
        None => {}
    }
    if problems.is_empty() { Ok(()) } else { Err(WindowProblems(problems)) }
}
