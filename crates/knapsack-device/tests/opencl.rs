//! The OpenCL device on whatever OpenCL the machine has (PoCL on a CPU is enough). Without one these tests say so and pass,
//! unless `KNAPSACK_REQUIRE_OPENCL=1`.

mod support;

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{Kernel, Target, Tiles};
use knapsack_device::opencl::{OpenClDevice, OpenClOptions};
use knapsack_device::{Device, DeviceError};
use std::path::PathBuf;
use std::sync::Arc;
use support::{Calls, Model, all_logits, error_to_reference_device, opencl};

/// 2 % where products are in half precision, 0.5 % otherwise.
fn bound(device: &OpenClDevice) -> f64 {
    if device.info().fp16 { 0.02 } else { 0.005 }
}

#[test]
fn chunking_changes_nothing_beyond_rounding() {
    let Some(device) = opencl(OpenClOptions::default()) else { return };
    for (family, quantization) in
        [("llama", "q4f16_0"), ("llama", "q3f16_1"), ("gemma2", "q4f16_1"), ("mistral", "q4f16_1")]
    {
        for (chunk, calls) in [(31, Calls::Rising), (16, Calls::Single)] {
            let model = Model::fixture(family, quantization);
            let library = model.library(Target::OpenCl, |windows| windows.chunk = chunk);
            let error = model.error_on(&device, &library, calls);
            assert!(error <= bound(&device), "{family} {quantization} chunk {chunk} {calls:?}: {error}");
        }
    }
}

#[test]
fn products_of_many_tokens_are_tiled_in_every_way() {
    let folder = tempfile::tempdir().unwrap();
    for (tiles, images) in [(Tiles::Local, false), (Tiles::Local, true), (Tiles::Registers, false)] {
        let options = OpenClOptions { tiles: Some(tiles), images: Some(images), ..OpenClOptions::default() };
        let Some(device) = opencl(OpenClOptions { cache: Some(folder.path().to_owned()), ..options }) else { return };
        let programs = || std::fs::read_dir(folder.path()).unwrap().count();
        for quantization in ["q4f16_0", "q4f16_1"] {
            let model = Model::fixture("llama", quantization);
            let library = model.library(Target::OpenCl, |windows| windows.chunk = 40);
            let before = programs();
            let error = model.error_on(&device, &library, Calls::Chunks);
            assert!(error <= bound(&device), "{quantization} {tiles:?}, images {images}: {error}");
            // A program of its own, so not the one without images.
            let own = !images || device.info().image_pixels > 0;
            assert_eq!(programs() - before, usize::from(own), "{quantization} {tiles:?}, images {images}");
        }
    }
}

#[test]
fn windows_with_sinks_go_round_as_on_the_reference_device() {
    let Some(device) = opencl(OpenClOptions::default()) else { return };
    let model = Model::fixture("mistral", "q4f16_1");
    let tokens: Vec<u32> = (0..150).map(|i| i * 37 % 700).collect();
    for (sliding, sinks, chunk) in [(24, 4, 20), (8, 3, 8)] {
        let change = |windows: &mut knapsack_ir::Windows| {
            (windows.sliding, windows.sinks, windows.chunk) = (Some(sliding), sinks, chunk);
        };
        let of = |target| model.library(target, change);
        let libraries = [of(Target::OpenCl), of(Target::Host)];
        for calls in [Calls::Chunks, Calls::Rising] {
            let error = error_to_reference_device(&device, libraries.each_ref(), &model.folder, &tokens, calls);
            assert!(error <= bound(&device), "window {sliding} sinks {sinks} chunk {chunk} {calls:?}: {error}");
        }
    }
}

#[test]
fn what_a_token_runs_is_recorded_and_gives_the_same() {
    let model = Model::fixture("llama", "q4f16_1");
    let library = model.library(Target::OpenCl, |_| {});
    let tokens: Vec<u32> = (1..7).collect();
    let mut answers = Vec::new();
    for recorded in [true, false] {
        let Some(device) = opencl(OpenClOptions { recorded: Some(recorded), ..OpenClOptions::default() }) else {
            return;
        };
        if recorded && !device.info().records {
            return eprintln!("SKIPPED: {} does not record", device.info().name);
        }
        let mut loaded = device.load(library.clone(), &model.folder).unwrap();
        let logits = all_logits(&mut *loaded, &tokens, Calls::Single);
        answers.push((logits, loaded.top(0, 1).unwrap()));
    }
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn how_fast_memory_is_read_is_measured_beside_a_model() {
    let model = Model::fixture("llama", "q4f16_1");
    let library = model.library(Target::OpenCl, |_| {});
    // Room for little more than the model, too.
    for memory in [None, Some(library.memory.total() + (8 << 20))] {
        let Some(device) = opencl(OpenClOptions { memory, ..OpenClOptions::default() }) else { return };
        let mut loaded = device.load(library.clone(), &model.folder).unwrap();
        let tokens: Vec<u32> = (1..7).collect();
        let before = all_logits(&mut *loaded, &tokens, Calls::Single);
        let rate = loaded.read_bandwidth().unwrap().expect("of a device's own memory");
        assert!(rate > 1e6 && rate.is_finite(), "{rate}");
        assert_eq!(device.allocated(), library.memory.total(), "all of it is given back");
        assert_eq!(all_logits(&mut *loaded, &tokens, Calls::Single), before);
    }
}

#[test]
fn compiled_programs_are_kept_and_damage_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let options = OpenClOptions { cache: Some(folder.path().join("programs")), ..OpenClOptions::default() };
    let Some(device) = opencl(options) else { return };
    let model = Model::fixture("llama", "q4f16_1");
    let (library, weights) = (model.library(Target::OpenCl, |_| {}), &model.folder);
    let files = || -> Vec<PathBuf> {
        std::fs::read_dir(folder.path().join("programs")).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    device.load(library.clone(), weights).unwrap();
    let kept = files();
    assert_eq!(kept.len(), 1);
    let written = std::fs::metadata(&kept[0]).unwrap().modified().unwrap();
    device.load(library.clone(), weights).unwrap();
    assert_eq!((files(), std::fs::metadata(&kept[0]).unwrap().modified().unwrap()), (kept.clone(), written));
    std::fs::write(&kept[0], b"not a program").unwrap();
    let error = model.error_on(&device, &library, Calls::Chunks);
    assert!(error <= bound(&device), "{error}");
    assert!(std::fs::metadata(&kept[0]).unwrap().len() > 1000, "the damaged file is replaced");
}

/// The fixture that the tests of failures use, compiled, with one thing changed.
fn changed(model: &Model, change: impl FnOnce(&mut ModelLibrary)) -> Arc<ModelLibrary> {
    let mut library = (*model.library(Target::OpenCl, |_| {})).clone();
    change(&mut library);
    Arc::new(library)
}

/// What is wrong, the library, and what the error must be.
type Refused<'a> = (&'a str, Arc<ModelLibrary>, fn(&DeviceError) -> bool);

/// Loads that must fail, each with a check of its error; a model that was loaded before answers as before after each of them, and
/// nothing stays allocated.
fn refused(device: &OpenClDevice, cases: Vec<Refused<'_>>) {
    let model = Model::fixture("llama", "q4f16_1");
    let library = model.library(Target::OpenCl, |_| {});
    let mut running = device.load(library.clone(), &model.folder).unwrap();
    let tokens: Vec<u32> = (1..20).collect();
    let expected = all_logits(&mut *running, &tokens, Calls::PromptAndAnswer);
    for (what, wrong, expects) in cases {
        let allocated = device.allocated();
        let error = device.load(wrong, &model.folder).err().unwrap_or_else(|| panic!("{what} loads"));
        eprintln!("{what}: {error}");
        assert!(expects(&error), "{what}: {error:?}");
        assert_eq!(device.allocated(), allocated, "{what}: all is given back");
        assert_eq!(all_logits(&mut *running, &tokens, Calls::PromptAndAnswer), expected, "after {what}");
    }
    assert!(matches!(running.forward(&[], 3), Err(DeviceError::InvalidCall(_))));
    assert!(matches!(running.logits(99, &mut [0.0; 4]), Err(DeviceError::InvalidCall(_))));
    assert_eq!(all_logits(&mut *running, &tokens, Calls::PromptAndAnswer), expected);
}

/// A write beyond a buffer, by one thread of a group, and a barrier removed.
#[test]
#[ignore = "`cargo xtask oclgrind` runs it, and Oclgrind must tell both"]
fn faults_for_oclgrind() {
    let Some(device) = opencl(OpenClOptions::default()) else { return };
    let model = Model::fixture("llama", "q4f16_1");
    for (kernel, from, to) in [
        ("void norm_", "GROUP_X * COLUMNS + AT(i)", "GROUP_X * COLUMNS + AT(i) + (THREAD == 0 ? 1 << 24 : 0)"),
        ("void rope_append_", "BARRIER();", ";"),
    ] {
        let library = changed(&model, |library| {
            let source = &mut library.kernels.as_mut().unwrap().source;
            let kernel = source.find(kernel).unwrap();
            let at = kernel + source[kernel..].find(from).unwrap();
            source.replace_range(at..at + from.len(), to);
        });
        let mut loaded = device.load(library, &model.folder).unwrap();
        loaded.forward(&[1, 2, 3], 0).unwrap();
        loaded.logits(0, &mut [0.0; 768]).unwrap();
    }
}

#[test]
fn failures_are_errors_and_leave_other_models_alone() {
    let Some(device) = opencl(OpenClOptions::default()) else { return };
    let model = Model::fixture("llama", "q4f16_1");
    fn source(library: &mut ModelLibrary) -> &mut String {
        &mut library.kernels.as_mut().unwrap().source
    }
    fn kernel(library: &mut ModelLibrary) -> &mut Kernel {
        &mut library.kernels.as_mut().unwrap().kernels[0]
    }
    refused(
        &device,
        vec![
            ("a library for the host", model.library(Target::Host, |_| {}), |error| {
                matches!(error, DeviceError::WrongTarget { found: Target::Host, .. })
            }),
            (
                "source that does not build",
                changed(&model, |library| source(library).push_str("\nthis is no kernel;\n")),
                |error| {
                    let log = |log: &str| log.contains("CL_BUILD_PROGRAM_FAILURE") && log.lines().count() > 1;
                    matches!(error, DeviceError::KernelBuild { log: text, .. } if log(text))
                },
            ),
            (
                "a kernel that is not there",
                changed(&model, |library| kernel(library).name = "absent".to_owned()),
                |error| error.to_string().contains("CL_INVALID_KERNEL_NAME"),
            ),
            (
                "a work group too wide",
                changed(&model, |library| kernel(library).threads = [1 << 20, 1, 1]),
                |error| matches!(error, DeviceError::Unavailable { reason, .. } if reason.contains("1048576 threads")),
            ),
            ("a plan beyond all memory", changed(&model, |library| library.memory.workspace = 1 << 50), |error| {
                matches!(error, DeviceError::OutOfMemory { what: "model", .. })
            }),
        ],
    );
}

#[test]
fn memory_that_runs_out_while_loading_is_given_back() {
    let model = Model::fixture("llama", "q4f16_1");
    let library = model.library(Target::OpenCl, |_| {});
    let plan = library.memory;
    // Room for one model, and for the second up to somewhere in its weights, or in its cache.
    for more in [plan.total() - plan.weights / 2, plan.workspace + plan.kv_cache / 2] {
        let options = OpenClOptions { memory: Some(plan.total() + more), ..OpenClOptions::default() };
        let Some(device) = opencl(options) else { return };
        refused(
            &device,
            vec![("a second model", library.clone(), |error| matches!(error, DeviceError::OutOfMemory { .. }))],
        );
        assert_eq!(device.allocated(), 0);
        drop(device.load(library.clone(), &model.folder).unwrap());
    }
}

#[test]
fn tensors_are_buffers_of_their_own_and_none_is_larger_than_the_device_s_largest() {
    // Without quantization: a weight is larger than the workspace.
    let model = Model::fixture("llama", "q0f16");
    let library = model.library(Target::OpenCl, |windows| (windows.context, windows.chunk) = (80, 8));
    let weights = library.parameters.iter().map(|parameter| parameter.bytes().unwrap());
    let caches = library.kv_cache.iter().map(|layer| layer.bytes() / 2);
    let largest = weights.chain(caches).chain([library.memory.workspace]).max().unwrap();
    assert!(largest < library.memory.weights / 2);
    let options = |largest| OpenClOptions { largest_buffer: Some(largest), ..OpenClOptions::default() };
    let Some(device) = opencl(options(largest)) else { return };
    let error = model.error_on(&device, &library, Calls::Chunks);
    assert!(error <= bound(&device), "{error}");
    // One byte less, and one tensor does not fit: said by its name.
    let device = opencl(options(largest - 1)).unwrap();
    let error = device.load(library, &model.folder).err().unwrap();
    assert!(matches!(error, DeviceError::BufferTooLarge { bytes, .. } if bytes == largest));
    let text = format!("is {largest} bytes, but the largest buffer of device opencl is {}", largest - 1);
    assert!(error.to_string().starts_with("the weight `") && error.to_string().ends_with(&text), "{error}");
    assert_eq!(device.allocated(), 0);
}

#[test]
fn a_machine_without_opencl_says_what_was_tried() {
    let options = OpenClOptions {
        libraries: Some(vec![PathBuf::from("/nonexistent/libOpenCL.so"), PathBuf::from("libc.so.6")]),
        ..OpenClOptions::default()
    };
    let error = OpenClDevice::open(options).unwrap_err().to_string();
    assert!(
        error.contains("/nonexistent/libOpenCL.so") && error.contains("libc.so.6: has no clGetPlatformIDs"),
        "{error}"
    );
    if let Some(device) = opencl(OpenClOptions::default()) {
        let name = Some("no such device".to_owned());
        let error = OpenClDevice::open(OpenClOptions { device: name, ..OpenClOptions::default() }).unwrap_err();
        assert!(error.to_string().contains(&device.info().name), "{error}");
        assert!(!OpenClDevice::list(&OpenClOptions::default()).unwrap().is_empty());
    }
}
