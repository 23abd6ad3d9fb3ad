//! Stages 4 to 6: libraries, weights, the package. The cache answers for what was done before.

use super::{Plan, PlannedModel, Resolved, Workspace};
use crate::exit::{AlreadyReported, Interrupted, WRONG_INPUT};
use crate::interrupt::Graceful;
use crate::model::FolderKind;
use anyhow::{Context, Result};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::app_config::AppFile;
use knapsack_artifact::library::Target;
use knapsack_bundle::cache::{Bucket, CacheEntry, Inputs};
use knapsack_bundle::{Entry, Library, LinkMode, Options, Package, Platform, Report, Weights};
use knapsack_compiler::codegen::metallib::{ApplePlatform, MetalToolchain};
use knapsack_config::{Device, Diagnostic, Loaded, ModelEntry, codes};
use knapsack_ir::Windows;
use knapsack_source::{FileRole, ModelSource};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of a library's file in its cache entry.
const LIBRARY_FILE: &str = "library.knapsack";

/// A library for each model, in the order of the manifest; models may share one.
#[derive(Debug)]
pub struct Compiled {
    pub(super) libraries: Vec<Library>,
}

/// Weights for each model, in the order of the manifest.
#[derive(Debug)]
pub struct Provided {
    weights: Vec<Weights>,
    revisions: Vec<Option<String>>,
    /// Keeps cached conversions from being removed while they are packaged.
    _entries: Vec<CacheEntry>,
}

/// Apple's Metal compiler, where this machine has one and the target needs it.
struct MetalStep {
    toolchain: Option<MetalToolchain>,
    /// Empty without one: the phone then compiles the kernels itself, when it loads the model.
    version: String,
}

impl MetalStep {
    fn find(target: Target) -> Result<Self> {
        let path = std::env::var_os("PATH");
        let toolchain = (target == Target::Metal).then(|| MetalToolchain::find(path.as_deref())).flatten();
        let version = toolchain.as_ref().map(MetalToolchain::version).transpose()?.unwrap_or_default();
        Ok(MetalStep { toolchain, version })
    }

    fn precompile(&self, library: &mut ModelLibrary) -> Result<()> {
        let Some(toolchain) = &self.toolchain else { return Ok(()) };
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        Ok(toolchain.precompile(library, &ApplePlatform::ALL, folder.path())?)
    }
}

impl Workspace<'_> {
    /// Stage 4: a library for each model, from the cache where its inputs are unchanged. Then what must hold between them: two
    /// models may share a prefix only when they share the library.
    ///
    /// # Errors
    /// A model that cannot be compiled; with exit code 2, prefixes in conflict or a prebuilt library that does not match.
    pub fn compile(&self, loaded: &mut Loaded, plan: &Plan) -> Result<Compiled> {
        let target = match loaded.manifest.device.value {
            Device::Iphone | Device::Macabi => Target::Metal,
            Device::Android => Target::OpenCl,
        };
        let mut libraries = Vec::with_capacity(plan.models.len());
        for (entry, planned) in loaded.manifest.models.iter().zip(&plan.models) {
            let name = entry.model_lib.as_ref().map(|name| name.value.as_str());
            let prebuilt = loaded.manifest.prebuilt.iter().find(|prebuilt| Some(prebuilt.prefix.as_str()) == name);
            libraries.push(match prebuilt {
                Some(prebuilt) => self.prebuilt(prebuilt, entry, planned, target, &mut loaded.report)?,
                None => Some(self.library(planned, target, name)?),
            });
        }
        for (index, library) in libraries.iter().enumerate() {
            let same =
                |other: &Option<Library>| other.as_ref().map(Library::name) == library.as_ref().map(Library::name);
            let first = libraries[..index].iter().position(same);
            if let (Some(library), Some(first)) = (library, first)
                && let Some(other) = &libraries[first]
                && other.blob() != library.blob()
            {
                let entries = &loaded.manifest.models;
                loaded.report.push(prefix_conflict(&entries[first], other, &entries[index], library));
            }
        }
        self.reporter.diagnostics(&loaded.report);
        if loaded.report.has_errors() {
            return Err(AlreadyReported(WRONG_INPUT).into());
        }
        loaded.report.diagnostics.clear();
        Ok(Compiled { libraries: libraries.into_iter().flatten().collect() })
    }

    /// Compiles one model, or takes the library from the cache.
    pub(crate) fn library(&self, planned: &PlannedModel, target: Target, name: Option<&str>) -> Result<Library> {
        let PlannedModel { model_id, model, windows, .. } = planned;
        let Windows { context, sliding, sinks, chunk } = *windows;
        let metal = MetalStep::find(target)?;
        let inputs = Inputs::new(format!("{model_id} for {target:?}"))
            .with_compiler(self.cache.digests())
            .with_bytes("model configuration", &model.config_bytes)
            .with("quantization", model.quantization.name)
            .with("target", format!("{target:?}"))
            .with("model_lib", name.unwrap_or("(from the content)"))
            .with("context_window_size", context)
            .with("sliding_window_size", sliding.map_or(-1, i64::from))
            .with("attention_sink_size", sinks)
            .with("prefill_chunk_size", chunk)
            .with("metal compiler", &metal.version);
        let mut made = None;
        let (entry, reason) = self.cache.get_or_make(Bucket::Libraries, &inputs, |folder| -> Result<()> {
            self.reporter.status("Compiling", format_args!("{model_id} ({})", model.quantization.name));
            let mut library = model.compile(*windows, target, name)?;
            metal.precompile(&mut library)?;
            let library = Library::new(Arc::new(library))?;
            std::fs::write(folder.join(LIBRARY_FILE), library.blob())?;
            made = Some(library);
            Ok(())
        })?;
        self.reporter.detail(if reason.ran() { "Compiled" } else { "Fresh" }, format_args!("{model_id}: {reason}"));
        match made {
            Some(library) => Ok(library),
            None => {
                let path = entry.content().join(LIBRARY_FILE);
                let blob = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                Ok(Library::from_blob(&blob)?)
            }
        }
    }

    /// Stage 5: weights on the disk for every model that is bundled, converted where they are a checkpoint's; addresses and hashes
    /// for those that the app downloads.
    ///
    /// # Errors
    /// Downloads and conversions that fail.
    pub fn provide(&self, loaded: &Loaded, plan: &Plan, resolved: &Resolved) -> Result<Provided> {
        let sources = self.fetch_weights(resolved)?;
        let mut provided = Provided { weights: vec![], revisions: vec![], _entries: vec![] };
        for ((entry, planned), source) in loaded.manifest.models.iter().zip(&plan.models).zip(&sources) {
            provided.revisions.push(source.origin.commit().map(str::to_owned));
            provided.weights.push(match (entry.bundle_weight, planned.model.kind) {
                (true, FolderKind::Mlc) => Weights::Bundled { folder: source.path.clone() },
                (true, FolderKind::Checkpoint) => {
                    let entry = self.converted(&planned.model_id, source, planned.model.quantization.name)?;
                    let folder = entry.content().to_owned();
                    provided._entries.push(entry);
                    Weights::Bundled { folder }
                }
                (false, _) => download(source)?,
            });
        }
        Ok(provided)
    }

    /// The weight folder of a checkpoint, from the cache or converted now.
    pub(crate) fn converted(&self, model_id: &str, source: &ModelSource, quantization: &str) -> Result<CacheEntry> {
        let names: Vec<String> = source.files.iter().map(|file| file.path.clone()).collect();
        let inputs = Inputs::new(format!("{model_id} in {quantization}"))
            .with_compiler(self.cache.digests())
            .with("quantization", quantization)
            .with_files(&source.path, &names, self.cache.digests())
            .with_context(|| format!("cannot read the checkpoint of {model_id}"))?;
        let (entry, reason) = self.cache.get_or_make(Bucket::Converted, &inputs, |folder| -> Result<()> {
            let request = knapsack_weights::Request {
                checkpoint: &source.path,
                output: folder,
                quantization: quantization.parse()?,
                conv_template: None,
                jobs: None,
            };
            crate::ops::convert::convert(&request, self.reporter)?;
            Ok(())
        })?;
        self.reporter.detail(if reason.ran() { "Converted" } else { "Fresh" }, format_args!("{model_id}: {reason}"));
        Ok(entry)
    }

    /// Stage 6: the package.
    ///
    /// # Errors
    /// As [`knapsack_bundle::write`]; [`Interrupted`] on Ctrl-C. The old package, if there is one, stays then.
    pub fn bundle(
        &self,
        loaded: &Loaded,
        plan: &Plan,
        compiled: Compiled,
        provided: Provided,
        out: &Path,
        link_mode: LinkMode,
    ) -> Result<Report> {
        let parts = plan.models.iter().zip(compiled.libraries).zip(&provided.weights).zip(&provided.revisions);
        let entries = parts.map(|(((planned, library), weights), revision)| Entry {
            model_id: planned.model_id.clone(),
            estimated_vram_bytes: planned.declared.unwrap_or_else(|| library.library().memory.total()),
            library,
            revision: revision.clone(),
            weights: weights.clone(),
        });
        let platform = match loaded.manifest.device.value {
            Device::Iphone => Platform::Iphone,
            Device::Macabi => Platform::Macabi,
            Device::Android => Platform::Android,
        };
        let package = Package { platform, entries: entries.collect() };
        let protected = protected(loaded)?;
        let locks = self.cache.locks();
        let graceful = Graceful::new();
        let bar = self.reporter.bytes_bar("Bundling", 0);
        let progress = |step: knapsack_bundle::package::Progress<'_>| {
            let (knapsack_bundle::package::Progress::Verifying { path, bytes }
            | knapsack_bundle::package::Progress::Writing { path, bytes }) = step;
            bar.set_message(path.to_owned());
            bar.inc_length(bytes);
            bar.inc(bytes);
            if graceful.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let options = Options {
            link_mode,
            protected: &protected,
            digests: self.cache.digests(),
            locks: Some(&locks),
            progress: &progress,
        };
        let result = knapsack_bundle::write(&package, out, &options);
        bar.finish_and_clear();
        match result {
            Err(knapsack_bundle::BundleError::Interrupted) => Err(Interrupted.into()),
            other => Ok(other?),
        }
    }
}

/// Folders that the output may not be or contain: the manifest's and those of local models.
fn protected(loaded: &Loaded) -> Result<Vec<PathBuf>> {
    let folder = loaded.manifest.folder();
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut list = vec![std::path::absolute(folder)?];
    for entry in &loaded.manifest.models {
        if let knapsack_config::ModelSource::Local(local) = &entry.source.value {
            list.push(std::path::absolute(&local.path)?);
        }
    }
    Ok(list)
}

/// What the app downloads at first launch.
fn download(source: &ModelSource) -> Result<Weights> {
    let url = source.origin.url().context("a local model cannot be downloaded by the app")?;
    let files = source.files.iter().map(|file| {
        let sha256 = file.sha256.clone().with_context(|| format!("the hash of {} is not known", file.path))?;
        Ok(AppFile { path: file.path.clone(), size: file.size, sha256 })
    });
    debug_assert!(source.files.iter().any(|file| file.role == FileRole::Weights));
    Ok(Weights::Download { url, files: files.collect::<Result<_>>()? })
}

fn prefix_conflict(first: &ModelEntry, one: &Library, second: &ModelEntry, two: &Library) -> Diagnostic {
    let (a, b) = (&one.library().model, &two.library().model);
    let mut differences = Vec::new();
    let mut compare = |what: &str, a: String, b: String| {
        if a != b {
            differences.push(format!("{what}: {a} and {b}"));
        }
    };
    let or_none = |size: Option<u32>| size.map_or("none".to_owned(), |size| size.to_string());
    compare("family", a.family.clone(), b.family.clone());
    compare("quantization", a.quantization.clone(), b.quantization.clone());
    compare("context_window_size", or_none(a.context_window_size), or_none(b.context_window_size));
    compare("sliding_window_size", or_none(a.sliding_window_size), or_none(b.sliding_window_size));
    compare("attention_sink_size", a.attention_sink_size.to_string(), b.attention_sink_size.to_string());
    compare("prefill_chunk_size", a.prefill_chunk_size.to_string(), b.prefill_chunk_size.to_string());
    compare("layers", a.layers.to_string(), b.layers.to_string());
    compare("hidden size", a.hidden_size.to_string(), b.hidden_size.to_string());
    compare("vocabulary", a.vocab_size.to_string(), b.vocab_size.to_string());
    if differences.is_empty() {
        differences.push("other sizes of the architecture".to_owned());
    }
    let place = |entry: &ModelEntry| entry.model_lib.as_ref().map_or(entry.model_id.span, |name| name.span);
    let message = format!(
        "{} and {} share the model_lib `{}` but compile to different libraries",
        first.model_id.value,
        second.model_id.value,
        two.name()
    );
    Diagnostic::error(codes::DIFFERENT_LIBRARIES, place(second), message)
        .related(place(first), "the first use")
        .help(format!("they differ in {}", differences.join("; ")))
        .help("give one of them another model_lib, or leave it out")
}
