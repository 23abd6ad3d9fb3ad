//! The OpenCL device on whatever OpenCL the machine has (PoCL on a CPU is enough). Without one these tests say so and pass,
//! unless `KNAPSACK_REQUIRE_OPENCL=1`.

mod support;

use knapsack_artifact::library::Target;
use knapsack_device::opencl::{OpenClDevice, OpenClOptions};
use knapsack_device::{Device, DeviceError};
use std::path::PathBuf;
use support::{Calls, error_to_reference_device, fixture_error, library};

/// The device, with a cache of programs that outlives the test run: PoCL takes seconds for a model's kernels.
fn device(mut options: OpenClOptions) -> Option<OpenClDevice> {
    options.cache.get_or_insert_with(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("opencl-programs"));
    match OpenClDevice::open(options) {
        Ok(device) => {
            let info = device.info();
            eprintln!("on {} (fp16 {}, subgroups {})", device.description(), info.fp16, info.subgroups);
            Some(device)
        }
        Err(error) if std::env::var_os("KNAPSACK_REQUIRE_OPENCL").is_some_and(|value| value == "1") => {
            panic!("KNAPSACK_REQUIRE_OPENCL=1, but {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED: no OpenCL: {error}");
            None
        }
    }
}

/// 2 % where products are in half precision, 0.5 % otherwise.
fn bound(device: &OpenClDevice) -> f64 {
    if device.info().fp16 { 0.02 } else { 0.005 }
}

#[test]
fn every_fixture_gives_the_reference_s_logits() {
    let Some(device) = device(OpenClOptions::default()) else { return };
    for model in knapsack_testkit::fixtures() {
        for quantization in model.quantizations {
            let library = library(model.family, quantization, Target::OpenCl, |_| {});
            let error = fixture_error(&device, &library, model.family, quantization, Calls::Chunks);
            eprintln!("{} {quantization}: {:.4} %", model.family, 100.0 * error);
            assert!(error <= bound(&device), "{} {quantization}: {error}", model.family);
        }
    }
}

#[test]
fn chunking_changes_nothing_beyond_rounding() {
    let Some(device) = device(OpenClOptions::default()) else { return };
    for (family, quantization) in
        [("llama", "q4f16_0"), ("llama", "q3f16_1"), ("gemma2", "q4f16_1"), ("mistral", "q4f16_1")]
    {
        for (chunk, calls) in [(31, Calls::Rising), (16, Calls::Single)] {
            let library = library(family, quantization, Target::OpenCl, |windows| windows.chunk = chunk);
            let error = fixture_error(&device, &library, family, quantization, calls);
            assert!(error <= bound(&device), "{family} {quantization} chunk {chunk} {calls:?}: {error}");
        }
    }
}

#[test]
fn windows_with_sinks_go_round_as_on_the_reference_device() {
    let Some(device) = device(OpenClOptions::default()) else { return };
    let folder = knapsack_testkit::mlc_fixture("mistral", "q4f16_1");
    let tokens: Vec<u32> = (0..150).map(|i| i * 37 % 700).collect();
    for (sliding, sinks, chunk) in [(24, 4, 20), (8, 3, 8)] {
        let change = |windows: &mut knapsack_ir::Windows| {
            (windows.sliding, windows.sinks, windows.chunk) = (Some(sliding), sinks, chunk);
        };
        let of = |target| library("mistral", "q4f16_1", target, change);
        let libraries = [of(Target::OpenCl), of(Target::Host)];
        for calls in [Calls::Chunks, Calls::Rising] {
            let error = error_to_reference_device(&device, libraries.each_ref(), &folder, &tokens, calls);
            assert!(error <= bound(&device), "window {sliding} sinks {sinks} chunk {chunk} {calls:?}: {error}");
        }
    }
}

#[test]
fn compiled_programs_are_kept_and_damage_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let options = OpenClOptions { cache: Some(folder.path().join("programs")), ..OpenClOptions::default() };
    let Some(device) = device(options) else { return };
    let library = library("llama", "q4f16_1", Target::OpenCl, |_| {});
    let weights = knapsack_testkit::mlc_fixture("llama", "q4f16_1");
    let files = || -> Vec<PathBuf> {
        std::fs::read_dir(folder.path().join("programs")).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    device.load(library.clone(), &weights).unwrap();
    let kept = files();
    assert_eq!(kept.len(), 1);
    let written = std::fs::metadata(&kept[0]).unwrap().modified().unwrap();
    device.load(library.clone(), &weights).unwrap();
    assert_eq!((files(), std::fs::metadata(&kept[0]).unwrap().modified().unwrap()), (kept.clone(), written));
    std::fs::write(&kept[0], b"not a program").unwrap();
    let error = fixture_error(&device, &library, "llama", "q4f16_1", Calls::Chunks);
    assert!(error <= bound(&device), "{error}");
    assert!(std::fs::metadata(&kept[0]).unwrap().len() > 1000, "the damaged file is replaced");
}

#[test]
fn failures_are_errors_and_leave_other_models_alone() {
    let Some(device) = device(OpenClOptions::default()) else { return };
    let weights = knapsack_testkit::mlc_fixture("llama", "q4f16_1");
    let good = library("llama", "q4f16_1", Target::OpenCl, |_| {});
    let mut running = device.load(good.clone(), &weights).unwrap();
    running.forward(&[1, 2, 3], 0).unwrap();

    let host = library("llama", "q4f16_1", Target::Host, |_| {});
    assert!(matches!(device.load(host, &weights), Err(DeviceError::WrongTarget { found: Target::Host, .. })));

    let mut broken = (*good).clone();
    broken.kernels.as_mut().unwrap().source.push_str("\nthis is no kernel;\n");
    match device.load(broken.into(), &weights).err().unwrap() {
        DeviceError::KernelBuild { log, .. } => {
            assert!(log.contains("CL_BUILD_PROGRAM_FAILURE") && log.lines().count() > 1, "{log}")
        }
        error => panic!("{error}"),
    }

    let mut nameless = (*good).clone();
    nameless.kernels.as_mut().unwrap().kernels[0].name = "absent".to_owned();
    let error = device.load(nameless.into(), &weights).err().unwrap();
    assert!(error.to_string().contains("CL_INVALID_KERNEL_NAME"), "{error}");

    let mut wide = (*good).clone();
    wide.kernels.as_mut().unwrap().kernels[0].threads = [1 << 20, 1, 1];
    assert!(matches!(
        device.load(wide.into(), &weights),
        Err(DeviceError::Unavailable { .. } | DeviceError::Driver { .. })
    ));

    let mut huge = (*good).clone();
    huge.memory.workspace = 1 << 50;
    assert!(matches!(device.load(huge.into(), &weights), Err(DeviceError::OutOfMemory { .. })));

    assert!(matches!(running.forward(&[], 3), Err(DeviceError::InvalidCall(_))));
    assert!(matches!(running.logits(3, &mut [0.0; 4]), Err(DeviceError::InvalidCall(_))));
    let mut logits = vec![0.0; good.model.vocab_size as usize];
    running.logits(2, &mut logits).unwrap();
    assert!(logits.iter().any(|&x| x != 0.0));
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
    if let Some(device) = device(OpenClOptions::default()) {
        let name = Some("no such device".to_owned());
        let error = OpenClDevice::open(OpenClOptions { device: name, ..OpenClOptions::default() }).unwrap_err();
        assert!(error.to_string().contains(&device.info().name), "{error}");
        assert!(!OpenClDevice::list(&OpenClOptions::default()).unwrap().is_empty());
    }
}
