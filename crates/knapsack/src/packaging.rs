//! The pipeline of `knapsack-package` as the command line drives it: settings from the environment, events on the terminal,
//! findings shown and turned into an exit code.

use crate::cli::{ManifestArgs, StoreArgs, StoreChoice};
use crate::downloads::Downloads;
use crate::exit::{AlreadyReported, FAILED, OrWrongInput, WRONG_INPUT};
use crate::files::read_limited;
use crate::interrupt::Graceful;
use crate::report::Reporter;
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use knapsack_artifact::delivery::Store;
use knapsack_bundle::Cache;
use knapsack_bundle::cache::Shared;
use knapsack_config::{
    DEVICES_FILE, DeviceProfiles, Diagnostic, Environment, LoadedManifest, Manifest, Report, Severity, Shipped,
    StoreLimits, codes,
};
use knapsack_package::{Built, Event, Observer, Outcome, Packager, Planned};
use knapsack_source::Settings;
use knapsack_store::Patience;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// A manifest that was read, and what is found out about it.
#[derive(Debug)]
pub struct Read<'a> {
    /// With defaults filled in and paths resolved.
    pub manifest: Manifest,
    /// Findings that were not shown yet, and the texts that they point into.
    report: Report,
    reporter: &'a Reporter,
}

impl Read<'_> {
    /// The texts that the manifest was read from, and the findings that were not shown yet.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Adds findings that are to be shown with those that are there.
    pub fn find(&mut self, findings: Vec<Diagnostic>) {
        self.report.diagnostics.extend(findings);
        self.report.sort();
    }

    /// Shows what a stage found, and gives its product.
    ///
    /// # Errors
    /// With exit code 2 when a finding is an error; with 1 when the same run may succeed another time.
    pub fn settle<T>(&mut self, outcome: Outcome<T>) -> Result<T> {
        self.report.diagnostics.extend(outcome.findings);
        self.report.sort();
        self.reporter.diagnostics(&self.report);
        let code = exit_code(&self.report.diagnostics);
        self.report.diagnostics.clear();
        match outcome.product {
            Some(product) => Ok(product),
            None => Err(AlreadyReported(code).into()),
        }
    }
}

/// What stores refuse of the models of a manifest, or may refuse. `libraries`: bytes of the compiled models, where they are known.
pub fn store_findings(
    manifest: &Manifest,
    models: &[Shipped<'_>],
    libraries: Option<u64>,
    args: StoreArgs,
) -> Vec<Diagnostic> {
    let through = match args.store {
        StoreChoice::None => return Vec::new(),
        StoreChoice::Auto => None,
        StoreChoice::Play => Some(Store::Play),
        StoreChoice::AppStore => Some(Store::Apple),
    };
    let device = manifest.device;
    if let Some(store) = through.filter(|store| !store.is_for(device.value.platform)) {
        let name = if store == Store::Play { "Google Play" } else { "the App Store" };
        let message = format!("the package is for {}, whose apps {name} does not deliver", device.value);
        return vec![Diagnostic::error(codes::DELIVERY_CONFLICT, device.span, message).help("`--store` names another")];
    }
    StoreLimits::built_in().check(manifest, models, libraries, through)
}

/// Adds what a store refuses of a plan, or may refuse.
pub fn within_stores(manifest: &Manifest, planned: Outcome<Vec<Planned>>, args: StoreArgs) -> Outcome<Vec<Planned>> {
    let Some(models) = &planned.product else { return planned };
    let shipped: Vec<Shipped<'_>> = models.iter().map(Planned::shipped).collect();
    let findings = store_findings(manifest, &shipped, None, args);
    planned.with(findings)
}

/// The same of the compiled libraries: on Apple's devices they are a part of the executable.
pub fn libraries_within_stores(
    manifest: &Manifest,
    built: Outcome<Vec<Built>>,
    args: StoreArgs,
) -> Outcome<Vec<Built>> {
    let Some(models) = &built.product else { return built };
    let blobs: BTreeMap<&str, u64> =
        models.iter().map(|model| (model.library.name(), model.library.blob().len() as u64)).collect();
    let findings = store_findings(manifest, &[], Some(blobs.values().sum()), args);
    built.with(findings)
}

fn exit_code(findings: &[Diagnostic]) -> u8 {
    let mut errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    if errors.all(|error| error.code == codes::SOURCE_FAILED) { FAILED } else { WRONG_INPUT }
}

/// Reads and checks the manifest. Everything that is wrong with it has been shown when this fails; warnings and notices are shown
/// with those of the next stage.
///
/// # Errors
/// With exit code 2.
pub fn read<'a>(args: &ManifestArgs, reporter: &'a Reporter) -> Result<Read<'a>> {
    let environment = Environment {
        hf_endpoint: std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.trim().is_empty()),
        devices: profiles(args)?,
        chat_templates: knapsack_artifact::ConvTemplate::names().map(str::to_owned).collect(),
    };
    match knapsack_config::load(&args.config, &environment) {
        Ok(LoadedManifest { manifest, report }) => Ok(Read { manifest, report, reporter }),
        Err(report) => {
            reporter.diagnostics(&report);
            Err(AlreadyReported(WRONG_INPUT).into())
        }
    }
}

/// The profiles that come with Knapsack, and on top of them the user's: the file that `--devices` names, else the one of the
/// usual name beside the manifest.
///
/// # Errors
/// A file that cannot be read, or is no file of profiles; with exit code 2.
pub fn profiles(args: &ManifestArgs) -> Result<DeviceProfiles> {
    let mut profiles = DeviceProfiles::built_in()?;
    let beside = args.config.with_file_name(DEVICES_FILE);
    let own = match &args.devices {
        Some(file) => Some(file),
        None => beside.is_file().then_some(&beside),
    };
    if let Some(file) = own {
        let text = read_limited(file, DeviceProfiles::MAX_BYTES).or_wrong_input()?;
        let text = std::str::from_utf8(&text).with_context(|| file.display().to_string()).or_wrong_input()?;
        profiles.extend_from_json(text).with_context(|| file.display().to_string()).or_wrong_input()?;
    }
    Ok(profiles)
}

/// The cache where the environment wants it.
///
/// # Errors
/// When the environment does not even name a home folder.
pub fn cache() -> Result<Cache> {
    Ok(Cache::at(Cache::place(|name| std::env::var_os(name))?))
}

/// The cache that `KNAPSACK_CACHE_URL` shares with other machines; `None`: there is no such variable. `KNAPSACK_CACHE_MODE=read`
/// gives it nothing.
///
/// # Errors
/// An address or credentials that cannot be used.
pub fn shared(reporter: &Reporter) -> Result<Option<Shared>> {
    let lookup = |name: &str| std::env::var_os(name);
    let Some(address) = lookup("KNAPSACK_CACHE_URL").filter(|address| !address.is_empty()) else { return Ok(None) };
    let write = match lookup("KNAPSACK_CACHE_MODE").as_deref().map(|mode| mode.to_string_lossy()).as_deref() {
        None | Some("" | "read-write") => true,
        Some("read") => false,
        Some(_) => anyhow::bail!("KNAPSACK_CACHE_MODE is neither `read` nor `read-write`"),
    };
    let store = knapsack_store::open(&address.to_string_lossy(), &lookup, Patience::default());
    let store = store.context("KNAPSACK_CACHE_URL")?;
    let reporter = reporter.clone();
    Ok(Some(Shared::new(store, write, move |text| reporter.warning(text))))
}

/// The pipeline by the environment's settings.
///
/// # Errors
/// Settings that cannot be understood.
pub fn packager<'a>(observer: &'a Shown<'_>, offline: bool) -> Result<Packager<'a>> {
    let cache = cache()?;
    let mut settings = Settings::from_env(cache.root())?;
    settings.offline |= offline;
    let cache = match shared(observer.reporter) {
        Ok(Some(shared)) if !settings.offline => cache.with_shared(shared),
        Ok(_) => cache,
        Err(error) => {
            observer.reporter.warning(format_args!("{error:#}; this run goes on without the shared cache"));
            cache
        }
    };
    Ok(Packager::new(cache, settings, std::env::var_os("PATH"), observer))
}

/// Shows what the pipeline does.
pub struct Shown<'a> {
    reporter: &'a Reporter,
    downloads: Downloads<'a>,
    work: Mutex<Option<Work>>,
}

/// Work that Ctrl-C ends in an orderly way.
struct Work {
    bar: ProgressBar,
    graceful: Graceful,
}

impl<'a> Shown<'a> {
    /// On `reporter`.
    pub fn new(reporter: &'a Reporter) -> Self {
        Shown { reporter, downloads: Downloads::new(reporter), work: Mutex::new(None) }
    }

    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn begin(&self, label: &'static str) {
        *self.work() = Some(Work { bar: self.reporter.bytes_bar(label, 0), graceful: Graceful::new() });
    }

    fn end(&self) {
        if let Some(work) = self.work().take() {
            work.bar.finish_and_clear();
        }
    }
}

impl Observer for Shown<'_> {
    fn event(&self, event: Event<'_>) {
        let reporter = self.reporter;
        match event {
            Event::Source(event) => knapsack_source::Progress::event(&self.downloads, event),
            Event::LockChange(change) => reporter.detail("Locking", change),
            Event::Locked { path } => reporter.status("Locked", path.display()),
            Event::Compiling { model_id, quantization } => {
                reporter.status("Compiling", format_args!("{model_id} ({quantization})"));
            }
            Event::Compiled { model_id, reason } => {
                let action = if reason.ran() { "Compiled" } else { "Fresh" };
                reporter.detail(action, format_args!("{model_id}: {reason}"));
            }
            Event::Prebuilt { model_id, path } => {
                reporter.detail("Prebuilt", format_args!("{model_id}: {}", path.display()));
            }
            Event::Converting { name, quantization } => {
                reporter.status("Converting", format_args!("{name} to {quantization}"));
                self.begin("Converting");
            }
            Event::ConvertingProgress { done, total } => {
                if let Some(work) = self.work().as_ref() {
                    work.bar.set_length(total);
                    work.bar.set_position(done);
                }
            }
            Event::Converted { model_id, reason } => {
                let action = if reason.ran() { "Converted" } else { "Fresh" };
                reporter.detail(action, format_args!("{model_id}: {reason}"));
            }
            Event::Bundling => self.begin("Bundling"),
            Event::BundlingFile { path, bytes } => {
                if let Some(work) = self.work().as_ref() {
                    work.bar.set_message(path.to_owned());
                    work.bar.inc_length(bytes);
                    work.bar.inc(bytes);
                }
            }
            Event::ConvertingEnd | Event::BundlingEnd => self.end(),
            Event::Notice { text } => reporter.notice(text),
            Event::Warning { text } => reporter.warning(text),
            // Events of a later version of the library that are not known here change nothing.
            _ => {}
        }
    }

    fn cancelled(&self) -> bool {
        self.work().as_ref().is_some_and(|work| work.graceful.requested())
    }
}
