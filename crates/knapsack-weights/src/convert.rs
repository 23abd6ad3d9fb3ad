use crate::chat::{self, Chat, ChatWarning};
use crate::checkpoint::{Checkpoint, WeightsStart, model_config, refuse_converted};
use crate::error::ConvertError;
use crate::layout::ShardLayout;
use crate::output::Output;
use crate::pipeline::ConvertProgress;
use crate::template::TemplateChoice;
use crate::{io, pipeline};
use knapsack_artifact::{chat_config, weight_index};
use knapsack_models::{Family, ModelConfig};
use knapsack_tensor::Quantization;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// What is to be converted, and how.
#[derive(Clone, Copy, Debug)]
pub struct ConvertRequest<'a> {
    /// The checkpoint's folder.
    pub checkpoint: &'a Path,
    /// The weight folder that is to be made. It must not exist, or be empty.
    pub output: &'a Path,
    /// What weights are converted to.
    pub quantization: Quantization,
    /// The chat template.
    pub chat_template: &'a TemplateChoice,
    /// Threads; `None`: one for each core.
    pub jobs: Option<NonZero<usize>>,
}

/// What a conversion did.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    /// The model's family.
    pub family: &'static Family,
    /// What weights were converted to.
    pub quantization: Quantization,
    /// Tensors written.
    pub tensors: u64,
    /// Files of weights written.
    pub shards: usize,
    /// Bytes of weights written.
    pub bytes: u64,
    /// Bytes of weights read.
    pub source_bytes: u64,
    /// Bits for each parameter of the checkpoint.
    pub bits_per_parameter: f64,
    /// Name of MLC's conversation template in the result.
    pub conv_template: Option<String>,
    /// The file with the model's own Jinja template, where that one is used.
    pub chat_template: Option<String>,
    /// What the user should know.
    pub notices: Vec<String>,
    /// What the model's text side lacks.
    pub chat_warnings: Vec<ChatWarning>,
    /// Values that nobody can mean, tensor by tensor: NaN, and what the format cannot hold.
    pub warnings: Vec<String>,
}

/// Converts a checkpoint. `progress` is called from several threads; when `cancel` becomes true the conversion ends soon with
/// [`ConvertError::Cancelled`]. However it ends, the output is there as a whole or not at all.
///
/// # Errors
/// [`ConvertError`]; nothing was written to the output's place then.
pub fn convert(
    request: &ConvertRequest<'_>,
    cancel: &AtomicBool,
    progress: &(dyn Fn(ConvertProgress) + Sync),
) -> Result<Conversion, ConvertError> {
    let Prepared { checkpoint, config, layout, chat } = prepare(request)?;
    let Chat { config: chat, files, mut notices, warnings: chat_warnings } = chat;
    let output = Output::create(request.output)?;
    let needed = layout.index.total_bytes();
    if let Some(available) = io::free_bytes(output.folder()).filter(|&available| available < needed) {
        return Err(ConvertError::NoSpace { folder: request.output.to_owned(), needed, available });
    }
    let threads = request.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let written =
        pipeline::run(&checkpoint, &layout, &request.quantization, output.folder(), threads, cancel, progress)?;
    for (part, tensors, bytes) in &layout.left_out {
        notices.push(format!("left out: {part}, {bytes} bytes in {tensors} tensors"));
    }
    let mut index = layout.index;
    let warnings = written.unusual.iter().filter_map(|(&tensor, unusual)| {
        unusual.warning(&checkpoint.tensors[tensor].name, request.quantization.model_dtype)
    });
    let warnings = warnings.collect();
    for (shard, sum) in index.shards.iter_mut().zip(written.sums) {
        shard.md5sum = Some(sum);
    }
    output.write(weight_index::FILE_NAME, index.to_json().as_bytes())?;
    if let Some(b16) = index.to_b16() {
        output.write(weight_index::B16_FILE_NAME, b16.to_json().as_bytes())?;
    }
    for file in &files {
        output.write(&file.name, &file.content)?;
    }
    output.write(chat_config::FILE_NAME, chat.to_json().as_bytes())?;
    output.commit()?;
    Ok(Conversion {
        family: config.family,
        quantization: request.quantization,
        tensors: index.metadata.tensors,
        shards: index.shards.len(),
        bytes: needed,
        source_bytes: layout.source_bytes,
        bits_per_parameter: index.metadata.bits_per_parameter,
        conv_template: chat.template().and_then(|template| template.name),
        chat_template: chat.chat_template,
        notices,
        chat_warnings,
        warnings,
    })
}

/// Everything that a conversion decides before it reads a weight.
struct Prepared {
    checkpoint: Checkpoint,
    config: ModelConfig,
    layout: ShardLayout,
    chat: Chat,
}

fn prepare(request: &ConvertRequest<'_>) -> Result<Prepared, ConvertError> {
    refuse_converted(request.checkpoint, &request.quantization)?;
    let checkpoint = Checkpoint::open(request.checkpoint)?;
    let config = model_config(&checkpoint.folder, &checkpoint.config)?;
    let layout = ShardLayout::new(&checkpoint, &config, &request.quantization)?;
    let chat =
        chat::build(&checkpoint.folder, &checkpoint.config, &config, &request.quantization, request.chat_template)?;
    Ok(Prepared { checkpoint, config, layout, chat })
}

/// Whether [`convert`] would accept the checkpoint: configuration, headers, tokenizer and template are read, weights are not, and
/// the output's place is not looked at. Gives what the model's text side lacks.
///
/// # Errors
/// As [`convert`], before it reads a weight.
pub fn check(request: &ConvertRequest<'_>) -> Result<Vec<ChatWarning>, ConvertError> {
    prepare(request).map(|prepared| prepared.chat.warnings)
}

/// Whether [`convert`] would accept the tensors of a checkpoint of which the weights are elsewhere: `folder` holds the rest.
///
/// # Errors
/// As [`convert`], about configuration and tensors.
pub fn check_headers(
    folder: &Path,
    starts: &[WeightsStart<'_>],
    quantization: &Quantization,
) -> Result<(), ConvertError> {
    let checkpoint = Checkpoint::of_headers(folder, starts)?;
    let config = model_config(&checkpoint.folder, &checkpoint.config)?;
    ShardLayout::new(&checkpoint, &config, quantization).map(drop)
}
