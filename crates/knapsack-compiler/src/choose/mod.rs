//! What the overrides leave unsaid is chosen here, so that the model fits its budget, and told.
//!
//! * A size that is given is kept. If the plan then exceeds the budget, [`Chosen::over_budget`] says so with the numbers.
//! * A size that is not given starts as the model's own, but at most [`DEFAULT_CONTEXT`] and [`DEFAULT_CHUNK`], unless the model's
//!   own is asked for ([`OwnSizes`]). It is then reduced to fit the budget: first the prefill chunk, to the largest multiple of
//!   [`CHUNK_STEP`] that fits and no lower than [`MIN_CHUNK`]; then the context (of a model with a sliding window: the window), to
//!   the largest multiple of [`CONTEXT_STEP`] that fits and no lower than [`MIN_CONTEXT`]. A budget alone makes nothing larger: public
//!   manifests give small models the budgets of large ones, which would be filled with gigabytes of KV cache.
//!
//! Every value that was not given is reported as a [`Notice`].

mod fit;
mod notice;

pub use fit::{Fixed, fit};
pub use notice::{Notice, OverBudget, Reason, Size};

use crate::error::CompileError;
use knapsack_artifact::library::MemoryPlan;
use knapsack_artifact::validate::{MAX_CHUNK, MAX_POSITIONS};
use knapsack_ir::{Graph, Windows};

/// Largest context that is chosen without being asked for.
pub const DEFAULT_CONTEXT: u32 = 4096;
/// Largest prefill chunk that is chosen without being asked for.
pub const DEFAULT_CHUNK: u32 = 512;
/// What contexts are reduced in.
pub const CONTEXT_STEP: u32 = 256;
/// Smallest context that a budget can lead to.
pub const MIN_CONTEXT: u32 = 512;
/// What prefill chunks are reduced in.
pub const CHUNK_STEP: u32 = 128;
/// Smallest prefill chunk that a budget can lead to.
pub const MIN_CHUNK: u32 = 128;

/// Sizes that a request gives; what is `None` is to be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GivenSizes {
    /// Most positions of a conversation.
    pub context_window_size: Option<u32>,
    /// Positions that a query sees on every layer.
    pub sliding_window_size: Option<u32>,
    /// First positions that stay visible beyond the sliding window.
    pub attention_sink_size: Option<u32>,
    /// Most tokens of one prefill call.
    pub prefill_chunk_size: Option<u32>,
    /// What is asked for without a number.
    pub own: OwnSizes,
}

/// Sizes that shall be the model's own, however large, where no number is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OwnSizes {
    /// `context_window_size`.
    pub context: bool,
    /// The sliding window.
    pub sliding: bool,
    /// The prefill chunk.
    pub chunk: bool,
}

impl OwnSizes {
    /// Everything.
    pub const ALL: OwnSizes = OwnSizes { context: true, sliding: true, chunk: true };
}

/// What a model's configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its own window sizes.
    pub windows: Windows,
    /// Positions beyond which it was not trained and nothing scales its rotary embedding.
    pub trained: Option<u32>,
    /// Bytes that it takes of a budget beside what is planned for the device: its tokenizer's.
    pub beside: u64,
}

impl Own {
    /// What a budget leaves for the device.
    const fn left(&self, budget: u64) -> u64 {
        budget.saturating_sub(self.beside)
    }
}

/// The sizes that were chosen, and what they need.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Sizes to compile for.
    pub windows: Windows,
    /// The device memory that they need.
    pub memory: MemoryPlan,
    /// What was chosen, and what is worth knowing.
    pub notices: Vec<Notice>,
    /// Present when even the smallest sizes do not fit the budget: an error, unless the user allows it.
    pub over_budget: Option<OverBudget>,
}

/// Why nothing can be chosen.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ChooseError<E: std::error::Error + 'static> {
    /// The model has no graph.
    #[error(transparent)]
    Graph(E),
    /// The model cannot be compiled with the sizes that are given.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// Chooses sizes. `graph` gives the model's graph for window sizes; it is called about twenty times at most, and no code is
/// generated.
///
/// # Errors
/// When the model has no graph or cannot be compiled, whatever is chosen.
pub fn choose<E: std::error::Error>(
    own: &Own,
    overrides: &GivenSizes,
    budget: Option<u64>,
    graph: impl FnMut(&Windows) -> Result<Graph, E>,
) -> Result<Chosen, ChooseError<E>> {
    let mut search = Search { overrides, graph };
    let start = search.start(&own.windows);
    let mut windows = start;
    let mut memory = search.memory(&windows)?;
    if let Some(left) = budget.map(|budget| own.left(budget)).filter(|&left| memory.total() > left) {
        windows = search.reduce(start, left)?;
        memory = search.memory(&windows)?;
    }
    let over_budget = budget.and_then(|budget| OverBudget::of(own, budget, memory, windows));
    let notices = notice::notices(own, overrides, &start, &windows, &memory, budget, over_budget.is_none());
    Ok(Chosen { windows, memory, notices, over_budget })
}

struct Search<'a, F> {
    overrides: &'a GivenSizes,
    graph: F,
}

impl<E: std::error::Error, F: FnMut(&Windows) -> Result<Graph, E>> Search<'_, F> {
    /// The sizes before anything is reduced.
    fn start(&self, own: &Windows) -> Windows {
        let given = self.overrides;
        let limit = |value: u32, most: u32, asked: bool| if asked { value } else { value.min(most) };
        let asked = given.own;
        // A model may claim more than any library can have; only what is given is refused for that.
        let own = &Windows {
            context: own.context.min(MAX_POSITIONS),
            sliding: own.sliding.map(|window| window.min(MAX_POSITIONS)),
            chunk: own.chunk.min(MAX_CHUNK),
            ..*own
        };
        // A window that a given context never fills does not slide.
        let sliding = match (given.sliding_window_size, given.context_window_size) {
            (None, Some(context)) => own.sliding.filter(|&window| window < context),
            (Some(window), _) => Some(window),
            (None, None) => own.sliding.map(|window| limit(window, DEFAULT_CONTEXT, asked.sliding || asked.context)),
        };
        let context = match given.context_window_size {
            Some(context) => context,
            None if sliding.is_some() => own.context,
            None => limit(own.context, DEFAULT_CONTEXT, asked.context),
        };
        let most = sliding.unwrap_or(context);
        Windows {
            context,
            sliding,
            sinks: given.attention_sink_size.unwrap_or_else(|| own.sinks.min(most.saturating_sub(1))),
            chunk: given.prefill_chunk_size.unwrap_or_else(|| limit(own.chunk, DEFAULT_CHUNK, asked.chunk).min(most)),
        }
    }

    fn memory(&mut self, windows: &Windows) -> Result<MemoryPlan, ChooseError<E>> {
        crate::windows::check_windows(windows).map_err(CompileError::from)?;
        let graph = (self.graph)(windows).map_err(ChooseError::Graph)?;
        Ok(crate::plan(&graph, windows)?)
    }

    /// The largest of the sizes that may be reduced, in their order, that fit; the smallest where none does.
    fn reduce(&mut self, start: Windows, budget: u64) -> Result<Windows, ChooseError<E>> {
        let mut windows = start;
        if self.overrides.prefill_chunk_size.is_none() {
            let with = |chunk| Windows { chunk, ..start };
            let chunk = self.largest(start.chunk, MIN_CHUNK, CHUNK_STEP, budget, with)?;
            windows = Windows { chunk, ..start };
        }
        let fixed = match start.sliding {
            Some(_) => self.overrides.sliding_window_size.is_some(),
            None => self.overrides.context_window_size.is_some(),
        };
        if fixed || self.memory(&windows)?.total() <= budget {
            return Ok(windows);
        }
        let from = windows;
        let lowest = MIN_CONTEXT.max(from.chunk).max(from.sinks.saturating_add(1));
        let with = |size| match from.sliding {
            Some(_) => Windows { sliding: Some(size), ..from },
            None => Windows { context: size, ..from },
        };
        let size = self.largest(from.sliding.unwrap_or(from.context), lowest, CONTEXT_STEP, budget, with)?;
        Ok(with(size))
    }

    /// The largest multiple of `step` below `from` and at least `lowest` that fits, by bisection: memory grows with either size.
    fn largest(
        &mut self,
        from: u32,
        lowest: u32,
        step: u32,
        budget: u64,
        with: impl Fn(u32) -> Windows,
    ) -> Result<u32, ChooseError<E>> {
        let lowest = lowest.next_multiple_of(step);
        if from <= lowest {
            return Ok(from);
        }
        // `low` steps are taken whether they fit or not, `high` steps are known not to fit.
        let (mut low, mut high) = (lowest / step, from.div_ceil(step));
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if self.memory(&with(middle * step))?.total() <= budget {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low * step)
    }
}

#[cfg(test)]
mod tests;
