//! The plan is exact: what each device counts as allocated is what the compiler planned, part for part, for every family,
//! window and chunk.

mod support;

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{MemoryPlan, Target};
use knapsack_artifact::plan::{KernelCall, KvLayer, state_bytes};
use knapsack_device::opencl::OpenClOptions;
use knapsack_device::{CpuDevice, Device, FakeDevice, ReferenceDevice};
use knapsack_ir::Windows;
use knapsack_tensor::DType;
use std::collections::HashMap;
use std::sync::Arc;
use support::{Model, every_model, opencl};

/// The whole context, and sliding windows without and with sinks, each for a chunk of one, an odd one and the largest.
fn windows(model: &Model) -> Vec<Windows> {
    let whole = Windows { sliding: None, sinks: 0, chunk: 1, ..model.windows };
    let sliding = Windows { sliding: Some(24), ..whole };
    let mut all = Vec::new();
    for windows in [whole, sliding, Windows { sinks: 4, ..sliding }] {
        let largest = windows.sliding.unwrap_or(windows.context);
        all.extend([1, 7, largest].map(|chunk| Windows { chunk, ..windows }));
    }
    all
}

#[test]
fn the_devices_allocate_what_is_planned() {
    let (cpu, fake) = (CpuDevice::new(), FakeDevice::new(u64::MAX));
    let mut plans = 0;
    every_model(|model| {
        for windows in windows(model) {
            let library = model.library(Target::Host, |all| *all = windows);
            let (plan, what) = (library.memory, format!("{} with {windows:?}", model.name));
            let loaded = cpu.load(library.clone(), &model.folder).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(loaded.memory(), plan, "{what}: cpu");
            let loaded = fake.load(library.clone(), &model.folder).unwrap();
            assert_eq!((loaded.memory(), fake.allocated()), (plan, plan.total()), "{what}: fake");
            // The reference keeps its cache, and what it sets aside of it, in float32.
            let loaded = ReferenceDevice.load(library.clone(), &model.folder).unwrap();
            let single = |layer: &KvLayer| KvLayer { dtype: DType::F32, ..*layer };
            let layers: Vec<KvLayer> = library.kv_cache.iter().map(single).collect();
            let kv_cache = layers.iter().map(KvLayer::bytes).sum();
            let state = state_bytes(&library.states, &layers, library.model.context_window_size).unwrap();
            assert_eq!(loaded.memory(), MemoryPlan { kv_cache, state, ..plan }, "{what}: cpu-reference");
            plans += 1;
        }
    });
    eprintln!("{plans} plans are exact on {}, fake and cpu-reference", cpu.description());
}

/// Indices of a call's kernels.
fn kernels(call: &KernelCall) -> impl Iterator<Item = usize> {
    std::iter::once(call.kernel).chain(call.then.as_ref().map(|then| then.kernel)).map(|kernel| kernel as usize)
}

/// The library with kernels that do nothing, the same few for every library: building thousands of real ones would take minutes
/// and change nothing in what is allocated.
fn without_kernel_bodies(library: &ModelLibrary) -> ModelLibrary {
    let mut library = library.clone();
    let mut arguments = HashMap::new();
    for (call, launches) in [&library.prefill, &library.decode, &library.head].into_iter().flat_map(|f| f.calls()) {
        let operands: usize = launches.iter().map(|launch| launch.op.operands().len()).sum();
        // Behind them the scratch, where one is taken, and the numbers of the call.
        let count = operands + usize::from(call.scratch) + 1;
        arguments.extend(kernels(call).map(|kernel| (kernel, count)));
    }
    let module = library.kernels.as_mut().unwrap();
    // Logits, what is found, and the numbers.
    arguments.extend(module.top.iter().flat_map(|top| kernels(&top.gpu)).map(|kernel| (kernel, 3)));
    module.source = String::new();
    for count in 1..=20 {
        let buffers: Vec<String> = (0..count).map(|i| format!("__global float* b{i}, uint at{i}")).collect();
        let buffers = buffers.join(", ");
        module.source += &format!("__kernel void nothing_{count}({buffers}) {{}}\n");
    }
    for (index, kernel) in module.kernels.iter_mut().enumerate() {
        kernel.name = format!("nothing_{}", arguments[&index]);
        kernel.images.clear();
    }
    library
}

/// Beside the model's own count: what was asked of the driver, counted where it is asked.
#[test]
fn opencl_allocates_what_is_planned() {
    let Some(device) = opencl(OpenClOptions::default()) else { return };
    let mut plans = 0;
    every_model(|model| {
        for windows in windows(model) {
            let library = model.library(Target::OpenCl, |all| *all = windows);
            let (plan, what) = (library.memory, format!("{} with {windows:?}", model.name));
            let library = Arc::new(without_kernel_bodies(&library));
            let loaded = device.load(library, &model.folder).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!((loaded.memory(), device.allocated()), (plan, plan.total()), "{what}");
            plans += 1;
        }
        assert_eq!(device.allocated(), 0, "{}", model.name);
    });
    eprintln!("{plans} plans are exact on {}", device.description());
}

#[cfg(unix)]
#[test]
fn a_file_that_is_shortened_while_it_is_in_use_is_an_error() {
    let model = Model::fixture("llama", "q4f16_1");
    let library = model.library(Target::Host, |_| {});
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&model.folder).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let shard = folder.path().join("params_shard_0.bin");
    let mut running = CpuDevice::new().load(library.clone(), folder.path()).unwrap();
    running.forward(&[1, 2, 3], 0).unwrap();
    // Replaced or removed: what is mapped stays.
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(folder.path().join("new"), &bytes[..7]).unwrap();
    knapsack_artifact::files::rename(&shard, folder.path().join("old")).unwrap();
    running.forward(&[1, 2, 3], 3).unwrap();
    knapsack_artifact::files::rename(folder.path().join("new"), &shard).unwrap();
    running.forward(&[1, 2, 3], 6).unwrap();
    knapsack_artifact::files::rename(folder.path().join("old"), &shard).unwrap();
    std::fs::File::options().write(true).open(&shard).unwrap().set_len(4096).unwrap();
    let error = running.forward(&[1, 2, 3], 9).unwrap_err();
    assert!(error.to_string().contains("params_shard_0.bin was shortened"), "{error}");
    let error = CpuDevice::new().load(library, folder.path()).err().unwrap();
    assert!(error.to_string().contains("4096 bytes"), "{error}");
}
