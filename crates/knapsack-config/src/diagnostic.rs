//! Errors, warnings and notices about a manifest.

use crate::source_map::{SourceMap, Span};
use serde::Serialize;
use std::fmt;

/// How grave a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing may be fetched, compiled or written.
    Error,
    /// Probably not what was meant; the work goes on.
    Warning,
    /// A value that was chosen because the manifest leaves it open.
    Notice,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
        })
    }
}

/// A stable, machine-readable name of a kind of diagnostic, such as `unknown-key`: listed in `codes`.
pub type Code = &'static str;

/// One finding about a manifest: what is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How grave it is.
    pub severity: Severity,
    /// Which kind it is.
    pub code: Code,
    /// One sentence without a full stop.
    pub message: String,
    /// The offending text; `None` only when there is no text, such as for a file that can not be read.
    pub span: Option<Span>,
    /// What the caret under the text says.
    pub label: String,
    /// Other places that matter, such as the first of two duplicates.
    pub related: Vec<(Span, String)>,
    /// What to do about it; a line each.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// A diagnostic of the given severity about the text under `span`.
    pub fn new(severity: Severity, code: Code, span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Diagnostic {
            severity,
            code,
            message: message.into(),
            span: span.into(),
            label: String::new(),
            related: Vec::new(),
            help: Vec::new(),
        }
    }

    /// An error about the text under `span`.
    pub fn error(code: Code, span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, span, message)
    }

    /// A warning about the text under `span`.
    pub fn warning(code: Code, span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, span, message)
    }

    /// A notice about the text under `span`.
    pub fn notice(code: Code, span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self::new(Severity::Notice, code, span, message)
    }

    /// Says something beside the caret.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Points at another place.
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// Adds a line of advice.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Adds a line of advice if there is one.
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help.extend(help);
        self
    }

    /// The diagnostic with line and column, for machines.
    pub fn located(&self, sources: &SourceMap) -> Located {
        Located {
            severity: self.severity,
            code: self.code,
            message: self.message.clone(),
            place: self.span.map(|span| Place::new(sources, span)),
            label: self.label.clone(),
            related: self
                .related
                .iter()
                .map(|(span, label)| Related { place: Place::new(sources, *span), label: label.clone() })
                .collect(),
            help: self.help.clone(),
        }
    }
}

/// Where a piece of text stands. Lines and columns count from 1, columns in characters, offsets in bytes from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file as the user named it.
    pub file: String,
    /// First line.
    pub line: usize,
    /// First column.
    pub column: usize,
    /// Last line.
    pub end_line: usize,
    /// One past the last column.
    pub end_column: usize,
    /// First byte, in the text after a byte-order mark.
    pub byte_start: u32,
    /// One past the last byte.
    pub byte_end: u32,
}

impl Place {
    /// Looks a span up.
    pub fn new(sources: &SourceMap, span: Span) -> Self {
        let file = sources.file(span.file);
        let (start, end) = (file.position(span.start), file.position(span.end));
        Place {
            file: file.path().display().to_string(),
            line: start.line,
            column: start.column,
            end_line: end.line,
            end_column: end.column,
            byte_start: span.start,
            byte_end: span.end,
        }
    }
}

/// Another place that matters to a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// File, line and column.
    #[serde(flatten)]
    pub place: Place,
    /// Why it matters.
    pub label: String,
}

/// A [`Diagnostic`] whose spans were looked up: the form of `--message-format json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Located {
    /// How grave it is.
    pub severity: Severity,
    /// Which kind it is.
    pub code: Code,
    /// One sentence.
    pub message: String,
    /// The offending text.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// What the caret says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Other places.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub help: Vec<String>,
}

/// Findings with the texts they point into.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was read: spans of the findings point into it.
    pub sources: SourceMap,
    /// The findings, in the order in which they should be shown.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Adds a finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// How many findings of a severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    /// Whether there is an error among them.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Orders the findings by file and place, so that they read like the file; those without a place come first.
    pub fn sort(&mut self) {
        self.diagnostics.sort_by_key(|diagnostic| diagnostic.span);
    }
}
