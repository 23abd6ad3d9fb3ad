//! Stage 2: what each model is, and its small files on the disk.

use crate::text::chain;
use crate::{Error, Event, Outcome, Packager};
use knapsack_config::lockfile::LOCKFILE_NAME;
use knapsack_config::{ChatTemplateRef, Diagnostic, Lockfile, Manifest, ModelEntry, ModelSource, codes};
use knapsack_source::{
    FetchError, Location, LockChange, LockPolicy, ModelFolder, ModelRequest, Resolution, ResolvedModel, Sources,
    WeightsHeader,
};
use knapsack_weights::TemplateChoice;
use std::path::{Path, PathBuf};

/// A model whose source was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What the manifest says.
    pub entry: ModelEntry,
    /// Which commit and which files, as the lockfile has it.
    pub resolved: ResolvedModel,
    /// Its folder: configuration, index and tokenizer are there; weights where the model is local.
    pub folder: ModelFolder,
    /// The first bytes of each file of its weights, where it is a checkpoint at the hub: they list its tensors.
    pub headers: Option<Vec<WeightsHeader>>,
}

impl Found {
    /// The manifest's name for it.
    pub fn id(&self) -> &str {
        &self.entry.model_id.value
    }

    /// The chat template that it asks for.
    pub(crate) fn template_choice(&self) -> TemplateChoice {
        match self.entry.chat_template.as_ref().map(|template| &template.value) {
            None => TemplateChoice::Model,
            Some(ChatTemplateRef::Named(name)) => TemplateChoice::parse(name),
            Some(ChatTemplateRef::File(path)) => TemplateChoice::File(path.clone()),
        }
    }
}

/// All models of a manifest, found.
#[derive(Clone, Debug)]
pub struct FoundModels {
    /// In the order of the manifest.
    pub models: Vec<Found>,
    /// What moved in the lockfile.
    pub changes: Vec<LockChange>,
}

impl Packager<'_> {
    /// Stage 2: decides what each model is, by the lockfile where it says so; writes the lockfile when that changed anything;
    /// fetches configurations, but no weights. Every model is tried before anything is reported: a finding is an error for each
    /// that cannot be found.
    ///
    /// # Errors
    /// A lockfile that cannot be read or written, or would have to change but may not; settings that cannot be used.
    pub fn find(&self, manifest: &Manifest, policy: &LockPolicy) -> Result<Outcome<FoundModels>, Error> {
        let lock_path = lock_path(&manifest.path);
        let lock = Lockfile::read(&lock_path)?;
        let progress = |event: knapsack_source::Event<'_>| self.observer.event(Event::Source(event));
        let sources = Sources::new(&self.settings, &progress);
        let mut findings = Findings::default();
        let requests = manifest.models.iter().map(|entry| findings.keep(entry, request(entry))).collect::<Vec<_>>();
        let known: Vec<_> = requests.iter().flatten().cloned().collect();
        if let Err(error) = sources.check_lock(&known, lock.as_ref(), policy) {
            return out_of_date(manifest, error);
        }
        let mut found = Vec::with_capacity(known.len());
        for (entry, request) in manifest.models.iter().zip(requests) {
            let Some(request) = request.filter(|_| !findings.waits(entry)) else { continue };
            let resolved = sources.find(&request, lock.as_ref(), policy);
            let resolved = resolved.and_then(|resolved| Ok((sources.fetch_metadata(&resolved)?, resolved)));
            found.extend(findings.keep(entry, resolved).map(|(folder, resolved)| {
                let headers = sources.headers(&resolved);
                Found { entry: entry.clone(), resolved, folder, headers }
            }));
        }
        if !findings.list.is_empty() {
            return Ok(Outcome { product: None, findings: findings.list });
        }
        let resolved = found.iter().map(|found| found.resolved.clone()).collect();
        let Resolution { lock: new, changes, .. } = match Resolution::new(resolved, lock.as_ref(), policy) {
            Ok(resolution) => resolution,
            Err(error) => return out_of_date(manifest, error),
        };
        for change in &changes {
            self.observer.event(Event::LockChange(change));
        }
        if lock.is_some() || !new.models.is_empty() {
            if new.write(&lock_path)? {
                self.observer.event(Event::Locked { path: &lock_path });
            }
            sources.remember_lockfile(&lock_path)?;
        }
        Ok(Outcome::clean(FoundModels { models: found, changes }))
    }

    /// The weights of every model that needs them here, in the order of `models`. A finding is the error of a model whose files
    /// cannot be had. Those of the others are fetched all the same: they may fail too, and the next run has them.
    pub(crate) fn fetch_weights(&self, models: &[&Found]) -> Result<Outcome<Vec<ModelFolder>>, Error> {
        let progress = |event: knapsack_source::Event<'_>| self.observer.event(Event::Source(event));
        let sources = Sources::new(&self.settings, &progress);
        let mut findings = Findings::default();
        let mut left = models.to_vec();
        loop {
            let resolved: Vec<ResolvedModel> = left.iter().map(|found| found.resolved.clone()).collect();
            match (sources.fetch(&resolved), findings.list.is_empty()) {
                (Ok(folders), true) => return Ok(Outcome::clean(folders)),
                (Err(FetchError { of: Some(of), source }), _) => {
                    let failed = left.remove(of);
                    findings.keep::<()>(&failed.entry, Err(source));
                    left.retain(|found| !findings.waits(&found.entry));
                }
                (Err(FetchError { of: None, source }), true) => return Err(source.into()),
                (_, false) => return Ok(Outcome { product: None, findings: findings.list }),
            }
        }
    }
}

/// Errors of sources, each at its entry of the manifest.
#[derive(Default)]
struct Findings {
    list: Vec<Diagnostic>,
    /// The finding that says that the hub cannot be reached. It is not asked again for other models.
    unreachable: Option<usize>,
}

impl Findings {
    fn keep<T>(&mut self, entry: &ModelEntry, result: Result<T, knapsack_source::Error>) -> Option<T> {
        match result {
            Ok(product) => Some(product),
            Err(error) => {
                if error.is_unreachable() {
                    self.unreachable = Some(self.list.len());
                }
                self.list.push(finding(entry, &error));
                None
            }
        }
    }

    /// Whether the model is of the hub that cannot be reached; the finding about that then names its place too.
    fn waits(&mut self, entry: &ModelEntry) -> bool {
        let finding = self.unreachable.and_then(|index| self.list.get_mut(index));
        match (finding, &entry.source.value) {
            (Some(finding), ModelSource::Hub(_)) => {
                finding.related.push((entry.source.span, "this model is there too".to_owned()));
                true
            }
            _ => false,
        }
    }
}

/// An error of a source at its place in the manifest.
fn finding(entry: &ModelEntry, error: &knapsack_source::Error) -> Diagnostic {
    let code = match error {
        knapsack_source::Error::NotAModel { .. } => codes::NOT_A_MODEL,
        error if error.is_wrong_input() => codes::BAD_MODEL_SOURCE,
        _ => codes::SOURCE_FAILED,
    };
    let id = &entry.model_id.value;
    let text = chain(error);
    let message = if text.starts_with(id.as_str()) { text } else { format!("{id}: {text}") };
    Diagnostic::error(code, entry.source.span, message)
}

/// The changes that the lockfile would need and may not have, each at its entry. A model that the manifest does not name has none.
fn out_of_date<T>(manifest: &Manifest, error: knapsack_source::Error) -> Result<Outcome<T>, Error> {
    let knapsack_source::Error::LockOutOfDate { changes } = error else { return Err(error.into()) };
    let findings = changes.iter().map(|change| {
        let span = manifest.model(change.model_id()).map(|entry| entry.source.span);
        let message = format!("{LOCKFILE_NAME} is not up to date: {change}");
        let help = "`--locked` forbids to change it: run without, and keep the file with the manifest";
        Diagnostic::error(codes::LOCK_OUT_OF_DATE, span, message).help(help)
    });
    Ok(Outcome { product: None, findings: findings.collect() })
}

/// `knapsack.lock` beside the manifest.
fn lock_path(manifest: &Path) -> PathBuf {
    manifest.with_file_name(LOCKFILE_NAME)
}

fn request(entry: &ModelEntry) -> Result<ModelRequest, knapsack_source::Error> {
    let location = Location::try_from(&entry.source.value)?;
    Ok(ModelRequest { model_id: entry.model_id.value.clone(), location, weights: entry.ships_weights() })
}
