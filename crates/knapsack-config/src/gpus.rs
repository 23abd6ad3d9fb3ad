//! What GPUs of phones can do at most: arithmetic and memory. Every figure names its source; none was measured here.

use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// The GPUs that are known.
const BUILT_IN: &str = include_str!("../data/gpus.json");

/// A number and who says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The number, in the unit of its key.
    pub value: f64,
    /// Where it comes from, and when it was published or read.
    pub source: String,
}

/// A GPU with the memory of the chip that it is part of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Name in a device profile.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// Billions of multiplications and additions a second in single precision, a multiplication with an addition being two.
    pub gflops: Rate,
    /// The same in half precision.
    pub gflops_half: Rate,
    /// Billions of bytes a second that the memory gives at most, to the whole chip.
    pub gigabytes_per_second: Rate,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    gpus: Vec<Gpu>,
}

static ALL: LazyLock<Vec<Gpu>> =
    LazyLock::new(|| serde_json::from_str::<File>(BUILT_IN).map(|file| file.gpus).unwrap_or_default());

impl Gpu {
    /// Every GPU that is known.
    pub fn all() -> &'static [Gpu] {
        &ALL
    }

    /// The GPU of a name.
    pub fn named(name: &str) -> Option<&'static Gpu> {
        ALL.iter().find(|gpu| gpu.name == name)
    }

    /// Operations a second as kernels are counted, a multiplication with an addition being one; in single precision, since what
    /// is done to indices and codes is no faster in half.
    pub fn operations_per_second(&self) -> f64 {
        self.gflops.value * 1e9 / 2.0
    }

    /// Bytes a second.
    pub fn bytes_per_second(&self) -> f64 {
        self.gigabytes_per_second.value * 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpu_has_figures_with_sources() {
        serde_json::from_str::<File>(BUILT_IN).unwrap();
        for vendor in ["adreno-6", "adreno-7", "adreno-8", "mali-g7", "immortalis-g7"] {
            assert!(Gpu::all().iter().any(|gpu| gpu.name.starts_with(vendor)), "{vendor}");
        }
        for generation in 14..=19 {
            assert!(
                Gpu::all().iter().any(|gpu| gpu.name.starts_with(&format!("apple-a{generation}"))),
                "A{generation}"
            );
        }
        for (index, gpu) in Gpu::all().iter().enumerate() {
            for rate in [&gpu.gflops, &gpu.gflops_half, &gpu.gigabytes_per_second] {
                assert!(rate.value > 1.0 && rate.value < 1e5 && rate.source.len() > 20, "{gpu:?}");
            }
            assert!(gpu.gflops_half.value >= gpu.gflops.value, "{gpu:?}");
            assert!(Gpu::all()[..index].iter().all(|other| other.name != gpu.name), "{}", gpu.name);
        }
    }
}
