//! The devices that run GPU kernels. Each case is a program of its own to a driver or compiler, so they run fewer of them.

use super::standin::{Order, Standin, Variant};
use super::{Bounds, Instance, suite};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_device::Device;
use knapsack_device::opencl::{OpenClDevice, OpenClOptions};
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
fn opencl() {
    let cache = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("opencl-programs");
    match OpenClDevice::open(OpenClOptions { cache: Some(cache), ..OpenClOptions::default() }) {
        Ok(device) => {
            let fp16 = device.info().fp16;
            run(format!("opencl, fp16 {fp16}, subgroups {}", device.info().subgroups), &device, Target::OpenCl, fp16);
        }
        Err(error) => {
            let required = std::env::var_os("KNAPSACK_REQUIRE_OPENCL").is_some_and(|value| value == "1");
            assert!(!required, "KNAPSACK_REQUIRE_OPENCL=1, but {error}");
            eprintln!("SKIPPED: no OpenCL: {error}");
        }
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
