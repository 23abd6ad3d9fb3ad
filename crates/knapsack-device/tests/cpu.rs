//! What only the CPU device promises: results that do not depend on the number of threads, and no harm from any library that
//! validates.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::{CpuDevice, Device, Isa, ReferenceDevice};
use knapsack_ir::Windows;
use knapsack_models::ModelConfig;
use knapsack_tensor::{QUANTIZATIONS, Quantization};
use knapsack_testkit::{GENERATED, fixture, mlc_fixture};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn library(folder: &Path) -> ModelLibrary {
    compiled(folder, Windows { context: 64, sliding: None, sinks: 0, chunk: 32 })
}

fn compiled(folder: &Path, windows: Windows) -> ModelLibrary {
    let chat = std::fs::read_to_string(folder.join("mlc-chat-config.json")).unwrap();
    let chat: Value = serde_json::from_str(&chat).unwrap();
    let config = ModelConfig::from_mlc(&chat).unwrap();
    let graph = config.graph(&chat["quantization"].as_str().unwrap().parse().unwrap(), &windows).unwrap();
    compile(&CompileRequest { graph: &graph, windows, target: Target::Host, name: None }).unwrap()
}

fn logits(device: &dyn Device, library: &Arc<ModelLibrary>, folder: &Path) -> Vec<f32> {
    let mut model = device.load(library.clone(), folder).unwrap();
    let mut all = vec![0.0; 3 * library.model.vocab_size as usize];
    let mut parts = all.chunks_exact_mut(library.model.vocab_size as usize);
    let prompt: Vec<u32> = (0..32).map(|i| i * 19 % 700).collect();
    model.forward(&prompt, 0).unwrap();
    model.logits(31, parts.next().unwrap()).unwrap();
    model.logits(7, parts.next().unwrap()).unwrap();
    model.forward(&[5], 32).unwrap();
    model.logits(0, parts.next().unwrap()).unwrap();
    all
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for quantization in ["q4f16_1", "q4f16_0", "q3f16_1", "q0f16"] {
        let folder = mlc_fixture("llama", quantization);
        let library = Arc::new(library(&folder));
        for isa in Isa::available() {
            let [one, two, five] =
                [1, 2, 5].map(|threads| logits(&CpuDevice::with(isa, threads).unwrap(), &library, &folder));
            assert!(one == two && one == five, "{isa}, {quantization}");
        }
    }
}

/// Every format; with `KNAPSACK_FORMATS=q4,q0f16` those whose names begin so.
fn formats() -> impl Iterator<Item = Quantization> {
    let only = std::env::var("KNAPSACK_FORMATS").ok();
    let is_wanted = move |format: &Quantization| {
        let name = format.to_string();
        only.as_ref().is_none_or(|only| only.split(',').any(|start| name.starts_with(start)))
    };
    QUANTIZATIONS.into_iter().filter(is_wanted)
}

/// Every format, and what makes attention look at positions in other ways.
fn cut_models() -> Vec<(&'static str, Quantization, Windows)> {
    let whole = Windows { context: 128, sliding: None, sinks: 0, chunk: 32 };
    let mut models: Vec<_> = formats().map(|format| ("llama", format, whole)).collect();
    let four = |family, windows| (family, "q4f16_1".parse().unwrap(), windows);
    models.push(four("gemma2", whole));
    models.extend([0, 3].map(|sinks| four("mistral", Windows { sliding: Some(40), sinks, ..whole })));
    models
}

/// Logits of every position, the tokens cut into calls of these sizes, over and over.
fn logits_of_cuts(device: &CpuDevice, library: &Arc<ModelLibrary>, folder: &Path, sizes: &[usize]) -> Vec<Vec<f32>> {
    let tokens: Vec<u32> = (0..75).map(|i| i * 29 % 300).collect();
    let mut model = device.load(library.clone(), folder).unwrap();
    let (mut all, mut at, mut sizes) = (Vec::new(), 0, sizes.iter().cycle());
    while at < tokens.len() {
        let n = (*sizes.next().unwrap()).min(tokens.len() - at);
        model.forward(&tokens[at..at + n], at as u32).unwrap();
        for row in 0..n as u32 {
            let mut logits = vec![0.0f32; library.model.vocab_size as usize];
            model.logits(row, &mut logits).unwrap();
            all.push(logits);
        }
        at += n;
    }
    all
}

/// A checkpoint, converted.
fn converted(checkpoint: &Path, quantization: Quantization) -> tempfile::TempDir {
    let parent = tempfile::tempdir().unwrap();
    let request = knapsack_weights::ConvertRequest {
        checkpoint,
        output: &parent.path().join("out"),
        quantization,
        chat_template: &knapsack_weights::TemplateChoice::Model,
        jobs: None,
    };
    knapsack_weights::convert(&request, &AtomicBool::new(false), &|_| {}).unwrap();
    parent
}

/// Heads of every format that are the embedding and that are not, and what follows the product: a soft cap, a scale.
fn heads() -> Vec<(String, PathBuf, Quantization)> {
    let four: Quantization = "q4f16_1".parse().unwrap();
    let mut heads = vec![("gemma2".to_owned(), fixture("gemma2"), four)];
    heads.extend(GENERATED.iter().filter(|m| m.name == "granite").map(|m| (m.name.to_owned(), m.checkpoint(), four)));
    for family in ["llama", "mistral"] {
        heads.extend(formats().map(|format| (family.to_owned(), fixture(family), format)));
    }
    heads
}

/// Logits of a few tokens have the bits that they have among all.
#[test]
fn a_few_logits_are_those_of_all() {
    for (name, checkpoint, quantization) in heads() {
        let parent = converted(&checkpoint, quantization);
        let folder = parent.path().join("out");
        let library = Arc::new(library(&folder));
        let vocab = library.model.vocab_size;
        for isa in Isa::available() {
            let mut model = CpuDevice::with(isa, 2).unwrap().load(library.clone(), &folder).unwrap();
            model.forward(&[3, 1, 4, 1, 5], 0).unwrap();
            let mut all = vec![0.0f32; vocab as usize];
            model.logits(4, &mut all).unwrap();
            let few = model.few_logits() as u32;
            assert!(few > 8, "{few}");
            let scattered = (0..few).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
            let sets: [Vec<u32>; 6] =
                [vec![], vec![0], vec![vocab - 1], (7..7 + few).collect(), scattered, (0..few + 1).rev().collect()];
            for tokens in sets {
                let mut found = vec![7.0f32; vocab as usize];
                model.logits_of(4, &tokens, &mut found).unwrap();
                for (token, (all, found)) in all.iter().zip(&found).enumerate() {
                    let expected = if tokens.contains(&(token as u32)) { *all } else { f32::NEG_INFINITY };
                    assert_eq!(
                        found.to_bits(),
                        expected.to_bits(),
                        "{name} {quantization}, {isa}: {token} of {tokens:?}"
                    );
                }
            }
            assert!(model.logits_of(4, &[vocab], &mut all).is_err() && model.logits_of(5, &[0], &mut all).is_err());
        }
    }
}

/// A prompt gives the same bits however it is cut, and so whatever part of it was in the cache already.
#[test]
fn results_do_not_depend_on_how_a_prompt_is_cut() {
    for (family, quantization, windows) in cut_models() {
        let parent = converted(&fixture(family), quantization);
        let folder = parent.path().join("out");
        let library = Arc::new(compiled(&folder, windows));
        for isa in Isa::available() {
            let device = CpuDevice::with(isa, 2).unwrap();
            let single = logits_of_cuts(&device, &library, &folder, &[1]);
            for sizes in [&[32][..], &[2], &[3, 1], &[4, 8, 9], &[5, 17, 32, 1, 7, 13]] {
                let cut = logits_of_cuts(&device, &library, &folder, sizes);
                let differs = single.iter().zip(&cut).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{family} {quantization} {windows:?}, {isa}, calls of {sizes:?}");
            }
        }
    }
}

#[test]
fn a_device_serves_several_models_at_once() {
    let folder = mlc_fixture("llama", "q4f16_1");
    let library = Arc::new(library(&folder));
    let device = CpuDevice::with(Isa::best(), 2).unwrap();
    let expected = logits(&device, &library, &folder);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(|| logits(&device, &library, &folder))).collect();
        assert!(workers.into_iter().all(|worker| worker.join().unwrap() == expected));
    });
}

#[test]
fn unknown_instruction_sets_are_refused() {
    let foreign = if cfg!(target_arch = "x86_64") { Isa::Neon } else { Isa::Avx2 };
    assert!(CpuDevice::with(foreign, 1).is_err());
    assert_eq!(CpuDevice::with(Isa::best(), 0).unwrap().threads(), 1);
}

/// A library that was never validated is validated before it is loaded.
#[test]
fn contradictory_libraries_are_refused() {
    let folder = mlc_fixture("llama", "q4f16_1");
    let mut library = library(&folder);
    library.memory.workspace = 4096;
    let library = Arc::new(library);
    assert!(CpuDevice::new().load(library.clone(), &folder).is_err());
    assert!(ReferenceDevice.load(library, &folder).is_err());
}

/// The pointers of all numbers below a value.
fn numbers(value: &Value, at: &str, list: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| numbers(value, &format!("{at}/{key}"), list)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| numbers(value, &format!("{at}/{i}"), list));
        }
        Value::Number(_) => list.push(at.to_owned()),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Whatever stands in a library: loading refuses it, or running it does no harm.
    #[test]
    fn changed_libraries_do_no_harm(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            Just(0u64), Just(1), Just(2), Just(u64::from(u32::MAX)), 0..200u64, (0..200u64).prop_map(|n| n * 256)
        ]), 1..3),
        isa in any::<prop::sample::Index>(),
    ) {
        let folder = mlc_fixture("llama", "q4f16_1");
        let mut json = serde_json::to_value(library(&folder)).unwrap();
        let mut pointers = Vec::new();
        numbers(&json, "", &mut pointers);
        for (index, value) in edits {
            *json.pointer_mut(index.get::<String>(&pointers)).unwrap() = json!(value);
        }
        let Ok(library) = serde_json::from_value::<ModelLibrary>(json) else { return Ok(()) };
        let sets = Isa::available();
        let device = CpuDevice::with(sets[isa.index(sets.len())], 2).unwrap();
        let vocab = library.model.vocab_size as usize;
        if let Ok(mut model) = device.load(Arc::new(library), &folder) {
            let _ = model.forward(&[1, 2, 3], 0);
            let _ = model.forward(&[4], 3);
            let _ = model.logits(0, &mut vec![0.0; vocab]);
            let _ = model.logits_of(0, &[0, vocab as u32 / 2, vocab as u32 - 1], &mut vec![0.0; vocab]);
        }
    }
}
