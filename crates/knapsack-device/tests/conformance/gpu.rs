//! GPU kernels under the stand-in. Each case is a program of its own to the compiler, so they are fewer. (The OpenCL device runs
//! whole models in `tests/opencl.rs`.)

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
        false => Bounds { exact: 1e-5, cached: 1e-3, quantized: 1e-5 },
        true => Bounds { exact: 0.01, cached: 1e-3, quantized: 0.01 },
    }
}

fn run(name: String, device: &dyn Device, target: Target, fp16: bool) {
    let prepare = if target == Target::Metal { for_metal } else { for_opencl };
    suite(&Instance { name, device, prepare, bounds: bounds(fp16), cases: CASES, exact_memory: true });
}

fn standin(variant: Variant) {
    if let Some(device) = Standin::new(variant) {
        run(format!("stand-in {variant:?}"), &device, variant.target, variant.fp16);
    }
}

#[test]
fn metal_standin_single_precision_simdgroups() {
    standin(Variant { target: Target::Metal, fp16: false, subgroups: true, subgroup_size: 32, order: Order::Reverse });
}

#[test]
fn metal_standin_half_precision_local_memory() {
    standin(Variant { target: Target::Metal, fp16: true, subgroups: false, subgroup_size: 32, order: Order::Shuffled });
}

#[test]
fn opencl_standin_half_precision_subgroups() {
    standin(Variant { target: Target::OpenCl, fp16: true, subgroups: true, subgroup_size: 8, order: Order::Shuffled });
}
