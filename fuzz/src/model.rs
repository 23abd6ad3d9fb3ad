//! Targets that lead to a model: what it is, how it is planned, and that it runs.

use crate::changes::changed;
use crate::seeds::{configs, headers, libraries};
use knapsack_artifact::library::{HEADER_BYTES, MAGIC, Target, VERSION};
use knapsack_artifact::{ModelLibrary, ModelTable, WeightIndex};
use knapsack_compiler::{CompileRequest, compile, plan};
use knapsack_device::{CpuDevice, Device, FileRange, Isa, Scattered};
use knapsack_models::ModelConfig;
use knapsack_tensor::QUANTIZATIONS;
use knapsack_weights::WeightsStart;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, OnceLock};

/// Layers of models that are compiled, not only planned: more of them are more of the same.
const COMPILED_LAYERS: usize = 64;
/// Bytes of models that are run.
const RUN_WEIGHTS: u64 = 4 << 20;
const RUN_MEMORY: u64 = 64 << 20;

/// `tensor-cache.json`: what was read is written so that it reads the same.
pub fn weight_index(data: &[u8]) {
    if let Ok(index) = WeightIndex::parse(data) {
        assert!(WeightIndex::parse(index.to_json().as_bytes()).expect("what was valid") == index);
        assert!(
            index.records().all(|(shard, record)| record.byte_offset + record.nbytes <= index.shards[shard].nbytes)
        );
        let _ = (index.total_bytes(), index.to_b16());
    }
}

/// The start of a safetensors file: eight bytes of the file's size, then its first bytes. The rest of the checkpoint is a fixture.
pub fn safetensors(data: &[u8]) {
    let Some((size, start)) = data.split_first_chunk::<8>() else { return };
    let folder = headers();
    let size = u64::from_le_bytes(*size);
    let start = WeightsStart { name: "model.safetensors", size, bytes: start };
    let _ = knapsack_weights::check_headers(folder, &[start], &QUANTIZATIONS[0]);
}

/// `config.json`, to the graph, the memory plan, libraries for every target, and three tokens of the model where it is small.
pub fn config(data: &[u8]) {
    let Some(value) = changed(configs(), data).or_else(|| serde_json::from_slice(data).ok()) else { return };
    for config in [ModelConfig::from_hf(&value), ModelConfig::from_mlc(&value)].into_iter().flatten() {
        let format = &QUANTIZATIONS[data.len() % QUANTIZATIONS.len()];
        let mut windows = config.own_windows();
        // The rest of what it may be is for overrides; large windows cost nothing but numbers.
        windows.chunk = windows.chunk.clamp(1, 16);
        windows.context = windows.context.clamp(16, 1 << 20);
        let Ok(graph) = config.graph(format, &windows) else { continue };
        knapsack_ir::verify(&graph).expect("what families write is valid");
        let Ok(planned) = plan(&graph, &windows) else { continue };
        if config.layers.len() > COMPILED_LAYERS {
            continue;
        }
        for target in [Target::Host, Target::OpenCl, Target::Metal] {
            let Ok(library) = compile(&CompileRequest { graph: &graph, windows, target, name: None }) else { continue };
            assert_eq!(library.memory, planned, "the plan holds");
            let again = ModelLibrary::decode(&library.encode()).expect("what was just made");
            assert!(again == library);
            if target == Target::Host {
                run(library, data.len());
            }
        }
    }
}

/// A model library or a table of them: as it is, as a payload whose header is right, or changed.
pub fn library(data: &[u8]) {
    if let Ok(table) = ModelTable::parse(data) {
        table.libraries().iter().for_each(|(name, _)| drop(table.find(name)));
    }
    let _ = ModelLibrary::decode(data);
    let changed = changed(libraries(), data).map(|value| value.to_string().into_bytes());
    let payload = changed.as_deref().unwrap_or(data);
    let mut blob = Vec::with_capacity(HEADER_BYTES + payload.len());
    blob.extend_from_slice(MAGIC);
    blob.extend_from_slice(&VERSION.to_le_bytes());
    blob.extend_from_slice(&0u32.to_le_bytes());
    blob.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    blob.extend_from_slice(&Sha256::digest(payload));
    blob.extend_from_slice(payload);
    if let Ok(library) = ModelLibrary::decode(&blob) {
        run(library, data.len());
    }
}

/// Executes what validated, on weights of its own, with one of the instruction sets.
fn run(library: ModelLibrary, which: usize) {
    static DEVICES: OnceLock<Vec<CpuDevice>> = OnceLock::new();
    let devices = DEVICES.get_or_init(|| {
        Isa::available().into_iter().map(|isa| CpuDevice::with(isa, 1).expect("it is there")).collect()
    });
    let vocab = library.model.vocab_size as usize;
    if library.memory.weights > RUN_WEIGHTS || library.memory.total() > RUN_MEMORY || vocab > 1 << 17 {
        return;
    }
    let Some(files) = weights(&library) else { return };
    let Ok(mut model) = devices[which % devices.len()].load_from(Arc::new(library), &files, &()) else { return };
    let mut logits = vec![0.0; vocab];
    let _ = model.forward(&[0, 1, 2], 0);
    let _ = model.logits(0, &mut logits);
    let _ = model.forward(&[1], 3);
    let _ = model.logits_of(0, &[0, vocab as u32 / 2, (vocab as u32).wrapping_sub(1)], &mut logits);
    let _ = model.wait();
}

/// A weight folder that has what the library names; `None` where no folder can.
fn weights(library: &ModelLibrary) -> Option<Scattered> {
    let mut records: Vec<Value> = Vec::new();
    let mut end = 0;
    for parameter in &library.parameters {
        let bytes = parameter.bytes()?;
        records.push(json!({
            "name": parameter.name, "shape": parameter.shape, "dtype": parameter.dtype.name(), "format": "raw",
            "nbytes": bytes, "byteOffset": end
        }));
        end += bytes;
        if end > RUN_WEIGHTS {
            return None;
        }
    }
    let shard = "params_shard_0.bin";
    let index = json!({"metadata": {}, "records": [
        {"dataPath": shard, "format": "raw-shard", "nbytes": end, "records": records}
    ]});
    let index = FileRange::of_bytes(index.to_string().into_bytes());
    let content = FileRange::new(content().try_clone().ok()?, 0, end).ok()?;
    let files = [("tensor-cache.json", index), (shard, content)].map(|(name, file)| (name.to_owned(), file.into()));
    Some(Scattered::new("weights", files.into()))
}

/// What any weights consist of, as devices want it: a file, which they map.
fn content() -> &'static File {
    static CONTENT: OnceLock<File> = OnceLock::new();
    CONTENT.get_or_init(|| {
        // Codes of every kind; as numbers of any float type below 2.
        let bytes = (0..RUN_WEIGHTS as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 & 0x3f);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&bytes.collect::<Vec<u8>>()).expect("room for it");
        file
    })
}
