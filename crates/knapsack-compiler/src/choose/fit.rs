//! The largest context for a budget, whatever a manifest says about it.

use super::{CHUNK_STEP, ChooseError, Chosen, GivenSizes, OverBudget, Own, OwnSizes, Search, notice};
use knapsack_ir::{Graph, Windows};

/// What stays as it is when sizes are fitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// A model that has no sliding window of its own gets one all the same, of at most this many positions.
    pub sliding_window_size: Option<u32>,
    /// First positions that stay visible beyond a sliding window, when not the model's own.
    pub attention_sink_size: Option<u32>,
}

/// The sizes with the largest context (of a model with a sliding window: the largest window) that fit `budget`, and among
/// those the largest prefill chunk. A context is never larger than the positions that the model was trained for.
///
/// The context is the model's own, or a multiple of [`super::CONTEXT_STEP`] from [`super::MIN_CONTEXT`] up; the chunk is the
/// model's own, or a multiple of [`CHUNK_STEP`] from [`super::MIN_CHUNK`] up.
///
/// # Errors
/// As [`super::choose`]; that nothing fits is no error, but [`Chosen::over_budget`] for the smallest sizes.
pub fn fit<E: std::error::Error>(
    own: &Own,
    fixed: &Fixed,
    budget: u64,
    graph: impl FnMut(&Windows) -> Result<Graph, E>,
) -> Result<Chosen, ChooseError<E>> {
    let bounded = |size: u32| own.trained.map_or(size, |trained| size.min(trained));
    let windows = Windows {
        context: bounded(own.windows.context),
        sliding: match (fixed.sliding_window_size, own.windows.sliding) {
            (Some(given), Some(window)) => Some(given.min(window)),
            (given, window) => given.or(window),
        },
        ..own.windows
    };
    let attention_sink_size = fixed.attention_sink_size;
    let overrides = GivenSizes { attention_sink_size, own: OwnSizes::ALL, ..GivenSizes::default() };
    let mut search = Search { overrides: &overrides, graph };
    let start = search.start(&windows);
    let mut chosen = start;
    let left = own.left(budget);
    if search.memory(&chosen)?.total() > left {
        chosen = search.reduce(start, left)?;
        chosen = search.larger_chunk(start.chunk, chosen, left)?;
    }
    let memory = search.memory(&chosen)?;
    let fits = memory.total() <= left;
    let notices = notice::notices(own, &overrides, &start, &chosen, &memory, Some(budget), fits);
    let over_budget = OverBudget::of(own, budget, memory, chosen);
    Ok(Chosen { windows: chosen, memory, notices, over_budget })
}

impl<E: std::error::Error, F: FnMut(&Windows) -> Result<Graph, E>> Search<'_, F> {
    /// The same sizes with the largest chunk up to `most` that still fits: a step of the context leaves a rest.
    fn larger_chunk(&mut self, most: u32, windows: Windows, budget: u64) -> Result<Windows, ChooseError<E>> {
        let most = most.min(windows.sliding.unwrap_or(windows.context));
        let with = |chunk| Windows { chunk, ..windows };
        if most <= windows.chunk || self.memory(&windows)?.total() > budget {
            return Ok(windows);
        }
        let chunk = match self.memory(&with(most))?.total() <= budget {
            true => most,
            false => self.largest(most, windows.chunk, CHUNK_STEP, budget, with)?,
        };
        Ok(with(chunk))
    }
}
