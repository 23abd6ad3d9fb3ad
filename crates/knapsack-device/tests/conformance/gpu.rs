//! The devices that run GPU kernels. Each case is a program of its own to a driver or compiler, so they run fewer of them.

use super::standin::{Order, Standin, Variant};
use super::{Bounds, Instance, suite};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{Target, Tiles};
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

/// The other seven of the eight ways in which the two languages build kernels, every way of tiling products of many tokens, every
/// order of threads for Metal.
fn standin(target: Target, fp16: bool, subgroups: Option<u32>, order: Order, (tiles, images): (Tiles, bool)) {
    let subgroup_size = subgroups.unwrap_or(32);
    let variant = Variant { target, fp16, subgroups: subgroups.is_some(), subgroup_size, tiles, images, order };
    if let Some(device) = Standin::new(variant) {
        run(format!("stand-in {variant:?}"), &device, target, fp16, &[]);
    }
}

const LOCAL: (Tiles, bool) = (Tiles::Local, false);
const IMAGES: (Tiles, bool) = (Tiles::Local, true);
const REGISTERS: (Tiles, bool) = (Tiles::Registers, false);
const MATRICES: (Tiles, bool) = (Tiles::Matrices, false);

#[test]
fn metal_standin_half_precision_simdgroups() {
    standin(Target::Metal, true, Some(32), Order::Forward, MATRICES);
}

#[test]
fn metal_standin_half_precision_local_memory() {
    standin(Target::Metal, true, None, Order::Shuffled, LOCAL);
}

#[test]
fn metal_standin_single_precision_simdgroups() {
    standin(Target::Metal, false, Some(32), Order::Reverse, MATRICES);
}

#[test]
fn metal_standin_single_precision_local_memory() {
    standin(Target::Metal, false, None, Order::Reverse, LOCAL);
}

#[test]
fn opencl_standin_half_precision_subgroups() {
    standin(Target::OpenCl, true, Some(16), Order::Shuffled, IMAGES);
}

#[test]
fn opencl_standin_half_precision_local_memory() {
    standin(Target::OpenCl, true, None, Order::Forward, REGISTERS);
}

#[test]
fn opencl_standin_single_precision_subgroups() {
    standin(Target::OpenCl, false, Some(8), Order::Reverse, LOCAL);
}
