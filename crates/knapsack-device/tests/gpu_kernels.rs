//! The kernels of both languages, run on the CPU from their emitted source.
#![allow(unsafe_code, reason = "loading what clang made of the kernels")]

mod standin;
mod support;

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{Target, Tiles};
use knapsack_device::Device;
use knapsack_device::DeviceError;
use standin::{Order, Standin, Variant};
use support::{Calls, Model, error, error_to_reference_device, tokens, try_all_logits};

const METAL: Variant = Variant {
    target: Target::Metal,
    fp16: true,
    subgroups: true,
    subgroup_size: 32,
    tiles: Tiles::Matrices,
    images: false,
    order: Order::Forward,
};
const METAL_PLAIN: Variant =
    Variant { fp16: false, subgroups: false, tiles: Tiles::Local, order: Order::Reverse, ..METAL };
/// As an Adreno runs kernels, and as a Mali does.
const OPENCL: Variant = Variant {
    target: Target::OpenCl,
    subgroup_size: 16,
    tiles: Tiles::Local,
    images: true,
    order: Order::Shuffled,
    ..METAL
};
const OPENCL_REGISTERS: Variant = Variant { tiles: Tiles::Registers, images: false, ..OPENCL };

fn bound(variant: &Variant) -> f64 {
    if variant.fp16 { 0.02 } else { 0.005 }
}

#[test]
fn chunks_of_all_sizes_in_every_order() {
    for variant in [METAL, METAL_PLAIN, OPENCL, OPENCL_REGISTERS] {
        for order in [Order::Forward, Order::Reverse, Order::Shuffled] {
            let variant = Variant { order, ..variant };
            let Some(device) = Standin::new(variant) else { return };
            for (family, quantization) in [("llama", "q4f16_0"), ("llama", "q3f16_1"), ("gemma2", "q4f16_1")] {
                let model = Model::fixture(family, quantization);
                let library = model.library(variant.target, |windows| windows.chunk = 31);
                let error = model.error_on(&device, &library, Calls::Rising);
                assert!(error <= bound(&variant), "{variant:?} {family} {quantization}: {error}");
            }
        }
    }
}

#[test]
fn windows_with_sinks_go_round_as_on_the_reference_device() {
    let Some(device) = Standin::new(METAL_PLAIN) else { return };
    let model = Model::fixture("mistral", "q4f16_1");
    let tokens: Vec<u32> = (0..150).map(|i| i * 37 % 700).collect();
    let of = |target| {
        model.library(target, |windows| {
            (windows.sliding, windows.sinks, windows.chunk) = (Some(24), 4, 20);
        })
    };
    let libraries = [of(Target::Metal), of(Target::Host)];
    for calls in [Calls::Chunks, Calls::Single] {
        let error = error_to_reference_device(&device, libraries.each_ref(), &model.folder, &tokens, calls);
        assert!(error <= bound(&METAL_PLAIN), "{calls:?}: {error}");
    }
}

/// What the kernels of a library compute with threads in one order: the error, in chunks or one token at a time.
fn outcome(compiled: &ModelLibrary, order: Order, calls: Calls) -> Result<f64, DeviceError> {
    outcome_of(compiled, Variant { order, ..METAL_PLAIN }, calls)
}

fn outcome_of(compiled: &ModelLibrary, variant: Variant, calls: Calls) -> Result<f64, DeviceError> {
    let device = Standin::new(variant).expect("checked by the caller");
    let model = Model::fixture("llama", "q4f16_1");
    let sequence = model.sequences.iter().max_by_key(|sequence| sequence.tokens.len()).unwrap();
    let tokens = tokens(sequence);
    let mut loaded = device.load(compiled.clone().into(), &model.folder)?;
    loaded.forward(&tokens[..1], 0)?;
    Ok(error(&try_all_logits(&mut *loaded, &tokens, calls)?, &sequence.logits))
}

/// The library with one piece of a kernel's source changed: the `skip`-th occurrence of `from` after `start`.
fn planted(start: &str, skip: usize, from: &str, to: &str) -> ModelLibrary {
    planted_for(Target::Metal, start, skip, from, to)
}

fn planted_for(target: Target, start: &str, skip: usize, from: &str, to: &str) -> ModelLibrary {
    let mut library = (*Model::fixture("llama", "q4f16_1").library(target, |_| {})).clone();
    let source = &mut library.kernels.as_mut().unwrap().source;
    let kernel = source.find(start).unwrap_or_else(|| panic!("{start} is in the source"));
    let at = source[kernel..].match_indices(from).nth(skip).unwrap_or_else(|| panic!("{from} is in {start}")).0;
    source.replace_range(kernel + at..kernel + at + from.len(), to);
    library
}

#[test]
fn a_removed_barrier_is_caught() {
    if Standin::new(METAL_PLAIN).is_none() {
        return;
    }
    let orders = [Order::Forward, Order::Reverse, Order::Shuffled];
    for (start, skip, calls) in [
        ("float group_sum(", 1, Calls::Single),
        ("float group_sum(", 2, Calls::Single),
        ("kernel void gemm_", 0, Calls::Chunks),
        ("kernel void gemm_", 1, Calls::Chunks),
        ("kernel void rope_append_", 0, Calls::Single),
        ("kernel void matvec_rows_", 0, Calls::Single),
        ("kernel void matvec_rows_", 2, Calls::Single),
        ("kernel void attention_decode_", 0, Calls::Single),
        ("kernel void attention_decode_", 1, Calls::Single),
        ("kernel void attention_prefill_", 0, Calls::Chunks),
        ("kernel void attention_prefill_", 2, Calls::Chunks),
        ("kernel void attention_prefill_", 4, Calls::Chunks),
    ] {
        let library = planted(start, skip, "BARRIER();", ";");
        let caught = orders.iter().any(|&order| !outcome(&library, order, calls).is_ok_and(|error| error <= 0.005));
        assert!(caught, "barrier {skip} of `{start}` removed, and nothing happened");
    }
}

#[test]
fn barriers_that_not_all_threads_reach_are_caught() {
    if Standin::new(METAL_PLAIN).is_none() {
        return;
    }
    let library = planted("kernel void gemm_", 0, "BARRIER();", "if (THREAD != 5) BARRIER();");
    let failure = outcome(&library, Order::Forward, Calls::Chunks).unwrap_err().to_string();
    assert!(failure.contains("gemm_") && failure.contains("wait at line"), "{failure}");
    let library =
        planted("kernel void norm_", 0, "NORMALIZE(v, EPSILON)", "if (THREAD == 0) return;\n    NORMALIZE(v, EPSILON)");
    let failure = outcome(&library, Order::Forward, Calls::Single).unwrap_err().to_string();
    assert!(failure.contains("the end"), "{failure}");
}

#[test]
fn faults_of_each_way_of_tiling_are_caught() {
    if Standin::new(METAL).is_none() {
        return;
    }
    let orders = [Order::Forward, Order::Reverse, Order::Shuffled];
    // The one barrier of a step, between filling a tile and multiplying it, and those around the outputs; none of them is missed where
    // two tiles take turns.
    for (variant, start) in [(METAL, "kernel void gemm_"), (OPENCL, "void gemm_")] {
        for skip in [0, 2, 3] {
            let library = planted_for(variant.target, start, skip, "BARRIER();", ";");
            let run = |order| outcome_of(&library, Variant { order, ..variant }, Calls::Chunks);
            let caught = orders.iter().any(|&order| !run(order).is_ok_and(|error| error <= 0.02));
            assert!(caught, "{variant:?}: barrier {skip} removed, and nothing happened");
        }
    }
    let alone = "if (first_token + own_tokens < n && THREAD != 5) {";
    let library = planted("kernel void gemm_", 0, "if (first_token + own_tokens < n) {", alone);
    let failure = outcome_of(&library, METAL, Calls::Chunks).unwrap_err().to_string();
    assert!(failure.contains("gemm_") && failure.contains("wait at line"), "{failure}");
    let library = planted_for(Target::OpenCl, "void gemm_", 0, "WORDS_AT(at)", "WORDS_AT(at + 100000)");
    let failure = outcome_of(&library, OPENCL, Calls::Chunks).unwrap_err().to_string();
    assert!(failure.contains("beyond an image"), "{failure}");
    // What no tile is between reads other rows' codes.
    let library =
        planted_for(Target::OpenCl, "void gemm_", 0, "words[i] = WORDS4(step, word,", "words[i] = WORDS4(step, 0,");
    assert!(!outcome_of(&library, OPENCL_REGISTERS, Calls::Chunks).is_ok_and(|error| error <= 0.02));
}

#[test]
fn pointers_of_the_wrong_space_do_not_compile() {
    let Some(metal) = Standin::new(METAL_PLAIN) else { return };
    let library = planted("kernel void gemm_", 0, "LOCAL real* x_fill", "GLOBAL real* x_fill");
    let folder = knapsack_testkit::mlc_fixture("llama", "q4f16_1");
    let built = metal.load(library.into(), &folder);
    assert!(
        matches!(&built, Err(DeviceError::KernelBuild { log, .. }) if log.contains("address")),
        "{:?}",
        built.err()
    );
}

#[test]
fn writes_beyond_a_buffer_and_unwritten_local_memory_are_caught() {
    if Standin::new(METAL_PLAIN).is_none() {
        return;
    }
    let library = planted("kernel void norm_", 0, "GROUP_X * COLUMNS + AT(i)", "GROUP_X * COLUMNS + AT(i) + 4");
    let failure = outcome(&library, Order::Forward, Calls::Single).unwrap_err().to_string();
    assert!(failure.contains("wrote beyond argument 2"), "{failure}");
    let library = planted("kernel void rope_append_", 0, "head[i] = PROJECTED", "if (i > 0) head[i] = PROJECTED");
    assert!(outcome(&library, Order::Forward, Calls::Single).unwrap().is_nan());
}
