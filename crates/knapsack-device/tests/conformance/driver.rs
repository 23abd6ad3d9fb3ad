//! A driver of OpenCL. It compiles on one thread, longer than any other device takes: by its name it begins before the stand-ins.

use super::gpu::run;
use super::support;
use knapsack_artifact::library::Target;
use knapsack_device::opencl::OpenClOptions;

#[test]
fn opencl() {
    if let Some(device) = support::opencl(OpenClOptions::default()) {
        let (fp16, subgroups) = (device.info().fp16, device.info().subgroups);
        run(format!("opencl, fp16 {fp16}, subgroups {subgroups}"), &device, Target::OpenCl, fp16);
    }
}
