//! The devices that run GPU kernels. Each case is a program of its own to a driver or compiler, so they run fewer of them.

use super::standin::{Order, Standin, Variant};
use super::{Bounds, Instance, suite};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_device::Device;
use std::sync::Arc;

const CASES: u32 = 8;

fn emitted(library: &Arc<ModelLibrary>, target: Target) -> Arc<ModelLibrary> {
    let mut library = (**library).clone();
    knapsack_compiler::codegen::emit(&mut library, target).expect("every operation has a kernel");
    Arc::new(library)
}

fn for_metal(library: &Arc<ModelLibrary>) -> Arc<ModelLibrary> {
    emitted(library, Target::Metal)
}

fn for_opencl(library: &Arc<ModelLibrary>) -> Arc<ModelLibrary> {
    emitted(library, Target::OpenCl)
}

/// Single precision, or half precision products.
fn bounds(fp16: bool) -> Bounds {
    match fp16 {
        false => Bounds { exact: 1e-5, cached: 1e-3, quantized: 1e-5, model: 0.005, dense_model: 0.005 },
        true => Bounds { exact: 0.01, cached: 1e-3, quantized: 0.01, model: 0.02, dense_model: 0.02 },
    }
}

pub(crate) fn run(name: String, device: &dyn Device, target: Target, fp16: bool, models: &'static [&'static str]) {
    let prepare = if target == Target::Metal { for_metal } else { for_opencl };
    suite(&Instance { name, device, prepare, bounds: bounds(fp16), cases: CASES, models, exact_memory: true });
}

/// The other seven of the eight ways in which the two languages build kernels; every order of threads for Metal.
fn standin(target: Target, fp16: bool, subgroups: Option<u32>, order: Order) {
    let variant =
        Variant { target, fp16, subgroups: subgroups.is_some(), subgroup_size: subgroups.unwrap_or(32), order };
    if let Some(device) = Standin::new(variant) {
        run(format!("stand-in {variant:?}"), &device, target, fp16, &[]);
    }
}

#[test]
fn metal_standin_half_precision_simdgroups() {
    standin(Target::Metal, true, Some(32), Order::Forward);
}

#[test]
fn metal_standin_half_precision_local_memory() {
    standin(Target::Metal, true, None, Order::Shuffled);
}

#[test]
fn metal_standin_single_precision_simdgroups() {
    standin(Target::Metal, false, Some(32), Order::Reverse);
}

#[test]
fn metal_standin_single_precision_local_memory() {
    standin(Target::Metal, false, None, Order::Reverse);
}

#[test]
fn opencl_standin_half_precision_subgroups() {
    standin(Target::OpenCl, true, Some(16), Order::Shuffled);
}

#[test]
fn opencl_standin_half_precision_local_memory() {
    standin(Target::OpenCl, true, None, Order::Forward);
}

#[test]
fn opencl_standin_single_precision_subgroups() {
    standin(Target::OpenCl, false, Some(8), Order::Reverse);
}
