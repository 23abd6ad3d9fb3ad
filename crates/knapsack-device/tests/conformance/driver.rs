//! A driver of OpenCL. It compiles on one thread, longer than any other device takes: by its name it begins before the stand-ins, and it
//! runs one whole model of each kind. The stand-ins run all of them, and so does it with `KNAPSACK_DRIVER=all`.

use super::gpu::run;
use super::support;
use knapsack_artifact::library::Target;
use knapsack_device::opencl::OpenClOptions;

/// Layouts and widths of codes, floats, windows, recurrent layers, shared caches with looked-up rows.
const MODELS: [&str; 8] = ["llama q4", "llama q3", "llama q0f16", "mistral", "gemma2", "lfm3", "qwen3_5", "gemma4"];

#[test]
fn opencl() {
    if let Some(device) = support::opencl(OpenClOptions::default()) {
        let (fp16, subgroups) = (device.info().fp16, device.info().subgroups);
        let all = std::env::var_os("KNAPSACK_DRIVER").is_some_and(|value| value == "all");
        let models: &[&str] = if all { &[] } else { &MODELS };
        run(format!("opencl, fp16 {fp16}, subgroups {subgroups}"), &device, Target::OpenCl, fp16, models);
    }
}
