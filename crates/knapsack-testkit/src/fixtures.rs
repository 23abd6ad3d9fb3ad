//! Where the test data lies, and reference logits read into vectors.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// One fixture family: a checkpoint and its conversions by the reference tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixtureModel {
    /// Folder name, which is also the model type: `llama`, `qwen3`, `gemma2`, `mistral`, `phi3`.
    pub family: &'static str,
    /// Quantizations that the reference tool converted this family to.
    pub quantizations: &'static [&'static str],
}

/// Every fixture family.
pub(crate) const FIXTURES: &[FixtureModel] = &[
    FixtureModel { family: "llama", quantizations: &["q0f16", "q0f32", "q3f16_1", "q4f16_0", "q4f16_1", "q4f32_1"] },
    FixtureModel { family: "qwen3", quantizations: &["q0f16", "q4f16_1"] },
    FixtureModel { family: "gemma2", quantizations: &["q4f16_1"] },
    FixtureModel { family: "mistral", quantizations: &["q4f16_1"] },
    FixtureModel { family: "phi3", quantizations: &["q4f16_0", "q4f16_1"] },
];

/// A random checkpoint with reference logits but without conversions by the reference tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneratedModel {
    /// Folder name.
    pub name: &'static str,
    /// Quantizations that there are reference logits for.
    pub quantizations: &'static [&'static str],
    /// The context that it must be compiled for, where the rotary embedding depends on it.
    pub context: Option<u32>,
}

const fn generated(name: &'static str) -> GeneratedModel {
    GeneratedModel { name, quantizations: &["q4f16_1"], context: None }
}

/// Every generated checkpoint.
pub const GENERATED: &[GeneratedModel] = &[
    GeneratedModel { quantizations: &["q3f16_1", "q4f16_1"], ..generated("smollm-tied") },
    generated("smollm-untied"),
    generated("llama-linear"),
    GeneratedModel { context: Some(80), ..generated("llama-dynamic") },
    generated("llama-yarn"),
    generated("llama-bias"),
    generated("qwen2"),
    generated("qwen2-window"),
    generated("gemma"),
    generated("gemma3_text"),
    generated("phi"),
    generated("stablelm"),
    generated("stablelm-parallel"),
    generated("gpt_neox"),
    generated("gpt_neox-sequential"),
    generated("phi3-longrope"),
    GeneratedModel { context: Some(128), ..generated("phi3-longrope-short") },
    GeneratedModel { context: Some(128), ..generated("phi4-mini") },
    generated("smollm3"),
    generated("ministral3"),
    generated("granite"),
    generated("olmo2"),
    generated("olmo3"),
    generated("exaone4"),
    generated("hunyuan_v1_dense"),
    generated("ernie4_5"),
    generated("lfm2"),
    generated("lfm3"),
    generated("qwen3_5"),
    generated("gemma4"),
];

impl GeneratedModel {
    /// The checkpoint's folder.
    ///
    /// # Panics
    /// When it is missing.
    pub fn checkpoint(&self) -> PathBuf {
        existing(fixtures_root().join("generated").join(self.name).join("hf"))
    }

    /// The reference's logits with the weights dequantized from `quantization`.
    ///
    /// # Panics
    /// When the file is missing or not what it should be.
    pub fn reference_logits(&self, quantization: &str) -> Vec<ReferenceSequence> {
        let name = format!("{quantization}.dequant_logits.safetensors");
        reference_logits_file(&fixtures_root().join("generated").join(self.name).join(name))
    }
}

/// Names of the full-size configurations in the catalogue.
pub const CATALOGUE: &[&str] = &[
    "Llama-3.2-3B-Instruct-q4f16_1",
    "Mistral-7B-Instruct-v0.3-q4f16_1",
    "Phi-3.5-mini-instruct-q4f16_1",
    "Qwen3-0.6B-q0f16",
    "Qwen3-1.7B-q4f16_1",
    "gemma-2-2b-it-q4f16_1",
];

/// A token sequence and the logits that the reference computed for it.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceSequence {
    /// The input tokens.
    pub tokens: Vec<i32>,
    /// `tokens.len() * vocab` logits, row by row, with exact products.
    pub logits: Vec<f32>,
    /// The same with every dequantized weight rounded to f16; only in `dequant_logits` files of f16 formats.
    pub logits_f16deq: Option<Vec<f32>>,
    /// Row length of the logits.
    pub vocab: usize,
}

/// The folder that holds all fixture families.
pub(crate) fn fixtures_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Every fixture family.
pub fn fixtures() -> &'static [FixtureModel] {
    FIXTURES
}

/// The checkpoint folder of `family`.
///
/// # Panics
/// When there is no such family.
pub fn fixture(family: &str) -> PathBuf {
    existing(fixtures_root().join(family).join("hf"))
}

/// The MLC folder of `family` in `quantization`.
///
/// # Panics
/// When that conversion is not among the fixtures.
pub fn mlc_fixture(family: &str, quantization: &str) -> PathBuf {
    existing(fixtures_root().join(family).join(quantization))
}

/// The catalogue folder of `name`: `mlc-chat-config.json` and, but for Phi-3.5-mini, `params.json`.
///
/// # Panics
/// When there is no such entry.
pub fn catalogue(name: &str) -> PathBuf {
    existing(Path::new(env!("CARGO_MANIFEST_DIR")).join("catalogue").join(name))
}

/// The checkpoint folder of the trained example model, with `eval.json` and `heldout.txt` in it.
///
/// # Panics
/// When the example is missing from the repository.
pub fn tiny_assistant() -> PathBuf {
    existing(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/tiny-assistant/model"))
}

/// The reference's logits of `family`: of the checkpoint itself, or with its weights replaced by the dequantized ones of
/// `quantization`.
///
/// # Panics
/// When the file is missing or not what it should be.
pub fn reference_logits(family: &str, quantization: Option<&str>) -> Vec<ReferenceSequence> {
    let name = match quantization {
        None => "logits.safetensors".to_owned(),
        Some(quantization) => format!("{quantization}.dequant_logits.safetensors"),
    };
    reference_logits_file(&fixtures_root().join(family).join(name))
}

/// Reads `tokens_i`, `logits_i` and `logits_f16deq_i` for i = 0, 1, … from a safetensors file.
///
/// # Panics
/// When the file is missing or not what it should be.
pub(crate) fn reference_logits_file(path: &Path) -> Vec<ReferenceSequence> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut sequences = Vec::new();
    while let Ok(tokens) = file.tensor(&format!("tokens_{}", sequences.len())) {
        let index = sequences.len();
        assert_eq!(tokens.dtype(), Dtype::I32);
        let tokens: Vec<i32> = words(tokens.data()).map(i32::from_le_bytes).collect();
        let (logits, vocab) =
            floats(&file, &format!("logits_{index}"), tokens.len()).expect("logits for each sequence");
        let logits_f16deq = floats(&file, &format!("logits_f16deq_{index}"), tokens.len()).map(|(values, _)| values);
        sequences.push(ReferenceSequence { tokens, logits, logits_f16deq, vocab });
    }
    assert!(!sequences.is_empty(), "{} holds no sequence", path.display());
    sequences
}

fn floats(file: &SafeTensors<'_>, name: &str, rows: usize) -> Option<(Vec<f32>, usize)> {
    let tensor = file.tensor(name).ok()?;
    assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
    let [found, vocab] = *tensor.shape() else { panic!("{name} is not a matrix: {:?}", tensor.shape()) };
    assert_eq!(found, rows, "{name}");
    Some((words(tensor.data()).map(f32::from_le_bytes).collect(), vocab))
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.as_chunks::<4>().0.iter().copied()
}

fn existing(path: PathBuf) -> PathBuf {
    assert!(path.is_dir(), "no such test data: {}", path.display());
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_and_conversion_is_there() {
        for model in fixtures() {
            assert!(fixture(model.family).join("model.safetensors").is_file());
            assert_eq!(reference_logits(model.family, None).len(), 3);
            for quantization in model.quantizations {
                assert!(mlc_fixture(model.family, quantization).join("tensor-cache.json").is_file());
                let sequences = reference_logits(model.family, Some(quantization));
                assert_eq!(sequences.iter().map(|s| s.tokens.len()).collect::<Vec<_>>(), [5, 17, 80]);
                assert!(sequences.iter().all(|s| s.vocab == 768 && s.logits.len() == s.tokens.len() * 768));
                let rounded = quantization.starts_with("q4f16") || quantization.starts_with("q3f16");
                assert!(sequences.iter().all(|s| s.logits_f16deq.is_some() == rounded), "{quantization}");
            }
        }
    }

    #[test]
    fn the_example_and_the_catalogue_are_there() {
        assert!(tiny_assistant().join("eval.json").is_file());
        for name in CATALOGUE {
            assert!(catalogue(name).join("mlc-chat-config.json").is_file());
        }
    }
}
