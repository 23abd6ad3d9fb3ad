//! Whole models on a device, held against the reference's logits: the conversions by the reference tool, and the checkpoints
//! that were generated for the families, rope scalings and variants without one, converted here.
#![allow(dead_code, reason = "each test binary uses a part")]

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::opencl::{OpenClDevice, OpenClOptions};
use knapsack_device::{Device, DeviceError, LoadedModel};
use knapsack_ir::Windows;
use knapsack_models::ModelConfig;
use knapsack_tensor::Quantization;
use knapsack_testkit::{GENERATED, GeneratedModel, ReferenceSequence, fixtures, mlc_fixture, reference_logits};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A model with its weights and the logits that it must give.
pub(crate) struct Model {
    /// What it is, for people.
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) config: ModelConfig,
    pub(crate) quantization: Quantization,
    /// What it is compiled for unless a test changes it.
    pub(crate) windows: Windows,
    pub(crate) sequences: Vec<ReferenceSequence>,
    /// Keeps a conversion.
    _converted: Option<tempfile::TempDir>,
}

impl Model {
    /// `KNAPSACK_TOKENS=40` leaves the first so many of each sequence.
    fn open(name: String, folder: PathBuf, context: Option<u32>, mut sequences: Vec<ReferenceSequence>) -> Self {
        if let Ok(most) = std::env::var("KNAPSACK_TOKENS") {
            let most: usize = most.parse().expect("a number of tokens");
            for sequence in &mut sequences {
                sequence.tokens.truncate(most);
                sequence.logits.truncate(most * sequence.vocab);
            }
        }
        let text = std::fs::read_to_string(folder.join("mlc-chat-config.json")).unwrap();
        let chat: serde_json::Value = serde_json::from_str(&text).unwrap();
        let config = ModelConfig::from_mlc(&chat).unwrap();
        let quantization = chat["quantization"].as_str().unwrap().parse().unwrap();
        // The reference has no attention sinks.
        let mut windows = Windows { sinks: 0, ..config.own_windows() };
        if let Some(context) = context {
            windows.context = context;
        } else if windows.sliding.is_none() {
            // MLC writes gemma2's window as its context; the reference's sequences are longer.
            windows.context = windows.context.max(128);
        }
        windows.chunk = windows.chunk.min(windows.context);
        Model { name, folder, config, quantization, windows, sequences, _converted: None }
    }

    /// A conversion by the reference tool.
    pub(crate) fn fixture(family: &str, quantization: &str) -> Self {
        let sequences = reference_logits(family, Some(quantization));
        Self::open(format!("{family} {quantization}"), mlc_fixture(family, quantization), None, sequences)
    }

    /// A generated checkpoint, converted.
    pub(crate) fn generated(model: &GeneratedModel, quantization: &str) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let (checkpoint, output) = (model.checkpoint(), parent.path().join("out"));
        let request = knapsack_weights::ConvertRequest {
            checkpoint: &checkpoint,
            output: &output,
            quantization: quantization.parse().unwrap(),
            chat_template: &knapsack_weights::TemplateChoice::Model,
            jobs: None,
        };
        knapsack_weights::convert(&request, &AtomicBool::new(false), &|_| {}).unwrap();
        let name = format!("{} {quantization}", model.name);
        let new = Self::open(name, output, model.context, model.reference_logits(quantization));
        Model { _converted: Some(parent), ..new }
    }

    /// The model, compiled.
    pub(crate) fn library(&self, target: Target, change: impl FnOnce(&mut Windows)) -> Arc<ModelLibrary> {
        let mut windows = self.windows;
        change(&mut windows);
        let graph = self.config.graph(&self.quantization, &windows).unwrap();
        Arc::new(compile(&CompileRequest { graph: &graph, windows, target, name: None }).unwrap())
    }

    /// Runs every reference sequence and returns the worst error.
    pub(crate) fn error_on(&self, device: &dyn Device, library: &Arc<ModelLibrary>, calls: Calls) -> f64 {
        let mut model =
            device.load(library.clone(), &self.folder).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let mut worst = 0.0f64;
        for sequence in &self.sequences {
            worst = worst.max(error(&all_logits(&mut *model, &tokens(sequence), calls), &sequence.logits));
        }
        worst
    }
}

/// Every model: all families, all quantizations that there are logits for. `KNAPSACK_MODELS=lfm,qwen3` leaves those whose names
/// begin with one of these, and `KNAPSACK_FORMATS=q4,q0f16` those formats.
pub(crate) fn every_model(mut check: impl FnMut(&Model)) {
    let is_model = |name: &str| is_wanted("KNAPSACK_MODELS", name);
    let is_format = |quantization: &&&str| is_wanted("KNAPSACK_FORMATS", quantization);
    for model in fixtures().iter().filter(|model| is_model(model.family)) {
        let formats = model.quantizations.iter().filter(is_format);
        formats.for_each(|quantization| check(&Model::fixture(model.family, quantization)));
    }
    for model in GENERATED.iter().filter(|model| is_model(model.name)) {
        let formats = model.quantizations.iter().filter(is_format);
        formats.for_each(|quantization| check(&Model::generated(model, quantization)));
    }
}

/// Whether a name begins with one of those that the variable lists, or the variable is not set.
pub(crate) fn is_wanted(variable: &str, name: &str) -> bool {
    std::env::var(variable).map_or(true, |only| only.split(',').any(|start| name.starts_with(start)))
}

/// The tokens of a sequence, as devices take them.
pub(crate) fn tokens(sequence: &ReferenceSequence) -> Vec<u32> {
    sequence.tokens.iter().map(|&token| token as u32).collect()
}

/// An OpenCL device. `None`, said aloud, where there is none; a failure then when `KNAPSACK_REQUIRE_OPENCL=1`.
pub(crate) fn opencl(options: OpenClOptions) -> Option<OpenClDevice> {
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

/// A library that stands before the machine's OpenCL, made from `data/NAME.rs` as `libOpenCL-NAME.so`. `None`, said aloud, where the
/// tests run without a compiler.
pub(crate) fn made_driver(folder: &Path, name: &str) -> Option<PathBuf> {
    let library = folder.join(format!("libOpenCL-{name}.so"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{name}.rs"));
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["--edition=2024", "--crate-type=cdylib", "-Cpanic=abort", "-Anon_snake_case", "-o"])
        .args([&library, &source])
        .status();
    match built {
        Ok(status) => assert!(status.success()),
        Err(error) => {
            eprintln!("SKIPPED: no rustc: {error}");
            return None;
        }
    }
    Some(library)
}

/// How many tokens each call of a run takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Calls {
    /// As many as the chunk.
    Chunks,
    /// One.
    Single,
    /// 1, 2, 3, … up to the chunk, and again.
    Rising,
    /// Half of the tokens in chunks, then one by one: a prompt and its answer.
    PromptAndAnswer,
}

/// Logits of every position of `tokens`.
pub(crate) fn all_logits(model: &mut dyn LoadedModel, tokens: &[u32], calls: Calls) -> Vec<f32> {
    try_all_logits(model, tokens, calls).unwrap()
}

/// Logits of every position of `tokens`, or the first failure.
pub(crate) fn try_all_logits(
    model: &mut dyn LoadedModel,
    tokens: &[u32],
    calls: Calls,
) -> Result<Vec<f32>, DeviceError> {
    let chunk = model.library().model.prefill_chunk_size as usize;
    let vocab = model.library().model.vocab_size as usize;
    let prompt = tokens.len() / 2;
    let mut logits = vec![0.0; tokens.len() * vocab];
    let (mut position, mut call) = (0, 0);
    while position < tokens.len() {
        let n = match calls {
            Calls::Chunks => chunk,
            Calls::Single => 1,
            Calls::Rising => call % chunk + 1,
            Calls::PromptAndAnswer => chunk.min(prompt.saturating_sub(position)).max(1),
        }
        .min(tokens.len() - position);
        model.forward(&tokens[position..position + n], position as u32)?;
        for row in 0..n {
            let at = (position + row) * vocab;
            model.logits(row as u32, &mut logits[at..at + vocab])?;
        }
        (position, call) = (position + n, call + 1);
    }
    Ok(logits)
}

/// Root mean square of the difference over that of the reference.
pub(crate) fn error(logits: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(logits.len(), reference.len());
    let square = |x: f64| x * x;
    let off: f64 = logits.iter().zip(reference).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let size: f64 = reference.iter().map(|&b| square(f64::from(b))).sum();
    (off / size).sqrt()
}

/// Runs a long sequence on `device` and on the reference device and returns the error.
pub(crate) fn error_to_reference_device(
    device: &dyn Device,
    libraries: [&Arc<ModelLibrary>; 2],
    folder: &Path,
    tokens: &[u32],
    calls: Calls,
) -> f64 {
    let [library, host] = libraries;
    let mut model = device.load(library.clone(), folder).unwrap();
    let mut reference = knapsack_device::ReferenceDevice.load(host.clone(), folder).unwrap();
    error(&all_logits(&mut *model, tokens, calls), &all_logits(&mut *reference, tokens, calls))
}
