//! From the path of a manifest to the resolved manifest: reads the file and what it extends, merges, checks.

use crate::codes;
use crate::diagnostic::{Diagnostic, Report};
use crate::environment::Environment;
use crate::manifest::Manifest;
use crate::parse::{MAX_FILE_BYTES, parse};
use crate::render::{looked_for, quoted, shown};
use crate::resolve::resolve;
use crate::source_map::{FileId, Span, Spanned};
use crate::written::{Field, Written};
use knapsack_artifact::encoding::{Decoded, Wrong, decode};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest chain of files that extend each other.
pub(crate) const MAX_EXTENDS: usize = 16;
/// Most files that one manifest may be read from.
const MAX_FILES: usize = 64;
/// Most findings that are kept; a file with more is not a manifest gone slightly wrong.
const MAX_FINDINGS: usize = 200;

/// A manifest that is right, with the warnings and notices about it.
#[derive(Clone, Debug)]
pub struct LoadedManifest {
    /// With defaults filled in and paths resolved.
    pub manifest: Manifest,
    /// Warnings and notices, and the texts that the manifest's spans point into: later findings go here too.
    pub report: Report,
}

/// Reads and checks a manifest. The error holds everything that is wrong with it, at least one error.
pub fn load(path: &Path, environment: &Environment) -> Result<LoadedManifest, Box<Report>> {
    let mut loader = Loader { environment, report: Report::default(), read: HashMap::new(), stack: Vec::new() };
    let root = match read_text(path, false) {
        Ok(decoded) => loader.add(path.to_owned(), decoded),
        Err(reason) => {
            let message = format!("can not read {}: {reason}", shown(path));
            let error = Diagnostic::error(codes::UNREADABLE, None, message);
            loader.report.push(error.help("`knapsack init` writes a manifest, `-c FILE` names another"));
            return Err(Box::new(loader.report));
        }
    };
    finish(loader, root)
}

/// Reads and checks a manifest whose text is given; `path` says where it stands, for relative paths and messages.
pub fn load_text(path: &Path, text: &str, environment: &Environment) -> Result<LoadedManifest, Box<Report>> {
    let mut loader = Loader { environment, report: Report::default(), read: HashMap::new(), stack: Vec::new() };
    if text.len() as u64 > MAX_FILE_BYTES {
        let message = format!("can not read {}: {}", shown(path), too_large());
        loader.report.push(Diagnostic::error(codes::UNREADABLE, None, message));
        return Err(Box::new(loader.report));
    }
    let root = loader.add(path.to_owned(), decode(text.as_bytes()));
    finish(loader, root)
}

fn finish(mut loader: Loader<'_>, root: FileId) -> Result<LoadedManifest, Box<Report>> {
    let environment = loader.environment;
    let written = loader.file(root).map(Written::without_nulls);
    let mut report = loader.report;
    let path = report.sources.file(root).path().to_owned();
    let manifest =
        written.and_then(|written| resolve(written, path, environment, &report.sources, &mut report.diagnostics));
    report.sort();
    cap(&mut report);
    match manifest {
        Some(manifest) if !report.has_errors() => Ok(LoadedManifest { manifest, report }),
        _ => Err(Box::new(report)),
    }
}

/// Keeps the first findings, errors before anything else, and says how many there were.
fn cap(report: &mut Report) {
    let total = report.diagnostics.len();
    if total <= MAX_FINDINGS {
        return;
    }
    report.diagnostics.sort_by_key(|found| (found.severity, found.span));
    report.diagnostics.truncate(MAX_FINDINGS);
    let message = format!("{} more findings are not shown", total - MAX_FINDINGS);
    let severity = report.diagnostics.iter().map(|found| found.severity).min().unwrap_or(crate::Severity::Error);
    report.push(Diagnostic::new(severity, codes::MORE, None, message));
}

struct Loader<'a> {
    environment: &'a Environment,
    report: Report,
    /// Files by their real path: each is read once, however often it is extended.
    read: HashMap<PathBuf, Option<Written>>,
    /// The files being read, outermost first.
    stack: Vec<(PathBuf, FileId)>,
}

impl Loader<'_> {
    /// Adds a text, and a finding when it could not be decoded.
    fn add(&mut self, path: PathBuf, Decoded { text, wrong }: Decoded<'_>) -> FileId {
        let file = self.report.sources.add(path, text.into_owned());
        if let Some((at, wrong)) = wrong {
            let (message, label, help) = match wrong {
                // Bytes from A0 on are the characters of these numbers in Latin-1, and mostly in Windows-1252.
                Wrong::Utf8(byte @ 0xa0..=0xfe) => {
                    let label = format!("the first wrong byte, 0x{byte:02x}: `{}` in Latin-1", char::from(byte));
                    ("the file is not UTF-8".to_owned(), label, "save the file as UTF-8")
                }
                Wrong::Utf8(byte) => {
                    let label = format!("the first wrong byte, 0x{byte:02x}");
                    ("the file is not UTF-8".to_owned(), label, "save the file as UTF-8")
                }
                Wrong::Unicode(name) => {
                    let label = "the first wrong character".to_owned();
                    (format!("the file seems to be {name}, and is damaged"), label, "save the file as UTF-8")
                }
                Wrong::Compressed(name) => (format!("the file is compressed ({name})"), String::new(), "decompress it"),
            };
            let span = Span { file, start: at as u32, end: at as u32 + 3 };
            self.report.push(Diagnostic::error(codes::ENCODING, span, message).label(label).help(help));
        }
        file
    }

    /// Reads one file with everything that it extends.
    fn file(&mut self, file: FileId) -> Option<Written> {
        let Report { sources, diagnostics } = &mut self.report;
        let encoding = diagnostics
            .last()
            .is_some_and(|last| last.code == codes::ENCODING && last.span.is_some_and(|span| span.file == file));
        if encoding {
            return None;
        }
        let path = sources.file(file).path().to_owned();
        let root = parse(sources, file, diagnostics)?;
        let written = Written::read(&root, self.environment.hf_endpoint.as_deref(), diagnostics)?;
        self.stack.push((real(&path), file));
        let mut bases: Option<Written> = None;
        let extends = written.extends.clone().and_then(Field::value);
        let mut complete = extends.as_ref().is_none_or(|extends| extends.complete);
        for base in extends.iter().flat_map(|extends| &extends.paths) {
            match self.base(base, &path) {
                Some(base) => {
                    bases = Some(match bases {
                        Some(below) => base.over(below),
                        None => base,
                    })
                }
                None => complete = false,
            }
        }
        self.stack.pop();
        // What a file that could not be read would have said is unknown: judging the rest would only mislead.
        if !complete {
            return None;
        }
        Some(match bases {
            Some(base) => written.over(base),
            None => written,
        })
    }

    /// Reads a file that `extends` names.
    fn base(&mut self, name: &Spanned<String>, from: &Path) -> Option<Written> {
        let path = from.parent().unwrap_or(Path::new("")).join(&name.value);
        let key = real(&path);
        if let Some(start) = self.stack.iter().position(|(open, _)| *open == key) {
            let circle = self.stack[start..].iter().map(|(_, file)| *file).chain([self.stack[start].1]);
            let names: Vec<String> = circle.map(|file| shown(self.report.sources.file(file).path())).collect();
            let error = Diagnostic::error(codes::EXTENDS_CYCLE, name.span, "the files extend each other in a circle")
                .label("this closes the circle")
                .help(names.join(" -> "));
            self.report.push(error);
            return None;
        }
        if let Some(known) = self.read.get(&key) {
            return known.clone();
        }
        if self.stack.len() >= MAX_EXTENDS || self.report.sources.files().len() >= MAX_FILES {
            let message = format!("more than {MAX_EXTENDS} files in a chain, or {MAX_FILES} in all, extend each other");
            self.report.push(Diagnostic::error(codes::EXTENDS_DEPTH, name.span, message));
            return None;
        }
        let written = match read_text(&path, true) {
            Ok(decoded) => {
                let file = self.add(path, decoded);
                self.file(file)
            }
            Err(reason) => {
                let message = format!("can not read {}: {reason}", quoted(&name.value));
                let error = Diagnostic::error(codes::UNREADABLE, name.span, message);
                self.report.push(error.maybe_help(looked_for(&name.value, &path)));
                None
            }
        };
        self.read.insert(key, written.clone());
        written
    }
}

/// The path without links and `..`, or as it is when there is no such file.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn too_large() -> String {
    format!("it is larger than {MAX_FILE_BYTES} bytes")
}

/// Reads a file up to the cap.
fn read_text(path: &Path, regular: bool) -> Result<Decoded<'static>, String> {
    let metadata = std::fs::metadata(path).map_err(|error| reason(&error))?;
    if metadata.is_dir() {
        return Err("it is a folder".to_owned());
    }
    // A pipe given by the user on the command line is fine; one named by a manifest could wait forever.
    if regular && !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let mut capped = File::open(path).map_err(|error| reason(&error))?.take(MAX_FILE_BYTES + 1);
    capped.read_to_end(&mut bytes).map_err(|error| reason(&error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large());
    }
    Ok(decode(&bytes).into_owned())
}

/// The system's reason in words that are the same everywhere, where that is possible.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}
