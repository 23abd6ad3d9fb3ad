//! What a token runs, recorded by Qualcomm's extension. The driver is the machine's own OpenCL with the extension put before it
//! (`data/adreno.rs`), made here.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "the library that is made here is called directly")]

mod support;

use knapsack_artifact::library::Target;
use knapsack_device::Device;
use knapsack_device::opencl::{OpenClDevice, OpenClOptions};
use knapsack_testkit::GENERATED;
use libloading::Library;
use support::{Calls, Model, all_logits, made_driver};

/// What the driver does, as in `data/adreno.rs`.
const EXPORTS: u64 = 1;
const LISTS: u64 = 2;

#[test]
fn what_a_token_runs_is_recorded_on_queues_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = made_driver(folder.path(), "adreno") else { return };
    let Some(own) = support::opencl(OpenClOptions { recorded: Some(false), ..OpenClOptions::default() }) else {
        return;
    };
    // SAFETY: the library was made here and has no initializers of its own.
    let library = unsafe { Library::new(&path) }.unwrap();
    // SAFETY: the library declares the functions so.
    let (behave, started, alive) = unsafe {
        (
            library.get::<extern "C" fn(u64, i64)>(b"behave\0").unwrap(),
            library.get::<extern "C" fn() -> u64>(b"started\0").unwrap(),
            library.get::<extern "C" fn() -> u64>(b"alive\0").unwrap(),
        )
    };
    // A recurrent layer, too, whose state must be carried on once a token.
    let recurrent = GENERATED.iter().find(|model| model.name == "qwen3_5").expect("it is generated");
    for model in [Model::fixture("llama", "q4f16_1"), Model::generated(recurrent, "q4f16_1")] {
        let family = &model.name;
        let compiled = model.library(Target::OpenCl, |_| {});
        let tokens: Vec<u32> = (1..7).collect();
        let run = |device: &OpenClDevice| {
            let mut loaded = device.load(compiled.clone(), &model.folder).unwrap();
            let logits = all_logits(&mut *loaded, &tokens, Calls::Single);
            (logits, loaded.top(0, 1).unwrap())
        };
        let expected = run(&own);
        let open = |recorded| {
            let options = OpenClOptions { libraries: Some(vec![path.clone()]), recorded, ..OpenClOptions::default() };
            OpenClDevice::open(options).unwrap()
        };
        for behaviour in [0, EXPORTS, LISTS, EXPORTS | LISTS] {
            behave(behaviour, 0);
            let before = started();
            let device = open(None);
            assert!(device.info().records);
            assert!(run(&device) == expected, "{family}, {behaviour}");
            // More launches than a recording takes: several a token.
            assert!(started() - before > 2 * tokens.len() as u64, "{family}, {behaviour}: {}", started() - before);
            assert_eq!(alive(), 0, "{family}, {behaviour}: all is released");
        }
        // A launch that cannot be recorded: it goes without, and nothing is left.
        for failing in [1, 7, 8, 20] {
            behave(0, failing);
            let before = started();
            assert!(run(&open(None)) == expected, "{family}: without launch {failing}");
            assert_eq!(alive(), 0, "{family}: without launch {failing}");
            assert!(started() - before < 2 * tokens.len() as u64, "{family}: decoding is not recorded");
        }
        behave(0, 0);
        let before = started();
        assert!(run(&open(Some(false))) == expected, "{family}");
        assert_eq!(started(), before, "{family}: it was not to be recorded");
    }
}
