//! OpenCL through a library that exports none of its functions, as on Google's phones. The library is made here, from
//! `data/pixel.rs`; where the machine has an OpenCL, a whole model runs through it.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "the library that is made here is called directly")]

mod support;

use knapsack_artifact::library::Target;
use knapsack_device::DeviceError;
use knapsack_device::opencl::{OpenClDevice, OpenClOptions};
use libloading::Library;
use support::{Calls, Model, all_logits, made_driver, try_all_logits};

#[test]
fn functions_are_asked_for_where_none_is_exported() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = made_driver(folder.path(), "pixel") else { return };
    // SAFETY: the library was made here and has no initializers of its own.
    let library = unsafe { Library::new(&path) }.unwrap();
    // SAFETY: the name is only looked for.
    assert!(unsafe { library.get::<*const ()>(b"clGetPlatformIDs\0") }.is_err(), "it exports no function of OpenCL");
    let options = OpenClOptions { libraries: Some(vec![path.clone()]), ..OpenClOptions::default() };
    let found = OpenClDevice::list(&options).unwrap();
    let Ok(direct) = OpenClDevice::list(&OpenClOptions::default()) else {
        assert!(found.is_empty());
        let error = OpenClDevice::open(options).unwrap_err();
        assert!(error.to_string().contains("libOpenCL-pixel.so has no usable device"), "{error}");
        return;
    };
    assert_eq!(found, direct);
    let (Ok(pixel), Some(own)) = (OpenClDevice::open(options), support::opencl(OpenClOptions::default())) else {
        return;
    };
    let model = Model::fixture("llama", "q4f16_1");
    let compiled = model.library(Target::OpenCl, |windows| windows.chunk = 8);
    let load = |device: &OpenClDevice| knapsack_device::Device::load(device, compiled.clone(), &model.folder).unwrap();
    let tokens: Vec<u32> = (1..20).collect();
    let mut running = load(&pixel);
    let expected = all_logits(&mut *load(&own), &tokens, Calls::Chunks);
    assert_eq!(all_logits(&mut *running, &tokens, Calls::Chunks), expected);
    // SAFETY: the library declares the function so.
    let fail = unsafe { library.get::<extern "C" fn(i64)>(b"failEvent\0") }.unwrap();
    // A submission that is accepted and then fails is told, whichever it is, and nothing of it is used afterwards.
    for n in 1.. {
        fail(n);
        let outcome = try_all_logits(&mut *running, &tokens, Calls::Chunks);
        fail(0);
        match outcome {
            Ok(_) => {
                assert!(n > 20, "every submission was one: {n}");
                break;
            }
            Err(error) => assert!(error.to_string().ends_with("CL_OUT_OF_RESOURCES"), "{n}: {error}"),
        }
        let error = running.logits(0, &mut vec![0.0; expected.len() / tokens.len()]).unwrap_err();
        assert!(matches!(error, DeviceError::InvalidCall(_)), "{n}: {error}");
        assert_eq!(all_logits(&mut *running, &tokens, Calls::Chunks), expected, "after {n}");
    }
}
