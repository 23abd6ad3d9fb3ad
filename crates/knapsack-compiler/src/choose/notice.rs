//! What users are told about chosen sizes.

use super::{GivenSizes, Own};
use knapsack_artifact::library::MemoryPlan;
use knapsack_ir::Windows;
use std::fmt;

/// A size by its key in `overrides`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// `context_window_size`.
    Context,
    /// `sliding_window_size`.
    Sliding,
    /// `attention_sink_size`.
    Sinks,
    /// `prefill_chunk_size`.
    Chunk,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Size::Context => "context_window_size",
            Size::Sliding => "sliding_window_size",
            Size::Sinks => "attention_sink_size",
            Size::Chunk => "prefill_chunk_size",
        })
    }
}

/// Why a size has its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the model's own.
    Own,
    /// Nothing was said, or another size limits it.
    Default,
    /// The budget, in bytes.
    Budget(u64),
    /// The budget, in bytes, which even the smallest sizes do not keep.
    Smallest(u64),
}

/// Something that a user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A size that was not given.
    Chosen {
        /// Which of the sizes was not given.
        size: Size,
        /// In tokens or positions.
        value: u32,
        /// The model's own.
        own: u32,
        /// What it was chosen by.
        reason: Reason,
    },
    /// A context beyond the positions that the model was trained for, without rope scaling. A warning.
    BeyondTrained {
        /// Positions of the context that was chosen.
        context: u32,
        /// Positions trained for.
        trained: u32,
    },
    /// A KV cache larger than the weights: memory that few conversations need. A warning.
    LargeCache {
        /// Bytes of the KV cache.
        kv_cache: u64,
        /// Bytes of the weights.
        weights: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Chosen { size, value, reason: Reason::Own, .. } => write!(f, "{size} = {value}, the model's own"),
            Notice::Chosen { size, value, own, reason: Reason::Default } => {
                write!(f, "{size} = {value}, the default (the model's own is {own})")
            }
            Notice::Chosen { size, value, own, reason: Reason::Budget(budget) } => {
                write!(f, "{size} = {value}, reduced from the model's own {own} to fit {budget} bytes")
            }
            Notice::Chosen { size, value, own, reason: Reason::Smallest(budget) } => write!(
                f,
                "{size} = {value}, the smallest that is chosen (the model's own is {own}), and still it does not fit {budget} \
                 bytes"
            ),
            Notice::LargeCache { kv_cache, weights } => {
                write!(
                    f,
                    "the KV cache takes {kv_cache} bytes, more than the weights ({weights}): a smaller context would do"
                )
            }
            Notice::BeyondTrained { context, trained } => {
                write!(
                    f,
                    "context_window_size {context} is beyond the {trained} positions that the model was trained for"
                )
            }
        }
    }
}

/// A plan that its budget does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// Bytes allowed.
    pub budget: u64,
    /// Bytes needed on the device.
    pub memory: MemoryPlan,
    /// Bytes needed beside it, by the tokenizer.
    pub beside: u64,
    /// With these sizes, the smallest that may be chosen.
    pub windows: Windows,
}

impl OverBudget {
    /// `None` when a model fits.
    pub fn of(own: &Own, budget: u64, memory: MemoryPlan, windows: Windows) -> Option<Self> {
        let over = OverBudget { budget, memory, beside: own.beside, windows };
        (over.total() > budget).then_some(over)
    }

    /// All bytes needed.
    pub const fn total(&self) -> u64 {
        self.memory.total().saturating_add(self.beside)
    }
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beside = (self.beside > 0).then_some(("tokenizer", self.beside));
        let parts: Vec<_> = self.memory.parts().chain(beside).collect();
        let dominant = parts.iter().max_by_key(|(_, bytes)| *bytes).map_or("weights", |(name, _)| name);
        let list: Vec<String> = parts.iter().map(|(what, bytes)| format!("{what} {bytes}")).collect();
        write!(
            f,
            "the model needs {} bytes ({}), {} more than the budget of {}; most of it is {dominant}",
            self.total(),
            list.join(", "),
            self.total().saturating_sub(self.budget),
            self.budget
        )
    }
}

impl std::error::Error for OverBudget {}

/// The notices of a choice; `start` is what it was before anything was reduced, `fits` whether that helped.
pub(super) fn notices(
    own: &Own,
    given: &GivenSizes,
    start: &Windows,
    chosen: &Windows,
    memory: &MemoryPlan,
    budget: Option<u64>,
    fits: bool,
) -> Vec<Notice> {
    let mut list = vec![];
    let mut tell = |given: Option<u32>, size, own: u32, start: u32, value: u32| {
        if given.is_none() {
            let reason = match budget {
                Some(budget) if value < start && fits => Reason::Budget(budget),
                Some(budget) if value < start => Reason::Smallest(budget),
                _ if value == own => Reason::Own,
                _ => Reason::Default,
            };
            list.push(Notice::Chosen { size, value, own, reason });
        }
    };
    let windows = &own.windows;
    match (chosen.sliding, start.sliding) {
        (Some(value), Some(start)) => {
            tell(given.sliding_window_size, Size::Sliding, windows.sliding.unwrap_or(value), start, value);
            tell(given.attention_sink_size, Size::Sinks, windows.sinks, chosen.sinks, chosen.sinks);
        }
        _ => tell(given.context_window_size, Size::Context, windows.context, start.context, chosen.context),
    }
    tell(given.prefill_chunk_size, Size::Chunk, windows.chunk, start.chunk, chosen.chunk);
    if let Some(trained) = own.trained.filter(|&trained| chosen.sliding.is_none() && chosen.context > trained) {
        list.push(Notice::BeyondTrained { context: chosen.context, trained });
    }
    if memory.kv_cache > memory.weights {
        list.push(Notice::LargeCache { kv_cache: memory.kv_cache, weights: memory.weights });
    }
    list
}
