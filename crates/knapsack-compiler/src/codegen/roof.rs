//! What a token takes of a GPU, and so how many tokens a second it can write at most.

use super::{KernelTraffic, ThreadCount, count_threads, kernel_traffic};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Tiles;

/// What one decoded token takes, its logits included, when every position of the cache is in use. Counted, not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCost {
    /// Bytes of weights, cache and state that are moved.
    pub bytes: u64,
    /// Operations of all threads, with half precision products.
    pub operations: u64,
}

/// Tokens a second that a GPU can write at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roof {
    /// When only its memory bounded it.
    pub by_bandwidth: f64,
    /// When only its arithmetic did.
    pub by_arithmetic: f64,
}

impl TokenCost {
    /// The cost of a library's token; `None` without kernels of this compiler.
    pub fn of(library: &ModelLibrary) -> Option<Self> {
        let table = kernel_traffic(library);
        let threads = count_threads(library, &table, true, Tiles::default()).ok()?;
        Self::sum(&table, &threads)
    }

    /// The cost by its kernels, as [`kernel_traffic`] and [`count_threads`] give them.
    pub fn sum(table: &[KernelTraffic], threads: &[ThreadCount]) -> Option<Self> {
        let rows = table.iter().zip(threads).filter(|(row, _)| row.function != "prefill");
        let cost = rows.fold(TokenCost { bytes: 0, operations: 0 }, |cost, (row, thread)| TokenCost {
            bytes: cost.bytes + row.moves.weights + row.moves.cache,
            operations: cost.operations + row.operations(thread),
        });
        (cost.bytes > 0 && cost.operations > 0).then_some(cost)
    }

    /// The roof on a GPU with these rates.
    pub fn roof(&self, bytes_per_second: f64, operations_per_second: f64) -> Roof {
        Roof {
            by_bandwidth: bytes_per_second / self.bytes as f64,
            by_arithmetic: operations_per_second / self.operations as f64,
        }
    }
}

impl Roof {
    /// Tokens a second, both bounding it.
    pub fn tokens_per_second(&self) -> f64 {
        self.by_bandwidth.min(self.by_arithmetic)
    }

    /// What bounds it: `bandwidth` or `arithmetic`.
    pub fn binds(&self) -> &'static str {
        if self.by_bandwidth <= self.by_arithmetic { "bandwidth" } else { "arithmetic" }
    }
}
