//! From a path on the command line to a model that can be run: a package, a weight folder (compiled on the fly for the host)
//! or a checkpoint (converted into the cache first).

use crate::cli::{DeviceArgs, ModelArgs};
use crate::exit::{OrWrongInput, wrong_input};
use crate::first_use;
use crate::packaging::{Shown, cache};
use crate::report::Reporter;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::app_config::WeightsLocation;
use knapsack_artifact::library::Target;
use knapsack_bundle::cache::{Cache, CacheEntry};
use knapsack_config::ModelForm;
use knapsack_device::{Device, OpenOptions};
use knapsack_ir::Windows;
use knapsack_package::{Model, converted, given_sizes};
use knapsack_runtime::text::TextError;
use knapsack_runtime::{ChatModel, Engine, EngineError, Package, Session};
use knapsack_source::open_local;
use knapsack_weights::TemplateChoice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A model that can be loaded.
struct Opened {
    /// Its name: the id in a package, else the folder's name.
    name: String,
    /// What the device executes.
    library: Arc<ModelLibrary>,
    /// The weight folder.
    weights: PathBuf,
    /// Keeps a converted folder in the cache while it is in use.
    converted: Option<CacheEntry>,
}

/// A model on a device.
pub struct Runnable {
    /// The id in a package, else the folder's name.
    pub name: String,
    /// The library that is executed.
    pub library: Arc<ModelLibrary>,
    /// The device's description.
    pub device: String,
    /// From the library and the weight folder to a model that can run.
    pub load_time: Duration,
    /// With an empty cache.
    pub session: Session,
    /// The text side.
    pub chat: Option<Arc<ChatModel>>,
    /// Keeps a converted folder in the cache as long as its weights are used.
    converted: Option<CacheEntry>,
}

impl Runnable {
    /// The text side of a model that is to read or write text.
    ///
    /// # Errors
    /// A weight folder without tokenizer.
    pub fn chat(&self) -> anyhow::Result<Arc<ChatModel>> {
        self.chat.clone().ok_or_else(|| wrong_input(format!("{} has no tokenizer.json", self.name)))
    }

    /// The model with its text side, and what is to be held as long as it is used: a converted folder in the cache.
    ///
    /// # Errors
    /// As [`Runnable::chat`].
    pub fn into_engine(self) -> anyhow::Result<(Engine, Option<CacheEntry>)> {
        let chat = self.chat()?;
        Ok((Engine::new(self.session, chat), self.converted))
    }
}

/// Finds the model that the arguments name, converts and compiles it for `target` if need be.
///
/// # Errors
/// Nothing usable at the path (exit code 2), or a conversion or compilation that fails.
fn open(args: &ModelArgs, target: Target, reporter: &Reporter) -> anyhow::Result<Opened> {
    let path = &args.path;
    if !path.exists() {
        return Err(wrong_input(format!("there is nothing at {}", path.display())));
    }
    if Package::is_package(path) {
        return open_package(args, target, reporter);
    }
    if let Some(id) = &args.model {
        return Err(wrong_input(format!("--model {id} names a model of a package, but {} is none", path.display())));
    }
    let index = ["tensor-cache.json", "ndarray-cache.json"].iter().any(|name| path.join(name).is_file());
    if !(path.join("config.json").is_file() || index && path.join("mlc-chat-config.json").is_file()) {
        return Err(wrong_input(format!(
            "{} is neither a package (bundle/mlc-app-config.json), nor a weight folder (mlc-chat-config.json and \
             tensor-cache.json or ndarray-cache.json), nor a checkpoint (config.json and safetensors)",
            path.display()
        )));
    }
    let model = Model::open(path, args.quantization.as_deref()).or_wrong_input()?;
    let name = folder_name(path);
    match model.kind {
        ModelForm::Mlc => compiled(name, &model, args, target, reporter),
        ModelForm::Checkpoint => {
            let files = open_local(path).or_wrong_input()?.files;
            let (cache, template) = (cache()?, TemplateChoice::Model);
            let entry = converted(&cache, &name, path, &files, model.quantization, &template, &Shown::new(reporter))?;
            let weights = Model::open(entry.content(), None)?;
            Ok(Opened { converted: Some(entry), ..compiled(name, &weights, args, target, reporter)? })
        }
    }
}

/// Finds the model and loads it on the device that the arguments name.
///
/// # Errors
/// As `open`; a device that is not there, or that cannot load the model.
pub fn load(args: &ModelArgs, reporter: &Reporter) -> anyhow::Result<Runnable> {
    let device = device(&args.device)?;
    let Opened { name, library, weights, converted } = open(args, device.target(), reporter)?;
    reporter.detail("Loading", format_args!("{name} on {}", device.description()));
    let start = Instant::now();
    // The text side is read beside the weights.
    let (model, chat) = std::thread::scope(|scope| {
        let chat = scope.spawn(|| text_side(&weights, library.model.vocab_size));
        let model = device.load(library.clone(), &weights);
        (model, chat.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let model = model?;
    let chat = match chat {
        Ok(chat) => Some(Arc::new(chat)),
        Err(TextError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let load_time = start.elapsed();
    let device = device.description();
    Ok(Runnable { name, library, device, load_time, session: Session::new(model), chat, converted })
}

/// The text side of the model in a folder; its tokenizer's tables are kept in the cache, where the folder has none.
///
/// # Errors
/// As [`ChatModel::open`].
pub fn text_side(folder: &Path, vocab_size: u32) -> Result<ChatModel, TextError> {
    match cache() {
        Ok(cache) => ChatModel::open_with_cache(folder, vocab_size, &cache.tokenizers()),
        Err(_) => ChatModel::open(folder, vocab_size),
    }
}

/// The device that the arguments name.
///
/// # Errors
/// One that this machine does not have.
pub fn device(args: &DeviceArgs) -> anyhow::Result<Box<dyn Device>> {
    let programs = Cache::place(|name| std::env::var_os(name)).ok().map(|root| root.join("opencl-v1"));
    Ok(args.device.open(&OpenOptions { threads: args.threads.map(|threads| threads as usize), programs })?)
}

/// Whether an error of the engine is the caller's wrong input.
pub fn engine_error(error: EngineError) -> anyhow::Error {
    match error {
        EngineError::Sampling(_)
        | EngineError::Grammar(_)
        | EngineError::EmptyPrompt
        | EngineError::PromptTooLong { .. }
        | EngineError::TokenOutOfRange { .. }
        | EngineError::Text(
            TextError::NoTemplate
            | TextError::NoThinking
            | TextError::Refused(_)
            | TextError::Template { .. }
            | TextError::LongerThanContext { .. }
            | TextError::UnknownRole { .. },
        ) => crate::exit::WrongInput(error.into()).into(),
        error => error.into(),
    }
}

fn open_package(args: &ModelArgs, target: Target, reporter: &Reporter) -> anyhow::Result<Opened> {
    if args.quantization.is_some() {
        return Err(wrong_input("--quantization is for checkpoints: a package's weights are converted already"));
    }
    let package = Package::open(&args.path)?;
    let model = package.model(args.model.as_deref()).or_wrong_input()?;
    let weights = match &model.weights {
        WeightsLocation::Bundled(_) | WeightsLocation::Packs(_) => package.bundled_weights(model)?,
        WeightsLocation::Download(_) => {
            first_use::weights(&first_use::store(args.downloads.downloads.as_deref())?, model, reporter)?
        }
    };
    let name = model.model_id.clone();
    if args.overrides.overrides.as_ref().is_some_and(|overrides| !overrides.is_empty()) {
        // What ships has its sizes compiled in; other sizes are another library over the same weights.
        reporter.detail("Compiling", format_args!("{name} anew: the package's own library has other sizes"));
        return compiled(name, &Model::open(&weights, None)?, args, target, reporter);
    }
    let mut library = package.library(model)?;
    if target != Target::Host && library.target != target {
        reporter.detail("Compiling", format_args!("{name} for {target:?}: the package is for another device"));
        library = Arc::new(retargeted(&Model::open(&weights, None)?, &library, target)?);
    }
    Ok(Opened { name, library, weights, converted: None })
}

fn folder_name(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    absolute.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Compiles the model of a weight folder. It takes no longer than looking into a cache would.
fn compiled(
    name: String,
    model: &Model,
    args: &ModelArgs,
    target: Target,
    reporter: &Reporter,
) -> anyhow::Result<Opened> {
    let overrides = given_sizes(&args.overrides.overrides.clone().unwrap_or_default());
    let start = Instant::now();
    let chosen = model.choose(&overrides, None).or_wrong_input()?;
    for notice in &chosen.notices {
        reporter.detail("Chose", notice);
    }
    let library = model.compile(chosen.windows, target, None).or_wrong_input()?;
    reporter.detail("Compiled", format_args!("{} in {:.3} s", library.name, start.elapsed().as_secs_f64()));
    Ok(Opened { name, library: Arc::new(library), weights: model.folder.clone(), converted: None })
}

/// The same model with the same sizes for another device.
fn retargeted(model: &Model, library: &ModelLibrary, target: Target) -> anyhow::Result<ModelLibrary> {
    let own = model.config.own_windows();
    let info = &library.model;
    let windows = Windows {
        context: info.context_window_size.unwrap_or(own.context),
        sliding: info.sliding_window_size,
        sinks: info.attention_sink_size,
        chunk: info.prefill_chunk_size,
    };
    Ok(model.compile(windows, target, None)?)
}
