//! Checks of the window sizes of a request.

use crate::error::{WindowProblem, WindowProblems};
use knapsack_artifact::validate::{MAX_CHUNK, MAX_POSITIONS};
use knapsack_ir::Windows;

/// Checks that window sizes are in the range that a library may have, and go together.
///
/// # Errors
/// All problems.
pub(crate) fn check_windows(windows: &Windows) -> Result<(), WindowProblems> {
    let Windows { context, sliding, sinks, chunk } = *windows;
    let mut problems = vec![];
    let sizes = [("context_window_size", context, MAX_POSITIONS), ("prefill_chunk_size", chunk, MAX_CHUNK)];
    let window = sliding.map(|window| ("sliding_window_size", window, MAX_POSITIONS));
    for (name, value, max) in sizes.into_iter().chain(window) {
        if !(1..=max).contains(&value) {
            problems.push(WindowProblem::Range { name, value, max });
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
