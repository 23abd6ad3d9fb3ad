//! Looks into a finished app: whether it has the model libraries and their table, whether Android can map them, whether each file of a
//! model is the packaged one and can be read where it lies, and whether the stores take its size.

mod android;
mod apple;
mod archive;
mod binary;
mod models;

use super::Show;
use crate::exit::{AlreadyReported, FAILED, OrWrongInput, wrong_input};
use crate::report::Reporter;
use crate::table::{Align, Table, bytes};
use anyhow::Result;
use archive::Archive;
use knapsack_config::{Limit, Severity, StoreLimits};
use serde::Serialize;
use serde_json::json;
use std::path::Path;

/// What an app is handed over as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    /// What Android installs.
    Apk,
    /// What Google Play takes.
    Aab,
    /// A library of an Android app.
    Aar,
    /// What Apple's devices install.
    Ipa,
}

/// Something about an app, and what to change.
#[derive(Debug, Serialize)]
struct Finding {
    severity: Severity,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    help: String,
}

/// Everything that is found out about an app.
struct Inspection {
    archive: Archive,
    limits: StoreLimits,
    findings: Vec<Finding>,
    /// Names of the libraries in the model table of each place.
    tables: Vec<(String, Vec<String>)>,
    models: Vec<models::Model>,
}

impl Inspection {
    fn error(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.findings.push(Finding { severity: Severity::Error, message: message.into(), help: help.into() });
    }

    fn warning(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.findings.push(Finding { severity: Severity::Warning, message: message.into(), help: help.into() });
    }

    /// Holds a size against a limit of a store.
    fn limit(&mut self, what: &str, value: u64, limit: impl Fn(&StoreLimits) -> &Limit) {
        let limit = limit(&self.limits);
        let Some((severity, figure)) = limit.judge(value) else { return };
        let message = format!("{what} {}, and {} is what {}", bytes(value), bytes(figure), limit.what);
        let help = format!("{} (read {})", limit.source, self.limits.read);
        self.findings.push(Finding { severity, message, help });
    }
}

/// Whether a file is an archive, by its first bytes.
pub(super) fn is_archive(path: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 4];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == *b"PK\x03\x04"
}

/// Inspects an app and shows what was found.
///
/// # Errors
/// With exit code 1 when something has to change; with 2 for what is no app.
pub(super) fn run(path: &Path, show: Show, reporter: &Reporter) -> Result<()> {
    let archive = Archive::open(path).or_wrong_input()?;
    let Some(form) = form(&archive) else {
        let text = "is neither an APK (AndroidManifest.xml), an AAB (BundleConfig.pb), an AAR (classes.jar) nor an IPA (Payload/*.app)";
        return Err(wrong_input(format!("{} {text}", path.display())));
    };
    let limits = StoreLimits::built_in();
    let mut app = Inspection { archive, limits, findings: Vec::new(), tables: Vec::new(), models: Vec::new() };
    match form {
        Form::Apk | Form::Aab | Form::Aar => android::inspect(&mut app, form)?,
        Form::Ipa => apple::inspect(&mut app)?,
    }
    show_all(path, form, &app, show, reporter)?;
    let failed = app.findings.iter().any(|finding| finding.severity == Severity::Error);
    if failed { Err(AlreadyReported(FAILED).into()) } else { Ok(()) }
}

fn form(archive: &Archive) -> Option<Form> {
    let has = |name: &str| archive.find(name).is_some();
    if has("BundleConfig.pb") {
        return Some(Form::Aab);
    }
    if has("AndroidManifest.xml") {
        return Some(if has("classes.jar") { Form::Aar } else { Form::Apk });
    }
    apple::app_folder(archive).map(|_| Form::Ipa)
}

fn show_all(path: &Path, form: Form, app: &Inspection, show: Show, reporter: &Reporter) -> Result<()> {
    if show.json {
        let tables: Vec<_> =
            app.tables.iter().map(|(place, names)| json!({ "place": place, "libraries": names })).collect();
        return reporter.line(json!({
            "kind": "app", "form": form, "bytes": app.archive.bytes, "files": app.archive.files.len(),
            "tables": tables, "models": app.models, "findings": app.findings,
        }));
    }
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("weights", Align::Left),
        ("size", Align::Right),
        ("files", Align::Left),
        ("library", Align::Left),
    ]);
    for model in &app.models {
        let files = format!("{} of {} right", model.right, model.files);
        let files = if model.inside { files } else { "not inside".to_owned() };
        let (id, library) = (model.model_id.clone(), model.model_lib.clone());
        table.row([id, model.delivery.name().to_owned(), bytes(model.bytes), files, library]);
    }
    let name = format!("{form:?}").to_uppercase();
    let count = app.archive.files.len();
    let mut text = format!("{name} of {} in {count} files: {}\n", bytes(app.archive.bytes), path.display());
    for (place, names) in &app.tables {
        text.push_str(&format!("  model table in {place}: {}\n", names.join(", ")));
    }
    if !reporter.is_quiet() {
        reporter.stdout(|out| write!(out, "{text}{table}"))?;
    }
    for finding in &app.findings {
        let help = if finding.help.is_empty() { String::new() } else { format!("\n  = help: {}", finding.help) };
        let text = format!("{}{help}", finding.message);
        match finding.severity {
            Severity::Error => reporter.problem(text),
            Severity::Warning => reporter.warning(text),
            Severity::Notice => reporter.notice(text),
        }
    }
    if app.findings.iter().all(|finding| finding.severity != Severity::Error) {
        reporter.status("Inspected", "nothing has to change");
    }
    Ok(())
}
