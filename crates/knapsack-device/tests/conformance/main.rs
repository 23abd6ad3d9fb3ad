//! The conformance suite: one set of tests that every device instantiates. Each operation is held against a naive evaluation
//! over drawn shapes, on libraries built around that one operation; then whole models are held against the reference's logits.
//!
//! A device joins by an [`Instance`] and a line in [`suite`]'s list at the end of this file.

#![allow(unsafe_code, reason = "the stand-in loads what clang made of kernels")]

mod build;
mod cases;
mod driver;
mod fake;
mod gpu;
mod models;
mod recurrent;
#[path = "../standin/mod.rs"]
mod standin;
#[path = "../support/mod.rs"]
mod support;
mod weights;

use knapsack_artifact::ModelLibrary;
use knapsack_device::{CpuDevice, Device, Isa, ReferenceDevice};
use std::sync::Arc;
use std::time::Instant;

/// Largest relative root mean square errors.
pub(crate) struct Bounds {
    /// Float32 throughout.
    pub(crate) exact: f64,
    /// Through a float16 cache.
    pub(crate) cached: f64,
    /// Through a grouped product.
    pub(crate) quantized: f64,
    /// Logits of a whole model.
    pub(crate) model: f64,
    /// Logits of a whole model without grouped weights.
    pub(crate) dense_model: f64,
}

/// A device under test.
pub(crate) struct Instance<'a> {
    pub(crate) name: String,
    pub(crate) device: &'a dyn Device,
    /// Makes a host library one for this device (gives it kernels).
    pub(crate) prepare: fn(&Arc<ModelLibrary>) -> Arc<ModelLibrary>,
    pub(crate) bounds: Bounds,
    /// Cases of each property.
    pub(crate) cases: u32,
    /// Whole models whose names begin so; none: all.
    pub(crate) models: &'static [&'static str],
    /// Whether the device allocates exactly what the plan says.
    pub(crate) exact_memory: bool,
}

impl Instance<'_> {
    /// Runs the tokens in chunks and reads every row.
    pub(crate) fn run(&self, sample: &build::Sample, tokens: &[u32], chunk: u32) -> Vec<Vec<f32>> {
        let library = (self.prepare)(&sample.library);
        let mut model = self.device.load(library.clone(), sample.folder.path()).unwrap();
        if self.exact_memory {
            assert_eq!(model.memory(), library.memory, "what is allocated is what is planned");
        }
        let mut results = Vec::new();
        for (index, part) in tokens.chunks(chunk as usize).enumerate() {
            model.forward(part, index as u32 * chunk).unwrap();
            for row in 0..part.len() as u32 {
                let mut logits = vec![0.0; library.model.vocab_size as usize];
                model.logits(row, &mut logits).unwrap();
                results.push(logits.iter().map(|x| x * build::HEAD).collect());
            }
        }
        results
    }
}

/// One part of the suite.
type Part = fn(&Instance<'_>);

/// All of them, by their names.
const PARTS: [(&str, Part); 11] = [
    ("embed", cases::embed),
    ("norm", cases::norm),
    ("add_norm", cases::add_norm),
    ("linear", cases::linear),
    ("attention", cases::attention),
    ("causal_conv", recurrent::causal_conv),
    ("gated_delta", recurrent::gated_delta),
    ("top", cases::top),
    ("wrong_calls", cases::wrong_calls),
    ("weights", weights::suite),
    ("models", models::suite),
];

/// The whole suite for one device; `KNAPSACK_PARTS=norm,linear` leaves the parts whose names begin with one of these.
fn suite(instance: &Instance<'_>) {
    for (name, part) in PARTS.into_iter().filter(|(name, _)| support::is_wanted("KNAPSACK_PARTS", name)) {
        let start = Instant::now();
        part(instance);
        eprintln!("{}: {name}, {:.1} s", instance.name, start.elapsed().as_secs_f64());
    }
    eprintln!("exercised {} ({})", instance.name, instance.device.description());
}

#[test]
fn reference() {
    suite(&Instance {
        name: "cpu-reference".to_owned(),
        device: &ReferenceDevice,
        prepare: Arc::clone,
        bounds: Bounds { exact: 1e-5, cached: 1e-5, quantized: 1e-5, model: 1e-3, dense_model: 1e-3 },
        cases: 48,
        models: &[],
        exact_memory: false,
    });
}

fn cpu(isa: Isa) {
    let device = match CpuDevice::with(isa, 2) {
        Ok(device) => device,
        Err(error) => return eprintln!("skipped {isa}: {error}"),
    };
    suite(&Instance {
        name: format!("cpu, {isa}"),
        device: &device,
        prepare: Arc::clone,
        bounds: Bounds { exact: 1e-5, cached: 1e-3, quantized: 0.02, model: 0.03, dense_model: 0.005 },
        cases: 64,
        models: &[],
        exact_memory: true,
    });
}

#[test]
fn cpu_scalar() {
    cpu(Isa::Scalar);
}

#[test]
fn cpu_avx2() {
    cpu(Isa::Avx2);
}

#[test]
fn cpu_avx_vnni() {
    cpu(Isa::AvxVnni);
}

#[test]
fn cpu_avx512_vnni() {
    cpu(Isa::Avx512Vnni);
}

#[test]
fn cpu_neon() {
    cpu(Isa::Neon);
}

#[test]
fn cpu_neon_dotprod() {
    cpu(Isa::NeonDotprod);
}

#[test]
fn cpu_neon_i8mm() {
    cpu(Isa::NeonI8mm);
}
