//! The conformance suite: one set of tests that every device instantiates. Each operation is held against a naive evaluation
//! over drawn shapes, on libraries built around that one operation.
//!
//! A device joins by an [`Instance`] and a line in [`suite`]'s list at the end of this file.

#![allow(unsafe_code)] // The stand-in loads what clang made of kernels.

mod build;
mod cases;
mod gpu;
#[path = "../standin/mod.rs"]
mod standin;
mod weights;

use knapsack_artifact::ModelLibrary;
use knapsack_device::{CpuDevice, Device, FakeDevice, FakeOutcome, Isa, ReferenceDevice};
use std::sync::Arc;

/// Largest relative root mean square errors.
pub(crate) struct Bounds {
    /// Float32 throughout.
    pub(crate) exact: f64,
    /// Through a float16 cache.
    pub(crate) cached: f64,
    /// Through a grouped product.
    pub(crate) quantized: f64,
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

/// The whole suite for one device.
fn suite(instance: &Instance<'_>) {
    cases::embed(instance);
    cases::norm(instance);
    cases::add_norm(instance);
    cases::linear(instance);
    cases::attention(instance);
    cases::wrong_calls(instance);
    weights::suite(instance);
    eprintln!("exercised {} ({})", instance.name, instance.device.description());
}

#[test]
fn reference() {
    suite(&Instance {
        name: "cpu-reference".to_owned(),
        device: &ReferenceDevice,
        prepare: Arc::clone,
        bounds: Bounds { exact: 1e-5, cached: 1e-5, quantized: 1e-5 },
        cases: 48,
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
        bounds: Bounds { exact: 1e-5, cached: 1e-3, quantized: 0.02 },
        cases: 64,
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

/// The fake computes nothing, so only its bookkeeping is tested.
#[test]
fn fake() {
    let device = FakeDevice::new();
    let mut b = build::Builder::new(4, 8, 1);
    let (rows, _) = b.input(16, 16);
    let sample = b.finish(rows);
    let (library, folder) = (&sample.library, sample.folder.path());
    let total = library.memory.total();
    let mut one = device.load(library.clone(), folder).unwrap();
    let two = device.load(library.clone(), folder).unwrap();
    assert_eq!((device.models(), device.allocated(), one.memory()), (2, 2 * total, library.memory));
    drop(two);
    device.script_loads([FakeOutcome::Fail]);
    assert!(device.load(library.clone(), folder).is_err());
    assert_eq!((device.models(), device.allocated(), device.peak()), (1, total, 2 * total));

    let read = |model: &mut dyn knapsack_device::LoadedModel, row| {
        let mut logits = vec![0.0; 16];
        model.logits(row, &mut logits).unwrap();
        logits
    };
    one.forward(&[1, 2, 3], 0).unwrap();
    let rows = [read(&mut *one, 1), read(&mut *one, 2)];
    assert_ne!(rows[0], rows[1]);
    device.script_calls([FakeOutcome::Fail, FakeOutcome::SucceedAfter(std::time::Duration::from_millis(1))]);
    assert!(one.forward(&[9], 1).is_err());
    one.forward(&[2], 1).unwrap();
    assert_eq!(read(&mut *one, 0), rows[0], "the same tokens give the same logits");
    assert!(one.forward(&[2], 3).is_err(), "position 2 was never given");
    drop(one);
    assert_eq!((device.models(), device.allocated()), (0, 0));
}
