//! Stage 4: a library for each model, from the cache where its inputs are unchanged.

use crate::text::chain;
use crate::{Error, Event, Outcome, Packager, Planned};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::device::AppleSlice;
use knapsack_artifact::library::Target;
use knapsack_bundle::Library;
use knapsack_bundle::cache::{Bucket, Inputs};
use knapsack_compiler::codegen::metallib::MetalToolchain;
use knapsack_config::{Diagnostic, Manifest, ModelEntry, codes};
use knapsack_ir::Windows;
use std::ffi::OsStr;
use std::sync::Arc;

/// Name of a library's file in its cache entry.
const LIBRARY_FILE: &str = "library.knapsack";

/// A model with its library.
#[derive(Clone, Debug)]
pub struct Built {
    /// What it was built from.
    pub planned: Planned,
    /// Compiled, or prebuilt; models may share one.
    pub library: Library,
}

impl Built {
    /// The manifest's name for it.
    pub fn id(&self) -> &str {
        self.planned.id()
    }

    fn entry(&self) -> &ModelEntry {
        &self.planned.found.entry
    }
}

/// Apple's Metal compiler, where this machine has one and the target needs it.
struct MetalStep {
    toolchain: Option<MetalToolchain>,
    /// Empty without one: the phone then compiles the kernels itself, when it loads the model.
    version: String,
}

impl MetalStep {
    /// Looks in `tools`, in the form of `PATH`.
    fn find(target: Target, tools: Option<&OsStr>) -> Result<Self, Error> {
        let toolchain = (target == Target::Metal).then(|| MetalToolchain::find(tools)).flatten();
        let version = toolchain.as_ref().map(MetalToolchain::version).transpose()?.unwrap_or_default();
        Ok(MetalStep { toolchain, version })
    }

    fn precompile(&self, library: &mut ModelLibrary) -> Result<(), Error> {
        let Some(toolchain) = &self.toolchain else { return Ok(()) };
        let folder = tempfile::tempdir().map_err(Error::io("make a temporary folder in", std::env::temp_dir()))?;
        Ok(toolchain.precompile(library, &AppleSlice::ALL, folder.path())?)
    }
}

impl Packager<'_> {
    /// Stage 4: builds every model. Then what must hold between them: two models may share a prefix only when they share the
    /// library. Findings are errors for models that cannot be compiled, for prefixes in conflict and for prebuilt libraries that do not match.
    ///
    /// # Errors
    /// The cache, Apple's compiler.
    pub fn build(&self, manifest: &Manifest, models: Vec<Planned>) -> Result<Outcome<Vec<Built>>, Error> {
        let target = manifest.device.value.target;
        let (mut built, mut findings) = (Vec::with_capacity(models.len()), Vec::new());
        for planned in models {
            let name = planned.found.entry.model_lib.as_ref().map(|name| name.value.as_str());
            let library = match manifest.prebuilt.iter().find(|prebuilt| Some(prebuilt.prefix.as_str()) == name) {
                Some(prebuilt) => self.prebuilt(prebuilt, &planned, target),
                None => match self.library(&planned, target, name) {
                    Err(error @ Error::Model { .. }) => {
                        let span = planned.found.entry.source.span;
                        Err(Box::new(Diagnostic::error(codes::UNSUPPORTED_MODEL, span, chain(&error))))
                    }
                    result => Ok(result?),
                },
            };
            match library {
                Ok(library) => built.push(Built { planned, library }),
                Err(finding) => findings.push(*finding),
            }
        }
        findings.extend(prefix_conflicts(&built));
        self.cache.digests().save();
        Ok(Outcome::of(built, findings))
    }

    /// Compiles one model, or takes the library from the cache.
    fn library(&self, planned: &Planned, target: Target, name: Option<&str>) -> Result<Library, Error> {
        let (model_id, Planned { model, windows, .. }) = (planned.id(), planned);
        let Windows { context, sliding, sinks, chunk } = *windows;
        let metal = MetalStep::find(target, self.tools.as_deref())?;
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
        let (entry, reason) = self.cache.get_or_make(Bucket::Libraries, &inputs, |folder| -> Result<(), Error> {
            self.observer.event(Event::Compiling { model_id, quantization: model.quantization.name });
            let wrong = |source| Error::Model { model_id: model_id.to_owned(), source: Box::new(source) };
            let mut library = model.compile(*windows, target, name).map_err(wrong)?;
            metal.precompile(&mut library)?;
            let library = Library::new(Arc::new(library))?;
            let path = folder.join(LIBRARY_FILE);
            std::fs::write(&path, library.blob()).map_err(Error::io("write", &path))?;
            made = Some(library);
            Ok(())
        })?;
        self.observer.event(Event::Compiled { model_id, reason: &reason });
        match made {
            Some(library) => Ok(library),
            None => {
                let path = entry.content().join(LIBRARY_FILE);
                let blob = std::fs::read(&path).map_err(Error::io("read", &path))?;
                Ok(Library::from_blob(&blob)?)
            }
        }
    }
}

/// Models that use one prefix for different libraries.
fn prefix_conflicts(models: &[Built]) -> Vec<Diagnostic> {
    let conflict = |(index, second): (usize, &Built)| {
        let first = models[..index].iter().find(|first| first.library.name() == second.library.name())?;
        (first.library.blob() != second.library.blob()).then(|| prefix_conflict(first, second))
    };
    models.iter().enumerate().filter_map(conflict).collect()
}

fn prefix_conflict(first: &Built, second: &Built) -> Diagnostic {
    let (a, b) = (&first.library.library().model, &second.library.library().model);
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
    let place = |model: &Built| {
        let entry = model.entry();
        entry.model_lib.as_ref().map_or(entry.model_id.span, |name| name.span)
    };
    let message = format!(
        "{} and {} share the model_lib `{}` but compile to different libraries",
        first.id(),
        second.id(),
        second.library.name()
    );
    Diagnostic::error(codes::DIFFERENT_LIBRARIES, place(second), message)
        .related(place(first), "the first use")
        .help(format!("they differ in {}", differences.join("; ")))
        .help("give one of them another model_lib, or leave it out")
}
